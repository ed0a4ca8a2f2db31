"""Counterparts that consist of several analog layers, with digital arithmetic between them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from phasegrad.configuration import check_type
from phasegrad.crossbar import Hardware
from phasegrad.crossbar.materialisation import loses_values
from phasegrad.nn import materialisation
from phasegrad.nn.layer import AnalogLayer, analog_layers
from phasegrad.nn.linear import AnalogLinear

if TYPE_CHECKING:
    from typing_extensions import Self


class AnalogComposite(nn.Module, ABC):
    """Base class for counterparts of modules with several matrices; each matrix is a separate analog layer.

    A float checkpoint of the digital counterpart can be loaded: its keys are renamed to those of the layers.

    Attributes:
        digital_part: the products that are computed digitally, and why; ``None`` if there are none.
    """

    digital_part: ClassVar[str | None] = None

    @classmethod
    def from_digital(cls, digital: nn.Module, hardware: Hardware) -> Self:
        """Create the analog module from its digital counterpart; the parameters are the same objects."""
        counterpart = cls.__new__(cls)
        counterpart._init_from_digital(digital, hardware)
        return counterpart

    def _init_from_digital(self, digital: nn.Module, hardware: Hardware) -> None:
        nn.Module.__init__(self)
        self._first_hardware = hardware
        check_type(self, "hardware", Hardware)
        self.training = digital.training
        for name in self._options:
            setattr(self, name, getattr(digital, name))
        self._make_layers(digital)

    @property
    def hardware(self) -> Hardware:
        """The hardware of every layer; that of a single layer may be replaced, as by ``optimise_splits``.

        Raises:
            ValueError: the layers have different hardware.
        """
        layers = analog_layers(self)
        found = [layer.hardware for layer in layers.values()] or [self._first_hardware]
        if any(hardware != found[0] for hardware in found):
            first, *others = layers
            raise ValueError(
                f"{type(self).__name__}: its layers have different hardware, so it has no hardware of its own; read "
                f"hardware of {first}, {', '.join(others)}, as in phasegrad.nn.analog_layers(net)"
            )
        return found[0]

    def _linear(self, weight: nn.Parameter, bias: nn.Parameter | None) -> AnalogLinear:
        """An analog linear layer with parameters of the digital counterpart."""
        digital = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
        digital.register_parameter("weight", weight)
        digital.register_parameter("bias", bias)
        return AnalogLinear.from_digital(digital.train(self.training), self.hardware)

    _options: tuple[str, ...]
    """Names of the attributes that are copied from the digital counterpart."""

    @abstractmethod
    def _make_layers(self, digital: nn.Module) -> None:
        """Create the analog layers from the parameters of the digital counterpart."""

    @property
    @abstractmethod
    def _key_map(self) -> dict[str, str]:
        """The name of each parameter in this module, by its name in the digital counterpart."""

    @abstractmethod
    def _make_digital(self) -> nn.Module:
        """Create a digital counterpart with the same options on the meta device."""

    def to_digital(self) -> nn.Module:
        """The digital counterpart with the present weights of the layers (the same parameters, clipped)."""
        digital, parameters = self._make_digital(), {}
        for name, layer in self.named_modules(remove_duplicate=False):
            if isinstance(layer, AnalogLayer):
                found = layer.to_digital()
                parameters.update({f"{name}.{key}": value for key, value in found._parameters.items()})
        parameters.update(self._parameters)
        for theirs, mine in self._key_map.items():
            module, _, key = theirs.rpartition(".")
            setattr(digital.get_submodule(module), key, parameters[mine])
        return digital.train(self.training)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise the parameters as the digital counterpart does, and everything else as in new layers.

        Raises:
            ValueError: a layer is programmed or noiseless.
        """
        layers = [layer for layer in self.modules() if isinstance(layer, AnalogLayer)]
        for layer in layers:
            materialisation.refuse_programmed(layer)
        digital, mine = self._make_digital(), dict(self.named_parameters(remove_duplicate=False))
        for theirs, name in self._key_map.items():
            module, _, key = theirs.rpartition(".")
            setattr(digital.get_submodule(module), key, mine.get(name))
        for module in (*list(digital.modules())[1:], digital):
            initialise = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
            if initialise is not None:
                initialise()
        for layer in layers:
            materialisation.reset(layer)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        if loses_values(fn):
            with torch.no_grad():
                for parameter in self._parameters.values():
                    if parameter is not None:
                        parameter.fill_(torch.nan)
        return self

    def rename_float_keys(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Rename the keys of a float checkpoint to those of this module, in place."""
        for theirs, mine in self._key_map.items():
            if theirs != mine and prefix + theirs in state_dict:
                state_dict[prefix + mine] = state_dict.pop(prefix + theirs)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any, **named: Any) -> None:
        self.rename_float_keys(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *arguments, **named)

    def extra_repr(self) -> str:
        """The options of the digital counterpart."""
        return ", ".join(f"{name}={getattr(self, name)}" for name in self._options)
