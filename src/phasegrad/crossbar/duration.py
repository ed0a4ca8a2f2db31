"""Inputs as pulse durations: each column integrates charge on a capacitor, which leaks and saturates.

A word line is driven for a fraction ``|x|`` of a window, all lines from its start. Column ``i`` charges with
``dq/dt = sum_j w_ij sign(x_j) [t < |x_j|] - q / tau`` and ``|q| <= saturation``, with ``t`` in units of the window.
Without leak and saturation the result is the product of amplitudes. With a leak only, the charge of a line depends on
its own pulse alone, and the result is a product of transformed inputs. With saturation, the charge of a column depends
on all lines together, because a capacitor can saturate and discharge again when lines are switched off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C._functorch import maybe_current_level

from phasegrad.configuration import Configuration, check_integer, check_number, check_type

Product = Callable[[Tensor, Tensor], Sequence[Tensor]]
"""Product of inputs ``[rows, ...]`` and weights ``[out, in]`` on every row-tile."""


@final
@dataclass(frozen=True, kw_only=True)
class Integrator(Configuration):
    """Capacitor of a column, for inputs coded as pulse durations.

    A DAC rounds durations to clock ticks. The charge of the capacitor is the input of the ADC, usually a ramp and a
    comparator; without an ADC it is converted to a duration again, for the next tile.

    Args:
        window: longest pulse [s].
        tau: time constant of the leak [s]; infinite for no leak.
        saturation: charge of either sign at which the capacitor saturates, in units of the charge from one cell at its
            maximum in a window, as for the range of an ADC; infinite for no saturation.
        split: whether positive and negative inputs are integrated in two consecutive phases and the results subtracted,
            as in hardware whose lines are driven with one polarity. Each phase saturates separately.
        full_input: input that drives a line for the whole window in hardware without a DAC, at which larger inputs are
            clipped: the slope of the ramp between two layers that exchange durations. ``None`` with a DAC, whose range
            defines it.
        steps: ticks per window in which a saturating capacitor is simulated, in hardware without a DAC.

    Raises:
        ValueError: a time, the saturation or the full input is not above 0.

    References:
        Ambrogio, S. et al. An analog-AI chip for energy-efficient speech recognition and transcription. Nature 620,
        768-775 (2023). https://doi.org/10.1038/s41586-023-06337-5
    """

    window: float = 128e-9
    tau: float = math.inf
    saturation: float = math.inf
    split: bool = False
    full_input: float | None = None
    steps: int = 127

    def __post_init__(self) -> None:
        check_number(self, "window", 0.0, above=True)
        for name in ("tau", "saturation"):
            if getattr(self, name) != math.inf:  # infinity stands for none
                check_number(self, name, 0.0, above=True)
        if not math.isfinite(self.decay):
            raise ValueError(
                f"Integrator: tau = {self.tau} s in a window of {self.window} s; the charge would leak at once: give a "
                "tau of the order of the window, or more"
            )
        if self.full_input is not None:
            check_number(self, "full_input", 0.0, above=True)
        check_type(self, "split", bool)
        check_integer(self, "steps", 1, 1 << 16)

    @property
    def decay(self) -> float:
        """Window over the time constant of the leak."""
        return self.window / self.tau

    def charge_of(self, length: Tensor) -> Tensor:
        """Charge of a line at the end of the window, in [-1, 1]: an odd function of the duration.

        ``(exp(-(1 - x) T / tau) - exp(-T / tau)) tau / T`` for a fraction ``x`` of the window ``T``.
        """
        length, a = _within(length), self.decay
        if a == 0.0:
            return length
        size = length.abs()
        return torch.sign(length) * torch.exp(-(1.0 - size) * a) * -torch.expm1(-size * a) / a

    def integrate(self, x: Tensor, weight: Tensor, product: Product, steps: int | None = None) -> list[Tensor]:
        """Integrate the charges of all columns.

        Gradients are those of capacitors without saturation, and 0 for a capacitor that is saturated at the end. Only
        rows in which a capacitor could saturate are simulated tick by tick (all rows under a compiler or
        ``torch.func``). Infinity and NaN propagate as in a product.

        Args:
            x: durations over the window ``[rows, ...]``, in [-1, 1].
            weight: weights ``[out, in]``, in units of a cell at its maximum.
            product: product on every row-tile.
            steps: ticks per window; ``None`` for ``self.steps``.

        Returns:
            Of each row-tile ``[rows, out, ...]``.
        """
        phases = (x.clamp(min=0.0), x.clamp(max=0.0)) if self.split else (x,)
        charges = [self._phase(phase, weight, product, steps or self.steps) for phase in phases]
        return [torch.stack(tile).sum(0) for tile in zip(*charges, strict=True)] if self.split else charges[0]

    def _phase(self, x: Tensor, weight: Tensor, product: Product, steps: int) -> list[Tensor]:
        free = list(product(self.charge_of(x), weight))
        if math.isinf(self.saturation):
            return free
        with torch.no_grad():
            # The charge never exceeds that of all lines with the same sign and no leak.
            most = torch.stack([tile.flatten(1).amax(1) for tile in product(_within(x).abs(), weight.abs())])
            full = (most > self.saturation).any(0) & most.isfinite().all(0)
            if (
                torch.compiler.is_compiling() or maybe_current_level() is not None
            ):  # where shapes may not depend on data
                followed = self._follow(x, weight, product, steps)
                return [self._replaced(tile, held, full) for tile, held in zip(free, followed, strict=True)]
            rows = full.nonzero().squeeze(1)
            if not len(rows):
                return free
            followed = self._follow(x[rows], weight, product, steps)
        some = [self._replaced(tile[rows], held) for tile, held in zip(free, followed, strict=True)]
        return [tile.index_copy(0, rows, part) for tile, part in zip(free, some, strict=True)]

    def _replaced(self, free: Tensor, held: Tensor, where: Tensor | None = None) -> Tensor:
        """Simulated charges in some rows or all, with the gradient of the free charges unless saturated."""
        followed = torch.where(held.abs() >= self.saturation, held, free + (held - free).detach())
        return followed if where is None else torch.where(where.view(-1, *[1] * (free.dim() - 1)), followed, free)

    def charge_over_time(self, x: Tensor, weight: Tensor, steps: int = 1000) -> Tensor:
        """Charges of the capacitors of one array over a window, in one phase.

        Args:
            x: durations over the window ``[rows, in]``, in [-1, 1].
            weight: weights ``[out, in]``, in units of a cell at its maximum.
            steps: ticks per window.

        Returns:
            Charges ``[steps + 1, rows, out]``, starting from 0, in units of the charge from one cell at its maximum in
            a window.
        """
        start = x.new_zeros(len(x), len(weight))
        course = self._course(x, weight, lambda a, b: [F.linear(a, b)], steps)
        return torch.stack([start, *(held for (held,) in course)])

    def _follow(self, x: Tensor, weight: Tensor, product: Product, steps: int) -> list[Tensor]:
        held: list[Tensor] = []
        for held in self._course(x, weight, product, steps):  # noqa: B007 -- the last value is returned
            pass
        return held

    def _course(self, x: Tensor, weight: Tensor, product: Product, steps: int) -> Iterator[list[Tensor]]:
        """Charges after each tick of a window.

        A pulse that ends within a tick drives the first part of it; saturation is applied once per tick.
        """
        ticks, a = _within(x).abs() * steps, self.decay / steps
        kept = math.exp(-a)
        held: list[Tensor] = []
        for tick in range(steps):
            part = (ticks - tick).clamp(0.0, 1.0)
            if a:
                part = torch.exp(-(1.0 - part) * a) * -torch.expm1(-part * a) / a
            charges = product(torch.sign(x) * part / steps, weight)
            before = held or [torch.zeros_like(c) for c in charges]
            held = [
                (h * kept + c).clamp(-self.saturation, self.saturation) for h, c in zip(before, charges, strict=True)
            ]
            yield held


def _within(length: Tensor) -> Tensor:
    """Clip durations to the window; values that are not finite pass unchanged."""
    return torch.where(length.isfinite(), length.clamp(-1.0, 1.0), length)
