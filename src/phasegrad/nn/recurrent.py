"""Analog counterparts of ``nn.RNN``, ``nn.LSTM`` and ``nn.GRU``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from phasegrad.crossbar import Hardware
from phasegrad.crossbar.fused_product import FusedProduct
from phasegrad.crossbar.streams import draw_seed
from phasegrad.crossbar.tile_weights import TileWeights
from phasegrad.nn import gates
from phasegrad.nn.composite import AnalogComposite
from phasegrad.nn.construction import counterpart
from phasegrad.nn.inputs import check_input
from phasegrad.nn.linear import AnalogLinear
from phasegrad.nn.lstm_sequence import lstm_sequence
from phasegrad.nn.recurrent_cells import state_tensors
from phasegrad.nn.watching import is_called_plainly
from phasegrad.ops.direct import bypasses, is_plain
from phasegrad.ops.shared_weight import shared

State: TypeAlias = tuple[Tensor, ...]
"""Hidden state ``[batch, size]``, followed by the cell state of an LSTM."""


class _Recurrent(AnalogComposite, ABC):
    """Base class of recurrent layers: each layer and direction has an input matrix and a hidden-state matrix.

    The inputs of all steps are multiplied in one product, the hidden states in one product per step. Training noise
    represents programming errors and is drawn once per sequence; a programmed chip is read again at each step.
    """

    _counterpart: ClassVar[type[nn.RNNBase]]
    _state_names: ClassVar[tuple[str, ...]]
    """Names of the state tensors, for error messages."""
    _sequence: ClassVar[Callable[..., State] | None] = None
    """Function that computes the states ``[length, batch, size]`` of all steps from a ``FusedProduct``, or ``None``."""
    _options = (
        "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional", "proj_size",
    )  # fmt: skip

    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool
    proj_size: int

    def _make_layers(self, digital: nn.Module) -> None:
        for suffix in self._suffixes:
            for kind in ("ih", "hh", "hr") if self.proj_size else ("ih", "hh"):
                bias = digital._parameters.get(f"bias_{kind}_{suffix}")
                weight: nn.Parameter = digital._parameters[f"weight_{kind}_{suffix}"]  # type: ignore[assignment]
                self.register_module(f"{kind}_{suffix}", self._linear(weight, bias))

    @property
    def _suffixes(self) -> list[str]:
        """Suffixes of the layers and directions in parameter names, in the order of the states."""
        directions = ("", "_reverse") if self.bidirectional else ("",)
        return [f"l{layer}{direction}" for layer in range(self.num_layers) for direction in directions]

    @property
    def _key_map(self) -> dict[str, str]:
        keys = {f"weight_{name}": f"{name}.weight" for name in self._modules}
        if self.bias:
            keys |= {f"bias_{name}": f"{name}.bias" for name in self._modules if not name.startswith("hr")}
        return keys

    def _make_digital(self) -> nn.Module:
        options = {name: getattr(self, name) for name in self._options if name != "proj_size" or self.proj_size}
        digital = self._counterpart(**(options | {"dropout": 0.0}), device="meta")  # type: ignore[arg-type]
        digital.dropout = self.dropout  # set here: for a single layer the constructor of torch would warn again
        return digital

    def flatten_parameters(self) -> None:
        """Do nothing; ``nn.RNNBase`` packs the weights for cuDNN here."""

    def forward(self, input: Tensor | PackedSequence, hx: Any = None) -> tuple[Any, Any]:
        """Compute the outputs of the last layer at every step and the final states, with the interface of torch.

        Args:
            input: ``[length, batch, input_size]``, ``[batch, length, input_size]`` with ``batch_first``,
                ``[length, input_size]``, or a packed sequence.
            hx: the initial states ``[layers and directions, batch, size]`` (without ``batch`` for an input without
                one); zeros if ``None``.

        Returns:
            The outputs ``[length, batch, directions * size]`` in the layout of the input, and the final states in the
            layout of ``hx``.

        Raises:
            ValueError: the shape of the input or of a state is wrong, or a sequence has no step.
        """
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx)
        check_input(self, input, next(self.parameters()), "of three dimensions, or a PackedSequence")
        if input.dim() not in (2, 3) or input.shape[-1] != self.input_size:
            raise ValueError(
                f"{type(self).__name__}: input has shape {list(input.shape)}; it must be "
                f"{'[batch, length' if self.batch_first else '[length, batch'}, {self.input_size}], or "
                f"[length, {self.input_size}] without a batch"
            )
        batched, first = input.dim() == 3, self.batch_first
        x = input.unsqueeze(1) if not batched else input.transpose(0, 1) if first else input
        length, batch = x.shape[:2]
        if length == 0:
            raise ValueError(
                f"{type(self).__name__}: input has shape {list(input.shape)}; a sequence must have at least one step"
            )
        initial = self._initial_states(hx, batch, batched, input)
        y, states = self._run_layers(x.flatten(0, 1), [batch] * length, initial)
        y = y.view(length, batch, y.shape[1])
        if not batched:
            return y.squeeze(1), self._format_states([s.squeeze(1) for s in states])
        return y.transpose(0, 1) if first else y, self._format_states(states)

    def _forward_packed(self, input: PackedSequence, hx: Any) -> tuple[PackedSequence, Any]:
        x, batch_sizes, order, inverse_order = input
        sizes = batch_sizes.tolist()
        initial = self._initial_states(hx, sizes[0], True, x)
        if hx is not None and order is not None:
            initial = [s.index_select(1, order) for s in initial]
        y, states = self._run_layers(x, sizes, initial)
        if inverse_order is not None:
            states = [s.index_select(1, inverse_order) for s in states]
        return PackedSequence(y, batch_sizes, order, inverse_order), self._format_states(states)

    def _initial_states(self, hx: Any, batch: int, batched: bool, like: Tensor) -> list[Tensor]:
        """The initial state tensors, each ``[layers and directions, batch, size]``."""
        sizes = (self.proj_size or self.hidden_size, self.hidden_size)[: len(self._state_names)]
        count = len(self._suffixes)
        if hx is None:
            return [like.new_zeros(count, batch, size) for size in sizes]
        given = state_tensors(self, hx)
        expected = [[count, batch, size] if batched else [count, size] for size in sizes]
        if [list(s.shape) for s in given] != expected:
            raise ValueError(
                f"{type(self).__name__}: hx has shape {', '.join(str(list(s.shape)) for s in given)}; the shape of "
                f"{' and '.join(self._state_names)} must be {', '.join(str(shape) for shape in expected)}"
            )
        return [s if batched else s.unsqueeze(1) for s in given]

    def _format_states(self, states: Sequence[Tensor]) -> Any:
        """The states as torch returns them: one tensor, or a tuple for an LSTM."""
        return states[0] if len(states) == 1 else tuple(states)

    def _run_layers(self, x: Tensor, sizes: list[int], initial: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Run all layers on ``x`` ``[steps and samples, in]``, whose steps have the given numbers of samples."""
        states = list(zip(*(s.unbind() for s in initial), strict=True))
        final: list[State] = []
        for layer in range(self.num_layers):
            if layer > 0 and self.dropout > 0.0:
                x = F.dropout(x, self.dropout, self.training)
            outputs, directions = [], len(states) // self.num_layers
            for suffix in self._suffixes[layer * directions : (layer + 1) * directions]:
                y, state = self._run_direction(x, sizes, states[len(final)], suffix)
                outputs.append(y)
                final.append(state)
            x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
        return x, [torch.stack(part) for part in zip(*final, strict=True)]

    def _run_direction(self, x: Tensor, sizes: list[int], initial: State, suffix: str) -> tuple[Tensor, State]:
        """Run one layer in one direction."""
        products = self.get_submodule(f"ih_{suffix}")(x)
        step, is_reverse = _Step(self, suffix), suffix.endswith("_reverse")
        product = step.fused_product(products, *initial) if len(set(sizes)) == 1 else None
        if self._sequence is not None and product is not None:
            inputs = products.view(len(sizes), sizes[0], products.shape[1])
            states = self._sequence(inputs.flip(0) if is_reverse else inputs, *initial, product, *step.constants(sizes))
            outputs = states[0].flip(0) if is_reverse else states[0].clone()  # a user may write to it
            return outputs.flatten(0, 1), tuple(s[-1] for s in states)
        run = self._run_reverse if is_reverse else self._run_forward
        steps, state = run(products.split(sizes), initial, step)
        return torch.cat(steps), state

    def _run_forward(self, input_products: Sequence[Tensor], state: State, step: _Step) -> tuple[list[Tensor], State]:
        outputs: list[Tensor] = []
        ended: list[State] = []  # sequences are sorted by decreasing length, so the last ones end first
        for x in input_products:
            if len(x) < len(state[0]):
                ended.append(tuple(s[len(x) :] for s in state))
                state = tuple(s[: len(x)] for s in state)
            state = step(x, state)
            outputs.append(state[0])
        if ended:
            state = tuple(torch.cat(parts) for parts in zip(state, *reversed(ended), strict=True))
        return outputs, state

    def _run_reverse(self, input_products: Sequence[Tensor], initial: State, step: _Step) -> tuple[list[Tensor], State]:
        state = tuple(s[: len(input_products[-1])] for s in initial)
        outputs: list[Tensor] = []
        for x in reversed(input_products):
            if len(x) > len(state[0]):
                state = tuple(torch.cat([s, s0[len(s) : len(x)]]) for s, s0 in zip(state, initial, strict=True))
            state = step(x, state)
            outputs.append(state[0])
        return outputs[::-1], state

    @abstractmethod
    def _next_state(self, input_product: Tensor, hidden_product: Tensor, state: State) -> State:
        """The next state, from the products of the input and of the hidden state."""


class _Step:
    """One step of a layer in one direction, with the weights that all steps of a sequence share."""

    def __init__(self, layer: _Recurrent, suffix: str) -> None:
        self.next_state = layer._next_state
        self.hidden: AnalogLinear = layer.get_submodule(f"hh_{suffix}")  # type: ignore[assignment]
        self.hidden_weights = _read_for_sequence(self.hidden)
        self.projection: AnalogLinear | None = layer._modules.get(f"hr_{suffix}")  # type: ignore[assignment]
        self.projection_weights = None if self.projection is None else _read_for_sequence(self.projection)

    def __call__(self, input_product: Tensor, state: State) -> State:
        """Compute the next state from the product of the input ``[batch, gates size]``."""
        hidden, *others = self.next_state(input_product, self.hidden(state[0], self.hidden_weights), state)
        if self.projection is not None:
            hidden = self.projection(hidden, self.projection_weights)
        return hidden, *others

    def fused_product(self, *tensors: Tensor) -> FusedProduct | None:
        """The product of the hidden state as one op; ``None`` if there is none, or something watches single steps.

        Args:
            tensors: products of the inputs, and states.
        """
        layer, weights = self.hidden, self.hidden_weights
        if not bypasses() or self.projection is not None or weights is None or layer.range_is_stale:
            return None
        if not is_called_plainly(layer) or not all(is_plain(t) and t.dtype is weights.weight.dtype for t in tensors):
            return None
        return FusedProduct.of(weights, layer.periphery, layer.hardware)

    def constants(self, sizes: Sequence[int]) -> tuple[Tensor | None, Tensor]:
        """The bias of the hidden state, and the seed of each step."""
        return self.hidden.bias, draw_seed(self.hidden.weight.device, len(sizes))


def _read_for_sequence(layer: AnalogLinear) -> TileWeights | None:
    """Read the weights once for all steps of a sequence if they are digital; ``None`` if every step reads them."""
    weights = layer.read() if layer.store.one_read_per_sequence else None
    return None if weights is None else weights._replace(weight=shared(weights.weight))


@final
class AnalogRNN(_Recurrent):
    """``nn.RNN`` in crossbar tiles, with two matrix products per step.

    The arguments are those of ``nn.RNN`` and ``hardware``; shapes are those of torch. The nonlinearity is digital.
    """

    _counterpart = nn.RNN
    _state_names = ("h_0",)
    _options = (*_Recurrent._options, "nonlinearity")

    nonlinearity: str

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh", bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, device: Any = None,
        dtype: Any = None, *, hardware: Hardware,
    ) -> None:  # fmt: skip
        digital = counterpart(
            self, nn.RNN, hardware, input_size=input_size, hidden_size=hidden_size, num_layers=num_layers,
            nonlinearity=nonlinearity, bias=bias, batch_first=batch_first, dropout=dropout,
            bidirectional=bidirectional, device=device, dtype=dtype,
        )  # fmt: skip
        self._init_from_digital(digital, hardware)

    def _next_state(self, input_product: Tensor, hidden_product: Tensor, state: State) -> State:
        return (gates.rnn(input_product, hidden_product, self.nonlinearity),)


@final
class AnalogLSTM(_Recurrent):
    """``nn.LSTM`` in crossbar tiles, with two matrix products per step.

    The arguments are those of ``nn.LSTM`` and ``hardware``; shapes are those of torch. Gates are digital. With
    ``proj_size`` a third matrix, ``hr``, projects the hidden state.

    Examples:
        >>> import torch, phasegrad as pg
        >>> layer = AnalogLSTM(8, 16, batch_first=True, hardware=pg.presets.pcm_inference())
        >>> y, (h, c) = layer(torch.randn(3, 5, 8))
        >>> tuple(y.shape), tuple(h.shape)
        ((3, 5, 16), (1, 3, 16))
    """

    _counterpart = nn.LSTM
    _state_names = ("h_0", "c_0")
    _sequence = staticmethod(lstm_sequence)

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0, device: Any = None, dtype: Any = None,
        *, hardware: Hardware,
    ) -> None:  # fmt: skip
        digital = counterpart(
            self, nn.LSTM, hardware, input_size=input_size, hidden_size=hidden_size, num_layers=num_layers, bias=bias,
            batch_first=batch_first, dropout=dropout, bidirectional=bidirectional, proj_size=proj_size, device=device,
            dtype=dtype,
        )  # fmt: skip
        self._init_from_digital(digital, hardware)

    def _next_state(self, input_product: Tensor, hidden_product: Tensor, state: State) -> State:
        return gates.lstm(input_product, hidden_product, state[1])


@final
class AnalogGRU(_Recurrent):
    """``nn.GRU`` in crossbar tiles, with two matrix products per step.

    The arguments are those of ``nn.GRU`` and ``hardware``; shapes are those of torch. Gates are digital.
    """

    _counterpart = nn.GRU
    _state_names = ("h_0",)

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, device: Any = None, dtype: Any = None,
        *, hardware: Hardware,
    ) -> None:  # fmt: skip
        digital = counterpart(
            self, nn.GRU, hardware, input_size=input_size, hidden_size=hidden_size, num_layers=num_layers, bias=bias,
            batch_first=batch_first, dropout=dropout, bidirectional=bidirectional, device=device, dtype=dtype,
        )  # fmt: skip
        self._init_from_digital(digital, hardware)

    def _next_state(self, input_product: Tensor, hidden_product: Tensor, state: State) -> State:
        return (gates.gru(input_product, hidden_product, state[0]),)
