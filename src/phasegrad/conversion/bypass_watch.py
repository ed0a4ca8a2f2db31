"""Products with weights that do not pass through an analog layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from phasegrad.nn import AnalogComposite, AnalogLayer

_PRODUCTS = frozenset(
    "linear bilinear matmul linalg_matmul linalg_multi_dot __matmul__ __rmatmul__ mm bmm addmm addmm_ addbmm "
    "baddbmm mv addmv dot vdot inner einsum tensordot chain_matmul multi_dot conv1d conv2d conv3d "
    "conv_transpose1d conv_transpose2d conv_transpose3d scaled_dot_product_attention multi_head_attention_forward "
    "_native_multi_head_attention _transformer_encoder_layer_fwd lstm gru rnn_tanh rnn_relu lstm_cell gru_cell "
    "rnn_tanh_cell rnn_relu_cell".split()
)
# The same numbers in another shape, place or precision: a product with these is one with the weight.
_VIEWS = frozenset(
    "t transpose permute movedim view reshape flatten unflatten squeeze unsqueeze expand narrow select chunk split "
    "unbind __getitem__ to float half bfloat16 double type contiguous clone detach cat stack T mT H mH adjoint "
    "swapaxes swapdims data".split()
)

_JOINED = frozenset(("cat", "stack"))


class BypassWarning(UserWarning):
    """A weight takes part in a digital product, so that the hardware is not simulated there."""


def bypasses(net: nn.Module, *inputs: Any, **named: Any) -> dict[str, str]:
    """Products of one forward pass that no tile computes though they multiply with a parameter.

    A model may use the weight of a module without calling it, as ``F.linear(x, self.head.weight)``; then nothing of the
    hardware is in the result. And a module that stayed digital multiplies digitally.

    Args:
        net: a converted net; it is run once in evaluation mode, and left as it was, torch's generator too.
        inputs: of the net.
        named: of the net, by name.

    Returns:
        By the name of a parameter the function that multiplied with it and where that was.

    Examples:
        >>> import phasegrad as pg
        >>> class Model(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.head = nn.Linear(4, 2)
        ...     def forward(self, x):
        ...         return torch.nn.functional.linear(x, self.head.weight)
        >>> bypasses(pg.convert(Model(), pg.presets.pcm_inference()), torch.ones(1, 4))
        {'head.weight': 'linear multiplies with it outside of the forward pass of head; call head(x) instead'}
    """
    modes = {module: module.training for module in net.modules()}
    with ExitStack() as around:
        around.enter_context(torch.random.fork_rng(devices=[]))
        around.enter_context(torch.no_grad())
        found = around.enter_context(watching_bypasses(net.eval()))
        around.callback(lambda: [setattr(module, "training", mode) for module, mode in modes.items()])
        net(*inputs, **named)
    return found


@contextmanager
def watching_bypasses(net: nn.Module) -> Iterator[dict[str, str]]:
    """While this lasts, what passes by the tiles is collected; see :func:`bypasses`."""
    watch = _Watch(net)
    with ExitStack() as around:
        for layer in watch.layers:
            around.callback(layer.register_forward_pre_hook(watch.enter, prepend=True).remove)
            around.callback(layer.register_forward_hook(watch.leave, always_call=True).remove)
        around.enter_context(watch)
        yield watch.found


class _Watch(TorchFunctionMode):
    """Sees every torch function that is called, and whether an analog layer calls it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self.inside: list[nn.Module] = []
        modules = dict(net.named_modules())
        self.layers = [m for m in modules.values() if isinstance(m, AnalogLayer)]
        self.owners = {
            id(p): (f"{name}.{key}".lstrip("."), name, module)
            for name, module in reversed(modules.items())
            for key, p in module._parameters.items()
            if p is not None and not isinstance(module, AnalogComposite)
        }
        for name, module in modules.items():  # of a tied weight it is the analog layer that is passed by
            if isinstance(module, AnalogLayer):
                self.owners[id(module.weight)] = (f"{name}.weight".lstrip("."), name, module)
        self.views: dict[int, tuple[Tensor, int]] = {}  # with the view itself, so that its id stays its own

    def enter(self, module: nn.Module, *_: Any) -> None:
        self.inside.append(module)

    def leave(self, *_: Any) -> None:
        self.inside.pop()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name == "__get__":  # of an attribute
            name = getattr(getattr(func, "__self__", None), "__name__", "")
        if not self.inside and name in _PRODUCTS | _VIEWS:
            used = [self._parameter(t) for t in _tensors((args, kwargs or {}))]
            if name in _JOINED and None in used:  # a parameter among activations, as a learned token
                return result
            for parameter in (p for p in used if p is not None):
                if name in _PRODUCTS:
                    self._report(name, *self.owners[parameter])
                else:
                    self.views.update({id(t): (t, parameter) for t in _tensors(result)})
        return result

    def _parameter(self, tensor: Tensor) -> int | None:
        """The id of the parameter that a tensor is, or is a view of."""
        seen = self.views.get(id(tensor))
        return seen[1] if seen is not None else id(tensor) if id(tensor) in self.owners else None

    def _report(self, function: str, parameter: str, name: str, module: nn.Module) -> None:
        if isinstance(module, AnalogLayer):
            where = f"outside of the forward pass of {name or 'the net'}; call {name or 'it'}(x) instead"
        else:
            where = f"in {name or 'the net'}, a {type(module).__name__}, which is digital"
        self.found.setdefault(parameter, f"{function} multiplies with it {where}")


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
