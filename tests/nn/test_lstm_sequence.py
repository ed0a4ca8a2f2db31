"""An LSTM whose steps share one node of autograd equals the same LSTM step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

import phasegrad as pg
from phasegrad.crossbar.converters import Adc, Dac, LearnedRange

NOISY = replace(pg.presets.pcm_inference(), rows=4)
HARDWARE = {
    "noise": NOISY,
    "one tile": replace(NOISY, rows=64),
    "clipping": replace(NOISY, output_noise=0.0, read_noise=0.0, adc=Adc(bits=6, range=LearnedRange(start=0.4))),
    "no converters": replace(NOISY, dac=None, adc=None),
}


def lstm(hardware: pg.Hardware, dtype: torch.dtype = torch.float32, **options: Any) -> nn.Module:
    net = pg.convert(nn.LSTM(3, 6, dtype=dtype, **options), hardware)
    pg.hwa.Recipe().apply(net)
    return net.train()


def watched(net: nn.Module) -> Callable[[], None]:
    """Make the net compute step by step, until the result is called."""
    handles = [m.register_forward_hook(lambda *_: None) for name, m in net.named_modules() if "hh" in name]
    return lambda: [h.remove() for h in handles] and None


def both_ways(net: nn.Module, run: Callable[[nn.Module], list[Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    results = []
    for by_step in (False, True):
        unwatch = watched(net) if by_step else lambda: None
        torch.manual_seed(1)
        results.append(run(net))
        unwatch()
    return results[0], results[1]


def parameters(net: nn.Module) -> list[Tensor]:
    return [p for p in net.parameters() if p.requires_grad]


@pytest.mark.parametrize("hardware", HARDWARE.values(), ids=HARDWARE)
@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False, "batch_first": True}],
    ids=["plain", "deep", "no bias"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_and_gradients_equal_those_of_single_steps(
    hardware: pg.Hardware, options: dict[str, Any], dtype: torch.dtype
) -> None:
    net, x = lstm(hardware, dtype, **options), torch.randn(5, 4, 3, dtype=dtype, requires_grad=True)

    def run(net: nn.Module) -> list[Tensor]:
        y, (h, c) = net(x)
        loss = y.square().sum() + (3 * h).sum() + c.square().sum()
        return [y.detach(), h.detach(), c.detach(), *torch.autograd.grad(loss, [x, *parameters(net)])]

    mine, theirs = both_ways(net, run)
    assert all(torch.equal(a, b) for a, b in zip(mine[:3], theirs[:3], strict=True))
    torch.testing.assert_close(mine[3:], theirs[3:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("used", [(0,), (1,), (2,), (0, 2)], ids=["outputs", "hidden", "cell", "outputs and cell"])
def test_gradients_of_some_results_equal_those_of_single_steps(used: tuple[int, ...]) -> None:
    net, x = lstm(NOISY), torch.randn(5, 4, 3, requires_grad=True)
    hx = [torch.randn(1, 4, 6, requires_grad=True) for _ in range(2)]

    def run(net: nn.Module) -> list[Tensor]:
        y, (h, c) = net(x, tuple(hx))
        loss = sum((y, h, c)[i].square().sum() for i in used)
        return list(torch.autograd.grad(loss, [x, *hx, *parameters(net)]))

    torch.testing.assert_close(*both_ways(net, run), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("hardware", [HARDWARE["noise"], HARDWARE["clipping"]], ids=["noise", "clipping"])
def test_second_derivatives_equal_those_of_single_steps(hardware: pg.Hardware) -> None:
    hardware = replace(hardware, dac=Dac(bits=8, range=LearnedRange(decay=0.0)))  # every pass adds the decay anew
    net, x = lstm(hardware, torch.float64), torch.randn(4, 3, 3, dtype=torch.float64, requires_grad=True)

    def run(net: nn.Module) -> list[Tensor]:
        y, (_, c) = net(x)
        loss = y.square().sum() + c.sum()
        first = torch.autograd.grad(loss, [x, *parameters(net)], create_graph=True)
        return list(torch.autograd.grad(sum(g.square().sum() for g in first), [x, *parameters(net)]))

    torch.testing.assert_close(*both_ways(net, run), rtol=1e-8, atol=1e-10)


def test_outputs_may_be_changed_in_place() -> None:
    net, x = lstm(NOISY), torch.randn(4, 3, 3)

    def run(net: nn.Module) -> list[Tensor]:
        return list(torch.autograd.grad(net(x)[0].relu_().square().sum(), parameters(net)))

    torch.testing.assert_close(*both_ways(net, run), rtol=1e-4, atol=1e-5)


def test_some_parameters_may_be_frozen() -> None:
    net, x = lstm(NOISY), torch.randn(4, 3, 3)
    net.hh_l0.weight.requires_grad_(False)
    net.hh_l0.input_range.requires_grad_(False)

    def run(net: nn.Module) -> list[Tensor]:
        return list(torch.autograd.grad(net(x)[0].square().sum(), parameters(net)))

    torch.testing.assert_close(*both_ways(net, run), rtol=1e-4, atol=1e-5)


def test_a_chip_and_sequences_of_several_lengths_run_step_by_step() -> None:
    net = lstm(NOISY)
    packed = pack_sequence([torch.randn(n, 3) for n in (4, 2)])
    equal = pack_sequence([torch.randn(3, 3) for _ in range(2)])
    for inputs in (packed, equal):
        mine, theirs = both_ways(net, lambda net, x=inputs: [net(x)[0].data.detach()])
        assert torch.equal(mine[0], theirs[0])
    chip = pg.inference.program(net, seed=0)
    mine, theirs = both_ways(chip, lambda chip: [chip(torch.ones(3, 2, 3))[0]])
    assert torch.equal(mine[0], theirs[0])


def test_large_products_equal_those_of_single_steps() -> None:
    """They are products of bytes, which all steps share, where the processor multiplies bytes."""
    net, x = pg.convert(nn.LSTM(4, 256), pg.presets.pcm_inference()), torch.randn(3, 64, 4)
    pg.hwa.Recipe().apply(net)
    mine, theirs = both_ways(net.train(), lambda net: [net(x)[0].detach()])
    assert torch.equal(mine[0], theirs[0])
