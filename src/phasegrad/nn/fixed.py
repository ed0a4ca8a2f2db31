"""A matrix that is read once and for all."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from phasegrad.crossbar.product import Matrix


@final
class FixedMatrix(nn.Module):
    """A layer's matrix without noise, as buffers that a graph holds.

    Args:
        matrix: the matrix; nothing of it may be left to draw.
    """

    weight: Tensor
    scale: Tensor
    gain: Tensor | None

    def __init__(self, matrix: Matrix) -> None:
        super().__init__()
        self.factors = matrix.factors
        self.register_buffer("weight", matrix.weight.detach().clone(), persistent=False)
        self.register_buffer("scale", matrix.scale.detach().clone(), persistent=False)
        self.register_buffer("gain", None if matrix.gain is None else matrix.gain.clone(), persistent=False)

    def matrix(self) -> Matrix:
        """As products take it."""
        return Matrix(self.weight, self.scale, self.gain, 0.0, factors=self.factors)
