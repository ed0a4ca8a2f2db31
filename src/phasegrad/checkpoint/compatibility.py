"""Checks that a state fits before any of it is loaded, because torch loads the parts that fit and then raises."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from phasegrad.nn import AnalogComposite, AnalogLayer
from phasegrad.nn.layer_state import check_state_dict
from phasegrad.stores.programmed import blank_devices

_PER_ELEMENT = (
    "momentum_buffer", "velocity", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "chi", "hidden",
)  # fmt: skip
"""States of optimizers with one value per element of a parameter."""


def check_module(module: nn.Module, state: dict[str, Any]) -> None:
    """Check that a net can load all of a state dict.

    Raises:
        ValueError: it cannot; the message lists the fields of the hardware, keys or shapes that differ.
    """
    expected, state = dict(module.state_dict()), dict(state)
    for name, part in module.named_modules():
        if isinstance(part, AnalogComposite):  # a float checkpoint has the keys of the digital module
            part.rename_float_keys(state, f"{name}." if name else "")
    for name, layer in module.named_modules(remove_duplicate=False):
        if isinstance(layer, AnalogLayer):
            prefix = f"{name}." if name else ""
            check_state_dict(layer, state, prefix)
            _expect_devices(layer, f"{prefix}devices.", expected, state)
            if f"{prefix}configuration" not in state:
                _expect_floats(prefix, expected, state)
    problems = [f"{key} is missing" for key in expected if key not in state]
    problems += [f"{key} is not in the net" for key in state if key not in expected]
    shapes = [_shape_problem(key, expected[key], state[key]) for key in expected if key in state]
    problems += [problem for problem in shapes if problem]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError("; ".join(problems[:5]) + more)


def _expect_devices(layer: AnalogLayer, prefix: str, expected: dict[str, Any], state: dict[str, Any]) -> None:
    """Add devices if the state has them and the layer is not programmed; remove them if only the layer has them.

    Loading creates the devices of an unprogrammed layer, and reprograms a chip if the state has only weights.
    """
    in_state = any(key.startswith(prefix) for key in state)
    if in_state and layer.devices is None:
        expected.update({prefix + key: value for key, value in blank_devices(layer).state_dict().items()})
    elif not in_state:
        for key in [key for key in expected if key.startswith(prefix)]:
            del expected[key]


def _expect_floats(prefix: str, expected: dict[str, Any], state: dict[str, Any]) -> None:
    """Remove the analog entries that the state of a float net lacks; the layer keeps its own."""
    for key in list(expected):
        name = key.removeprefix(prefix)
        analog = name in ("configuration", "input_range", "output_range") or name.startswith("converters.")
        if key.startswith(prefix) and analog and key not in state:
            del expected[key]


def _shape_problem(key: str, mine: Any, other: Any) -> str | None:
    if not isinstance(mine, Tensor) or mine.shape == other.shape or key.rpartition(".")[2] == "configuration":
        return None  # configurations are compared by field; their texts may differ in length
    return f"{key} has shape {list(other.shape)}, but {list(mine.shape)} in the net"


def check_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Check that an optimizer has the parameter groups of a state, with parameters of the same sizes.

    Raises:
        ValueError: the groups or sizes differ.
    """
    mine = [len(group["params"]) for group in optimizer.param_groups]
    other = [len(group["params"]) for group in state["param_groups"]]
    if mine != other:
        raise ValueError(
            f"its groups have {mine} parameters, but {other} in the file; create it with the same parameters"
        )
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for place, (number, parameter) in enumerate(zip(numbers, parameters, strict=True)):
        for key, value in state["state"].get(number, {}).items():
            if key in _PER_ELEMENT and isinstance(value, Tensor) and value.numel() != parameter.numel():
                raise ValueError(
                    f"parameter {place} has shape {list(parameter.shape)}, but its {key} has {list(value.shape)}; pass "
                    "the parameters in the order of the saved run"
                )
