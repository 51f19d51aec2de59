"""Reads a data set from class folders of small images, or from an archive of them."""

import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePath, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from amc_env.checks import number_of
from amc_env.data.archives import explained, hidden
from amc_env.data.decoding import decoded
from amc_env.data.specs import DataSpec
from amc_env.data.splits import DataError

COPIES = {".jpg": "JPEG copies", ".jpeg": "JPEG copies", ".png": "PNG copies"}
CLASSES = {
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}
PARTS = ("train", "test")
Entry = tuple[str, str, str]  # part (train or test), class name, file name


def holds_pictures(root: Path) -> bool:
    """Whether a path looks like what `read` takes: a zip or tar archive, or a folder with train and test."""
    if root.is_dir():
        return any((_top(root) / part).is_dir() for part in PARTS)
    try:
        return root.is_file() and (zipfile.is_zipfile(root) or tarfile.is_tarfile(root))
    except EOFError:  # of a tar.gz that is cut short, which `read` explains
        return True


def read(spec: DataSpec, root: Path) -> tuple[dict[str, Tensor], str]:
    """The images of ``train/<class>/*`` and ``test/<class>/*``, and the name of that kind of copy.

    Labels number the class names in alphabetical order. Images are sorted by file name, then
    by class: where every class numbers its files from 0, the first images of a part come from all classes.

    Args:
        spec: the expected data set; shape, classes and sizes are checked against it.
        root: a folder, or a zip or tar archive; folders above ``train`` and ``test`` are ignored.

    Raises:
        DataError: for other classes, counts, sizes or kinds of files, found and expected.
    """
    entries, images, suffixes = [], [], set()
    for entry, content in _files(root):
        entries.append(entry)
        images.append(_pixels(spec, f"{root}: {'/'.join(entry)}", content))
        suffixes.add(PurePosixPath(entry[2]).suffix.lower())
    classes = _classes(spec, root, entries)
    copies = {COPIES[suffix] for suffix in suffixes}
    if len(copies) > 1:
        raise DataError(f"{root} mixes {' and '.join(sorted(copies))}; give a copy of one kind")
    raw = {}
    for part in PARTS:
        at = sorted((e[2], classes.index(e[1]), i) for i, e in enumerate(entries) if e[0] == part)
        raw[f"{part}_images"] = torch.from_numpy(np.stack([images[index] for *_, index in at]))
        raw[f"{part}_labels"] = torch.tensor([label for _, label, _ in at])
    return raw, copies.pop()


def _files(root: Path) -> Iterator[tuple[Entry, bytes]]:
    """Each image file's place and content; other files are ignored."""
    with explained(root):
        if root.is_dir():
            for path in sorted((top := _top(root)).glob("*/*/*")):
                if (entry := _entry(path.relative_to(top).as_posix())) is not None:
                    yield entry, path.read_bytes()
        elif zipfile.is_zipfile(root):
            with zipfile.ZipFile(root) as pack:
                for name in pack.namelist():
                    if (entry := _entry(name)) is not None:
                        yield entry, pack.read(name)
        else:
            with tarfile.open(root) as archive:
                for member in archive:
                    if (entry := _entry(member.name)) and (file := archive.extractfile(member)):
                        yield entry, file.read()
                _check_end(archive)


def _check_end(archive: tarfile.TarFile) -> None:
    """Refuse a tar archive that is cut within a header, where `tarfile` ends as if it were whole."""
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if 0 < len(archive.fileobj.read(tarfile.BLOCKSIZE)) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("unexpected end of data")


def _top(root: Path) -> Path:
    """A folder, or the only folder in it where it has no train and test of its own."""
    inside = [path for path in root.iterdir() if path.is_dir() and not hidden(PurePath(path.name))]
    own = any(path.name in PARTS for path in inside)
    return inside[0] if len(inside) == 1 and not own else root


def _entry(name: str) -> Entry | None:
    parts = PurePosixPath(name).parts[-3:]
    if len(parts) < 3 or parts[0] not in PARTS or hidden(PurePosixPath(*parts)):
        return None
    return (parts[0], parts[1], parts[2]) if PurePosixPath(name).suffix.lower() in COPIES else None


def _pixels(spec: DataSpec, name: str, content: bytes) -> np.ndarray:
    """One image ``(C, H, W)`` uint8 of the expected size; nothing is scaled."""
    channels, height, width = spec.shape
    image = decoded(content, name, "RGB" if channels == 3 else "L")
    if image.size != (width, height):
        raise DataError(
            f"{name} is {image.size[0]} x {image.size[1]} pixels; {spec.name} has {width} x {height}"
        )
    pixels = np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)
    return np.ascontiguousarray(pixels)


def _classes(spec: DataSpec, root: Path, entries: list[Entry]) -> list[str]:
    """The class names in order; checks that both parts have the expected ones."""
    train, test = (sorted({name for at, name, _ in entries if at == part}) for part in PARTS)
    if missing := [part for part, found in zip(PARTS, (train, test), strict=True) if not found]:
        places = " and ".join(f"{part}/<class>/" for part in missing)
        raise DataError(f"{root} has no images ({', '.join(COPIES)}) under {places}")
    if train != test:
        odd = ", ".join(sorted(set(train) ^ set(test))[:5])
        raise DataError(f"{root}: train and test differ in their classes: {odd}")
    wanted = CLASSES.get(spec.name)
    if len(train) != spec.classes or (wanted is not None and train != list(wanted)):
        found, names = ", ".join(train[:12]), f" ({', '.join(wanted)})" if wanted else ""
        raise DataError(
            f"{root} has {number_of(len(train), 'class', 'classes')} ({found}); {spec.name} has "
            f"{spec.classes}{names}"
        )
    return train
