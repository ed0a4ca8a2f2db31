"""Prefill and decoding of language models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.cost.technologies import converted, technology
from torch import Tensor, nn

from phasegrad.cost import GenerationEstimate, estimate_generation

WIDTH, WORDS = 16, 50


class Model(nn.Module):
    """One block of attention with a cache, with the interface of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.qkv, self.head = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WORDS, bias=False)

    def forward(
        self, input_ids: Tensor, past_key_values: Any = None, use_cache: bool = True, logits_to_keep: int = 0
    ) -> dict[str, Any]:
        q, k, v = self.qkv(self.embed(input_ids)).chunk(3, -1)
        if past_key_values is not None:
            k, v = (torch.cat([old, new], 1) for old, new in zip(past_key_values, (k, v), strict=True))
        y = nn.functional.scaled_dot_product_attention(*(x.unsqueeze(1) for x in (q, k, v))).squeeze(1)
        return {"logits": self.head(y[:, -logits_to_keep:]), "past_key_values": (k, v)}


def generated(new_tokens: int = 9, net: nn.Module | None = None, **options: Any) -> GenerationEstimate:
    torch.manual_seed(0)
    prompt = torch.zeros(2, 10, dtype=torch.int64)
    net = converted(Model()) if net is None else net
    return estimate_generation(net, prompt, new_tokens, technology=technology(), activity=0.2, **options)


def attention(estimate: Any) -> Any:
    return next(d.operator for d in estimate.digital if d.operator.name == "scaled_dot_product_attention")


def test_prefill_and_steps_count_their_own_tokens_and_contexts() -> None:
    found = generated()
    layers = {layer.name: layer.counts for layer in found.prefill.layers}
    assert layers["qkv"].vectors == 2 * 10
    assert layers["head"].vectors == 2  # only the last position needs logits
    assert attention(found.prefill).products == 2 * 4 * 10 * 10 * WIDTH
    for step, context in ((found.first_step, 10), (found.last_step, 17)):  # eight steps follow the first token
        assert step is not None
        assert {layer.name: layer.counts.vectors for layer in step.layers} == {"qkv": 2, "head": 2}
        assert attention(step).products == 2 * 4 * (context + 1) * WIDTH
        assert attention(step).values == 2 * (2 + 2 * (context + 1)) * WIDTH
    assert found.cache_bytes == 2 * 2 * 18 * WIDTH * 4


def test_steps_cost_their_number_times_the_mean_of_the_ends() -> None:
    net = converted(Model())
    found = generated(9, net)
    every = [generated(n, net).last_step for n in range(2, 10)]
    assert found.decode_energy == pytest.approx(sum(step.energy for step in every if step is not None), rel=1e-9)
    assert found.decode_latency == pytest.approx(sum(step.latency for step in every if step is not None), rel=1e-9)
    assert found.energy == pytest.approx(found.prefill.energy + found.decode_energy)
    assert found.decode_tokens_per_second == pytest.approx(2 * 8 / found.decode_latency)
    assert found.decode_tokens_per_joule == pytest.approx(2 * 8 / found.decode_energy)
    assert found.prefill_tokens_per_joule == pytest.approx(20 / found.prefill.energy)
    assert "decoding:" in str(found)


def test_one_new_token_needs_no_step() -> None:
    found = generated(1)
    assert found.last_step is None
    assert found.energy == found.prefill.energy
    assert "decoding:" not in str(found)


def test_another_interface_is_passed_as_functions() -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Model()

        def forward(self, tokens: Tensor, memory: Any = None) -> tuple[Tensor, Any]:
            found = self.inner(tokens, memory, logits_to_keep=1)
            return found["logits"], found["past_key_values"]

    found = generated(
        net=converted(Other()), prefill=lambda tokens: tokens, step=lambda output, token: (token, output[1])
    )
    assert found.last_step is not None
    assert found.decode_energy == pytest.approx(generated().decode_energy)


def test_a_net_without_a_cache_is_told_what_to_pass() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, input_ids: Tensor, use_cache: bool = False) -> Tensor:
            return self.layer(input_ids.float().unsqueeze(-1).expand(-1, -1, 4))

    with pytest.raises(ValueError, match="no cache of keys and values; pass prefill and step"):
        generated(net=converted(Plain()))


def test_bad_arguments_are_refused() -> None:
    net = converted(Model())
    with pytest.raises(ValueError, match=r"prompt has shape \[10\]"):
        estimate_generation(net, torch.zeros(10, dtype=torch.int64), 2)
    with pytest.raises(ValueError, match="new_tokens = 0"):
        estimate_generation(net, torch.zeros(1, 10, dtype=torch.int64), 0)
    with pytest.raises(TypeError, match="prompt"):
        estimate_generation(net, [[1, 2]], 2)  # type: ignore[arg-type]


def test_models_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=100)
    net = converted(transformers.GPT2LMHeadModel(config).eval())
    found = generated(5, net)
    assert found.cache_bytes == 2 * 2 * 2 * 14 * 32 * 4
    assert found.last_step is not None
    heads = [layer for layer in found.last_step.layers if layer.name == "lm_head"]
    assert heads[0].counts.vectors == 2
