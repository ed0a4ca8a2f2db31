"""Chooses what computes on CUDA: the Triton kernels, or the torch reference.

Triton and CUDA are initialised when an op is first called with a tensor on a GPU, not when phasegrad is imported:
that would slow down programs that use the CPU only, and break those that fork workers.

``PHASEGRAD_BACKEND`` (see ``phasegrad.ops.native``) can ask for the reference, or, with ``triton``, for the Triton
kernels on every device: on the CPU they run in Triton's interpreter, which is for tests.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import os
from collections.abc import Callable
from typing import Any

import torch

from phasegrad.ops.native import wished_backend

LOWEST_CAPABILITY = (8, 0)
"""Compute capability that Triton's kernels need: Ampere and later."""

_logger = logging.getLogger("phasegrad")


def _unusable() -> str | None:
    """Reason why the Triton kernels cannot run on the GPUs of this machine, or ``None``."""
    if wished_backend() == "reference":
        return "as PHASEGRAD_BACKEND asks"
    if torch.version.hip is not None:
        return "the kernels are written for NVIDIA GPUs"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; install triton"
    for index in range(torch.cuda.device_count()):
        capability = torch.cuda.get_device_capability(index)
        if capability < LOWEST_CAPABILITY:
            have, need = (".".join(map(str, version)) for version in (capability, LOWEST_CAPABILITY))
            name = torch.cuda.get_device_name(index)
            return f"{name} has compute capability {have}, and the kernels need {need}"
    return None


@functools.cache
def kernels() -> dict[str, Callable[..., Any]]:
    """The Triton kernels of ops, each without checks; none if the reference computes. The log says which, once.

    Raises:
        ImportError: ``PHASEGRAD_BACKEND`` is ``triton``, and the kernels cannot be used.
    """
    reason = _unusable()
    if reason is None:
        try:
            return importlib.import_module("phasegrad.ops.triton").KERNELS
        except Exception as error:  # whatever a version of Triton that lacks something raises
            reason = f"the Triton kernels cannot be loaded: {type(error).__name__}: {error}"
    if wished_backend() == "triton":
        raise ImportError(f"PHASEGRAD_BACKEND = 'triton', but {reason}")
    _logger.warning("phasegrad runs on its torch reference on CUDA (%s); correct, but slower", reason)
    return {}


def chosen(name: str, reference: Callable[..., Any]) -> Callable[..., Any]:
    """The op of a name on CUDA, which is chosen when it is first called."""

    def op(*arguments: Any) -> Any:
        return kernels().get(name, reference)(*arguments)

    return op


def interpreted() -> dict[str, Callable[..., Any]]:
    """The Triton kernels for the CPU, where ``PHASEGRAD_BACKEND`` asks for them.

    Raises:
        ImportError: Triton is not installed, or compiles for a GPU in this process.
    """
    if wished_backend() != "triton":
        return {}
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported
    found = kernels()
    knobs = importlib.import_module("triton").knobs
    if not knobs.runtime.interpret:
        raise ImportError(
            f"PHASEGRAD_BACKEND = 'triton' runs kernels on the CPU in Triton's interpreter, and TRITON_INTERPRET = "
            f"{os.environ['TRITON_INTERPRET']!r} disables it; set it to 1"
        )
    return found


def backend() -> str:
    """What computes on CUDA."""
    if not torch.cuda.is_available():
        return "torch reference (no CUDA device)"
    reason = _unusable()
    return f"torch reference ({reason})" if reason else f"triton ({torch.cuda.get_device_name()})"
