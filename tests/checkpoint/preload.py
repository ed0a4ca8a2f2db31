"""What the process that lives are forked from imports: torch loads much of itself at its first training step."""

import torch
from tests.checkpoint.life import RUNS

torch.set_num_threads(1)
for run in RUNS.values():
    parts = run()
    parts["net"](torch.zeros(2, 8)).sum().backward()
    parts["optimizer"].step()
