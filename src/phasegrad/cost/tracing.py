"""One forward pass without values: the products of the tiles and the digital operators."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_map

from phasegrad import argument_checks as checks
from phasegrad.conversion.bypass_watch import uncompiled
from phasegrad.conversion.products import tensors
from phasegrad.cost.operators import OperatorCost, OperatorCounter
from phasegrad.cost.shadow import Call, Notes, shadow, without_values
from phasegrad.nn import AnalogLayer
from phasegrad.nn.layer import analog_layers, require_analog_layers
from phasegrad.nn.lazy import require_initialised

_REMEDY = (
    "an estimate knows shapes, not values. Let the branch depend on shapes or options, or estimate the modules on both "
    "sides of it by themselves"
)


class Trace(NamedTuple):
    """What one forward pass of a net does."""

    layers: dict[str, AnalogLayer]
    """The analog layers by name, those that were not called included."""
    calls: list[Call]
    operators: dict[str, OperatorCost]
    output: Any
    """The output of the net, in tensors without values."""
    transposed: list[Call]
    """Products of a backward pass, which compute gradients of inputs."""
    updates: list[Call]
    """Products of the forward pass whose gradients update a weight."""


class Tracer:
    """A net whose forward passes are counted; several passes, such as prefill and decoding, share one copy.

    Args:
        net: a net with analog layers.
        caller: name of the public function, for errors.
    """

    def __init__(self, net: nn.Module, caller: str) -> None:
        self.caller, self.notes = caller, Notes()
        self.layers = _layers(net, caller)
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        with self.mode:
            self.net = shadow(net, self.layers, self.notes)

    def run(self, example_input: Any, *, backward: bool = False) -> Trace:
        """Count one forward pass in evaluation mode, or a forward and a backward pass in training mode.

        Args:
            example_input: a tensor, a tuple of positional inputs, or a mapping of keyword inputs.
            backward: whether to run a backward pass from the sum of all outputs, too.

        Raises:
            ValueError: the net refuses the input, or chooses what to compute by the values of tensors.
        """
        self.notes.clear()
        self.net.train(backward)
        with self._running(_arguments(example_input), backward) as ((positional, named), counter):
            output = self._call(lambda: self.net(*positional, **named))
            if backward:
                self._call(lambda: _backward(output, counter))
        found = self.notes
        return Trace(self.layers, found.calls, counter.operators, output, found.transposed, found.updates)

    @contextmanager
    def _running(self, inputs: Any, gradients: bool) -> Iterator[tuple[Any, OperatorCounter]]:
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=[]))
            stack.enter_context(torch.set_grad_enabled(gradients))
            stack.enter_context(uncompiled())
            stack.enter_context(_quiet())
            stack.enter_context(self.mode)
            fakes = tree_map(self._fake, inputs, is_leaf=lambda value: isinstance(value, PackedSequence))
            counter = self.notes.counter = stack.enter_context(OperatorCounter(fakes))
            yield fakes, counter

    def _fake(self, value: Any) -> Any:
        if isinstance(value, PackedSequence):  # the lengths of its sequences are part of its shape
            return PackedSequence(self._fake(value.data), *value[1:])
        if not isinstance(value, Tensor) or isinstance(value, FakeTensor):
            return value
        return without_values(value)

    def _call(self, forward: Callable[[], Any]) -> Any:
        try:
            return forward()
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            where = self._place(error)
            raise ValueError(
                f"{self.caller}: {where} uses the values of a tensor ({error}) to choose what to compute; {_REMEDY}"
            ) from error
        except Exception as error:
            where = self._place(error)
            raise ValueError(
                f"{self.caller}: the net refuses this example_input at {where}: {error}; pass an input of the shape "
                "and dtype that the net accepts. If the net itself accepts it, an operator of that module cannot be "
                "traced without values: estimate the modules on both sides of it by themselves"
            ) from error

    def _place(self, error: BaseException) -> str:
        """The innermost module that was running, with its line."""
        names = {id(module): name for name, module in self.net.named_modules()}
        found, frame = "the net", error.__traceback__
        while frame is not None:
            code = frame.tb_frame.f_code
            owner = frame.tb_frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
            if id(owner) in names and code.co_name not in ("_call_impl", "_wrapped_call_impl", "__getattr__"):
                name = names[id(owner)] or type(owner).__name__
                found = f"{name} ({code.co_filename.rpartition('/')[2]}:{frame.tb_lineno})"
            frame = frame.tb_next
        return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from logging errors of shapes, which are raised anyway."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _backward(output: Any, counter: OperatorCounter) -> None:
    """A backward pass from all outputs that have a gradient; the loss itself is not counted."""
    ends = [t for t in tensors(output) if t.requires_grad]
    if not ends:
        raise ValueError("no output depends on a trainable parameter")
    with counter.paused():
        gradients = [torch.empty_like(end) for end in ends]
    counter.mark(gradients)
    torch.autograd.backward(ends, gradients)


def _layers(net: nn.Module, caller: str) -> dict[str, AnalogLayer]:
    """The analog layers of a net, which may be on the meta device; raise ``ValueError`` if there is none."""
    checks.instance(caller, "net", net, nn.Module)
    layers = analog_layers(net)
    if all(layer.weight.is_meta for layer in layers.values()) and layers:
        require_initialised(net, caller)
        return layers
    return require_analog_layers(net, caller)


def _arguments(example_input: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword inputs of a net."""
    if isinstance(example_input, Mapping):
        return (), dict(example_input)
    return (tuple(example_input) if type(example_input) in (tuple, list) else (example_input,)), {}


def samples(example_input: Any, caller: str) -> int:
    """The length of the first dimension of the first tensor of an input; raise ``ValueError`` if it is 0."""
    shape = next((list(tensor.shape) for tensor in tensors(_arguments(example_input))), [])
    if shape[:1] == [0]:
        raise ValueError(f"{caller}: example_input has shape {shape}, without samples; pass at least one")
    return shape[0] if shape else 1


def trace(net: nn.Module, example_input: Any, caller: str) -> Trace:
    """Count one forward pass; see ``Tracer``."""
    return Tracer(net, caller).run(example_input)
