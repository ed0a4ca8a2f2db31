"""Analog counterparts of ``nn.RNNCell``, ``nn.LSTMCell`` and ``nn.GRUCell``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, final

from torch import Tensor, nn

from phasegrad.argument_checks import tensor
from phasegrad.crossbar import Hardware
from phasegrad.nn import gates
from phasegrad.nn.composite import AnalogComposite
from phasegrad.nn.construction import counterpart
from phasegrad.nn.inputs import check_input
from phasegrad.nn.linear import AnalogLinear


class _RecurrentCell(AnalogComposite, ABC):
    """Base class of recurrent cells, which compute one step per call.

    A cell does not know which calls belong to one sequence, so it draws training noise at each call. Use a layer such
    as ``AnalogLSTM`` to draw it once per sequence.
    """

    _counterpart: ClassVar[type[nn.RNNCellBase]]
    _state_count: ClassVar[int] = 1
    """Number of tensors in a state."""
    _options = ("input_size", "hidden_size", "bias")

    input_size: int
    hidden_size: int
    bias: bool
    ih: AnalogLinear
    hh: AnalogLinear

    def _make_layers(self, digital: nn.Module) -> None:
        self.ih = self._linear(digital.weight_ih, digital.bias_ih)  # type: ignore[arg-type]
        self.hh = self._linear(digital.weight_hh, digital.bias_hh)  # type: ignore[arg-type]

    @property
    def _key_map(self) -> dict[str, str]:
        return {f"{kind}_{name}": f"{name}.{kind}" for kind in ("weight", "bias") for name in ("ih", "hh")}

    def _make_digital(self) -> nn.Module:
        options = {name: getattr(self, name) for name in self._options}
        return self._counterpart(**options, device="meta")  # type: ignore[arg-type]

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """Compute the next state, with the interface of torch.

        Args:
            input: ``[batch, input_size]`` or ``[input_size]``.
            hx: the state, each tensor ``[batch, hidden_size]`` or ``[hidden_size]``; zeros if ``None``.

        Raises:
            ValueError: the shape of the input or of the state is wrong.
        """
        states = self._initial_states(input, hx)
        batched = input.dim() == 2
        if not batched:
            input, states = input.unsqueeze(0), [s.unsqueeze(0) for s in states]
        following = self._next_state(self.ih(input), self.hh(states[0]), states)
        following = following if batched else tuple(s.squeeze(0) for s in following)
        return following[0] if self._state_count == 1 else following

    def _initial_states(self, input: Tensor, hx: Any) -> list[Tensor]:
        check_input(self, input, self.ih.weight, "[batch, input_size]")
        expected = [*input.shape[:-1], self.hidden_size]
        if input.dim() not in (1, 2) or input.shape[-1] != self.input_size:
            raise ValueError(
                f"{type(self).__name__}: input has shape {list(input.shape)}; it must be [batch, {self.input_size}], "
                f"or [{self.input_size}] without a batch"
            )
        if hx is None:
            return [input.new_zeros(expected)] * self._state_count
        given = state_tensors(self, hx)
        if len(given) != self._state_count or any(list(s.shape) != expected for s in given):
            raise ValueError(
                f"{type(self).__name__}: hx has shape {', '.join(str(list(s.shape)) for s in given)}; it must be "
                f"{f'a pair of {expected}' if self._state_count == 2 else expected}"
            )
        return given

    @abstractmethod
    def _next_state(self, input_product: Tensor, hidden_product: Tensor, states: list[Tensor]) -> tuple[Tensor, ...]:
        """The next state, from the products of the input and of the hidden state."""


def state_tensors(owner: nn.Module, hx: Any) -> list[Tensor]:
    """The tensors of a state that a user passed: one, or a tuple or list of them."""
    given = list(hx) if isinstance(hx, (tuple, list)) else [hx]
    for state in given:
        tensor(type(owner).__name__, "hx", state, "or a tuple of tensors")
    return given


@final
class AnalogRNNCell(_RecurrentCell):
    """``nn.RNNCell`` in crossbar tiles: ``[batch, input_size] -> [batch, hidden_size]``.

    The arguments are those of ``nn.RNNCell`` and ``hardware``. The nonlinearity is digital.
    """

    _counterpart = nn.RNNCell
    _options = (*_RecurrentCell._options, "nonlinearity")

    nonlinearity: str

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh", device: Any = None,
        dtype: Any = None, *, hardware: Hardware,
    ) -> None:  # fmt: skip
        digital = counterpart(
            self, nn.RNNCell, hardware, input_size=input_size, hidden_size=hidden_size, bias=bias,
            nonlinearity=nonlinearity, device=device, dtype=dtype,
        )  # fmt: skip
        self._init_from_digital(digital, hardware)

    def _next_state(self, input_product: Tensor, hidden_product: Tensor, states: list[Tensor]) -> tuple[Tensor, ...]:
        return (gates.rnn(input_product, hidden_product, self.nonlinearity),)


@final
class AnalogLSTMCell(_RecurrentCell):
    """``nn.LSTMCell`` in crossbar tiles: ``[batch, input_size]`` to two states ``[batch, hidden_size]``.

    The arguments are those of ``nn.LSTMCell`` and ``hardware``. Gates are digital.

    Examples:
        >>> import torch, phasegrad as pg
        >>> cell = AnalogLSTMCell(4, 8, hardware=pg.presets.pcm_inference())
        >>> h, c = cell(torch.randn(3, 4))
        >>> tuple(h.shape)
        (3, 8)
    """

    _counterpart = nn.LSTMCell
    _state_count = 2

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None,
        *, hardware: Hardware,
    ) -> None:  # fmt: skip
        sizes = {"input_size": input_size, "hidden_size": hidden_size, "bias": bias}
        self._init_from_digital(counterpart(self, nn.LSTMCell, hardware, **sizes, device=device, dtype=dtype), hardware)

    def _next_state(self, input_product: Tensor, hidden_product: Tensor, states: list[Tensor]) -> tuple[Tensor, ...]:
        return gates.lstm(input_product, hidden_product, states[1])


@final
class AnalogGRUCell(_RecurrentCell):
    """``nn.GRUCell`` in crossbar tiles: ``[batch, input_size] -> [batch, hidden_size]``.

    The arguments are those of ``nn.GRUCell`` and ``hardware``. Gates are digital.
    """

    _counterpart = nn.GRUCell

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None,
        *, hardware: Hardware,
    ) -> None:  # fmt: skip
        sizes = {"input_size": input_size, "hidden_size": hidden_size, "bias": bias}
        self._init_from_digital(counterpart(self, nn.GRUCell, hardware, **sizes, device=device, dtype=dtype), hardware)

    def _next_state(self, input_product: Tensor, hidden_product: Tensor, states: list[Tensor]) -> tuple[Tensor, ...]:
        return (gates.gru(input_product, hidden_product, states[0]),)
