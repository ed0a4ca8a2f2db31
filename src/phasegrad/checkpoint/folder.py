"""The last checkpoints of a run, in a folder of their own."""

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
    """Keeps the last checkpoints of a run, and resumes from the newest that is sound.

    Args:
        path: the folder, made when something is saved.
        keep: how many checkpoints stay; 2 or more, so that there is another one should the disk have spoilt the last.

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
            raise ValueError(f"Folder: keep = {keep}; at least one checkpoint must stay")
        self.path, self.keep = Path(path), keep
        self._resumed = False

    def files(self) -> list[Path]:
        """The checkpoints, newest first, sound or not."""
        found = self.path.iterdir() if self.path.is_dir() else ()
        return sorted((file for file in found if _NAME.fullmatch(file.name)), key=_step, reverse=True)

    def save(self, step: int, **parts: Any) -> Path:
        """Write a checkpoint with :func:`phasegrad.checkpoint.save`, ``step`` among its values; then drop old ones.

        Returns:
            The file.

        Raises:
            ValueError: ``step`` is negative, or there are later checkpoints, of a run that was not resumed.
            TypeError, OSError: as there; no old checkpoint was dropped.
        """
        if step < 0:
            raise ValueError(f"Folder: step = {step}; it must not be negative")
        later = [file for file in self.files() if _step(file) > step]
        if later and not self._resumed:
            raise ValueError(
                f"Folder: {self.path} holds {later[0].name} of another run, which resume would take for this one's; "
                "resume from it, remove it, or choose another folder"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        file = self.path / _name(step)
        run.save(file, step=step, **parts)
        earlier = [other for other in self.files() if _step(other) < step]
        for old in [*later, *earlier[self.keep - 1 :]]:  # a later one was passed over when the run was resumed
            old.unlink()
        return file

    def resume(self, **parts: Any) -> dict[str, Any] | None:
        """Take over the newest checkpoint that is sound; which others were passed over is logged as a warning.

        With a process group all processes call this, and take the newest step that is sound in every one's folder.

        Args:
            parts: as for :func:`phasegrad.checkpoint.load`.

        Returns:
            The plain values, ``step`` among them; ``None`` if there is no checkpoint, and the run begins.

        Raises:
            DamagedError: there are checkpoints, and none is sound, or not of the same step in all processes.
            ValueError, TypeError: as :func:`phasegrad.checkpoint.load`, of the newest that is sound.
        """
        self._resumed = True
        damaged: list[str] = []
        sound: dict[int, dict[str, Any]] = {}
        for file in self.files():
            try:
                sound[_step(file)] = run.read(file)
            except DamagedError as error:
                damaged.append(str(error))
                continue
            if processes() == 1:
                break
        for one in damaged:
            _logger.warning("passed over: %s", one)
        steps = _everywhere(list(sound))
        common = set.intersection(*map(set, steps))
        if common:
            newest = max(common)
            return run.take_over(sound[newest], self.path / _name(newest), parts, streams=True)
        if any(steps):
            raise DamagedError(f"processes have no sound checkpoint of the same step, but of {steps}, rank by rank")
        if any(_everywhere(damaged)):
            told = "; ".join(damaged) or "of other processes"
            raise DamagedError(f"no checkpoint in {self.path} is sound ({told}); remove them to start anew")
        return None


def processes() -> int:
    """How many processes resume together: those of torch's default process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _everywhere(mine: list[Any]) -> list[list[Any]]:
    """What each process has, rank by rank."""
    if processes() == 1:
        return [mine]
    found: list[Any] = [None] * processes()
    dist.all_gather_object(found, mine)
    return found


def _name(step: int) -> str:
    return f"step-{step:09d}.pt"


def _step(file: Path) -> int:
    found = _NAME.fullmatch(file.name)
    assert found is not None
    return int(found[1])
