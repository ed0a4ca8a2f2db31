"""Torch's fused transformers do not read the weights of analog layers past the tiles, in subclasses either."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.conversion import bypasses
from phasegrad.crossbar import AbsMaxRange, Adc, Dac, FullScaleRange

IDEAL = pg.presets.ideal_inference()
COARSE = replace(IDEAL, dac=Dac(bits=3, range=AbsMaxRange()), adc=Adc(bits=4, range=FullScaleRange()))


class Block(nn.TransformerEncoderLayer):
    """A subclass that adds nothing."""


class Stack(nn.TransformerEncoder):
    """A subclass that adds nothing."""


class Attention(nn.MultiheadAttention):
    """A subclass that adds nothing."""


class OwnFused(nn.TransformerEncoderLayer):
    """A subclass that always calls torch's fused function."""

    def forward(self, src: Tensor) -> Tensor:  # type: ignore[override]
        a = self.self_attn
        return torch._transformer_encoder_layer_fwd(
            src, a.embed_dim, a.num_heads, a.in_proj_weight, a.in_proj_bias, a.out_proj.weight, a.out_proj.bias, True,
            False, self.norm1.eps, self.norm1.weight, self.norm1.bias, self.norm2.weight, self.norm2.bias,
            self.linear1.weight, self.linear1.bias, self.linear2.weight, self.linear2.bias,
        )  # fmt: skip


def _block(kind: type[nn.TransformerEncoderLayer], attention: type[nn.MultiheadAttention]) -> nn.Module:
    torch.manual_seed(0)
    block = kind(16, 4, 32, batch_first=True, dropout=0.0)
    block.self_attn = attention(16, 4, batch_first=True)
    return block


def _stack(kind: type[nn.TransformerEncoder], attention: type[nn.MultiheadAttention]) -> nn.Module:
    return kind(_block(Block, attention), 2, enable_nested_tensor=True)  # type: ignore[arg-type]


MODELS: dict[str, Callable[[type[nn.MultiheadAttention]], nn.Module]] = {
    "layer": lambda a: _block(nn.TransformerEncoderLayer, a),
    "layer subclass": lambda a: _block(Block, a),
    "encoder": lambda a: _stack(nn.TransformerEncoder, a),
    "encoder subclass": lambda a: _stack(Stack, a),
}


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True", "ignore:.*nested tensors is in prototype")
@pytest.mark.parametrize("only", [["linear1", "linear2"], ["linear1"], ["linear2"], ["self_attn"]])
@pytest.mark.parametrize("attention", [nn.MultiheadAttention, Attention])
@pytest.mark.parametrize("model", MODELS)
def test_evaluation_passes_the_tiles(model: str, attention: type[nn.MultiheadAttention], only: list[str]) -> None:
    if only == ["self_attn"] and attention is Attention:
        pytest.skip("a subclass of attention stays digital")
    digital, x = MODELS[model](attention).eval(), torch.randn(2, 5, 16)
    mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    net = pg.convert(digital, COARSE, only=only)
    for masked in (None, mask):
        with torch.no_grad():
            evaluated = net.eval()(x, src_key_padding_mask=masked)
            slow = copy.deepcopy(net).train()(x, src_key_padding_mask=masked)
            ideal = pg.convert(digital, IDEAL, only=only)(x, src_key_padding_mask=masked)
            plain = copy.deepcopy(digital).train()(x, src_key_padding_mask=masked)
        torch.testing.assert_close(evaluated, slow, rtol=1e-4, atol=1e-4)
        assert (evaluated - plain).abs().max() > 0.01  # the effect of the coarse converters
        torch.testing.assert_close(ideal, plain, rtol=1e-4, atol=1e-4)
    found = pg.summary(net, x)
    assert {layer.computed for layer in found.layers} == {"analog"}
    assert not any(name in key for key in found.bypasses for name in only)


def test_the_watch_sees_a_fused_path_that_is_taken() -> None:
    model = nn.ModuleDict({"body": _block(Block, nn.MultiheadAttention), "head": nn.Linear(16, 2)}).eval()
    model.forward = None  # type: ignore[assignment]
    net = pg.convert(nn.Sequential(model["body"], model["head"]), IDEAL, skip=["0"])
    found = bypasses(net, torch.randn(2, 5, 16))
    matrices = ("self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight")
    assert set(found) == {f"0.{name}" for name in matrices}
    assert all(why.startswith("transformer_encoder_layer_fwd multiplies") for why in found.values())


def test_the_watch_sees_a_fused_function_that_reads_analog_layers() -> None:
    net = pg.convert(_block(OwnFused, nn.MultiheadAttention).eval(), IDEAL, only=["linear1", "linear2"])
    x = torch.randn(2, 5, 16)
    assert {"linear1.weight", "linear2.weight"} <= set(bypasses(net, x))
    assert [layer.computed for layer in pg.summary(net, x).layers] == ["digital", "digital"]


def test_to_digital_opens_the_paths_of_subclasses_again() -> None:
    model = _stack(Stack, nn.MultiheadAttention)
    net = pg.convert(pg.convert(model, IDEAL, only=["linear1"]), IDEAL, only=["linear2"])
    back = pg.to_digital(net)
    assert (net.use_nested_tensor, net.layers[0].activation_relu_or_gelu) == (False, 0)
    assert (back.use_nested_tensor, back.layers[0].activation_relu_or_gelu) == (model.use_nested_tensor, 1)
