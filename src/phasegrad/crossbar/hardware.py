"""The analog hardware that a layer runs on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from phasegrad.cells import Cell
from phasegrad.configuration import (
    Configuration,
    check_choice,
    check_integer,
    check_number,
    check_type,
    from_json,
)
from phasegrad.crossbar.converters import Adc, Dac


@final
@dataclass(frozen=True, kw_only=True)
class Hardware(Configuration):
    """Cells, tiles and periphery. Frozen; every layer made with it keeps it.

    Args:
        cell: how devices make a weight.
        rows: word lines (inputs) of a tile.
        columns: bit lines (outputs) of a tile.
        scale: ``"column"``: each column of each tile has its own digital scale, so that its largest weight uses
            the whole conductance range; ``"tile"``: one scale a tile.
        dac: converter of the inputs; ``None`` for exact inputs.
        adc: converter of the outputs; ``None`` for exact outputs.
        output_noise: standard deviation of the noise of each output, in units of ``max|w| max|x|``.
        read_noise: ``sigma_w`` of short-term weight noise referred to the output,
            ``sigma_w sqrt(sum_j |w_ij| x_j^2)`` in normalised units. It stands for devices while the weights are
            digital; programmed devices have their own read noise in its place, unless they read noiselessly.

    Raises:
        ValueError, TypeError: a field is impossible; the message names it.
    """

    cell: Cell
    rows: int = 512
    columns: int = 512
    scale: str = "column"
    dac: Dac | None = None
    adc: Adc | None = None
    output_noise: float = 0.0
    read_noise: float = 0.0

    def __post_init__(self) -> None:
        check_type(self, "cell", Cell)
        check_integer(self, "rows", 1, 1 << 20)
        check_integer(self, "columns", 1, 1 << 20)
        check_choice(self, "scale", ("column", "tile"))
        check_type(self, "dac", (Dac, type(None)))
        check_type(self, "adc", (Adc, type(None)))
        check_number(self, "output_noise", 0.0)
        check_number(self, "read_noise", 0.0)


def to_tensor(configuration: Configuration) -> Tensor:
    """A configuration as versioned JSON in a uint8 tensor, as state dicts carry it."""
    return torch.frombuffer(bytearray(configuration.to_json().encode()), dtype=torch.uint8)


def from_tensor(tensor: Tensor) -> Configuration:
    """Read what :func:`to_tensor` made."""
    return from_json(bytes(tensor.cpu().tolist()).decode())
