"""A training step reads no value of a tensor on the host: on CUDA, each such read waits for the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import phasegrad as pg

HOST_READS = {
    "_local_scalar_dense",
    "item",
    "is_nonzero",
    "equal",
    "nonzero",
    "masked_select",
    "unique_dim",
    "_unique2",
}


class NoHostReads(TorchDispatchMode):
    """Refuses what needs the value of a tensor on the host.

    Ops of phasegrad run below the mode. tests/cuda/test_gpu.py tests on a GPU that their kernels do not wait.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.overloadpacket.__name__ not in HOST_READS, f"{func} reads a tensor on the host"
        return func(*args, **(kwargs or {}))


def linear() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 5)), torch.randn(4, 20)


def convolution() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 36, 5)), torch.randn(2, 3, 6, 6)


class LastStep(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)[0]


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


def recurrent() -> tuple[nn.Module, Tensor]:
    return LastStep(nn.LSTM(6, 5)), torch.randn(3, 2, 6)


def attention() -> tuple[nn.Module, Tensor]:
    return SelfAttention(), torch.randn(2, 3, 8)


NETS = (linear, convolution, recurrent, attention)


@pytest.mark.parametrize("make", NETS)
@pytest.mark.parametrize("preset", [pg.presets.pcm_inference, pg.presets.hermes_inference, pg.presets.ideal_inference])
def test_a_hardware_aware_step_reads_nothing_on_the_host(
    make: Callable[[], tuple[nn.Module, Tensor]], preset: Callable[[], pg.Hardware]
) -> None:
    model, x = make()
    net = pg.convert(model, preset())
    pg.hwa.calibrate(net, [x], batches=1, recipe=pg.hwa.Recipe())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    net.train()
    for step in range(3):
        if step == 0:  # gradients and momentum are created
            net(x).square().sum().backward()
            optimizer.step()
            continue
        with NoHostReads():
            net(x).square().sum().backward()
            optimizer.step()


def test_the_mode_sees_a_read() -> None:
    with NoHostReads(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        float(torch.ones(1) + 1.0)
