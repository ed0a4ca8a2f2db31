"""Bypass the dispatcher when nothing intercepts the call.

The dispatcher passes a call to a kernel in Python through boxed arguments: 10 to 40 us per op, several times per
training step, which is more than the kernels of a small layer take. ``call`` first checks whether anything could
intercept the call: a compiler, a mode (fake tensors, tracing), a ``torch.func`` transform, autocast, a tensor that is
not a plain one on the CPU or a GPU, or several devices. If so, and for all other devices, it calls the dispatcher.

Some of these checks read private state of torch. ``mistrusted`` tries them when this module is imported; if one
does not behave as assumed, every call goes through the dispatcher.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import BaseTorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from phasegrad.ops.arguments import GROUPS, flatten
from phasegrad.ops.checks import CHECKS

Kernel = Callable[..., Any]

KERNELS: dict[str, Kernel] = {}  # of the CPU, each with its checks; schema registers them
CUDA_KERNELS: dict[str, Kernel] = {}  # the same of CUDA
GRADIENTS: dict[str, Callable[..., Any]] = {}  # functions of the kernel to run, then the op's arguments

_NESTED = (list, *GROUPS)
_NESTED_TYPES = frozenset(_NESTED)
_PLAIN_TYPES = frozenset((Tensor, nn.Parameter))  # a subclass may have its own __torch_function__
_VALUES = frozenset((int, float, bool, type(None)))
_transform_level: Callable[[], int | None] = getattr(torch._C._functorch, "maybe_current_level", None)  # type: ignore
_logger = logging.getLogger("phasegrad")


_dispatch_keys: Any = getattr(torch._C, "_dispatch_keys", None)


def _keys(tensor: Tensor) -> int:
    return torch._C._dispatch_keys(tensor).raw_repr()


def _unobserved() -> bool:
    return (
        torch._C._len_torch_dispatch_stack() == 0
        and torch._C._len_torch_function_stack() == 0
        and _transform_level() is None
        and torch._C._get_tracing_state() is None
        and not torch.is_autocast_enabled("cpu")
        and not torch.is_autocast_enabled("cuda")
    )


def _wrong_assumption() -> str | None:
    plain = torch.zeros(1, device="cpu")
    if _keys(plain) != _keys(nn.Parameter(plain)):
        return "a parameter has other dispatch keys than a tensor"
    others = {"negated": plain._neg_view(), "sparse": plain.to_sparse(), "meta": plain.to("meta")}
    for name, other in others.items():
        if _keys(other) == _keys(plain):
            return f"a {name} tensor has the dispatch keys of a plain one"
    if torch._C._get_tracing_state() is not None and not torch.jit.is_tracing():
        return "a tracer is reported where there is none"
    for depth, mode in (
        (torch._C._len_torch_dispatch_stack, TorchDispatchMode),
        (torch._C._len_torch_function_stack, BaseTorchFunctionMode),
    ):
        before = depth()  # the program may import phasegrad within a mode
        with mode():
            if depth() != before + 1:
                return f"a {mode.__name__} is not reported"
    inside: list[bool] = []

    def watched(x: Tensor) -> Tensor:
        inside.append(_transform_level() is not None and _keys(x) != _keys(plain))
        return x

    torch.vmap(watched)(plain)
    return None if inside == [True] else "a torch.func transform is not reported"


def mistrusted() -> str | None:
    """Reason why torch's private functions cannot be relied on, or ``None``."""
    try:
        return _wrong_assumption()
    except Exception as error:  # whatever another version of torch may raise
        return f"{type(error).__name__}: {error}"


def _trusted() -> bool:
    reason = mistrusted()
    if reason is not None:
        _logger.warning("phasegrad calls all ops through torch's dispatcher (%s); correct, but slower", reason)
    return reason is None


def _wants_bypass() -> bool:
    wish = os.environ.get("PHASEGRAD_DISPATCH", "")
    if wish not in ("", "always"):
        raise ImportError(f"PHASEGRAD_DISPATCH = {wish!r}; it can be 'always', or unset")
    return wish == ""


_TRUSTED = _trusted()
_BYPASS = _wants_bypass() and _TRUSTED
# A lazy negation, a sparse layout, a transform's wrapper: each adds a key that the dispatcher would act on.
_PLAIN_KEYS = _keys(torch.empty(0, device="cpu")) if _TRUSTED else 0
with torch.inference_mode():  # tensors that are created there lack the keys of autograd, which does nothing there
    _INFERENCE_KEYS = _keys(torch.empty(0, device="cpu")) if _TRUSTED else 0


def in_transform() -> bool:
    """Whether a transform of ``torch.func`` is active, such as ``vmap`` or ``grad``."""
    return _transform_level is not None and _transform_level() is not None


def readable(tensor: Tensor) -> bool:
    """Whether values can be inspected: not a fake or meta tensor, and nothing traces the call."""
    watched = not _TRUSTED or torch.compiler.is_compiling() or _transform_level() is not None
    return (
        not watched
        and not torch.jit.is_tracing()
        and type(tensor) in _PLAIN_TYPES
        and not tensor.is_meta
        and not torch._C._len_torch_dispatch_stack()
    )


def product_operand(x: Tensor, weight: Tensor) -> Tensor | None:
    """The inputs of ``tile_linear`` under autocast: in its dtype on CUDA, where only operands of the product are cast.

    ``None`` if autocast is to choose the dtype of the product alone: on the CPU, where kernels are float32.
    """
    device = x.device.type
    if not torch.is_autocast_enabled(device):
        return x
    if device != "cuda" or weight.dtype != torch.float32:
        return None
    return x.to(torch.get_autocast_dtype(device))


@functools.cache
def _plain_cuda_keys() -> int:
    return _keys(torch.empty(0, device="cuda"))


def _kernel(name: str, arguments: Any) -> Kernel | None:
    """The kernel of an op for plain tensors on one kind of device, or ``None`` if the dispatcher must choose."""
    kernels, keys = KERNELS, _PLAIN_KEYS
    first: Any = arguments[0]
    while isinstance(first, _NESTED) and first:
        first = first[0]
    if isinstance(first, Tensor) and first.is_cuda:
        kernels, keys = CUDA_KERNELS, _plain_cuda_keys()
    return kernels[name] if name in kernels and _plain(arguments, keys) else None


def _plain(arguments: Any, keys: int) -> bool:
    for a in arguments:
        kind = type(a)
        if kind in _VALUES:  # the check of a type is faster than isinstance, and most arguments are numbers
            continue
        if kind in _PLAIN_TYPES:
            found = _dispatch_keys(a).raw_repr()
            if found != keys and not (keys == _PLAIN_KEYS and _is_of_inference(found)):
                return False
        elif kind in _NESTED_TYPES or isinstance(a, _NESTED):
            if not _plain(a, keys):
                return False
        elif isinstance(a, Tensor):
            return False
    return True


def is_plain(tensor: Tensor) -> bool:
    """Whether the dispatcher would do nothing with a tensor but pass it to the kernel of the CPU."""
    if type(tensor) not in _PLAIN_TYPES:
        return False
    keys = _dispatch_keys(tensor).raw_repr()
    return keys == _PLAIN_KEYS or _is_of_inference(keys)


def _is_of_inference(keys: int) -> bool:
    """Whether these are the keys of a plain tensor of inference mode, within it; outside, torch refuses writes."""
    return keys == _INFERENCE_KEYS and torch.is_inference_mode_enabled()


def bypasses() -> bool:
    """Whether calls of ops with plain tensors bypass the dispatcher now."""
    return _BYPASS and not torch.compiler.is_compiling() and _unobserved()


def checked(name: str, function: Kernel) -> Kernel:
    """A function that checks the arguments of an op first."""
    check = CHECKS.get(name)
    if check is None:
        return function

    def op(*arguments: Any) -> Any:
        check(*arguments)
        return function(*arguments)

    return op


def call(name: str, *arguments: Any) -> Any:
    """Run an op, with its gradient."""
    run = _kernel(name, arguments) if bypasses() else None
    if run is None:
        return getattr(torch.ops.phasegrad, name)(*flatten(arguments))
    return GRADIENTS[name](run, *arguments) if name in GRADIENTS else run(*arguments)


def _check_below_autograd() -> None:
    x = torch.zeros(1, requires_grad=True)
    with torch._C._AutoDispatchBelowAutograd():
        y = x + 1.0
    if y.requires_grad or not (x + 1.0).requires_grad:
        raise ImportError(
            f"torch {torch.__version__} records gradients below its Autograd key, so phasegrad's ops would recurse "
            "endlessly; install a version of torch that phasegrad supports"
        )


_check_below_autograd()


def dispatched(name: str) -> Callable[..., Any]:
    """Implementation for the Autograd key: applies the op's gradient and redispatches below the key."""

    def below(*arguments: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return getattr(torch.ops.phasegrad, name)(*arguments)

    def op(*arguments: Any) -> Any:
        return GRADIENTS[name](below, *arguments)

    return op
