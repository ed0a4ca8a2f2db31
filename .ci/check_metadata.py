"""Check the metadata of wheels and source distributions as an index would: python .ci/check_metadata.py FILE ..."""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

from packaging.metadata import Metadata

REQUIRED = ("summary", "description", "license_expression", "requires_python", "keywords", "classifiers")


def metadata_text(path: Path) -> bytes:
    """The content of METADATA or PKG-INFO."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            return archive.read(next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA")))
    with tarfile.open(path) as archive:
        stream = archive.extractfile(f"{path.name.removesuffix('.tar.gz')}/PKG-INFO")
        if stream is None:
            raise ValueError(f"{path.name}: PKG-INFO is no file")
        return stream.read()


def main(files: list[str]) -> None:
    """Report every file; exit with an error at the first wrong one."""
    versions = set()
    for path in map(Path, files):
        metadata = Metadata.from_email(metadata_text(path), validate=True)
        missing = [name for name in REQUIRED if not getattr(metadata, name)]
        if missing or metadata.description_content_type != "text/markdown":
            sys.exit(f"{path.name}: metadata lacks {', '.join(missing) or 'a Markdown description'}")
        versions.add(metadata.version)
        print(f"{path.name}: metadata {metadata.metadata_version} of version {metadata.version} is valid")
    if len(versions) != 1:
        sys.exit(f"the files have different versions: {sorted(map(str, versions))}")


if __name__ == "__main__":
    main(sys.argv[1:])
