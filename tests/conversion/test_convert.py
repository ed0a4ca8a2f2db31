"""Conversion: which modules become analog, sharing, reasons to stay digital, and conversion back."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import phasegrad as pg
from phasegrad.conversion import left_digital
from phasegrad.crossbar import AbsMaxRange, Adc, Dac, FullScaleRange
from phasegrad.nn import AnalogConv2d, AnalogLayer, AnalogLinear, analog_layers

IDEAL = pg.presets.ideal_inference()
NOISY = pg.presets.pcm_inference()
# Deterministic, and so coarse that a digital result differs visibly.
COARSE = replace(IDEAL, dac=Dac(bits=3, range=AbsMaxRange()), adc=Adc(bits=4, range=FullScaleRange()))


class Block(nn.Module):
    """A nested block of two layers and a normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.norm(self.first(x))))


class Shared(nn.Module):
    """One module with two names, and two decoders tied to an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.a = nn.Linear(6, 6)
        self.b = self.a
        self.decoder = nn.Linear(6, 11)
        self.other = nn.Linear(6, 11, bias=False)
        self.decoder.weight = self.other.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = torch.relu(self.b(torch.relu(self.a(self.embedding(tokens)))))
        return self.decoder(x) + self.other(x)


class Scaled(nn.Linear):
    """A linear layer that scales its output by 2."""

    def forward(self, x: Tensor) -> Tensor:
        return 2.0 * super().forward(x)


def model() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(12, 6), Block(), nn.ReLU(), nn.Linear(6, 2))


def kinds(net: nn.Module) -> dict[str, str]:
    return {name: type(layer).__name__ for name, layer in analog_layers(net).items()}


def test_every_linear_and_convolutional_layer_is_converted_at_any_depth() -> None:
    net = pg.convert(model(), IDEAL)
    assert kinds(net) == {
        "0": "AnalogConv2d",
        "2": "AnalogLinear",
        "3.first": "AnalogLinear",
        "3.second": "AnalogLinear",
        "5": "AnalogLinear",
    }
    assert all(layer.hardware is IDEAL for layer in analog_layers(net).values())


def test_converted_net_computes_the_same_as_the_model() -> None:
    digital = model()
    x = torch.randn(5, 1, 4, 4)
    torch.testing.assert_close(pg.convert(digital, IDEAL)(x), digital(x), rtol=1e-5, atol=1e-5)


def test_the_model_is_not_changed() -> None:
    digital = model()
    before, text = copy.deepcopy(digital.state_dict()), repr(digital)
    net = pg.convert(digital, NOISY)
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    assert repr(digital) == text
    assert all(torch.equal(v, before[k]) for k, v in digital.state_dict().items())
    assert len(digital._load_state_dict_pre_hooks) == 0


@pytest.mark.parametrize("layer", [nn.Linear(4, 3), nn.Conv2d(4, 3, 1), nn.Conv1d(4, 3, 1), nn.Conv3d(4, 3, 1)])
def test_a_layer_may_be_the_whole_model(layer: nn.Module) -> None:
    net = pg.convert(layer, IDEAL)
    assert type(net).__name__ == f"Analog{type(layer).__name__}"
    assert torch.equal(net.weight, layer.weight)
    assert net.weight is not layer.weight
    assert type(pg.to_digital(net)) is type(layer)


def test_modules_in_several_places_stay_one_module() -> None:
    net = pg.convert(Shared(), IDEAL)
    assert net.a is net.b
    assert isinstance(net.a, AnalogLinear)
    back = pg.to_digital(net)
    assert back.a is back.b


def test_tied_weights_stay_tied() -> None:
    digital = Shared()
    net = pg.convert(digital, IDEAL)
    assert net.decoder.weight is net.embedding.weight
    assert net.other.weight is net.embedding.weight
    assert len(list(net.parameters())) == len(list(digital.parameters()))
    back = pg.to_digital(net)
    assert back.decoder.weight is back.embedding.weight is back.other.weight


def test_gradients_of_tied_weights_add_up() -> None:
    digital, tokens = Shared(), torch.arange(11)
    net = pg.convert(digital, IDEAL)
    for m in (digital, net):
        m(tokens).square().sum().backward()
    torch.testing.assert_close(net.embedding.weight.grad, digital.embedding.weight.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_every_module_keeps_its_training_mode(training: bool) -> None:
    digital = model().train(training)
    digital[3].train(not training)
    modes = {name: m.training for name, m in digital.named_modules()}
    net = pg.convert(digital, IDEAL)
    assert {name: m.training for name, m in net.named_modules()} == modes
    assert {name: m.training for name, m in pg.to_digital(net).named_modules()} == modes


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_frozen_parameters_stay_frozen(frozen: str) -> None:
    digital = nn.Sequential(nn.Linear(3, 2))
    getattr(digital[0], frozen).requires_grad_(False)
    net = pg.convert(digital, IDEAL)
    wanted = {name: p.requires_grad for name, p in digital.named_parameters()}
    assert {name: p.requires_grad for name, p in net.named_parameters()} == wanted
    assert {name: p.requires_grad for name, p in pg.to_digital(net).named_parameters()} == wanted


@pytest.mark.parametrize(
    ("selection", "converted"),
    [
        ({"only": ["3"]}, {"3.first", "3.second"}),
        ({"only": ["3.first", "0"]}, {"0", "3.first"}),
        ({"only": "5"}, {"5"}),
        ({"only": lambda m, name: isinstance(m, nn.Conv2d)}, {"0"}),
        ({"skip": ["3", "0"]}, {"2", "5"}),
        ({"skip": lambda m, name: name.endswith("second")}, {"0", "2", "3.first", "5"}),
        ({"skip": ["second"]}, {"0", "2", "3.first", "5"}),
        ({"skip": "second"}, {"0", "2", "3.first", "5"}),
        ({"only": r"3\.(first|second)"}, {"3.first", "3.second"}),
        ({"only": r".*(nd|5)"}, {"3.second", "5"}),
        ({"only": ["3"], "skip": ["3.first"]}, {"3.second"}),
        ({"only": iter(["2"])}, {"2"}),
    ],
)
def test_only_and_skip_accept_names_patterns_and_filters(selection: dict[str, Any], converted: set[str]) -> None:
    assert set(kinds(pg.convert(model(), IDEAL, **selection))) == converted


@pytest.mark.parametrize(
    "choose",
    [
        lambda name, m: isinstance(m, nn.Conv2d),
        lambda name, m: name == "0",
        lambda name, m: name.startswith("0"),
    ],
)
def test_a_filter_with_the_argument_order_of_0_1_0_warns(choose: Any) -> None:
    with pytest.warns(DeprecationWarning, match=r"filter \(name, module\) was renamed to \(module, name\)"):
        net = pg.convert(model(), IDEAL, only=choose)
    assert set(kinds(net)) == {"0"}


def test_a_filter_that_excludes_keeps_the_argument_order_of_0_1_0() -> None:
    with pytest.warns(DeprecationWarning, match="filter"):
        net = pg.convert(model(), IDEAL, only=lambda name, m: name != "0")  # pyright: ignore[reportArgumentType]
    assert set(kinds(net)) == set(kinds(pg.convert(model(), IDEAL))) - {"0"}
    with pytest.raises(ValueError, match=r"only is a filter whose parameters are \(module, name\) since"):
        pg.convert(model(), IDEAL, only=lambda a, b: a != "0")


def test_an_error_of_a_filter_reaches_the_user() -> None:
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        pg.convert(model(), IDEAL, only=lambda a, b: a.missing)


def test_a_filter_that_selects_nothing_is_allowed() -> None:
    assert set(kinds(pg.convert(model(), IDEAL, skip=lambda m, name: False))) == set(kinds(pg.convert(model(), IDEAL)))


def test_an_exact_name_does_not_select_names_that_end_with_it() -> None:
    digital = nn.ModuleDict({"fc": nn.Linear(2, 2), "body": nn.ModuleDict({"fc": nn.Linear(2, 2)})})
    assert set(kinds(pg.convert(digital, IDEAL, only=["fc"]))) == {"fc"}


def test_a_name_does_not_select_names_that_start_with_it() -> None:
    digital = nn.ModuleDict({"fc": nn.Linear(2, 2), "fc1": nn.Linear(2, 2)})
    assert set(kinds(pg.convert(digital, IDEAL, only=["fc"]))) == {"fc"}


def test_a_shared_module_is_found_by_either_name() -> None:
    assert set(kinds(pg.convert(Shared(), IDEAL, only=["b"]))) == {"a"}
    assert "a" not in kinds(pg.convert(Shared(), IDEAL, skip=["b"]))


@pytest.mark.parametrize("argument", ["only", "skip"])
def test_unknown_names_raise_and_list_the_module_names(argument: str) -> None:
    with pytest.raises(ValueError, match=rf"{argument} names 'head'.*3\.first"):
        pg.convert(model(), IDEAL, **{argument: ["0", "head"]})


@pytest.mark.parametrize(
    ("digital", "selection", "why"),
    [
        (nn.Sequential(nn.ReLU()), {}, "no layer has weights"),
        (nn.Sequential(nn.BatchNorm1d(3)), {}, "no analog counterpart of BatchNorm1d"),
        (nn.Sequential(nn.Linear(2, 2)), {"skip": ["0"]}, "0: named in skip"),
        (nn.Sequential(nn.Linear(2, 2)), {"only": []}, "0: not named in only"),
    ],
)
def test_nothing_to_convert_raises_with_the_reasons(digital: nn.Module, selection: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=f"nothing to convert.*{why}"):
        pg.convert(digital, IDEAL, **selection)


def test_converting_a_converted_net_raises() -> None:
    with pytest.raises(ValueError, match=r"converted already.*to_digital"):
        pg.convert(pg.convert(model(), IDEAL), IDEAL)
    with pytest.raises(ValueError, match="the model itself is analog"):
        pg.convert(pg.convert(nn.Linear(2, 2), IDEAL), IDEAL)


def test_arguments_of_the_wrong_type_raise() -> None:
    with pytest.raises(TypeError, match=r"model is a function.*torch\.nn\.Module"):
        pg.convert(F.relu, IDEAL)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"hardware is a str.*pcm_inference\(\)"):
        pg.convert(model(), "pcm")  # type: ignore[arg-type]


def test_left_digital_lists_digital_modules_with_reasons() -> None:
    digital = nn.ModuleDict(
        {
            "norm": nn.BatchNorm1d(4),
            "scaled": Scaled(4, 4),
            "attention": nn.MultiheadAttention(4, 2),
            "projection": nn.MultiheadAttention(4, 2).out_proj,
            "parametrized": parametrizations.weight_norm(nn.Linear(4, 4)),
            "skipped": nn.Linear(4, 4),
            "converted": nn.Linear(4, 4),
        }
    )
    reasons = left_digital(pg.convert(digital, IDEAL, skip=["skipped"]))
    assert reasons["norm"] == "no analog counterpart of BatchNorm1d"
    assert reasons["scaled"] == "Scaled is a subclass of Linear and may compute something else"
    assert reasons["attention"].startswith("scores and weighted values are products of two activations")
    assert "attention.out_proj" not in reasons
    assert "subclass of Linear" in reasons["projection"]
    assert reasons["parametrized"] == "ParametrizedLinear is a subclass of Linear and may compute something else"
    assert reasons["skipped"] == "named in skip"
    assert "converted" not in reasons


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_a_module_whose_weight_a_hook_computes_stays_digital() -> None:
    digital = nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 4))
    x = torch.randn(3, 4)
    with torch.no_grad():
        digital(x)  # torch cannot copy the model if its computed weight has a graph
    net = pg.convert(digital, IDEAL)
    assert left_digital(net) == {"0": "its weight is computed by a parametrization or a hook"}
    torch.testing.assert_close(net(x), digital(x))


def test_deepcopy_keeps_the_reasons_and_to_digital_removes_them() -> None:
    net = pg.convert(model(), IDEAL, skip=["5"])
    assert left_digital(copy.deepcopy(net)) == left_digital(net) == {
        "3.norm": "no analog counterpart of BatchNorm1d",
        "5": "named in skip",
    }  # fmt: skip
    assert left_digital(pg.to_digital(net))["5"] == "not converted"


def test_forward_hooks_are_copied_to_the_replacement() -> None:
    calls: list[str] = []
    digital = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    digital[0].register_forward_pre_hook(lambda m, args: calls.append(f"before {type(m).__name__}"))
    digital[0].register_forward_hook(lambda m, a, k, y: calls.append("after"), with_kwargs=True)
    digital[2].register_forward_hook(lambda m, args, y: y + 1.0)
    net = pg.convert(digital, IDEAL)
    x = torch.randn(4, 3)
    torch.testing.assert_close(net(x), digital(x))
    assert calls == ["before AnalogLinear", "after", "before Linear", "after"]
    pg.to_digital(net)(x)
    assert calls[4:] == ["before Linear", "after"]


def test_backward_hooks_are_copied_to_the_replacement() -> None:
    calls: list[str] = []
    digital = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    digital[1].register_full_backward_hook(lambda m, into, out: calls.append("after"))
    digital[1].register_full_backward_pre_hook(lambda m, out: calls.append("before"))
    for m in (digital, pg.convert(digital, IDEAL), pg.to_digital(pg.convert(digital, IDEAL))):
        calls.clear()
        m(torch.randn(4, 3)).sum().backward()
        assert calls == ["before", "after"]


@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype")  # torch warns once, in the digital encoder
@pytest.mark.parametrize("masked", [False, True])
def test_transformer_encoder_in_evaluation_uses_the_analog_layers(masked: bool) -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), 2)
    net = pg.convert(encoder, COARSE)
    names = ("self_attn.in_proj", "self_attn.out_proj", "linear1", "linear2")
    assert set(kinds(net)) == {f"layers.{i}.{name}" for i in (0, 1) for name in names}
    x, mask = torch.randn(2, 5, 8), torch.tensor([[False] * 5, [False] * 3 + [True] * 2]) if masked else None
    with torch.no_grad():
        trained = net.train()(x, src_key_padding_mask=mask)
        evaluated = net.eval()(x, src_key_padding_mask=mask)
        digital = encoder.train()(x, src_key_padding_mask=mask)
    torch.testing.assert_close(evaluated, trained, rtol=1e-4, atol=1e-4)
    assert (evaluated - digital).abs().max() > 0.01  # the effect of the coarse converters


@pytest.mark.filterwarnings("ignore:.*enable_nested_tensor")
def test_a_skipped_transformer_encoder_computes_the_same() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1).eval()
    digital = nn.Sequential(encoder, nn.Linear(8, 2))
    net = pg.convert(digital, IDEAL, skip=["0"])
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(net.eval()(x), digital.eval()(x), rtol=1e-5, atol=1e-5)


def test_to_digital_restores_weights_keys_and_types_exactly() -> None:
    digital = model()
    back = pg.to_digital(pg.convert(digital, NOISY))
    mine, theirs = back.state_dict(), digital.state_dict()
    assert list(mine) == list(theirs)
    assert all(torch.equal(mine[k], theirs[k]) for k in theirs)
    assert repr(back) == repr(digital)
    assert not back._load_state_dict_pre_hooks
    digital.load_state_dict(mine)


def test_to_digital_does_not_change_the_net() -> None:
    net = pg.convert(model(), NOISY)
    pg.hwa.Recipe(clip_sigma=1.0).apply(net)
    before = copy.deepcopy(net.state_dict())
    pg.to_digital(net)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_to_digital_clips_as_the_recipe_of_the_layer_does() -> None:
    net = pg.convert(nn.Sequential(nn.Linear(50, 20)), IDEAL)
    pg.hwa.Recipe(clip_sigma=1.5).apply(net)
    bound = 1.5 * net[0].weight.square().mean().sqrt().item()
    torch.testing.assert_close(pg.to_digital(net)[0].weight, net[0].weight.clamp(-bound, bound))


def test_to_digital_of_a_chip_returns_the_present_weights_of_its_devices() -> None:
    chip = pg.inference.age(pg.inference.program(pg.convert(model(), NOISY), seed=0), seconds=1e4)
    back = pg.to_digital(chip)
    assert torch.equal(back[2].weight, chip[2].devices.logical_weight())
    assert torch.equal(back[0].weight, chip[0].devices.logical_weight().view_as(back[0].weight))


def test_to_digital_of_a_digital_model_raises() -> None:
    with pytest.raises(ValueError, match="no analog layer"):
        pg.to_digital(model())


def test_convolution_options_are_kept_in_both_directions() -> None:
    options = {"stride": 2, "padding": 1, "dilation": 2, "groups": 2, "padding_mode": "circular", "bias": False}
    digital = nn.Conv2d(4, 6, 3, **options)
    net = pg.convert(digital, IDEAL)
    assert isinstance(net, AnalogConv2d)
    assert isinstance(net, AnalogLayer)
    assert repr(pg.to_digital(net)) == repr(digital)


def test_transformers_that_stay_digital_keep_their_fused_path() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1)
    model = nn.ModuleDict({"encoder": encoder, "head": nn.Linear(8, 2)})
    paths = [(m.use_nested_tensor, m.layers[0].activation_relu_or_gelu) for m in (encoder,)]
    net = pg.convert(model, IDEAL, only=["head"])
    full = pg.convert(model, IDEAL)
    found = [
        (m.use_nested_tensor, m.layers[0].activation_relu_or_gelu)
        for m in (net["encoder"], full["encoder"], pg.to_digital(full)["encoder"], encoder)
    ]
    assert paths == [(True, 1)]
    assert found == [(True, 1), (False, 0), (True, 1), (True, 1)]


def test_a_parametrised_submodule_leaves_its_module_digital() -> None:
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2), "head": nn.Linear(8, 2)})
    parametrizations.weight_norm(model["attention"].out_proj)
    net = pg.convert(model, IDEAL)
    assert isinstance(net["attention"], nn.MultiheadAttention)
    assert isinstance(net["head"], AnalogLinear)
