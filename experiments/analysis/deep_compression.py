"""Tables from the records of `experiments.deep_compress`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.analysis import markdown

Results = Mapping[str, Any]
STAGES = ("dense", "pruned", "file")


def layers_table(results: Results) -> str:
    """A row a layer in Markdown, as in the paper's tables 2 to 5, with all bytes of the file.

    Bits are those of a stored weight and of a step between two, before and after Huffman coding. One row has
    what is stored as it is, biases and batch norms; the last but one header, Huffman tables and digest.
    """
    head = ["layer", "weights", "kept", "weight bits", "coded", "index bits", "coded", "bytes", "rate"]
    rows, vectors = list[list[str]](), list[Mapping[str, Any]]()
    norms = {one["name"].removesuffix("running_mean") for one in results["layers"]}
    for one in results["layers"]:
        module, _, kind = one["name"].rpartition(".")
        if kind == "weight" and f"{module}." not in norms:
            rows.append(_layer(one))
        else:
            vectors.append(one)
    numbers, size, dense = (sum(one[key] for one in vectors) for key in ("numbers", "bytes", "dense_bytes"))
    if vectors:
        cells = [f"{size:,}", f"{dense / max(1, size):.1f}x"]
        rows.append(["biases, batch norms", f"{numbers:,}", *[""] * 5, *cells])
    rows.append(["header, tables, digest", *[""] * 6, f"{results['overhead']:,}", ""])
    numbers, kept = (sum(one[key] for one in results["layers"]) for key in ("numbers", "kept"))
    total = [f"{numbers:,}", f"{kept / numbers:.1%}", "", "", "", ""]
    rows.append(["file", *total, f"{results['bytes']:,}", f"{rate(results):.1f}x"])
    return markdown.aligned(head, rows, right=head[1:])


def tables(records: Mapping[str, Mapping[str, Any]]) -> str:
    """`summary`, and under it the layers of each network's first record."""
    parts = [summary(records)]
    for name, alike in _alike(records):
        parts += [f"`{name}`, seed {alike[0]['seeds']['batches']}:", layers_table(alike[0]["results"])]
    return "\n\n".join(parts)


def rate(results: Results) -> float:
    """How many times smaller the file is than the network's tensors in their own types."""
    return float(sum(one["dense_bytes"] for one in results["layers"]) / results["bytes"])


def summary(records: Mapping[str, Mapping[str, Any]]) -> str:
    """A row a network in Markdown: the file, and the test accuracies, as means over its seeds.

    Args:
        records: by name; those of one network and density are one row.
    """
    head = ["network", "seeds", "bytes", "rate", *(f"{stage}, test" for stage in STAGES), "file less dense"]
    return markdown.table(head, [_network(*each) for each in _alike(records)])


def _layer(one: Mapping[str, Any]) -> list[str]:
    (weight, index), (coded_weight, coded_index) = one["bits"], one["coded_bits"]
    coded = [f"{coded_weight:.1f}", f"{index}" if index else "", f"{coded_index:.1f}" if index else ""]
    size = [f"{one['bytes']:,}", f"{one['dense_bytes'] / max(1, one['bytes']):.1f}x"]
    return [
        one["name"],
        f"{one['numbers']:,}",
        f"{one['kept'] / max(1, one['numbers']):.1%}",
        f"{weight}",
        *coded,
        *size,
    ]


def _alike(
    records: Mapping[str, Mapping[str, Any]],
) -> Iterable[tuple[str, Sequence[Mapping[str, Any]]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for name, record in records.items():
        found.setdefault(name.rpartition("-")[0], []).append(record)
    return found.items()


def _network(name: str, records: Sequence[Mapping[str, Any]]) -> list[str]:
    results = [record["results"] for record in records]
    accuracies = {
        stage: 100 * np.array([one["accuracy"][stage]["test"] for one in results]) for stage in STAGES
    }
    lost = accuracies["file"] - accuracies["dense"]
    return [
        f"`{name}`", f"{len(records)}", f"{np.mean([one['bytes'] for one in results]):,.0f}",
        f"{np.mean([rate(one) for one in results]):.1f}x",
        *(f"{each.mean():.2f}" for each in accuracies.values()),
        f"{lost.mean():+.2f} ({', '.join(f'{each:+.2f}' for each in lost)})",
    ]  # fmt: skip
