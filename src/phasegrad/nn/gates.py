"""What recurrent layers do with their products at one step; digital."""

from __future__ import annotations

import torch
from torch import Tensor


def lstm(driven: Tensor, recurrent: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden state and cell ``[batch, size]`` of a long short-term memory (Hochreiter and Schmidhuber, 1997).

    Args:
        driven: product of the inputs ``[batch, 4 size]``: input gate, forget gate, candidate, output gate.
        recurrent: product of the hidden state.
        cell: the cell before.
    """
    i, f, g, o = (driven + recurrent).chunk(4, dim=1)
    cell = torch.addcmul(f.sigmoid() * cell, i.sigmoid(), g.tanh())
    return o.sigmoid() * cell.tanh(), cell


def gru(driven: Tensor, recurrent: Tensor, hidden: Tensor) -> Tensor:
    """Hidden state ``[batch, size]`` of a gated recurrent unit (Cho et al., 2014), the reset gate after the product.

    Args:
        driven: product of the inputs ``[batch, 3 size]``: reset gate, update gate, candidate.
        recurrent: product of the hidden state.
        hidden: the hidden state before.
    """
    size = hidden.shape[1]
    r, z = (driven[:, : 2 * size] + recurrent[:, : 2 * size]).sigmoid().chunk(2, dim=1)
    n = torch.addcmul(driven[:, 2 * size :], r, recurrent[:, 2 * size :]).tanh()
    return torch.addcmul(n, z, hidden - n)


def rnn(driven: Tensor, recurrent: Tensor, nonlinearity: str) -> Tensor:
    """Hidden state ``[batch, size]`` of a plain recurrent layer: ``"tanh"`` or ``"relu"`` of the sum."""
    return (driven + recurrent).tanh() if nonlinearity == "tanh" else (driven + recurrent).relu()
