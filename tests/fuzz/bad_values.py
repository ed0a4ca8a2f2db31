"""Values that users pass by mistake; for each public argument most of them are wrong."""

from __future__ import annotations

import decimal
import fractions
import math
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import phasegrad as pg

BAD: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "False": lambda: False,
    "0": lambda: 0,
    "-1": lambda: -1,
    "1": lambda: 1,
    "3": lambda: 3,
    "2**63": lambda: 2**63,
    "2**64": lambda: 2**64,
    "-0.5": lambda: -0.5,
    "0.5": lambda: 0.5,
    "1e308": lambda: 1e308,
    "nan": lambda: math.nan,
    "inf": lambda: math.inf,
    "-inf": lambda: -math.inf,
    "complex": lambda: 3 + 4j,
    "Fraction": lambda: fractions.Fraction(1, 3),
    "Decimal": lambda: decimal.Decimal("0.5"),
    "numpy integer": lambda: np.int64(3),
    "numpy float": lambda: np.float32(0.5),
    "numpy nan": lambda: np.float64("nan"),
    "numpy array": lambda: np.ones(3),
    "empty string": lambda: "",
    "digit string": lambda: "3",
    "word": lambda: "abc",
    "bytes": lambda: b"abc",
    "path": lambda: pathlib.Path("/nonexistent/folder/file"),
    "folder": lambda: "/",
    "[]": lambda: [],
    "()": lambda: (),
    "{}": lambda: {},
    "set": lambda: {1, 2},
    "[1, 2]": lambda: [1, 2],
    "['a']": lambda: ["a"],
    "[None]": lambda: [None],
    "{'a': 1}": lambda: {"a": 1},
    "range": lambda: range(3),
    "iterator": lambda: iter([]),
    "object": lambda: object(),
    "class": lambda: int,
    "function": lambda: lambda *_: None,
    "failing function": lambda: lambda: 1 / 0,
    "module": lambda: math,
    "Ellipsis": lambda: ...,
    "scalar tensor": lambda: torch.tensor(3),
    "tensor": lambda: torch.randn(2, 3, generator=torch.Generator().manual_seed(0)),
    "nan tensor": lambda: torch.full((2, 3), math.nan),
    "empty tensor": lambda: torch.empty(0),
    "complex tensor": lambda: torch.ones(2, 3, dtype=torch.complex64),
    "meta tensor": lambda: torch.empty(2, 3, device="meta"),
    "layer class": lambda: nn.Linear,
    "digital layer": lambda: nn.Linear(2, 2),
    "bare module": lambda: nn.Module(),
    "hardware": lambda: pg.presets.pcm_inference(),
    "hardware class": lambda: pg.Hardware,
}
"""Makes each bad value by its name."""

CHANGED: dict[str, Callable[[Tensor], Any]] = {
    "as complex": lambda x: x.to(torch.complex64),
    "integers": lambda x: x.to(torch.int64),
    "float64": lambda x: x.double(),
    "float16": lambda x: x.half(),
    "bool": lambda x: x > 0,
    "on meta": lambda x: x.to("meta"),
    "sparse": lambda x: x.to_sparse(),
    "all nan": lambda x: x * math.nan,
    "huge": lambda x: x * 10**9,
    "numpy": lambda x: x.numpy(),
    "list": lambda x: x.tolist(),
    "one dimension more": lambda x: x[None, None],
    "one dimension less": lambda x: x[0],
    "shorter": lambda x: x[..., :-1],
    "without elements": lambda x: x[:0],
    "requires grad": lambda x: x.requires_grad_() if x.is_floating_point() else x,
}
"""Changes a valid tensor into one that is wrong, or that must be accepted, by name."""
