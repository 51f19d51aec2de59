"""Fetches a data set from the first source that has it."""

from collections.abc import Callable
from pathlib import Path

from amc_env import tensor_files
from amc_env.data.sources import sources
from amc_env.data.splits import SPECS, DataError, data_folder, read_raw


def fetch(name: str, root: Path | None = None, say: Callable[[str], None] = print) -> Path:
    """Make the file of a data set in the data folder from the first source that has it.

    Args:
        name: a key of `amc_env.data.splits.SPECS`.
        root: a folder that may hold the data set's raw files, tried before all other sources.
        say: takes one line for each thing that is tried.

    Returns:
        The path of the file; an intact one that is already there is kept.

    Raises:
        DataError: with every source that was tried and why it failed.
    """
    if name not in SPECS:
        raise DataError(f"unknown data set {name!r}; there are {', '.join(SPECS)}")
    spec, folder = SPECS[name], data_folder()
    path = folder / f"{name}.safetensors"
    if name == "digits":
        say("digits: come with scikit-learn, nothing to fetch")
        return path
    tried = []
    if path.exists():
        try:
            read_raw(spec, folder)
        except DataError as error:
            say(f"{name}: {path} is not usable, looking for another source")
            tried.append((str(path), str(error)))
        else:
            say(f"{name}: already in {path}")
            return path
    for source, read in sources(spec, root):
        say(f"{name}: trying {source}")
        try:
            raw, copy = read()
        except (DataError, OSError) as error:
            say(f"{name}: no: {error}")
            tried.append((source, str(error)))
            continue
        tensor_files.write(path, raw, copy=copy)
        counts = " + ".join(str(len(raw[f"{part}_labels"])) for part in ("train", "test"))
        say(f"{name}: {counts} images ({copy}), checked, now in {path}")
        return path
    reasons = "".join(f"\n  {source}: {reason}" for source, reason in tried)
    raise DataError(
        f"{name} cannot be had from any source:{reasons}\n"
        f"Put its raw files into a folder and name it: `experiments.fetch data={name} data.root=FOLDER`"
    )
