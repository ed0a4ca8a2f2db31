"""Hardware by name, by function, and in several conversions."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import phasegrad as pg
from phasegrad.conversion import left_digital
from phasegrad.nn import AnalogLinear, analog_layers

COARSE = pg.presets.pcm_inference()
assert COARSE.adc is not None
FINE = replace(COARSE, adc=replace(COARSE.adc, bits=12))
MEMORY = pg.presets.soft_bounds_training()


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


def hardware_of(net: nn.Module) -> dict[str, pg.Hardware]:
    return {name: layer.hardware for name, layer in analog_layers(net).items()}


def test_a_partly_converted_net_is_converted_further() -> None:
    first = pg.convert(model(), COARSE, only=["2"])
    net = pg.convert(first, FINE, only=["0", "4"])
    assert hardware_of(net) == {"0": FINE, "2": COARSE, "4": FINE}
    assert hardware_of(first) == {"2": COARSE}
    assert left_digital(net) == {}
    assert len(net._load_state_dict_pre_hooks) == 1
    chip = pg.inference.program(net, seed=0)
    again = pg.convert(model(), {"0": FINE, "2": COARSE, "4": FINE}).eval()
    again.load_state_dict(chip.state_dict())
    outputs = []
    for m in (chip, again):
        torch.manual_seed(0)
        outputs.append(m(torch.ones(2, 8)))
    assert torch.equal(*outputs)


CHOICES: list[tuple[Any, dict[str, pg.Hardware]]] = [
    ({"0": FINE, "4": FINE, r"\d": COARSE}, {"0": FINE, "2": COARSE, "4": FINE}),
    ({r"[04]": FINE, "": COARSE}, {"0": FINE, "2": COARSE, "4": FINE}),
    (
        {
            "0": COARSE,
            "": FINE,
        },
        {"0": COARSE, "2": FINE, "4": FINE},
    ),
    ({"2": COARSE}, {"2": COARSE}),
    (lambda module, name: FINE if name in ("0", "4") else COARSE, {"0": FINE, "2": COARSE, "4": FINE}),
    (lambda module, name: COARSE if getattr(module, "out_features", 0) == 2 else None, {"4": COARSE}),
    ({"0": MEMORY, "2": COARSE}, {"0": MEMORY, "2": COARSE}),
]


@pytest.mark.parametrize(("choice", "expected"), CHOICES)
def test_hardware_is_chosen_by_name_or_function(choice: Any, expected: dict[str, pg.Hardware]) -> None:
    net = pg.convert(model(), choice)
    assert hardware_of(net) == expected
    assert left_digital(net) == {n: "not named in hardware" for n in ("0", "2", "4") if n not in expected}


def attention() -> nn.Module:
    return nn.ModuleDict({"attn": nn.MultiheadAttention(4, 2), "fc": nn.Linear(4, 4), "drop": nn.Dropout()})


def emb() -> nn.Module:
    return nn.ModuleDict({"emb": nn.Embedding(4, 4), "fc": nn.Linear(4, 4)})


UNUSED: list[tuple[Any, Any, str]] = [
    (model, {"": COARSE, "0": FINE}, r"hardware\['0'\] applies to no layer: 0 has the hardware of '', the first"),
    (model, {"0": FINE, "2": FINE, r"[02]": COARSE}, r"hardware\['\[02\]'\] applies to no layer: 0 has .* of '0'"),
    (model, {"": COARSE, "1": FINE}, r"hardware\['1'\] applies to no layer \(no layer has weights\)"),
    (
        attention,
        {"out_proj": FINE, "": COARSE},
        r"names attn\.out_proj, which is a part of a layer.*name the layer, attn",
    ),
    (attention, {"attn": FINE, "attn.out_proj": COARSE, "fc": FINE}, r"\['attn.out_proj'\] names attn.out_proj"),
    (attention, {"fc": FINE, "drop": COARSE}, r"hardware\['drop'\] applies to no layer \(no layer has weights\)"),
    (emb, {"fc": FINE, "emb": COARSE}, r"hardware\['emb'\] applies to no layer \(emb: a look-up of rows"),
    (lambda: pg.convert(model(), FINE, only=["0"]), {"0": COARSE, "2": FINE}, r"\['0'\].*0: analog already"),
]


@pytest.mark.parametrize(("make", "choice", "text"), UNUSED)
def test_an_entry_that_applies_to_no_layer_is_refused(make: Any, choice: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        pg.convert(make(), choice)


def test_an_entry_that_also_names_a_part_of_a_layer_is_said() -> None:
    with pytest.warns(UserWarning, match=r"hardware\['.*'\] names attn\.out_proj, which is a part of a layer") as found:
        net = pg.convert(attention(), {r".*(fc|out_proj)": FINE, "": COARSE})
    assert len(found) == 1
    assert found[0].filename == __file__
    assert hardware_of(net) == {"attn.in_proj": COARSE, "attn.out_proj": COARSE, "fc": FINE}
    net = pg.convert(attention(), {"attn": FINE, "": COARSE})  # the entry names the layer and with it its parts
    assert hardware_of(net) == {"attn.in_proj": FINE, "attn.out_proj": FINE, "fc": COARSE}


def test_an_entry_for_what_the_user_left_digital_is_fine() -> None:
    net = pg.convert(model(), {"0": FINE, "2": COARSE}, skip=["2"])
    assert hardware_of(net) == {"0": FINE}
    assert hardware_of(pg.convert(model(), {"0": FINE, "2": COARSE}, only=["0"])) == {"0": FINE}


def test_only_and_skip_apply_as_well() -> None:
    net = pg.convert(model(), {"": FINE}, only=["0", "2"], skip=["2"])
    assert hardware_of(net) == {"0": FINE}
    assert left_digital(net) == {"2": "named in skip", "4": "not named in only"}


class Tied(nn.Module):
    """Two layers that share a weight, and a module with two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight, self.also = self.a.weight, self.c


def test_shared_weights_need_the_same_hardware() -> None:
    net = pg.convert(Tied(), {"a": FINE, "b": FINE, "c": COARSE})
    assert net.a.weight is net.b.weight
    assert net.also is net.c
    with pytest.raises(ValueError, match=r"a and b share a weight \(weight\), but their hardware differs"):
        pg.convert(Tied(), {"a": FINE, "": COARSE})
    part = pg.convert(Tied(), FINE, only=["a"])
    assert pg.convert(part, FINE, only=["b"]).b.weight is not part.a.weight
    with pytest.raises(ValueError, match="a and b share a weight"):
        pg.convert(part, COARSE, only=["b"])
    assert type(part.b) is nn.Linear


REFUSED: list[tuple[Any, type[Exception], str]] = [
    ({}, ValueError, r"hardware = \{\}; it must be a Hardware"),
    ({"9": FINE}, ValueError, "hardware names '9', which matches no module"),
    ({"0": "fine"}, TypeError, "hardware\\['0'\\] is a str"),
    ({0: FINE}, TypeError, r"hardware\[0\]"),
    (lambda module, name: "fine", TypeError, "hardware returned a str for the model"),
    (lambda module, name: None, ValueError, "nothing to convert.*0: not named in hardware"),
    (pg.Hardware, TypeError, "hardware is a class Hardware"),
    (None, TypeError, "hardware is a NoneType"),
]


@pytest.mark.parametrize(("choice", "error", "text"), REFUSED)
def test_other_choices_are_refused(choice: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        pg.convert(model(), choice)


def test_what_is_analog_already_is_not_converted_again() -> None:
    net = pg.convert(model(), COARSE, only=["2"])
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match=r"converted already \(2 is analog\); name the layers.*only"):
        pg.convert(net, FINE)
    with pytest.raises(ValueError, match="only names '2', which is analog already"):
        pg.convert(net, FINE, only=["0", "2"])
    chip = pg.inference.program(net, seed=0)
    with pytest.raises(ValueError, match="2 is programmed; convert the net that the chip was programmed from"):
        pg.convert(chip, FINE, only=["0"])
    assert hardware_of(pg.convert(net, {"": FINE})) == {"0": FINE, "2": COARSE, "4": FINE}
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_layers_join_a_net_that_trains_in_the_memory() -> None:
    net = pg.convert(pg.convert(model(), MEMORY, only=["2"]), MEMORY, only=["0"])
    optimizer = pg.optim.AnalogSGD(net.parameters(), lr=0.1)
    before = [net[i].devices.conductance.clone() for i in (0, 2)]
    net(torch.randn(4, 8)).square().sum().backward()
    optimizer.step()
    assert not any(torch.equal(a, net[i].devices.conductance) for a, i in zip(before, (0, 2), strict=True))
    assert type(pg.to_digital(net)[0]) is nn.Linear
    assert type(net[0]) is AnalogLinear


def test_a_preset_that_was_not_called_is_named() -> None:
    with pytest.raises(TypeError, match=r"hardware is the function pcm_inference, .*as in pcm_inference\(\)"):
        pg.convert(nn.Linear(4, 2), pg.presets.pcm_inference)  # type: ignore[call-overload]
