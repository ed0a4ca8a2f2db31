"""A training that saves into a folder, in a separate process."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch
from torch import nn

import phasegrad as pg


def main(folder: str, saves: int, value: float) -> None:
    """Save small nets whose weights are ``value``; exit with 3 if another process is writing."""
    net = nn.Linear(3, 2)
    with torch.no_grad():
        net.weight.fill_(value)
    store = pg.checkpoint.Folder(folder)
    store.resume(net=nn.Linear(3, 2))
    (Path(folder).parent / f"ready-{os.getpid()}").touch()
    while not (Path(folder).parent / "go").exists():
        time.sleep(0.001)
    try:
        for step in range(1, saves + 1):
            store.save(step, net=net)
    except pg.checkpoint.InUseError as error:
        print(error)
        sys.exit(3)
    time.sleep(0.5)  # the other is told while this one holds the folder


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
