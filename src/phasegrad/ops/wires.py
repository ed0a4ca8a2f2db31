"""The effective conductances of arrays whose word and bit lines have resistance.

An array has ``m`` word lines and ``n`` bit lines; each crossing is a node on each, with a cell between them. A word
line starts at its driver, the other end is open or driven too; a bit line ends at its sense, the other end is open.

A row of cells, seen from its bit-line nodes, is ``f = K v - A b``: the cells' currents for the driver's voltage ``v``
and the node voltages ``b``, with ``K = A 1``, because a common shift of all voltages drives no current. ``A`` has a
closed form (``phasegrad.ops.resistances.Rows``). Down the bit lines, all rows above a level are ``c = J v - Y b``. A
row adds its own ``K`` and ``A``; a segment of resistance ``r`` turns ``J`` and ``Y`` into ``X J`` and ``X Y`` with
``X = (1 + r Y)^-1``. Nothing is divided by a resistance or a conductance that may be zero, and only shorts make
``1 + r Y`` badly conditioned. ``m`` inverses of ``n x n`` matrices cost as much as one block elimination.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from phasegrad.ops.resistances import Resistances, Rows, rows_of

_LEAF = 64  # up to this size LAPACK is faster than halving
_MAX_SOLVED = 1 << 21  # numbers in the matrices of arrays that are solved at a time


class _Level(NamedTuple):
    """The rows above a position on the bit lines, as seen from there."""

    admittance: Tensor
    """``Y`` ``[batch, n, n]`` [S]."""
    transfer: Tensor
    """``J`` ``[batch, rows so far, n]`` [S]: current for each driver's voltage."""


def _inverse(matrix: Tensor) -> Tensor:
    """Invert symmetric positive definite matrices by recursive 2x2 blocks.

    Most of the work is matrix products, which are fast.
    """
    n = matrix.shape[-1]
    if n <= _LEAF:
        return torch.cholesky_inverse(torch.linalg.cholesky_ex(matrix)[0])
    h = n // 2
    first = _inverse(matrix[..., :h, :h])
    beside = first @ matrix[..., :h, h:]
    last = _inverse(matrix[..., h:, h:] - matrix[..., h:, :h] @ beside)
    corner = beside @ last
    out = torch.empty_like(matrix)
    torch.add(first, corner @ beside.mT, out=out[..., :h, :h])
    out[..., :h, h:] = -corner
    out[..., h:, :h] = -corner.mT
    out[..., h:, h:] = last
    return out


def pass_segment(admittance: Tensor, resistance: float, resistances: Resistances) -> tuple[Tensor, Tensor]:
    """``X Y`` and ``X`` of a segment below an admittance ``Y`` ``[batch, n, n]`` [S]."""
    if resistance == 0.0:
        one = torch.eye(admittance.shape[-1], dtype=admittance.dtype, device=admittance.device)
        return admittance, one.expand_as(admittance)
    loaded = admittance * resistance
    loaded.diagonal(dim1=-2, dim2=-1).add_(1.0)
    through = _inverse(loaded)
    if resistances.sense > 1e3 * resistance:  # the sense would magnify the cancellation in the difference below
        return through @ admittance, through
    below = through * (-1.0 / resistance)  # X Y = (1 - X) / r, and the next segment needs only r X Y
    below.diagonal(dim1=-2, dim2=-1).add_(1.0 / resistance)
    return below, through


def _descend(level: _Level, own: Tensor, resistance: float, resistances: Resistances) -> tuple[_Level, Tensor]:
    """Add a row and the segment below it; return the new level and ``X``."""
    below, through = pass_segment(level.admittance + own, resistance, resistances)
    transfer = torch.cat((level.transfer, own.sum(-1).unsqueeze(-2)), -2)
    return _Level(below, transfer @ through if resistance else transfer), through


def _start(rows: Rows) -> _Level:
    batch, _, n = rows.conductance.shape
    return _Level(rows.conductance.new_zeros(batch, n, n), rows.conductance.new_zeros(batch, 0, n))


def _descent(level: _Level, rows: Rows, first: int, last: int, resistances: Resistances) -> Iterator[_Level]:
    """The levels below rows ``first`` to ``last - 1``."""
    for i in range(first, last):
        level, _ = _descend(
            level, rows.own(i, rows.drops(i)), resistances.below(i, rows.conductance.shape[1]), resistances
        )
        yield level


def _solved(conductance: Tensor, resistances: Resistances) -> Tensor:
    rows = rows_of(conductance, resistances)
    below = _start(rows)
    for below in _descent(below, rows, 0, conductance.shape[1], resistances):  # noqa: B007, B020 -- only the last is needed
        pass
    return below.transfer


def _checkpoints(rows: Rows, resistances: Resistances, every: int) -> list[_Level]:
    start = _start(rows)
    kept = [start]
    last = (rows.conductance.shape[1] - 1) // every * every
    for i, level in enumerate(_descent(start, rows, 0, last, resistances), 1):
        if i % every == 0:
            kept.append(level)
    return kept


def _adjoint(grad: Tensor, conductance: Tensor, resistances: Resistances) -> Tensor:
    """The adjoint pass. Only every ``sqrt(m)``th level is stored; those in between are computed again."""
    rows, (_, m, n) = rows_of(conductance, resistances), conductance.shape
    every = max(1, int(m**0.5))
    out, upward = torch.empty_like(conductance), conductance.new_zeros(len(conductance), n, n)
    for first, level in reversed(list(zip(range(0, m, every), _checkpoints(rows, resistances, every), strict=True))):
        passed = []
        for i in range(first, min(first + every, m)):
            drops = rows.drops(i)
            level, through = _descend(level, rows.own(i, drops), resistances.below(i, m), resistances)
            passed.append((i, drops, through, level.transfer))
        for i, drops, through, transfer in reversed(passed):
            grad = grad @ through
            upward = through @ upward @ through - resistances.below(i, m) * (grad.mT @ transfer)
            own_grad = upward + grad[:, i].unsqueeze(-1)
            out[:, i] = ((drops @ own_grad) * drops).sum(-1)
            grad = grad[:, :i]
    return out


def _transposed(conductance: Tensor) -> Tensor:
    """The array with its bit lines driven instead: by reciprocity, the effective conductances are the same."""
    return conductance.flip(-1, -2).mT


def _batched(conductance: Tensor, resistances: Resistances) -> tuple[list[Tensor], Resistances, bool]:
    """Arrays in float64, in batches, and whether they were transposed.

    The shorter side is the size of the levels' matrices.
    """
    m, n = conductance.shape[-2:]
    transposed = n > m and not resistances.both
    if transposed:
        conductance = _transposed(conductance)
        resistances = Resistances(
            resistances.bit_line, resistances.word_line, resistances.sense, resistances.driver, False
        )
    some = max(1, _MAX_SOLVED // (min(m, n) * max(m, n)))
    return list(conductance.double().reshape(-1, *conductance.shape[-2:]).split(some)), resistances, transposed


def wired_conductance(
    conductance: Tensor, word_line: float, bit_line: float, driver: float, sense: float, both: bool
) -> Tensor:
    """The effective conductances of arrays with wires: each bit line's current for 1 V on a single word line.

    Args:
        conductance: cells ``[..., rows, columns]`` [S], at least 0; word lines are rows. Drivers are connected
            before column 0, grounds behind the last row, each a further segment away; the other ends are open.
        word_line: resistance of a segment of a word line [ohm].
        bit_line: resistance of a segment of a bit line.
        driver: resistance of the driver, in series with its segment.
        sense: resistance of the sense, in series with its segment.
        both: whether word lines are driven behind the last column too.

    Returns:
        ``[..., rows, columns]`` [S], solved in float64, then cast to the input dtype.
    """
    if conductance.numel() == 0:
        return conductance.clone()
    resistances = Resistances(word_line, bit_line, driver, sense, both)
    arrays, resistances, transposed = _batched(conductance, resistances)
    solved = torch.cat([_solved(some, resistances) for some in arrays])
    shape = conductance.mT.shape if transposed else conductance.shape
    solved = solved.view(shape)
    return (_transposed(solved) if transposed else solved).to(conductance.dtype).contiguous()


def wired_conductance_backward(
    grad: Tensor, conductance: Tensor, word_line: float, bit_line: float, driver: float, sense: float, both: bool
) -> Tensor:
    """The gradient of every cell: the voltage across it times that in the adjoint circuit, summed over driven rows."""
    if conductance.numel() == 0:
        return conductance.clone()
    resistances = Resistances(word_line, bit_line, driver, sense, both)
    arrays, own_resistances, transposed = _batched(conductance, resistances)
    grads, _, _ = _batched(grad.expand(conductance.shape), resistances)
    found = torch.cat([_adjoint(g, some, own_resistances) for g, some in zip(grads, arrays, strict=True)])
    found = found.view(conductance.mT.shape if transposed else conductance.shape)
    return (_transposed(found) if transposed else found).to(conductance.dtype).contiguous()
