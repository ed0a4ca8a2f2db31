"""Layers with the features of torch: compiler, autocast, vmap, checkpointing, accumulation, shared use."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.utils.checkpoint import checkpoint

import phasegrad as pg
from phasegrad.crossbar import AbsMaxRange, Adc, Dac, FullScaleRange, LearnedRange

IDEAL = pg.presets.ideal_inference()
NOISY = replace(pg.presets.pcm_inference(), rows=5)
# All converters but no noise, so that two ways to compute must agree.
QUIET = replace(NOISY, output_noise=0.0, read_noise=0.0, cell=IDEAL.cell)
RECIPE = pg.hwa.Recipe(drop_connect=0.1)
WAYS = ["training", "evaluation", "programmed"]


def net(hardware: pg.Hardware, way: str = "training") -> nn.Module:
    """A convolution and two linear layers, each with several row tiles."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    converted = pg.convert(model, hardware).train(way == "training")
    return pg.inference.program(converted, seed=0) if way == "programmed" else converted


def inputs() -> Tensor:
    return torch.randn(6, 2, 6, generator=torch.Generator().manual_seed(1))


def run(module: nn.Module, source: nn.Module, seed: int = 3) -> list[Tensor]:
    """The output, and the gradients of the input and of the parameters of ``source``, for one seed."""
    x = inputs().requires_grad_()
    torch.manual_seed(seed)
    y = module(x)
    parameters = [p for p in source.parameters() if p.requires_grad]
    return [y.detach(), *torch.autograd.grad((y * torch.arange(3.0)).sum(), [x, *parameters], allow_unused=True)]


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-5) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        if theirs is not None:
            torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


# Inductor's modules use deprecated functions of torch.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:DeprecationWarning")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor compiles C++")


def small(hardware: pg.Hardware, way: str) -> nn.Module:
    """A net with few kernels, because inductor takes seconds for each."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    converted = pg.convert(model, replace(hardware, rows=16)).train(way == "training")
    return pg.inference.program(converted, seed=0) if way == "programmed" else converted


@needs_compiler
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("way", ["evaluation", "programmed"])
@pytest.mark.slow
def test_compiled_net_equals_eager_without_noise(way: str) -> None:
    module = small(QUIET, way)
    with torch.no_grad():
        found, expected = torch.compile(module, fullgraph=True)(inputs()), module(inputs())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@needs_compiler
@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_training_noise_equals_eager_noise_with_the_same_generator() -> None:
    module = small(NOISY, "training")
    RECIPE.apply(module)
    with torch._inductor.config.patch(fallback_random=True):
        compiled = torch.compile(module, fullgraph=True)
        assert_close(run(compiled, module), run(module, module))


class Parallel(nn.Module):
    """Two layers with the same input, which a compiler might merge."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.layers[0](x), self.layers[1](x)


@needs_compiler
@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_noise_repeats_for_a_seed_and_differs_between_layers() -> None:
    layer = nn.Linear(8, 2000)
    both = Parallel(pg.convert(nn.ModuleList([layer, nn.Linear(8, 2000)]), replace(IDEAL, output_noise=0.1)))
    both.layers[1].load_state_dict(both.layers[0].state_dict())
    compiled, x, draws = torch.compile(both, fullgraph=True), torch.randn(4, 8), []
    for _ in range(2):
        torch.manual_seed(0)
        with torch.no_grad():
            draws.append(compiled(x))
    assert torch.equal(draws[0][0], draws[1][0])
    unit = 0.1 * both.layers[0].weight.detach().abs().amax(1) * x.abs().amax(1, keepdim=True)
    exact = nn.functional.linear(x, *(p.detach() for p in both.layers[0].parameters()))
    first, second = ((y - exact) / unit for y in draws[0])
    assert abs(first.std().item() - 1) < 5 / (2 * first.numel()) ** 0.5
    assert abs((first * second).mean().item()) < 5 / first.numel() ** 0.5


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.slow
def test_noisy_net_is_traced_without_graph_breaks_and_equals_eager(way: str) -> None:
    module = net(NOISY, way)
    RECIPE.apply(module)
    traced = torch.compile(module, fullgraph=True, backend="aot_eager_decomp_partition")
    assert_close(run(traced, module), run(module, module))


@pytest.mark.parametrize("way", WAYS)
def test_autocast_is_accurate_to_the_precision_of_bfloat16(way: str) -> None:
    module = net(QUIET, way)
    exact = run(module, module)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run(module, module)
    assert (found[0].float() - exact[0]).abs().max() < 0.05 * exact[0].abs().max()
    for mine, theirs in zip(found[1:], exact[1:], strict=True):
        if theirs is not None:
            assert mine.dtype == torch.float32
            assert (mine - theirs).norm() < 0.2 * theirs.norm() + 1e-6


def test_autocast_is_finite_with_noise() -> None:
    module = net(NOISY)
    RECIPE.apply(module)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(g.isfinite().all() for g in run(module, module) if g is not None)


def chips(module: nn.Module, x: Tensor, count: int, randomness: str) -> Tensor:
    """The outputs of ``count`` copies of a net under vmap, ``[chips, batch, out]``."""
    parameters, buffers = stack_module_state([module] * count)

    def one(p: dict[str, Tensor], b: dict[str, Tensor]) -> Tensor:
        return functional_call(module, (p, b), (x,))

    return torch.vmap(one, randomness=randomness)(parameters, buffers).detach()


@pytest.mark.parametrize("way", WAYS)
def test_vmap_with_the_same_randomness_computes_equal_chips(way: str) -> None:
    module = net(NOISY, way)
    y = chips(module, inputs(), 3, "same")
    assert torch.equal(y[0], y[1])
    assert torch.equal(y[0], y[2])


def test_vmap_with_different_randomness_draws_independent_noise_per_chip() -> None:
    layer = pg.nn.AnalogLinear(8, 2000, hardware=replace(IDEAL, output_noise=0.1))
    x = torch.randn(1, 8)
    noise = chips(layer, x, 4, "different") - nn.functional.linear(x, layer.weight, layer.bias).detach()
    z = (noise / (0.1 * layer.weight.abs().amax(1) * x.abs().max())).flatten(1).detach()
    assert abs(z.std().item() - 1) < 5 / (2 * z.numel()) ** 0.5
    correlation = torch.corrcoef(z) - torch.eye(4)
    assert correlation.abs().max() < 5 / z.shape[1] ** 0.5


@pytest.mark.parametrize("way", WAYS)
def test_vmap_over_equal_nets_equals_a_single_net(way: str) -> None:
    module = net(replace(QUIET, dac=Dac(range=AbsMaxRange())), way)
    with torch.no_grad():
        expected = module(inputs()).expand(3, -1, -1)
        torch.testing.assert_close(chips(module, inputs(), 3, "different"), expected, rtol=1e-5, atol=1e-5)


def test_functional_call_uses_the_given_weights() -> None:
    module, x = net(IDEAL), inputs()
    zeros = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
    assert torch.equal(functional_call(module, zeros, (x,)), torch.zeros(6, 3))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_does_not_change_gradients(way: str, reentrant: bool) -> None:
    module = net(NOISY, way)
    RECIPE.apply(module)

    def checkpointed(x: Tensor) -> Tensor:
        return checkpoint(module, x, use_reentrant=reentrant, preserve_rng_state=True)

    if reentrant:  # reentrant checkpointing supports only backward
        x, y = inputs().requires_grad_(), inputs().requires_grad_()
        for run_, z in ((checkpointed, x), (module, y)):
            torch.manual_seed(3)
            run_(z).square().sum().backward()
        assert torch.equal(x.grad, y.grad)
        return
    for mine, theirs in zip(run(checkpointed, module), run(module, module), strict=True):
        assert theirs is None or torch.equal(mine, theirs)


def test_gradients_accumulate_over_backward_passes() -> None:
    module = net(NOISY)
    RECIPE.apply(module)
    single: dict[str, Tensor] = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
    for seed in (1, 2):
        torch.manual_seed(seed)
        module.zero_grad()
        module(inputs()).square().sum().backward()
        single = {name: single[name] + p.grad for name, p in module.named_parameters()}
    module.zero_grad()
    for seed in (1, 2):
        torch.manual_seed(seed)
        module(inputs()).square().sum().backward()
    for name, p in module.named_parameters():
        torch.testing.assert_close(p.grad, single[name])


def test_a_layer_used_twice_has_the_gradients_of_both_uses() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 6)
    analog = pg.convert(layer, replace(IDEAL, rows=4))
    x = torch.randn(3, 6)
    for m in (layer, analog):
        m(torch.tanh(m(x))).square().sum().backward()
    torch.testing.assert_close(analog.weight.grad, layer.weight.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(analog.bias.grad, layer.bias.grad, rtol=1e-5, atol=1e-5)


def test_two_uses_of_a_layer_draw_independent_noise() -> None:
    layer, x = pg.nn.AnalogLinear(4, 5000, hardware=replace(IDEAL, output_noise=0.1)), torch.randn(1, 4)
    z = torch.cat([layer(x), layer(x)]).detach() - nn.functional.linear(x, layer.weight, layer.bias).detach()
    assert abs(torch.corrcoef(z / layer.weight.abs().amax(1).detach())[0, 1].item()) < 5 / 5000**0.5


LEARNED: dict[str, Any] = {
    "dac": Dac(range=LearnedRange(start=1.0)),
    "adc": Adc(range=LearnedRange(start=1.0)),
}


def test_learned_ranges_have_gradients_through_the_compiler_and_checkpointing() -> None:
    module = net(replace(IDEAL, **LEARNED))
    expected = run(module, module)
    assert all(p.requires_grad for p in module.parameters())
    assert all(g is not None for g in expected)
    found = run(lambda x: checkpoint(module, x, use_reentrant=False), module)
    assert_close(found, expected)
    assert_close(run(torch.compile(module, fullgraph=True, backend="aot_eager"), module), expected)


def test_inference_mode_does_not_change_the_output() -> None:
    for way in ("evaluation", "programmed"):
        module = net(replace(NOISY, adc=Adc(range=FullScaleRange())), way)
        torch.manual_seed(0)
        expected = module(inputs()).detach()
        torch.manual_seed(0)
        with torch.inference_mode():
            assert torch.equal(module(inputs()), expected)
