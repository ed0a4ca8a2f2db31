"""Finds and loads the C++ kernels, and reports which backend is in use.

The library is plain C behind ctypes, so one build serves every Python and torch version. Environment:

- ``PHASEGRAD_BACKEND``: ``native`` (fail if the library is missing), ``reference`` (no kernels on any device),
  ``triton`` (the CUDA kernels on every device, interpreted on the CPU, for tests), or unset;
- ``PHASEGRAD_ISA``: ``baseline``, ``avx2`` or ``avx512``, for a narrower instruction set than the processor has;
- ``PHASEGRAD_DISPATCH``: ``always`` (every call of an op goes through torch's dispatcher), or unset;
  ``phasegrad.ops.direct`` reads it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
import struct
from pathlib import Path

_NAME = "libphasegrad_native.so"
_logger = logging.getLogger("phasegrad")

INTERFACE = 4
"""Version of the functions below and of what they do, as ``PG_INTERFACE`` in csrc/api.h; 0.1.0 has none."""

_POINTER, _SIZE, _SEED = ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint64
_INT, _DOUBLE, _FLOAT = ctypes.c_int, ctypes.c_double, ctypes.c_float

# As in csrc/api.h; the last argument of every function is the number of threads.
_SIGNATURES: dict[str, tuple[type, ...]] = {
    "normal": (_POINTER, _SIZE, _SEED, _SEED, _INT),
    "uniform": (_POINTER, _SIZE, _SEED, _SEED, _INT),
    "dac": (_POINTER, _POINTER, _POINTER, _SIZE, _SIZE, _INT, _DOUBLE, _INT),
    "dac_backward": (*(_POINTER,) * 5, _FLOAT, _SIZE, _DOUBLE, _DOUBLE, _INT),
    "adc": (
        *(_POINTER,) * 8, *(_SIZE,) * 4, _INT, _INT, _DOUBLE, _DOUBLE, _FLOAT, _INT, _DOUBLE, _SEED, _SEED, _INT,
    ),
    "byte_inputs": (*(_POINTER,) * 7, *(_SIZE,) * 3, _INT, _INT, _FLOAT, _INT, _INT),
    "byte_weights": (*(_POINTER,) * 9, *(_SIZE,) * 3, _INT, _INT),
    "byte_product": (
        *(_POINTER,) * 16, *(_SIZE,) * 6, _INT, _FLOAT, _INT, _DOUBLE, _DOUBLE, _FLOAT, _INT, _DOUBLE, _SEED, _SEED,
        _INT,
    ),
    "adc_backward": (_POINTER, _POINTER, _POINTER, _SIZE, _INT),
    "weight_scale": (*(_POINTER,) * 4, *(_SIZE,) * 4, _INT, _DOUBLE, _INT, _INT),
    "noisy_weights": (
        *(_POINTER,) * 4, *(_SIZE,) * 3, _FLOAT, _POINTER, _INT, _DOUBLE, _SEED, _SEED, _INT,
    ),
    "noisy_weights_backward": (*(_POINTER,) * 3, _SIZE, _SIZE, _INT),
    "pcm_program": (
        *(_POINTER,) * 3, _SIZE, _DOUBLE, _POINTER, _INT, _POINTER, _POINTER, _SEED, _SEED, _INT,
    ),
    "pulse_trains": (
        *(_POINTER,) * 5, *(_SIZE,) * 3, _DOUBLE, _DOUBLE, *(_INT,) * 4, _SEED, _SEED, _INT,
    ),
    "pulse_counts": (
        *(_POINTER,) * 5, *(_SIZE,) * 3, _INT, _DOUBLE, *(_INT,) * 3, *(_POINTER,) * 3, _SIZE, _POINTER, _SEED, _SEED,
        _INT,
    ),
    "finite": (_POINTER, _POINTER, _POINTER, _SIZE, _INT),
    "fingerprint": (*(_POINTER,) * 3, *(_SIZE,) * 2, _INT),
    "pulse_scratch": (_POINTER, *(_SIZE,) * 4, _INT),
    "pulsed_update": (
        *(_POINTER,) * 8, *(_SIZE,) * 4, _DOUBLE, _DOUBLE, *(_INT,) * 4, _SIZE, _INT, _DOUBLE, *(_INT,) * 3,
        *(_POINTER,) * 3, _SIZE, _POINTER, _SEED, _SEED, _INT,
    ),
    "weighted_sum": (
        _POINTER, _POINTER, _SIZE, _POINTER, _SIZE, _SIZE, _POINTER, _POINTER, _SEED, _SEED, _INT,
    ),
    "leak": (_POINTER, _SIZE, _SIZE, _FLOAT, _FLOAT, _POINTER, _POINTER, _SIZE, _POINTER, _INT),
    "pcm_cells": (
        *(_POINTER,) * 3, _DOUBLE, *(_SIZE,) * 3, *(_DOUBLE,) * 3, *(_POINTER,) * 3, _SIZE, _SEED, _SEED, _INT,
    ),
    "noisy_cells": (*(_POINTER,) * 3, *(_SIZE,) * 3, _POINTER, _POINTER, _SIZE, _SEED, _SEED, _INT),
    "pcm_moments": (*(_POINTER,) * 4, _DOUBLE, _SIZE, *(_DOUBLE,) * 3, _POINTER, _INT),
    "row_products": (*(_POINTER,) * 5, _INT, *(_SIZE,) * 3, _INT),
    "row_linear": (
        *(_POINTER,) * 5, _INT, *(_POINTER,) * 3, *(_SIZE,) * 3, *(_DOUBLE,) * 3, _FLOAT, _INT, _DOUBLE, _SEED, _SEED,
        _INT,
    ),
    "rectified_cells": (*(_POINTER,) * 4, *(_SIZE,) * 3, _POINTER, _POINTER, _SIZE, _INT),
    "pcm_read": (*(_POINTER,) * 4, _SIZE, _INT, *(_DOUBLE,) * 3, _POINTER, _SEED, _SEED, _INT),
}  # fmt: skip


def _find() -> Path | None:
    # In an editable install the sources are in the checkout and the library in site-packages: the package's search
    # path contains both.
    spec = importlib.util.find_spec("phasegrad.ops")
    folders = [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
    return next((folder / _NAME for folder in folders if (folder / _NAME).is_file()), None)


def wished_backend() -> str:
    """The backend that the environment asks for, or an empty string."""
    wish = os.environ.get("PHASEGRAD_BACKEND", "")
    if wish not in ("", "native", "reference", "triton"):
        raise ImportError(f"PHASEGRAD_BACKEND = {wish!r}; it can be 'native', 'reference', 'triton', or unset")
    return wish


def _load() -> ctypes.CDLL | None:
    wish = wished_backend()
    path = None if wish in ("reference", "triton") else _find()
    if path is None:
        if wish == "native":
            raise ImportError(
                f"PHASEGRAD_BACKEND = 'native', but {_NAME} is not installed; install a C++ compiler and "
                "reinstall phasegrad"
            )
        reason = "as PHASEGRAD_BACKEND asks" if wish else "no compiled kernels in this install"
        _logger.info("phasegrad runs on its torch reference (%s); correct, but slower", reason)
        return None
    try:
        library = _open(path)
    except (OSError, AttributeError, ValueError) as error:
        if wish == "native":
            raise ImportError(
                f"PHASEGRAD_BACKEND = 'native', but {path} cannot be used: {error}. Reinstall phasegrad with a C++ "
                "compiler"
            ) from error
        _logger.warning(
            "phasegrad runs on its torch reference, because %s cannot be used: %s; correct, but slower. Reinstall "
            "phasegrad",
            path, error,
        )  # fmt: skip
        return None
    isa, chosen = os.environ.get("PHASEGRAD_ISA", ""), library.pg_isa().decode()
    if isa not in ("", chosen):
        raise ImportError(
            f"PHASEGRAD_ISA = {isa!r} is not one of 'baseline', 'avx2' and 'avx512', or this processor does not have "
            "it; unset it to use the best there is"
        )
    return library


def _open(path: Path) -> ctypes.CDLL:
    """Load a library whose interface is the one that this version of the package calls.

    Raises:
        OSError: the file is no library for this processor.
        AttributeError: a function is missing.
        ValueError: the file is incomplete, or has another version of the interface.
    """
    _check_complete(path)
    library = ctypes.CDLL(str(path))
    library.pg_interface.restype = ctypes.c_int
    if library.pg_interface() != INTERFACE:
        raise ValueError(f"version {library.pg_interface()} of the kernels' interface, where {INTERFACE} is needed")
    for name, arguments in _SIGNATURES.items():
        function = getattr(library, f"pg_{name}")
        function.argtypes, function.restype = arguments, None
    library.pg_isa.restype = ctypes.c_char_p
    library.pg_multiplies_bytes.restype = ctypes.c_int
    return library


def _check_complete(path: Path) -> None:
    """Raise if an ELF file ends before its section headers, which linkers write last.

    The loader maps what the headers promise, and a page beyond the end of the file would end the process.
    """
    with path.open("rb") as file:
        head, size = file.read(64), path.stat().st_size
    if len(head) < 64:
        raise ValueError(f"the file has {size} bytes and no header")
    if head[:4] != b"\x7fELF" or head[4] != 2 or head[5] not in (1, 2):
        return  # another format, or 32 bits: the loader checks it
    order = "<" if head[5] == 1 else ">"
    start = struct.unpack_from(f"{order}Q", head, 40)[0]
    entry, count = struct.unpack_from(f"{order}HH", head, 58)
    if start + entry * count > size:
        raise ValueError(f"the file has {size} bytes of {start + entry * count}")


library = _load()
