"""A shared weight receives the gradient that separate products would give it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from phasegrad.ops import reference
from phasegrad.ops.direct import call
from phasegrad.ops.shared_weight import shared

ROWS = 4


def sequence(w: Tensor, x: Tensor, inputs: int, *, gain: bool = False, bound: float = 0.8) -> Tensor:
    """Three steps, each of which multiplies the previous output; the ADC clips some of them."""
    scale = torch.stack([part.detach().abs().amax(1) for part in w.split(ROWS, dim=1)])
    gains = 1.0 + torch.arange(scale.numel(), dtype=w.dtype).view_as(scale) / 10 if gain else None
    one, codes = torch.ones(1, dtype=w.dtype), []
    for _ in range(3):
        x, code, _ = call(
            "tile_linear", x, w, scale, None, None, gains, one, 7.0, 0.0, 1.0, bound * one, torch.tensor([5]), 0, 0,
            ROWS, (0.0, 0.0, 0.0), 0.0, 0.0, 0.0, reference.MID_TREAD, 15.0,
        )  # fmt: skip
        codes.append(code)
        x = x.tanh()
    assert bound > 1.0 or bool(torch.stack(codes).any())
    return x[:, :inputs]


def gradients(
    differentiate: Callable[[Tensor, Tensor], Any],
    w: Tensor,
    x: Tensor,
    share: Callable[[Tensor], Tensor],
    **named: Any,
) -> Any:
    w, x = w.clone().requires_grad_(), x.clone().requires_grad_()
    return differentiate(sequence(share(w), x, x.shape[1], **named), (w, x))


def first(y: Tensor, inputs: tuple[Tensor, ...]) -> Any:
    return torch.autograd.grad(y.square().sum(), inputs)


def second(y: Tensor, inputs: tuple[Tensor, ...]) -> Any:
    penalty = sum(g.square().sum() for g in torch.autograd.grad(y.square().sum(), inputs, create_graph=True))
    return torch.autograd.grad(penalty, inputs)


@pytest.mark.parametrize("differentiate", [first, second])
@pytest.mark.parametrize("options", [{}, {"gain": True}, {"bound": 100.0}], ids=["clipping", "gain", "exact"])
@pytest.mark.parametrize("inputs", [4, 10], ids=["one tile", "several tiles"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradients_are_those_of_separate_products(
    differentiate: Any, options: dict[str, Any], inputs: int, dtype: torch.dtype
) -> None:
    w, x = torch.randn(inputs, inputs, dtype=dtype) / 2, torch.randn(6, inputs, dtype=dtype) / 2
    wanted = gradients(differentiate, w, x, lambda w: w, **options)
    torch.testing.assert_close(gradients(differentiate, w, x, shared, **options), wanted, rtol=1e-4, atol=1e-5)


def test_other_uses_of_the_weight_add_up() -> None:
    w, x, found = torch.randn(4, 4, requires_grad=True), torch.randn(6, 4) / 2, []
    for share in (lambda w: w, shared):
        common = share(w)
        y = sequence(common, x, 4).sum() + (x @ common).square().sum()
        found.append(torch.autograd.grad(y, w)[0])
    torch.testing.assert_close(found[1], found[0])


def test_a_pass_that_stops_or_asks_for_inputs_alone_leaves_no_gradient_behind() -> None:
    w, x = torch.randn(4, 4, requires_grad=True), (torch.randn(6, 4) / 2).requires_grad_()
    y = sequence(shared(w), x, 4).square().sum()
    (wanted,) = torch.autograd.grad(y, w, retain_graph=True)
    torch.autograd.grad(y, x, retain_graph=True)

    def stop(_: Tensor) -> None:
        raise KeyError

    handle = x.register_hook(stop)
    with pytest.raises(KeyError):
        y.backward(retain_graph=True)
    handle.remove()
    w.grad = None
    y.backward()
    torch.testing.assert_close(w.grad, wanted)
