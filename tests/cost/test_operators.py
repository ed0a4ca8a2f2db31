"""Operations and bytes of digital operators, counted by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.cost.technologies import small
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.cost import OperatorCost


class Around(nn.Module):
    """A linear layer, and a function of its output."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.layer, self.function = nn.Linear(8, 8, bias=False), function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.layer(x))


def operators(function: Any, *shape: int) -> dict[str, OperatorCost]:
    net = pg.convert(Around(function), small())
    return {part.operator.name: part.operator for part in pg.cost.estimate(net, torch.empty(*shape, 8)).digital}


def test_an_activation_is_one_operation_per_element() -> None:
    found = operators(F.relu, 5)
    assert list(found) == ["relu"]
    assert (found["relu"].operations, found["relu"].bytes, found["relu"].values) == (40, 2 * 40 * 4, 80)


def test_softmax_and_normalisation_are_several() -> None:
    found = operators(lambda y: F.layer_norm(y.softmax(-1), (8,), torch.ones(8), torch.zeros(8)), 5)
    assert found["softmax"].operations == 5 * 40
    assert found["native_layer_norm"].operations == 7 * 40
    assert found["native_layer_norm"].values == 40 + 40 + 16  # statistics are for a backward pass


def test_attention_is_two_products_and_a_softmax() -> None:
    found = operators(lambda y: F.scaled_dot_product_attention(y, y, y), 2, 3, 7)
    attention = found["scaled_dot_product_attention"]
    assert attention.products == 2 * 3 * 2 * (2 * 7 * 7 * 8)
    assert attention.operations == attention.products + 6 * 2 * 3 * 7 * 7
    assert attention.values == 4 * 2 * 3 * 7 * 8


def test_a_digital_product_reads_its_weights() -> None:
    weight = torch.empty(16, 8)
    found = operators(lambda y: F.linear(y, weight), 5)
    assert found["mm"].operations == found["mm"].products == 2 * 5 * 8 * 16
    assert found["mm"].values == 5 * 8 + 8 * 16 + 5 * 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_with_the_weights_of_experts_are_counted_in_every_dtype(dtype: torch.dtype) -> None:
    experts, ends = torch.empty(3, 8, 16, dtype=dtype), torch.tensor([1, 4, 5], dtype=torch.int32)
    net = pg.convert(Around(lambda y: F.grouped_mm(y, experts, offs=ends)), small()).to(dtype)
    (found,) = pg.cost.estimate(net, torch.empty(5, 8, dtype=dtype)).digital
    assert found.operator.operations == found.operator.products == 2 * 5 * 8 * 16


def test_pooling_compares_its_window() -> None:
    found = operators(lambda y: F.max_pool2d(y.view(1, 1, 4, 8), 2), 4)
    assert found["max_pool2d_with_indices"].operations == 2 * 4 * 4


def test_appending_to_a_cache_moves_what_is_appended() -> None:
    found = operators(lambda y: torch.cat([torch.empty(100, 8), y]), 2)
    assert (found["cat"].operations, found["cat"].values) == (0, 2 * 16)


def test_views_moves_and_constants_cost_nothing() -> None:
    found = operators(lambda y: (y.t().contiguous().double(), torch.arange(9).float().exp(), y.new_zeros(3) + 1), 5)
    assert found == {}


def test_a_mask_from_the_input_counts_and_a_constant_one_does_not() -> None:
    found = operators(lambda y: y.masked_fill(torch.ones(5, 8).tril() > 0, 0.0), 5)
    assert list(found) == ["masked_fill"]
