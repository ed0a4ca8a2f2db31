"""Wire resistance of a tile between drivers, cells and senses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from phasegrad.configuration import Configuration, check_choice, check_number
from phasegrad.ops import resistances
from phasegrad.ops.direct import call, readable

_SHORT = 1e9  # largest conductance times resistance; above it the short hardly changes outputs, but costs digits


@final
@dataclass(frozen=True, kw_only=True)
class Wires(Configuration):
    """Resistance of word lines and bit lines.

    Every crossing is one node on the word line and one on the bit line, with a device between them; the nodes satisfy
    Kirchhoff's current law. Drivers connect to word lines before column 0 and grounds connect to bit lines after the
    last row, each through one further segment, so that an array of ``m`` rows and ``n`` columns has ``m n`` segments
    of each kind of line. The other ends are open. Devices are linear, so that the array with its wires is equivalent
    to a matrix. The matrix is computed when the devices change, and a product costs the same as without wires. Each
    plane of devices of a cell (``G+``, ``G-``) is a separate array with its own drivers and senses; currents are
    subtracted after the senses.

    Args:
        word_line: resistance of a segment of a word line, from cell to cell [ohm].
        bit_line: resistance of a segment of a bit line [ohm].
        driver: output resistance of a driver, in addition to its segment [ohm].
        sense: input resistance of a sense, in addition to its segment [ohm].
        driven: ends of word lines that have drivers, ``"one"`` or ``"both"``, which are at the same voltage.
        sensed: row after which bit lines are sensed, ``"last"`` or ``"first"``.
        solve: ``"exact"``, or ``"first-order"``, in which the currents of an array without voltage drops determine the
            voltage of each device: ``G / (1 + G R_w + R_b G)``. The first order costs a few passes over the matrix and
            is meant for hardware-aware training; its error grows with the square of the drops.

    Raises:
        ValueError: a resistance is negative or not finite; the message names it.

    Examples:
        One cell of 10 ohm with wires of 1 and 2 ohm:

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

    _renamed: ClassVar[dict[str, str]] = {"lines": "resistances"}

    def __post_init__(self) -> None:
        for name in ("word_line", "bit_line", "driver", "sense"):
            check_number(self, name, 0.0)
        check_choice(self, "driven", ("one", "both"))
        check_choice(self, "sensed", ("last", "first"))
        check_choice(self, "solve", ("exact", "first-order"))

    @property
    def resistances(self) -> resistances.Resistances:
        """Resistances in the form that the ops expect."""
        ends = float(self.driver), float(self.sense)
        return resistances.Resistances(float(self.word_line), float(self.bit_line), *ends, self.driven == "both")

    @property
    def largest(self) -> float:
        """The largest resistance between two nodes [ohm]."""
        return float(max(self.word_line + self.driver, self.bit_line + self.sense))

    def effective(self, conductance: Tensor) -> Tensor:
        """Effective conductances of arrays: the current of each bit line for 1 V on one word line at a time.

        Args:
            conductance: ``[..., rows, columns]`` [S].

        Returns:
            ``[..., rows, columns]`` [S]; the outputs are ``voltages @ effective``. First derivatives are available for
            both solutions, higher ones for the first order only.

        Raises:
            TypeError: ``conductance`` is not a floating-point tensor.
            ValueError: a conductance is negative, not finite or, for the exact solution, so large that float64 cannot
                resolve the wires. Values are not checked under compilers and ``torch.func`` transforms.
        """
        if not isinstance(conductance, Tensor) or not conductance.is_floating_point():
            given = conductance.dtype if isinstance(conductance, Tensor) else type(conductance).__name__
            raise TypeError(f"Wires.effective: conductance is {given}; it must be a floating-point tensor")
        if readable(conductance):
            check_conductances("Wires.effective", conductance.detach(), self if self.solve == "exact" else None)
        return self.effective_unchecked(conductance)

    def effective_unchecked(self, conductance: Tensor) -> Tensor:
        """Compute ``effective`` without checks; NaN propagates."""
        if self.solve == "first-order":
            return conductance * self.reached(conductance)
        return self._from_the_last(conductance, lambda g: call("wired_conductance", g, *self.resistances))

    def reached(self, conductance: Tensor) -> Tensor:
        """Fraction of the voltages that reaches each device ``[..., rows, columns]``, to first order."""
        return self._from_the_last(conductance, lambda g: resistances.reached(g, *self.resistances))

    def sensitivity(self, conductance: Tensor) -> Tensor:
        """Derivative of the effective conductance of each device by its own conductance, to first order."""
        return self._from_the_last(conductance, lambda g: resistances.sensitivity(g, *self.resistances))

    def _from_the_last(self, conductance: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply a function to arrays with rows in order towards the sense."""
        return act(conductance) if self.sensed == "last" else act(conductance.flip(-2)).flip(-2)


@final
@dataclass(frozen=True, kw_only=True)
class DurationCodedDrop(Configuration):
    """Approximate formula for the voltage drop on bit lines with inputs coded as pulse durations.

    Word lines and drivers are ideal. For normalised weights and inputs, ``R = 1 / (segment g_max)``, ``n`` rows and row
    ``j = 0`` at the sensed end: with ``a_i = (n / R) sum_j |w_ij| |x_j|`` and ``c = a (0.05 a^2 - 0.2 a + 0.5)``,
    output ``i`` decreases by ``c_i sum_j w_ij x_j (1 - (1 - j / n)^2)``. This is the formula of ``ir_drop`` of the
    simulator cited below. Its strength 1 means 0.35 ohm with devices of 5 uS, whatever the device, which is
    ``at_reference_conductance``; the default segment has a five times larger ``a`` with devices of 25 uS. The formula
    accounts for overlapping pulses of different durations, and does not approximate ``Wires``, whose inputs are
    amplitudes. The decrease depends on the inputs and is computed in every product, which takes two further products
    per tile.

    Args:
        segment: resistance of a bit line from cell to cell [ohm].

    References:
        Rasch, M. J. et al. A flexible and fast PyTorch toolkit for simulating training and inference on analog crossbar
        arrays. IEEE 3rd International Conference on Artificial Intelligence Circuits and Systems (2021), for the
        simulator (IBM's Analog Hardware Acceleration Kit). https://doi.org/10.1109/AICAS51828.2021.9458494

        Rasch, M. J. et al. Hardware-aware training for large-scale and diverse deep learning inference workloads using
        in-memory computing-based accelerators. Nat. Commun. 14, 5282 (2023), for its use in the standard inference
        settings. https://doi.org/10.1038/s41467-023-40770-4
    """

    segment: float = 0.35

    def __post_init__(self) -> None:
        check_number(self, "segment", 0.0)

    @classmethod
    def at_reference_conductance(
        cls, g_max: float, *, segment: float = 0.35, conductance: float = 5e-6
    ) -> DurationCodedDrop:
        """The drop of ``segment`` with devices of ``conductance``, for devices of another one.

        The defaults are ``ir_drop=1`` of the simulator cited above.

        Args:
            g_max: conductance of the largest weight of the hardware's device [S].
            segment: resistance of a bit line from cell to cell [ohm].
            conductance: conductance of the largest weight that the drop refers to [S].

        Examples:
            >>> round(DurationCodedDrop.at_reference_conductance(25e-6).segment, 6)
            0.07
        """
        for name, value in {"g_max": g_max, "conductance": conductance}.items():
            if not (isinstance(value, (int, float)) and 0.0 < value < math.inf):
                raise ValueError(
                    f"DurationCodedDrop.at_reference_conductance: {name} = {value!r} S; it must be above 0 and finite"
                )
        return cls(segment=segment * conductance / g_max)

    def ramp(self, rows: int, like: Tensor) -> Tensor:
        """``1 - (1 - j / n)^2`` for every row ``[rows]``."""
        j = torch.arange(rows, dtype=like.dtype, device=like.device)
        return 1.0 - (1.0 - j / rows) ** 2

    def lost(self, sizes: Tensor, ramped: Tensor, rows: int, g_max: float) -> Tensor:
        """Decrease of the outputs.

        Args:
            sizes: ``sum_j |w_ij| |x_j|``, normalised.
            ramped: ``sum_j w_ij x_j (1 - (1 - j / n)^2)``, the same shape, in any units.
            rows: ``n``.
            g_max: conductance of a normalised weight of 1 [S].
        """
        a = sizes * (rows * self.segment * g_max)
        return a * (0.05 * a * a - 0.2 * a + 0.5) * ramped


def check_conductances(what: str, conductance: Tensor, solved: Wires | None = None) -> None:
    """Raise unless all conductances are finite and at least 0, so that the node equations are not singular.

    Args:
        what: name of the caller in messages.
        conductance: ``[..., rows, columns]`` [S].
        solved: wires that are solved exactly, which also limits the largest conductance; ``None`` for no limit.
    """
    bad = ~(torch.isfinite(conductance) & (conductance >= 0))
    if bool(bad.any()):
        raise ValueError(
            f"{what}: {_named(conductance, bad)}; it must be finite and not negative, "
            "or the array is singular. Use 0 for an open device and a large conductance for a short"
        )
    ohms = 0.0 if solved is None else solved.largest
    short = conductance.double() * ohms > _SHORT
    if bool(short.any()):
        raise ValueError(
            f"{what}: {_named(conductance, short)} with wires of {ohms:g} ohm; their product must be at most "
            f"{_SHORT:g}, or rounding errors dominate the outputs. Use {_SHORT / ohms:.3g} S for a short"
        )


def _named(conductance: Tensor, where: Tensor) -> str:
    first = tuple(where.nonzero()[0].tolist())
    return f"conductance{list(first)} = {float(conductance[first]):g} S"


def over_tiles(planes: Tensor, rows: int, columns: int, act: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a function of arrays ``[..., rows, columns]`` to each tile of planes ``[planes, out, in]``.

    Tiles at the edges contain only the remaining cells.
    """
    whole = [_pieces(strip, -2, columns) for strip in _pieces(planes, -1, rows)]
    return torch.cat([torch.cat([_each(p, rows, columns, act) for p in strip], -2) for strip in whole], -1)


def _pieces(planes: Tensor, dim: int, size: int) -> list[Tensor]:
    """Split a dimension into the part that fills whole tiles and the rest."""
    length = planes.shape[dim]
    full = length // size * size
    return [p for p in planes.tensor_split((full,), dim) if p.shape[dim]] if length else [planes]


def _each(piece: Tensor, rows: int, columns: int, act: Callable[[Tensor], Tensor]) -> Tensor:
    r, c = min(rows, piece.shape[-1]), min(columns, piece.shape[-2])
    tiles = piece.unflatten(-1, (-1, r)).unflatten(-3, (-1, c)).permute(0, 1, 3, 4, 2)
    return act(tiles).permute(0, 1, 4, 2, 3).flatten(-2).flatten(-3, -2)
