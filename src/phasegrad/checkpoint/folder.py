"""A folder with the last checkpoints of a run."""

from __future__ import annotations

import errno
import logging
import os
import re
from pathlib import Path
from typing import Any, final

import torch.distributed as dist

from phasegrad import argument_checks as checks
from phasegrad.checkpoint import run
from phasegrad.checkpoint.archive import DamagedError
from phasegrad.checkpoint.lock import Lock, lock, other_writer
from phasegrad.writing import remove_remains

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
        self.path, self.keep = checks.path("Folder", "path", path), checks.integer("Folder", "keep", keep, 1)
        if self.path.exists() and not self.path.is_dir():
            raise NotADirectoryError(
                errno.ENOTDIR, "Folder: path is a file; give the folder that contains the checkpoints", str(path)
            )
        self._resumed = False
        self._lock: Lock | None = None

    def files(self) -> list[Path]:
        """The checkpoints, newest first, damaged ones included; links and folders are not followed."""
        return [file for file in self._entries() if file.is_file() and not file.is_symlink()]

    def close(self) -> None:
        """Let another process write into the folder; the end of this process does so, too."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _entries(self) -> list[Path]:
        """Everything with the name of a checkpoint, newest first."""
        found = self.path.iterdir() if self.path.is_dir() else ()
        return sorted((file for file in found if _NAME.fullmatch(file.name)), key=_step, reverse=True)

    def save(self, step: int, **parts: Any) -> Path:
        """Write a checkpoint with [`save`][phasegrad.checkpoint.save], ``step`` among its values; then delete old ones.

        Returns:
            The path of the checkpoint.

        Raises:
            InUseError: another process writes into the folder. A folder belongs to the first process that saves in it,
                until this process ends or calls ``close``.
            ValueError: ``step`` is negative, or the folder has later checkpoints and was not resumed from.
            TypeError, OSError: as for [`save`][phasegrad.checkpoint.save]; no old checkpoint was deleted.
        """
        step = checks.integer("Folder", "step", step, 0)
        later = [file for file in self.files() if _step(file) > step]
        if later and not self._resumed:
            raise ValueError(
                f"Folder: {self.path} contains {later[0].name} of another run, from which this one would resume; "
                "resume from it first, delete it, or choose another folder"
            )
        file = self.path / _name(step)
        if file.is_dir():
            raise IsADirectoryError(
                errno.EISDIR, "Folder: the checkpoint cannot be written, because a folder has its name", str(file)
            )
        self.path.mkdir(parents=True, exist_ok=True)
        self._acquire()
        run.save(file, step=step, **parts)
        earlier = [other for other in self.files() if _step(other) < step]
        for old in [*later, *earlier[self.keep - 1 :]]:  # later ones were skipped by resume
            old.unlink()
        return file

    def _acquire(self) -> None:
        first = self._lock is None
        try:
            self._lock = lock(self.path)
        except OSError as error:
            raise OSError(
                error.errno, f"Folder: {self.path} cannot be written ({error.strerror}), so nothing was saved"
            ) from error
        if first:
            remove_remains(self.path)

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
        files = self.files()
        for file in self._entries():
            if file not in files:
                _logger.warning("skipped %s, which is a link or no file", file)
                continue
            try:
                intact[_step(file)] = run.read(file)
            except FileNotFoundError:  # deleted meanwhile by the process that writes there
                continue
            except (DamagedError, OSError) as error:
                damaged.append(str(error))
                continue
            if world_size() == 1:
                break
        for reason in damaged:
            _logger.warning("skipped a damaged checkpoint: %s", reason)
        if (writer := other_writer(self.path)) is not None:
            _logger.warning("%s writes into %s; this run may read there, but cannot save", writer, self.path)
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
