"""Data of the examples: reading, verification, and fallback from source to source, without a network."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import io
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
_data, _fetch = (importlib.import_module(m) for m in ("_data", "_fetch"))

CONTENT = {"a": b"first file", "b": b"second file"}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def idx(array: np.ndarray) -> bytes:
    """The IDX file of a uint8 array."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


@dataclass
class FakeSource:
    """A source that serves ``content``, and then fails with ``error`` if there is one."""

    content: dict[str, bytes] = field(default_factory=lambda: dict(CONTENT))
    error: BaseException | None = None
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def __str__(self) -> str:
        return "fake source"

    def download(self, names: Sequence[str], folder: Path) -> None:
        self.asked.append(tuple(names))
        for name in names:
            (folder / name).write_bytes(self.content[name])
        if self.error is not None:
            raise self.error


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the toy data set in an empty cache."""
    monkeypatch.setenv("PHASEGRAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "toy"


def toy(*sources: object):
    return _fetch.DataSet("toy", {name: sha256(content) for name, content in CONTENT.items()}, sources)


def files(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, hidden ones included."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4), (0, 28, 28)])
def test_read_idx_returns_what_was_written(tmp_path: Path, shape: tuple[int, ...]):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    (tmp_path / "x").write_bytes(idx(array))
    read = _data.read_idx(tmp_path / "x")
    np.testing.assert_array_equal(read, array, strict=True)
    assert read.flags.writeable


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda good: b"", "nothing"),
        (lambda good: b"\x1f\x8b" + good[2:], "still compressed"),
        (lambda good: good[:2] + b"\x0d" + good[3:], "00 00 0d"),
        (lambda good: good[:3] + b"\0" + good[4:], "number of axes"),
        (lambda good: good[:9], "shorter than its header of 12"),
        (lambda good: good[:-1], r"17 bytes, but shape \(2, 3\) needs 18"),
        (lambda good: good + b"\0", r"19 bytes, but shape \(2, 3\) needs 18"),
    ],
    ids=["empty", "gzip", "float", "no-axes", "half-header", "truncated", "too-long"],
)
def test_read_idx_rejects(tmp_path: Path, damage: Callable[[bytes], bytes], message: str):
    (tmp_path / "x").write_bytes(damage(idx(np.zeros((2, 3)))))
    with pytest.raises(ValueError, match=message):
        _data.read_idx(tmp_path / "x")


def test_check_sha256(tmp_path: Path):
    (tmp_path / "a").write_bytes(CONTENT["a"])
    _fetch.check_sha256(tmp_path / "a", sha256(CONTENT["a"]))
    with pytest.raises(ValueError, match=r"a has sha256 [0-9a-f]{12}\.\.\. instead of "):
        _fetch.check_sha256(tmp_path / "a", sha256(CONTENT["b"]))
    with pytest.raises(FileNotFoundError, match="b is missing"):
        _fetch.check_sha256(tmp_path / "b", sha256(CONTENT["b"]))


def test_the_given_folder_is_searched_first(cache: Path, tmp_path: Path):
    for name, content in CONTENT.items():
        (tmp_path / name).write_bytes(content)
    source = FakeSource()
    assert _fetch.locate(toy(source), tmp_path) == tmp_path
    assert source.asked == []
    assert not cache.exists()


def test_an_incomplete_folder_is_skipped_with_a_message(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "a").write_bytes(CONTENT["a"])
    assert _fetch.locate(toy(FakeSource()), tmp_path) == cache
    assert "b is missing; searching elsewhere" in capsys.readouterr().err


def test_cache_is_filled_once(cache: Path):
    source = FakeSource()
    assert _fetch.locate(toy(source)) == cache
    assert _fetch.locate(toy(source)) == cache
    assert source.asked == [("a", "b")]
    assert files(cache.parent) == CONTENT


@pytest.mark.parametrize("damaged", [b"", CONTENT["b"][:-1], b"Second file"], ids=["empty", "truncated", "changed"])
def test_damaged_cache_file_alone_is_fetched_again(cache: Path, damaged: bytes):
    source = FakeSource()
    _fetch.locate(toy(source))
    (cache / "b").write_bytes(damaged)
    _fetch.locate(toy(source))
    assert source.asked == [("a", "b"), ("b",)]
    assert files(cache.parent) == CONTENT


@pytest.mark.parametrize(
    "first",
    [
        FakeSource(error=ConnectionError("no route")),
        FakeSource(error=subprocess.TimeoutExpired("npm", 1)),
        FakeSource(content={"a": CONTENT["a"]}),
        FakeSource(content={**CONTENT, "b": b"tampered"}),
    ],
    ids=["closed-network", "time-out", "file-missing", "wrong-hash"],
)
def test_the_next_source_is_used_after_a_failure(cache: Path, first: FakeSource):
    second = FakeSource()
    assert _fetch.locate(toy(first, second)) == cache
    assert (len(first.asked), len(second.asked)) == (1, 1)
    assert files(cache.parent) == CONTENT


def test_wrong_hash_installs_nothing(cache: Path):
    with pytest.raises(_fetch.DataUnavailableError, match="fake source: b has sha256"):
        _fetch.locate(toy(FakeSource(content={**CONTENT, "b": b"tampered"})))
    assert files(cache.parent) == {}


def test_interruption_leaves_nothing_behind(cache: Path):
    with pytest.raises(KeyboardInterrupt):
        _fetch.locate(toy(FakeSource(error=KeyboardInterrupt())))
    assert files(cache.parent) == {}
    assert [path.name for path in cache.parent.iterdir()] == ["toy"]


def test_error_lists_what_was_tried_and_names_the_fix(cache: Path, tmp_path: Path):
    sources = FakeSource(error=ConnectionError("no route")), FakeSource(content={})
    cache.mkdir(parents=True)
    with pytest.raises(_fetch.DataUnavailableError) as raised:
        _fetch.locate(toy(*sources), tmp_path / "mine")
    message = str(raised.value)
    assert f"folder {tmp_path / 'mine'}: no such folder" in message
    assert f"cache {cache}: a is missing; b is missing" in message
    assert "fake source: no route" in message
    assert "Put a, b (unpacked) in a folder and pass it as --data FOLDER" in message


def test_cache_that_cannot_be_written_is_a_clear_error(cache: Path):
    cache.parent.write_bytes(b"a file where the cache should be")
    with pytest.raises(_fetch.DataUnavailableError, match="fake source: "):
        _fetch.locate(toy(FakeSource()))


def test_full_disk_is_a_clear_error(small_disk: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PHASEGRAD_CACHE", str(small_disk))
    (small_disk / "toy").mkdir()
    (small_disk / "toy" / "a").write_bytes(CONTENT["a"])
    source = FakeSource(content={**CONTENT, "b": bytes(300_000)})
    with pytest.raises(_fetch.DataUnavailableError, match=r"fake source: .*No space left on device"):
        _fetch.locate(toy(source))
    assert files(small_disk) == {"a": CONTENT["a"]}


def packed(members: dict[str, bytes]) -> bytes:
    """A gzipped tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def npm(monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """Make a package source whose client writes the given archive, or fails."""

    def source(archive: bytes, status: int = 0, expected: str | None = None):
        def run(command: list[str], cwd: Path, **_: object):
            assert command[-1] == "toy@1.0.0"
            assert "--ignore-scripts" in command
            (Path(cwd) / "toy-1.0.0.tgz").write_bytes(archive)
            return subprocess.CompletedProcess(command, status, "toy-1.0.0.tgz\n", "ENOTFOUND" if status else "")

        monkeypatch.setattr(_fetch.shutil, "which", lambda client: f"/bin/{client}")
        monkeypatch.setattr(_fetch.subprocess, "run", run)
        return _fetch.NpmPackage("toy", "1.0.0", expected or sha256(archive), "package/", 0.1)

    return source


def test_only_the_named_files_of_a_package_are_extracted(cache: Path, npm: Callable[..., object]):
    members = {f"package/{name}": content for name, content in CONTENT.items()}
    source = npm(packed({**members, "package/../../evil": b"outside", "package/c": b"not asked for"}))
    assert _fetch.locate(toy(source)) == cache
    assert files(cache.parent.parent) == CONTENT


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"status": 1}, "exit status 1: ENOTFOUND"),
        ({"expected": "0" * 64}, r"toy-1\.0\.0\.tgz has sha256 .* instead of 000000000000"),
        ({}, "package/b"),
    ],
    ids=["client-fails", "archive-changed", "member-missing"],
)
def test_package_failure_is_reported(cache: Path, npm: Callable[..., object], options: dict[str, object], message: str):
    source = npm(packed({"package/a": CONTENT["a"]}), **options)
    with pytest.raises(_fetch.DataUnavailableError, match=f"npm package toy@1.0.0: .*{message}"):
        _fetch.locate(toy(source))
    assert files(cache.parent) == {}


def zipped(members: dict[str, bytes]) -> bytes:
    """A wheel, which is a zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """Make a package source whose client writes the given wheel, or fails."""

    def source(wheel: bytes, status: int = 0, expected: str | None = None):
        def run(command: list[str], cwd: Path, **_: object):
            assert command[-1] == "toy==1.0.0"
            assert "--no-deps" in command
            (Path(cwd) / "toy-1.0.0-py3-none-any.whl").write_bytes(wheel)
            return subprocess.CompletedProcess(command, status, "", "no matching distribution" if status else "")

        monkeypatch.setattr(_fetch.subprocess, "run", run)
        return _fetch.PythonPackage("toy", "1.0.0", expected or sha256(wheel), "toy/", 0.1)

    return source


def test_only_the_named_files_of_a_wheel_are_extracted(cache: Path, pip: Callable[..., object]):
    members = {f"toy/{name}": content for name, content in CONTENT.items()}
    assert _fetch.locate(toy(pip(zipped({**members, "toy/c": b"not asked for"})))) == cache
    assert files(cache.parent) == CONTENT


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"status": 1}, "exit status 1: no matching distribution"),
        ({"expected": "0" * 64}, r"toy-1\.0\.0.* has sha256 .* instead of 000000000000"),
        ({}, "toy/b"),
    ],
    ids=["client-fails", "wheel-changed", "member-missing"],
)
def test_wheel_failure_is_reported(cache: Path, pip: Callable[..., object], options: dict[str, object], message: str):
    source = pip(zipped({"toy/a": CONTENT["a"]}), **options)
    with pytest.raises(_fetch.DataUnavailableError, match=f"Python package toy==1.0.0: .*{message}"):
        _fetch.locate(toy(source))
    assert files(cache.parent) == {}


def test_files_made_from_others(cache: Path):
    source = FakeSource(content={"upper": b"FIRST", "lower": b"file"})
    made = _fetch.Converted(
        source,
        {"a": ("upper", "lower"), "b": ("lower",)},
        lambda folder, name: CONTENT[name] if (folder / "lower").read_bytes() == b"file" else b"",
    )
    assert _fetch.locate(toy(made)) == cache
    assert source.asked == [("lower", "upper")]
    assert files(cache.parent) == CONTENT


def test_package_without_client(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_fetch.shutil, "which", lambda client: None)
    with pytest.raises(_fetch.DataUnavailableError, match="the npm client is not installed"):
        _fetch.locate(toy(_fetch.NpmPackage("toy", "1.0.0", "0" * 64, "package/", 0.1)))


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server on this machine: its address and the folder it serves."""
    root = tmp_path / "web"
    root.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", root
    server.shutdown()
    server.server_close()
    thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def serve_gzipped(root: Path) -> dict[str, str]:
    """Put the gzipped toy files on the web; return their MD5."""
    for name, content in CONTENT.items():
        (root / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
    return {name: hashlib.md5((root / f"{name}.gz").read_bytes()).hexdigest() for name in CONTENT}


def test_mirror(cache: Path, web: tuple[str, Path]):
    url, root = web
    assert _fetch.locate(toy(_fetch.Mirror(url, serve_gzipped(root)))) == cache
    assert files(cache.parent) == CONTENT


def test_plain_files_from_the_web(cache: Path, web: tuple[str, Path]):
    url, root = web
    for name, content in CONTENT.items():
        (root / name).write_bytes(content)
    assert _fetch.locate(toy(_fetch.Folder(url))) == cache
    assert files(cache.parent) == CONTENT


def test_interrupted_download_is_a_clear_error(cache: Path, web: tuple[str, Path]):
    url, root = web
    (root / "a").write_bytes(CONTENT["a"])
    (root / "b").write_bytes(CONTENT["b"][:5])
    with pytest.raises(_fetch.DataUnavailableError, match=rf"mirror {url}: b has sha256 .* instead of"):
        _fetch.locate(toy(_fetch.Folder(url)))
    assert files(cache.parent) == {}


def test_archive_from_the_web(cache: Path, web: tuple[str, Path]):
    url, root = web
    archive = packed({f"toy/{name}": content for name, content in CONTENT.items()})
    (root / "toy.tar.gz").write_bytes(archive)
    source = _fetch.Archive(f"{url}toy.tar.gz", hashlib.md5(archive).hexdigest(), "toy/")
    assert _fetch.locate(toy(source)) == cache
    assert files(cache.parent) == CONTENT


def test_mirror_with_a_truncated_file_is_skipped(cache: Path, web: tuple[str, Path]):
    url, root = web
    mirror = _fetch.Mirror(url, serve_gzipped(root))
    (root / "b.gz").write_bytes((root / "b.gz").read_bytes()[:-4])
    with pytest.raises(_fetch.DataUnavailableError, match=rf"mirror {url}: MD5 hash of .*b\.gz"):
        _fetch.locate(toy(mirror))
    assert files(cache.parent) == {}


def test_mirror_without_the_file(cache: Path, web: tuple[str, Path]):
    with pytest.raises(_fetch.DataUnavailableError, match="the server does not have the file"):
        _fetch.locate(toy(_fetch.Mirror(web[0], {})))


def test_silent_mirror_times_out_soon(cache: Path, monkeypatch: pytest.MonkeyPatch):
    hang = _fetch.threading.Event()
    monkeypatch.setattr(_fetch, "CONNECT_SECONDS", 0.05)
    monkeypatch.setattr(_fetch.pooch.HTTPDownloader, "__call__", lambda *_, **__: hang.wait())
    with pytest.raises(_fetch.DataUnavailableError, match=r"no answer within 0\.05 s"):
        _fetch.locate(toy(_fetch.Mirror("https://example.invalid/", {})))
    hang.set()


def test_command_reports_failure(cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setitem(_data.DATA_SETS, "mnist", replace(_data.MNIST, sources=()))
    assert _data.main(["--fetch", "mnist", "cifar10"]) == 1
    assert "--data FOLDER" in capsys.readouterr().err


def test_mnist():
    _cached(_data.MNIST)
    data = _data.mnist()
    assert data.train_images.shape == (60_000, 1, 28, 28)
    assert data.test_images.shape == (10_000, 1, 28, 28)
    assert data.train_images.dtype == torch.uint8
    assert data.train_labels[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
    assert data.test_labels[:8].tolist() == [7, 2, 1, 0, 4, 1, 4, 9]
    scaled = data.train_images.float() / 255
    assert scaled.mean().item() == pytest.approx(0.1307, abs=1e-4)
    assert scaled.std().item() == pytest.approx(0.3081, abs=1e-4)


def _cached(data: object) -> None:
    folder = _fetch.cache_folder() / data.name
    if _fetch.faults(data, folder):
        pytest.skip(f"{data.name} is not in the cache: run `python examples/_data.py --fetch {data.name}`")


def test_cifar10():
    _cached(_data.CIFAR10)
    data = _data.cifar10()
    assert data.train_images.shape == (50_000, 3, 32, 32)
    assert data.test_images.shape == (10_000, 3, 32, 32)
    assert data.train_labels.bincount().tolist() == [5_000] * 10
    assert data.test_labels.bincount().tolist() == [1_000] * 10
    assert data.train_labels[:8].tolist() == [6, 9, 9, 4, 1, 1, 2, 7]
    scaled = data.train_images.float() / 255
    assert scaled.mean((0, 2, 3)).tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)
    assert scaled.std((0, 2, 3)).tolist() == pytest.approx([0.2470, 0.2435, 0.2616], abs=1e-4)


def test_moby_dick():
    _cached(_data.MOBY_DICK)
    text = _data.moby_dick()
    assert "Call me Ishmael." in text
    assert len(set(text)) == 83


def test_pixels_of_an_image_file_become_records(tmp_path: Path):
    """A row of the PNG is one image with interleaved colours; a record is a label and three colour planes."""
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (10_000, 1024, 3), dtype=np.uint8)
    image.fromarray(pixels).save(tmp_path / "data_batch_2.png", compress_level=0)
    (tmp_path / "train_lables.json").write_text(str([0] * 10_000 + [7] + [1] * 9_999))
    record = np.frombuffer(_data._cifar_batch(tmp_path, "data_batch_2.bin"), np.uint8).reshape(10_000, 3073)[0]
    assert record[0] == 7
    np.testing.assert_array_equal(record[1:].reshape(3, 1024), pixels[0].T)


def test_gzipped_files_of_a_debian_package_are_unpacked(cache: Path, monkeypatch: pytest.MonkeyPatch):
    def run(command: list[str], cwd: Path, **_: object):
        if command[0] == "apt-get":
            assert command[1:] == ["download", "--quiet", "toy"]
            (Path(cwd) / "toy_1.deb").write_bytes(b"")
        else:
            assert command == ["dpkg-deb", "--extract", "toy_1.deb", "unpacked"]
            folder = Path(cwd) / "unpacked" / "usr" / "share" / "toy"
            folder.mkdir(parents=True)
            for name, content in CONTENT.items():
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(_fetch.shutil, "which", lambda client: f"/bin/{client}")
    monkeypatch.setattr(_fetch.subprocess, "run", run)
    assert _fetch.locate(toy(_fetch.DebianPackage("toy", "usr/share/toy/", 0.1))) == cache
    assert files(cache) == CONTENT


def test_systems_without_debian_packages_say_so(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_fetch.shutil, "which", lambda client: None)
    with pytest.raises(_fetch.DataUnavailableError, match="Debian package toy: apt-get or dpkg-deb is not installed"):
        _fetch.locate(toy(_fetch.DebianPackage("toy", "usr/share/toy/", 0.1)))
