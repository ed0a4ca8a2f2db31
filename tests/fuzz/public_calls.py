"""A valid call of each public function, class and layer, in which one argument at a time is made wrong."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.configuration import Configuration

HARDWARE = pg.presets.pcm_inference()
IDEAL = pg.presets.ideal_inference()
TRAINING = pg.presets.soft_bounds_training()
FAULTS = pg.devices.Faults(stuck_at_set=0.1)
FAST = pg.presets.tiki_taka_training()


@dataclasses.dataclass
class Call:
    """A public call with valid arguments.

    ``arguments`` makes them anew, as a call may change them; ``optional`` names others that the call also accepts.
    """

    name: str
    run: Callable[..., Any]
    arguments: Callable[[], dict[str, Any]]
    optional: tuple[str, ...] = ()


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))


@functools.cache
def _converted() -> nn.Module:
    net = pg.convert(model(), HARDWARE)
    pg.hwa.calibrate(net, [torch.randn(8, 6)])
    return net


@functools.cache
def _chip() -> nn.Module:
    return pg.inference.program(_converted(), seed=0)


def net() -> nn.Module:
    return copy.deepcopy(_converted())


def chip() -> nn.Module:
    return copy.deepcopy(_chip())


def batches() -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(8, 6), torch.randint(2, (8,)))]


def trained(hardware: pg.Hardware = TRAINING) -> nn.Module:
    return pg.convert(model(), hardware)


def path(name: str) -> Path:
    return Path(tempfile.mkdtemp()) / name


def count(_: nn.Module) -> float:
    return 0.5


PCM = pg.devices.joshi_2020()

FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[[], dict[str, Any]], tuple[str, ...]]] = {
    "convert": (pg.convert, lambda: {"model": model(), "hardware": HARDWARE}, ("only", "skip")),
    "to_digital": (pg.to_digital, lambda: {"net": net()}, ()),
    "summary": (lambda net, x: pg.summary(net, x), lambda: {"net": net(), "x": torch.randn(2, 6)}, ()),
    "summary alone": (lambda net: str(pg.summary(net)), lambda: {"net": net()}, ()),
    "conversion.bypasses": (
        lambda net, x: pg.conversion.bypasses(net, x), lambda: {"net": net(), "x": torch.randn(2, 6)}, (),
    ),
    "conversion.left_digital": (pg.conversion.left_digital, lambda: {"net": net()}, ()),
    "conversion.register_counterpart": (
        pg.conversion.register_counterpart,
        lambda: {"module_type": type("Own", (nn.Module,), {}), "make": lambda module, hardware: module},
        (),
    ),
    "hwa.calibrate": (
        pg.hwa.calibrate, lambda: {"net": net(), "loader": batches()}, ("batches", "recipe", "sd", "forward"),
    ),
    "hwa.fine_tune": (
        pg.hwa.fine_tune,
        lambda: {"net": net(), "loader": batches(), "epochs": 1, "progress": False},
        ("loss", "epochs", "recipe", "optimizer", "scheduler", "teacher", "evaluate", "calibration_batches",
         "checkpoints", "every", "progress"),
    ),
    "hwa.set_noise_level": (pg.hwa.set_noise_level, lambda: {"net": net(), "level": 0.5}, ()),
    "hwa.Recipe.apply": (lambda net: pg.hwa.Recipe().apply(net), lambda: {"net": net()}, ()),
    "inference.program": (pg.inference.program, lambda: {"net": net()}, ("seed", "faults")),
    "inference.program around faults": (
        pg.inference.program, lambda: {"net": net(), "faults": FAULTS, "map_around": ("pair",)}, ()
    ),
    "inference.faults": (pg.inference.faults, lambda: {"chip": chip()}, ()),
    "inference.fault_maps": (pg.inference.fault_maps, lambda: {"chip": chip()}, ()),
    "inference.draw_faults": (
        pg.inference.draw_faults, lambda: {"net": net(), "faults": FAULTS, "seed": 0}, ()
    ),
    "inference.save_fault_maps": (
        pg.inference.save_fault_maps,
        lambda: {
            "maps": pg.inference.draw_faults(net(), FAULTS, seed=0),
            "path": Path(tempfile.mkdtemp()) / "faults.csv",
        },
        (),
    ),
    "inference.age": (pg.inference.age, lambda: {"chip": chip(), "seconds": 1.0}, ("temperature",)),
    "inference.age until": (pg.inference.age, lambda: {"chip": chip(), "until": 1.0}, ()),
    "inference.now": (pg.inference.now, lambda: {"chip": chip()}, ()),
    "inference.compensate": (pg.inference.compensate, lambda: {"chip": chip()}, ("compensation", "seed")),
    "inference.noiseless": (pg.inference.noiseless, lambda: {"net": net()}, ()),
    "inference.format_time": (pg.inference.format_time, lambda: {"seconds": 3.0}, ()),
    "inference.accuracy_over_time": (
        pg.inference.accuracy_over_time,
        lambda: {"net": net(), "evaluate": count, "times": (1.0, 60.0), "chips": 1, "progress": False},
        ("seed", "compensation", "temperature", "progress"),
    ),
    "inference.reestimate_batchnorm": (
        pg.inference.reestimate_batchnorm,
        lambda: {
            "chip": pg.inference.program(pg.convert(nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)), IDEAL)),
            "loader": batches(),
        },
        ("batches", "forward"),
    ),
    "inference.export_graph": (
        lambda net, inputs: pg.inference.export_graph(net, inputs),
        lambda: {"net": net(), "inputs": (torch.randn(2, 6),)}, (),
    ),
    "inference.Report": (
        pg.inference.Report,
        lambda: {"times": (1.0, 60.0), "values": torch.rand(2, 3), "seed": 0, "compensation": None}, (),
    ),
    "inference.Report.to_csv": (
        lambda path: pg.inference.Report((1.0,), torch.rand(1, 3), 0, None).to_csv(path),
        lambda: {"path": path("report.csv")}, (),
    ),
    "inference.Report.plot": (
        lambda path: pg.inference.Report((1.0,), torch.rand(1, 3), 0, None).plot(path),
        lambda: {"path": path("report.png")}, (),
    ),
    "cost.estimate": (
        pg.cost.estimate, lambda: {"net": net(), "example_input": torch.randn(2, 6)},
        ("technology", "activity", "replicas", "pipelined"),
    ),
    "cost.estimate_training": (
        pg.cost.estimate_training, lambda: {"net": trained(), "example_input": torch.randn(2, 6)},
        ("technology", "activity", "firing"),
    ),
    "cost.measure_activity": (pg.cost.measure_activity, lambda: {"net": net(), "inputs": [torch.randn(8, 6)]}, ()),
    "cost.peak": (
        pg.cost.peak, lambda: {"hardware": HARDWARE, "technology": pg.cost.hermes_core()}, ("activity", "conductance"),
    ),
    "cost.compare": (
        pg.cost.compare,
        lambda: {
            "estimate": pg.cost.estimate(net(), torch.randn(2, 6)),
            "accelerator": pg.cost.Accelerator(throughput=1.0, efficiency=1.0, bandwidth=1.0, byte_energy=1.0),
        }, (),
    ),
    "cost.hermes_64_core": (pg.cost.hermes_64_core, dict, ("phases",)),
    "cost.thermal_conversion_energy": (pg.cost.thermal_conversion_energy, lambda: {"bits": 8}, ("temperature",)),
    "cost.Estimate.to_csv": (
        lambda path: pg.cost.estimate(net(), torch.randn(2, 6)).to_csv(path), lambda: {"path": path("cost.csv")}, (),
    ),
    "cost.Estimate.to_json": (
        lambda path: pg.cost.estimate(net(), torch.randn(2, 6)).to_json(path), lambda: {"path": path("cost.json")}, (),
    ),
    "nn.analog_layers": (pg.nn.analog_layers, lambda: {"net": net()}, ()),
    "nn.ignore_in_ddp": (pg.nn.ignore_in_ddp, lambda: {"module": trained()}, ()),
    "checkpoint.save": (
        lambda path, part: pg.checkpoint.save(path, net=part), lambda: {"path": path("run.pt"), "part": net()}, (),
    ),
    "checkpoint.load": (
        lambda path, part, streams: pg.checkpoint.load(path, streams=streams, net=part),
        lambda: {"path": _saved(), "part": net(), "streams": True}, (),
    ),
    "checkpoint.Folder": (pg.checkpoint.Folder, lambda: {"path": path("folder")}, ("keep",)),
    "checkpoint.Folder.save": (
        lambda step, part: pg.checkpoint.Folder(path("folder")).save(step, net=part),
        lambda: {"step": 1, "part": net()}, (),
    ),
    "checkpoint.export_safetensors": (
        pg.checkpoint.export_safetensors, lambda: {"net": net(), "path": path("net.safetensors")}, (),
    ),
    "checkpoint.import_safetensors": (
        pg.checkpoint.import_safetensors, lambda: {"net": net(), "path": _exported()}, (),
    ),
    "checkpoint.ResumableLoader": (
        pg.checkpoint.ResumableLoader,
        lambda: {"dataset": list(range(8)), "batch_size": 2},
        ("seed", "shuffle", "drop_last", "rank", "ranks"),
    ),
    "crossbar.linearity": (
        pg.crossbar.linearity, lambda: {"adc": pg.crossbar.SarAdc(bits=4)}, ("converters", "seed", "oversampling"),
    ),
    "crossbar.solve": (
        pg.crossbar.solve,
        lambda: {
            "conductance": 1e-5 * torch.rand(4, 3), "voltages": torch.rand(2, 4),
            "wires": pg.crossbar.Wires(word_line=1.0, bit_line=1.0),
        },
        ("iv",),
    ),
    "devices.trace": (
        pg.devices.trace,
        lambda: {
            "device": PCM, "state": PCM.program(torch.full((3,), 1e-5), torch.tensor([1]), 0),
            "ages": torch.tensor([1.0, 2.0], dtype=torch.float64), "seed": torch.tensor([1]),
        },
        ("offset",),
    ),
    "devices.projected": (
        pg.devices.projected, lambda: {"device": PCM, "liner": 1e-6}, ("reset", "crystalline"),
    ),
    "devices.ideal_device": (pg.devices.ideal_device, dict, ("g_max", "steps")),
    "devices.joshi_2020": (pg.devices.joshi_2020, dict, ("g_max",)),
    "devices.nandakumar_2018": (pg.devices.nandakumar_2018, dict, ("device_variation",)),
    "devices.nandakumar_2018_device": (
        pg.devices.nandakumar_2018_device, dict, ("g_max", "nu", "device_variation"),
    ),
}  # fmt: skip


@functools.cache
def _saved() -> Path:
    file = path("run.pt")
    pg.checkpoint.save(file, net=net())
    return file


@functools.cache
def _exported() -> Path:
    file = path("net.safetensors")
    pg.checkpoint.export_safetensors(net(), file)
    return file


LAYERS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "AnalogLinear": ((6, 4), (2, 6)),
    "AnalogTransposedLinear": ((4, 6), (2, 6)),
    "AnalogConv1d": ((3, 4, 3), (2, 3, 8)),
    "AnalogConv2d": ((3, 4, 3), (2, 3, 8, 8)),
    "AnalogConv3d": ((3, 4, 3), (2, 3, 4, 4, 4)),
    "AnalogConvTranspose1d": ((3, 4, 3), (2, 3, 8)),
    "AnalogConvTranspose2d": ((3, 4, 3), (2, 3, 8, 8)),
    "AnalogConvTranspose3d": ((3, 4, 3), (2, 3, 4, 4, 4)),
    "AnalogEmbedding": ((10, 4), (2, 3)),
    "AnalogMultiheadAttention": ((6, 2), (5, 2, 6)),
    "AnalogRNN": ((6, 4), (5, 2, 6)),
    "AnalogLSTM": ((6, 4), (5, 2, 6)),
    "AnalogGRU": ((6, 4), (5, 2, 6)),
    "AnalogRNNCell": ((6, 4), (2, 6)),
    "AnalogLSTMCell": ((6, 4), (2, 6)),
    "AnalogGRUCell": ((6, 4), (2, 6)),
}
"""Arguments of each layer's constructor, and the shape of an input."""


def _layers() -> Iterator[Call]:
    for name, (sizes, shape) in LAYERS.items():
        kind = getattr(pg.nn, name)
        parameters = list(inspect.signature(kind).parameters)
        given = dict(zip(parameters, sizes, strict=False), hardware=HARDWARE)
        yield Call(f"nn.{name}", kind, functools.partial(dict, given), tuple(p for p in parameters if p not in given))
        made: dict[str, Any] = {"ready": None}

        def forward(x: Any, kind: Any = kind, given: dict[str, Any] = given, made: dict[str, Any] = made) -> Any:
            if made["ready"] is None:
                made["ready"] = kind(**given)
            return made["ready"](x, x, x) if "embed_dim" in given else made["ready"](x)

        sample = torch.randint(10, shape) if name == "AnalogEmbedding" else torch.randn(shape)
        yield Call(f"nn.{name}.forward", forward, functools.partial(dict, x=sample))


def _optimizers() -> Iterator[Call]:
    for name in pg.optim.__all__:
        kind = getattr(pg.optim, name)
        others = tuple(p for p in inspect.signature(kind).parameters if p not in ("params", "lr"))
        fast = "fast_lr" in others
        yield Call(f"optim.{name}", kind, functools.partial(_options, fast), others)
        yield Call(f"optim.{name}.group", functools.partial(_group, kind, fast), lambda: {"lr": 0.1})


def _options(fast: bool) -> dict[str, Any]:
    return {"params": trained(FAST if fast else TRAINING).parameters(), "lr": 0.1}


def _group(kind: Any, fast: bool, lr: Any) -> Any:
    return kind([{"params": list(_options(fast)["params"]), "lr": lr}], lr=0.1)


REQUIRED: dict[str, Any] = {
    "cell": pg.cells.DifferentialPair(device=PCM), "device": PCM, "pairs": 2, "significances": (4.0, 1.0),
    "scale": "column", "value": 1.0, "v0": 1.0, "word_line": 1.0, "bit_line": 1.0, "g_max": 2.5e-5, "size": 0.01,
    "up": ((0.0, 1.0), (0.5, 0.5), (1.0, 0.0)), "down": ((0.0, 1.0), (1.0, 0.0)), "sigma": 0.1,
    "source": "a paper", "throughput": 1e12, "efficiency": 1e12, "bandwidth": 1e11, "byte_energy": 1e-12,
}  # fmt: skip


def _configurations() -> Iterator[Call]:
    """Every configuration of which an instance is found in a preset or can be made from ``REQUIRED``."""
    for module in (pg.cells, pg.cost, pg.crossbar, pg.devices, pg.hwa):
        for name in module.__all__:
            kind = getattr(module, name)
            if not (isinstance(kind, type) and issubclass(kind, Configuration)) or inspect.isabstract(kind):
                continue
            fields = {f.name: f for f in dataclasses.fields(kind) if f.init}
            valid = _valid(kind, fields)
            if valid is not None:
                call = f"{module.__name__.removeprefix('phasegrad.')}.{name}"
                yield Call(call, kind, functools.partial(dict, valid), tuple(f for f in fields if f not in valid))


def _valid(kind: type, fields: dict[str, Any]) -> dict[str, Any] | None:
    for known in _instances():
        if type(known) is kind:
            return {name: getattr(known, name) for name in fields}
    given = {name: REQUIRED[name] for name, f in fields.items() if _required(f) and name in REQUIRED}
    try:
        kind(**given)
    except Exception:
        return None
    return given


def _required(field: Any) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


@functools.cache
def _instances() -> list[Configuration]:
    """Every configuration within the presets."""
    found: list[Configuration] = []

    def visit(value: Any) -> None:
        if isinstance(value, Configuration):
            found.append(value)
            for f in dataclasses.fields(value):
                visit(getattr(value, f.name))

    for name in pg.presets.__all__:
        visit(getattr(pg.presets, name)())
    visit(pg.devices.nandakumar_2018_device())
    return found


def calls() -> list[Call]:
    """All public calls."""
    functions = [Call(name, run, make, optional) for name, (run, make, optional) in FUNCTIONS.items()]
    presets = {name: getattr(pg.presets, name) for name in pg.presets.__all__}
    made = [Call(f"presets.{n}", make, dict, tuple(inspect.signature(make).parameters)) for n, make in presets.items()]
    return [*functions, *made, *_layers(), *_optimizers(), *_configurations()]
