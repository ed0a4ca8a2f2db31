"""Link phasegrad's requirements, and no other package, from this environment into another one.

    python .ci/link_requirements.py ENVIRONMENT [EXTRA ...]

An import that pyproject.toml does not declare then fails there, and torch costs no download.
"""

from __future__ import annotations

import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement


def closure(name: str, extras: tuple[str, ...], found: dict[str, Distribution]) -> None:
    """Collect what a distribution requires, directly and indirectly."""
    for text in distribution(name).requires or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            continue
        key = requirement.name.lower().replace("_", "-")
        if key in found:
            continue
        try:
            found[key] = distribution(requirement.name)
        except PackageNotFoundError:  # such as the CUDA libraries, which a CPU build of torch does without
            print(f"{requirement.name}, required by {name}, is not installed here", file=sys.stderr)
            continue
        closure(requirement.name, tuple(requirement.extras), found)


def main(environment: Path, extras: tuple[str, ...]) -> None:
    """Link the top-level files and folders of every requirement."""
    found: dict[str, Distribution] = {}
    closure("phasegrad", extras, found)
    target = next(environment.glob("lib/python*/site-packages"))
    for package in found.values():
        tops = {Path(str(file)).parts[0] for file in package.files or ()} - {"..", "__pycache__"}
        for top in tops:
            link, source = target / top, Path(str(package.locate_file(top))).resolve()
            if source.exists() and not link.exists():
                link.symlink_to(source)


if __name__ == "__main__":
    main(Path(sys.argv[1]), tuple(sys.argv[2:]))
