"""Training runs of two processes with gloo."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import phasegrad as pg
from phasegrad.nn import InMemoryWeight
from phasegrad.optim.base import PulsedOptimizer

RANKS, STEPS = 2, 100

Optimizer = Callable[..., torch.optim.Optimizer]
ALGORITHMS: dict[str, tuple[Callable[[], pg.Hardware], Optimizer, dict[str, Any]]] = {
    "AnalogSGD": (pg.presets.pcm_capacitor_training, pg.optim.AnalogSGD, {"momentum": 0.5}),
    "MixedPrecision": (pg.presets.pcm_pair_training, pg.optim.MixedPrecision, {}),
    "TikiTaka": (pg.presets.tiki_taka_training, pg.optim.TikiTaka, {}),
    "TikiTakaV2": (pg.presets.tiki_taka_training, pg.optim.TikiTakaV2, {}),
    "ChoppedTikiTakaV2": (lambda: pg.presets.tiki_taka_training(gain=0.0), pg.optim.ChoppedTikiTakaV2, {}),
    "AGAD": (lambda: pg.presets.tiki_taka_training(gain=0.0), pg.optim.AGAD, {}),
}


def start(work: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """Run a function in two processes; return the result of each."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["phasegrad", "tests.distributed.preload"])
    processes = [context.Process(target=_run_rank, args=(rank, folder, work, arguments)) for rank in range(RANKS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120.0)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * RANKS
    return [torch.load(folder / str(rank), weights_only=True) for rank in range(RANKS)]


def _run_rank(rank: int, folder: Path, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(rank)  # different initial weights and noise in each
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = dist.FileStore(str(folder / "store"), RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
    torch.save(work(rank, *arguments), folder / str(rank))
    dist.barrier()
    dist.destroy_process_group()


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 4))


def cnn() -> nn.Sequential:
    return nn.Sequential(nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Tanh(), nn.Linear(3, 4))


def task(size: int = 500) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(size, 8, generator=generator)
    return x, x[:, :4].argmax(1)


def loader(rank: int, size: int = 500, ranks: int = RANKS) -> pg.checkpoint.ResumableLoader:
    return pg.checkpoint.ResumableLoader(list(zip(*task(size), strict=True)), 6, seed=2, rank=rank, ranks=ranks)


def fit(net: nn.Module, optimizer: torch.optim.Optimizer, batches: pg.checkpoint.ResumableLoader) -> list[float]:
    losses: list[float] = []
    while len(losses) < STEPS:
        for x, y in batches:
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
            if len(losses) == STEPS:
                break
    return losses


def states(*parts: Any) -> list[dict[str, Any]]:
    return [dict(part.state_dict()) for part in parts]


def hardware_aware(rank: int) -> Any:
    net = pg.convert(mlp(), pg.presets.pcm_inference())
    pg.hwa.calibrate(net, loader(rank), batches=3)
    replica = DistributedDataParallel(net)
    losses = fit(replica, torch.optim.SGD(replica.parameters(), lr=0.1, momentum=0.9), loader(rank))
    return {"states": states(net), "losses": losses, "stream": torch.get_rng_state()}


def in_memory(rank: int, name: str, convolution: bool) -> Any:
    hardware, make, options = ALGORITHMS[name]
    net = pg.convert(cnn() if convolution else mlp(), hardware())
    replica = DistributedDataParallel(net)
    optimizer = make(replica.parameters(), lr=0.1, **options)
    # 65 samples: the last batch of an epoch has 3 in one process and 2 in the other.
    losses = fit(replica, optimizer, loader(rank, 65))
    return {"states": states(net, optimizer), "losses": losses, "stream": torch.get_rng_state()}


def inside_another_module(rank: int) -> Any:
    """A net that DDP was not told to ignore, and one that it was."""
    found = {}
    for ignored in (False, True):
        torch.manual_seed(rank)
        net = pg.convert(mlp(), pg.presets.soft_bounds_training())
        whole = nn.Sequential(nn.LayerNorm(8), net)
        replica = DistributedDataParallel(pg.nn.ignore_in_ddp(whole) if ignored else whole)
        fit(replica, pg.optim.AnalogSGD(replica.parameters(), lr=0.1), loader(rank))
        found[str(ignored)] = states(whole)
    return found


def staged(rank: int) -> Any:
    """Samples that an update receives, from uneven batches of the processes and a weight without samples."""
    net = pg.convert(nn.Sequential(nn.Linear(3, 2), nn.Linear(3, 2)), pg.presets.soft_bounds_training())
    optimizer = pg.optim.AnalogSGD(net.parameters(), lr=0.1)
    sent = []
    for number in (2, 1) if rank == 0 else (3,):
        x, d = torch.randn(number, 3), torch.randn(number, 2)
        net[0].weight.stage(x, d)
        sent.append((x, d))
    seen: list[Any] = []

    def record(optimizer: PulsedOptimizer, weight: InMemoryWeight, group: dict[str, Any]) -> None:
        assert weight.grad is not None
        seen.extend((weight is net[0].weight, s.x, s.d) for s in weight.grad.samples)

    pg.optim.AnalogSGD._pulse = record  # type: ignore[method-assign, assignment]
    optimizer.step()
    return {"sent": sent, "seen": seen, "left": [layer.weight.grad for layer in net]}


def unreplicated(rank: int) -> Any:
    """Weights that are not replicated."""
    net = pg.convert(mlp(), pg.presets.soft_bounds_training())
    optimizer = pg.optim.AnalogSGD([{"params": net.parameters(), "replicated": False}], lr=0.1)
    if rank == 0:  # no process waits for the other
        fit(net, optimizer, loader(rank))
    return states(net)


def refused(rank: int) -> Any:
    """A gradient that is not finite in one process; no process may pulse."""
    net = pg.convert(mlp(), pg.presets.soft_bounds_training())
    optimizer = pg.optim.AnalogSGD(net.parameters(), lr=0.1)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    net(torch.full((2, 8), torch.nan if rank == 1 else 1.0)).sum().backward()
    try:
        optimizer.step()
    except ValueError as error:
        return str(error), all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    return "stepped", False


def resumed(rank: int, folder: Path) -> Any:
    """Resume after process 1 was killed before it wrote its last checkpoint."""
    mine = pg.checkpoint.Folder(folder / f"rank{rank}")
    nothing = mine.resume() is None
    for step in (10, 20, 30)[: 3 - rank]:
        mine.save(step)
    found = mine.resume()
    mine.files()[0 if rank == 1 else 1].write_bytes(b"")  # 20, in both
    dist.barrier()
    try:
        mine.resume()
    except pg.checkpoint.DamagedError as error:
        return nothing, found, str(error)
    return nothing, found, "no error"


def sharded(rank: int, noise: bool) -> Any:
    hardware = pg.presets.pcm_inference() if noise else pg.Hardware(cell=pg.presets.pcm_inference().cell)
    torch.manual_seed(0)
    net = pg.convert(mlp(), hardware)
    torch.manual_seed(rank)
    for layer in (net[0], net[2]):
        fully_shard(layer)
    fully_shard(net)
    losses = fit(net, torch.optim.Adam(net.parameters(), lr=0.01), loader(rank))
    parts = {key: value.to_local().shape[0] for key, value in net.named_parameters()}
    whole = {key: value.full_tensor().detach() for key, value in net.named_parameters()}
    return {"losses": losses, "whole": whole, "parts": parts}


def _materialised() -> nn.Module:
    with torch.device("meta"):
        model = mlp()
    net = pg.convert(model, pg.presets.pcm_inference()).eval()
    for layer in (net[0], net[2]):
        fully_shard(layer)
    return fully_shard(net).to_empty(device="cpu")


def sharded_from_meta(rank: int) -> Any:
    """A net that is built on the meta device, sharded, materialised, initialised, and loaded."""
    torch.manual_seed(0)
    saved, x = pg.convert(mlp(), pg.presets.pcm_inference()).eval(), torch.randn(5, 8)
    unloaded, net = "no error", _materialised()
    try:
        _materialised()(x)  # FSDP computes with no net again in which a forward pass has raised
    except ValueError as error:
        unloaded = str(error)
    for module in (net[0], net[2]):
        module.reset_parameters()
    initial = net(x)
    everything = StateDictOptions(full_state_dict=True, strict=False)  # the configuration is no tensor of a parameter
    set_model_state_dict(net, dict(saved.state_dict()), options=everything)
    torch.manual_seed(1)
    expected = saved(x)
    torch.manual_seed(1)
    return {"unloaded": unloaded, "initial": initial.detach(), "loaded": net(x).detach(), "saved": expected.detach()}


def sharded_in_memory(rank: int) -> str:
    net = pg.convert(mlp(), pg.presets.soft_bounds_training())
    fully_shard(net)
    try:
        net(torch.randn(2, 8))
    except RuntimeError as error:
        return str(error)
    return "no error"
