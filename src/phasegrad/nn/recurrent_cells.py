"""Analog counterparts of ``nn.RNNCell``, ``nn.LSTMCell`` and ``nn.GRUCell``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, final

from torch import Tensor, nn

from phasegrad.crossbar import Hardware
from phasegrad.nn import gates
from phasegrad.nn.composite import AnalogComposite
from phasegrad.nn.linear import AnalogLinear


class _RecurrentCell(AnalogComposite, ABC):
    """What the cells share. A call is a step of its own: nothing says which calls are one sequence.

    So the noise of training is drawn at each call. Use the layer, as ``AnalogLSTM``, where one draw is to last for a
    sequence.
    """

    _counterpart: ClassVar[type[nn.RNNCellBase]]
    _parts: ClassVar[int] = 1
    """Tensors of a state."""
    _options = ("input_size", "hidden_size", "bias")

    input_size: int
    hidden_size: int
    bias: bool
    ih: AnalogLinear
    hh: AnalogLinear

    def _take(self, digital: nn.Module) -> None:
        self.ih = self._linear(digital.weight_ih, digital.bias_ih)  # type: ignore[arg-type]
        self.hh = self._linear(digital.weight_hh, digital.bias_hh)  # type: ignore[arg-type]

    @property
    def _keys(self) -> dict[str, str]:
        return {f"{kind}_{name}": f"{name}.{kind}" for kind in ("weight", "bias") for name in ("ih", "hh")}

    def _digital(self) -> nn.Module:
        options = {name: getattr(self, name) for name in self._options}
        return self._counterpart(**options, device="meta")  # type: ignore[arg-type]

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """The next state; arguments and result as in torch.

        Raises:
            ValueError: an input or a state has another shape than it must have.
        """
        states = self._states(input, hx)
        batched = input.dim() == 2
        if not batched:
            input, states = input.unsqueeze(0), [s.unsqueeze(0) for s in states]
        found = self._next(self.ih(input), self.hh(states[0]), states)
        found = found if batched else tuple(s.squeeze(0) for s in found)
        return found[0] if self._parts == 1 else found

    def _states(self, input: Tensor, hx: Any) -> list[Tensor]:
        expected = [*input.shape[:-1], self.hidden_size]
        if input.dim() not in (1, 2) or input.shape[-1] != self.input_size:
            raise ValueError(
                f"{type(self).__name__}: input has shape {list(input.shape)}; it must be [batch, {self.input_size}], "
                f"or [{self.input_size}] without batch"
            )
        if hx is None:
            return [input.new_zeros(expected)] * self._parts
        given = [hx] if isinstance(hx, Tensor) else list(hx)
        if len(given) != self._parts or any(list(s.shape) != expected for s in given):
            raise ValueError(
                f"{type(self).__name__}: hx has shape {', '.join(str(list(s.shape)) for s in given)}; it must be "
                f"{self._parts} of {expected}"
            )
        return given

    @abstractmethod
    def _next(self, driven: Tensor, recurrent: Tensor, states: list[Tensor]) -> tuple[Tensor, ...]:
        """The state that follows, from what the two products give."""

    def extra_repr(self) -> str:
        """The counterpart's options."""
        return ", ".join(f"{name}={getattr(self, name)}" for name in self._options)


@final
class AnalogRNNCell(_RecurrentCell):
    """``nn.RNNCell`` in crossbar tiles; arguments as there, and ``hardware``."""

    _counterpart = nn.RNNCell
    _options = (*_RecurrentCell._options, "nonlinearity")

    nonlinearity: str

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh", device: Any = None,
        dtype: Any = None, *, hardware: Hardware,
    ) -> None:  # fmt: skip
        self._adopt(nn.RNNCell(input_size, hidden_size, bias, nonlinearity, device, dtype), hardware)

    def _next(self, driven: Tensor, recurrent: Tensor, states: list[Tensor]) -> tuple[Tensor, ...]:
        return (gates.rnn(driven, recurrent, self.nonlinearity),)


@final
class AnalogLSTMCell(_RecurrentCell):
    """``nn.LSTMCell`` in crossbar tiles; arguments as there, and ``hardware``.

    Examples:
        >>> import torch, phasegrad as pg
        >>> cell = AnalogLSTMCell(4, 8, hardware=pg.presets.pcm_inference())
        >>> h, c = cell(torch.randn(3, 4))
        >>> tuple(h.shape)
        (3, 8)
    """

    _counterpart = nn.LSTMCell
    _parts = 2

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None,
        *, hardware: Hardware,
    ) -> None:  # fmt: skip
        self._adopt(nn.LSTMCell(input_size, hidden_size, bias, device, dtype), hardware)

    def _next(self, driven: Tensor, recurrent: Tensor, states: list[Tensor]) -> tuple[Tensor, ...]:
        return gates.lstm(driven, recurrent, states[1])


@final
class AnalogGRUCell(_RecurrentCell):
    """``nn.GRUCell`` in crossbar tiles; arguments as there, and ``hardware``."""

    _counterpart = nn.GRUCell

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None,
        *, hardware: Hardware,
    ) -> None:  # fmt: skip
        self._adopt(nn.GRUCell(input_size, hidden_size, bias, device, dtype), hardware)

    def _next(self, driven: Tensor, recurrent: Tensor, states: list[Tensor]) -> tuple[Tensor, ...]:
        return (gates.gru(driven, recurrent, states[0]),)
