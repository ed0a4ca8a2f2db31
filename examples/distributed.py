"""Train an MNIST network with several processes, hardware-aware or in memory; resume after an interruption.

    torchrun --nproc-per-node=2 examples/distributed.py --store in-memory

Every process computes a share of each batch. In hardware-aware training, each draws independent noise, and
DistributedDataParallel averages the gradients. In in-memory training, all replicas receive the same pulses, and remain
equal to the bit.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from _data import DataUnavailableError, mnist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

import phasegrad as pg


def main() -> None:
    """Train, and print the test accuracy."""
    options = parse()
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    try:
        data = mnist(options.data)
    except DataUnavailableError as error:
        sys.exit(str(error))
    if ranks > 1:
        dist.init_process_group("gloo")
    torch.manual_seed(options.seed + rank)
    images, labels = scaled(data.train_images[: options.images]), data.train_labels[: options.images]
    loader = pg.checkpoint.ResumableLoader(
        TensorDataset(images, labels), options.batch // ranks, seed=options.seed, rank=rank, ranks=ranks
    )
    net = network(options.store)
    if options.store == "hardware-aware":
        pg.hwa.calibrate(net, loader, batches=20)
    replica = DistributedDataParallel(net) if ranks > 1 else net
    optimizer = optimizer_of(options.store, replica)
    # Every process has its own random streams, which it saves in its own folder.
    folder = pg.checkpoint.Folder(options.out / f"rank{rank}-of-{ranks}")
    train(replica, optimizer, loader, folder, options)
    accuracy = evaluate(net, scaled(data.test_images[: options.images]), data.test_labels[: options.images])
    if rank == 0:
        print(f"{options.store}, {ranks} process(es): test accuracy {100 * accuracy:.2f} %")
    if ranks > 1:
        dist.barrier()
        dist.destroy_process_group()


def scaled(images: Tensor) -> Tensor:
    """Flatten images and scale their pixels to [0, 1]."""
    return images.flatten(1).float() / 255.0


def network(store: str) -> nn.Module:
    """Create the network with digital or in-memory weights."""
    hardware = pg.presets.pcm_inference() if store == "hardware-aware" else pg.presets.constant_step_training()
    return pg.convert(nn.Sequential(nn.Linear(784, 128), nn.Sigmoid(), nn.Linear(128, 10)), hardware)


def optimizer_of(store: str, net: nn.Module) -> torch.optim.Optimizer:
    """Create an optimizer for digital or in-memory weights."""
    if store == "hardware-aware":
        return torch.optim.Adam(net.parameters(), lr=2e-3)
    return pg.optim.AnalogSGD(net.parameters(), lr=0.1)


def train(
    net: nn.Module, optimizer: torch.optim.Optimizer, loader: pg.checkpoint.ResumableLoader,
    folder: pg.checkpoint.Folder, options: argparse.Namespace,
) -> None:  # fmt: skip
    """Train from the last checkpoint, if there is one."""
    parts = {"net": net, "optimizer": optimizer, "loader": loader}
    step = (folder.resume(**parts) or {"step": 0})["step"]
    while loader.epoch < options.epochs:
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(net.train()(x), y).backward()
            optimizer.step()
            step += 1
            if step % options.every == 0:
                folder.save(step, **parts)


@torch.no_grad()
def evaluate(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Fraction of images that the net classifies correctly."""
    return float((net.eval()(images).argmax(1) == labels).float().mean())


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", choices=["hardware-aware", "in-memory"], default="hardware-aware")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32, help="images per step of all processes together")
    parser.add_argument("--images", type=int, default=60_000, help="training images, and maximum number of test images")
    parser.add_argument("--every", type=int, default=500, help="steps between checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, help="folder with the unpacked IDX files")
    parser.add_argument("--out", type=Path, default=Path("out/distributed"), help="folder for checkpoints")
    return parser.parse_args()


if __name__ == "__main__":
    main()
