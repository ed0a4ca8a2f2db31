"""What only a GPU shows: no synchronisation, CUDA graphs, 16-bit products, the compiler, several devices."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from tests.contracts.triton_kernels import needs_gpu
from tests.cuda.chain import classes, perceptron
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.ops import direct

pytestmark = needs_gpu


def hardware_aware(features: int = 512, outputs: int = 256) -> tuple[nn.Module, Tensor]:
    """A layer in hardware-aware training, and inputs."""
    torch.manual_seed(0)
    net = pg.convert(nn.Sequential(nn.Linear(features, outputs)).cuda(), pg.presets.pcm_inference())
    x = torch.randn(64, features, device="cuda")
    pg.hwa.calibrate(net, [x], batches=1, recipe=pg.hwa.Recipe())
    return net.train(), x


def test_kernels_run_on_this_gpu() -> None:
    assert pg.backends()["cuda"].startswith("triton (")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_hardware_aware_step_never_waits_for_the_device(dtype: torch.dtype) -> None:
    net, x = hardware_aware()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            loss = net(x).float().square().mean()
        loss.backward()
        optimizer.step()

    step()  # kernels are compiled, momentum is created
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_cuda_graph_of_a_step_draws_new_noise() -> None:
    net, x = hardware_aware()
    for p in net.parameters():
        p.grad = torch.zeros_like(p)

    def step() -> Tensor:
        for p in net.parameters():
            p.grad.zero_()  # type: ignore[union-attr]
        y = net(x)
        y.square().mean().backward()
        return y

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = step()
    found = []
    for _ in range(2):
        graph.replay()
        found.append((y.clone(), net[0].weight.grad.clone()))
    assert not torch.equal(found[0][0], found[1][0])
    noise = (found[0][0] - found[1][0]).std() / found[0][0].std()
    assert 0.01 < noise < 1.0
    assert found[0][1].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [True, False])
def test_low_precision_products_agree_with_float32(dtype: torch.dtype, autocast: bool) -> None:
    net, x = hardware_aware()
    net.eval()  # without training noise; read and output noise have the same seed
    torch.manual_seed(1)
    exact = net(x)
    if autocast:
        torch.manual_seed(1)
        with torch.autocast("cuda", dtype):
            low = net(x)
    else:
        net = copy.deepcopy(net).to(dtype)
        torch.manual_seed(1)
        low = net(x.to(dtype))
    assert low.dtype == dtype
    error = (low.float() - exact).square().mean().sqrt() / exact.std()
    assert error < 0.02, error


def test_calls_bypass_the_dispatcher(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = hardware_aware()
    names: list[str] = []

    def noted(name: str, run: Callable[..., object]) -> Callable[..., object]:
        def op(*arguments: object) -> object:
            names.append(name)
            return run(*arguments)

        return op

    monkeypatch.setattr(direct, "CUDA_KERNELS", {name: noted(name, run) for name, run in direct.CUDA_KERNELS.items()})
    net(x).sum().backward()
    assert {"weight_scale", "tile_linear", "tile_linear_backward", "dac", "dac_backward"} <= set(names)


def test_tf32_is_torchs_choice() -> None:
    net, x = hardware_aware()
    net.eval()
    found = []
    for precision in ("highest", "high"):
        torch.set_float32_matmul_precision(precision)
        torch.manual_seed(1)
        found.append(net(x))
    torch.set_float32_matmul_precision("highest")
    assert (found[0] - found[1]).square().mean().sqrt() < 0.01 * found[0].std()


def test_the_compiler_sees_one_graph() -> None:
    net, x = hardware_aware()
    compiled = torch.compile(net, fullgraph=True)
    compiled(x).square().mean().backward()
    assert net[0].weight.grad.isfinite().all()


def test_an_input_elsewhere_is_refused() -> None:
    net, x = hardware_aware()
    with pytest.raises(ValueError, match="is on cuda:0, the first argument on cpu"):
        net(x.cpu())


def test_outputs_agree_with_the_cpu() -> None:
    net, x = hardware_aware()
    net.eval()
    on_cpu = copy.deepcopy(net).cpu()
    for module in (net, on_cpu):  # draws of the two devices differ: compare without noise
        for layer in module.modules():
            if type(layer) is pg.nn.AnalogLinear:
                layer.hardware = pg.presets.ideal_inference()
    torch.testing.assert_close(net(x).cpu(), on_cpu(x.cpu()), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_layer_computes_on_the_gpu_where_it_lies() -> None:
    net, x = hardware_aware()
    second = copy.deepcopy(net).to("cuda:1")
    y = second(x.to("cuda:1"))
    assert y.device == torch.device("cuda:1")
    y.square().mean().backward()
    assert second[0].weight.grad.isfinite().all()


def memory_of(step: Callable[[], object]) -> int:
    step()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    return torch.cuda.max_memory_allocated() - before


def test_a_large_step_needs_no_copies_of_all_tile_outputs() -> None:
    net, _ = hardware_aware(4096, 4096)
    x = torch.randn(1024, 4096, device="cuda", requires_grad=True)
    outputs = 1024 * 4096
    tiles = 4096 // 512

    def step() -> None:
        net(x).sum().backward()

    weights = 4096 * 4096 * 4
    # The weights as read and their gradient, codes of all tiles, and a few float32 matrices of the size of the outputs.
    assert memory_of(step) < 3 * weights + tiles * outputs + 12 * 4 * outputs


def test_in_memory_training_learns() -> None:
    x, labels = classes(256, 64, 8)
    net = pg.convert(perceptron(64, 128, 8), pg.presets.soft_bounds_training())
    optimizer = pg.optim.AnalogSGD(net.parameters(), lr=0.05)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(net(x), labels).backward()
        optimizer.step()
    assert (net(x).argmax(1) == labels).float().mean() > 0.9
