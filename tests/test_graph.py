"""Groups of hand-written networks, and the facts that the graph holds about their layers."""

import networks
import numpy as np
import pytest

from amc_env.graph.structure import Graph
from amc_env.graph.trace import trace

# size of the group, channels an atom holds, layers that write it, layers that read it
GROUPS = {
    "chain": [(6, 1, ["0"], ["3"]), (8, 1, ["3"], ["6.2"])],
    "residual": [(6, 1, ["stem", "second"], ["first", "head.2"]), (5, 1, ["first"], ["second"])],
    "concat": [(4, 1, ["left"], ["join"]), (5, 1, ["right"], ["join"]), (6, 1, ["join"], ["head.2"])],
    "depthwise": [(5, 2, ["0", "2", "3"], ["5"]), (4, 1, ["5"], ["6.2"])],
    "grouped": [(2, 4, ["0"], ["2"]), (3, 4, ["2"], ["5.2"])],
    "shuffle": [(4, 3, ["first"], ["second"]), (5, 1, ["second"], ["head.2"])],
    "chunk": [(4, 2, ["stem", "branch"], ["branch", "head.2"])],
    "squeeze_excite": [
        (8, 1, ["stem", "expand"], ["squeeze", "last"]),
        (3, 1, ["squeeze"], ["expand"]),
        (4, 1, ["last"], ["head.2"]),
    ],
    "flatten_linear": [(4, 1, ["0"], ["3"]), (3, 1, ["3"], ["7"]), (7, 1, ["7"], ["10"])],
    "layer_norm": [(6, 1, ["stem", "spatial", "down"], ["up", "head.2"]), (10, 1, ["up"], ["down"])],
    "group_norm": [(4, 2, ["0"], ["3"]), (6, 1, ["3"], ["6.2"])],
    "shared": [(6, 1, ["stem", "again"], ["again", "head.2"])],
    "transposed": [
        (3, 2, ["0"], ["1"]),
        (2, 2, ["1"], ["4"]),
        (5, 1, ["4"], ["5"]),
        (6, 1, ["5"], ["7.2"]),
    ],
    "padded_identity": [(4, 1, ["stem", "second"], ["first", "head.2"]), (6, 1, ["first"], ["second"])],
    "frozen_norm": [(6, 1, ["stem"], ["head.2"])],
}


def traced(name: str) -> Graph:
    return trace(networks.ready(networks.NETS[name]()), networks.PAIR)


def atoms(graph: Graph, layer: str) -> tuple[list[int], list[int]]:
    """What a layer reads and writes, as 10 g + p for position p of group g, -1 for fixed."""
    place = np.full(graph.atoms, -1)
    for group in graph.groups:
        place[group.atoms] = 10 * group.index + np.arange(len(group))
    found = graph.layer(layer)
    return place[found.reads].tolist(), place[found.writes].tolist()


@pytest.mark.parametrize("name", GROUPS)
def test_groups(name: str) -> None:
    graph = traced(name)

    found = [
        (
            len(group),
            group.per_atom,
            [layer.name for layer in graph.layers if np.isin(layer.writes, group.atoms).any()],
            [graph.layers[index].name for index in group.layers],
        )
        for group in graph.groups
    ]

    assert found == GROUPS[name]
    assert [group.index for group in graph.groups] == list(range(len(found)))
    assert graph.notes == ()


def test_every_network_has_its_groups_written_out() -> None:
    assert set(GROUPS) == set(networks.NETS)


def test_positions_of_a_concatenation() -> None:
    reads, _ = atoms(traced("concat"), "join")
    left, right = [0, 1, 2, 3], [10, 11, 12, 13, 14]
    assert reads == [*left, *right, *left]


def test_positions_of_a_depthwise_layer_with_two_outputs_each() -> None:
    reads, writes = atoms(traced("depthwise"), "2")
    assert (reads, writes) == ([0, 1, 2, 3, 4], [0, 0, 1, 1, 2, 2, 3, 3, 4, 4])


def test_positions_of_a_grouped_convolution() -> None:
    reads, writes = atoms(traced("grouped"), "2")
    assert (reads, writes) == ([0, 1] * 4, [10, 11, 12] * 4)


def test_positions_after_a_shuffle() -> None:
    graph = traced("shuffle")
    assert atoms(graph, "first")[1] == [0, 1, 2, 3] * 3
    assert atoms(graph, "second")[0] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_positions_of_halves_that_meet_in_a_shuffle() -> None:
    graph = traced("chunk")
    assert atoms(graph, "stem")[1] == [0, 1, 2, 3] * 2
    assert atoms(graph, "branch") == ([0, 1, 2, 3], [0, 1, 2, 3])
    assert atoms(graph, "head.2")[0] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_positions_after_flatten() -> None:
    reads, _ = atoms(traced("flatten_linear"), "7")
    assert reads == [10] * 4 + [11] * 4 + [12] * 4


def test_positions_of_a_padded_identity_are_fixed_at_both_ends() -> None:
    graph = traced("padded_identity")
    assert atoms(graph, "second")[1] == [-1, 0, 1, 2, 3, -1, -1, -1]
    assert [len(blank) for blank in graph.blanks] == [2, 1, 3]


def test_the_image_and_the_classes_are_fixed() -> None:
    graph = traced("chain")
    assert atoms(graph, "0")[0] == [-1, -1]
    assert atoms(graph, "6.2")[1] == [-1, -1, -1]
    assert graph.blanks[0].tolist() == [0, 1]
    assert graph.outputs.tolist() == graph.layer("6.2").writes.tolist()


@pytest.mark.parametrize(
    ("name", "layer", "facts"),
    [
        # kind, kernel, stride, groups, input, output, calls, bias, positions
        ("chain", "3", ("conv", (3, 3), 2, 1, (8, 8), (4, 4), 1, True, 16)),
        ("depthwise", "3", ("depthwise", (3, 3), 2, 10, (8, 8), (4, 4), 1, False, 16)),
        ("grouped", "2", ("conv", (3, 3), 1, 4, (8, 8), (8, 8), 1, True, 64)),
        ("shared", "again", ("conv", (3, 3), 1, 1, (8, 8), (8, 8), 2, True, 128)),
        ("transposed", "1", ("transposed", (3, 3), 2, 2, (8, 8), (16, 16), 1, False, 64)),
        ("transposed", "4", ("conv", (3, 3), 2, 1, (16, 16), (6, 6), 1, True, 36)),
        ("flatten_linear", "7", ("linear", (1, 1), 1, 1, (1, 1), (1, 1), 1, True, 1)),
        ("layer_norm", "up", ("linear", (1, 1), 1, 1, (64, 1), (64, 1), 1, True, 64)),
    ],
)
def test_facts_of_layers(name: str, layer: str, facts: tuple[object, ...]) -> None:
    found = traced(name).layer(layer)
    assert facts == (
        found.kind, found.kernel, found.stride, found.groups, found.in_size, found.out_size, found.calls,
        found.bias, found.positions,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "folds"),
    [
        ("chain", (("0", "1"), ("3", "4"))),
        ("residual", (("second", "norm"),)),
        ("concat", ()),  # the norm reads three layers
        ("depthwise", (("3", "4"),)),
        ("transposed", (("1", "2"), ("5", "6"))),
        ("flatten_linear", (("7", "8"),)),
    ],
)
def test_batch_norms_that_can_be_folded(name: str, folds: tuple[tuple[str, str], ...]) -> None:
    assert traced(name).folds == folds


def test_norms_over_channels_are_named() -> None:
    assert traced("layer_norm").norms == ("norm.weight",)
    assert traced("group_norm").norms == ("1.weight", "4.weight")


def test_vectors_are_cut_along_the_channels() -> None:
    vectors = {vector.name: vector for vector in traced("frozen_norm").vectors}
    found = {name: (v.dim, v.size, v.trainable) for name, v in vectors.items() if not name.startswith("head")}
    assert found == {
        "stem.bias": (0, 1, True),
        "gain": (0, 1, True),
        "deviation": (0, 1, False),
        "bias": (0, 1, True),
        "map": (1, 64, True),
    }
    assert all(vectors[name].atoms.tolist() == vectors["gain"].atoms.tolist() for name in found)


def test_hash_names_the_structure_and_not_the_weights() -> None:
    one, other = (trace(networks.ready(networks.chain(), seed), networks.PAIR) for seed in (0, 1))
    assert one.hash == other.hash
    assert len({traced(name).hash for name in networks.NETS}) == len(networks.NETS)


def test_mask_of_kept_positions() -> None:
    graph = traced("residual")
    mask = graph.mask([(1, 4), None])
    assert mask[graph.groups[0].atoms].tolist() == [False, True, False, False, True, False]
    assert mask[graph.groups[1].atoms].all()
    assert mask[graph.fixed].all()
