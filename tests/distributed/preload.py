"""What the process that others are forked from imports: torch loads much of itself at its first training step."""

import torch
from tests.distributed import replicas

torch.set_num_threads(1)
replicas.mlp()(torch.zeros(2, 8)).sum().backward()
torch.optim.Adam(replicas.mlp().parameters()).step()
