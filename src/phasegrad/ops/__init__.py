"""Kernels: tensors in, tensors out. An op knows no configuration and no tile."""

from phasegrad.ops import schema as schema  # registers the ops
from phasegrad.ops.native import backends

__all__ = ["backends"]


def __dir__() -> list[str]:
    return sorted(__all__)
