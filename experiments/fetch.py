"""Bring a data set to this machine: ``python -m experiments.fetch data=fashion_mnist``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.cli import config

if TYPE_CHECKING:  # torch takes seconds to import; a misspelt key is told before
    from omegaconf import DictConfig

    from amc_env.data.sources import Raw
    from amc_env.data.splits import DataSet


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
    from amc_env.data.sources import sources
    from amc_env.data.splits import SPECS, DataError, data_folder, read_raw

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
        write(raw, path, copy)
        counts = " + ".join(str(len(raw[f"{part}_labels"])) for part in ("train", "test"))
        say(f"{name}: {counts} images ({copy}), checked, now in {path}")
        return path
    reasons = "".join(f"\n  {source}: {reason}" for source, reason in tried)
    raise DataError(
        f"{name} cannot be had from any source:{reasons}\n"
        f"Put its raw files into a folder and name it: `experiments.fetch data={name} data.root=FOLDER`"
    )


def write(raw: Raw, path: Path, copy: str) -> None:
    """Write the tensors of a data set and which copy they are.

    A reader sees the old file or the whole new one, never a part.
    """
    from safetensors.torch import save

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        # save_file would make it readable by its owner alone
        partial.write_bytes(save(raw, metadata={"copy": copy}))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_data(node: DictConfig, say: Callable[[str], None] = print) -> DataSet:
    """The data set that the ``data`` group asks for, fetched first where this machine lacks it."""
    from amc_env.data import imagefolder
    from amc_env.data import splits as data

    root = None if node.root is None else Path(node.root)
    if node.name == "imagefolder":
        if root is None:
            raise data.DataError(
                "an image folder has to be named: data.root=FOLDER, with train/ and val/ in it"
            )
        return imagefolder.load(root, seed=node.seed, **node.options)
    if node.name != "digits" and not (data.data_folder() / f"{node.name}.safetensors").exists():
        fetch(node.name, root, say)
    return data.load(node.name, seed=node.seed)


@config.main("fetch")
def main(cfg: DictConfig, folder: Path) -> None:
    """Fetch one data set."""
    if cfg.data.name == "imagefolder":
        load_data(cfg.data)
    else:
        fetch(cfg.data.name, None if cfg.data.root is None else Path(cfg.data.root))


if __name__ == "__main__":
    main()
