"""Parameters that show a weight and notice when somebody writes them.

A weight on devices is what the devices store; the parameter is a copy. Torch counts writes in a tensor's version, also
those through views, ``detach()``, ``torch.nn.init`` and fused operations. Writes through ``.data``, numpy or DLPack are
not counted, so handing out such an alias makes the weight suspect, and its next use compares values.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple, final
from weakref import WeakSet

import torch
from torch import Tensor, nn

from phasegrad.stores.analog_weight import AnalogWeight

if TYPE_CHECKING:
    from typing_extensions import Self

    from phasegrad.stores.base import StoredLayer

_SUSPECT = -1  # no tensor has this version


class WatchedWeight(nn.Parameter):
    """Base class of parameters that only their devices refresh, or nothing at all.

    Attributes:
        devices: the devices whose weight the parameter shows; ``None`` if a frozen mean was made from it.
        users: the layers that registered the parameter as their weight.
        successor: the parameter that replaced this one in a move to another device, for other layers that are tied to
            it; or ``None``.
        loaded_alone: whether the devices were loaded from a state dict without this parameter.
    """

    devices: AnalogWeight | None
    users: WeakSet[StoredLayer]
    successor: WatchedWeight | None
    loaded_alone: bool
    _seen: int
    _loaded: int

    @classmethod
    def wrap(cls, data: Tensor, devices: AnalogWeight | None, requires_grad: bool) -> Self:
        """Make a parameter that shares the memory of ``data`` and is suspect until it is refreshed."""
        with torch.inference_mode(False):  # torch counts no writes of an inference tensor
            data = data.clone() if data.is_inference() else Tensor.detach(data)
            weight: Self = torch.Tensor._make_subclass(cls, data, requires_grad)
        weight.devices, weight.users, weight.successor = devices, WeakSet(), None
        weight._seen, weight._loaded, weight.loaded_alone = _SUSPECT, _SUSPECT, False
        return weight

    @property
    def is_current(self) -> bool:
        """Whether nobody can have written the parameter since it was refreshed."""
        return self._version == self._seen

    @property
    def is_loaded(self) -> bool:
        """Whether loading a state dict was the last write."""
        return self._version == self._loaded

    def mark_current(self) -> None:
        """Take the present value for that of the devices."""
        self._seen = self._version

    def mark_loaded(self, with_value: bool = True) -> None:
        """Note that the state of the devices was loaded, with the value or without."""
        self._seen, self._loaded, self.loaded_alone = _SUSPECT, self._version, not with_value

    def _suspect(self) -> None:
        self._seen = self._loaded = _SUSPECT

    @property
    def memory(self) -> Tensor:
        """The value, for the devices to refresh without a count of versions."""
        return super().data

    @property
    def data(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The value, as in torch; the next use of the weight compares it with the devices."""
        self._suspect()
        return super().data

    @data.setter
    def data(self, value: Tensor) -> None:
        self._suspect()
        torch.Tensor.data.__set__(self, value)  # type: ignore[attr-defined]

    def detach(self) -> Tensor:
        """The value without gradient, as in torch; it may be written through numpy, which torch does not count."""
        self._suspect()
        return super().detach()

    def numpy(self, *, force: bool = False) -> Any:
        """The value as an array of numpy, as in torch; the next use of the weight compares it with the devices."""
        self._suspect()
        return super().numpy(force=force)

    def __dlpack__(self, *arguments: Any, **named: Any) -> Any:
        self._suspect()
        return super().__dlpack__(*arguments, **named)

    def like(self, data: Tensor, devices: AnalogWeight | None) -> Self:
        """A parameter of the same kind with another value, for other devices."""
        return self.wrap(data, devices, self.requires_grad)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy with copied devices, which is current if this weight is."""
        if id(self) not in memo:
            with torch.inference_mode(False):
                value = self.memory.clone(memory_format=torch.preserve_format)
            copied = self.like(value, copy.deepcopy(self.devices, memo))
            for name in ("_seen", "_loaded"):
                setattr(copied, name, copied._version if getattr(self, name) == self._version else _SUSPECT)
            copied.loaded_alone = self.loaded_alone
            memo[id(self)] = copied
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A plain parameter, which ``weights_only=True`` reads; a layer that is unpickled wraps it again."""
        return torch._utils._rebuild_parameter, (self.memory, self.requires_grad, OrderedDict())


@final
class ProgrammedWeight(WatchedWeight):
    """The weight of a programmed layer: a copy of what its devices store at their present time."""


@final
class FrozenWeight(WatchedWeight):
    """The digital weight from which the frozen mean of a noiseless layer was made."""


class Assigned(NamedTuple):
    """A parameter that somebody assigned to ``layer.weight``, until the next use programs its value."""

    value: nn.Parameter
    own: WatchedWeight
    """The weight of the layer, which it then registers again, because an optimizer may know it."""
