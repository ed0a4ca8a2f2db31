"""A folder with the last checkpoints of a run."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any, final

import torch.distributed as dist

from phasegrad.checkpoint import run
from phasegrad.checkpoint.archive import DamagedError

_logger = logging.getLogger("phasegrad")
_NAME = re.compile(r"step-(\d+)\.pt")


@final
class Folder:
    """Keeps the last checkpoints of a run, and resumes from the newest that is not damaged.

    Args:
        path: the folder, created by the first [`save`][phasegrad.checkpoint.save].
        keep: number of checkpoints to keep; 2 or more provide a fallback if the last one is damaged.

    Raises:
        ValueError: ``keep`` is below 1.

    Examples:
        >>> import tempfile, torch, phasegrad as pg
        >>> net = pg.convert(torch.nn.Sequential(torch.nn.Linear(8, 2)), pg.presets.pcm_inference())
        >>> with tempfile.TemporaryDirectory() as path:
        ...     folder = Folder(path, keep=2)
        ...     before = folder.resume(net=net)
        ...     names = [folder.save(step, net=net).name for step in (100, 200, 300)]
        ...     before, folder.resume(net=net)["step"], [file.name for file in folder.files()]
        (None, 300, ['step-000000300.pt', 'step-000000200.pt'])
    """

    def __init__(self, path: str | os.PathLike[str], keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"Folder: keep = {keep}; it must be at least 1")
        self.path, self.keep = Path(path), keep
        self._resumed = False

    def files(self) -> list[Path]:
        """The checkpoints, newest first, damaged ones included."""
        found = self.path.iterdir() if self.path.is_dir() else ()
        return sorted((file for file in found if _NAME.fullmatch(file.name)), key=_step, reverse=True)

    def save(self, step: int, **parts: Any) -> Path:
        """Write a checkpoint with [`save`][phasegrad.checkpoint.save], ``step`` among its values; then delete old ones.

        Returns:
            The path of the checkpoint.

        Raises:
            ValueError: ``step`` is negative, or the folder has later checkpoints and was not resumed from.
            TypeError, OSError: as for [`save`][phasegrad.checkpoint.save]; no old checkpoint was deleted.
        """
        if step < 0:
            raise ValueError(f"Folder: step = {step}; it must not be negative")
        later = [file for file in self.files() if _step(file) > step]
        if later and not self._resumed:
            raise ValueError(
                f"Folder: {self.path} contains {later[0].name} of another run, from which this one would resume; "
                "resume from it first, delete it, or choose another folder"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        file = self.path / _name(step)
        run.save(file, step=step, **parts)
        earlier = [other for other in self.files() if _step(other) < step]
        for old in [*later, *earlier[self.keep - 1 :]]:  # later ones were skipped by resume
            old.unlink()
        return file

    def resume(self, **parts: Any) -> dict[str, Any] | None:
        """Load the newest checkpoint that is not damaged, and log a warning for each one that is skipped.

        With a process group, all processes must call this; they load the newest step that is intact in all folders.

        Args:
            parts: as for [`load`][phasegrad.checkpoint.load].

        Returns:
            The plain values, ``step`` among them, or ``None`` if there is no checkpoint.

        Raises:
            DamagedError: all checkpoints are damaged, or the processes have no intact checkpoint of the same step.
            ValueError, TypeError: as for [`load`][phasegrad.checkpoint.load].
        """
        self._resumed = True
        damaged: list[str] = []
        intact: dict[int, dict[str, Any]] = {}
        for file in self.files():
            try:
                intact[_step(file)] = run.read(file)
            except DamagedError as error:
                damaged.append(str(error))
                continue
            if world_size() == 1:
                break
        for reason in damaged:
            _logger.warning("skipped a damaged checkpoint: %s", reason)
        steps = _of_all_processes(list(intact))
        common = set.intersection(*map(set, steps))
        if common:
            newest = max(common)
            return run.load_content(intact[newest], self.path / _name(newest), parts, streams=True)
        if any(steps):
            raise DamagedError(f"the processes have no intact checkpoint of the same step; by rank, they have {steps}")
        if any(_of_all_processes(damaged)):
            reasons = "; ".join(damaged) or "in other processes"
            raise DamagedError(f"all checkpoints in {self.path} are damaged ({reasons}); delete them to start again")
        return None


def world_size() -> int:
    """Number of processes in torch's default process group; 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _of_all_processes(mine: list[Any]) -> list[list[Any]]:
    """Gather a list from each process, in the order of ranks."""
    if world_size() == 1:
        return [mine]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, mine)
    return found


def _name(step: int) -> str:
    return f"step-{step:09d}.pt"


def _step(file: Path) -> int:
    found = _NAME.fullmatch(file.name)
    assert found is not None
    return int(found[1])
