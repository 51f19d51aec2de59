"""Fetches a data set from the first source that has it."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from amc_env import files, tensor_files
from amc_env.data.sources import Raw, sources
from amc_env.data.specs import SPECS
from amc_env.data.splits import CACHE, DataError, DataSet, data_folder, load, read_raw, split_dataset

Say = Callable[[str], None]


def fetch(name: str, root: Path | None = None, say: Say = print) -> Path:
    """Create the file of a data set in the data folder, from the first source that has it.

    A second process waits for the first.

    Args:
        name: a key of `amc_env.data.specs.SPECS`.
        root: a folder with the data set's raw files, or a folder or archive of its images; no other source
            is tried then.
        say: called with one line for each attempt.

    Returns:
        The path of the file; an intact one that is already there is kept.

    Raises:
        DataError: why the root cannot be read, or every source that was tried and why it failed, or when the
            file cannot be written.
    """
    if name not in SPECS:
        raise DataError(f"unknown data set {name!r}; there are {', '.join(SPECS)}")
    path = data_folder() / f"{name}.safetensors"
    if name == "digits":
        say("digits: come with scikit-learn, nothing to fetch")
        return path
    with _in_turn(path, say):
        try:
            read_raw(SPECS[name], path.parent)
        except DataError as error:
            raw, facts = _from_source(name, root, say, error)
        else:
            elsewhere = root is not None and _cached_from(path) != str(root.resolve())
            say(
                f"{name}: already in {path}"
                + (f", not from {root}: delete it to read that" if elsewhere else "")
            )
            return path
        try:
            tensor_files.write(path, raw, **facts)
        except OSError as error:
            raise DataError(_unwritable(path, error)) from error
    say(f"{name}: now in {path}")
    return path


def loaded(name: str, *, seed: int = 0, root: Path | None = None, say: Say = print) -> DataSet:
    """The data set; it is fetched first if this machine lacks it.

    If the data folder cannot be written, the data set is returned all the same, with a warning.

    Args:
        name: as in `fetch`.
        seed: draws the held-out splits.
        root: as in `fetch`; where the file in the data folder was not made from it, it is read each time.
        say: as in `fetch`.

    Raises:
        DataError: why the root cannot be read, or every source that was tried and why it failed.
    """
    path = data_folder() / f"{name}.safetensors"
    if root is not None and name != "digits" and path.is_file() and _cached_from(path) != str(root.resolve()):
        say(f"{name}: {path} was not made from {root}, which is read")
        source, read = next(iter(sources(SPECS[name], root)))
        try:
            raw, copy = read()
        except (DataError, OSError) as error:
            raise _unreadable(name, source, error) from error
        return split_dataset(SPECS[name], raw, seed, copy=copy)
    try:
        return load(name, seed=seed)
    except DataError:
        if name not in SPECS:
            raise
    with _in_turn(path, say):
        try:
            return load(name, seed=seed)  # another process may have fetched it meanwhile
        except DataError as error:
            raw, facts = _from_source(name, root, say, error)
        try:
            tensor_files.write(path, raw, **facts)
        except OSError as error:
            warnings.warn(_unwritable(path, error), stacklevel=2)
    return split_dataset(SPECS[name], raw, seed, copy=facts["copy"])


def _cached_from(path: Path) -> str | None:
    """The user's folder or archive that a cached file was made from; None for another source."""
    try:
        return tensor_files.facts(path).get("root")
    except (OSError, files.DamagedError):
        return None


def _from_source(name: str, root: Path | None, say: Say, before: DataError) -> tuple[Raw, dict[str, str]]:
    """The tensors from the first source that has them, and its facts: the copy's name, and the user's root.

    Args:
        name: as in `fetch`.
        root: as in `fetch`.
        say: as in `fetch`.
        before: why the file in the data folder is not used.
    """
    path = data_folder() / f"{name}.safetensors"
    tried = []
    if not isinstance(before.__cause__, FileNotFoundError):
        tried.append((str(path), str(before)))
        say(f"{name}: {path} is not usable, looking for another source")
    for source, read in sources(SPECS[name], root):
        say(f"{name}: trying {source}")
        try:
            raw, copy = read()
        except (DataError, OSError) as error:
            if root is not None:
                raise _unreadable(name, source, error) from error
            say(f"{name}: no: {error}")
            tried.append((source, str(error)))
            continue
        counts = " + ".join(str(len(raw[f"{part}_labels"])) for part in ("train", "test"))
        say(f"{name}: {counts} images ({copy}), checked")
        own = {"root": str(root.resolve())} if root is not None else {}
        return raw, {"copy": copy} | own
    reasons = "".join(f"\n  {source}: {reason}" for source, reason in tried)
    raise DataError(
        f"{name} cannot be had from any source:{reasons}\n"
        f"Put its raw files into a folder and name it: `experiments.fetch data={name} data.root=FOLDER`"
    )


@contextmanager
def _in_turn(path: Path, say: Say) -> Iterator[None]:
    """Wait while another process makes a file; where no lock can be created, the file cannot be either."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"))
        try:
            held = lock.acquire(blocking=False)
        except Timeout:
            say(f"another process makes {path}: waiting for it")
            held = lock.acquire()
    except OSError:
        yield
        return
    with held:
        files.remove_partials(path.parent, path.name)
        yield


def _unreadable(name: str, source: str, error: Exception) -> DataError:
    return DataError(f"{name} cannot be read from {source}: {error}")


def _unwritable(path: Path, error: OSError) -> str:
    return f"{path} cannot be written ({error}): set {CACHE} in the environment to a folder that can"
