"""Moments of the outputs of digital modules whose inputs are independent normal variables."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import nn

from phasegrad.inference.gaussian_moments import MeanVariance, clipped, maximum, pointwise

_POINTWISE = (
    nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.ReLU6, nn.ELU, nn.CELU, nn.SELU, nn.Softplus,
    nn.Hardswish, nn.Hardsigmoid, nn.Mish, nn.LogSigmoid, nn.Softsign,
)  # fmt: skip
_SAME = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


def _rectified(module: nn.ReLU, x: MeanVariance) -> MeanVariance:
    return clipped(x, 0.0, float("inf"))


def _at_points(module: nn.Module, x: MeanVariance) -> MeanVariance:
    inplace = vars(module).get("inplace")
    if inplace:
        return pointwise(x, lambda values: module(values.clone()))
    return pointwise(x, module)


def _normalised(module: Any, x: MeanVariance) -> MeanVariance:
    if module.running_mean is None:
        raise ValueError(
            f"estimate_moments: {type(module).__name__} has no running statistics, so an output depends on the batch; "
            "sample with accuracy_over_time"
        )
    factor = (module.running_var + module.eps).rsqrt()
    factor = factor if module.weight is None else factor * module.weight
    mean = F.batch_norm(x.mean, module.running_mean, module.running_var, module.weight, module.bias, eps=module.eps)
    return MeanVariance(mean, x.variance * factor.square().view(-1, *[1] * (x.mean.dim() - 2)))


def _averaged(module: Any, x: MeanVariance) -> MeanVariance:
    """A mean of k independent variables has a k-th of their mean variance, where windows lie within the image."""
    if any(_sizes(module.padding, 1)) or module.ceil_mode or vars(module).get("divisor_override"):
        raise _not_covered(module)
    mean, variance = x.over(module)
    return MeanVariance(mean, variance / math.prod(_sizes(module.kernel_size, mean.dim() - 2)))


def _largest(module: Any, x: MeanVariance) -> MeanVariance:
    options = (module.kernel_size, module.stride, module.padding, module.dilation)
    size, stride, padding, dilation = (_sizes(option, x.mean.dim() - 2) for option in options)
    if any(padding) or any(d != 1 for d in dilation) or module.ceil_mode:
        raise _not_covered(module)
    windows = x
    for axis, (length, step) in enumerate(zip(size, stride, strict=True)):
        windows = windows.over(lambda t, a=axis, n=length, s=step: t.unfold(2 + a, n, s))
    places = itertools.product(*map(range, size))
    return maximum(windows.over(lambda t, p=place: t[(..., *p)]) for place in places)


def _sizes(option: Any, dimensions: int) -> tuple[int, ...]:
    return (option,) * dimensions if isinstance(option, int) else tuple(option)


def _not_covered(module: nn.Module) -> ValueError:
    return ValueError(
        f"estimate_moments: {module} has padding, dilation, ceil_mode or a divisor, which the estimate does not cover; "
        "sample with accuracy_over_time"
    )


def _product(module: Any, x: MeanVariance) -> MeanVariance:
    """A digital layer: the same weights on every chip."""
    squared = module.weight.square()
    if isinstance(module, nn.Linear):
        return MeanVariance(module(x.mean), F.linear(x.variance, squared))
    return MeanVariance(module(x.mean), module._conv_forward(x.variance, squared, None))


PROPAGATED: dict[type[nn.Module], Callable[[Any, MeanVariance], MeanVariance]] = {
    nn.ReLU: _rectified,
    nn.BatchNorm1d: _normalised,
    nn.BatchNorm2d: _normalised,
    nn.BatchNorm3d: _normalised,
    nn.AvgPool1d: _averaged,
    nn.AvgPool2d: _averaged,
    nn.MaxPool1d: _largest,
    nn.MaxPool2d: _largest,
    nn.Linear: _product,
    nn.Conv1d: _product,
    nn.Conv2d: _product,
    nn.Conv3d: _product,
    nn.Flatten: lambda module, x: x.over(module),
    nn.Unflatten: lambda module, x: x.over(module),
    **dict.fromkeys(_SAME, lambda module, x: x),
    **dict.fromkeys(_POINTWISE, _at_points),
}
"""How moments pass each type of module; subclasses, whose forward may differ, are not among them."""


def through_module(module: nn.Module, x: MeanVariance) -> MeanVariance:
    """The moments of a module's outputs, in evaluation mode."""
    return PROPAGATED[type(module)](module, x)
