"""Data of the user's own: what a function of data=import gets, where batches are cut, what is refused."""

import json
import sys

import numpy as np
import pytest
import torch

from amc_env.data.own import OwnData, OwnSplit
from amc_env.data.splits import DataError
from experiments.cli.datasets import SEED, load_data, refuse_unlabelled

MODULE = """
import torch
from amc_env.data.own import OwnData

given = {}


def seeded(seed, **options):
    given.update(options, seed=seed)
    pairs = [(torch.zeros(2, 3, 8, 8), [0, 1])]
    return OwnData("mine", 2, dict.fromkeys(("calibration", "reward", "selection", "test"), pairs))


def unseeded(**options):
    return seeded(None, **options)
"""


@pytest.fixture
def given(tmp_path, monkeypatch, composed):
    """A function that loads data=import with further settings and says what the user's function got."""
    (tmp_path / "my_own_data.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_own_data", raising=False)

    def load(function, *words):
        words = ("data=import", f"data.options.target=my_own_data:{function}", *words)
        load_data(composed("evaluate", *words, "checkpoint=x").data)
        return sys.modules["my_own_data"].given

    return load


def test_a_function_of_the_users_gets_the_seed(given):
    assert given("seeded") == {"seed": SEED}
    assert given("seeded", "data.seed=3") == {"seed": 3}
    assert given("seeded", "+data.options.seed=5") == {"seed": 5}
    assert given("seeded", "+data.options.seed=5", "data.seed=5") == {"seed": 5}
    assert given("unseeded") == {"seed": None}


def test_a_seed_that_would_be_ignored_is_refused(given):
    with pytest.raises(DataError, match=r"^my_own_data:unseeded takes no seed: leave data\.seed out, or"):
        given("unseeded", "data.seed=3")
    with pytest.raises(DataError, match=r"^data\.seed=3, but data\.options\.seed=5: leave one"):
        given("seeded", "+data.options.seed=5", "data.seed=3")


def test_options_are_plain_lists_and_dicts(given):
    found = given("seeded", "+data.options.size=[16,16]", "+data.options.more={mean:[0.5],std:{r:1}}")
    assert found == {"seed": SEED, "size": [16, 16], "more": {"mean": [0.5], "std": {"r": 1}}}
    assert json.loads(json.dumps(found)) == found
    assert type(found["size"]) is list


@pytest.mark.parametrize("name", ["imagefolder", "photos"])
def test_data_without_a_folder_say_how_to_give_one(name, composed):
    node = composed("evaluate", f"data={name}", "data.root=x", "checkpoint=x").data
    node.root = None
    with pytest.raises(DataError, match=f"^data={name} has no folder to read: give data.root=PATH$"):
        load_data(node)


def test_data_without_labels_say_what_to_give_instead():
    pairs = [(torch.zeros(2, 3, 8, 8), None)]
    data = OwnData("mine", 2, dict.fromkeys(("calibration", "reward", "selection", "test"), pairs))
    with pytest.raises(DataError, match=r"tensors\.from_tensors, or your own metric=module:function$"):
        refuse_unlabelled(data)


def boxes(count):
    """Boxes ``(M, 6)`` of four images, the first three of them of the first image."""
    return torch.tensor([0, 0, 0, 1, 3][:count])[:, None].repeat(1, 6)


@pytest.mark.parametrize(
    ("targets", "cut"),
    [
        (boxes(4), False),
        (boxes(5), False),
        ({"boxes": boxes(4), "image": torch.arange(4)}, False),
        (torch.zeros(3, 8, 8), False),
        (np.arange(4), False),
        (torch.tensor(1), False),
        (torch.arange(4), True),
        (torch.zeros(4, 8, 8), True),
        ([torch.zeros(8, 8)] * 4, True),
        (("a", "b", "c", "d"), True),
        ({"labels": torch.arange(4), "kind": "all"}, True),
        (None, True),
    ],
)
def test_a_batch_is_cut_only_if_its_targets_are_one_for_each_image(targets, cut):
    ((images, kept),) = OwnSplit([(torch.zeros(4, 3, 8, 8), targets)]).head(2).batches
    assert len(images) == (2 if cut else 4)
    if not cut:
        assert kept is targets
    elif isinstance(targets, dict):
        assert (len(kept["labels"]), kept["kind"]) == (2, "all")
    elif targets is not None:
        assert len(kept) == 2


def test_a_number_for_all_images_stays_when_they_are_cut():
    images = {"pixels": torch.zeros(4, 3, 8, 8), "scale": torch.tensor(2.0)}
    ((kept, _),) = OwnSplit([(images, None)]).head(3).batches
    assert (len(kept["pixels"]), kept["scale"]) == (3, 2)
