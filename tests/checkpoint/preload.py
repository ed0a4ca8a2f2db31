"""Import of the process from which runs are forked: a training step, at which torch loads many of its modules."""

import torch
from tests.checkpoint.training_run import RUNS

torch.set_num_threads(1)
for run in RUNS.values():
    parts = run()
    parts["net"](torch.zeros(2, 8)).sum().backward()
    parts["optimizer"].step()
