"""Conversion between the parameter of a layer and the matrix ``[out, in]`` on its tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor


@final
@dataclass(frozen=True)
class Layout:
    """The order of a weight's dimensions.

    Attributes:
        inputs_first: whether the weight is ``[in, out / groups, ...]``, as in transposed convolutions, instead of
            ``[out, ...]``.
        groups: groups of inputs and outputs, if inputs come first.
    """

    inputs_first: bool = False
    groups: int = 1

    def size(self, shape: Sequence[int]) -> tuple[int, int]:
        """Outputs and inputs of the matrix of a weight with this shape."""
        first, others = shape[0], math.prod(shape[1:])
        return (others * self.groups, first // self.groups) if self.inputs_first else (first, others)

    def matrix(self, weight: Tensor) -> Tensor:
        """The weight as ``[out, in]``: group by group, each with its output channels by kernel positions."""
        matrix = weight if weight.dim() == 2 else weight.flatten(1)
        if not self.inputs_first:
            return matrix
        if self.groups == 1:
            return matrix.t().contiguous()
        return matrix.unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(0, 1).contiguous()

    def weight(self, matrix: Tensor, shape: Sequence[int]) -> Tensor:
        """The inverse of ``matrix``: a matrix ``[out, in]`` as a weight with this shape."""
        if not self.inputs_first:
            return matrix.view(shape)
        return matrix.unflatten(0, (self.groups, -1)).transpose(1, 2).reshape(shape)


OUTPUTS_FIRST = Layout()
