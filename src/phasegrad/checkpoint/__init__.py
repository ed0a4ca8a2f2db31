"""Checkpoints that are written atomically and resume a run to the bit."""

from phasegrad.checkpoint.archive import DamagedError
from phasegrad.checkpoint.folder import Folder
from phasegrad.checkpoint.loader import ResumableLoader
from phasegrad.checkpoint.lock import InUseError
from phasegrad.checkpoint.run import load, save
from phasegrad.checkpoint.safetensors import export_safetensors, import_safetensors

__all__ = [
    "DamagedError",
    "Folder",
    "InUseError",
    "ResumableLoader",
    "export_safetensors",
    "import_safetensors",
    "load",
    "save",
]


def __dir__() -> list[str]:
    return sorted(__all__)
