"""The registry of analog counterparts of digital modules."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
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
from phasegrad.nn.lazy import RANGES, becomes_analog, is_lazy
from phasegrad.nn.linear import TransposedLinear

Make: TypeAlias = Callable[[nn.Module, Hardware], nn.Module]
"""Function from a digital module and the hardware to a counterpart that is or contains an analog layer."""

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
# Classes of optional dependencies, by qualified name, so that the dependencies need not be imported.
_COUNTERPARTS_BY_NAME: dict[str, Make] = {"transformers.pytorch_utils.Conv1D": AnalogTransposedLinear.from_digital}
_REASONS_WITHOUT_COUNTERPART: dict[type[nn.Module], str] = {
    nn.Embedding: "a look-up of rows, not a product; register AnalogEmbedding to read tiles",
}
LAZY = "its shape is not known before the first forward pass; run the model once: it is converted then"
"""Why a lazy layer that becomes analog in its first forward pass is digital until then."""
_REGISTERED: OrderedDict[int, tuple[type[nn.Module], Make]] = OrderedDict()


def register_counterpart(module_type: type[nn.Module], make: Make) -> RemovableHandle:
    """Register or replace the function with which [`convert`][phasegrad.convert] converts a module type.

    The type must match exactly, because a subclass may compute something else. ``make`` converts the module including
    its submodules. ``phasegrad.to_digital`` calls the counterpart's ``to_digital()`` if it has that method, and
    otherwise converts each analog layer inside it back separately.

    Args:
        module_type: type of the digital modules.
        make: function that is called with a module of a copy of the model, and with the hardware. It may reuse the
            parameters of the module, so that shared parameters stay shared.

    Returns:
        A handle: ``handle.remove()`` or the end of a ``with`` block removes the registration.

    Raises:
        TypeError: ``module_type`` is not a subclass of ``nn.Module``, or ``make`` is not callable.

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
    handle = RemovableHandle(_REGISTERED)
    _REGISTERED[handle.id] = (module_type, make)
    return handle


def counterpart_of(module: nn.Module) -> Make | None:
    """The function that creates the counterpart of a module; ``None`` if there is none."""
    kind = type(module)
    for registered, make in reversed(_REGISTERED.values()):
        if registered is kind:
            return make
    return _COUNTERPARTS.get(kind) or _COUNTERPARTS_BY_NAME.get(f"{kind.__module__}.{kind.__qualname__}")


def make_counterpart(digital: nn.Module, hardware: Hardware) -> nn.Module:
    """Create the counterpart of a module that has one.

    Raises:
        TypeError: a registered function returned a module without an analog layer.
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
    """Why a module cannot be converted; ``None`` if it can."""
    kind = type(module)
    if counterpart_of(module) is not None:
        return _what_is_lost(module)
    if lazy_counterpart(module) is not None:
        return _what_is_lost(module) or LAZY
    known = (*(kind for kind, _ in _REGISTERED.values()), *_COUNTERPARTS)
    counterpart = next((t.__name__ for t in known if issubclass(kind, t)), None)
    if counterpart is not None:
        return f"{kind.__name__} is a subclass of {counterpart} and may compute something else"
    return _REASONS_WITHOUT_COUNTERPART.get(kind) or f"no analog counterpart of {kind.__name__}"


def lazy_counterpart(module: nn.Module) -> type[nn.Module] | None:
    """The class that a lazy layer gets in its first forward pass, if that class has a counterpart."""
    kind = module.cls_to_become if isinstance(module, LazyModuleMixin) and is_lazy(module) else None
    return kind if kind in _COUNTERPARTS or any(kind is k for k, _ in _REGISTERED.values()) else None


def _what_is_lost(module: nn.Module) -> str | None:
    """What a counterpart would not compute or keep of a module that has one; ``None`` if nothing."""
    return what_users_added(module) or (
        "its weight is computed by a parametrization or a hook" if _has_computed_parameters(module) else None
    )


def what_users_added(module: nn.Module) -> str | None:
    """What users changed in this instance of a class that has a counterpart; ``None`` if nothing.

    It is a reason to leave the module digital, because the counterpart would compute something else.
    """
    if counterpart_of(module) is None and lazy_counterpart(module) is None:
        return None
    replaced = next((key for key in vars(module) if _is_method(module, key) and key != "_compiled_call_impl"), None)
    if replaced is not None and not becomes_analog(module):
        return f"its {replaced} was replaced on the instance, and may compute something else"
    if any(type(module) is kind for kind, _ in _REGISTERED.values()) or _has_computed_parameters(module):
        return None  # the user's function knows what the module has
    own = _standard_parts(module).union(RANGES if becomes_analog(module) else ())
    added = sorted(set(_parts(module)) - own)
    if added:
        return f"{added[0]} was added to the {type(module).__name__}, and its analog counterpart has no place for it"
    return None


def _is_method(module: nn.Module, name: str) -> bool:
    return callable(getattr(type(module), name, None))


def _parts(module: nn.Module) -> list[str]:
    """Names of the parameters, buffers and submodules of a module, those inside its submodules included."""
    names = [f"{n}.{key}".lstrip(".") for n, m in module.named_modules() for key in (*m._parameters, *m._buffers)]
    return names + [n for n, _ in module.named_modules() if n]


def _standard_parts(module: nn.Module) -> set[str]:
    """The names of ``_parts`` of a module to which nothing was added."""
    if isinstance(module, nn.RNNBase):
        return {key for keys in module._all_weights for key in keys}
    if isinstance(module, nn.RNNCellBase):
        return {"weight_ih", "weight_hh", "bias_ih", "bias_hh"}
    if isinstance(module, nn.MultiheadAttention):
        weights = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias")
        return {*weights, "bias_k", "bias_v", "out_proj", "out_proj.weight", "out_proj.bias"}
    return {"weight", "bias"}


def _has_computed_parameters(module: nn.Module) -> bool:
    """Whether a parametrization or a hook computes a parameter, as weight normalisation does."""
    names = {name.rpartition(".")[2] for name in _standard_parts(module)}
    return any(
        is_parametrized(part) or any(isinstance(vars(part).get(name), Tensor) for name in names)
        for part in module.modules()
    )
