from __future__ import annotations

import ctypes
import importlib.util
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from phasegrad.ops import backends, native


def test_backends_say_what_computes() -> None:
    cpu = backends()["cpu"]
    if native.library is None:
        assert cpu == "torch reference"
    else:
        assert cpu in {f"native ({isa})" for isa in ("baseline", "avx2", "avx512")}


API = Path(__file__).parents[2] / "src/phasegrad/ops/csrc/api.h"
TYPES = {
    "int": ctypes.c_int,
    "int64_t": ctypes.c_int64,
    "uint64_t": ctypes.c_uint64,
    "double": ctypes.c_double,
    "float": ctypes.c_float,
}


def declared() -> dict[str, list[tuple[type, str]]]:
    """Type and name of every argument of every function in ``api.h``."""
    functions = {}
    text = API.read_text().replace("\\\n", " ")
    for name, parameters, passed in re.findall(r"X\((\w+),\s*\(([^()]*)\),\s*\(([^()]*)\)\)", text):
        arguments = [re.fullmatch(r"(.*?)\s*(\w+)", p.strip()).groups() for p in parameters.split(",")]  # type: ignore[union-attr]
        assert [n for _, n in arguments] == [a.strip() for a in passed.split(",")], name
        functions[name] = [(ctypes.c_void_p if t.endswith("*") else TYPES[t], n) for t, n in arguments]
    assert len(functions) == text.count(" X(")
    return functions


def test_signatures_are_those_of_the_header() -> None:
    header = declared()
    assert sorted(native._SIGNATURES) == sorted(header)
    for name, arguments in header.items():
        wanted = [(n, t.__name__) for t, n in arguments]
        assert len(native._SIGNATURES[name]) == len(wanted), name
        given = [(n, t.__name__) for (_, n), t in zip(arguments, native._SIGNATURES[name], strict=True)]
        assert given == wanted, name
        assert arguments[-1] == (ctypes.c_int, "threads"), name


def test_unknown_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHASEGRAD_BACKEND", "gpu")
    with pytest.raises(ImportError, match=r"PHASEGRAD_BACKEND = 'gpu'; it can be 'native', 'reference'"):
        native._load()


def test_native_is_refused_where_there_are_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHASEGRAD_BACKEND", "native")
    monkeypatch.setattr(native, "_find", lambda: None)
    with pytest.raises(ImportError, match="not installed; install a C\\+\\+ compiler"):
        native._load()


def test_the_header_and_the_loader_have_one_version() -> None:
    assert re.findall(r"#define PG_INTERFACE (\d+)", API.read_text()) == [str(native.INTERFACE)]


def damaged(kind: str, folder: Path) -> Path:
    """A file in place of the library."""
    path, own = folder / native._NAME, native._find()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("not a library\n" * 100)
    elif kind == "a foreign library":
        path.write_bytes(Path(importlib.util.find_spec("_ctypes").origin).read_bytes())  # type: ignore[union-attr, arg-type]
    elif own is None:
        pytest.skip("no library to damage")
    else:
        whole = own.read_bytes()
        if kind == "another processor":  # e_machine of an ELF header
            path.write_bytes(whole[:18] + b"\xf3\x00" + whole[20:])
        elif kind == "truncated":
            path.write_bytes(whole[: len(whole) // 3])
        else:  # the last bytes of a download are missing
            path.write_bytes(whole[:-1])
    return path


DAMAGES = ("empty", "text", "a foreign library", "another processor", "truncated", "one byte short")


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_library_that_cannot_be_used_leaves_the_reference(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = damaged(kind, tmp_path)
    monkeypatch.setattr(native, "_find", lambda: path)
    monkeypatch.setenv("PHASEGRAD_BACKEND", "")
    with caplog.at_level(logging.INFO, logger="phasegrad"):
        assert native._load() is None
    assert len(caplog.records) == 1
    assert f"reference, because {path} cannot be used: " in caplog.text
    monkeypatch.setenv("PHASEGRAD_BACKEND", "native")
    with pytest.raises(ImportError, match=r"cannot be used: .*\. Reinstall phasegrad"):
        native._load()


@pytest.mark.skipif(native.library is None, reason="no library")
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("INTERFACE", 1, "version 4 of the kernels' interface, where 1 is needed"),
     ("_SIGNATURES", {"no_such_kernel": (ctypes.c_int,)}, "pg_no_such_kernel")],
)  # fmt: skip
def test_an_older_or_newer_library_is_refused(
    name: str, value: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHASEGRAD_BACKEND", "native")
    monkeypatch.setattr(native, name, value)
    with pytest.raises(ImportError, match=message):
        native._load()


@pytest.mark.parametrize(("wish", "reason"), [("reference", "as PHASEGRAD_BACKEND asks"), ("", "no compiled kernels")])
def test_one_line_says_that_the_reference_computes(
    wish: str, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PHASEGRAD_BACKEND", wish)
    monkeypatch.setattr(native, "_find", lambda: None)
    with caplog.at_level(logging.INFO, logger="phasegrad"):
        assert native._load() is None
    assert len(caplog.records) == 1
    assert reason in caplog.text


def test_loading_leaves_subnormal_numbers_alone() -> None:
    # A library linked with -ffast-math sets flush-to-zero for the whole process when it is loaded.
    assert (torch.tensor([1e-40]) * 0.5).item() > 0.0
    assert 5e-324 * 1.0 > 0.0
