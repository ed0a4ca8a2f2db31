"""Which module has which analog counterpart."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils.hooks import RemovableHandle

from phasegrad.crossbar import Hardware
from phasegrad.nn import (
    AnalogConv1d,
    AnalogConv2d,
    AnalogConv3d,
    AnalogConvTranspose1d,
    AnalogConvTranspose2d,
    AnalogConvTranspose3d,
    AnalogGRU,
    AnalogGRUCell,
    AnalogLayer,
    AnalogLinear,
    AnalogLSTM,
    AnalogLSTMCell,
    AnalogMultiheadAttention,
    AnalogRNN,
    AnalogRNNCell,
    AnalogTransposedLinear,
)
from phasegrad.nn.linear import TransposedLinear

Make: TypeAlias = Callable[[nn.Module, Hardware], nn.Module]
"""From a digital module and the hardware to its counterpart, which has analog layers in it or is one."""

_COUNTERPARTS: dict[type[nn.Module], Make] = {
    nn.Linear: AnalogLinear.from_digital,
    nn.Conv1d: AnalogConv1d.from_digital,
    nn.Conv2d: AnalogConv2d.from_digital,
    nn.Conv3d: AnalogConv3d.from_digital,
    nn.ConvTranspose1d: AnalogConvTranspose1d.from_digital,
    nn.ConvTranspose2d: AnalogConvTranspose2d.from_digital,
    nn.ConvTranspose3d: AnalogConvTranspose3d.from_digital,
    TransposedLinear: AnalogTransposedLinear.from_digital,
    nn.MultiheadAttention: AnalogMultiheadAttention.from_digital,
    nn.RNN: AnalogRNN.from_digital,
    nn.LSTM: AnalogLSTM.from_digital,
    nn.GRU: AnalogGRU.from_digital,
    nn.RNNCell: AnalogRNNCell.from_digital,
    nn.LSTMCell: AnalogLSTMCell.from_digital,
    nn.GRUCell: AnalogGRUCell.from_digital,
}
# Classes of libraries that need not be installed, by where they are defined.
_NAMED: dict[str, Make] = {"transformers.pytorch_utils.Conv1D": AnalogTransposedLinear.from_digital}
_OPTIONAL: dict[type[nn.Module], str] = {
    nn.Embedding: "a look-up of rows, with no product; register AnalogEmbedding to read tiles",
}
_registered: OrderedDict[int, tuple[type[nn.Module], Make]] = OrderedDict()


def register_counterpart(module_type: type[nn.Module], make: Make) -> RemovableHandle:
    """Let :func:`phasegrad.convert` make counterparts of a module type, or other ones than it would.

    The type must match exactly: a subclass may compute something else. A module is converted as a whole, so ``make`` is
    responsible for its submodules. :func:`phasegrad.to_digital` calls the counterpart's ``to_digital()`` if it has that
    method, and otherwise converts the analog layers inside it back one by one.

    Args:
        module_type: of the digital modules.
        make: called with such a module, of a copy of the model, and the hardware. Its parameters may be taken over:
            what is shared then stays shared.

    Returns:
        A handle: ``handle.remove()`` ends it, and so does the end of a ``with`` block.

    Raises:
        TypeError: ``module_type`` is no module type, or ``make`` cannot be called.

    Examples:
        >>> import phasegrad as pg
        >>> class Scaled(nn.Linear):
        ...     def forward(self, x):
        ...         return 2 * super().forward(x)
        >>> def make(digital, hardware):
        ...     return nn.Sequential(AnalogLinear.from_digital(digital, hardware), Double())
        >>> class Double(nn.Module):
        ...     def forward(self, x):
        ...         return 2 * x
        >>> with register_counterpart(Scaled, make):
        ...     net = pg.convert(nn.Sequential(Scaled(4, 4)), pg.presets.pcm_inference())
        >>> [type(m).__name__ for m in net[0]]
        ['AnalogLinear', 'Double']
    """
    if not (isinstance(module_type, type) and issubclass(module_type, nn.Module)):
        raise TypeError(
            f"register_counterpart: module_type = {module_type!r}; it must be a subclass of torch.nn.Module"
        )
    if not callable(make):
        raise TypeError(f"register_counterpart: make = {make!r}; it must be a function of a module and a Hardware")
    handle = RemovableHandle(_registered)
    _registered[handle.id] = (module_type, make)
    return handle


def counterpart_of(module: nn.Module) -> Make | None:
    """What makes the counterpart of a module; ``None`` if it has none."""
    kind = type(module)
    for registered, make in reversed(_registered.values()):
        if registered is kind:
            return make
    return _COUNTERPARTS.get(kind) or _NAMED.get(f"{kind.__module__}.{kind.__qualname__}")


def make_counterpart(digital: nn.Module, hardware: Hardware) -> nn.Module:
    """The counterpart of a module that has one.

    Raises:
        TypeError: what a registered function made has no analog layer in it.
    """
    make = counterpart_of(digital)
    assert make is not None
    counterpart = make(digital, hardware)
    if not isinstance(counterpart, nn.Module) or not any(isinstance(m, AnalogLayer) for m in counterpart.modules()):
        raise TypeError(
            f"convert: the counterpart registered for {type(digital).__name__} is a {type(counterpart).__name__} "
            "without an analog layer; it must be a module that contains one, such as "
            "AnalogLinear.from_digital(digital, hardware)"
        )
    return counterpart


def why_digital(module: nn.Module) -> str | None:
    """Why a module has no counterpart; ``None`` if it has one."""
    kind = type(module)
    if counterpart_of(module) is not None:
        return "its weight is computed" if _computed(module) else None
    known = (*(kind for kind, _ in _registered.values()), *_COUNTERPARTS)
    counterpart = next((t.__name__ for t in known if issubclass(kind, t)), None)
    if counterpart is not None:
        return f"{kind.__name__} is a subclass of {counterpart} and may compute something else"
    return _OPTIONAL.get(kind) or f"no analog counterpart of {kind.__name__}"


def _computed(module: nn.Module) -> bool:
    """Whether a hook puts a tensor where the module looks for a parameter, as weight normalisation does."""
    return any(
        is_parametrized(part) or any(isinstance(value, Tensor) for value in vars(part).values())
        for part in module.modules()
    )
