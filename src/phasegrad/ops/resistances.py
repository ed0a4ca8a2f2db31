"""Resistances of the wires of an array: voltage propagation along a line, and the first-order drop on it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Resistances(NamedTuple):
    """Resistances of an array's wires [ohm]."""

    word_line: float
    """A segment of a word line."""
    bit_line: float
    """A segment of a bit line."""
    driver: float
    """At the end of a word line, on top of its segment."""
    sense: float
    """At the end of a bit line, on top of its segment."""
    both: bool
    """Whether word lines are driven from both ends."""

    def below(self, row: int, rows: int) -> float:
        """Resistance between a row's bit-line nodes and those of the next row, or ground."""
        return self.bit_line + (self.sense if row == rows - 1 else 0.0)


def line_impedance(conductance: Tensor, resistances: Resistances) -> tuple[Tensor, Tensor]:
    """Voltage propagation along word lines ``[..., n]`` of cells to ground.

    Returns:
        ``a`` and ``l``, both ``[..., n]``: a current into node ``k`` raises node ``j`` by
        ``exp(min(a_j + l_k, a_k + l_j))`` [ohm]. The resistance of the lines must not be zero.
    """
    r, end = resistances.word_line, resistances.word_line + resistances.driver
    cells = conductance.unbind(-1)
    left = [torch.full_like(cells[0], end)]  # impedance of everything on the driver's side of a node
    for g in cells[:-1]:
        left.append(r + left[-1] / (1.0 + g * left[-1]))
    beyond = torch.full_like(cells[0], 1.0 / end if resistances.both else 0.0)
    right = []  # admittance of a node's own cell and everything beyond
    for g in reversed(cells):
        right.append(g + beyond)
        beyond = right[-1] / (1.0 + r * right[-1])
    z, y = torch.stack(left, -1), torch.stack(right[::-1], -1)
    reached = torch.cumsum(-torch.log1p(r * y), -1)
    return torch.log(z / (1.0 + z * y)) - reached, reached


class Rows(NamedTuple):
    """The rows of arrays, and the voltage propagation along them."""

    conductance: Tensor
    """``[batch, m, n]`` [S]."""
    impedance: tuple[Tensor, Tensor] | None
    """Of ``line_impedance``; ``None`` for word lines without resistance."""

    def drops(self, i: int) -> Tensor:
        """``Q`` ``[batch, n, n]``: 1 V at bit-line node ``j`` alone leaves ``-Q[l, j]`` over cell ``l``."""
        g = self.conductance[:, i]
        if self.impedance is None:
            return torch.eye(g.shape[-1], dtype=g.dtype, device=g.device).expand(len(g), -1, -1)
        a, l = (part[:, i] for part in self.impedance)  # noqa: E741
        raised = torch.minimum(a.unsqueeze(-1) + l.unsqueeze(-2), a.unsqueeze(-2) + l.unsqueeze(-1)).exp_()
        drops = raised.mul_(-g.unsqueeze(-2))
        drops.diagonal(dim1=-2, dim2=-1).add_(1.0)
        return drops

    def own(self, i: int, drops: Tensor) -> Tensor:
        """``A = diag(G) Q`` ``[batch, n, n]`` [S], symmetric."""
        return self.conductance[:, i].unsqueeze(-1) * drops


def rows_of(conductance: Tensor, resistances: Resistances) -> Rows:
    """The rows of arrays ``[batch, m, n]`` [S], float64."""
    ideal = resistances.word_line + resistances.driver == 0.0
    return Rows(conductance, None if ideal else line_impedance(conductance, resistances))


def line_drop(current: Tensor, segment: float, end: float, both: bool) -> Tensor:
    """Voltage drop from the end of lines ``[..., n]`` to each node, for currents that leave at the nodes."""
    behind = current.flip(-1).cumsum(-1).flip(-1)  # what a segment carries if the far end is open
    way = segment * torch.arange(1, current.shape[-1] + 1, dtype=current.dtype, device=current.device) + end
    drop = segment * behind.cumsum(-1) + end * behind[..., :1]
    if not both:
        return drop
    whole = segment * (current.shape[-1] + 1) + 2.0 * end
    return drop - way * ((way * current).sum(-1, keepdim=True) / whole) if whole else drop


def reached(conductance: Tensor, word_line: float, bit_line: float, driver: float, sense: float, both: bool) -> Tensor:
    """The fraction of the voltages that reaches each cell, to first order in the resistances of the wires.

    The drop on a cell's word line is ``R_w`` times the currents of that line's cells; its bit line rises by ``R_b``
    times the currents of its cells; all currents are those without wires: ``1 / (1 + G R_w + R_b G)``. The quotient has
    the same first order as the difference, is exact for a single cell, and never changes sign.

    Conductances ``[..., rows, columns]`` [S]; arguments as for ``phasegrad.ops.wires.wired_conductance``.

    Returns:
        ``[..., rows, columns]``, in (0, 1].
    """
    along_words = line_drop(conductance, word_line, driver, both)
    along_bits = line_drop(conductance.mT.flip(-1), bit_line, sense, False).flip(-1).mT
    return 1.0 / (1.0 + along_words + along_bits)


def sensitivity(
    conductance: Tensor, word_line: float, bit_line: float, driver: float, sense: float, both: bool
) -> Tensor:
    """The derivative of each cell's effective conductance by its own conductance, in the first-order formula.

    With ``p`` the fraction of the voltages that reaches a cell, and ``R`` the resistance of the wires in series with
    it, the derivative is ``p (1 - p G R)``: exactly ``(1 + G R)^-2`` for a single cell, and ``p`` for an open one.

    Arguments as for ``reached``.

    Returns:
        ``[..., rows, columns]``, in (0, 1].
    """
    resistances, (m, n) = Resistances(word_line, bit_line, driver, sense, both), conductance.shape[-2:]
    part = reached(conductance, *resistances)
    return part * (1.0 - part * conductance * _own_way(m, n, resistances, conductance))


def _own_way(m: int, n: int, resistances: Resistances, like: Tensor) -> Tensor:
    """Resistance of the wires from drivers to sense via each crossing ``[m, n]`` [ohm]."""
    along, down = (torch.arange(1, size + 1, dtype=like.dtype, device=like.device) for size in (n, m))
    word = resistances.word_line * along + resistances.driver
    if resistances.both:
        whole = resistances.word_line * (n + 1) + 2.0 * resistances.driver
        word = word - word * word / whole if whole else word
    return word + (resistances.bit_line * down.flip(0) + resistances.sense).unsqueeze(-1)
