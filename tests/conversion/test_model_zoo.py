"""Small random models of transformers: exact on ideal hardware, saved to the bit, and summarised as they ran."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.nn import analog_layers

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

IDEAL, NOISY = pg.presets.ideal_inference(), pg.presets.pcm_inference()
TOKENS = {"input_ids": torch.arange(10).view(2, 5) + 1}
Case = tuple[Callable[[], nn.Module], dict[str, Tensor]]
_LLAMA: dict[str, Any] = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip


def _gpt2() -> nn.Module:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=2, n_head=2)
    )


def _llama(tied: bool) -> nn.Module:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**_LLAMA, tie_word_embeddings=tied))


def _mixtral() -> nn.Module:
    config = transformers.MixtralConfig(**_LLAMA, num_local_experts=3, num_experts_per_tok=2)
    return transformers.MixtralForCausalLM(config)


def _bert() -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )
    return transformers.BertForSequenceClassification(config)


def _t5() -> nn.Module:
    config = transformers.T5Config(
        vocab_size=32, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config)


def _whisper() -> nn.Module:
    config = transformers.WhisperConfig(
        vocab_size=32, num_mel_bins=8, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, max_source_positions=8,
        max_target_positions=8, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    return transformers.WhisperForConditionalGeneration(config)


def _mamba() -> nn.Module:
    return transformers.MambaForCausalLM(
        transformers.MambaConfig(vocab_size=32, hidden_size=16, state_size=4, num_hidden_layers=2)
    )


def _vit() -> nn.Module:
    config = transformers.ViTConfig(
        image_size=8, patch_size=4, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )
    return transformers.ViTForImageClassification(config)


ZOO: dict[str, Case] = {
    "gpt2": (_gpt2, TOKENS),
    "llama": (lambda: _llama(False), TOKENS),
    "llama-tied": (lambda: _llama(True), TOKENS),
    "mixtral": (_mixtral, TOKENS),
    "bert": (_bert, TOKENS),
    "t5": (_t5, {**TOKENS, "decoder_input_ids": torch.ones(2, 3, dtype=torch.int64)}),
    "whisper": (
        _whisper,
        {"input_features": torch.linspace(-1, 1, 2 * 8 * 16).view(2, 8, 16), "decoder_input_ids": TOKENS["input_ids"]},
    ),
    "mamba": (_mamba, TOKENS),
    "vit": (_vit, {"pixel_values": torch.linspace(-1, 1, 2 * 3 * 64).view(2, 3, 8, 8)}),
}
PAST = {"mixtral": {"gate_up_proj", "down_proj", "gate.weight"}, "mamba": {"conv1d.weight", "dt_proj.weight"}}
"""Weights by which the models multiply without calling a layer: those of experts and of the router that chooses them,
and of layers whose weights Mamba's mixer passes to functions."""


@pytest.fixture(params=ZOO)
def case(request: pytest.FixtureRequest) -> tuple[str, nn.Module, dict[str, Tensor]]:
    torch.manual_seed(0)
    make, inputs = ZOO[request.param]
    return request.param, make().eval(), inputs


def _logits(net: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return net(**inputs).logits


def test_conversion_to_ideal_hardware_computes_what_the_float_model_computes(case: Any) -> None:
    _, model, inputs = case
    net = pg.convert(model, IDEAL)
    torch.testing.assert_close(_logits(net, inputs), _logits(model, inputs), rtol=1e-4, atol=1e-4)


def test_a_chip_survives_its_checkpoint_to_the_bit(case: Any, tmp_path: Path) -> None:
    _, model, inputs = case
    chip = pg.inference.age(pg.inference.program(pg.convert(model, NOISY), seed=0), 1e4)
    torch.save(chip.state_dict(), tmp_path / "chip.pt")
    loaded = pg.convert(model, NOISY).eval()
    loaded.load_state_dict(torch.load(tmp_path / "chip.pt", weights_only=True))
    outputs = []
    for net in (chip, loaded):
        torch.manual_seed(1)
        outputs.append(_logits(net, inputs))
    assert torch.equal(*outputs)


def test_the_summary_says_what_ran_on_tiles(case: Any) -> None:
    name, model, inputs = case
    net = pg.convert(model, NOISY)
    found = pg.summary(net, **inputs)
    past = PAST.get(name, set())
    for layer in found.layers:
        digital = f"{layer.name}.weight".endswith(tuple(past))
        assert layer.computed == ("digital" if digital else "analog"), layer
    assert {layer.name for layer in found.layers} == set(analog_layers(net))
    assert all(key.endswith(tuple(past)) for key in found.bypasses), found.bypasses
    assert all(any(key.endswith(end) for key in found.bypasses) for end in past), found.bypasses


def test_resizing_the_embeddings_of_a_converted_model_is_refused_before_anything_changes() -> None:
    model = _llama(True)
    net = pg.convert(model, IDEAL)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    for converted in (net, pg.inference.program(pg.convert(model, NOISY), seed=0)):
        with pytest.raises(ValueError, match=r"resize the digital model and convert it again"):
            converted.resize_token_embeddings(40)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert net.config.vocab_size == 32
    back = pg.to_digital(net)
    back.resize_token_embeddings(40)
    assert back.lm_head.weight.shape[0] == 40
    model.resize_token_embeddings(36)  # the float model is free
