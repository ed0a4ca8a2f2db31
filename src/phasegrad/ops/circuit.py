"""All currents and voltages of arrays whose wires have resistance, with a current source in every cell."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from phasegrad.ops.resistances import Resistances, line_drop, rows_of
from phasegrad.ops.wires import pass_segment


class Circuit(NamedTuple):
    """Currents and voltages of arrays, batch first."""

    output: Tensor
    """``[batch, n]`` [A], into the sense of each bit line."""
    cell: Tensor
    """``[batch, m, n]`` [A], from word line to bit line."""
    word: Tensor
    """``[batch, m, n]`` [V], at the word line's node."""
    bit: Tensor
    """``[batch, m, n]`` [V], at the bit line's node."""


def circuit(conductance: Tensor, source: Tensor, voltage: Tensor, resistances: Resistances) -> Circuit:
    """Solve arrays of cells ``i = G (word - bit) + source``, each for one vector of driver voltages, in float64.

    Args:
        conductance: ``[batch, m, n]`` [S].
        source: the same shape [A].
        voltage: ``[batch, m]`` [V].
        resistances: the wires.
    """
    rows, (batch, m, n) = rows_of(conductance, resistances), conductance.shape
    current, admittance, above = conductance.new_zeros(batch, n), conductance.new_zeros(batch, n, n), []
    for i in range(m):
        drops = rows.drops(i)
        own, given = rows.own(i, drops), _times(drops.mT, source[:, i])
        above.append((own, given, current, admittance))
        admittance, through = pass_segment(admittance + own, resistances.below(i, m), resistances)
        current = _times(through, current + given + own.sum(-1) * voltage[:, i, None])
    output, bit, cells, bits = current, torch.zeros_like(current), [], []
    for i in reversed(range(m)):
        bit = bit + resistances.below(i, m) * current
        own, given, current, admittance = above[i]
        cells.append(given + _times(own, voltage[:, i, None] - bit))
        bits.append(bit)
        current = current - _times(admittance, bit)
    cell = torch.stack(cells[::-1], 1)
    word = voltage.unsqueeze(-1) - line_drop(cell, resistances.word_line, resistances.driver, resistances.both)
    return Circuit(output, cell, word, torch.stack(bits[::-1], 1))


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)
