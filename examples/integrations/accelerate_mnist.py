"""In-memory training with Accelerate: accelerate launch examples/integrations/accelerate_mnist.py.

With several processes (``--num_processes 2``) Accelerate wraps the net in DistributedDataParallel, and all replicas
receive the same pulses.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from _slice import training_images
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader

import phasegrad as pg


def main(images: int = 10_000, epochs: int = 2) -> float:
    """Train; return the accuracy on the training images."""
    accelerator = Accelerator(cpu=True)
    set_seed(0)
    data = training_images(images)
    model = nn.Sequential(nn.Linear(784, 64), nn.Sigmoid(), nn.Linear(64, 10))
    net = pg.convert(model, pg.presets.constant_step_training())
    optimizer = pg.optim.AnalogSGD(net.parameters(), lr=0.1)  # after Accelerator, which creates the process group
    net, optimizer, loader = accelerator.prepare(net, optimizer, DataLoader(data, 16, shuffle=True))
    for _ in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            accelerator.backward(F.cross_entropy(net(x), y))
            optimizer.step()
    x, y = data.tensors
    with torch.no_grad():
        accuracy = float((net.eval()(x).argmax(1) == y).float().mean())
    accelerator.print(f"training accuracy: {100 * accuracy:.2f} %")
    return accuracy


if __name__ == "__main__":
    main()
