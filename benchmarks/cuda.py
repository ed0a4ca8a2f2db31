"""Figures of a GPU, each beside its roofline: ``python -m benchmarks.cuda``.

One run measures the ceilings (memory, tensor cores, integers), random numbers, hardware-aware steps, pulsed updates,
and programming, ageing and reading of devices, in a few minutes. It writes benchmarks/results/cuda-CARD.json anew after
every figure, so that a run that is stopped keeps what it measured. If a part fails, the others follow.

A floor is the largest of the bytes that must be moved over the measured memory bandwidth, and of the operations that
must be computed over the measured rate. ``--smoke`` runs everything at tiny sizes, on any device, to try the script.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import phasegrad as pg
from benchmarks import lightning_counterpart
from benchmarks.harness import Figure, as_dict
from benchmarks.hwa_step import hardware, step
from phasegrad.devices import joshi_2020
from phasegrad.ops.direct import call
from phasegrad.stores import AnalogWeight, pulsed_weight

RESULTS = Path(__file__).parent / "results"
ROUNDS = 20
INTEGERS_PER_PULSE_SLOT = 10
"""Integer operations per sample and weight of a pulsed update: words of both lines, their bits and signs, a count."""


@dataclasses.dataclass(frozen=True)
class Card:
    """A device and the ceilings that were measured on it."""

    device: torch.device
    bytes_per_second: float
    products: dict[torch.dtype, float]
    """Floating-point operations per second of matrix products, by the dtype of their operands."""
    normals_per_second: float

    def floor(self, moved: float, operations: float = 0.0, dtype: torch.dtype = torch.float32) -> float:
        """The time that moving bytes, or computing products, takes at least [s]."""
        return max(moved / self.bytes_per_second, operations / self.products[dtype])


def seconds(function: Callable[[], object], device: torch.device, rounds: int = ROUNDS) -> float:
    """Median time of a call on a device [s], after three warm-up calls."""
    for _ in range(3):
        function()
    if device.type != "cuda":
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        return statistics.median(times)
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(rounds)]
    for start, end in events:
        start.record()
        function()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in events) / 1e3


def peak_bytes(function: Callable[[], object], device: torch.device) -> int:
    """Memory that a call allocates beyond what exists before it."""
    if device.type != "cuda":
        return 0
    function()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def measured(device: torch.device, small: bool) -> Card:
    """Measure the ceilings of a device with a copy, products and normals."""
    count, side = (1 << 16, 64) if small else (1 << 28, 8192)
    source = torch.zeros(count, device=device)
    target, seed = torch.empty_like(source), torch.zeros(1, dtype=torch.int64, device=device)
    bandwidth = 2 * source.nbytes / seconds(lambda: target.copy_(source), device)
    products = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        products[dtype] = 2 * side**3 / seconds(lambda a=a, b=b: a @ b, device, 10)
    size = [count // 4]
    normals = size[0] / seconds(lambda: call("normal", seed, 0, size), device, 5)
    return Card(device, bandwidth, products, normals)


def ceilings(card: Card, small: bool) -> Iterator[Figure]:
    """The ceilings themselves."""
    yield _plain("copy", card.bytes_per_second / 1e12, "TB/s")
    for dtype, rate in card.products.items():
        yield _plain(f"product {str(dtype).removeprefix('torch.')}", rate / 1e12, "Tflop/s")
    writing = card.bytes_per_second / 4
    ratio = writing / card.normals_per_second
    yield Figure("normals", card.normals_per_second / 1e9, "G/s", "writing them", writing / 1e9, ratio, "-")


def _plain(name: str, value: float, unit: str) -> Figure:
    return Figure(name, value, unit, None, None, None, "-")


def _beside(name: str, value: float, floor: float, target: str = "-") -> Figure:
    return Figure(name, value * 1e3, "ms", "roofline", floor * 1e3, value / floor, target)


def layer_step(
    layer: nn.Module, x: Tensor, upstream: Tensor, autocast: torch.dtype | None = None
) -> Callable[[], None]:
    """Forward and backward pass of a layer."""
    parameters = list(layer.parameters())

    def run() -> None:
        x.grad = None
        for p in parameters:
            p.grad = None
        with nullcontext() if autocast is None else torch.autocast(x.device.type, autocast):
            y = layer(x)
        y.backward(upstream.to(y.dtype))

    return run


def analog(digital: nn.Module, x: Tensor) -> nn.Module:
    """The analog layer of a digital one, with its training noise."""
    layer = pg.convert(digital, hardware())
    pg.hwa.calibrate(layer, [x.detach().float()], batches=1, recipe=pg.hwa.Recipe())
    return layer.train()


def hardware_aware(card: Card, small: bool) -> Iterator[Figure]:
    """Steps of a square layer under bfloat16 autocast, with SGD, against ``nn.Linear``."""
    size = 128 if small else 4096
    for batch, target in ((64, "-"),) if small else ((2048, "at most 1.5"), (8192, "at most 1.25")):
        torch.manual_seed(0)
        digital = nn.Linear(size, size, device=card.device)
        x, upstream = (torch.randn(batch, size, device=card.device) for _ in range(2))
        layer, x = analog(digital, x), x.requires_grad_()
        low = torch.bfloat16
        with torch.autocast(card.device.type, low):
            upstream = upstream.to(layer(x).dtype)
        runs = [_autocast(step(m, x, upstream), card.device, low) for m in (layer, digital)]
        ours, theirs = (seconds(run, card.device) for run in runs)
        name = f"hwa step {size}x{size} B{batch} bfloat16"
        yield Figure(name, ours * 1e3, "ms", "nn.Linear", theirs * 1e3, ours / theirs, target)
        tiles = -(-size // hardware().rows)
        # Weights: read with noise, gradient, SGD; inputs and outputs; the codes of the ADCs, written and read.
        moved = size * size * (4 + 2 + 2 * 2 + 4 + 3 * 4) + batch * size * (2 * 6 + 2 * tiles)
        normals = (size * size + tiles * batch * size) / card.normals_per_second
        floor = max(card.floor(moved, 6 * batch * size * size, low), normals)
        yield _beside(f"{name}, floor", ours, floor)
        memory = [peak_bytes(run, card.device) / 2**20 for run in runs]
        ratio = memory[0] / memory[1] if memory[1] else None
        yield Figure(f"{name}, peak memory", memory[0], "MiB", "nn.Linear", memory[1], ratio, "-")


def _autocast(run: Callable[[], None], device: torch.device, dtype: torch.dtype) -> Callable[[], None]:
    def within() -> None:
        with torch.autocast(device.type, dtype):
            run()

    return within


def beside_lightning(card: Card, small: bool) -> Iterator[Figure]:
    """Forward and backward passes in float16, against ``nn.Linear`` and aihwkit-lightning if it can be imported."""
    batch = 32 if small else 512
    shapes = ((64, 64),) if small else (*((n, n) for n in (128, 256, 512, 1024, 2048)), (2048, 8192), (3072, 8192))
    for inputs, outputs in shapes:
        torch.manual_seed(0)
        digital = nn.Linear(inputs, outputs, bias=False, device=card.device)
        x = torch.randn(batch, inputs, device=card.device)
        layers = {"phasegrad": analog(digital, x), "nn.Linear": digital}
        if lightning_counterpart.AVAILABLE:
            layers["aihwkit-lightning"] = lightning_counterpart.analog_linear(digital, hardware())
        low = x.half().requires_grad_()
        upstream = torch.randn(batch, outputs, device=card.device).half()
        runs = {name: layer_step(layer.half(), low, upstream) for name, layer in layers.items()}
        times = {name: seconds(run, card.device) for name, run in runs.items()}
        memory = {name: peak_bytes(run, card.device) / 2**20 for name, run in runs.items()}
        name = f"forward, backward {inputs}x{outputs} B{batch} float16"
        for other in [n for n in times if n != "phasegrad"]:
            target = "below 1" if other == "aihwkit-lightning" else "-"
            ratio = times["phasegrad"] / times[other]
            yield Figure(name, times["phasegrad"] * 1e3, "ms", other, times[other] * 1e3, ratio, target)
            ratio = memory["phasegrad"] / memory[other] if memory[other] else None
            yield Figure(f"{name}, memory", memory["phasegrad"], "MiB", other, memory[other], ratio, "-")


def pulsed(card: Card, small: bool) -> Iterator[Figure]:
    """Pulsed updates of soft-bounds devices, beside traffic with each weight read and written once, and arithmetic."""
    size, batch = (64, 8) if small else (4096, 256)
    preset = pg.presets.soft_bounds_training()
    devices = AnalogWeight(preset, size, size, preset.columns, card.device)
    scale = torch.full_like(devices.scale, float(preset.scale))  # type: ignore[arg-type]
    seed = torch.zeros(1, dtype=torch.int64, device=card.device)
    weight = torch.zeros(size, size, device=card.device)
    devices.program_weight(weight, scale, torch.ones(1, device=card.device), seed)
    x, d = torch.randn(batch, size, device=card.device), torch.randn(batch, size, device=card.device)
    lr = 0.04 * devices.dw_min / float(x.abs().mean() * d.abs().mean())
    taken = seconds(lambda: pulsed_weight.update(devices, [(x, d)], lr, seed, weight), card.device)
    moved = size * size * (2 * 4 + 4 * 4 + 2 * 4)  # conductances, four parameters, the weight that follows
    arithmetic = batch * size * size * INTEGERS_PER_PULSE_SLOT / integer_rate(card.device, small)
    name = f"pulsed update {size}x{size} B{batch} soft bounds"
    yield _beside(name, taken, max(moved / card.bytes_per_second, arithmetic), "at most 2")
    yield _beside(f"{name}, memory alone", taken, moved / card.bytes_per_second)


def integer_rate(device: torch.device, small: bool) -> float:
    """Integer operations per second: those of the random words of normals, of which ten rounds need 24 per value."""
    count, seed = [1 << 14 if small else 1 << 26], torch.zeros(1, dtype=torch.int64, device=device)
    return 24 * count[0] / seconds(lambda: call("uniform", seed, 0, count), device, 5)


def of_devices(card: Card, small: bool) -> Iterator[Figure]:
    """A billion devices, in parts that fit."""
    part, parts = (1 << 12, 2) if small else (125_000_000, 8)
    device, seed = joshi_2020(), torch.zeros(1, dtype=torch.int64, device=card.device)
    target = torch.rand(part, device=card.device) * device.g_max
    day = torch.full((), 86_400.0, dtype=torch.float64, device=card.device)
    state = device.program(target, seed, 0)
    runs = {
        "program": lambda: device.program(target, seed, 0),
        "age": lambda: device.drift(state, day),
        "read": lambda: device.read(state, day, seed, 2),
    }
    for name, run in runs.items():
        taken = parts * seconds(run, card.device, 5)
        yield _beside(f"{name} {part * parts:.0e} devices", taken, card.floor(parts * part * 12), "at most 1.5")


def in_memory(card: Card, small: bool) -> Iterator[Figure]:
    """An epoch of in-memory training of images of MNIST's size and number."""
    images, batch = (64, 16) if small else (60_000, 100)
    torch.manual_seed(0)
    x = torch.rand(images, 784, device=card.device)
    labels = torch.randint(10, (images,), device=card.device)
    model = nn.Sequential(nn.Linear(784, 256), nn.Sigmoid(), nn.Linear(256, 10)).to(card.device)
    net = pg.convert(model, pg.presets.soft_bounds_training())
    optimizers = [pg.optim.AnalogSGD(net.parameters(), lr=0.05), torch.optim.SGD(model.parameters(), lr=0.05)]
    times = []
    for module, optimizer in zip((net, model), optimizers, strict=True):

        def epoch(module: nn.Module = module, optimizer: Any = optimizer) -> None:
            for part, of_part in zip(x.split(batch), labels.split(batch), strict=True):
                optimizer.zero_grad()
                nn.functional.cross_entropy(module(part), of_part).backward()
                optimizer.step()

        times.append(seconds(epoch, card.device, 1))
    name = f"in-memory epoch 784-256-10, {images} images, B{batch}"
    yield Figure(name, times[0], "s", "digital SGD", times[1], times[0] / times[1], "-")


PARTS = (hardware_aware, pulsed, of_devices, beside_lightning, in_memory)
"""Those with a target first, should the time run out."""


def main() -> None:
    """Measure everything, print a table, and write it as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, on any device; nothing is written")
    parser.add_argument("--json", type=Path, help="output file (default: benchmarks/results/cuda-CARD.json)")
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.smoke:
        parser.error("there is no CUDA device; --smoke tries the script without one")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "none"
    print(f"{name}: {pg.backends()['cuda']}", flush=True)
    path = options.json or RESULTS / f"cuda-{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.json"
    card = measured(device, options.smoke)
    figures: list[Figure] = []
    failed = []
    for part in (ceilings, *PARTS):
        try:
            for figure in part(card, options.smoke):
                print(f"  {figure}", flush=True)
                figures.append(figure)
                if not options.smoke:
                    write(path, name, figures)
        except Exception:  # the other parts are measured all the same
            traceback.print_exc()
            failed.append(part.__name__)
    if not options.smoke:
        print(f"written to {path}")
    if failed:
        parser.exit(1, f"these parts failed: {', '.join(failed)}\n")


def write(path: Path, card: str, figures: list[Figure]) -> None:
    """Write the figures measured so far, so that a run that is stopped keeps them."""
    result = as_dict("cuda", figures)
    result["machine"] |= {"card": card, "cuda": torch.version.cuda, "cuda_backend": pg.backends()["cuda"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".part")
    new.write_text(json.dumps(result, indent=2) + "\n")
    new.replace(path)


if __name__ == "__main__":
    main()
