"""Digital arithmetic of one step of a recurrent layer, after its two matrix products."""

from __future__ import annotations

import torch
from torch import Tensor


def lstm(input_product: Tensor, hidden_product: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden state and cell state ``[batch, size]`` of an LSTM (Hochreiter and Schmidhuber, 1997).

    Args:
        input_product: product of the input ``[batch, 4 size]``: input gate, forget gate, candidate, output gate.
        hidden_product: product of the hidden state, in the same order.
        cell: the previous cell state ``[batch, size]``.
    """
    i, f, g, o = (input_product + hidden_product).chunk(4, dim=1)
    cell = torch.addcmul(f.sigmoid() * cell, i.sigmoid(), g.tanh())
    return o.sigmoid() * cell.tanh(), cell


def gru(input_product: Tensor, hidden_product: Tensor, hidden: Tensor) -> Tensor:
    """Hidden state ``[batch, size]`` of a GRU (Cho et al., 2014) whose reset gate acts after the matrix product.

    Args:
        input_product: product of the input ``[batch, 3 size]``: reset gate, update gate, candidate.
        hidden_product: product of the hidden state, in the same order.
        hidden: the previous hidden state ``[batch, size]``.
    """
    size = hidden.shape[1]
    r, z = (input_product[:, : 2 * size] + hidden_product[:, : 2 * size]).sigmoid().chunk(2, dim=1)
    n = torch.addcmul(input_product[:, 2 * size :], r, hidden_product[:, 2 * size :]).tanh()
    return torch.addcmul(n, z, hidden - n)


def rnn(input_product: Tensor, hidden_product: Tensor, nonlinearity: str) -> Tensor:
    """Hidden state ``[batch, size]`` of an Elman layer: ``"tanh"`` or ``"relu"`` of the sum of the products."""
    total = input_product + hidden_product
    return total.tanh() if nonlinearity == "tanh" else total.relu()
