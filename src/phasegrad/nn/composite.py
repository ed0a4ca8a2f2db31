"""Counterparts that are made of several analog layers, with digital arithmetic between them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from phasegrad.configuration import check_type
from phasegrad.crossbar import Hardware
from phasegrad.nn.layer import AnalogLayer
from phasegrad.nn.linear import AnalogLinear

if TYPE_CHECKING:
    from typing_extensions import Self


class AnalogComposite(nn.Module, ABC):
    """What the counterpart of a module with several matrices shares; each matrix is an analog layer of its own.

    A float checkpoint of the digital counterpart loads: its keys are renamed to those of the layers.

    Attributes:
        hardware: the hardware of every layer, frozen.
        digital_part: what products of it are computed digitally, and why; ``None`` if none are.
    """

    hardware: Hardware
    digital_part: ClassVar[str | None] = None

    @classmethod
    def from_digital(cls, digital: nn.Module, hardware: Hardware) -> Self:
        """An analog module that takes over the parameters of its digital counterpart (the same objects)."""
        counterpart = cls.__new__(cls)
        counterpart._adopt(digital, hardware)
        return counterpart

    def _adopt(self, digital: nn.Module, hardware: Hardware) -> None:
        nn.Module.__init__(self)
        self.hardware = hardware
        check_type(self, "hardware", Hardware)
        self.training = digital.training
        for name in self._options:
            setattr(self, name, getattr(digital, name))
        self._take(digital)

    def _linear(self, weight: nn.Parameter, bias: nn.Parameter | None) -> AnalogLinear:
        """An analog matrix product of parameters of the digital counterpart."""
        digital = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
        digital.register_parameter("weight", weight)
        digital.register_parameter("bias", bias)
        return AnalogLinear.from_digital(digital.train(self.training), self.hardware)

    # --- what a concrete counterpart supplies ------------------------------------------------------------------

    _options: tuple[str, ...]
    """Attributes that are the digital counterpart's own."""

    @abstractmethod
    def _take(self, digital: nn.Module) -> None:
        """Make the layers."""

    @property
    @abstractmethod
    def _keys(self) -> dict[str, str]:
        """Each parameter's name in the digital counterpart, and here."""

    @abstractmethod
    def _digital(self) -> nn.Module:
        """A digital counterpart with the same options, on the meta device."""

    # --- the way back, and checkpoints --------------------------------------------------------------------------

    def to_digital(self) -> nn.Module:
        """The digital counterpart, with the weights that the layers hold now (the same parameters, clipped)."""
        digital, plain = self._digital(), {}
        for name, layer in self.named_modules(remove_duplicate=False):
            if isinstance(layer, AnalogLayer):
                found = layer.to_digital()
                plain.update({f"{name}.{key}": value for key, value in found._parameters.items()})
        plain.update(self._parameters)
        for theirs, mine in self._keys.items():
            place, _, key = theirs.rpartition(".")
            setattr(digital.get_submodule(place), key, plain[mine])
        return digital.train(self.training)

    def rename_float_keys(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Give the entries of a float checkpoint, in place, the names that they have here."""
        for theirs, mine in self._keys.items():
            if theirs != mine and prefix + theirs in state_dict:
                state_dict[prefix + mine] = state_dict.pop(prefix + theirs)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any, **named: Any) -> None:
        self.rename_float_keys(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *arguments, **named)
