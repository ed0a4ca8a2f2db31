"""Values as pulse lengths: each column gathers charge on a capacitor, which leaks and saturates.

A word line is driven for a part ``|x|`` of a window, all lines from its start, and column ``i`` charges with
``dq/dt = sum_j w_ij sign(x_j) [t < |x_j|] - q / tau``, ``|q| <= saturation``, with ``t`` in units of the window.
Without leak and saturation that is the product of amplitudes. With a leak alone a line's charge depends on its own
pulse alone, so the product is one of transformed inputs. A capacitor that saturates on the way, and comes back when
lines fall silent, depends on all of them together.
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
"""Row-tiles' products of inputs ``[rows, ...]`` and weights ``[out, in]``."""


@final
@dataclass(frozen=True, kw_only=True)
class Integrator(Configuration):
    """The capacitor of a column, in the duration format (Ambrogio et al., Nature 620:768, 2023).

    Inputs are pulse lengths; what a DAC rounds to are then lengths of a clock's ticks. What the capacitor holds goes
    to the ADC, of which a ramp and a comparator are the usual kind; without an ADC it is a length again, for the next
    tile.

    Args:
        window: the longest pulse [s].
        tau: time constant of the leak [s]; infinite for none.
        saturation: the charge at which the capacitor is full, either way, in units of what one full cell brings in a
            window, as an ADC's range is; infinite for no such bound.
        split: whether positive and negative inputs are integrated in phases of their own, one after the other, and the
            two results subtracted: what two's-complement hardware does, whose lines are driven one way only. Each
            phase saturates by itself.
        full_input: the input that drives a line for the whole window where there is no DAC; larger ones are cut there.
            With it a layer takes the lengths that another one's capacitors gave: the slope of the ramp between them.
            ``None`` where a DAC has a range.
        steps: ticks of the window in which a capacitor that saturates is followed, where no DAC says how many.

    Raises:
        ValueError: a time, the saturation or the full input is not above 0.
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
                f"Integrator: tau = {self.tau} s in a window of {self.window} s; a line's charge is then gone at once: "
                "give a time of the order of the window, or more"
            )
        if self.full_input is not None:
            check_number(self, "full_input", 0.0, above=True)
        check_type(self, "split", bool)
        check_integer(self, "steps", 1, 1 << 16)

    @property
    def decay(self) -> float:
        """Time constants of the leak in a window."""
        return self.window / self.tau

    def charge_of(self, length: Tensor) -> Tensor:
        """What a line brings by the window's end: its length, less what leaked since; ``[-1, 1]``, odd.

        ``(exp(-(1 - x) T / tau) - exp(-T / tau)) tau / T`` for a part ``x`` of the window ``T``.
        """
        length, a = _within(length), self.decay
        if a == 0.0:
            return length
        size = length.abs()
        return torch.sign(length) * torch.exp(-(1.0 - size) * a) * -torch.expm1(-size * a) / a

    def integrate(self, x: Tensor, weight: Tensor, product: Product, steps: int | None = None) -> list[Tensor]:
        """The charges of all columns.

        Gradients are those of capacitors without a bound, and none where one is full at the end. Only rows in which a
        capacitor could become full are followed tick by tick (all of them under a compiler or ``torch.func``); infinity
        and NaN pass as in a product.

        Args:
            x: lengths over the window ``[rows, ...]``, in [-1, 1].
            weight: ``[out, in]``, in units of a full cell.
            product: row-tiles' products.
            steps: ticks of the window; ``None`` for ``self.steps``.

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
            # No column holds more at any time than all its lines would bring with one sign and no leak.
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
        """What was followed, in some rows or all; its gradient is the free one's, unless the capacitor is full."""
        followed = torch.where(held.abs() >= self.saturation, held, free + (held - free).detach())
        return followed if where is None else torch.where(where.view(-1, *[1] * (free.dim() - 1)), followed, free)

    def charge_over_time(self, x: Tensor, weight: Tensor, steps: int = 1000) -> Tensor:
        """What the capacitors of one array hold while its lines are driven, in one phase.

        Args:
            x: lengths over the window ``[rows, in]``, in [-1, 1].
            weight: ``[out, in]``, in units of a full cell.
            steps: ticks of the window.

        Returns:
            ``[steps + 1, rows, out]``, the first 0, in units of what one full cell brings in a window.
        """
        start = x.new_zeros(len(x), len(weight))
        course = self._course(x, weight, lambda a, b: [F.linear(a, b)], steps)
        return torch.stack([start, *(held for (held,) in course)])

    def _follow(self, x: Tensor, weight: Tensor, product: Product, steps: int) -> list[Tensor]:
        held: list[Tensor] = []
        for held in self._course(x, weight, product, steps):  # noqa: B007 -- the last one is kept
            pass
        return held

    def _course(self, x: Tensor, weight: Tensor, product: Product, steps: int) -> Iterator[list[Tensor]]:
        """Capacitors after each tick of a window.

        A pulse that ends within a tick drives the first part of it; whether a capacitor is full is asked once a tick.
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
    """A pulse ends with the window; what is not finite passes."""
    return torch.where(length.isfinite(), length.clamp(-1.0, 1.0), length)
