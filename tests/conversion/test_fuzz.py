"""Random stacks of all layer types: converted, trained, programmed, aged, saved, loaded and converted back.

``PHASEGRAD_FUZZ=5000`` runs 5000 examples that differ in each run, instead of the same 120.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, note, seed, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.conversion import register_counterpart
from phasegrad.nn import AnalogEmbedding, analog_layers
from phasegrad.nn.linear import TransposedLinear

REQUESTED = int(os.environ.get("PHASEGRAD_FUZZ", "0"))
PARTS = 5  # so that several processes can share the examples
pytestmark = pytest.mark.slow
NOISY = pg.presets.pcm_inference()
IDEAL = pg.presets.ideal_inference()
TOLERANCES: dict[torch.dtype, float] = {torch.float32: 1e-5, torch.float64: 1e-10, torch.bfloat16: 0.1}
"""Allowed deviation of the analog net, in units of the largest output."""

Draw = Callable[[st.SearchStrategy[Any]], Any]


class Channels(nn.Module):
    """A convolution of sequences ``[batch, length, size]``; further spatial dimensions have two positions each."""

    def __init__(self, layer: nn.Module, space: int) -> None:
        super().__init__()
        self.layer, self.space = layer, space

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        for _ in range(self.space - 1):
            x = torch.stack([x, 0.5 * x], dim=-1)
        y = self.layer(x)
        return y.flatten(3).mean(-1).transpose(1, 2) if self.space > 1 else y.transpose(1, 2)


class First(nn.Module):
    """A recurrent layer or attention that returns only its first output, the sequence."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


class Attention(nn.Module):
    def __init__(self, layer: nn.MultiheadAttention, cross: bool, weights: bool) -> None:
        super().__init__()
        self.layer, self.cross, self.weights = layer, cross, weights

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.layer.batch_first else x.transpose(0, 1)
        key = x[..., : self.layer.kdim]
        value = x[..., : self.layer.vdim]
        inputs = (x, x.flip(-1), x.flip(-1)) if self.cross else (x, key, value)
        if key.shape == x.shape == value.shape and not self.cross:
            inputs = (x, x, x)
        y = self.layer(*inputs, need_weights=self.weights)[0]
        return y if self.layer.batch_first else y.transpose(0, 1)


class Cell(nn.Module):
    """A recurrent cell that runs over a sequence."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        state, outputs = None, []
        for step in x.unbind(1):
            state = self.layer(step, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs, dim=1)


def linear(draw: Draw, size: int, length: int) -> nn.Module:
    return nn.Linear(size, draw(st.integers(1, 6)), draw(st.booleans()))


def hugging_face(draw: Draw, size: int, length: int) -> nn.Module:
    return TransposedLinear(draw(st.integers(1, 6)), size)


def convolution(draw: Draw, size: int, length: int) -> nn.Module:
    space = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([g for g in (1, 2, 3) if size % g == 0]))
    out = groups * draw(st.integers(1, 3))
    options: dict[str, Any] = {"groups": groups, "bias": draw(st.booleans())}
    mode = draw(st.sampled_from(["transposed", "zeros", "zeros", "reflect", "circular", "replicate"]))
    if mode == "transposed":
        stride = draw(st.integers(1, 2))
        options |= {"stride": stride, "output_padding": draw(st.integers(0, stride - 1))}
        kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[space - 1]
        return Channels(kind(size, out, draw(st.integers(1, 3)), **options), space)
    options |= {"padding_mode": mode, "padding": 1 if length > 1 else 0, "dilation": 1}
    kernel = (draw(st.integers(1, min(3, length))), *[1] * (space - 1))
    if mode == "zeros" and length > 4:
        options |= {"stride": draw(st.integers(1, 2)), "dilation": draw(st.integers(1, 2))}
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[space - 1]
    return Channels(kind(size, out, kernel, **options), space)


def recurrent(draw: Draw, size: int, length: int) -> nn.Module:
    kind = draw(st.sampled_from([nn.RNN, nn.LSTM, nn.GRU]))
    options: dict[str, Any] = {
        "num_layers": draw(st.integers(1, 2)),
        "bidirectional": draw(st.booleans()),
        "bias": draw(st.booleans()),
    }
    hidden = draw(st.integers(2, 4))
    if kind is nn.LSTM and draw(st.booleans()):
        options["proj_size"] = hidden - 1
    return First(kind(size, hidden, batch_first=True, **options))


def cell(draw: Draw, size: int, length: int) -> nn.Module:
    kind = draw(st.sampled_from([nn.RNNCell, nn.LSTMCell, nn.GRUCell]))
    return Cell(kind(size, draw(st.integers(1, 4)), draw(st.booleans())))


def attention(draw: Draw, size: int, length: int) -> nn.Module:
    options: dict[str, Any] = {
        name: draw(st.booleans()) for name in ("bias", "add_bias_kv", "add_zero_attn", "batch_first")
    }
    cross = draw(st.booleans())
    if not cross and draw(st.booleans()):
        options |= {"kdim": draw(st.integers(1, size)), "vdim": draw(st.integers(1, size))}
    heads = draw(st.sampled_from([h for h in (1, 2, 3) if size % h == 0]))
    return Attention(nn.MultiheadAttention(size, heads, **options), cross, draw(st.booleans()))


def transformer(draw: Draw, size: int, length: int) -> nn.Module:
    heads = draw(st.sampled_from([h for h in (1, 2) if size % h == 0]))
    options = {"norm_first": draw(st.booleans()), "activation": draw(st.sampled_from(["relu", "gelu"]))}
    return nn.TransformerEncoderLayer(size, heads, 4, 0.0, batch_first=True, **options)


def digital(draw: Draw, size: int, length: int) -> nn.Module:
    return draw(st.sampled_from([nn.Tanh(), nn.LayerNorm(size)]))


BLOCKS = [linear, hugging_face, convolution, recurrent, cell, attention, transformer, digital]


def shared(draw: Draw, blocks: list[nn.Module], size: int) -> nn.Module | None:
    """An earlier block, or a new block tied to its weight; ``None`` for neither."""
    fitting = [b for b in blocks if isinstance(b, nn.Linear) and b.in_features == b.out_features == size]
    if not fitting or not draw(st.booleans()):
        return None
    block = draw(st.sampled_from(fitting))
    if draw(st.booleans()):
        return block
    tied = (nn.Linear if draw(st.booleans()) else TransposedLinear)(size, size)
    tied.weight = block.weight
    return tied


@st.composite
def models(draw: Draw) -> tuple[nn.Module, Tensor, bool]:
    """A model, an input, and whether its embedding is converted."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    size, analog = draw(st.integers(1, 6)), draw(st.booleans())
    dtype = draw(st.sampled_from([torch.float32, torch.float32, torch.float64, torch.bfloat16]))
    blocks: list[nn.Module] = []
    batch, length = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    x = probe = torch.randn(batch, length, size)
    if draw(st.integers(0, 3)) == 0:
        x = torch.randint(5, (batch, length))
        blocks.append(nn.Embedding(5, size))
        probe = blocks[0](x)
    for _ in range(draw(st.integers(1, 4))):
        block = shared(draw, blocks, probe.shape[-1])
        block = draw(st.sampled_from(BLOCKS))(draw, probe.shape[-1], probe.shape[1]) if block is None else block
        blocks.append(block)
        with torch.no_grad():
            probe = block(probe)
    if isinstance(blocks[0], nn.Embedding) and probe.shape[-1] == size:
        head = nn.Linear(size, 5, bias=False)
        head.weight = blocks[0].weight
        blocks.append(head)
    model = nn.Sequential(*blocks, *([] if any(map(converts, blocks)) else [nn.Linear(probe.shape[-1], 2)]))
    return model.to(dtype).train(draw(st.booleans())), x if x.dtype == torch.int64 else x.to(dtype), analog


def converts(block: nn.Module) -> bool:
    return not isinstance(block, (nn.Tanh, nn.LayerNorm, nn.Embedding))


def near(mine: Tensor, theirs: Tensor, tolerance: float) -> None:
    assert mine.shape == theirs.shape
    difference, size = (mine.double() - theirs.double()).abs().max(), theirs.double().abs().max()
    assert difference <= tolerance * (1.0 + size), f"differs by {difference:.2e} at outputs of {size:.2e}"


def state(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def run(net: nn.Module, x: Tensor) -> Tensor:
    torch.manual_seed(5)
    with torch.no_grad():
        return net(x)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
def test_random_stacks_convert_train_program_and_load(part: int) -> None:
    parametrized = given(case=models(), rows=st.sampled_from([3, 512]), scale=st.sampled_from(["column", "tile"]))
    configured = settings(
        max_examples=(REQUESTED or 120) // PARTS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    examples = configured(parametrized(check_life_cycle))
    (examples if REQUESTED else seed(part)(examples))()


def check_life_cycle(case: tuple[nn.Module, Tensor, bool], rows: int, scale: str) -> None:
    model, x, analog = case
    note(f"{model}\n{x.shape} {x.dtype}")
    dtype = next(model.parameters()).dtype
    before, text, tolerance = state(model), repr(model), TOLERANCES[dtype]
    with ExitStack() as registered:
        if analog:
            registered.enter_context(register_counterpart(nn.Embedding, AnalogEmbedding.from_digital))
        ideal = pg.convert(model, replace(IDEAL, rows=rows, scale=scale))
        noisy, fresh = (pg.convert(model, replace(NOISY, rows=rows)) for _ in range(2))
    expected = run(model, x)
    near(run(ideal, x), expected, tolerance)
    near(run(pg.to_digital(ideal), x), expected, tolerance)
    ideal.load_state_dict(before)
    near(run(ideal, x), expected, tolerance)

    pg.hwa.Recipe().apply(noisy)
    noisy(x).float().square().sum().backward()
    for name, layer in analog_layers(noisy).items():
        assert layer.weight.grad is not None, name
        assert layer.weight.grad.isfinite().all(), name

    chip = pg.inference.age(pg.inference.program(noisy, seed=1), 1e5)
    saved = io.BytesIO()
    torch.save(chip.state_dict(), saved)
    saved.seek(0)
    fresh.eval().load_state_dict(torch.load(saved, weights_only=True))
    assert torch.equal(run(fresh, x), run(chip, x))
    assert run(pg.to_digital(chip), x).isfinite().all()

    assert repr(model) == text
    assert same(state(model), before)
