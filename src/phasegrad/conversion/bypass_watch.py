"""Detection of matrix products with weights that bypass the analog layers."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from phasegrad import argument_checks as checks
from phasegrad.conversion.in_place import attribute_values
from phasegrad.conversion.originals import originals
from phasegrad.conversion.products import factors, function_name, multiplies, only_scales
from phasegrad.conversion.weight_flow import WeightFlow
from phasegrad.nn import AnalogComposite, AnalogLayer, analog_layers
from phasegrad.ops.profiling import observing


class BypassWarning(UserWarning):
    """A weight is used in a digital product, where the hardware is not simulated."""


def bypasses(net: nn.Module, *inputs: Any, **named: Any) -> dict[str, str]:
    """Find the products of one forward pass that use a parameter but bypass the tiles.

    A model may use the weight of a module without calling the module, as in ``F.linear(x, self.head.weight)``; the
    result then contains none of the hardware's effects. Modules that stayed digital multiply digitally too.

    Args:
        net: a converted net. It is run once in evaluation mode; the net and torch's CPU generator are left unchanged.
        inputs: positional inputs of the net.
        named: keyword inputs of the net.

    Returns:
        The function that used a parameter and where it did so, by the name of the parameter.

    Examples:
        >>> import phasegrad as pg
        >>> class Model(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.head = nn.Linear(4, 2)
        ...     def forward(self, x):
        ...         return torch.nn.functional.linear(x, self.head.weight)
        >>> bypasses(pg.convert(Model(), pg.presets.pcm_inference()), torch.ones(1, 4))
        {'head.weight': 'linear multiplies by it outside the forward pass of head; call head(x) instead'}
    """
    return watch_pass(net, *inputs, **named).found


def watch_pass(net: nn.Module, *inputs: Any, **named: Any) -> BypassWatch:
    """Watch one forward pass in evaluation mode, which leaves the net and torch's CPU generator as they are."""
    checks.module("bypasses", "net", net)
    modes = {module: module.training for module in net.modules()}
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(torch.no_grad())
        watch = stack.enter_context(watching_bypasses(net.eval()))
        stack.callback(lambda: [setattr(module, "training", mode) for module, mode in modes.items()])
        net(*inputs, **named)
    return watch


@contextmanager
def watching_bypasses(net: nn.Module) -> Iterator[BypassWatch]:
    """Collect the products that bypass the tiles within the context; see ``bypasses``."""
    watch = BypassWatch(net)
    with ExitStack() as stack:
        stack.enter_context(uncompiled())
        stack.enter_context(observing(watch.layer_runs))
        stack.enter_context(watch)
        yield watch


def uncompiled() -> AbstractContextManager[Any]:
    """A context in which compiled modules run as they were written, with their hooks and visible operators."""
    loaded = "torch._dynamo" in sys.modules  # otherwise nothing is compiled, and loading it takes seconds
    return torch.compiler.set_stance("force_eager") if loaded else nullcontext()


class _Owner(NamedTuple):
    """A tensor of the net that products may multiply by."""

    name: str
    module_name: str
    module: nn.Module
    original: bool
    matrix: bool


class BypassWatch(TorchDispatchMode):
    """Records products with weights outside the forward pass of an analog layer.

    It sees operators as they are dispatched: a mode for functions, and hooks, would close the fused paths of torch.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        """The function that used a weight and where, by the name of the weight."""
        self.called: set[int] = set()
        """The ids of the analog layers whose tiles computed a product."""
        self.bypassed: set[int] = set()
        """The ids of the analog layers by whose weights something else multiplied."""
        self._modules = {id(module): name for name, module in net.named_modules()}
        self._net = net
        self._depth = 0
        self._owners, weights = _owners(net)
        self._flow = WeightFlow(weights)

    @contextmanager
    def layer_runs(self, layer: Any) -> Iterator[None]:
        """Within this context the products are those of the tiles of ``layer``."""
        inside = isinstance(layer, AnalogLayer)
        if inside:
            self.called.add(id(layer))
            self._depth += 1
        try:
            yield
        finally:
            self._depth -= inside

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._depth == 0:
            self._look(func, args, kwargs)
        result = func(*args, **kwargs)
        if self._depth == 0:
            self._flow.follow(func, args, kwargs, result)
        return result

    def _look(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        summed = self._flow.summed(op, args, kwargs)
        for number in self._matrices(summed):
            self._report("a sum of products", number)
        if not multiplies(op):
            return
        multiplied = factors(op, args, kwargs)
        known = [(t, self._flow.owners(t)) for t in multiplied]
        if all(owners is not None for _, owners in known) and "embedding_bag" not in op._schema.name:
            return  # a product of weights and constants, which no input changes
        if any(isinstance(value, torch.ScriptObject) for value in args):
            self._report_packed(op)
        used = [(t, number) for t, owners in known for number in owners or ()]
        if only_scales(op, multiplied):  # a product for layers, where the sizes of the model happen to be 1
            used = [(t, number) for t, number in used if isinstance(self._owners[number].module, AnalogLayer)]
        chosen = self._matrices(number for _, number in used)
        for tensor, number in used:
            if number in chosen:
                self._report(function_name(op, tensor), number)

    def _matrices(self, numbers: Iterable[int]) -> set[int]:
        """Those weights that are matrices, if any is: the others scale them, as a gain does."""
        used = set(numbers)
        return {number for number in used if self._owners[number].matrix} or used

    def _report(self, function: str, number: int) -> None:
        name, module_name, module, original, _ = self._owners[number]
        if isinstance(module, AnalogLayer):
            self.bypassed.add(id(module))
        if original:
            self.bypassed.add(id(self._net.get_submodule(module_name)))
            where = "of the digital model from which the net was converted; let the net call its own layer"
        elif isinstance(module, AnalogLayer):
            where = f"outside the forward pass of {module_name or 'the net'}; call {module_name or 'it'}(x) instead"
        else:
            where = f"in {module_name or 'the net'}, a {type(module).__name__}, which is digital"
        self.found.setdefault(name, f"{function} multiplies by it {where}")

    def _report_packed(self, op: Any) -> None:
        """Report a weight that is no tensor, by the module whose method is running."""
        frame = sys._getframe()
        while frame is not None:
            module = frame.f_locals.get("self")
            if isinstance(module, nn.Module) and id(module) in self._modules:
                name = self._modules[id(module)]
                where = f"in {name or 'the net'}, a {type(module).__name__}, which is digital"
                self.found.setdefault(
                    f"{name}.weight".lstrip("."), f"{function_name(op, None)} multiplies by it {where}"
                )
                return
            frame = frame.f_back


def _owners(net: nn.Module) -> tuple[list[_Owner], list[Tensor]]:
    """The parameters, buffers and other tensors of a net, each once; a tied weight is that of its analog layer."""
    found: dict[int, tuple[_Owner, Tensor]] = {}
    inside = {id(part): (name, layer) for name, layer in analog_layers(net).items() for part in layer.modules()}
    modules = dict(net.named_modules())

    def add(key: str, name: str, module: nn.Module, tensor: Any, original: bool = False) -> None:
        if isinstance(tensor, Tensor) and id(tensor) not in found:
            owner = _Owner(
                f"{name}.{key}".lstrip("."), *inside.get(id(module), (name, module)), original, _is_matrix(tensor)
            )
            found[id(tensor)] = (owner, tensor)

    for layers_first in (True, False):
        for name, module in modules.items():
            if (id(module) in inside) is layers_first and not isinstance(module, AnalogComposite):
                for key, tensor in (*module._parameters.items(), *module._buffers.items()):
                    add(key, name, module, tensor)
    names = {id(module): name for name, module in modules.items()}
    for module, key, value in attribute_values(net):
        add(key, names[id(module)], module, value)
    for name, module in originals(net).items():
        for key, tensor in module._parameters.items():
            add(key, name, module, tensor, original=True)
    return [owner for owner, _ in found.values()], [tensor for _, tensor in found.values()]


def _is_matrix(tensor: Tensor) -> bool:
    return sum(size > 1 for size in tensor.shape) > 1
