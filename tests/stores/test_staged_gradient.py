"""Gradients of in-memory weights follow torch's contract: what autograd returns is not accumulated, hooks run."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.optim.test_analog_sgd import fine
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import phasegrad as pg
from phasegrad.crossbar import AbsMaxRange, Adc, Dac, FixedRange

CONVERTED = {
    "exact": fine,
    "converters": lambda: fine(
        dac=Dac(bits=8, range=AbsMaxRange()), adc=Adc(bits=8, range=FixedRange(value=4.0)), output_noise=0.01
    ),
}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.recurrent = kind(8, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.recurrent(x)[0]


class Tied(nn.Module):
    """The same weight in two layers, one of them used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(torch.tanh(self.first(x)))))


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.layers, self.reentrant = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)), reentrant

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.layers, x, use_reentrant=self.reentrant)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8, bias=False))


FAMILIES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (mlp, (5, 8)),
    "sequence": (mlp, (2, 5, 8)),
    "conv1d": (lambda: nn.Conv1d(8, 4, 3, padding=1), (2, 8, 6)),
    "grouped": (lambda: nn.Conv2d(8, 4, 3, stride=2, groups=2, padding_mode="reflect", padding=1), (2, 8, 6, 6)),
    "conv3d": (lambda: nn.Conv3d(2, 2, 2, dilation=2), (1, 2, 4, 4, 4)),
    "transposed": (lambda: nn.ConvTranspose2d(8, 4, 3, stride=2, groups=2), (2, 8, 3, 3)),
    "lstm": (lambda: Recurrent(nn.LSTM), (2, 4, 8)),
    "gru": (lambda: Recurrent(nn.GRU), (2, 4, 8)),
    "attention": (Attention, (2, 5, 8)),
    "tied": (Tied, (5, 8)),
    "checkpointed": (lambda: Checkpointed(False), (5, 8)),
    "reentrant": (lambda: Checkpointed(True), (5, 8)),
}
family = pytest.mark.parametrize("name", FAMILIES)
hardware = pytest.mark.parametrize("periphery", CONVERTED)


def made(name: str, periphery: str = "exact") -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    make, shape = FAMILIES[name]
    net = pg.convert(make(), CONVERTED[periphery]())
    return net, torch.randn(shape, requires_grad=True)


def weights(net: nn.Module) -> list[Any]:
    return [p for p in net.parameters() if isinstance(p, pg.nn.InMemoryWeight)]


def state(net: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in net.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def of_grad(net: nn.Module, x: Tensor) -> None:
    torch.autograd.grad(net(x).square().mean(), x)


def of_grad_twice(net: nn.Module, x: Tensor) -> None:
    torch.autograd.grad(net(x).square().mean(), x, create_graph=True)


def of_inputs(net: nn.Module, x: Tensor) -> None:
    net(x).square().mean().backward(inputs=[x])


def of_jacobian(net: nn.Module, x: Tensor) -> None:
    torch.autograd.functional.jacobian(lambda x: net(x).mean((0, -1)), x)


def of_vectorized_jacobian(net: nn.Module, x: Tensor) -> None:
    torch.autograd.functional.jacobian(lambda x: net(x).mean((0, -1)), x, vectorize=True)


def of_hessian(net: nn.Module, x: Tensor) -> None:
    torch.autograd.functional.hessian(lambda x: net(x).square().mean(), x)


def of_frozen(net: nn.Module, x: Tensor) -> None:
    for weight in weights(net):
        weight.requires_grad_(False)
    net(x).square().mean().backward()
    for weight in weights(net):
        weight.requires_grad_(True)
    net.zero_grad()


def of_attack(net: nn.Module, x: Tensor) -> None:
    for _ in range(2):
        (gradient,) = torch.autograd.grad(net(x).square().mean(), x)
        x = (x + 0.05 * gradient.sign()).detach().requires_grad_()


@hardware
@family
@pytest.mark.parametrize("verb", [of_grad, of_grad_twice, of_inputs, of_jacobian, of_frozen, of_attack])
def test_a_gradient_of_inputs_stages_nothing(name: str, periphery: str, verb: Callable[..., None]) -> None:
    net, x = made(name, periphery)
    if name == "reentrant" and verb is not of_frozen:
        pytest.skip("torch refuses it")
    before = state(net)
    verb(net, x)
    assert [w.grad for w in weights(net)] == [None] * len(weights(net))
    pg.optim.AnalogSGD(net.parameters(), lr=0.1).step()
    assert same(state(net), before)


@family
def test_backward_stages_the_dense_gradient_of_the_float_net(name: str) -> None:
    net, x = made(name)
    digital = pg.to_digital(copy.deepcopy(net))
    for module in (net, digital):
        module(x).square().mean().backward()
    dense = {n: p.grad for n, p in digital.named_parameters()}
    for n, p in net.named_parameters():
        if isinstance(p, pg.nn.InMemoryWeight):
            torch.testing.assert_close(p.grad.to_dense(), dense[_digital(n)], rtol=1e-4, atol=1e-6)


def _digital(name: str) -> str:
    """The name of a parameter in the digital net, where recurrent matrices have no layers of their own."""
    for kind in ("ih", "hh"):
        name = name.replace(f"{kind}_l0.weight", f"weight_{kind}_l0")
    return name.replace("in_proj.weight", "in_proj_weight")


@family
def test_hooked_gradients_are_those_that_are_staged_without_hooks(name: str) -> None:
    found = []
    for hooked in (False, True):
        net, x = made(name)
        seen: list[torch.Size] = []
        for weight in weights(net):
            if hooked:
                weight.register_hook(lambda grad, seen=seen: seen.append(grad.shape))
        for _ in range(2):
            net(x).square().mean().backward()
        assert sorted(seen) == sorted([w.shape for w in weights(net)] * 2 if hooked else [])
        found.append([s for w in weights(net) for s in w.grad.samples])
    assert all(torch.equal(a.x, b.x) and torch.equal(a.d, b.d) for a, b in zip(*found, strict=True))


def test_gradients_of_the_weight_itself_are_staged_samples() -> None:
    net, x = made("linear")
    loss = net(x).square().mean()
    first, _ = weights(net)
    of_x, gradient = torch.autograd.grad(loss, [x, first], retain_graph=True)
    assert first.grad is None
    loss.backward(inputs=[first], retain_graph=True)
    assert of_x.shape == x.shape
    assert [w.grad is None for w in weights(net)] == [False, True]
    assert torch.equal(gradient.to_dense(), first.grad.to_dense())
    first.grad = None
    first.grad = gradient  # as torch allows for gradients
    assert torch.equal(first.grad.to_dense(), gradient.to_dense())
    loss.backward()
    assert len(first.grad.samples) == 2


def test_passes_accumulate_and_keep_their_order() -> None:
    net, x = made("tied")
    (weight,) = weights(net)
    loss = net(x).sum()
    loss.backward(retain_graph=True)
    loss.backward()
    samples = weight.grad.samples
    assert len(samples) == 6
    assert all(torch.equal(a.x, b.x) and torch.equal(a.d, b.d) for a, b in zip(samples[:3], samples[3:], strict=True))


@pytest.mark.parametrize("factor", [0.5, -2, torch.tensor(3.0)], ids=str)
@pytest.mark.parametrize(
    "how", [lambda g, f: g * f, lambda g, f: f * g, lambda g, f: g.mul_(f), lambda g, f: g / (1 / f)]
)
def test_a_hook_may_scale_the_gradient(factor: Any, how: Callable[..., Any]) -> None:
    net, x = made("grouped")
    (weight,) = weights(net)
    net(x).square().mean().backward()
    plain = weight.grad.to_dense()
    weight.grad = None
    weight.register_hook(lambda grad: how(grad, factor))
    net(x).square().mean().backward()
    torch.testing.assert_close(weight.grad.to_dense(), plain * factor)


def half(shape: torch.Size) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(4)) > 0.5


MASKING: dict[str, Callable[[Any, Tensor], Any]] = {
    "float": lambda g, m: g * m.float(),
    "bool": lambda g, m: m * g,
    "in place": lambda g, m: g.mul_(m),
    "in place, nothing returned": lambda g, m: None if g.mul_(m) is g else g,
    "fill": lambda g, m: g.masked_fill(~m, 0.0),
    "where": lambda g, m: torch.where(m, g, torch.zeros_like(g)),
    "where number": lambda g, m: torch.where(m, g, 0.0),
    "assigned": lambda g, m: g.clone().index_put_((~m,), torch.tensor(0.0)),
    "detached": lambda g, m: g.detach() * m,
    "added": lambda g, m: sum([g * m]),
}


def assigned(gradient: Any, mask: Tensor) -> Any:
    gradient[~mask] = 0
    return gradient


@pytest.mark.parametrize("how", [*MASKING.values(), assigned], ids=[*MASKING, "brackets"])
@pytest.mark.parametrize("name", ["linear", "transposed"])
def test_a_hook_may_mask_the_gradient(name: str, how: Callable[[Any, Tensor], Any]) -> None:
    net, x = made(name)
    weight = weights(net)[0]
    net(x).square().mean().backward()
    plain, mask = weight.grad.to_dense(), half(weight.shape)
    weight.grad = None
    weight.register_hook(lambda grad: how(grad, mask))
    net(x).square().mean().backward()
    assert torch.equal(weight.grad.to_dense(), plain * mask)


def test_a_mask_times_a_number_masks_and_scales() -> None:
    net, x = made("linear")
    weight, mask = weights(net)[0], torch.tensor([1.0, 0, 0, 1, 1, 0, 1, 1])
    net(x).square().mean().backward()
    plain = weight.grad.to_dense()
    weight.grad = None
    weight.register_hook(lambda grad: grad * (0.25 * mask))  # broadcast over outputs
    net(x).square().mean().backward()
    torch.testing.assert_close(weight.grad.to_dense(), plain * 0.25 * mask)


REFUSED: dict[str, Callable[[Any], Any]] = {
    "factors": lambda g: g * torch.linspace(0, 1, g.numel()).view(g.shape),
    "dense": lambda g: g.to_dense() * 2,
    "norm": lambda g: g / g.norm(),
    "clamp": lambda g: g.clamp(-1, 1),
    "sign": torch.sign,
    "noise": lambda g: g + torch.randn(g.shape),
    "square": lambda g: g * g,
    "row": lambda g: g[0],
    "cpu": lambda g: g.to(torch.float64).sum(),
}


@pytest.mark.parametrize("hook", REFUSED.values(), ids=REFUSED)
def test_what_pulses_cannot_do_is_refused_with_a_way_out(hook: Callable[[Any], Any]) -> None:
    net, x = made("linear")
    weight = weights(net)[0]
    handle = weight.register_hook(hook)
    with pytest.raises(RuntimeError, match=r"in-memory weight[\s\S]*hook may return[\s\S]*(number|mask)"):
        net(x).square().mean().backward()
    assert weight.grad is None
    handle.remove()
    net.zero_grad()
    net(x).square().mean().backward()
    assert len(weight.grad.samples) == 1


def test_different_masks_in_one_step_are_refused() -> None:
    net, x = made("linear")
    weight, masks = weights(net)[0], iter([half(torch.Size((8, 8))), ~half(torch.Size((8, 8)))])
    weight.register_hook(lambda grad: grad * next(masks))
    net(x).square().mean().backward()
    with pytest.raises(RuntimeError, match="different masks"):
        net(x).square().mean().backward()


def test_hooks_after_accumulation_see_the_samples_and_may_step() -> None:
    net, x = made("linear")
    seen = []
    for weight in weights(net):
        optimizer = pg.optim.AnalogSGD([weight], lr=0.1)

        def step(weight: Any, optimizer: Any = optimizer) -> None:
            seen.append(len(weight.grad.samples))
            optimizer.step()

        weight.register_post_accumulate_grad_hook(step)
    before = state(net)
    net(x).square().mean().backward()
    assert seen == [1, 1]
    assert not torch.equal(before["0.devices.conductance"], net[0].devices.conductance)
    assert all(w.grad is None for w in weights(net))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_have_no_gradient_and_accumulate_their_own(copied: Callable[[Any], Any]) -> None:
    net, x = made("linear")
    net(x).sum().backward()
    other = copied(net)
    assert all(w.grad is None for w in weights(other))
    other(x).sum().backward()
    assert all(len(w.grad.samples) == 1 for w in [*weights(net), *weights(other)])


def test_assigned_and_changed_gradients_count() -> None:
    net, x = made("linear")
    weight = weights(net)[0]
    net(x).sum().backward()
    plain = weight.grad.to_dense()
    weight.grad.mul_(0.5)  # as loops that accumulate or clip by hand do
    weight.grad = weight.grad * half(weight.shape)
    torch.testing.assert_close(weight.grad.to_dense(), 0.5 * plain * half(weight.shape))
    weight.grad.zero_()
    assert not weight.grad.samples


@pytest.mark.parametrize("verb", [of_vectorized_jacobian, of_hessian])
def test_other_derivatives_of_inputs_stage_nothing(verb: Callable[..., None]) -> None:
    net, x = made("linear")
    verb(net, x)
    assert [w.grad for w in weights(net)] == [None, None]
