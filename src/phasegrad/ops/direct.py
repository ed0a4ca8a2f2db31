"""Past the dispatcher, where it would only lead to the CPU kernel.

The dispatcher takes a call to a kernel in Python through boxed arguments: 10 to 40 us an op, several times a training
step, which is more than the kernels of a small layer take. So :func:`call` looks first whether
anything could come between: a compiler, a mode (fake tensors, tracing), a ``torch.func`` transform, autocast, a
tensor that is not a plain one of the CPU. Then, and for all other devices, the dispatcher has the call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import maybe_current_level

from phasegrad.ops.arguments import GROUPS, flatten

Kernel = Callable[..., Any]

KERNELS: dict[str, Kernel] = {}  # of the CPU, each with its checks; schema registers them
GRADIENTS: dict[str, Callable[..., Any]] = {}  # take the kernel to run, then the op's arguments

_NESTED = (list, *GROUPS)
_PLAIN_TYPES = (Tensor, nn.Parameter)  # a subclass may have its own __torch_function__


def _keys(tensor: Tensor) -> int:
    return torch._C._dispatch_keys(tensor).raw_repr()


# A lazy negation, a sparse layout, a transform's wrapper: whatever a dispatcher would look at is one more key.
_PLAIN_KEYS = _keys(torch.empty(0, device="cpu"))


def _unobserved() -> bool:
    return (
        torch._C._len_torch_dispatch_stack() == 0
        and torch._C._len_torch_function_stack() == 0
        and maybe_current_level() is None
        and torch._C._get_tracing_state() is None
        and not torch.is_autocast_enabled("cpu")
    )


def readable(tensor: Tensor) -> bool:
    """Whether a check may look at values: there are some, and no compiler, transform or tracer stands between."""
    watched = torch.compiler.is_compiling() or maybe_current_level() is not None or torch.jit.is_tracing()
    return (
        not watched and type(tensor) in _PLAIN_TYPES and not tensor.is_meta and not torch._C._len_torch_dispatch_stack()
    )


def _plain(arguments: Any) -> bool:
    for a in arguments:
        if isinstance(a, Tensor):
            if type(a) not in _PLAIN_TYPES or _keys(a) != _PLAIN_KEYS:
                return False
        elif isinstance(a, _NESTED) and not _plain(a):
            return False
    return True


def call(name: str, *arguments: Any) -> Any:
    """Run an op, with its gradient."""
    if torch.compiler.is_compiling() or name not in KERNELS or not _unobserved() or not _plain(arguments):
        return getattr(torch.ops.phasegrad, name)(*flatten(arguments))
    run = KERNELS[name]
    return GRADIENTS[name](run, *arguments) if name in GRADIENTS else run(*arguments)


def dispatched(name: str) -> Callable[..., Any]:
    """What stands at an op's Autograd key: its gradient, around what the dispatcher finds below that key."""

    def below(*arguments: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return getattr(torch.ops.phasegrad, name)(*arguments)

    def op(*arguments: Any) -> Any:
        return GRADIENTS[name](below, *arguments)

    return op
