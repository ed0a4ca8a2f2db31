"""Which operators multiply by a matrix, and by which of their arguments."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

# Words of operator names: mm, bmm, addmm, hspmm, conv2d, slow_conv3d, lstm, _scaled_dot_product_flash_attention, ...
_PRODUCT_WORDS = re.compile(
    r"\w*mm|addmv|mv|v?dot|vecdot|matmul|(bi|tri)?linear\w*|conv\w*|lstm|gru|rnn|attention|transformer|cdist|einsum|"
    r"tensordot|inner|euclidean|solve|lstsq"
)
_NOT_PRODUCTS = re.compile(r"upsample|interpolate|grid_sampl|linear_prepack|convert|comm$|norm|_to_")
_OWN = ("aten", "prims", "prim", "profiler", "phasegrad", "inductor", "rngprims")
_NO_FACTORS = re.compile(r"bias|mask|scale|zero_point|b_[ih]h|offs|offsets|indices|out|hx|cx|norm_\w+|batch_sizes")
_ADDENDS = re.compile(r"_?(sparse_)?(add|badd|sspadd)")
_LOOK_UPS = frozenset(("index", "index_select", "gather", "take"))


@functools.cache
def multiplies(op: Any) -> bool:
    """Whether an operator multiplies by matrices; one of another library may."""
    namespace, _, name = op._schema.name.partition("::")
    if namespace not in _OWN and namespace not in ("quantized", "mkldnn", "torchvision"):
        return True
    if namespace in ("phasegrad", "profiler") or _NOT_PRODUCTS.search(name):
        return False
    if "embedding_bag" in name:
        return True
    return any(_PRODUCT_WORDS.fullmatch(word) for word in name.strip("_").split("_"))


@functools.cache
def looks_up(op: Any) -> bool:
    """Whether an operator chooses parts of its first argument by indices."""
    return op._schema.name.partition("::")[2] in _LOOK_UPS


@functools.cache
def embeds(op: Any) -> bool:
    """Whether an operator reads embeddings, which are activations also where their tokens are constant."""
    return op._schema.name == "aten::embedding"


@functools.cache
def draws(op: Any) -> bool:
    """Whether the result of an operator is random."""
    return torch.Tag.nondeterministic_seeded in op.tags


def factors(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors that an operator multiplies; not what it adds, such as a bias."""
    name = op._schema.name.partition("::")[2]
    found = []
    for i, argument in enumerate(op._schema.arguments):
        value = args[i] if i < len(args) else kwargs.get(argument.name)
        if (i == 0 and _ADDENDS.match(name)) or _NO_FACTORS.fullmatch(argument.name):
            continue
        found += list(tensors(value))
    return found


def only_scales(op: Any, multiplied: list[Tensor]) -> bool:
    """Whether a matrix product sums over an axis of length 1, as where rotary embeddings scale positions."""
    return op._schema.name.endswith("mm") and bool(multiplied) and multiplied[0].shape[-1] == 1


def function_name(op: Any, weight: Tensor | None) -> str:
    """The name of a product as users know it."""
    name = op._schema.name.partition("::")[2].strip("_")
    if name not in ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "addbmm"):
        return name
    if weight is None or weight.dim() != 2 or weight.layout is not torch.strided:
        return "matmul"
    return "linear" if weight.stride(0) == 1 and weight.shape[1] > 1 else "matmul"


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors(part)
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))
