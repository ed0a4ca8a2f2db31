"""Import of the process from which others are forked: a training step, at which torch loads many of its modules."""

import torch
from tests.distributed import replicas

torch.set_num_threads(1)
replicas.mlp()(torch.zeros(2, 8)).sum().backward()
torch.optim.Adam(replicas.mlp().parameters()).step()
