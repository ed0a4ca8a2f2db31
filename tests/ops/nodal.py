"""Arrays with wires by brute force: every node's current law as one dense system."""

from __future__ import annotations

import torch
from torch import Tensor

from phasegrad.ops.resistances import Resistances


def effective(conductance: Tensor, resistances: Resistances) -> Tensor:
    """Current of each bit line for 1 V on each word line ``[m, n]``; no wire without resistance; differentiable."""
    matrix, injected, taps = _system(conductance, resistances)
    return (torch.linalg.solve(matrix, injected)[taps] / (resistances.bit_line + resistances.sense)).T


def _system(g: Tensor, resistances: Resistances) -> tuple[Tensor, Tensor, list[int]]:
    m, n = g.shape
    edges, values, injected = [], [], torch.zeros(2 * m * n, m, dtype=torch.float64)
    ground, into = 2 * m * n, 1.0 / (resistances.word_line + resistances.driver)
    for i in range(m):
        for j in range(n):
            word, bit = i * n + j, (m + i) * n + j
            edges += [(word, bit)] + ([(word, word - 1)] if j else []) + ([(bit, bit - n)] if i else [])
            values += (
                [g[i, j]] + ([1.0 / resistances.word_line] if j else []) + ([1.0 / resistances.bit_line] if i else [])
            )
        for end in [0, n - 1] if resistances.both else [0]:
            edges, values = [*edges, (i * n + end, ground)], [*values, into]
            injected[i * n + end, i] += into
    taps = [(2 * m - 1) * n + j for j in range(n)]
    edges += [(tap, ground) for tap in taps]
    values += [1.0 / (resistances.bit_line + resistances.sense)] * n
    incidence = torch.zeros(len(edges), ground + 1, dtype=torch.float64)
    for row, (a, b) in enumerate(edges):
        incidence[row, a], incidence[row, b] = 1.0, -1.0
    incidence = incidence[:, :ground]
    weights = torch.stack([torch.as_tensor(v, dtype=torch.float64) for v in values])
    return incidence.T @ (weights.unsqueeze(1) * incidence), injected, taps
