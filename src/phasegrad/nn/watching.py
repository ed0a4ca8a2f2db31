"""Whether anything watches the calls of a module, so that they must not be computed in another way."""

from __future__ import annotations

from torch import nn
from torch.nn.modules import module

from phasegrad.ops import profiling

_HOOKS = (
    "_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks",
)  # fmt: skip


def is_called_plainly(layer: nn.Module) -> bool:
    """Whether a call of the module is its ``forward`` and nothing more: no hooks, observers or other ``forward``."""
    state = vars(layer)
    watched = any(state[name] for name in _HOOKS) or module._has_any_global_hook() or profiling.are_observed()
    return not watched and "forward" not in state
