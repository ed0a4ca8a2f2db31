"""Raw measurements: a CSV file or columns, checked before anything is fitted."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phasegrad import argument_checks as checks

LEAST_DEVICES = 8
"""Devices below which resampled devices say nothing about the spread of a coefficient."""
_KINDS = {"pulse": "pulse number", "time": "time", "amplitude": "pulse amplitude", "target": "target conductance"}
_COLUMNS = ("device", "conductance", *_KINDS, "direction")
_LARGEST = {
    "conductance": (1e-2, "S", "µS", 1e-6),
    "target": (1e-2, "S", "µS", 1e-6),
    "amplitude": (0.1, "A", "µA", 1e-6),
}
"""Values above are no memory device's in SI units; the unit that was probably meant, and its factor."""


@dataclass(frozen=True)
class Measurements:
    """Measured rows, sorted by device and in the order of each device's measurement."""

    kind: str
    """The variable: ``"pulse"``, ``"time"``, ``"amplitude"`` or ``"target"``."""
    names: tuple[str, ...]
    """Names of the devices."""
    device: np.ndarray
    """Index of the device of each row."""
    columns: dict[str, np.ndarray]
    """Values of the other columns, float64."""

    @property
    def devices(self) -> int:
        """Number of devices."""
        return len(self.names)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def __len__(self) -> int:
        return len(self.device)


def read_measurements(data: Any) -> Measurements:
    """Read and check measurements.

    Raises:
        ValueError: what is wrong, with the row and the remedy.
        TypeError: ``data`` is neither a path nor columns.
        OSError: the file cannot be read.
    """
    given = _from_csv(data) if isinstance(data, (str, os.PathLike)) else _from_columns(data)
    kind = _kind(given)
    values = {name: _numbers(name, given[name]) for name in _COLUMNS[1:] if name in given}
    _check_lengths({"device": given["device"], **values})
    for name in values:
        _check_values(name, values[name])
    index, names = _indexed(given["device"])
    order = np.argsort(index, kind="stable")
    found = Measurements(kind, names, index[order], {name: column[order] for name, column in values.items()})
    _check_devices(found)
    _check_order(found)
    return found


def _from_csv(path: str | os.PathLike[str]) -> dict[str, Any]:
    file = checks.path("fit", "data", path)
    with open(file, newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.reader(line for line in stream if line.strip() and not line.lstrip().startswith("#")))
    if not rows:
        raise ValueError(f"fit: {file} is empty; the first row must name the columns, such as device,pulse,conductance")
    head = [name.strip().lower() for name in rows[0]]
    for number, row in enumerate(rows[1:], 1):
        if len(row) != len(head):
            raise ValueError(
                f"fit: row {number} of {file} has {len(row)} values for {len(head)} columns; complete the row, or "
                "remove it"
            )
    return {name: [row[i].strip() for row in rows[1:]] for i, name in enumerate(head)}


def _from_columns(data: Any) -> dict[str, Any]:
    if not isinstance(data, Mapping) and not hasattr(type(data), "keys"):  # a data frame is no Mapping
        raise TypeError(
            f"fit: data = {checks.shown(data)}; it must be the path of a CSV file, or columns by name: a dict or a "
            "data frame"
        )
    return {str(name).lower(): data[name] for name in data.keys()}


def _kind(given: dict[str, Any]) -> str:
    missing = [name for name in ("device", "conductance") if name not in given]
    kinds = [name for name in ("pulse", "time", "amplitude") if name in given] or [n for n in ("target",) if n in given]
    if missing or len(kinds) != 1:
        raise ValueError(
            f"fit: the columns are {', '.join(given) or 'missing'}; give device, conductance and one of "
            f"{', '.join(_KINDS)} (a target may stand next to a time)"
        )
    return kinds[0]


def _numbers(name: str, column: Any) -> np.ndarray:
    values = np.asarray(column.detach().cpu() if hasattr(column, "detach") else column)
    try:
        return values.astype(np.float64)
    except (TypeError, ValueError):
        bad = next(i for i, value in enumerate(values) if not _is_number(value))
        raise ValueError(
            f"fit: {name} = {str(values[bad])!r} in row {bad + 1}; it must be a number, without its unit"
        ) from None


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _check_lengths(columns: Mapping[str, Any]) -> None:
    shapes = {name: np.shape(column) for name, column in columns.items()}
    if len(set(shapes.values())) != 1 or len(next(iter(shapes.values()))) != 1:
        listed = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise ValueError(f"fit: the columns have the shapes {listed}; give one value per measurement in each, [n]")


def _check_values(name: str, values: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise ValueError(
            f"fit: {name} = {values[bad[0]]} in row {bad[0] + 1} ({bad.size} such rows); remove rows that were not "
            "measured"
        )
    low = -1.0 if name == "direction" else 0.0
    negative = np.flatnonzero(values < low)
    if negative.size:
        remedy = "subtract the offset of the reads, or clip at 0" if name == "conductance" else "correct it"
        raise ValueError(
            f"fit: {name} = {values[negative[0]]:g} in row {negative[0] + 1} ({negative.size} such rows); it must not "
            f"be negative; {remedy}"
        )
    if name in _LARGEST:
        _check_unit(name, values)


def _check_unit(name: str, values: np.ndarray) -> None:
    largest, unit, meant, factor = _LARGEST[name]
    if values.size and values.max() > largest:
        raise ValueError(
            f"fit: {name} up to {values.max():g} {unit} is more than any memory device has; if the column is in "
            f"{meant}, multiply it by {factor:g}"
        )
    if values.size and 0.0 < values.max() < 1e-12:
        raise ValueError(f"fit: {name} up to {values.max():g} {unit} is below any measurement; give it in {unit}")


def _indexed(device: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    number: dict[str, int] = {}
    index = [number.setdefault(str(name), len(number)) for name in np.asarray(device).tolist()]
    return np.asarray(index, dtype=np.int64), tuple(number)


def _check_devices(found: Measurements) -> None:
    if found.devices < LEAST_DEVICES:
        raise ValueError(
            f"fit: {found.devices} devices are too few; measure {LEAST_DEVICES} or more, because confidence intervals "
            "resample devices"
        )
    conductance = found["conductance"]
    if conductance.min() == conductance.max():
        raise ValueError(
            f"fit: every conductance is {conductance[0]:g} S; constant data determine no law; check the column"
        )


def _check_order(found: Measurements) -> None:
    """Raise for rows that are all repeated, and for times and pulses that do not increase within a device."""
    if found.kind in ("amplitude", "target"):  # a device may be programmed more than once
        return _check_copies(found)
    variable, same = found[found.kind], np.diff(found.device) == 0
    steps = np.diff(variable)
    if np.any(same & (steps == 0.0)):
        row = int(np.flatnonzero(same & (steps == 0.0))[0])
        raise ValueError(
            f"fit: device {found.names[found.device[row]]} has two rows with {found.kind} = {variable[row]:g}; keep "
            "one of them, or their mean"
        )
    if np.any(same & (steps < 0.0)):
        row = int(np.flatnonzero(same & (steps < 0.0))[0])
        raise ValueError(
            f"fit: {found.kind} falls from {variable[row]:g} to {variable[row + 1]:g} at device "
            f"{found.names[found.device[row]]}; it must increase; sort the rows, or give repeated experiments names "
            "of their own"
        )
    if found.kind == "pulse" and np.any(same & (steps != 1.0)):
        row = int(np.flatnonzero(same & (steps != 1.0))[0])
        raise ValueError(
            f"fit: pulse goes from {variable[row]:g} to {variable[row + 1]:g} at device "
            f"{found.names[found.device[row]]}; give one row per pulse, numbered 0 (after RESET), 1, 2, ..."
        )
    if found.kind == "time" and not variable.min() > 0.0:
        raise ValueError(
            f"fit: time = {variable.min():g} s; it must be above 0, because times count from the programming of the "
            "device"
        )


def _check_copies(found: Measurements) -> None:
    """Raise where every row has a copy; single reads may be equal, such as those of a RESET device."""
    keys = np.stack([found.device, found[found.kind], found["conductance"]])
    _, counts = np.unique(keys, axis=1, return_counts=True)
    if counts.min() > 1:
        raise ValueError(
            f"fit: every row occurs {counts.min()} times, as in a file that was joined to itself; remove the copies, "
            "because intervals would be too short"
        )


def rows_per_device(found: Measurements) -> np.ndarray:
    """Number of rows of each device."""
    return np.bincount(found.device, minlength=found.devices)


def padded(found: Measurements, values: np.ndarray) -> Tensor:
    """Values of each row as ``[devices, rows]``, padded with NaN."""
    counts = rows_per_device(found)
    out = np.full((found.devices, counts.max()), np.nan)
    out[np.arange(counts.max()) < counts[:, None]] = values
    return torch.from_numpy(out)


def check_rows(found: Measurements, least: int, why: str) -> None:
    """Raise unless each device has enough rows.

    Raises:
        ValueError: a device has fewer.
    """
    rows = rows_per_device(found)
    if rows.min() < least:
        raise ValueError(
            f"fit: device {found.names[int(rows.argmin())]} has {rows.min()} rows; {why} needs {least} or more of each "
            "device; measure more, or leave the device out"
        )


def rounded_up(value: float, digits: int = 2) -> float:
    """A value rounded up to some digits, for the end of a range."""
    scale = 10.0 ** (digits - 1 - math.floor(math.log10(value)))
    return math.ceil(value * scale * (1.0 - 1e-12)) / scale


def rounded_down(value: float, digits: int = 3) -> float:
    """A value rounded down to some digits."""
    scale = 10.0 ** (digits - 1 - math.floor(math.log10(value)))
    return math.floor(value * scale * (1.0 + 1e-12)) / scale
