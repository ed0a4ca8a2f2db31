"""Kernels: tensors in, tensors out. Ops take tensors and numbers, never configurations."""

from phasegrad.ops import schema as schema  # registers the ops
from phasegrad.ops.backend_names import backends

__all__ = ["backends"]


def __dir__() -> list[str]:
    return sorted(__all__)
