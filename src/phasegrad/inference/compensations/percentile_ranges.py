"""Input ranges set after training, from percentiles of the inputs of a chip."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from phasegrad import argument_checks as checks
from phasegrad.crossbar.converters import LearnedRange
from phasegrad.inference.compensations.base import Compensation
from phasegrad.inference.compensations.data import batch_count, check_data, run_batches, tile_reads, watched
from phasegrad.inference.programming import Seeds
from phasegrad.nn import AnalogLayer, analog_layers


@final
@dataclass(frozen=True)
class PercentileRanges(Compensation):
    """Ranges of DACs from the inputs that an aged chip has (Lammie et al. 2024).

    The activations of a chip shrink as it drifts, and a compensation changes them, so a range that was set for the
    digital net is too wide or too narrow. Each range becomes the percentile of the magnitude of the layer's inputs,
    averaged over batches; inputs are digital numbers, so nothing is read but the products that compute them.

    Args:
        loader: batches of training data.
        percentile: percentage of the inputs within the range [%].
        fraction: part of the loader's batches.
        batches: number of batches instead of a fraction.
        forward: ``(net, batch) -> anything``, which runs the net on batches of another form.

    Raises:
        ValueError: the loader is empty, can be read only once, or has no length and ``batches`` is not given.

    References:
        Lammie, C. et al. Improving the accuracy of analog-based in-memory computing accelerators post-training. ISCAS
        2024. https://doi.org/10.1109/ISCAS58744.2024.10558540
    """

    loader: Iterable[Any]
    percentile: float = 99.9
    fraction: float = 0.05
    batches: int | None = None
    forward: Callable[[nn.Module, Any], Any] | None = None

    def __post_init__(self) -> None:
        checks.number("PercentileRanges", "percentile", self.percentile, 0.0, 100.0, above=True)
        check_data("PercentileRanges", self.loader, self.fraction, self.batches, self.forward)

    def __repr__(self) -> str:
        return f"PercentileRanges({self.percentile:g} %, {self.count} batches)"

    @property
    def count(self) -> int:
        """Number of batches that are read."""
        return batch_count(self.loader, self.fraction, self.batches)

    def check(self, chip: nn.Module, caller: str) -> None:
        """Raise ``ValueError`` if a layer's range cannot be set."""
        layers = {name or "the net": layer for name, layer in analog_layers(chip).items() if layer.has_ranges}
        fixed = [name for name, layer in layers.items() if not _is_settable(layer)] or ([] if layers else ["the net"])
        if fixed:
            raise ValueError(
                f"{caller}: PercentileRanges: the DACs of {', '.join(fixed[:5])} have no range that can be set: it is "
                "fixed by the hardware, or follows each input; use hardware with Dac(range=LearnedRange())"
            )

    def apply(self, chip: nn.Module, seeds: Seeds) -> None:
        """Run the batches and set the ranges of all layers; those that get no input but zeros stay as they are."""
        found: dict[str, list[Tensor]] = {}

        def see(name: str, layer: AnalogLayer, x: Tensor, outputs: slice | None) -> None:
            size = x.detach().abs().float().flatten()
            if size.numel() and bool(size.any()):
                rank = max(1, min(size.numel(), round(size.numel() * self.percentile / 100.0)))
                found.setdefault(name, []).append(torch.kthvalue(size, rank).values)

        with watched(chip, see):
            run_batches(chip, self.loader, self.count, self.forward, "PercentileRanges")
        layers = analog_layers(chip)
        means = {name: float(torch.stack(sizes).mean()) for name, sizes in found.items() if layers[name].has_ranges}
        ranges = {name: covered for name, covered in means.items() if covered > 0.0}
        _keep_column_ranges(layers, ranges)
        for name, covered in ranges.items():
            known = layers[name].input_range
            assert known is not None
            known.data.fill_(covered)

    def reads(self, chip: nn.Module) -> int:
        """Tile reads of the batches, each as large as the first, which is run to count them."""
        return tile_reads(chip, self.loader, self.count, self.forward, "PercentileRanges")


def _keep_column_ranges(layers: Mapping[str, AnalogLayer], ranges: Mapping[str, float]) -> None:
    """Keep the ranges of columns in amperes, which are in units of the input ranges that are about to be set."""
    factors: dict[int, float] = {}
    for name, layer in layers.items():
        if layer.input_range is not None:
            factor = float(layer.input_range.detach().abs()) / ranges[name] if name in ranges else 1.0
            factors[id(layer.devices)] = max(factors.get(id(layer.devices), 0.0), factor)
    for devices in {id(layer.devices): layer.devices for layer in layers.values()}.values():
        if devices is not None and devices.column_range is not None:
            devices.register_buffer("column_range", devices.column_range * factors[id(devices)])


def _is_settable(layer: AnalogLayer) -> bool:
    dac = layer.hardware.dac
    return dac is not None and isinstance(dac.range, LearnedRange) and layer.input_range is not None
