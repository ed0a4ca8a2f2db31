"""What computes on each kind of device."""

from __future__ import annotations

from phasegrad.ops import cuda
from phasegrad.ops.native import library, wished_backend


def backends() -> dict[str, str]:
    """The backend of each kind of device.

    Returns:
        ``cpu``: ``"native (avx2)"`` or ``"torch reference"``, with the instruction set chosen on this processor;
        ``cuda``: ``"triton (NVIDIA H100 80GB HBM3)"``, or ``"torch reference (reason)"``.

    Examples:
        >>> sorted(backends())
        ['cpu', 'cuda']
    """
    cpu = "torch reference" if library is None else f"native ({library.pg_isa().decode()})"
    if wished_backend() == "triton":
        cpu = "triton (interpreter)"
    return {"cpu": cpu, "cuda": cuda.backend()}
