"""Currents and voltages of an array with wires, for cells that may be non-linear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from phasegrad import argument_checks as checks
from phasegrad.configuration import Configuration, check_number
from phasegrad.crossbar.wires import Wires, check_conductances
from phasegrad.ops.circuit import Circuit, circuit

_ITERATIONS = 100
_MISMATCH = 1e-12  # relative to the largest current of a vector
_ROUNDING = 64 * torch.finfo(torch.float64).eps  # relative rounding error of node voltages


@final
@dataclass(frozen=True, kw_only=True)
class Sinh(Configuration):
    """Cell current ``G v0 sinh(V / v0)``, where ``G`` is the conductance at small voltages.

    This is the law of hopping conduction in amorphous chalcogenides below the threshold voltage.

    Args:
        v0: voltage scale of the non-linearity [V].

    References:
        Ielmini, D. & Zhang, Y. Analytical model for subthreshold conduction and threshold switching in
        chalcogenide-based memory devices. J. Appl. Phys. 102, 054517 (2007). https://doi.org/10.1063/1.2773688
    """

    v0: float

    def __post_init__(self) -> None:
        check_number(self, "v0", 0.0, above=True)

    def current(self, conductance: Tensor, voltage: Tensor) -> Tensor:
        """Current [A] at a voltage [V]."""
        return conductance * self.v0 * torch.sinh(voltage / self.v0)

    def voltage(self, conductance: Tensor, current: Tensor) -> Tensor:
        """Voltage [V] at a current [A]."""
        return self.v0 * torch.asinh(current / (conductance * self.v0))

    def slope(self, conductance: Tensor, voltage: Tensor) -> Tensor:
        """Differential conductance [S] at a voltage [V]."""
        return conductance * torch.cosh(voltage / self.v0)


class Solution(NamedTuple):
    """Currents and voltages of an array, float64."""

    output: Tensor
    """Current into the sense of each bit line, ``[..., columns]`` [A]."""
    cell: Tensor
    """Current of each cell from word line to bit line, ``[..., rows, columns]`` [A]."""
    word_line: Tensor
    """Voltage of the word line at each crossing, ``[..., rows, columns]`` [V]."""
    bit_line: Tensor
    """Voltage of the bit line at each crossing, ``[..., rows, columns]`` [V]."""


def solve(conductance: Tensor, voltages: Tensor, wires: Wires, iv: Sinh | None = None) -> Solution:
    """Solve for all node voltages and currents of an array.

    Newton's method starts from linear cells; each step solves the array of linearised cells exactly. Because the
    tangent of a steep law overshoots, a cell whose voltage magnitude increases is linearised next at its current, which
    the wires bound. Each vector of voltages is solved with its own slopes of the cells and stops when it has converged.
    For linear cells use ``Wires.effective``, which is differentiable. This function is not: detach its inputs.

    Args:
        conductance: conductances at small voltages ``[rows, columns]`` [S].
        voltages: driver voltages ``[..., rows]`` [V].
        wires: wires, which are solved exactly whatever their ``solve``.
        iv: current-voltage law of the cells; ``None`` for linear cells.

    Raises:
        ValueError: the array has no cells, a voltage is not finite, a conductance is negative, not finite or too large,
            a shape is wrong, or Newton's method does not converge.
        RuntimeError: a tensor requires a gradient while gradients are recorded.

    References:
        The step limit follows that of junctions in circuit simulators: Nagel, L. W. SPICE2: a computer program to
        simulate semiconductor circuits. UCB/ERL M520 (1975).

    Examples:
        >>> found = solve(torch.tensor([[0.1]]), torch.tensor([1.0]), Wires(word_line=1.0, bit_line=2.0))
        >>> found.output * 13, found.bit_line * 13
        (tensor([1.0000], dtype=torch.float64), tensor([[2.0000]], dtype=torch.float64))
    """
    _check(conductance, voltages)
    checks.instance("solve", "wires", wires, Wires)
    if iv is not None:
        checks.instance("solve", "iv", iv, Sinh)
    check_conductances("solve", conductance, wires)
    with torch.no_grad():
        return _solve(conductance.double(), voltages.double(), wires, iv)


def _solve(g: Tensor, v: Tensor, wires: Wires, iv: Sinh | None) -> Solution:
    batch = v.reshape(-1, v.shape[-1])
    g = g.expand(len(batch), *g.shape)
    if wires.sensed == "first":
        g, batch = g.flip(-2), batch.flip(-1)
    found = circuit(g, torch.zeros_like(g), batch, wires.resistances) if iv is None else _newton(g, batch, wires, iv)
    nodes = found[1:] if wires.sensed == "last" else [part.flip(-2) for part in found[1:]]
    return Solution(*(part.reshape(*v.shape[:-1], *part.shape[1:]) for part in (found.output, *nodes)))


def _newton(g: Tensor, voltages: Tensor, wires: Wires, iv: Sinh) -> Circuit:
    (batch, m, n), left, over = g.shape, torch.arange(len(g), device=g.device), torch.zeros_like(g)
    found = Circuit(g.new_empty(batch, n), *(g.new_empty(batch, m, n) for _ in range(3)))
    for _ in range(_ITERATIONS):
        if len(left) == 0:
            return found
        g, v = g[: len(left)], voltages[left]
        slope = iv.slope(g, over)
        step = circuit(slope, iv.current(g, over) - slope * over, v, wires.resistances)
        seen = torch.where(g > 0, step.word - step.bit, 0.0)  # open cells carry no current; 0 sinh(1000) would be NaN
        off = (iv.current(g, seen) - step.cell).abs()
        known = _ROUNDING * (1.0 + (m + n) * wires.largest * _largest(slope)) * _largest(v.unsqueeze(-1))
        allowed = _MISMATCH * _largest(step.cell) + slope * known
        done = (off <= allowed).flatten(1).all(1)
        for whole, part in zip(found, step, strict=True):
            whole[left[done]] = part[done]
        left, over = left[~done], _bounded(g, over, seen, step.cell, iv)[~done]
        if not bool(over.isfinite().all()):
            break
    if len(left) == 0:
        return found
    raise ValueError(
        f"solve: iv = {iv} did not converge in vector {int(left[0])} of {batch}, with voltages up to "
        f"{float(voltages[left[0]].abs().max()):.3g} V: lower the voltages, or raise v0"
    )


def _bounded(g: Tensor, before: Tensor, seen: Tensor, cell: Tensor, iv: Sinh) -> Tensor:
    """Voltages of the next linearisation; larger ones are limited to those of the present currents."""
    return torch.where((seen.abs() > before.abs()) & (g > 0), iv.voltage(g, cell), seen)


def _largest(values: Tensor) -> Tensor:
    """Largest magnitude in each vector, ``[batch, 1, 1]``."""
    return values.abs().amax((-2, -1), keepdim=True)


def _check(conductance: Tensor, voltages: Tensor) -> None:
    for name, tensor in (("conductance", conductance), ("voltages", voltages)):
        checks.tensor("solve", name, tensor, "of real numbers")
        if tensor.is_complex() or tensor.is_meta or tensor.layout is not torch.strided:
            raise TypeError(f"solve: {name} = {checks.shown(tensor)}; it must be a dense tensor of real numbers")
        if tensor.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(
                f"solve: {name}.requires_grad = True; node voltages have no gradients. Detach it, or use "
                "voltages @ Wires.effective(conductance), which is differentiable"
            )
    if conductance.dim() != 2 or voltages.dim() < 1 or voltages.shape[-1] != conductance.shape[0]:
        raise ValueError(
            f"solve: conductance has shape {list(conductance.shape)} and voltages {list(voltages.shape)}; they must be "
            "[rows, columns] and [..., rows]"
        )
    if conductance.numel() == 0:
        raise ValueError(
            f"solve: conductance has shape {list(conductance.shape)}; it must have at least one row and column"
        )
    bad = ~torch.isfinite(voltages)
    if bool(bad.any()):
        where = tuple(bad.nonzero()[0].tolist())
        raise ValueError(f"solve: voltages{list(where)} = {float(voltages[where]):g} V; it must be finite")
