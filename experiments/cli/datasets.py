"""Loads the data set that a configuration names, and fetches it if it is missing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from amc_env.data import imagefolder, photos
from amc_env.data.fetch import fetch, loaded
from amc_env.data.own import OwnData
from amc_env.data.splits import DataError, DataSet
from amc_env.functions import function
from experiments.cli import config

FOLDERS: dict[str, Callable[..., DataSet]] = {
    "imagefolder": imagefolder.load,
    "photos": photos.load,
}  # the user's own, at ``data.root``


def run(cfg: DictConfig, folder: Path) -> None:
    """Fetch the data set of the ``data`` group, or check the user's own folder."""
    if cfg.data.name in FOLDERS:
        load_data(cfg.data)
    else:
        fetch(cfg.data.name, None if cfg.data.root is None else Path(cfg.data.root))


def load_data(node: DictConfig) -> Any:
    """Load the data set of a ``data`` group; it is fetched first if it is missing.

    With ``data=import`` a user's function returns it, a `DataSet` or `amc_env.data.own.OwnData`.

    Raises:
        DataError: for an unknown data set, one that no source has, or a folder without ``data.root``.
    """
    root = None if node.root is None else Path(node.root)
    if node.name == "import":
        return _imported(node)
    if node.name in FOLDERS:
        if root is None:
            raise DataError(f"data={node.name} is read from a place of yours: give data.root=PATH")
        with config.config_errors("data.options"):
            return FOLDERS[node.name](root, seed=node.seed, **node.options)
    return loaded(node.name, seed=node.seed, root=root)


def refuse_unlabelled(data: Any, root: str | None = None) -> None:
    """Refuse data without class labels, from which no classifier is trained and no accuracy is measured.

    Args:
        data: of `load_data`.
        root: of photographs, to refuse those that are in no class folders as well.

    Raises:
        DataError: if they have no labels.
    """
    if not isinstance(data, DataSet):
        raise DataError(
            f"{data.name} has no class labels: give a DataSet, as of from_tensors, or evaluate a metric of "
            "your own, metric=module:function"
        )
    if root is not None and data.name == "photos" and not photos.labelled(Path(root), data.classes):
        raise DataError(
            f"the photographs in {root} are not in folders of {data.classes} classes: without labels nothing "
            "is learnt, and no accuracy measured"
        )


def _imported(node: DictConfig) -> Any:
    options = {str(key): value for key, value in node.options.items()}
    target = options.pop("target")
    found = function(target, "data.options.target")(**options)
    if not isinstance(found, DataSet | OwnData):
        raise DataError(
            f"{target} returned {type(found).__name__}, not an amc_env.data.own.OwnData or the DataSet of "
            "amc_env.data.splits.from_tensors"
        )
    return found
