"""Every field of every configuration is checked when it is made."""

from __future__ import annotations

import dataclasses
import inspect
import math
import timeit
from typing import Any

import numpy as np
import pytest
import torch

import phasegrad as pg
from phasegrad import cells, crossbar, devices
from phasegrad.configuration import Configuration, from_json
from phasegrad.crossbar import Hardware, Pulses, Wires
from phasegrad.devices import Curve, ideal_device, joshi_2020

WIRES = Wires(word_line=1.0, bit_line=1.0)
REQUIRED: dict[str, dict[str, Any]] = {
    "PCM": {f.name: getattr(joshi_2020(), f.name) for f in dataclasses.fields(devices.PCM)},
    "Capacitor": {"g_max": 1e-6, "tau": 1e-3},
    "Table": {"g": (0.0, 1.0), "value": (0.1, 0.2)},
    "Power": {"factor": 0.1, "exponent": 0.5},
    "Piecewise": {"threshold": 0.5, "below": Curve(), "above": Curve()},
    "Telegraph": {"fraction": 0.5, "amplitude": 0.2, "rates": (1.0, 1e4)},
    "PiecewiseSteps": {"up": (1.0, 0.5), "down": (0.5, 1.0)},
    "JumpTable": {"up": ((0.0, 0.1), (0.0, 0.1)), "down": ((-0.1, 0.0), (-0.1, 0.0))},
    "SignificancePairs": {"significances": (2.0, 1.0)},
    "FixedRange": {"value": 2.0},
    "DurationCodedDrop": {"segment": 0.35},
    "Fast": {"cell": cells.DifferentialPair(device=ideal_device()), "scale": 0.5},
    "LinearSteps": {"slope_up": 0.1, "slope_down": 0.1},
    "PowerSteps": {"gamma_up": 1.0, "gamma_down": 1.0},
    "SetPulses": {"history_length": 3.0, "mean": (-0.1, 1.0, 1.0), "deviation": (0.1, 0.3, 2.0), "reset": 0.5},
    "MultiMemristive": {"pairs": 2},
    "Wires": {"word_line": 1.0, "bit_line": 1.0},
    "Integrator": {"window": 1e-7},
    "Sinh": {"v0": 0.3},
    "Hardware": {"cell": pg.presets.pcm_inference().cell},
    "LayerConfiguration": {"hardware": pg.presets.pcm_inference(), "perturbation": None, "ranges_calibrated": True},
    "PartialSet": {"length": 5e-8, "mean": (9e-7, -0.08), "deviation": (6e-7, 0.09), "lowest": 1e-7, "highest": 2e-5},
    "SplitTable": {"weights": (0.0, 1.0), "device_fractions": ((0.0, 1.0), (0.0, 1.0))},
    "WriteVerify": {"strategy": pg.inference.AmplitudeSteps()},
    "FixedAge": {"seconds": 1e5},
    "LogUniform": {"low": 1.0, "high": 1e8},
    "Uniform": {"low": 1.0, "high": 1e8},
    "Accelerator": {"throughput": 1e14, "efficiency": 1e12, "bandwidth": 1e12, "byte_energy": 4e-12},
    "Constant": {"value": 0.1, "source": "a survey"},
    "NoiseProfile": {"parabolas": ((0.1, 0.0, 0.0), (0.2, 0.0, 0.0)), "starts": (0.5,)},
}
DEFAULTS = {"size": 1e-7, "device": joshi_2020(), "sigma": 0.1}
UNBOUNDED = {"Curve.low", "Curve.high", "Power.high", "Capacitor.tau", "Integrator.tau", "Integrator.saturation"}
"""Fields in which infinity has a meaning."""


def kinds() -> dict[str, type[Configuration]]:
    found = {kind.__name__: kind for kind in Configuration._types.values() if kind.__module__.startswith("phasegrad.")}
    return {name: kind for name, kind in sorted(found.items()) if not inspect.isabstract(kind) and name[0] != "_"}


def example(name: str) -> Configuration:
    kind = kinds()[name]
    given = dict(REQUIRED.get(name, {}))
    for field in dataclasses.fields(kind):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in given:
            given[field.name] = DEFAULTS[field.name]
    return kind(**given)


FIELDS = [(name, field.name) for name, kind in kinds().items() for field in dataclasses.fields(kind) if field.init]
IDS = [f"{name}.{field}" for name, field in FIELDS]
BAD: dict[str, Any] = {
    "text": "three", "NaN": math.nan, "numpy's NaN": np.float32("nan"), "bytes": b"3", "complex": 1j, "dict": {},
    "object": object(), "class": cells.DifferentialPair, "function": joshi_2020, "array": np.ones((2, 2)),
    "tensor": torch.ones(3), "meta": torch.ones((), device="meta"), "NaN in a tuple": (math.nan, 1.0),
    "text in a tuple": ("a", "b"), "None": None, "True": True, "fraction": 1.5, "infinity": math.inf,
    "minus infinity": -math.inf, "infinity in a tuple": (math.inf, 1.0),
    "another configuration": WIRES, "empty": (),
}  # fmt: skip


def is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(is_plain, value))
    return type(value) in (float, int, bool, str, type(None)) or isinstance(value, Configuration)


@pytest.mark.parametrize(("name", "field"), FIELDS, ids=IDS)
def test_a_value_is_stored_as_json_restores_it_or_refused_by_name(name: str, field: str) -> None:
    base = example(name)
    for what, bad in BAD.items():
        try:
            made = dataclasses.replace(base, **{field: bad})
        except (TypeError, ValueError) as error:
            text = str(error)
            assert text.startswith(f"{name}: ") or "; " in text, what
            assert field in text, f"{what}: {text}"
            continue
        stored = getattr(made, field)
        assert is_plain(stored), what
        assert what not in ("NaN", "numpy's NaN", "NaN in a tuple", "class", "function", "object", "text in a tuple")
        assert not isinstance(stored, bool) or isinstance(getattr(base, field), bool), what
        assert "infinity" not in what or f"{name}.{field}" in UNBOUNDED, what
        assert from_json(made.to_json()) == made, what


@pytest.mark.parametrize(("name", "field"), FIELDS, ids=IDS)
def test_numbers_of_numpy_and_torch_become_numbers(name: str, field: str) -> None:
    base = example(name)
    value = getattr(base, field)
    if isinstance(value, bool):
        same: list[Any] = [np.bool_(value), torch.tensor(value)]
    elif isinstance(value, int):
        same = [np.int64(value), np.int32(value), torch.tensor(value), np.array(value)]
    elif isinstance(value, float):
        same = [np.float64(value), torch.tensor(value, dtype=torch.float64), np.array(value)]
    elif isinstance(value, tuple) and value:
        same = [list(value), np.array(value), torch.tensor(value, dtype=torch.float64), tuple(map(np.float64, value))]
        same = same if is_plain(value) and not isinstance(value[0], tuple) else same[:3]
    else:
        pytest.skip("no number")
    for other in same:
        made = dataclasses.replace(base, **{field: other})
        assert made == base
        assert hash(made) == hash(base)
        assert is_plain(getattr(made, field))
        assert type(getattr(made, field)) is type(value)
        assert made.to_json() == base.to_json()


def test_float32_keeps_its_value() -> None:
    assert dataclasses.replace(WIRES, word_line=np.float32(0.1)).word_line == float(np.float32(0.1))


def test_errors_name_the_value_the_rule_and_the_fix() -> None:
    cell = pg.presets.pcm_inference().cell
    with pytest.raises(TypeError, match=r"Hardware: cell = <class .*DifferentialPair'> .*must be Cell.*create"):
        Hardware(cell=cells.DifferentialPair)
    with pytest.raises(TypeError, match=r"Hardware: cell = <function pcm_inference.*call it, pcm_inference\(\.\.\.\)"):
        Hardware(cell=pg.presets.pcm_inference)
    with pytest.raises(TypeError, match=r"Hardware: adc = 'SAR' \(str\); it must be OutputConverter or None"):
        Hardware(cell=cell, adc="SAR")
    with pytest.raises(TypeError, match=r"Capacitor: tau = '1 ms' \(str\); it must be a number"):
        devices.Capacitor(g_max=1e-6, tau="1 ms")
    with pytest.raises(ValueError, match=r"Curve: polynomial = \(nan,\); it must have .*finite"):
        Curve(polynomial=(math.nan,))
    with pytest.raises(TypeError, match=r"Pulses: bl_management = 1 \(int\); it must be bool"):
        Pulses(bl_management=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UsersSteps(Configuration):
    """A configuration of a user, without any check of its own."""

    size: float
    count: int = 3
    name: str | None = None
    flags: tuple[bool, ...] = ()
    pair: tuple[int, float] = (1, 2.0)
    anything: Any = None


def test_a_users_configuration_is_checked_too() -> None:
    made = UsersSteps(size=np.float32(0.5), count=np.int64(4), flags=[np.bool_(True)], anything=torch.tensor([1, 2]))
    assert (made.size, made.count, made.flags, made.anything) == (0.5, 4, (True,), (1, 2))
    assert from_json(made.to_json()) == made
    for wrong in (
        {"size": "0.5"}, {"size": math.nan}, {"count": 4.0}, {"count": True}, {"name": 3}, {"flags": (1,)},
        {"pair": (1.5, 2.0)}, {"pair": (1,)}, {"anything": object()}, {"size": None},
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError), match=rf"^UsersSteps: {next(iter(wrong))} = .*it must be"):
            UsersSteps(**{"size": 0.5, **wrong})


def test_a_class_in_a_function_is_checked_where_its_annotations_are_known() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Inner(Configuration):
        x: float = 0.0

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Outer(Configuration):
        inner: Inner  # a name that only this function knows

    assert Outer(inner=Inner(x=1)).inner.x == 1
    with pytest.raises(TypeError, match=r"Inner: x = 'a'"):
        Outer(inner=Inner(x="a"))
    with pytest.raises(TypeError, match=r"Outer: inner = <object"):
        Outer(inner=object())


def test_the_checks_take_microseconds() -> None:
    hardware = pg.presets.pcm_inference()
    assert min(timeit.repeat(lambda: dataclasses.replace(hardware), number=50, repeat=5)) / 50 < 1e-3


def test_every_layer_of_configurations_is_covered() -> None:
    assert {"Hardware", "PCM", "Recipe", "PCMNoise", "Distillation", "SarAdc", "Wires", "Transfer"} <= set(kinds())
    assert crossbar.Hardware in kinds().values()
