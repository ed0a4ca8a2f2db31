"""The repository keeps its own promises."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import phasegrad

ROOT = Path(__file__).parents[1]


def test_the_version_stands_in_one_place():
    stated = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert stated is not None
    assert phasegrad.__version__ == importlib.metadata.version("phasegrad") == stated[1]


def test_torch_is_no_build_requirement():
    build = (ROOT / "pyproject.toml").read_text().split("[project]")[0]
    assert "torch" not in build


def test_makefile_and_constraints_pin_the_same_torch():
    makefile = re.search(r"^TORCH \?= torch==([\d.]+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    constraint = re.search(r"^torch==([\d.]+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert makefile is not None
    assert constraint is not None
    assert makefile[1] == constraint[1]


def test_readme_has_no_placeholder() -> None:
    assert "@@" not in (Path(__file__).parents[1] / "README.md").read_text()
