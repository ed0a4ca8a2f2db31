"""What a write loop did: pulses, reads, time and energy, and which devices failed."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from phasegrad.writing import checked_path, write_whole

_HEAD = (
    "row", "column", "polarity", "device", "target_S", "converged", "pulses", "residual_S", "pulse_list", "output",
)  # fmt: skip


class Round(NamedTuple):
    """Pulses of one round, kept for export."""

    cells: Tensor
    """Indices of the cells ``[n]``."""
    kind: str
    """``"current_A"``, ``"set"``, ``"seconds"``, ``"reset"`` or ``"count"``."""
    values: Tensor
    """``[devices, n]``: what each device received; 0 for nothing."""


@dataclass
class ProgrammingRecord:
    """The process by which the devices of one weight were programmed.

    Attributes:
        converged: whether the last verify read of each device was within the tolerance, bool ``[devices, out, in]``.
        pulses: pulses that each device received, int32 ``[devices, out, in]``.
        residual: last read minus target [S], ``[devices, out, in]``; 0 for devices of which nothing was asked.
        target: target conductances [S], ``[devices, out, in]``.
        time: time of the process [s] per tile, ``[row tiles, column tiles]``; tiles work at the same time.
        energy: energy of pulses and reads [J] per tile, an upper bound: voltage times current times duration.
        reads: reads of single devices, per tile.
        iterations: rounds of pulses after the preparation.
        signs: sign of each device in the weight, ``[devices]``.
        rounds: the pulses of each round, if ``keep_pulses``; otherwise empty.
        column_order: the physical column of each output, ``[row tiles, out]``, if columns were swapped around faults;
            otherwise ``None``. The tensors above are in the order of the outputs.
        rows: rows (inputs) per tile.
    """

    converged: Tensor
    pulses: Tensor
    residual: Tensor
    target: Tensor
    time: Tensor
    energy: Tensor
    reads: Tensor
    iterations: int
    signs: tuple[float, ...]
    rounds: list[Round] = field(default_factory=list, repr=False)
    column_order: Tensor | None = field(default=None, repr=False)
    rows: int = 1 << 20

    @property
    def converged_fraction(self) -> float:
        """Fraction of the devices with a target that converged; 1 if none has one."""
        asked = self.target > 0.0
        return float(self.converged[asked].double().mean()) if bool(asked.any()) else 1.0

    def __str__(self) -> str:
        failed, total = int((~self.converged).sum()), self.converged.numel()
        error, missing = float(self.residual.double().square().mean().sqrt()), 1.0 - self.converged_fraction
        return (
            f"{total:,} devices, {failed:,} failed ({100.0 * missing:.2f} % of those with a target); "
            f"{float(self.pulses.double().mean()):.1f} pulses each\n{self.iterations} iterations, "
            f"error {1e6 * error:.3g} uS, {1e3 * float(self.time.max()):.3g} ms, "
            f"{1e6 * float(self.energy.sum()):.3g} uJ, {int(self.reads.sum()):,} reads"
        )

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write one line per device, with which somebody can program real hardware, completely or not at all.

        The columns are ``row, column, polarity, device, target_S, converged, pulses, residual_S, pulse_list, output``.
        ``row`` is the input and ``column`` the physical column of the matrix, which differs from ``output`` if columns
        were swapped around faults. The list has one entry per pulse, ``kind:value``; it is empty without
        ``keep_pulses``.

        Raises:
            TypeError: ``path`` is no path.
            OSError: the file could not be written; an existing file is unchanged.
        """
        file, text = checked_path(path, "to_csv"), io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(_HEAD)
        lists, inputs = self._pulse_lists(), self.converged.shape[2]
        order = None if self.column_order is None else self.column_order.tolist()
        for d, sign in enumerate(self.signs):
            planes = (p[d].flatten().tolist() for p in (self.target, self.converged, self.pulses, self.residual))
            for n, (target, done, count, residual) in enumerate(zip(*planes, strict=True)):
                output, row = divmod(n, inputs)
                column = output if order is None else order[row // self.rows][output]
                place, pulses = (row, column, "+" if sign > 0 else "-", d), lists.get((d, n), "")
                writer.writerow((*place, f"{target:.6g}", int(done), count, f"{residual:.4g}", pulses, output))
        write_whole(file, text.getvalue())

    def _pulse_lists(self) -> dict[tuple[int, int], str]:
        lists: dict[tuple[int, int], list[str]] = {}
        for one in self.rounds:
            for d, n in (one.values != 0).nonzero().tolist():
                entry = f"{one.kind}:{float(one.values[d, n]):.6g}"
                lists.setdefault((d, int(one.cells[n])), []).append(entry)
        return {key: " ".join(entries) for key, entries in lists.items()}
