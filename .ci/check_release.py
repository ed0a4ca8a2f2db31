"""Check that the checkout can be released as the version that it states: run by `make release-check`."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parents[1]


def stated_version(project: str) -> str:
    """The version in pyproject.toml."""
    found = re.search(r'^version = "(.+)"$', project, re.MULTILINE)
    if found is None:
        raise ValueError("pyproject.toml states no version")
    return found[1]


def version_faults(version: str, citation: str, changelog: str) -> list[str]:
    """What keeps a version from being released, according to the files that name it."""
    faults = []
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        faults.append(f"version {version} in pyproject.toml is no release; write X.Y.Z")
    cited = re.search(r"^version: (\S+)$", citation, re.MULTILINE)
    if cited is None or cited[1] != version:
        faults.append(f"CITATION.cff has version {cited[1] if cited else None}, pyproject.toml {version}")
    section = re.search(rf"^## \[?{re.escape(version)}\]? [-(]\s*(\d{{4}}-\d{{2}}-\d{{2}})\b", changelog, re.MULTILINE)
    if section is None:
        faults.append(f"CHANGELOG.md has no dated section; write '## [{version}] - YYYY-MM-DD'")
    elif date.fromisoformat(section[1]) > date.today():
        faults.append(f"CHANGELOG.md dates {version} in the future: {section[1]}")
    return faults


def repository_faults(version: str) -> list[str]:
    """What keeps the repository's state from being tagged."""
    faults = []
    if git("status", "--porcelain"):
        faults.append("the working tree has changes; commit them")
    if git("tag", "--list", f"v{version}"):
        faults.append(f"the tag v{version} exists")
    return faults


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def built_faults(version: str) -> list[str]:
    """Whether `make packages` left the files of this version."""
    built = sorted(path.name for path in (ROOT / "dist").glob("phasegrad-*"))
    expected = (rf"phasegrad-{re.escape(version)}-py3-none-\w+\.whl", rf"phasegrad-{re.escape(version)}\.tar\.gz")
    missing = [pattern for pattern in expected if not any(re.fullmatch(pattern, name) for name in built)]
    return [f"dist has no file {pattern}, only {built}; run `make packages`" for pattern in missing]


def main() -> None:
    project, citation, changelog = (
        (ROOT / name).read_text(encoding="utf-8") for name in ("pyproject.toml", "CITATION.cff", "CHANGELOG.md")
    )
    version = stated_version(project)
    faults = version_faults(version, citation, changelog) + repository_faults(version) + built_faults(version)
    if faults:
        sys.exit("\n".join(["not ready for a release:", *(f"  {fault}" for fault in faults)]))
    print(f"ready: git tag v{version}")


if __name__ == "__main__":
    main()
