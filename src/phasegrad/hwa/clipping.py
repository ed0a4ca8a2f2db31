"""How much of the weights a recipe clips, and the warning if that is more than clipping of outliers."""

from __future__ import annotations

import math
import warnings

import torch
from torch import nn

from phasegrad.deprecation import users_stack_level
from phasegrad.nn import AnalogLayer, analog_layers

_LEAST, _MOST = 0.05, 0.5


def tolerated_share(clip_sigma: float) -> float:
    """The largest share of nonzero weights that clipping at ``clip_sigma`` root mean squares may clip unannounced.

    It is twice the share of a normal distribution, but at least 5 % and at most 50 %. At 2.5 root mean squares a normal
    distribution loses 1.2 %, a Laplace distribution 2.9 %, a uniform one nothing and any distribution at most 16 %
    (Chebyshev), so 5 % is passed only by weights that consist of a few large and many small ones.
    """
    normal = math.erfc(clip_sigma / math.sqrt(2.0))
    return min(max(2.0 * normal, _LEAST), _MOST)


@torch.no_grad()
def clipped_share(layer: AnalogLayer) -> float:
    """The share of the nonzero digital weights of a layer that its perturbation clips."""
    weight = layer.weight_matrix
    clipped = int((layer.clipped_weight() != weight).sum())
    return clipped / max(int((weight != 0).sum()), 1)


def warn_clipped(net: nn.Module) -> None:
    """Warn once, with the names of the layers of which a recipe clips more than the tolerated share."""
    found = {}
    for name, layer in analog_layers(net).items():
        sigma = layer.perturbation.clip_sigma if layer.perturbation else 0.0
        if sigma > 0.0 and layer.store.why_not_digital is None:
            share, limit, count = clipped_share(layer), tolerated_share(sigma), int((layer.weight != 0).sum())
            if share > limit + 3.0 * math.sqrt(limit * (1.0 - limit) / max(count, 1)):  # chance, in small layers
                found[name] = f"{name or 'the net'} ({share:.0%} at {sigma:g} root mean squares)"
    if found:
        warnings.warn(
            f"the recipe clips many of the nonzero weights of {', '.join(found.values())}. Raise clip_sigma, clip per "
            'channel with clip_per="channel", or do not clip, with Recipe(clip_sigma=0.0); training with this recipe '
            "adapts to the clipping",
            UserWarning,
            stacklevel=users_stack_level(),
        )
