"""Sources of a data set's raw images; each returns checked tensors, or raises with the reason."""

import gzip
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from amc_env.data import pictures
from amc_env.data.archives import AGAIN
from amc_env.data.specs import DataSpec
from amc_env.data.splits import OFFICIAL, DataError, check_raw

Raw = dict[str, Tensor]  # train_images, train_labels, test_images, test_labels
SYSTEM = Path("/usr/share/datasets/fashion-mnist")
PACKAGE = "dataset-fashion-mnist"  # Debian's
HOSTS = {
    "fashion_mnist": ("fashion-mnist.s3-website.eu-central-1.amazonaws.com", 80),
    "cifar10": ("www.cs.toronto.edu", 443),
    "cifar100": ("www.cs.toronto.edu", 443),
}
PROBE_SECONDS = 5.0  # for a first answer of a host, its name look-up included
STALL_SECONDS = 20.0  # without a byte, once connected
APT_SECONDS = 300.0


def sources(spec: DataSpec, root: Path | None) -> Iterator[tuple[str, Callable[[], tuple[Raw, str]]]]:
    """Name and reader of each source in the order of trial; a reader also returns the name of its copy.

    A root that the user names is the only source, so that no other copy takes its place.
    """
    fashion = spec.name == "fashion_mnist"
    if root is not None and not fashion and pictures.holds_pictures(root):
        yield f"images in {root}", lambda: from_pictures(spec, root)
        return
    if root is not None:
        yield f"files in {root}", lambda: (from_folder(spec, root), OFFICIAL)
        return
    if fashion:
        yield f"system copy in {SYSTEM}", lambda: (from_folder(spec, SYSTEM), OFFICIAL)
    yield f"torchvision's download from {HOSTS[spec.name][0]}", lambda: (from_torchvision(spec), OFFICIAL)
    if fashion:
        yield f"Debian's package {PACKAGE}", lambda: (from_debian(spec), OFFICIAL)


def from_pictures(spec: DataSpec, root: Path) -> tuple[Raw, str]:
    """The data set as class folders of images or an archive of them, see `pictures.read`."""
    raw, copy = pictures.read(spec, root)
    check_raw(spec, raw, root)
    return raw, copy


def from_folder(spec: DataSpec, root: Path) -> Raw:
    """The data set in a folder: IDX files for Fashion-MNIST, the python archive or its content for CIFAR."""
    if root.is_file():
        if spec.name == "fashion_mnist":
            raise DataError("a file; wanted is a folder")
        raise DataError(f"a file that is no whole zip or tar archive of images, nor a folder: {AGAIN}")
    if not root.is_dir():
        raise DataError("no such folder")
    raw = _idx_files(root) if spec.name == "fashion_mnist" else _cifar_files(spec.name, root)
    check_raw(spec, raw, root)
    return raw


def from_torchvision(spec: DataSpec) -> Raw:
    """Torchvision's download, abandoned within seconds if its host does not answer."""
    host, port = HOSTS[spec.name]
    probe(host, port, PROBE_SECONDS)
    datasets = _datasets()
    with tempfile.TemporaryDirectory() as folder, _stalling(STALL_SECONDS):
        try:
            if spec.name == "fashion_mnist":
                datasets.FashionMNIST(folder, download=True)
                raw = _idx_files(Path(folder))
            else:
                raw = _cifar(spec.name, Path(folder), download=True)
        except RuntimeError as error:  # torchvision raises it for a failed or damaged download
            raise DataError(str(error)) from error
    check_raw(spec, raw, host)
    return raw


def from_debian(spec: DataSpec) -> Raw:
    """Debian's package, unpacked in a temporary folder: nothing is installed, no root is needed."""
    if missing := [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]:
        raise DataError(f"no {' and no '.join(missing)} on this machine")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = ["-q", "-o", "Acquire::http::Timeout=20", "-o", "Acquire::Retries=1"]
        if os.geteuid() == 0:  # else apt warns that its sandbox user cannot write here
            options += ["-o", "APT::Sandbox::User=root"]
        try:
            _call(["apt-get", *options, "download", PACKAGE], folder)
        except DataError as error:
            if "Unable to locate" not in str(error):
                raise
            (folder / "lists" / "partial").mkdir(parents=True)
            options += ["-o", f"Dir::State::lists={folder / 'lists'}", "-o", f"Dir::Cache={folder}"]
            _call(["apt-get", *options, "update"], folder)  # own lists: the machine's need root
            _call(["apt-get", *options, "download", PACKAGE], folder)
        _call(["dpkg-deb", "-x", str(next(folder.glob("*.deb"))), "unpacked"], folder)
        return from_folder(spec, folder / "unpacked" / SYSTEM.relative_to("/"))


def probe(host: str, port: int, seconds: float) -> None:
    """Raise a `DataError` unless a host accepts a connection in time; a look-up that hangs is left alone."""
    failure: list[OSError | None] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), seconds).close()
            failure.append(None)
        except OSError as error:
            failure.append(error)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds)
    if not failure:
        raise DataError(f"{host} does not answer within {seconds:g} s")
    if failure[0] is not None:
        raise DataError(f"{host} cannot be reached ({failure[0].strerror or failure[0]})")


def read_idx(path: Path) -> Tensor:
    """A file in the IDX format of MNIST, gzipped or not, as uint8.

    Source: http://yann.lecun.com/exdb/mnist: two zero bytes, the type (8: unsigned byte), the number of
    dimensions, each size as a big-endian int32, then the bytes.

    Raises:
        DataError: when the file is damaged, cut short or too long.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged ({error}): {AGAIN}") from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise DataError(f"{path} is not an IDX file of bytes: it starts with {content[:4].hex()}")
    start = 4 + 4 * content[3]
    sizes = np.frombuffer(content[4:start], ">i4")
    expected = start + int(np.prod(sizes, dtype=np.int64))
    if len(sizes) != content[3] or len(content) != expected:
        raise DataError(f"{path} is damaged: {len(content)} bytes, its header asks for {expected}; {AGAIN}")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).reshape(sizes).copy())


def _idx_files(root: Path) -> Raw:
    raw = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        raw[f"{part}_images"] = read_idx(_find(root, f"{prefix}-images-idx3-ubyte")).unsqueeze(1)
        raw[f"{part}_labels"] = read_idx(_find(root, f"{prefix}-labels-idx1-ubyte")).long()
    return raw


def _find(root: Path, stem: str) -> Path:
    for folder in (root, root / "FashionMNIST" / "raw", root / "fashion-mnist"):
        for name in (stem, f"{stem}.gz"):
            if (folder / name).is_file():
                return folder / name
    raise DataError(f"no {stem} or {stem}.gz")


def _datasets() -> ModuleType:
    """Torchvision's data sets."""
    from torchvision import datasets  # 3 s to import, which only a download and CIFAR's raw files need

    return datasets


def _cifar_files(name: str, root: Path) -> Raw:
    """CIFAR from a folder; its files are pickles, so only those that torchvision's MD5 sums know are read."""
    datasets = _datasets()
    known, check_integrity = getattr(datasets, name.upper()), datasets.utils.check_integrity
    if (root / known.base_folder).is_dir():
        for file, md5 in known.train_list + known.test_list:
            if not check_integrity(root / known.base_folder / file, md5):
                raise DataError(
                    f"{root / known.base_folder / file} is missing or damaged (MD5 is not {md5}): {AGAIN}"
                )
        return _cifar(name, root, download=False)
    if not (archive := root / known.filename).is_file():
        raise DataError(f"no {known.base_folder}, no {known.filename}, no train and test with class folders")
    if not check_integrity(archive, known.tgz_md5):
        raise DataError(f"{archive} is damaged (MD5 is not {known.tgz_md5}): {AGAIN}")
    with tempfile.TemporaryDirectory() as folder:  # the archive is unpacked there, not beside itself
        (Path(folder) / known.filename).symlink_to(archive.resolve())
        return _cifar(name, Path(folder), download=True)


def _cifar(name: str, folder: Path, *, download: bool) -> Raw:
    known, raw = getattr(_datasets(), name.upper()), {}
    for part in ("train", "test"):
        read = known(folder, train=part == "train", download=download)
        raw[f"{part}_images"] = (
            torch.from_numpy(read.data).permute(0, 3, 1, 2).contiguous()
        )  # from N, H, W, C
        raw[f"{part}_labels"] = torch.tensor(read.targets)
    return raw


def _call(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=APT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(f"`{command[0]}` took longer than {APT_SECONDS:g} s") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith(("E:", "dpkg"))] or [
            done.stderr.strip()
        ]
        raise DataError(f"`{command[0]} {command[-2]} {command[-1]}`: {'; '.join(lines)}")


@contextmanager
def _stalling(seconds: float) -> Iterator[None]:
    """Set a timeout for sockets that are opened inside; torchvision has no setting for it."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
