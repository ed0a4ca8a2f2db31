"""A chip of the size of GPT-2: time and peak memory of its verbs, and of passes over few and many tokens.

The weights are random, and nothing is downloaded. ``PHASEGRAD_LARGE_MODEL`` is ``small`` (12 blocks of width 256, the
default) or ``gpt2`` (12 blocks of width 768, 124 million weights, about 6 GiB of memory).

Peaks are of the resident memory of the process, above what it took before the verb. They include what the verb
returns.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import phasegrad as pg
from benchmarks.harness import Figure

SIZES = {"small": (256, 4, 8192), "gpt2": (768, 12, 50257)}
BLOCKS, CONTEXT, ROUNDS, GIB = 12, 1024, 7, float(1 << 30)


class Block(nn.Module):
    """A block of GPT-2: attention, then a feed-forward network, each added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.attend(self.norm_1(x)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        seen = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(seen.transpose(1, 2).flatten(2))
        return x + self.narrow(nn.functional.gelu(self.widen(self.norm_2(x))))


class LanguageModel(nn.Module):
    """The structure of GPT-2, with its tied embedding, at any width."""

    def __init__(self, width: int, heads: int, vocabulary: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(BLOCKS)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        return self.head(self.norm(self.blocks(x)))


class _Peak:
    """The largest resident memory of the process while it is watched [bytes]."""

    def __enter__(self) -> _Peak:
        self.before = self.peak = _resident()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.peak = max(self.peak, _resident())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.after = _resident()
        self.peak = max(self.peak, self.after)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _verb(name: str, floats: float, verb: Callable[[], Any], target: str) -> tuple[Any, list[Figure]]:
    with _Peak() as memory:
        start = time.perf_counter()
        result = verb()
        seconds = time.perf_counter() - start
    kept, peak = (memory.after - memory.before) / GIB, (memory.peak - memory.before) / GIB
    return result, [
        Figure(f"{name}, time", seconds, "s", None, None, None, ""),
        Figure(f"{name}, memory kept", kept, "GiB", "float weights", floats, kept / floats, target),
        Figure(f"{name}, peak memory", peak, "GiB", "float weights", floats, peak / floats, ""),
    ]


def _pass(chip: nn.Module, model: nn.Module, tokens: int, rounds: int) -> Figure:
    x = torch.randint(1000, (1, tokens))
    times: dict[str, list[float]] = {"chip": [], "float": []}
    for i in range(rounds + 2):
        for name, net in (("chip", chip), ("float", model)):
            start = time.perf_counter()
            net(x)
            if i >= 2:
                times[name].append(time.perf_counter() - start)
    analog, digital = (1e3 * sorted(t)[len(t) // 2] for t in times.values())
    target = "at most 3x" if tokens == 1 else ""
    return Figure(f"forward of {tokens} token(s)", analog, "ms", "the float model", digital, analog / digital, target)


@torch.no_grad()
def figures() -> list[Figure]:
    """Convert, program, age, compensate, and passes over 1, 64 and 256 tokens."""
    size = os.environ.get("PHASEGRAD_LARGE_MODEL", "small")
    if size not in SIZES:
        raise ValueError(f"PHASEGRAD_LARGE_MODEL = {size!r}; it can be {' or '.join(map(repr, SIZES))}")
    torch.manual_seed(0)
    model = LanguageModel(*SIZES[size]).eval()
    count = sum(p.numel() for p in model.parameters())
    floats = count * 4 / GIB
    net, found = _verb(f"{size}: convert", floats, lambda: pg.convert(model, pg.presets.pcm_inference()), "")
    pg.hwa.calibrate(net, [torch.randint(1000, (1, 64)) for _ in range(4)], batches=4, recipe=None)
    net.eval()
    chip, programmed = _verb(f"{size}: program", floats, partial(pg.inference.program, net, seed=0), "")
    devices = sum(layer.device_count for layer in pg.nn.analog_layers(chip).values())
    per_device = programmed[0].value / devices * 1e9
    target = "at most 25 ns on one core"
    found += [*programmed, Figure(f"{size}: program, per device", per_device, "ns", None, None, None, target)]
    del net
    old, aged = _verb(f"{size}: age", floats, partial(pg.inference.age, chip, seconds=86_400.0), "at most 1.3x")
    good, compensated = _verb(
        f"{size}: compensate", floats, partial(pg.inference.compensate, old, seed=0), "at most 1.3x"
    )
    del chip, old
    return [*found, *aged, *compensated, *(_pass(good, model, tokens, ROUNDS) for tokens in (64, 256, 1))]
