"""CSV files of reports."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from typing import Any

from phasegrad.writing import checked_path, write_whole


def write_csv(path: str | os.PathLike[str], head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file completely, or leave what is there unchanged.

    Raises:
        TypeError: ``path`` is no path.
        OSError: ``path`` is a folder, its folder does not exist, or the file could not be written.
    """
    file, text = checked_path(path, "to_csv"), io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(head)
    writer.writerows(rows)
    write_whole(file, text.getvalue())
