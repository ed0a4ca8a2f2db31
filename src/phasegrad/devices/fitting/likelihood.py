"""Maximum likelihood of independent devices, by Newton's method in float64, with derivatives per device.

A law is its log-likelihood per device, for many parameter vectors at once. Derivatives are central differences: laws
have at most a dozen parameters, and one batched call computes all differences.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_GRADIENT, _HESSIAN = 1e-5, 2e-4
"""Steps of differences, relative to the size of a parameter."""
_CUBIC = 0.1
"""Steps of third differences, in standard errors."""
_SMALLEST = 0.02
"""Size of a parameter that is 0."""
_TRIED = (100.0, 30.0, 10.0, 3.0, 1.0, 0.5, 0.2, 0.05, 0.01, 1e-3)
"""Multiples of a step among which the best is taken; scores of a law that fits badly make steps too short."""
_ENOUGH = 1e-6
"""Gain of log-likelihood at which a search ends; it leaves an error of 1e-3 standard errors."""
_SLOW = 0.1
"""Gain relative to that of the step before, above which second derivatives are out of date."""
_BATCH = 1 << 22
"""Numbers of a batched call."""

LogLikelihood = Callable[[Tensor], Tensor]
"""Parameters ``[batch, p]`` to log-likelihoods ``[batch, devices]``."""


class Maximum(NamedTuple):
    """The maximum of a likelihood, and the derivatives there."""

    theta: Tensor
    """Parameters ``[p]``."""
    value: float
    """Log-likelihood of all devices."""
    scores: Tensor
    """Gradient per device ``[devices, p]``."""
    information: Tensor
    """Minus the second derivatives per device ``[devices, p, p]``."""
    converged: bool = True
    """Whether the search ended at a maximum."""


def maximise(likelihood: LogLikelihood, start: Tensor, size: int, most: int = 40) -> Maximum:
    """Find the maximum next to a start.

    Args:
        likelihood: log-likelihood per device.
        start: parameters ``[p]`` at which the likelihood is finite.
        size: numbers that one parameter vector takes in memory.
        most: most steps.

    Returns:
        The maximum, or where the search was after ``most`` steps.
    """
    theta, value = start.double().clone(), float(likelihood(start.double()[None]).sum())
    curvature, fresh, converged, gain = None, False, False, math.inf
    for _ in range(most):
        scores = _scores(likelihood, theta, size)
        here = scores.t() @ scores if curvature is None else curvature
        if not bool(here.isfinite().all()):
            break
        before, last = value, gain
        theta, value = _best(likelihood, theta, _ascent(here, scores.sum(0)), value, size)
        gain = value - before
        if converged := fresh and gain < _ENOUGH:
            break
        # The matrix of second derivatives costs p times as much as a gradient: it is kept while it serves.
        fresh = gain < 1.0 if curvature is None else gain < _ENOUGH or gain > _SLOW * last
        if fresh:
            curvature = _information(likelihood, theta, size).sum(0)
    scores, information = _scores(likelihood, theta, size), _information(likelihood, theta, size)
    return Maximum(theta, value, scores, information, converged)


def _best(likelihood: LogLikelihood, theta: Tensor, direction: Tensor, value: float, size: int) -> tuple[Tensor, float]:
    tried = theta + torch.tensor(_TRIED, dtype=theta.dtype).unsqueeze(1) * direction
    values = _in_batches(likelihood, tried, size).sum(1).nan_to_num(nan=-torch.inf)
    best = int(values.argmax())
    return (tried[best], float(values[best])) if float(values[best]) > value else (theta, value)


def _ascent(curvature: Tensor, gradient: Tensor) -> Tensor:
    """The Newton step; directions of negative or no curvature are climbed by the size of their curvature."""
    scale = curvature.diagonal().abs().clamp(min=1e-12).sqrt()
    values, vectors = torch.linalg.eigh(curvature / torch.outer(scale, scale))
    along = vectors.t() @ (gradient / scale)
    return (vectors @ (along / values.abs().clamp(min=1e-6))) / scale


def _in_batches(likelihood: LogLikelihood, thetas: Tensor, size: int) -> Tensor:
    return torch.cat([likelihood(part) for part in thetas.split(max(1, _BATCH // size))])


def steps_of(theta: Tensor, relative: float) -> Tensor:
    """Steps of differences ``[p]``."""
    return relative * theta.abs().clamp(min=_SMALLEST)


def _scores(likelihood: LogLikelihood, theta: Tensor, size: int) -> Tensor:
    steps = torch.diag(steps_of(theta, _GRADIENT))
    up, down = _in_batches(likelihood, torch.cat((theta + steps, theta - steps)), size).chunk(2)
    return ((up - down) / (2.0 * steps.diagonal().unsqueeze(1))).t()


def _information(likelihood: LogLikelihood, theta: Tensor, size: int) -> Tensor:
    """From what a move along one or two parameters, there and back, adds to the log-likelihood."""
    h, p = steps_of(theta, _HESSIAN), len(theta)
    steps, (first, second) = torch.diag(h), torch.triu_indices(p, p, 1)
    moves = torch.cat((steps, steps[first] + steps[second]))
    both, back, here = _in_batches(likelihood, torch.cat((theta + moves, theta - moves, theta[None])), size).split(
        [len(moves), len(moves), 1]
    )
    one, two = (both + back - 2.0 * here).split([p, len(first)])
    information = torch.diag_embed(-one.t())
    information[:, first, second] = information[:, second, first] = 0.5 * (one[first] + one[second] - two).t()
    return information / torch.outer(h, h)


def third_derivatives(likelihood: LogLikelihood, maximum: Maximum, size: int) -> Tensor:
    """Third derivatives ``[p, p, p]`` of the log-likelihood of all devices, from its cubic part along sums of steps."""
    theta, p = maximum.theta, len(maximum.theta)
    h = _CUBIC / maximum.information.sum(0).diagonal().clamp(min=1e-12).sqrt()
    steps, (first, second), triples = torch.diag(h), torch.triu_indices(p, p, 1), _triples(p)
    moves = torch.cat((steps, steps[first] + steps[second], steps[first] - steps[second], steps[triples].sum(0)))
    there, back = _in_batches(likelihood, torch.cat((theta + moves, theta - moves)), size).sum(1).chunk(2)
    cubic = 3.0 * (there - back) - 6.0 * moves @ maximum.scores.sum(0)
    return _polarised(cubic, p) / (h.view(-1, 1, 1) * torch.outer(h, h))


def _triples(p: int) -> Tensor:
    return torch.combinations(torch.arange(p), 3).view(-1, 3).t()


def _polarised(cubic: Tensor, p: int) -> Tensor:
    """The form ``[p, p, p]`` with these cubes of single vectors, sums and differences of two, and sums of three."""
    (first, second), triples = torch.triu_indices(p, p, 1), _triples(p)
    one, plus, minus, three = cubic.split([p, len(first), len(first), triples.shape[1]])
    form = torch.diag_embed(torch.diag(one))
    _fill(form, (first, first, second), (plus - minus - 2.0 * one[second]) / 6.0)
    _fill(form, (first, second, second), (plus + minus - 2.0 * one[first]) / 6.0)
    i, j, k = triples
    twice = sum(form[a, a, b] + form[a, b, b] for a, b in ((i, j), (i, k), (j, k)))
    _fill(form, (i, j, k), (three - one[triples].sum(0) - 3.0 * twice) / 6.0)
    return form


def _fill(form: Tensor, places: tuple[Tensor, Tensor, Tensor], values: Tensor) -> None:
    for i, j, k in itertools.permutations(places):
        form[i, j, k] = values
