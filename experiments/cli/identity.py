"""Checks that networks and images are those that a record, or a training, was begun with."""

import torch
from torch import nn

from amc_env.card import Card, CheckpointError
from amc_env.data.own import OwnData
from amc_env.data.pictures import COPIES
from amc_env.data.splits import OFFICIAL, SPLITS, DataSet, digest
from experiments.recording.record import RecordError, RunRecord

HELD_OUT = tuple(split for split in SPLITS if split != "train")


def images_of(data: DataSet | OwnData) -> str:
    """A short hash of the images of all splits but train, in their order."""
    if isinstance(data, DataSet):
        return digest([data[split].images for split in HELD_OUT])[:16]
    return "-".join(data.fingerprint(split) for split in HELD_OUT)


def _digests(data: DataSet | OwnData) -> dict[str, str]:
    """`images_of` and, where they are a data set's, a short hash of labels and normalisation."""
    found = {"data": images_of(data)}
    if isinstance(data, DataSet) and data.name != "photos":  # whose labels may be the network's
        scale = torch.tensor([*data.mean, *data.std])
        found["labels"] = digest([*(data[split].labels for split in HELD_OUT), scale])[:16]
    return found


def check_identity(record: RunRecord, model: nn.Module, data: DataSet | OwnData) -> dict[str, str]:
    """Check that network and data are those that a record was begun with.

    Returns:
        Their digests, for the record's results.

    Raises:
        RecordError: if the checkpoint has other weights by now, or the data other images.
    """
    weights_of = digest([value.cpu() for value in model.state_dict().values()])
    if record.content["results"].get("weights") not in (None, weights_of):
        raise RecordError(
            f"{record.folder} was begun with other weights than the network has now: put the checkpoint "
            "back that it had, or begin again with another output=FOLDER"
        )
    return {"weights": weights_of} | check_images(record, data)


def check_images(record: RunRecord, data: DataSet | OwnData) -> dict[str, str]:
    """Check that the data are those that a record was begun with.

    Returns:
        Their digests, for the record's results.

    Raises:
        RecordError: if the images, their labels or the normalisation are others by now.
    """
    known, now = record.content["results"], _digests(data)
    if known.get("data") not in (None, now["data"]):
        raise RecordError(
            f"{record.folder} was begun with other images than the data has now, and other images may be in "
            "each split: put back those that it had, or begin again with another output=FOLDER"
        )
    if known.get("labels") not in (None, now.get("labels")):
        raise RecordError(
            f"{record.folder} was begun with other labels, or another mean and std, than the data has now: "
            "put back those that it had, or begin again with another output=FOLDER"
        )
    return now


def check_splits(card: Card, seed: int, data: DataSet | OwnData) -> None:
    """Refuse splits in which images of the training are reward or selection images.

    A network that ships is used with other copies of its data as well, and a line says what that means.

    Args:
        card: of the network.
        seed: ``data.seed``.
        data: with these splits.

    Raises:
        CheckpointError: for another seed or other images than those of the card.
    """
    if card.data != data.name:
        return
    if card.data_seed != seed:
        raise CheckpointError(
            f"the network was trained on the splits of data.seed={card.data_seed}: with data.seed="
            f"{seed} images that it was trained on would be reward and selection images. Give that "
            "seed, or train a network with experiments.pretrain and the seed that you want"
        )
    if card.images and card.images != images_of(data):
        raise CheckpointError(
            f"the network was trained with other images of {data.name} than there are now, or in another "
            "order: images that it was trained on may be reward and selection images. Give the data that it "
            "was trained on (data.root, data.options), or train a network with experiments.pretrain"
        )
    copy, learnt = getattr(data, "copy", ""), card.note
    if not card.images and learnt in {OFFICIAL, *COPIES.values()} and copy not in ("", learnt):
        print(
            f"the network was trained on {learnt} of {data.name}, and these are {copy}, in another order: "
            "it has seen most of these reward and selection images, and accuracies on them are too high; "
            "those on test are right. For your own: python -m experiments.pretrain"
        )
