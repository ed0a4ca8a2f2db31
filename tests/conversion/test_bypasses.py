"""Products with weights that bypass the tiles are reported by name, and no others."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.conversion import BypassWarning, bypasses

HARDWARE = pg.presets.pcm_inference()


class Model(nn.Module):
    """A model whose forward pass calls ``use`` with the model and its normalised input."""

    def __init__(self, use: Callable[[Model, Tensor], Tensor]) -> None:
        super().__init__()
        self.fc, self.norm, self.use = nn.Linear(4, 4), nn.LayerNorm(4), use
        self.conv, self.table = nn.Conv1d(4, 4, 1), nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self, self.norm(self.fc(x)))


BYPASSING: dict[str, tuple[Callable[[Model, Tensor], Tensor], str]] = {
    "linear": (lambda m, x: F.linear(x, m.fc.weight), "fc.weight"),
    "named": (lambda m, x: F.linear(input=x, weight=m.fc.weight), "fc.weight"),
    "matmul": (lambda m, x: x @ m.fc.weight.t(), "fc.weight"),
    "right": (lambda m, x: m.fc.weight.T @ x.t(), "fc.weight"),
    "view": (lambda m, x: torch.mm(x, m.fc.weight.view(2, 2, 4).flatten(0, 1).transpose(0, 1)), "fc.weight"),
    "data": (lambda m, x: x @ m.fc.weight.data, "fc.weight"),
    "part": (lambda m, x: F.linear(x, m.fc.weight[:2]), "fc.weight"),
    "cast": (lambda m, x: F.linear(x.double(), m.fc.weight.double()), "fc.weight"),
    "addmm": (lambda m, x: torch.addmm(m.fc.bias, x, m.fc.weight), "fc.weight"),
    "bmm": (lambda m, x: torch.bmm(x[None], m.fc.weight[None]), "fc.weight"),
    "einsum": (lambda m, x: torch.einsum("bi,oi->bo", x, m.fc.weight), "fc.weight"),
    "convolution": (lambda m, x: F.conv1d(x[..., None], m.conv.weight), "conv.weight"),
    "digital": (lambda m, x: x @ m.table, "table"),
}


@pytest.mark.parametrize("bypassing", BYPASSING.values(), ids=BYPASSING)
@pytest.mark.parametrize("programmed", [False, True])
def test_products_that_bypass_the_tiles_are_reported(
    bypassing: tuple[Callable[..., Tensor], str], programmed: bool
) -> None:
    net = pg.convert(Model(bypassing[0]), HARDWARE)
    net = pg.inference.program(net, seed=0) if programmed else net
    found = bypasses(net, torch.randn(3, 4))
    assert set(found) == {bypassing[1]}
    assert "multiplies by it" in found[bypassing[1]]


CLEAN: dict[str, Callable[[Model, Tensor], Tensor]] = {
    "layers": lambda m, x: m.conv(m.fc(x)[..., None]),
    "elementwise": lambda m, x: x * m.table[0] + m.fc.weight.sum(),
    "penalty": lambda m, x: x.sum() + m.fc.weight.square().sum(),
    "activations": lambda m, x: (x * m.table[0]) @ x.t(),
}


@pytest.mark.parametrize("use", CLEAN.values(), ids=CLEAN)
def test_layers_and_products_of_activations_are_not_reported(use: Callable[..., Tensor]) -> None:
    assert bypasses(pg.convert(Model(use), HARDWARE), torch.randn(3, 4)) == {}


def test_composites_and_transformers_do_not_bypass_their_tiles() -> None:
    x = torch.randn(2, 5, 8)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    for model in (encoder, nn.LSTM(8, 8, 2, bidirectional=True), nn.GRU(8, 4)):
        net = pg.convert(model, HARDWARE)
        assert bypasses(net, x) == {}
    skipped = pg.convert(encoder, HARDWARE, skip=["layers.0.self_attn", "layers.1.linear1"])
    assert set(bypasses(skipped, x)) == {
        "layers.0.self_attn.in_proj_weight",
        "layers.0.self_attn.out_proj.weight",
        "layers.1.linear1.weight",
    }


def test_the_net_and_the_generator_are_unchanged() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout())
    net = pg.convert(model, HARDWARE)
    net[2].eval()
    before, random = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    bypasses(net, torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert [m.training for m in net] == [True, True, False]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_an_error_removes_hooks_and_the_function_mode() -> None:
    net = pg.convert(nn.Sequential(nn.Linear(4, 4)), HARDWARE)
    with pytest.raises(ValueError, match="in_features"):
        bypasses(net, torch.randn(3, 5))
    assert net.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert torch._C._len_torch_function_stack() == 0


def test_calibration_warns_once_with_the_name_and_the_fix() -> None:
    data = [torch.randn(3, 4)] * 3
    net = pg.convert(Model(BYPASSING["linear"][0]), HARDWARE)
    with pytest.warns(
        BypassWarning, match=r"fc\.weight: linear multiplies.*call fc\(x\).*register_counterpart.*skip"
    ) as seen:
        pg.hwa.calibrate(net, data)
    assert [w.category for w in seen].count(BypassWarning) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pg.hwa.calibrate(pg.convert(Model(CLEAN["layers"]), HARDWARE), data)
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        pg.hwa.calibrate(pg.convert(model, HARDWARE, skip=["1"]), data)  # the user asked for it
        pg.hwa.calibrate(pg.convert(model, HARDWARE, only=["0"]), data)


def test_the_summary_lists_bypasses_if_inputs_are_passed() -> None:
    net = pg.convert(Model(BYPASSING["linear"][0]), HARDWARE)
    assert "bypassing the tiles" not in str(pg.summary(net))
    found = pg.summary(net, torch.randn(3, 4))
    assert set(found.bypasses) == {"fc.weight"}
    assert "bypassing the tiles:\n  fc.weight  linear multiplies by it outside" in str(found)


def test_extra_keys_of_analog_attention_are_not_reported() -> None:
    attention = nn.MultiheadAttention(8, 2, add_bias_kv=True, batch_first=True)
    x = torch.randn(2, 3, 8)
    assert bypasses(pg.convert(attention, pg.presets.pcm_inference()), x, x, x) == {}


class Token(nn.Module):
    """A learned token that precedes the input, as in vision transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.head = nn.Parameter(torch.zeros(1, 8)), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token, x])
        return self.head(x @ x.t() @ x)


def test_a_learned_token_is_not_reported() -> None:
    assert bypasses(pg.convert(Token(), pg.presets.pcm_inference()), torch.randn(3, 8)) == {}


@pytest.mark.parametrize("product", [lambda x, w: torch.linalg.matmul(x, w.mH), lambda x, w: x @ w.swapaxes(0, 1)])
def test_aliases_of_products_and_views_are_recognised(product: Callable[[Tensor, Tensor], Tensor]) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return product(x, self.head.weight)

    assert set(bypasses(pg.convert(Model(), pg.presets.pcm_inference()), torch.ones(1, 4))) == {"head.weight"}
