"""What the cost model computes for published PCM chips, next to what was published.

Figures that a constant was fitted to are told apart from those that are predicted.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.cost import Constant, Estimate, LayerEstimate, Technology
from phasegrad.crossbar import Dac, FixedRange
from phasegrad.devices import PCM, hermes_one, hermes_two, joshi_2020

DAY = 86_400.0
AGES = tuple(days * DAY for days in (1.0, 10.0, 100.0, 1000.0, 3652.5))
"""From a day to ten years [s]."""
MEAN_INPUT = 0.5
"""Mean of ``|x|`` over its range: uniform inputs."""
CORES = 64
USED_COLUMNS = 268
"""Columns of 512 that the network of the speech chip uses: fitted to 7.09 TOPS/W."""
DEVICES = {"hermes_one": hermes_one(), "hermes_two": hermes_two(), "joshi_2020": joshi_2020()}
TILES = (("speech chip", pg.cost.ambrogio_2023, 512), ("HERMES", pg.cost.hermes_64_core, 256))
"""Name, technology, and size of the tiles that age."""


@dataclass(frozen=True)
class Figure:
    """A published figure, and what is computed here."""

    name: str
    unit: str
    published: float
    computed: float
    origin: str
    """``"fitted"``: a constant was chosen to reproduce it; or ``"predicted"``."""

    @property
    def error(self) -> float:
        """Relative deviation from the published figure."""
        return self.computed / self.published - 1.0


class LstmStep(nn.Module):
    """A step of an LSTM: input and state drive the rows of one matrix; the gates are digital."""

    def __init__(self, inputs: int = 512, units: int = 504) -> None:
        super().__init__()
        self.gates = nn.Linear(inputs + units, 4 * units)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o = self.gates(torch.cat([x, h], dim=-1)).chunk(4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


def on_tiles(net: nn.Module, size: int = 256, device: PCM | None = None) -> nn.Module:
    """Convert a net for square tiles with converters of 8 bits and a pair of devices per weight."""
    dac = Dac(bits=8, range=FixedRange(value=1.0))
    hardware = replace(pg.presets.hermes_inference(), rows=size, columns=size, dac=dac)
    cell = hardware.cell if device is None else replace(hardware.cell, device=device)
    return pg.convert(net, replace(hardware, cell=cell))


def one_tile(technology: Technology, size: int, columns: int | None = None) -> Estimate:
    """The product of one tile, with the technology's mean conductance."""
    with torch.device("meta"):
        net = nn.Sequential(nn.Linear(size, columns or size, bias=False))
    return pg.cost.estimate(
        on_tiles(net, size), torch.empty(1, size, device="meta"), technology=technology, activity=MEAN_INPUT
    )


def product_energy(layer: LayerEstimate) -> float:
    """What chips are advertised with: the array and its converters, without local digital unit, links and clock [J]."""
    return sum(layer.energies[part] for part in ("array", "drivers", "adc", "tile"))


def peak(technology: Technology) -> tuple[float, float, float]:
    """TOPS, TOPS/W and TOPS/mm2 of a core of 256 x 256 whose products follow each other."""
    (layer,) = one_tile(technology, 256).layers
    tops = layer.counts.operations / layer.stages.read / 1e12
    return tops, layer.counts.operations / product_energy(layer) / 1e12, tops / (layer.area * 1e6)


def hermes_figures() -> list[Figure]:
    """Products of the HERMES core and of the chip with 64 of them."""
    core, one, four = (
        peak(t) for t in (pg.cost.hermes_core(), pg.cost.hermes_64_core(), pg.cost.hermes_64_core(phases=4))
    )
    return [
        Figure("HERMES core", "TOPS", 1.008, core[0], "fitted"),
        Figure("HERMES core", "TOPS/W", 10.5, core[1], "fitted"),
        Figure("HERMES core", "TOPS/mm2", 1.59, core[2], "fitted"),
        Figure("64 cores, one phase", "TOPS", 63.1, CORES * one[0], "fitted"),
        Figure("64 cores, one phase", "TOPS/W", 9.76, one[1], "fitted"),
        Figure("64 cores, one phase", "TOPS/mm2 of cores", 1.55, one[2], "predicted"),
        Figure("64 cores, four phases", "TOPS", 16.1, CORES * four[0], "predicted"),
        Figure("64 cores, four phases", "TOPS/W", 2.48, four[1], "predicted"),
        Figure("64 cores, four phases", "TOPS/mm2 of cores", 0.4, four[2], "predicted"),
    ]


def hermes_layer(name: str, phases: int) -> Estimate:
    """A layer of ResNet-9 with 224 channels at one position, or an LSTM step of the caption network."""
    with torch.device("meta"):
        net = nn.Sequential(nn.Conv2d(224, 224, 3, bias=False)) if name == "ResNet-9 layer" else LstmStep()
        shapes = [(1, 224, 3, 3)] if name == "ResNet-9 layer" else [(1, 512), (1, 504), (1, 504)]
        inputs = tuple(torch.empty(shape) for shape in shapes)
    technology = pg.cost.hermes_64_core(phases=phases)
    return pg.cost.estimate(on_tiles(net), inputs, technology=technology, activity=MEAN_INPUT)


def layer_figures() -> list[Figure]:
    """Whole layers of the chip with 64 cores, of which products are a small part."""
    known = {
        ("ResNet-9 layer", 1): (1131.0, 0.97), ("ResNet-9 layer", 4): (1518.0, 1.51),
        ("LSTM step", 1): (1043.0, 3.46), ("LSTM step", 4): (1430.0, 5.24),
    }  # fmt: skip
    figures, shares = [], []
    for (name, phases), (latency, energy) in known.items():
        result = hermes_layer(name, phases)
        origin = "fitted" if (name, phases) == ("ResNet-9 layer", 1) else "predicted"
        read = f"{name}, {'one phase' if phases == 1 else 'four phases'}"
        figures.append(Figure(read, "ns", latency, result.latency * 1e9, origin))
        figures.append(Figure(read, "uJ", energy, result.energy * 1e6, origin))
        shares.append(sum(map(product_energy, result.layers)) / result.energy)
    figures.append(Figure("products, smallest share of a layer", "%", 11.0, 100.0 * min(shares), "predicted"))
    figures.append(Figure("products, largest share of a layer", "%", 32.0, 100.0 * max(shares), "predicted"))
    return figures


def speech_figures() -> list[Figure]:
    """The ladder of the speech chip, from a tile to the whole system."""
    technology = pg.cost.ambrogio_2023()
    tile, network = one_tile(technology, 512), one_tile(technology, 512, USED_COLUMNS)
    halved = one_tile(replace(technology, read_time=Constant(value=128e-9, source="half of 256 ns")), 512)

    def system(analog_per_digital: float) -> float:
        analog = network.counts.operations
        digital = technology.constants["digital_energy"].value * analog / analog_per_digital
        return analog / (network.energy + digital) / 1e12

    products = tile.counts.operations / product_energy(tile.layers[0]) / 1e12
    return [
        Figure("speech chip: a tile", "TOPS/W", 20.0, products, "fitted"),
        Figure("speech chip: a chip, all tiles used", "TOPS/W", 12.4, tile.tops_per_watt, "fitted"),
        Figure("speech chip: five chips, tiles partly used", "TOPS/W", 7.09, network.tops_per_watt, "fitted"),
        Figure("speech chip: system with digital part", "TOPS/W", 6.94, system(325.0), "fitted"),
        Figure("speech chip: system, weights expanded", "TOPS/W", 6.704, system(88.0), "predicted"),
        Figure("speech chip: a chip, half the integration", "TOPS/W", 15.4, halved.tops_per_watt, "predicted"),
    ]


def figures() -> list[Figure]:
    """All figures of chips whose devices have just been programmed."""
    return hermes_figures() + layer_figures() + speech_figures()


def energies_by_age(technology: Technology, size: int, device: PCM, seed: int) -> list[tuple[float, float]]:
    """Energy of a product, and that with the static power of its tile, at each of ``AGES`` [J].

    Args:
        technology: that of the chip.
        size: rows and columns of a tile.
        device: the devices, in pairs.
        seed: of normal weights, clipped at three standard deviations, and of their programming.
    """
    net = nn.Linear(size, size, bias=False)
    weight = torch.randn(size, size, generator=torch.Generator().manual_seed(seed))
    net.weight.data = weight.clamp(-3.0, 3.0)
    chip, energies = pg.inference.program(on_tiles(net, size, device), seed=seed), []
    for age in AGES:
        old = pg.inference.age(chip, seconds=age)
        result = pg.cost.estimate(old, torch.empty(1, size), technology=technology, activity=MEAN_INPUT)
        products = product_energy(result.layers[0])
        energies.append((products, products + result.energies["static"]))
    return energies


def gains(seeds: list[int]) -> list[dict[str, Any]]:
    """What the efficiency of a day gains by each later age, for each tile and device: mean and deviation over seeds."""
    rows = []
    for chip, technology, size in TILES:
        for name, device in DEVICES.items():
            runs = [energies_by_age(technology(), size, device, seed) for seed in seeds]
            of_product, of_chip = ([[run[0][k] / e[k] - 1.0 for e in run] for run in runs] for k in (0, 1))
            last = [run[-1] for run in of_product]
            rows.append(
                {
                    "method": f"{chip}, {name}: product, from a day to ten years",
                    "mean": statistics.mean(last),
                    "sd": statistics.stdev(last) if len(seeds) > 1 else None,
                    "published": [0.03, 0.15],
                    "origin": "predicted",
                    "with_static_power": statistics.mean(run[-1] for run in of_chip),
                    "by_age": [statistics.mean(column) for column in zip(*of_product, strict=True)],
                }
            )
    return rows
