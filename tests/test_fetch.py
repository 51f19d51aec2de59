"""Every source of a data set, and the message if no source has it."""

import gzip
import itertools
import os
import pickle
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

from amc_env.data import pictures, sources
from amc_env.data import splits as data
from amc_env.data.fetch import fetch, loaded
from amc_env.data.splits import DataError, digest, read_raw

NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
KEYS = ("train_images", "train_labels", "test_images", "test_labels")


def idx(array: np.ndarray) -> bytes:
    return (
        bytes([0, 0, 8, array.ndim])
        + np.array(array.shape, ">i4").tobytes()
        + array.astype(np.uint8).tobytes()
    )


@pytest.fixture
def arrays(monkeypatch):
    """A Fashion-MNIST of 12 + 6 images, known to the specifications by its digest."""
    rng = np.random.default_rng(0)
    found = [
        rng.integers(0, 256, (12, 28, 28)),
        np.arange(12) % 10,
        rng.integers(0, 256, (6, 28, 28)),
        np.arange(6),
    ]
    tensors = [torch.from_numpy(a).to(torch.uint8 if a.ndim == 3 else torch.int64) for a in found]
    spec = data.DataSpec(
        "fashion_mnist", 10, (1, 28, 28), (0.3,), (0.3,), (1, 1, 1), True, (12, 6), sha256=digest(tensors)
    )
    monkeypatch.setitem(data.SPECS, "fashion_mnist", spec)
    return found


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, no system copy, no apt."""

    def refuse(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(sources, "SYSTEM", tmp_path / "usr" / "share" / "datasets" / "fashion-mnist")
    monkeypatch.setattr(sources.shutil, "which", lambda tool: None)


def lay(folder: Path, arrays, zipped: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(NAMES, arrays, strict=True):
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (folder / name).write_bytes(idx(array))
    return folder


def listed(folder: Path) -> list[str]:
    """The files in a folder, but for locks."""
    return [name for name in os.listdir(folder) if not name.endswith(".lock")]


def test_idx_by_hand(tmp_path):
    (tmp_path / "a").write_bytes(bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 255]))
    assert sources.read_idx(tmp_path / "a").tolist() == [[1, 2, 3], [4, 5, 255]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an IDX file of bytes: it starts with "),
        (b"\x1f\x8b\x08\x00", "is not an IDX file of bytes: it starts with 1f8b0800"),
        (bytes([0, 0, 13, 1, 0, 0, 0, 0]), "not an IDX file of bytes"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 4, 1, 2, 3]), "damaged: 11 bytes, its header asks for 12"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 1, 1, 2]), "damaged: 10 bytes, its header asks for 9"),
        (bytes([0, 0, 8, 3, 0, 0, 0, 1]), "damaged: 8 bytes"),
    ],
)
def test_idx_that_is_damaged_names_the_file(tmp_path, content, message):
    (tmp_path / "some-labels").write_bytes(content)
    with pytest.raises(DataError, match=f"some-labels .*{message}"):
        sources.read_idx(tmp_path / "some-labels")


@pytest.mark.parametrize("cut", [10, 40])
def test_a_gzip_that_is_cut_short_names_the_file(tmp_path, cut):
    content = gzip.compress(idx(np.arange(200)))
    (tmp_path / "x.gz").write_bytes(content[:-cut])
    with pytest.raises(DataError, match=r"x\.gz is damaged"):
        sources.read_idx(tmp_path / "x.gz")


@pytest.mark.parametrize(
    ("place", "zipped"), [("", True), ("FashionMNIST/raw", False), ("fashion-mnist", True)]
)
def test_files_of_the_given_root(tmp_path, cache, offline, arrays, place, zipped):
    lay(tmp_path / "root" / place, arrays, zipped)
    said = []
    path = fetch("fashion_mnist", tmp_path / "root", said.append)
    assert path == cache / "data" / "fashion_mnist.safetensors"
    raw, _ = read_raw(data.SPECS["fashion_mnist"], path.parent)
    for key, array in zip(KEYS, arrays, strict=True):
        assert np.array_equal(raw[key].numpy().reshape(array.shape), array)
    assert said == [
        f"fashion_mnist: trying files in {tmp_path / 'root'}",
        "fashion_mnist: 12 + 6 images (official files), checked",
        f"fashion_mnist: now in {path}",
    ]
    assert listed(path.parent) == [path.name]


def test_a_file_that_is_there_is_kept_and_a_damaged_one_made_again(tmp_path, cache, offline, arrays):
    root = lay(tmp_path / "root", arrays)
    path = fetch("fashion_mnist", root, lambda line: None)
    before, said = path.stat().st_mtime_ns, []
    fetch("fashion_mnist", None, said.append)
    assert said == [f"fashion_mnist: already in {path}"]
    assert path.stat().st_mtime_ns == before
    path.write_bytes(path.read_bytes()[:-3])
    fetch("fashion_mnist", root, said.append)
    assert f"{path} is not usable" in said[1]
    read_raw(data.SPECS["fashion_mnist"], path.parent)


@pytest.mark.parametrize("place", ["/proc/cache", "FILE"])
def test_a_cache_that_cannot_be_written_costs_a_warning(tmp_path, monkeypatch, offline, arrays, place):
    (tmp_path / "FILE").touch()
    monkeypatch.setenv("AMC_CACHE", str(tmp_path / place))
    root = lay(tmp_path / "root", arrays)
    with pytest.warns(UserWarning, match=r"cannot be written .*: set AMC_CACHE"):
        found = loaded("fashion_mnist", root=root, say=lambda line: None)
    assert len(found["test"]) == 6
    with pytest.raises(DataError, match=r"cannot be written .*: set AMC_CACHE"):
        fetch("fashion_mnist", root, lambda line: None)


def test_a_folder_that_is_given_is_read_though_there_is_another_copy(tmp_path, cache, offline, arrays):
    first, other = (lay(tmp_path / name, arrays) for name in ("first", "other"))
    fetch("fashion_mnist", first, lambda line: None)
    said = []
    loaded("fashion_mnist", root=first, say=said.append)
    loaded("fashion_mnist", say=said.append)
    assert said == []  # both are in the cache
    assert len(loaded("fashion_mnist", root=other, say=said.append)["test"]) == 6
    assert said[0].endswith(f"was not made from {other}, which is read")
    for file in other.iterdir():
        file.unlink()
    with pytest.raises(DataError, match="cannot be read from files in"):
        loaded("fashion_mnist", root=other, say=said.append)
    fetch("fashion_mnist", other, said.append)
    assert said[-1].endswith(f"not from {other}: delete it to read that")


def test_a_cache_that_cannot_be_read_costs_nothing_but_the_source(tmp_path, cache, offline, arrays):
    (cache / "data" / "fashion_mnist.safetensors").mkdir(parents=True)
    said = []
    with pytest.warns(UserWarning, match="cannot be written"):
        loaded("fashion_mnist", root=lay(tmp_path / "root", arrays), say=said.append)
    assert "is not usable" in said[0]


def test_a_second_process_waits_and_reads_what_the_first_has_fetched(tmp_path, cache, offline, arrays):
    path, said = cache / "data" / "fashion_mnist.safetensors", []
    path.parent.mkdir(parents=True)
    made = fetch("fashion_mnist", lay(tmp_path / "root", arrays), lambda line: None).read_bytes()
    path.unlink()
    with ThreadPoolExecutor(1) as other:
        with FileLock(path.with_name(f".{path.name}.lock")):
            second = other.submit(loaded, "fashion_mnist", say=said.append)
            while not said:
                time.sleep(0.01)
            path.write_bytes(made)
            path.with_name(f".{path.name}.1.part").write_bytes(made)  # as a killed process leaves it
        assert len(second.result(10)["test"]) == 6
    assert said == [f"another process makes {path}: waiting for it"]
    assert listed(path.parent) == [path.name]


def test_a_damaged_file_is_not_lost_when_no_source_has_better(cache, offline, arrays):
    path = cache / "data" / "fashion_mnist.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"precious")
    with pytest.raises(DataError, match="is damaged"):
        fetch("fashion_mnist", None, lambda line: None)
    assert path.read_bytes() == b"precious"
    assert listed(path.parent) == [path.name]


def test_the_system_copy(cache, offline, arrays):
    lay(sources.SYSTEM, arrays, zipped=True)
    fetch("fashion_mnist", None, lambda line: None)
    assert (cache / "data" / "fashion_mnist.safetensors").exists()


def test_tampered_files_do_not_pass(tmp_path, cache, offline, arrays):
    arrays[0][5, 3, 3] ^= 1
    with pytest.raises(DataError, match="sha256"):
        fetch("fashion_mnist", lay(tmp_path / "root", arrays), lambda line: None)
    assert not listed(cache / "data")


def test_every_source_is_named_with_its_reason(tmp_path, cache, offline):
    with pytest.raises(DataError) as error:
        fetch("fashion_mnist", None, lambda line: None)
    lines = str(error.value).splitlines()
    assert lines[0] == "fashion_mnist cannot be had from any source:"
    assert lines[1:4] == [
        f"  system copy in {sources.SYSTEM}: no such folder",
        "  torchvision's download from fashion-mnist.s3-website.eu-central-1.amazonaws.com: "
        "fashion-mnist.s3-website.eu-central-1.amazonaws.com cannot be reached (Name or service not known)",
        "  Debian's package dataset-fashion-mnist: no apt-get and no dpkg-deb on this machine",
    ]
    assert "data.root=FOLDER" in lines[4]
    assert not listed(cache / "data")


def test_no_other_copy_takes_the_place_of_the_named_one(tmp_path, cache, offline, arrays, monkeypatch):
    """Twice: a second command must not find what the first one left."""
    monkeypatch.setattr(sources, "from_torchvision", lambda spec: pytest.fail("asked for a download"))
    (tmp_path / "a.zip").write_bytes(b"no zip")
    for root, why in ((tmp_path, "no train-images-idx3"), (tmp_path / "a.zip", "a file; wanted is a folder")):
        for get in (fetch, loaded):
            for _ in range(2):
                with pytest.raises(DataError, match=why):
                    get("fashion_mnist", root=root, say=lambda line: None)
    assert not listed(cache / "data")


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
@pytest.mark.parametrize("damage", ["cut", "changed", "emptied"])
def test_a_damaged_archive_is_one_line_that_names_it_and_the_way_out(tmp_path, cache, offline, kind, damage):
    root, path = tmp_path / "root" / "train" / "cat", tmp_path / f"images.{kind}"
    root.mkdir(parents=True)
    (root / "0.png").write_bytes(np.random.default_rng(0).bytes(3000))  # which no compression makes shorter
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(root / "0.png", "train/cat/0.png")
    else:
        with tarfile.open(path, f"w:{kind.partition('.')[2]}") as packed:
            packed.add(root, "train/cat")
    content = path.read_bytes()
    changed = bytes([content[1] ^ 255]) * 12 + content[12:]
    path.write_bytes({"cut": content[:2000], "changed": changed, "emptied": b""}[damage])
    for get in (fetch, loaded):
        with pytest.raises(
            DataError, match=r"^cifar10 .*images\.\S+.*: take it from its source again$"
        ) as told:
            get("cifar10", root=path, say=lambda line: None)
        assert "\n" not in str(told.value)


def test_digits_and_unknown_names(cache):
    said = []
    fetch("digits", None, said.append)
    assert said == ["digits: come with scikit-learn, nothing to fetch"]
    with pytest.raises(DataError, match="there are digits, fashion_mnist, cifar10, cifar100"):
        fetch("mnist")


def test_a_host_that_never_answers_is_given_up(monkeypatch):
    answer = threading.Event()

    def hang(*args):
        answer.wait(10)
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", hang)
    start = time.monotonic()
    with pytest.raises(DataError, match=r"example\.org does not answer within 0\.1 s"):
        sources.probe("example.org", 80, 0.1)
    assert time.monotonic() - start < 5
    answer.set()


def apt(tmp_path: Path, arrays, monkeypatch, lists: bool) -> list[list[str]]:
    """Stand-ins for apt-get and dpkg-deb; without lists the first download fails as the real one does."""
    calls = []

    def run(command, cwd, **kwargs):
        calls.append(command)
        known = lists or any("Dir::State::lists" in word for word in command)
        if command[-2:] == ["download", sources.PACKAGE]:
            if not known:
                return subprocess.CompletedProcess(
                    command, 100, "", f"E: Unable to locate package {command[-1]}"
                )
            (cwd / "dataset.deb").touch()
        if command[0] == "dpkg-deb":
            lay(cwd / "unpacked" / sources.SYSTEM.relative_to("/"), arrays, zipped=True)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(sources.shutil, "which", lambda tool: f"/usr/bin/{tool}")
    monkeypatch.setattr(sources.subprocess, "run", run)
    return calls


@pytest.mark.parametrize(
    ("lists", "verbs"), [(True, ["download"]), (False, ["download", "update", "download"])]
)
def test_debians_package(tmp_path, cache, offline, arrays, monkeypatch, lists, verbs):
    calls = apt(tmp_path, arrays, monkeypatch, lists)
    fetch("fashion_mnist", None, lambda line: None)
    asked = [next(word for word in call if word in ("download", "update")) for call in calls[:-1]]
    assert asked == verbs
    assert calls[-1][0] == "dpkg-deb"
    assert (cache / "data" / "fashion_mnist.safetensors").exists()


def test_what_apt_says_is_passed_on(cache, offline, arrays, monkeypatch, tmp_path):
    monkeypatch.setattr(sources.shutil, "which", lambda tool: f"/usr/bin/{tool}")
    failed = subprocess.CompletedProcess([], 100, "", "W: no matter\nE: Failed to fetch http://x  404")
    monkeypatch.setattr(sources.subprocess, "run", lambda *args, **kwargs: failed)
    with pytest.raises(
        DataError, match=r"`apt-get download dataset-fashion-mnist`: E: Failed to fetch http://x  404\n"
    ):
        fetch("fashion_mnist", None, lambda line: None)


def cifar_archive(root: Path, monkeypatch) -> np.ndarray:
    """CIFAR-10's archive with two images a batch, and its MD5 sums made known to torchvision."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import calculate_md5

    rng, parts, sums = np.random.default_rng(0), [], {}
    base = root / "made" / CIFAR10.base_folder
    base.mkdir(parents=True)
    for name in [name for name, _ in CIFAR10.train_list + CIFAR10.test_list]:
        parts.append(rng.integers(0, 256, (2, 3072), np.uint8))
        (base / name).write_bytes(pickle.dumps({"data": parts[-1], "labels": [3, 7]}))
        sums[name] = calculate_md5(base / name)
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    with tarfile.open(root / CIFAR10.filename, "w:gz") as archive:
        archive.add(base, CIFAR10.base_folder)
    monkeypatch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name, _ in CIFAR10.train_list])
    monkeypatch.setattr(CIFAR10, "test_list", [[name, sums[name]] for name, _ in CIFAR10.test_list])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": calculate_md5(base / "batches.meta")})
    monkeypatch.setattr(CIFAR10, "tgz_md5", calculate_md5(root / CIFAR10.filename))
    spec = data.DataSpec("cifar10", 10, (3, 32, 32), (0.5,) * 3, (0.2,) * 3, (1, 1, 1), True, (10, 2))
    monkeypatch.setitem(data.SPECS, "cifar10", spec)
    return np.concatenate(parts).reshape(-1, 3, 32, 32)


def test_cifar_from_its_archive_and_from_its_folder(tmp_path, cache, offline, monkeypatch):
    images = cifar_archive(tmp_path, monkeypatch)
    for root in (tmp_path, tmp_path / "made"):
        path = fetch("cifar10", root, lambda line: None)
        raw, _ = read_raw(data.SPECS["cifar10"], path.parent)
        assert np.array_equal(torch.cat([raw["train_images"], raw["test_images"]]).numpy(), images)
        assert raw["train_labels"].tolist() == [3, 7] * 5
        path.unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "cifar-10-python.tar.gz", "made"]


def test_a_tampered_cifar_is_never_unpickled(tmp_path, cache, offline, monkeypatch):
    cifar_archive(tmp_path, monkeypatch)
    batch = tmp_path / "made" / "cifar-10-batches-py" / "data_batch_3"
    batch.write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(DataError, match="data_batch_3 is missing or damaged"):
        fetch("cifar10", tmp_path / "made", lambda line: None)
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz is damaged"):
        fetch("cifar10", tmp_path, lambda line: None)
    assert not (tmp_path / "exploded").exists()


class Bomb:
    """Pickles to a call that makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_the_command(tmp_path):
    """In a process of its own: exit status 2 and one message, not a traceback, when nothing has the data."""
    environment = os.environ | {"AMC_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "experiments.fetch", "data=imagefolder", f"data.root={tmp_path}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: data.root is {tmp_path}, but there is no {tmp_path}/train")
    assert len(done.stderr.splitlines()) == 1


def test_cifar_from_images_remembers_that_they_are_copies(tmp_path, cache, offline, monkeypatch):
    names = pictures.CLASSES["cifar10"]
    for part, name in itertools.product(("train", "test"), names):
        (tmp_path / "images" / part / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "images" / part / name / "0.jpg")
    spec = data.DataSpec("cifar10", 10, (3, 32, 32), (0.5,) * 3, (0.2,) * 3, (1, 1, 1), True, (10, 10))
    monkeypatch.setitem(data.SPECS, "cifar10", spec)
    said = []
    fetch("cifar10", tmp_path / "images", said.append)
    assert said[0] == f"cifar10: trying images in {tmp_path / 'images'}"
    assert "10 + 10 images (JPEG copies), checked" in said[1]
    assert data.load("cifar10").copy == "JPEG copies"
