"""Large models are estimated in seconds, with little memory."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import phasegrad as pg
from phasegrad.cost import Estimate, estimate, hermes_64_core

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident(kind: str) -> int:
    """Resident memory of the process [bytes]: ``VmRSS`` now, ``VmHWM`` at most since it was cleared."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(kind))
    return 1024 * int(line.split()[1])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread, so that processor time is the work that is done."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def check(net: nn.Module, example_input: object) -> Estimate:
    estimate(pg.convert(nn.Sequential(nn.Linear(2, 2)), pg.presets.hermes_inference()), torch.empty(1, 2))  # warm up
    size = sum(p.numel() * p.element_size() for p in net.parameters())
    CLEAR.write_text("5")  # sets the peak to the present value
    before, start = resident("VmRSS"), time.process_time()
    found = estimate(net, example_input, technology=hermes_64_core(), activity=0.2)
    assert time.process_time() - start < 5.0
    assert resident("VmHWM") - before < max(0.2 * size, 64 << 20)  # the interpreter alone takes more than a small net
    assert found.energy > 0
    return found


@pytest.mark.skipif(not CLEAR.exists(), reason="no procfs")
def test_resnet_32() -> None:
    resnet = importlib.import_module("_resnet")
    net = pg.convert(resnet.ResNet(32), pg.presets.hermes_inference())
    found = check(net.eval(), torch.empty(1, 3, 32, 32))
    assert len(found.layers) == 32
    # He et al. 2016: 0.47 million parameters; 69 million multiplications.
    assert found.devices == 2 * sum(
        p.numel() for n, p in net.named_parameters() if n.endswith("weight") and "bn" not in n
    )
    assert found.counts.multiplications == pytest.approx(69e6, rel=0.01)


@pytest.mark.skipif(not CLEAR.exists(), reason="no procfs")
def test_minilm() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 1536}
    model = transformers.BertModel(transformers.BertConfig(**sizes)).eval()
    net = pg.convert(model, pg.presets.hermes_inference())
    tokens = torch.zeros(1, 128, dtype=torch.int64)
    found = check(net, {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)})
    blocks = 12 * (4 * 384 * 384 + 2 * 384 * 1536)
    assert found.counts.multiplications == 128 * blocks + 384 * 384
    attention = next(d.operator for d in found.digital if d.operator.name == "scaled_dot_product_attention")
    assert attention.products == 12 * 4 * 128 * 128 * 384
