"""Files that state the same fact agree."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import pytest

import phasegrad

ROOT = Path(__file__).parents[1]


def test_the_version_is_defined_in_one_place():
    stated = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert stated is not None
    assert phasegrad.__version__ == importlib.metadata.version("phasegrad") == stated[1]


def test_torch_is_not_a_build_requirement():
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


PACKAGES = [phasegrad] + [
    importlib.import_module(f"phasegrad.{module.name}")
    for module in pkgutil.iter_modules(phasegrad.__path__)
    if module.ispkg
]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_a_package_lists_only_its_public_names(package: ModuleType) -> None:
    assert dir(package) == sorted(package.__all__)


@pytest.mark.parametrize("package", PACKAGES[1:], ids=lambda package: package.__name__)
def test_no_module_is_shadowed_by_a_name_of_its_package(package: ModuleType) -> None:
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    assert not modules & set(package.__all__)


@pytest.mark.parametrize("name", ["convert", "bypasses", "left_digital", "register_twin", "summary", "to_digital"])
def test_names_of_0_1_0_are_found_with_a_warning(name: str) -> None:
    with pytest.warns(DeprecationWarning, match=rf"phasegrad\.nn\.{name} was renamed to phasegrad\.conversion"):
        assert callable(getattr(phasegrad.nn, name))


def test_files_that_name_the_version_agree() -> None:
    release = phasegrad.__version__.split(".dev")[0]
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited is not None
    assert cited[1] == release
    assert f"\n## [{release}]" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize(
    ("variable", "some"),
    [
        ("REFERENCE_TESTS", {"tests/ops", "tests/nn", "tests/crossbar"}),
        ("BACKEND_FREE", {"tests/examples", "tests/conversion", "tests/test_docs.py"}),
        ("DISPATCH_TESTS", {"tests/nn", "tests/crossbar"}),
    ],
)
def test_passes_name_tests_that_exist(variable: str, some: set[str]) -> None:
    named = re.search(rf"^{variable} := ((?:.*\\\n)*.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert named is not None
    paths = named[1].replace("\\\n", " ").split()
    assert some <= set(paths)
    assert [path for path in paths if not (ROOT / path).exists()] == []


CHANGELOG = "# Changelog\n\n## [1.2.0] - 2026-01-31\n"


@pytest.mark.parametrize(
    ("version", "citation", "changelog", "fault"),
    [
        ("1.2.0", "version: 1.2.0\n", CHANGELOG, None),
        ("1.2.0.dev0", "version: 1.2.0.dev0\n", CHANGELOG, "is no release"),
        ("1.2.0", "version: 1.1.0\n", CHANGELOG, "CITATION.cff has version 1.1.0"),
        ("1.2.0", "title: phasegrad\n", CHANGELOG, "CITATION.cff has version None"),
        ("1.2.0", "version: 1.2.0\n", "## [1.2.0] (unreleased)\n", "no dated section"),
        ("1.2.0", "version: 1.2.0\n", "## [1.2.0] - 9999-01-01\n", "in the future"),
    ],
)
def test_a_release_needs_one_version_everywhere(version: str, citation: str, changelog: str, fault: str | None) -> None:
    spec = importlib.util.spec_from_file_location("check_release", ROOT / ".ci" / "check_release.py")
    assert spec is not None
    assert spec.loader is not None
    check_release = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check_release)
    faults = check_release.version_faults(version, citation, changelog)
    if fault is None:
        assert faults == []
    else:
        assert any(fault in one for one in faults), faults
