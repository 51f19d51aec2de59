"""Loads the data set that a configuration names, and fetches it if it is missing."""

import inspect
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
SEED = 0  # of conf/data/import.yaml


def run(cfg: DictConfig, folder: Path) -> None:
    """Fetch the data set of the ``data`` group, or check the user's own folder."""
    if cfg.data.name in FOLDERS:
        load_data(cfg.data)
    else:
        fetch(cfg.data.name, None if cfg.data.root is None else Path(cfg.data.root))


def load_data(node: DictConfig) -> Any:
    """Load the data set of a ``data`` group; it is fetched first if it is missing.

    With ``data=import`` a user's function returns it, a `DataSet` or `amc_env.data.own.OwnData`. The function
    gets ``data.seed`` if it has a parameter ``seed``.

    Raises:
        DataError: for an unknown data set, one that no source has, a folder without ``data.root``, or a
            ``data.seed`` that the user's function does not take.
    """
    root = None if node.root is None else Path(node.root)
    if node.name == "import":
        return _imported(node)
    if node.name in FOLDERS:
        if root is None:
            raise DataError(f"data={node.name} has no folder to read: give data.root=PATH")
        with config.config_errors("data.options"):
            return FOLDERS[node.name](root, seed=node.seed, **config.plain(node.options))
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
            f"{data.name} has no class labels: give a DataSet, for example of "
            "amc_env.data.tensors.from_tensors, or your own metric=module:function"
        )
    if root is not None and data.name == "photos" and not photos.labelled(Path(root), data.classes):
        raise DataError(
            f"the photographs in {root} are not in folders of {data.classes} classes: without labels nothing "
            "is learnt, and no accuracy measured"
        )


def _imported(node: DictConfig) -> Any:
    options = config.plain(node.options)
    target = options.pop("target")
    make = function(target, "data.options.target")
    found = make(**options, **_seed(make, target, options, node.seed))
    if not isinstance(found, DataSet | OwnData):
        raise DataError(
            f"{target} returned {type(found).__name__}, not an amc_env.data.own.OwnData or the DataSet of "
            "amc_env.data.tensors.from_tensors"
        )
    return found


def _seed(make: Callable[..., Any], target: str, options: dict[str, Any], seed: int) -> dict[str, int]:
    """``data.seed`` for a user's function that has a parameter ``seed``, unless the options hold one."""
    if "seed" in options:
        if seed not in (SEED, options["seed"]):
            raise DataError(
                f"data.seed={seed}, but data.options.seed={options['seed']}: leave one of them out"
            )
        return {}
    if "seed" in inspect.signature(make).parameters:
        return {"seed": seed}
    if seed != SEED:
        raise DataError(f"{target} takes no seed: leave data.seed out, or give it a parameter seed")
    return {}
