"""Products with functions of a weight are found, whatever the function and the operator, and nothing else is."""

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
Function = Callable[["Model", Tensor], Tensor]


class Model(nn.Module):
    """A model whose head is used by a function: ``product(model, x, of(model, head.weight))``."""

    def __init__(self, use: Callable[[Model, Tensor], object]) -> None:
        super().__init__()
        self.body, self.head, self.norm = nn.Linear(16, 16), nn.Linear(16, 16), nn.LayerNorm(16)
        self.gain, self.use = nn.Parameter(torch.ones(16)), use
        self.register_buffer("mask", (torch.arange(256).view(16, 16) % 3 > 0).float())
        self.register_buffer("steps", torch.arange(16.0))

    def forward(self, x: Tensor) -> object:
        return self.use(self, self.norm(self.body(x)))


FUNCTIONS: dict[str, Function] = {
    "itself": lambda m, w: w,
    "normalised": lambda m, w: F.normalize(w),
    "scaled": lambda m, w: 0.5 * w * m.gain,
    "scaled by a number": lambda m, w: w / torch.tensor(2.0),
    "centred": lambda m, w: (w - w.mean()) / w.std(),
    "masked": lambda m, w: w * m.mask,
    "masked in place": lambda m, w: w.clone().masked_fill_(m.mask == 0, 0.0),
    "where": lambda m, w: torch.where(m.mask > 0, w, torch.zeros_like(w)),
    "cast": lambda m, w: w.bfloat16().float(),
    "transposed": lambda m, w: w.t().contiguous(),
    "joined": lambda m, w: torch.cat([w[:8], w[8:]]),
    "stacked": lambda m, w: torch.stack([w, w])[0],
    "rounded": lambda m, w: torch.round(w * 127) / 127,
    "clamped": lambda m, w: w.clamp(-0.1, 0.1),
    "copied": lambda m, w: torch.empty(16, 16).copy_(w),
    "filled": lambda m, w: torch.zeros(16, 16).index_copy_(0, torch.arange(16), w),
    "permuted": lambda m, w: w[torch.arange(15, -1, -1)],
    "softmax": lambda m, w: torch.softmax(w, dim=-1),
    "low rank": lambda m, w: w[:, :2] @ w[:2],
    "detached": lambda m, w: w.detach().data,
    "reshaped": lambda m, w: w.view(4, 4, 16).flatten(0, 1).reshape(16, 16),
}
OFFSETS = torch.tensor([2, 4], dtype=torch.int32)
PRODUCTS: dict[str, Callable[[Model, Tensor, Tensor], object]] = {
    "linear": lambda m, x, w: F.linear(x, w),
    "matmul": lambda m, x, w: x @ w,
    "vector": lambda m, x, w: x[0] @ w,
    "batched": lambda m, x, w: torch.baddbmm(x[None], x[None], w[None]),
    "einsum": lambda m, x, w: torch.einsum("bi,oi->bo", x, w),
    "elements": lambda m, x, w: (x[:, None] * w).sum(-1),
    "vecdot": lambda m, x, w: torch.linalg.vecdot(x[:, None], w),
    "convolution": lambda m, x, w: F.conv1d(x[..., None], w[..., None]),
    "transposed convolution": lambda m, x, w: F.conv_transpose1d(x[..., None], w[..., None]),
    "attention": lambda m, x, w: F.scaled_dot_product_attention(x[None, None], w[None, None], w[None, None]),
    "distances": lambda m, x, w: torch.cdist(x, w),
    "bilinear": lambda m, x, w: F.bilinear(x, x, w[None].contiguous()),
    "bag": lambda m, x, w: F.embedding_bag(x.abs().long() % 16, w, mode="sum"),
    "weighted bag": lambda m, x, w: F.embedding_bag(
        torch.arange(16).expand(len(x), 16), w, per_sample_weights=x, mode="sum"
    ),
    "sparse": lambda m, x, w: torch.sparse.mm(w.to_sparse(), x.t()),
    "compressed": lambda m, x, w: w.to_sparse_csr() @ x.t(),
    "grouped": lambda m, x, w: torch._grouped_mm(x.bfloat16(), torch.stack([w, w]).bfloat16(), offs=OFFSETS),
    "eight bits": lambda m, x, w: torch._scaled_mm(
        x[:4].to(torch.float8_e4m3fn), w.to(torch.float8_e4m3fn).t(), torch.tensor(1.0), torch.tensor(1.0)
    ),
    "integers": lambda m, x, w: torch._int_mm((10 * x).to(torch.int8).repeat(8, 1), (100 * w).to(torch.int8)),
    "solve": lambda m, x, w: torch.linalg.solve(w + 20 * torch.eye(16), x.t()),
    "inference mode": lambda m, x, w: torch.inference_mode()(F.linear)(x, w),
    "vectorised": lambda m, x, w: torch.vmap(lambda row: w @ row)(x),
    "compiled": lambda m, x, w: torch.compile(lambda x, w: x @ w, backend="eager")(x, w),
    "chosen experts": lambda m, x, w: torch.bmm(x[:, None], torch.stack([w, w])[x[:, 0].gt(0).long()]),
    "styled": lambda m, x, w: torch.bmm(w * x[:, None], x[..., None]),
}
CELLS = [
    (product, function)
    for product in PRODUCTS
    for function in FUNCTIONS
    if product in ("linear", "elements", "convolution") or function in ("itself", "normalised", "joined")
]


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta", "ignore:Sparse invariant checks")
@pytest.mark.parametrize(("product", "function"), CELLS)
def test_a_product_with_a_function_of_a_weight_is_found(product: str, function: str) -> None:
    net = pg.convert(
        Model(lambda m, x: PRODUCTS[product](m, x, FUNCTIONS[function](m, m.head.weight.detach()))), HARDWARE
    )
    found = bypasses(net, torch.randn(4, 16))
    assert set(found) - {"mask"} == {"head.weight"}, found
    assert found["head.weight"].endswith("multiplies by it outside the forward pass of head; call head(x) instead")


CLEAN: dict[str, Callable[[Model, Tensor], object]] = {
    "scaled": lambda m, x: m.head(m.gain * x + m.gain),
    "mean of the scaled": lambda m, x: (m.gain * x).mean(-1),
    "token": lambda m, x: torch.cat([m.gain[None], x]) @ x.t(),
    "positions": lambda m, x: (x[0] + m.mask) @ x.t(),
    "bias of scores": lambda m, x: F.scaled_dot_product_attention(x[None], x[None], x[None], attn_mask=m.mask[:4, :4]),
    "penalty": lambda m, x: x.sum() + (m.head.weight @ m.head.weight.t()).sum(),
    "rows": lambda m, x: F.embedding(torch.arange(4), m.mask) @ x.t(),
    "rotary": lambda m, x: m.steps[:, None] @ x[:1],
    "weighted sum": lambda m, x: (x @ x.t()).softmax(-1) @ x,
    "cache": lambda m, x: m.mask.clone().index_copy_(0, torch.arange(4), x) @ x.t(),
    "statistics": lambda m, x: F.batch_norm(x, m.gain, m.gain, m.gain, m.gain),
    "forward": lambda m, x: m.head.forward(x),
}


@pytest.mark.parametrize("use", CLEAN)
def test_elementwise_functions_and_products_of_activations_are_no_bypasses(use: str) -> None:
    assert bypasses(pg.convert(Model(CLEAN[use]), HARDWARE), torch.randn(4, 16)) == {}


def test_a_net_that_draws_its_input_is_watched_too() -> None:
    net = pg.convert(Model(lambda m, x: F.linear(torch.randn(2, 16), m.head.weight)), HARDWARE)
    assert set(bypasses(net, torch.randn(4, 16))) == {"head.weight"}


def test_matrices_in_buffers_attributes_and_packed_weights_are_found() -> None:
    model = nn.Sequential(nn.Linear(16, 16), Model(lambda m, x: (x @ m.mask) @ m.plain[0]))
    model[1].plain = [torch.randn(16, 16)]
    net = pg.convert(model, HARDWARE)
    assert set(bypasses(net, torch.randn(4, 16))) == {"1.mask", "1.plain"}
    with pytest.warns(BypassWarning, match=r"1\.mask: matmul multiplies by it in 1, a Model, which is digital"):
        pg.hwa.calibrate(net, [torch.randn(4, 16)], recipe=None)


@pytest.mark.filterwarnings("ignore")
def test_the_packed_weight_of_a_quantised_layer_is_found() -> None:
    if "qnnpack" not in torch.backends.quantized.supported_engines:
        pytest.skip("no engine for quantised layers")
    quantised = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(16, 16)))
    net = pg.convert(nn.Sequential(nn.Linear(16, 16), quantised), HARDWARE)
    found = bypasses(net, torch.randn(4, 16))
    assert found == {"1.0.weight": "linear_dynamic multiplies by it in 1.0, a Linear, which is digital"}


def test_calibration_of_a_clean_net_says_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", pg.nn.UncalibratedWarning)  # some uses never call the head
        for use in ("scaled", "token", "bias of scores", "rotary", "statistics"):
            net = pg.convert(nn.Sequential(Model(CLEAN[use])), HARDWARE)
            pg.hwa.calibrate(net, [torch.randn(4, 16)], recipe=None)


def test_the_summary_tells_layers_on_tiles_from_others() -> None:
    def use(m: Model, x: Tensor) -> Tensor:
        return m.head(x) + F.linear(x, F.normalize(m.head.weight)) + F.linear(x, m.other.weight)

    model = Model(use)
    model.other, model.idle = nn.Linear(16, 16), nn.Linear(16, 16)
    net = pg.convert(model, HARDWARE)
    found = pg.summary(net, torch.randn(4, 16))
    computed = {layer.name: layer.computed for layer in found.layers}
    assert computed == {"body": "analog", "head": "both", "other": "digital", "idle": "nothing"}
    assert str(found).splitlines()[0].endswith("weight   computed")
    assert "computed" not in str(pg.summary(net))
