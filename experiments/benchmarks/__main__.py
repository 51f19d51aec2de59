"""Times an episode: ``python -m experiments.benchmarks plain20``; without a name, all networks.

Times an episode, the released code's procedure and the bare forward pass on the same plans. Takes minutes
with nothing else running. ``--device cuda`` runs both sides on a GPU. Writes a record a network;
``python -m experiments.report`` makes the page.
"""

import argparse
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from amc_env import checkpoints, files
from amc_env.data.splits import load
from amc_env.execution import DeviceError, device_of
from experiments.benchmarks import sides
from experiments.benchmarks.reference import Settings
from experiments.benchmarks.tables import table
from experiments.recording.committed import row_a_line
from experiments.recording.provenance import commit, versions
from experiments.recording.record import plain

NETWORKS = ("plain20", "resnet56", "mobilenet_v1")  # whose weights ship
RESULTS = Path(__file__).resolve().parents[1] / "results" / "benchmarks"
FORMAT = 1


def main() -> None:
    """Time the named networks, write a record of each, print the table."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"any of {', '.join(NETWORKS)}")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the records")
    for entry in fields(Settings):
        flag = "--" + entry.name.replace("_", "-")
        parser.add_argument(flag, type=type(entry.default), default=entry.default, help=f"{entry.default}")
    asked = vars(parser.parse_args())
    names, output = asked.pop("names") or list(NETWORKS), asked.pop("output")
    if unknown := set(names) - set(NETWORKS):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; choose from {', '.join(NETWORKS)}")
    try:
        settings = Settings(**asked | {"device": device_of(asked["device"]).type})
    except DeviceError as error:
        parser.error(str(error))
    records = {}
    for name in names:
        called = name if settings.device == "cpu" else f"{name}_{settings.device}"
        records[called] = bench(name, settings)
        files.write(output / f"{called}.json", row_a_line(_rounded(records[called]), called))
    print(table(records))


def bench(name: str, settings: Settings) -> dict[str, Any]:
    """Benchmark a shipped network and return its record."""
    model, card = checkpoints.load(checkpoints.shipped(f"{name}-{settings.data}"))
    before = torch.get_num_threads()
    with threadpool_limits(limits=settings.threads):
        torch.set_num_threads(settings.threads)
        try:
            found = sides.compare(model, load(settings.data), settings)
        finally:
            torch.set_num_threads(before)
    found["results"]["weights"] = f"{name}-{settings.data}, sha256 {card.sha256[:12]}"
    return record(settings, **found)


def record(settings: Settings, *, results: Mapping[str, Any], rows: list[Any]) -> dict[str, Any]:
    """The content of a benchmark's file."""
    made = plain(
        {
            "format": FORMAT,
            "config": asdict(settings),
            "seeds": {"all": settings.seed},
            "versions": versions(),
            "commit": commit(),
            "results": results,
            "rows": rows,
            "run": {
                "machine": f"{platform.machine()}, {os.cpu_count()} processors, {platform.system()}",
                "gpu": torch.cuda.get_device_name() if settings.device != "cpu" else None,
                "load": [round(load, 2) for load in os.getloadavg()],
            },
        }
    )
    assert isinstance(made, dict)
    return made


def _rounded(value: Any) -> Any:
    """Numbers to six digits."""
    if isinstance(value, Mapping):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
