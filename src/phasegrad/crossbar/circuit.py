"""Every current and voltage of an array with wires, of cells whose current need not be linear in the voltage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from phasegrad.configuration import Configuration, check_number
from phasegrad.crossbar.wires import Wires, check_conductances
from phasegrad.ops.circuit import Circuit, circuit

_ITERATIONS = 100
_MISMATCH = 1e-12  # of the largest current of a vector
_ROUNDING = 64 * torch.finfo(torch.float64).eps  # of the drivers' voltage, in what a node's is known to


@final
@dataclass(frozen=True, kw_only=True)
class Sinh(Configuration):
    """A cell of current ``G v0 sinh(V / v0)``: ``G`` is its conductance at small voltages.

    The law of hopping conduction in amorphous chalcogenides below the threshold voltage (Ielmini and Zhang, J. Appl.
    Phys. 102, 054517, 2007).

    Args:
        v0: voltage from which on the current is no longer linear [V].
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
        """Its derivative [S]."""
        return conductance * torch.cosh(voltage / self.v0)


class Solution(NamedTuple):
    """Currents and voltages of an array, float64."""

    output: Tensor
    """``[..., columns]`` [A], what each bit line's sense takes."""
    cell: Tensor
    """``[..., rows, columns]`` [A], from word line to bit line."""
    word_line: Tensor
    """``[..., rows, columns]`` [V], at each crossing."""
    bit_line: Tensor
    """``[..., rows, columns]`` [V], at each crossing."""


def solve(conductance: Tensor, voltages: Tensor, wires: Wires, iv: Sinh | None = None) -> Solution:
    """Solve the nodes of an array.

    Newton's method, each step the exact solution of the array of linearised cells, from linear cells. The tangent of a
    steep law leads far beyond it: where a cell's voltage grows, the next tangent is that at its current, which wires
    bound (as simulators of circuits limit junctions: Nagel, SPICE2, UCB/ERL M520, 1975). Each vector stops by itself.
    Every vector is an array of its own cells' slopes; for linear cells use :meth:`Wires.effective`, which is
    differentiable too. This is not: give tensors that are detached.

    Args:
        conductance: ``[rows, columns]`` [S], at small voltages.
        voltages: of the drivers ``[..., rows]`` [V].
        wires: the wires; solved exactly, whatever their ``solve``.
        iv: the cells' law; ``None`` for linear cells.

    Raises:
        ValueError: the array has no cells; a voltage is not finite; a conductance is negative, not finite or too large
            a short; a shape does not fit; or no solution is found.
        RuntimeError: a tensor requires a gradient, where gradients are recorded.

    Examples:
        >>> found = solve(torch.tensor([[0.1]]), torch.tensor([1.0]), Wires(word_line=1.0, bit_line=2.0))
        >>> found.output * 13, found.bit_line * 13
        (tensor([1.0000], dtype=torch.float64), tensor([[2.0000]], dtype=torch.float64))
    """
    _check(conductance, voltages)
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
        seen = torch.where(g > 0, step.word - step.bit, 0.0)  # open cells carry nothing, and 0 sinh(1000) is no number
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
        f"solve: the currents of cells do not come to their law, iv = {iv}, in vector {int(left[0])} of {batch}, whose "
        f"voltages reach {float(voltages[left[0]].abs().max()):.3g} V: lower them, or raise v0"
    )


def _bounded(g: Tensor, before: Tensor, seen: Tensor, cell: Tensor, iv: Sinh) -> Tensor:
    """Where to go on: outwards only as far as the current that was found, which wires bound, is the law's."""
    return torch.where((seen.abs() > before.abs()) & (g > 0), iv.voltage(g, cell), seen)


def _largest(values: Tensor) -> Tensor:
    """Of each vector, ``[batch, 1, 1]``."""
    return values.abs().amax((-2, -1), keepdim=True)


def _check(conductance: Tensor, voltages: Tensor) -> None:
    for name, tensor in (("conductance", conductance), ("voltages", voltages)):
        if tensor.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(
                f"solve: {name}.requires_grad = True; node voltages are found without gradients. Detach it, or take "
                "voltages @ Wires.effective(conductance), which is differentiable"
            )
    if conductance.dim() != 2 or voltages.dim() < 1 or voltages.shape[-1] != conductance.shape[0]:
        raise ValueError(
            f"solve: conductance has shape {list(conductance.shape)} and voltages {list(voltages.shape)}; they must be "
            "[rows, columns] and [..., rows]"
        )
    if conductance.numel() == 0:
        raise ValueError(f"solve: conductance has shape {list(conductance.shape)}; it must have a row and a column")
    bad = ~torch.isfinite(voltages)
    if bool(bad.any()):
        where = tuple(bad.nonzero()[0].tolist())
        raise ValueError(f"solve: voltages{list(where)} = {float(voltages[where]):g} V; it must be finite")
