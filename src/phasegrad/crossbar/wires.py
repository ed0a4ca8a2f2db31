"""What the wires of a tile cost: resistance between driver, cells and sense."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from phasegrad.configuration import Configuration, check_choice, check_number
from phasegrad.ops import resistances
from phasegrad.ops.direct import call, readable

_SHORT = 1e9  # conductance times wire: a larger one changes an output by less, and loses the digits of the others


@final
@dataclass(frozen=True, kw_only=True)
class Wires(Configuration):
    """Word lines and bit lines that have resistance.

    Every crossing is a node on either line, with a device between them; the nodes obey Kirchhoff's current law.
    Drivers join word lines before column 0, grounds join bit lines behind the last row, each through one further
    segment, so that an array of ``m`` rows and ``n`` columns has ``m n`` segments on each side; the other ends are
    open. Devices are linear, so the outputs are too, and the array with its wires *is* a matrix: it is found when the
    devices change, and a product costs what it costs without wires. Each plane of devices of a cell (``G+``, ``G-``)
    is an array of its own, with drivers and senses of its own: currents are subtracted behind the senses.

    Args:
        word_line: resistance of a segment of a word line, from cell to cell [ohm].
        bit_line: of a segment of a bit line [ohm].
        driver: output resistance of a driver, on top of its segment [ohm].
        sense: input resistance of a sense, on top of its segment [ohm].
        driven: ``"one"`` or ``"both"``: the ends of word lines that have drivers, both at one voltage.
        sensed: ``"last"`` or ``"first"``: the row beyond which bit lines are sensed.
        solve: ``"exact"``; or ``"first-order"``: each device sees the voltage that the currents of an array without
            drops leave it, ``G / (1 + G R_w + R_b G)``, at the cost of a few passes over the matrix. For hardware-aware
            training; its error grows with the square of the drops.

    Raises:
        ValueError: a resistance is negative or not finite; the message names it.

    Examples:
        One cell of 10 ohm, 1 and 2 ohm of wire:

        >>> wires = Wires(word_line=1.0, bit_line=2.0)
        >>> wires.effective(torch.tensor([[0.1]], dtype=torch.float64)) * 13
        tensor([[1.]], dtype=torch.float64)
    """

    word_line: float
    bit_line: float
    driver: float = 0.0
    sense: float = 0.0
    driven: str = "one"
    sensed: str = "last"
    solve: str = "exact"

    def __post_init__(self) -> None:
        for name in ("word_line", "bit_line", "driver", "sense"):
            check_number(self, name, 0.0)
        check_choice(self, "driven", ("one", "both"))
        check_choice(self, "sensed", ("last", "first"))
        check_choice(self, "solve", ("exact", "first-order"))

    @property
    def resistances(self) -> resistances.Resistances:
        """The wires as the ops take them."""
        ends = float(self.driver), float(self.sense)
        return resistances.Resistances(float(self.word_line), float(self.bit_line), *ends, self.driven == "both")

    @property
    def largest(self) -> float:
        """The largest resistance between two nodes [ohm]."""
        return float(max(self.word_line + self.driver, self.bit_line + self.sense))

    def effective(self, conductance: Tensor) -> Tensor:
        """What arrays come to: the current of each bit line for 1 V on each word line alone.

        Args:
            conductance: ``[..., rows, columns]`` [S].

        Returns:
            ``[..., rows, columns]`` [S]; the outputs are ``voltages @ effective``. Differentiable; the exact solution
            once.

        Raises:
            TypeError: not a floating-point tensor.
            ValueError: a conductance is negative, not finite or, for the exact solution, a short that float64 does not
                hold beside the wires. Compilers and ``torch.func`` transforms look at no values.
        """
        if not isinstance(conductance, Tensor) or not conductance.is_floating_point():
            given = conductance.dtype if isinstance(conductance, Tensor) else type(conductance).__name__
            raise TypeError(f"Wires.effective: conductance is {given}; it must be a floating-point tensor")
        if readable(conductance):
            check_conductances("Wires.effective", conductance.detach(), self if self.solve == "exact" else None)
        return self.effective_unchecked(conductance)

    def effective_unchecked(self, conductance: Tensor) -> Tensor:
        """As :meth:`effective`, for those who have checked or want what is broken to stay so: NaN gives NaN."""
        if self.solve == "first-order":
            return conductance * self.reached(conductance)
        return self._from_the_last(conductance, lambda g: call("wired_conductance", g, *self.resistances))

    def reached(self, conductance: Tensor) -> Tensor:
        """The part of the voltages that reaches each device ``[..., rows, columns]``, to first order."""
        return self._from_the_last(conductance, lambda g: resistances.reached(g, *self.resistances))

    def sensitivity(self, conductance: Tensor) -> Tensor:
        """What a small change of each conductance counts in the device's own effective one, to first order."""
        return self._from_the_last(conductance, lambda g: resistances.sensitivity(g, *self.resistances))

    def _from_the_last(self, conductance: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        """Rows counted towards the sense."""
        return act(conductance) if self.sensed == "last" else act(conductance.flip(-2)).flip(-2)


@final
@dataclass(frozen=True, kw_only=True)
class DurationCodedDrop(Configuration):
    """The cheap formula of the field for the drop on bit lines when inputs are pulse lengths.

    Word lines and drivers are ideal. With normalised weights and inputs, ``R = 1 / (segment g_max)``, ``n`` rows and
    row ``j = 0`` at the sensed end: ``a_i = (n / R) sum_j |w_ij| |x_j|``, ``c = a (0.05 a^2 - 0.2 a + 0.5)``, and
    output ``i`` loses ``c_i sum_j w_ij x_j (1 - (1 - j / n)^2)`` (aihwkit's ``ir_drop`` at strength 1, and the
    inference settings of Rasch et al., Nat. Commun. 14, 2023). It counts the lines that are driven at the same moment
    of a read whose pulses differ in length; it does not approximate :class:`Wires`, whose inputs are amplitudes. The
    loss depends on the inputs, so it is computed in every product, at two further products a tile.

    Args:
        segment: resistance of a bit line from cell to cell [ohm].
    """

    segment: float = 0.35

    def __post_init__(self) -> None:
        check_number(self, "segment", 0.0)

    def ramp(self, rows: int, like: Tensor) -> Tensor:
        """``1 - (1 - j / n)^2`` of every row ``[rows]``."""
        j = torch.arange(rows, dtype=like.dtype, device=like.device)
        return 1.0 - (1.0 - j / rows) ** 2

    def lost(self, sizes: Tensor, ramped: Tensor, rows: int, g_max: float) -> Tensor:
        """What outputs lose.

        Args:
            sizes: ``sum_j |w_ij| |x_j|``, normalised.
            ramped: ``sum_j w_ij x_j (1 - (1 - j / n)^2)``, the same shape, in any units.
            rows: ``n``.
            g_max: conductance of a normalised weight of 1 [S].
        """
        a = sizes * (rows * self.segment * g_max)
        return a * (0.05 * a * a - 0.2 * a + 0.5) * ramped


def check_conductances(what: str, conductance: Tensor, solved: Wires | None = None) -> None:
    """Raise unless all are finite and at least 0: otherwise the equations of the nodes may be singular.

    Args:
        what: who asks.
        conductance: ``[..., rows, columns]`` [S].
        solved: wires that are solved exactly, which limits shorts too.
    """
    bad = ~(torch.isfinite(conductance) & (conductance >= 0))
    if bool(bad.any()):
        raise ValueError(
            f"{what}: {_named(conductance, bad)}; it must be finite and not negative, "
            "or the array is singular. An open device is 0, a short is a large conductance"
        )
    ohms = 0.0 if solved is None else solved.largest
    short = conductance.double() * ohms > _SHORT
    if bool(short.any()):
        raise ValueError(
            f"{what}: {_named(conductance, short)} with wires of {ohms:g} ohm; their product must be at most "
            f"{_SHORT:g}, or rounding decides the outputs. {_SHORT / ohms:.3g} S is a short as well"
        )


def _named(conductance: Tensor, where: Tensor) -> str:
    first = tuple(where.nonzero()[0].tolist())
    return f"conductance{list(first)} = {float(conductance[first]):g} S"


def over_tiles(planes: Tensor, rows: int, columns: int, act: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a function of arrays ``[..., rows, columns]`` to each tile of planes ``[planes, out, in]``.

    The tiles at the edges hold only the cells that there are.
    """
    whole = [_pieces(strip, -2, columns) for strip in _pieces(planes, -1, rows)]
    return torch.cat([torch.cat([_each(p, rows, columns, act) for p in strip], -2) for strip in whole], -1)


def _pieces(planes: Tensor, dim: int, size: int) -> list[Tensor]:
    """What fills whole tiles, and the rest."""
    length = planes.shape[dim]
    full = length // size * size
    return [p for p in planes.tensor_split((full,), dim) if p.shape[dim]] if length else [planes]


def _each(piece: Tensor, rows: int, columns: int, act: Callable[[Tensor], Tensor]) -> Tensor:
    r, c = min(rows, piece.shape[-1]), min(columns, piece.shape[-2])
    tiles = piece.unflatten(-1, (-1, r)).unflatten(-3, (-1, c)).permute(0, 1, 3, 4, 2)
    return act(tiles).permute(0, 1, 4, 2, 3).flatten(-2).flatten(-3, -2)
