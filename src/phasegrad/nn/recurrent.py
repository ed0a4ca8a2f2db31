"""Analog counterparts of ``nn.RNN``, ``nn.LSTM`` and ``nn.GRU``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, TypeAlias, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from phasegrad.crossbar import Hardware
from phasegrad.crossbar.tile_weights import TileWeights
from phasegrad.nn import gates
from phasegrad.nn.composite import AnalogComposite
from phasegrad.nn.linear import AnalogLinear

State: TypeAlias = tuple[Tensor, ...]
"""Hidden state ``[batch, size]``, and of an LSTM the cell's."""


class _Recurrent(AnalogComposite, ABC):
    """What recurrent layers share: for each layer and direction a matrix of inputs and one of hidden states.

    The inputs of all steps are one product, the hidden states a product a step. A sequence sees one draw of
    the noise of training, which stands for the errors of programming; a chip is read anew at each step.
    """

    _counterpart: ClassVar[type[nn.RNNBase]]
    _names: ClassVar[tuple[str, ...]]
    """Of the parts of the state."""
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

    def _take(self, digital: nn.Module) -> None:
        for place in self._places:
            for kind in ("ih", "hh", "hr") if self.proj_size else ("ih", "hh"):
                bias = digital._parameters.get(f"bias_{kind}_{place}")
                weight: nn.Parameter = digital._parameters[f"weight_{kind}_{place}"]  # type: ignore[assignment]
                self.register_module(f"{kind}_{place}", self._linear(weight, bias))

    @property
    def _places(self) -> list[str]:
        """The names of layers and directions, in the order of the states."""
        directions = ("", "_reverse") if self.bidirectional else ("",)
        return [f"l{layer}{direction}" for layer in range(self.num_layers) for direction in directions]

    @property
    def _keys(self) -> dict[str, str]:
        keys = {f"weight_{name}": f"{name}.weight" for name in self._modules}
        if self.bias:
            keys |= {f"bias_{name}": f"{name}.bias" for name in self._modules if not name.startswith("hr")}
        return keys

    def _digital(self) -> nn.Module:
        options = {name: getattr(self, name) for name in self._options if name != "proj_size" or self.proj_size}
        digital = self._counterpart(**(options | {"dropout": 0.0}), device="meta")  # type: ignore[arg-type]
        digital.dropout = self.dropout  # of a single layer torch warns, as it did when the model was made
        return digital

    def flatten_parameters(self) -> None:
        """Nothing to do: what torch does for a library of another device."""

    # --- shapes -------------------------------------------------------------------------------------------------

    def forward(self, input: Tensor | PackedSequence, hx: Any = None) -> tuple[Any, Any]:
        """Outputs of the last layer at every step, and the last states; arguments and results as in torch.

        Raises:
            ValueError: an input or a state has another shape than it must have.
        """
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx)
        if input.dim() not in (2, 3) or input.shape[-1] != self.input_size:
            raise ValueError(
                f"{type(self).__name__}: input has shape {list(input.shape)}; it must be "
                f"{'[batch, length' if self.batch_first else '[length, batch'}, {self.input_size}], or "
                f"[length, {self.input_size}] without batch"
            )
        batched, first = input.dim() == 3, self.batch_first
        x = input.unsqueeze(1) if not batched else input.transpose(0, 1) if first else input
        length, batch = x.shape[:2]
        if length == 0:
            raise ValueError(
                f"{type(self).__name__}: input has shape {list(input.shape)}; a sequence has one step at least"
            )
        initial = self._initial(hx, batch, batched, input)
        y, states = self._run(x.flatten(0, 1), [batch] * length, initial)
        y = y.view(length, batch, y.shape[1])
        if not batched:
            return y.squeeze(1), self._states([s.squeeze(1) for s in states])
        return y.transpose(0, 1) if first else y, self._states(states)

    def _forward_packed(self, input: PackedSequence, hx: Any) -> tuple[PackedSequence, Any]:
        x, sizes, order, back = input
        initial = self._initial(hx, int(sizes[0]), True, x)
        if hx is not None and order is not None:
            initial = [s.index_select(1, order) for s in initial]
        y, states = self._run(x, sizes.tolist(), initial)
        if back is not None:
            states = [s.index_select(1, back) for s in states]
        return PackedSequence(y, sizes, order, back), self._states(states)

    def _initial(self, hx: Any, batch: int, batched: bool, like: Tensor) -> list[Tensor]:
        """Each part of the states ``[layers and directions, batch, size]``."""
        sizes = (self.proj_size or self.hidden_size, self.hidden_size)[: len(self._names)]
        count = len(self._places)
        if hx is None:
            return [like.new_zeros(count, batch, size) for size in sizes]
        given = [hx] if isinstance(hx, Tensor) else list(hx)
        expected = [[count, batch, size] if batched else [count, size] for size in sizes]
        if [list(s.shape) for s in given] != expected:
            raise ValueError(
                f"{type(self).__name__}: hx has shape {', '.join(str(list(s.shape)) for s in given)}; "
                f"{' and '.join(self._names)} must be {', '.join(str(shape) for shape in expected)}"
            )
        return [s if batched else s.unsqueeze(1) for s in given]

    def _states(self, states: Sequence[Tensor]) -> Any:
        return states[0] if len(states) == 1 else tuple(states)

    # --- layers, directions, steps ------------------------------------------------------------------------------

    def _run(self, x: Tensor, sizes: list[int], initial: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """All layers of steps that follow one another in ``[steps and samples, in]``; so many samples each."""
        states = list(zip(*(s.unbind() for s in initial), strict=True))
        last: list[State] = []
        for layer in range(self.num_layers):
            if layer > 0 and self.dropout > 0.0:
                x = F.dropout(x, self.dropout, self.training)
            ways, directions = [], len(states) // self.num_layers
            for place in self._places[layer * directions : (layer + 1) * directions]:
                y, state = self._along(x, sizes, states[len(last)], place)
                ways.append(y)
                last.append(state)
            x = ways[0] if len(ways) == 1 else torch.cat(ways, dim=1)
        return x, [torch.stack(part) for part in zip(*last, strict=True)]

    def _along(self, x: Tensor, sizes: list[int], initial: State, place: str) -> tuple[Tensor, State]:
        """One layer, in one direction."""
        driven = self.get_submodule(f"ih_{place}")(x).split(sizes)
        step = _Step(self, place)
        if place.endswith("_reverse"):
            outputs, state = self._backwards(driven, initial, step)
        else:
            outputs, state = self._forwards(driven, initial, step)
        return torch.cat(outputs), state

    def _forwards(self, driven: Sequence[Tensor], state: State, step: _Step) -> tuple[list[Tensor], State]:
        outputs: list[Tensor] = []
        ended: list[State] = []  # sequences come longest first, so it is the last ones that end
        for x in driven:
            if len(x) < len(state[0]):
                ended.append(tuple(s[len(x) :] for s in state))
                state = tuple(s[: len(x)] for s in state)
            state = step(x, state)
            outputs.append(state[0])
        if ended:
            state = tuple(torch.cat(parts) for parts in zip(state, *reversed(ended), strict=True))
        return outputs, state

    def _backwards(self, driven: Sequence[Tensor], initial: State, step: _Step) -> tuple[list[Tensor], State]:
        state = tuple(s[: len(driven[-1])] for s in initial)
        outputs: list[Tensor] = []
        for x in reversed(driven):
            if len(x) > len(state[0]):
                state = tuple(torch.cat([s, s0[len(s) : len(x)]]) for s, s0 in zip(state, initial, strict=True))
            state = step(x, state)
            outputs.append(state[0])
        return outputs[::-1], state

    @abstractmethod
    def _next(self, driven: Tensor, recurrent: Tensor, state: State) -> State:
        """The state that follows, from what the two products give."""

    def extra_repr(self) -> str:
        """The counterpart's options."""
        return ", ".join(f"{name}={getattr(self, name)}" for name in self._options)


class _Step:
    """One step of a layer in one direction, with what all steps of a sequence share."""

    def __init__(self, layer: _Recurrent, place: str) -> None:
        self.follows = layer._next
        self.hidden: AnalogLinear = layer.get_submodule(f"hh_{place}")  # type: ignore[assignment]
        self.weights = _sequence_read(self.hidden)
        self.projection: AnalogLinear | None = layer._modules.get(f"hr_{place}")  # type: ignore[assignment]
        self.projected = None if self.projection is None else _sequence_read(self.projection)

    def __call__(self, driven: Tensor, state: State) -> State:
        """The next state."""
        hidden, *others = self.follows(driven, self.hidden(state[0], self.weights), state)
        if self.projection is not None:
            hidden = self.projection(hidden, self.projected)
        return hidden, *others


def _sequence_read(layer: AnalogLinear) -> TileWeights | None:
    """One read for all steps of a sequence, if the weights are digital; devices are read at each step."""
    return layer.read() if layer.store.one_read_per_sequence else None


@final
class AnalogRNN(_Recurrent):
    """``nn.RNN`` whose two products a step are computed in crossbar tiles; arguments as there, and ``hardware``."""

    _counterpart = nn.RNN
    _names = ("h_0",)
    _options = (*_Recurrent._options, "nonlinearity")

    nonlinearity: str

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh", bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, device: Any = None,
        dtype: Any = None, *, hardware: Hardware,
    ) -> None:  # fmt: skip
        sizes = (input_size, hidden_size, num_layers)
        options = (nonlinearity, bias, batch_first, dropout, bidirectional)
        self._adopt(nn.RNN(*sizes, *options, device=device, dtype=dtype), hardware)

    def _next(self, driven: Tensor, recurrent: Tensor, state: State) -> State:
        return (gates.rnn(driven, recurrent, self.nonlinearity),)


@final
class AnalogLSTM(_Recurrent):
    """``nn.LSTM`` whose products are computed in crossbar tiles; arguments as there, and ``hardware``.

    Gates are digital. With ``proj_size`` a third matrix, ``hr``, projects the hidden state.

    Examples:
        >>> import torch, phasegrad as pg
        >>> layer = AnalogLSTM(8, 16, batch_first=True, hardware=pg.presets.pcm_inference())
        >>> y, (h, c) = layer(torch.randn(3, 5, 8))
        >>> tuple(y.shape), tuple(h.shape)
        ((3, 5, 16), (1, 3, 16))
    """

    _counterpart = nn.LSTM
    _names = ("h_0", "c_0")

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0, device: Any = None, dtype: Any = None,
        *, hardware: Hardware,
    ) -> None:  # fmt: skip
        sizes = (input_size, hidden_size, num_layers)
        options = (bias, batch_first, dropout, bidirectional, proj_size, device, dtype)
        self._adopt(nn.LSTM(*sizes, *options), hardware)

    def _next(self, driven: Tensor, recurrent: Tensor, state: State) -> State:
        return gates.lstm(driven, recurrent, state[1])


@final
class AnalogGRU(_Recurrent):
    """``nn.GRU`` whose two products a step are computed in crossbar tiles; arguments as there, and ``hardware``."""

    _counterpart = nn.GRU
    _names = ("h_0",)

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, device: Any = None, dtype: Any = None,
        *, hardware: Hardware,
    ) -> None:  # fmt: skip
        sizes = (input_size, hidden_size, num_layers)
        options = (bias, batch_first, dropout, bidirectional)
        self._adopt(nn.GRU(*sizes, *options, device=device, dtype=dtype), hardware)

    def _next(self, driven: Tensor, recurrent: Tensor, state: State) -> State:
        return (gates.gru(driven, recurrent, state[0]),)
