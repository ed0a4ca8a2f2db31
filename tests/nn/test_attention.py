"""Analog attention equals its digital counterpart with every option, in transformers and in every store."""

from __future__ import annotations

import copy
import itertools
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.crossbar import AbsMaxRange, Adc, Dac, FullScaleRange
from phasegrad.nn import AnalogMultiheadAttention, analog_layers

IDEAL = pg.presets.ideal_inference()
NOISY = pg.presets.pcm_inference()
# Deterministic, and so coarse that a digital result differs visibly.
COARSE = replace(IDEAL, dac=Dac(bits=3, range=AbsMaxRange()), adc=Adc(bits=4, range=FullScaleRange()))
OPTIONS: list[dict[str, Any]] = [
    {},
    {"batch_first": True},
    {"bias": False},
    {"add_bias_kv": True},
    {"add_zero_attn": True},
    {"add_bias_kv": True, "add_zero_attn": True, "batch_first": True},
    {"kdim": 3, "vdim": 5},
    {"kdim": 3, "batch_first": True, "bias": False},
    {"kdim": 3, "vdim": 3, "add_bias_kv": True},
]


def counterparts(hardware: pg.Hardware = IDEAL, **options: Any) -> tuple[nn.MultiheadAttention, nn.Module]:
    torch.manual_seed(0)
    digital = nn.MultiheadAttention(8, 2, **options)
    for p in digital.parameters():  # biases of zero would hide a permutation
        nn.init.normal_(p, std=0.4)
    return digital, pg.convert(digital, hardware)


def inputs(digital: nn.MultiheadAttention, batch: int | None = 3) -> list[Tensor]:
    """Queries of 4 steps, keys and values of 6."""
    sizes, lengths = (8, digital.kdim, digital.vdim), (4, 6, 6)
    shapes = [(n,) if batch is None else (batch, n) if digital.batch_first else (n, batch) for n in lengths]
    return [torch.randn(*shape, size) for shape, size in zip(shapes, sizes, strict=True)]


def close(mine: Any, theirs: Any) -> None:
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("batch", [3, None], ids=["batched", "unbatched"])
def test_outputs_and_gradients_equal_those_of_the_digital_counterpart(
    options: dict[str, Any], batch: int | None
) -> None:
    digital, analog = counterparts(**options)
    found = []
    for module, weights in itertools.product((digital, analog), (True, False)):
        torch.manual_seed(1)
        x = [t.requires_grad_() for t in inputs(digital, batch)]
        module.zero_grad()
        y, attention = module(*x, need_weights=weights)
        assert (attention is not None) == weights
        y.square().sum().backward()
        found.append((y, attention, *(t.grad for t in x)))
        assert all(p.grad is not None for p in module.parameters())
    close(found[2], found[0])
    close(found[3], found[1])
    gradients = {n: p.grad for n, p in analog.named_parameters()}
    for theirs, mine in analog._key_map.items():
        parameter = digital
        for part in theirs.split("."):
            parameter = getattr(parameter, part)
        if parameter is not None:
            torch.testing.assert_close(gradients[mine], parameter.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("same", ["all", "keys"])
def test_self_attention_and_cross_attention_use_columns_of_one_matrix(same: str) -> None:
    digital, analog = counterparts(batch_first=True)
    q, k = torch.randn(2, 4, 8), torch.randn(2, 6, 8)
    x = (q, q, q) if same == "all" else (q, k, k)
    close(analog(*x), digital(*x))
    assert set(analog_layers(analog)) == {"in_proj", "out_proj"}


MASKS: list[dict[str, Any]] = [
    {"attn_mask": torch.ones(4, 6).triu(1).bool()},
    {"attn_mask": torch.randn(4, 6)},
    {"attn_mask": torch.randn(6, 4, 6)},
    {"key_padding_mask": torch.arange(6) >= torch.tensor([[6], [3], [2]])},
    {"attn_mask": torch.randn(4, 6), "key_padding_mask": torch.randn(3, 6)},
    {"average_attn_weights": False},
]


@pytest.mark.parametrize("masks", MASKS, ids=["bool", "float", "heads", "padding", "both", "weights per head"])
@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"add_bias_kv": True, "add_zero_attn": True}], ids=str)
@pytest.mark.parametrize("need_weights", [True, False])
def test_masks_act_as_in_the_digital_counterpart(
    masks: dict[str, Any], options: dict[str, Any], need_weights: bool
) -> None:
    digital, analog = counterparts(**options)
    x = inputs(digital)
    close(analog(*x, need_weights=need_weights, **masks), digital(*x, need_weights=need_weights, **masks))


@pytest.mark.parametrize("need_weights", [True, False])
def test_causal_hints_act_as_in_the_digital_counterpart(need_weights: bool) -> None:
    digital, analog = counterparts()
    x = torch.randn(5, 2, 8)
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    named = {"attn_mask": mask, "is_causal": True, "need_weights": need_weights}
    close(analog(x, x, x, **named), digital(x, x, x, **named))
    with pytest.raises(ValueError, match="is_causal = True is only a hint about attn_mask"):
        analog(x, x, x, is_causal=True)


def test_an_unbatched_padding_mask_acts_as_in_the_digital_counterpart() -> None:
    digital, analog = counterparts()
    x, mask = torch.randn(5, 8), torch.tensor([False, False, True, False, True])
    close(analog(x, x, x, key_padding_mask=mask), digital(x, x, x, key_padding_mask=mask))


def test_dropout_acts_on_attention_weights_in_training_only() -> None:
    digital, analog = counterparts(dropout=0.5)
    x = torch.randn(5, 2, 8)
    weights = analog(x, x, x)[1]
    assert (analog(x, x, x, average_attn_weights=False)[1] == 0).any()
    assert not torch.equal(analog(x, x, x)[1], weights)
    close(analog.eval()(x, x, x), digital.eval()(x, x, x))


def test_nested_tensors_raise() -> None:
    analog = counterparts(batch_first=True)[1].eval()
    nested = torch.nested.nested_tensor([torch.randn(3, 8), torch.randn(2, 8)], layout=torch.jagged)
    with pytest.raises(ValueError, match="nested tensors are not supported"):
        analog(nested, nested, nested)


def encoder(norm_first: bool = False, activation: str = "relu") -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, activation, batch_first=True, norm_first=norm_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first)


@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype stage")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_encoders_compute_in_tiles_in_training_and_evaluation(
    training: bool, norm_first: bool, activation: str
) -> None:
    digital = encoder(norm_first, activation).train(training)
    x, mask = torch.randn(3, 5, 8), torch.arange(5) >= torch.tensor([[5], [3], [2]])
    net = pg.convert(digital, IDEAL)
    assert set(analog_layers(net)) == {
        f"layers.{i}.{name}"
        for i in (0, 1)
        for name in ("self_attn.in_proj", "self_attn.out_proj", "linear1", "linear2")
    }
    coarse = pg.convert(digital, COARSE)
    with torch.no_grad():  # torch takes the fused path only without gradients
        expected = digital(x, src_key_padding_mask=mask)[~mask]
        close(net(x, src_key_padding_mask=mask)[~mask], expected)
        assert (coarse(x, src_key_padding_mask=mask)[~mask] - expected).abs().max() > 0.05
        for layer in analog_layers(coarse).values():  # every analog layer is called once
            calls: list[Any] = []
            handle = layer.register_forward_hook(lambda *a, calls=calls: calls.append(a))
            coarse(x, src_key_padding_mask=mask)
            handle.remove()
            assert len(calls) == 1


@pytest.mark.parametrize("training", [True, False])
def test_a_converted_transformer_equals_its_digital_counterpart(training: bool) -> None:
    digital = nn.Transformer(8, 2, 1, 1, 16, 0.0, batch_first=True).train(training)
    net = pg.convert(digital, IDEAL)
    source, target = torch.randn(2, 5, 8), torch.randn(2, 4, 8)
    mask = nn.Transformer.generate_square_subsequent_mask(4)
    named = {"tgt_mask": mask, "tgt_is_causal": True}
    close(net(source, target, **named), digital(source, target, **named))
    kinds = {type(m).__name__ for m in net.modules()}
    assert "MultiheadAttention" not in kinds


def test_float_checkpoints_load_and_wrong_shapes_raise() -> None:
    several: list[dict[str, Any]] = [{}, {"kdim": 3, "vdim": 5, "add_bias_kv": True}]
    for options in several:
        digital, analog = counterparts(**options)
        other = nn.MultiheadAttention(8, 2, **options)
        x = inputs(digital)
        analog.load_state_dict(other.state_dict())
        close(analog(*x), other(*x))
        deep = nn.ModuleDict({"a": nn.ModuleDict({"b": digital})})
        net = pg.convert(deep, IDEAL)
        net.load_state_dict({f"a.b.{k}": v for k, v in other.state_dict().items()})
        close(net["a"]["b"](*x), other(*x))
    with pytest.raises(RuntimeError, match=r"size mismatch for in_proj\.weight"):
        counterparts()[1].load_state_dict(nn.MultiheadAttention(4, 2).state_dict())


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_to_digital_restores_the_digital_module(options: dict[str, Any]) -> None:
    digital, analog = counterparts(**options)
    back = pg.to_digital(analog)
    assert type(back) is nn.MultiheadAttention
    assert {n: tuple(p.shape) for n, p in back.named_parameters()} == {
        n: tuple(p.shape) for n, p in digital.named_parameters()
    }
    x = inputs(digital)
    close(back(*x), digital(*x))
    assert set(back.state_dict()) == set(digital.state_dict())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_compute_the_same(copied: Any) -> None:
    x = torch.randn(5, 2, 8)
    for module in (counterparts(NOISY)[1].eval(), pg.inference.program(counterparts(NOISY)[1], seed=0)):
        other = copied(module)
        torch.manual_seed(3)
        expected = module(x, x, x)[0]
        torch.manual_seed(3)
        assert torch.equal(other(x, x, x)[0], expected)


@pytest.mark.parametrize("options", [{}, {"kdim": 3, "vdim": 5}], ids=str)
def test_an_aged_chip_survives_saving_and_loading(options: dict[str, Any], tmp_path: Path) -> None:
    digital, analog = counterparts(NOISY, **options)
    chip = pg.inference.compensate(pg.inference.age(pg.inference.program(analog, seed=1), 1e6), seed=2)
    torch.save(chip.state_dict(), tmp_path / "chip.pt")
    loaded = pg.convert(digital, NOISY).eval()
    loaded.load_state_dict(torch.load(tmp_path / "chip.pt", weights_only=True))
    x, y = inputs(digital), []
    for module in (chip, loaded):
        torch.manual_seed(4)
        y.append(module(*x)[0])
    assert torch.equal(*y)
    assert pg.to_digital(chip)(*x)[0].isfinite().all()


def test_one_read_serves_queries_keys_and_values() -> None:
    chip = pg.inference.program(counterparts(NOISY)[1], seed=0)
    packed, x = chip.in_proj, torch.randn(2, 8)
    matrix = packed.read()
    packed.hardware = replace(NOISY, dac=None, adc=None, output_noise=0.0)
    y = packed(x, matrix)
    assert torch.equal(packed(x, matrix), y)
    torch.testing.assert_close(packed(x, matrix, slice(8, 16)), y[:, 8:16])
    assert not torch.equal(packed(x), packed(x))


def test_shared_projections_stay_shared() -> None:
    a, b = nn.MultiheadAttention(8, 2), nn.MultiheadAttention(8, 4)
    b.in_proj_weight = a.in_proj_weight
    b.out_proj = a.out_proj
    for hardware in (IDEAL, pg.presets.soft_bounds_training()):
        net = pg.convert(nn.ModuleList([a, b]), hardware)
        assert net[0].in_proj.weight is net[1].in_proj.weight
        assert net[0].out_proj.weight is net[1].out_proj.weight
        assert net[0].out_proj.bias is net[1].out_proj.bias
        assert net[0].in_proj_bias is not net[1].in_proj_bias
        back = pg.to_digital(net)
        assert back[0].in_proj_weight is back[1].in_proj_weight
        assert back[0].out_proj.weight is back[1].out_proj.weight
    chip = pg.inference.program(pg.convert(nn.ModuleList([a, b]), NOISY), seed=0)
    assert chip[0].in_proj.devices is chip[1].in_proj.devices


def test_a_submodule_named_in_skip_leaves_the_attention_digital() -> None:
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2), "head": nn.Linear(8, 2)})
    net = pg.convert(model, IDEAL, skip=["attention.out_proj"])
    assert type(net["attention"]) is nn.MultiheadAttention
    assert pg.conversion.left_digital(net)["attention"] == "out_proj, a part of it, is named in skip"
    assert "attention" in pg.conversion.left_digital(pg.convert(model, IDEAL, only=["head"]))
    only = pg.convert(model, IDEAL, only=["attention"])
    assert set(analog_layers(only)) == {"attention.in_proj", "attention.out_proj"}


def test_the_constructor_accepts_the_arguments_of_the_counterpart() -> None:
    layer = AnalogMultiheadAttention(8, 2, 0.1, kdim=4, batch_first=True, dtype=torch.float64, hardware=IDEAL)
    assert layer.q_proj.weight.dtype == torch.float64
    assert layer.k_proj.weight.shape == (8, 4)
    with pytest.raises(ValueError, match="divisible"):
        AnalogMultiheadAttention(8, 3, hardware=IDEAL)
    with pytest.raises(TypeError, match="hardware"):
        AnalogMultiheadAttention(8, 2, hardware=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("cross", [False, True])
def test_in_memory_training_stages_the_gradients_of_self_and_cross_attention(cross: bool) -> None:
    digital, analog = counterparts(pg.presets.soft_bounds_training())
    exact = replace(analog.hardware, dac=None, adc=None, output_noise=0.0, read_noise=0.0)
    analog = pg.convert(digital, exact)
    with torch.no_grad():  # the devices store the weights after programming errors
        for theirs, mine in analog._key_map.items():
            if mine.endswith(".weight"):
                digital.get_parameter(theirs).copy_(analog.get_parameter(mine))
    x = torch.randn(4, 3, 8)
    k = torch.randn(6, 3, 8) if cross else x
    for module in (digital, analog):
        module(x, k, k)[0].square().sum().backward()
    for theirs, mine in analog._key_map.items():
        if mine.endswith(".weight"):
            weight = analog.get_parameter(mine)
            gradient = sum(d.t() @ rows for rows, d in weight.staged())
            torch.testing.assert_close(gradient, digital.get_parameter(theirs).grad, rtol=1e-4, atol=1e-4)
    pg.optim.AnalogSGD(analog.parameters(), lr=0.01).step()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attn_mask": torch.zeros(1, 5)}, r"attn_mask has shape \[1, 5\]"),
        ({"attn_mask": torch.zeros(2, 5, 5)}, r"attn_mask .* it must be \[5, 5\] or \[8, 5, 5\]"),
        ({"key_padding_mask": torch.zeros(4, 1, dtype=torch.bool)}, r"key_padding_mask .* it must be \[4, 5\]"),
        ({"value": torch.randn(3, 5, 8)}, r"value has shape \[3, 5, 8\]"),
    ],
)
def test_shapes_that_torch_refuses_raise_instead_of_broadcasting(options: dict[str, Any], message: str) -> None:
    _, net = counterparts(batch_first=True)
    x = torch.randn(4, 5, 8)
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match=message):
        net(**({"query": x, "key": x, "value": x} | options))
    assert torch.equal(torch.get_rng_state(), before)
