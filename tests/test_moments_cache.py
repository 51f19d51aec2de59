"""Files of cached moments: equal to fresh ones, torn, made twice at once, of other settings."""

import os
from pathlib import Path
from typing import Any

import networks
import pytest
import torch
from test_reconstruct import pictures
from torch import nn

from amc_env.graph.structure import Graph
from amc_env.graph.trace import trace
from amc_env.repair.moments import Moments, collect, collect_cached


def cached(model: nn.Module, graph: Graph, **changes: Any) -> Moments:
    settings = {"images": 40, "points": 1, "seed": 0} | changes
    return collect_cached(model, graph, pictures(), **settings)


def same(one: Moments, other: Moments) -> bool:
    return one.counts == other.counts and all(
        getattr(one, kind).keys() == getattr(other, kind).keys()
        and all(torch.equal(value, getattr(other, kind)[key]) for key, value in getattr(one, kind).items())
        for kind in ("grams", "rows")
    )


def test_a_cached_file_equals_a_fresh_one(cache: Path) -> None:
    model = networks.ready(networks.chain())
    graph = trace(model, networks.PAIR)
    fresh = cached(model, graph)
    (path,) = (cache / "moments").iterdir()
    written = path.stat().st_mtime_ns

    assert same(cached(model, graph), fresh)
    assert same(collect(model, graph, pictures(), images=40, points=1, seed=0), fresh)
    assert path.stat().st_mtime_ns == written
    assert len(list((cache / "moments").iterdir())) == 1


@pytest.mark.parametrize("length", [0, 4, 100, 2000])
def test_a_torn_cache_file_is_made_again(cache: Path, length: int) -> None:
    model = networks.ready(networks.chain())
    graph = trace(model, networks.PAIR)
    fresh = cached(model, graph)
    (path,) = (cache / "moments").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:length])

    with pytest.warns(UserWarning, match="damaged: .*: it is made again"):
        assert same(cached(model, graph), fresh)
    assert path.read_bytes() == whole
    assert len(list((cache / "moments").iterdir())) == 1


def test_two_processes_that_make_the_same_cache_are_both_right(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = networks.ready(networks.chain())
    graph = trace(model, networks.PAIR)
    replace, fresh = os.replace, collect(model, graph, pictures(), images=40, points=1, seed=0)

    def late(source: Path, target: Path) -> None:
        with (
            monkeypatch.context() as other
        ):  # a process that begins and ends between the two steps of the first
            other.setattr(os, "replace", replace)
            other.setattr(os, "getpid", lambda: 1)
            assert same(cached(model, graph), fresh)
        replace(source, target)

    monkeypatch.setattr(os, "replace", late)
    assert same(cached(model, graph), fresh)
    monkeypatch.undo()
    assert len(list((cache / "moments").iterdir())) == 1


def test_other_weights_images_and_settings_have_files_of_their_own(cache: Path) -> None:
    model = networks.ready(networks.chain())
    graph = trace(model, networks.PAIR)
    cached(model, graph)
    for changes in ({"images": 20}, {"points": 2}, {"seed": 1}):
        cached(model, graph, **changes)
    cached(networks.ready(networks.chain(), seed=9), graph)
    model[2] = nn.Tanh()  # the same weights and structure, other activations
    cached(model, graph)
    assert len(list((cache / "moments").iterdir())) == 6
