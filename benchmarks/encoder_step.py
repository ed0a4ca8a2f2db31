"""A fine-tuning step of a sentence encoder of the size of MiniLM, hardware-aware against float: time and memory.

Both run 32 sentences of 32 tokens: forward, distance to given embeddings, backward, AdamW; the token embeddings are
frozen. The analog encoder has the preset's tiles with PCM-like weight noise, clipping, and learned input ranges.
Weights are random, because neither figure depends on them.
"""

from __future__ import annotations

import multiprocessing
import re
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import phasegrad as pg
from benchmarks.harness import Figure, side_by_side

BATCH, LENGTH, ROUNDS = 32, 32, 15


def encoder() -> nn.Module:
    """Six layers of 384 with twelve heads: transformers' ``BertModel`` in the configuration of all-MiniLM-L6-v2."""
    from transformers import BertConfig, BertModel  # imported here because it is slow to import

    torch.manual_seed(0)
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertModel(BertConfig(**sizes, **dropout), add_pooling_layer=False).train()


def embedded(net: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Embeddings of length 1."""
    return F.normalize(net(input_ids=tokens).last_hidden_state.mean(1), dim=-1)


def step(analog: bool) -> Callable[[], None]:
    """A training step on a fixed batch."""
    net = encoder()
    tokens = torch.randint(1000, 30000, (BATCH, LENGTH))
    wanted = F.normalize(torch.randn(BATCH, 384), dim=-1)
    if analog:
        net = pg.convert(net, pg.presets.pcm_inference())
        pg.hwa.calibrate(net, [tokens], forward=lambda net, batch: net(input_ids=batch), recipe=pg.hwa.Recipe())
    trained = [p.requires_grad_("embeddings" not in name) for name, p in net.named_parameters()]
    optimizer = torch.optim.AdamW([p for p in trained if p.requires_grad], lr=1e-6)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        (1.0 - (embedded(net, tokens) * wanted).sum(1).mean()).backward()
        optimizer.step()

    return run


def peak(analog: bool) -> float:
    """Memory that training adds in a separate process [MB]."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (analog, torch.get_num_threads()))


def _peak(analog: bool, threads: int) -> float:
    torch.set_num_threads(threads)
    import transformers.models.bert.modeling_bert  # noqa: F401 -- imported before the measurement

    before = _peak_memory()
    run = step(analog)
    for _ in range(5):
        run()
    return _peak_memory() - before


def _peak_memory() -> float:
    """Peak resident memory of this process so far [MB], from Linux."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024.0


def figures() -> list[Figure]:
    """Measure time and memory of a step."""
    a, b, ratio = side_by_side(step(True), step(False), ROUNDS)
    more, less = (statistics.median(peak(analog) for _ in range(3)) for analog in (True, False))
    name, target = f"MiniLM encoder hwa step B{BATCH}x{LENGTH}", "at most 1.5"
    return [
        Figure(name, a * 1e3, "ms", "float", b * 1e3, ratio, target),
        Figure(f"{name}, peak memory", more, "MB", "float", less, more / less, target),
    ]
