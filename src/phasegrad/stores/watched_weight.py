"""Parameters that show a weight and notice when somebody writes them.

A weight on devices is what the devices store; the parameter is a copy. Torch counts writes in a tensor's version, also
those through views, ``detach()``, ``torch.nn.init`` and fused operations. Writes through ``.data``, numpy or DLPack are
not counted, so handing out such an alias takes a checksum, and the next use of the weight compares it.
"""

from __future__ import annotations

import copy
import sys
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple, final
from weakref import WeakSet

import torch
from torch import Tensor, nn

from phasegrad.ops.workspace import is_alone
from phasegrad.stores.analog_weight import AnalogWeight

if TYPE_CHECKING:
    from typing_extensions import Self

    from phasegrad.stores.base import StoredLayer

_UNKNOWN = -1  # no tensor has this version
_BLOCK = 1 << 20  # values per block of a checksum
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


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
    _checksum: int | None

    @classmethod
    def wrap(cls, data: Tensor, devices: AnalogWeight | None, requires_grad: bool) -> Self:
        """Make a parameter that shares the memory of ``data`` whose value is unknown until it is refreshed."""
        with torch.inference_mode(False):  # torch counts no writes of an inference tensor
            data = data.clone() if data.is_inference() else Tensor.detach(data)
            weight: Self = torch.Tensor._make_subclass(cls, data, requires_grad)
        weight.devices, weight.users, weight.successor = devices, WeakSet(), None
        weight._seen, weight._loaded, weight._checksum, weight.loaded_alone = _UNKNOWN, _UNKNOWN, None, False
        return weight

    @property
    def is_current(self) -> bool:
        """Whether nobody can have written the parameter since it was refreshed."""
        return self._version == self._seen and self._checksum is None

    @property
    def was_loaded_last(self) -> bool:
        """Whether loading a state dict was the last write that is known."""
        return self._version == self._loaded

    def mark_current(self) -> None:
        """Take the present value for that of the devices."""
        self._seen, self._loaded = self._version, _UNKNOWN
        self._watch_alias()

    def _watch_alias(self) -> None:
        """Keep a checksum while somebody holds an alias that was handed out, and none otherwise."""
        if self._checksum is not None:
            self._checksum = None if is_alone(self.memory) else _checksum(self.memory)

    @property
    def is_unwritten(self) -> bool:
        """Whether nobody has written the parameter since it was refreshed; compares the value if there is an alias."""
        self.check_aliases()
        return self._version == self._seen

    def mark_loaded(self, with_value: bool = True) -> None:
        """Note that the state of the devices was loaded, with the value or without."""
        self._seen, self._loaded = _UNKNOWN, self._version
        self._watch_alias()
        self.loaded_alone = not with_value

    def _hand_out(self) -> None:
        """Remember the value, because whoever receives an alias of it may write without a count of versions."""
        if (
            self._checksum is not None
            or self._version not in (self._seen, self._loaded)
            or torch.compiler.is_compiling()
        ):
            return
        if torch._C._len_torch_dispatch_stack() > 0:  # such as that of fake tensors, which have no values
            self._seen = self._loaded = _UNKNOWN
        else:
            self._checksum = _checksum(self.memory)

    def check_aliases(self) -> None:
        """Compare the value with the checksum that was taken when an alias was handed out."""
        if self._checksum is not None:
            if _checksum(self.memory) != self._checksum:
                self._seen = self._loaded = _UNKNOWN
            self._watch_alias()

    @property
    def memory(self) -> Tensor:
        """The value, for the devices to refresh without a count of versions."""
        return super().data

    @property
    def data(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The value, as in torch; the next use of the weight looks whether it was written."""
        self._hand_out()
        return super().data

    @data.setter
    def data(self, value: Tensor) -> None:
        self._hand_out()
        torch.Tensor.data.__set__(self, value)  # type: ignore[attr-defined]

    def detach(self) -> Tensor:
        """The value without gradient, as in torch; it may be written through numpy, which torch does not count."""
        self._hand_out()
        if sys._getframe(1).f_code is nn.Parameter.__new__.__code__:
            return self._as_parameter()
        return super().detach()

    def _as_parameter(self) -> Self:
        """The result of ``nn.Parameter(weight)``, which torch requires to be of this type."""
        return self.wrap(self, None, requires_grad=False)

    def numpy(self, *, force: bool = False) -> Any:
        """The value as an array of numpy, as in torch; the next use of the weight looks whether it was written."""
        self._hand_out()
        return super().numpy(force=force)

    def __dlpack__(self, *arguments: Any, **named: Any) -> Any:
        self._hand_out()
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
                setattr(copied, name, copied._version if getattr(self, name) == self._version else _UNKNOWN)
            copied._checksum, copied.loaded_alone = self._checksum, self.loaded_alone
            memo[id(self)] = copied
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A plain parameter, which ``weights_only=True`` reads; a layer that is unpickled wraps it again."""
        return torch._utils._rebuild_parameter, (  # type: ignore[attr-defined]
            self.memory,
            self.requires_grad,
            OrderedDict(),
        )


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


@torch.no_grad()
def _checksum(value: Tensor) -> int:
    """A number that changes with any bit, and when values change places."""
    bits = value.contiguous().flatten().view(torch.uint8)
    bits = bits.view(_INTEGERS.get(value.element_size(), torch.uint8))
    total = 0
    for start in range(0, bits.numel(), _BLOCK):
        block = bits[start : start + _BLOCK].long()
        total = hash((total, int((block * torch.arange(1, 2 * block.numel(), 2, device=block.device)).sum())))
    return total
