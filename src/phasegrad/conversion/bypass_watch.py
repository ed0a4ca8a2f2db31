"""Detection of matrix products with weights that bypass the analog layers."""

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
# Functions that change only the shape, device or dtype of a weight: a product with the result uses the weight.
_VIEWS = frozenset(
    "t transpose permute movedim view reshape flatten unflatten squeeze unsqueeze expand narrow select chunk split "
    "unbind __getitem__ to float half bfloat16 double type contiguous clone detach cat stack T mT H mH adjoint "
    "swapaxes swapdims data".split()
)
_JOINS = frozenset(("cat", "stack"))


class BypassWarning(UserWarning):
    """A weight is used in a digital product, where the hardware is not simulated."""


def bypasses(net: nn.Module, *inputs: Any, **named: Any) -> dict[str, str]:
    """Find the products of one forward pass that use a parameter but bypass the tiles.

    A model may use the weight of a module without calling the module, as in ``F.linear(x, self.head.weight)``; the
    result then contains none of the hardware's effects. Modules that stayed digital multiply digitally too.

    Args:
        net: a converted net. It is run once in evaluation mode; the net and torch's CPU generator are left unchanged.
        inputs: positional inputs of the net.
        named: keyword inputs of the net.

    Returns:
        The function that used a parameter and where it did so, by the name of the parameter.

    Examples:
        >>> import phasegrad as pg
        >>> class Model(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.head = nn.Linear(4, 2)
        ...     def forward(self, x):
        ...         return torch.nn.functional.linear(x, self.head.weight)
        >>> bypasses(pg.convert(Model(), pg.presets.pcm_inference()), torch.ones(1, 4))
        {'head.weight': 'linear multiplies by it outside the forward pass of head; call head(x) instead'}
    """
    modes = {module: module.training for module in net.modules()}
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(torch.no_grad())
        found = stack.enter_context(watching_bypasses(net.eval()))
        stack.callback(lambda: [setattr(module, "training", mode) for module, mode in modes.items()])
        net(*inputs, **named)
    return found


@contextmanager
def watching_bypasses(net: nn.Module) -> Iterator[dict[str, str]]:
    """Collect the products that bypass the tiles within the context; see ``bypasses``."""
    detector = _BypassDetector(net)
    with ExitStack() as stack:
        for layer in detector.layers:
            stack.callback(layer.register_forward_pre_hook(detector.enter_layer, prepend=True).remove)
            stack.callback(layer.register_forward_hook(detector.leave_layer, always_call=True).remove)
        stack.enter_context(detector)
        yield detector.found


class _BypassDetector(TorchFunctionMode):
    """Records products with parameters that are computed outside the forward pass of an analog layer."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self.active_layers: list[nn.Module] = []
        modules = dict(net.named_modules())
        self.layers = [m for m in modules.values() if isinstance(m, AnalogLayer)]
        self.owners = {
            id(p): (f"{name}.{key}".lstrip("."), name, module)
            for name, module in reversed(modules.items())
            for key, p in module._parameters.items()
            if p is not None and not isinstance(module, AnalogComposite)
        }
        for name, module in modules.items():  # report a tied weight as that of its analog layer
            if isinstance(module, AnalogLayer):
                self.owners[id(module.weight)] = (f"{name}.weight".lstrip("."), name, module)
        self.views: dict[int, tuple[Tensor, int]] = {}  # keep the view alive, so that its id is not reused

    def enter_layer(self, module: nn.Module, *_: Any) -> None:
        self.active_layers.append(module)

    def leave_layer(self, *_: Any) -> None:
        self.active_layers.pop()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name == "__get__":  # access to an attribute such as x.T
            name = getattr(getattr(func, "__self__", None), "__name__", "")
        if not self.active_layers and name in _PRODUCTS | _VIEWS:
            used = [self._parameter_id(t) for t in _tensors((args, kwargs or {}))]
            if name in _JOINS and None in used:  # a parameter joined with activations, such as a learned token
                return result
            for parameter in (p for p in used if p is not None):
                if name in _PRODUCTS:
                    self._report(name, *self.owners[parameter])
                else:
                    self.views.update({id(t): (t, parameter) for t in _tensors(result)})
        return result

    def _parameter_id(self, tensor: Tensor) -> int | None:
        """The id of the parameter that a tensor is or is derived from."""
        view = self.views.get(id(tensor))
        return view[1] if view is not None else id(tensor) if id(tensor) in self.owners else None

    def _report(self, function: str, parameter: str, name: str, module: nn.Module) -> None:
        if isinstance(module, AnalogLayer):
            where = f"outside the forward pass of {name or 'the net'}; call {name or 'it'}(x) instead"
        else:
            where = f"in {name or 'the net'}, a {type(module).__name__}, which is digital"
        self.found.setdefault(parameter, f"{function} multiplies by it {where}")


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
