"""Times an episode: ``python -m experiments.benchmarks plain20``; without a name, runs all benchmarks.

A network's benchmark times an episode, the released code's procedure and the bare forward pass on the same
plans. The others measure how close the forward pass is to the processor's peak rate, how an episode grows
with images, layers and width, and peak memory. Each takes minutes with nothing else running. ``--device
cuda`` runs both sides on a GPU. Each writes one record; ``python -m experiments.report`` makes the page.
"""

import argparse
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from amc_env import files
from amc_env.execution import DeviceError, device_of
from experiments.benchmarks import memory, passes, scaling, sides, subjects
from experiments.benchmarks.subjects import Settings
from experiments.benchmarks.tables import MEMORY, PASSES, SCALING, table
from experiments.recording.record import commit, plain, row_a_line, versions

NETWORKS = ("plain20", "resnet56", "mobilenet_v1")
NAMES = (*NETWORKS, PASSES, SCALING, MEMORY)
RESULTS = Path(__file__).resolve().parents[1] / "results" / "benchmarks"
FORMAT = 1


def main() -> None:
    """Run what is named, write a record of each, print their table."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"any of {', '.join(NAMES)}")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the records")
    for entry in fields(Settings):
        flag = "--" + entry.name.replace("_", "-")
        parser.add_argument(flag, type=type(entry.default), default=entry.default, help=f"{entry.default}")
    asked = vars(parser.parse_args())
    names, output = asked.pop("names") or list(NAMES), asked.pop("output")
    if unknown := set(names) - set(NAMES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; choose from {', '.join(NAMES)}")
    try:
        settings = Settings(**asked | {"device": device_of(asked["device"]).type})
    except DeviceError as error:
        parser.error(str(error))
    if settings.device != "cpu" and (others := set(names) - set(NETWORKS)):
        parser.error(f"{', '.join(sorted(others))}: of the processor alone; on a GPU {', '.join(NETWORKS)}")
    records = bench(names, settings)
    for name, record in records.items():
        write(output / f"{name}.json", record)
    print(table(records))


def bench(names: list[str], settings: Settings) -> dict[str, dict[str, Any]]:
    """The records of what is named; those of a GPU say so in their name."""
    networks, on_cpu = [name for name in names if name in NETWORKS], settings.device == "cpu"
    peaked = sides.SIDES if on_cpu else ()  # the processor's memory
    peaks = {name: {side: memory.peak(side, name, settings) for side in peaked} for name in networks}
    records = {}
    with subjects.threads(settings.threads):
        for name in networks:
            found = sides.compare(subjects.subject(name, subjects.images(settings)), settings)
            found["results"]["peak_bytes"] = peaks[name]
            records[name if on_cpu else f"{name}_{settings.device}"] = record(settings, **found)
        if PASSES in names:
            light = passes.light(settings)
            found = {
                name: passes.measure(subjects.subject(name, subjects.images(light)), light)
                for name in NETWORKS
            }
            rows = [{"network": name} | row for name in NETWORKS for row in found[name].pop("rows")]
            records[PASSES] = record(light, results=found, rows=rows)
        if SCALING in names:
            light = scaling.light(settings)
            records[SCALING] = record(light, results=scaling.scale(light), rows=[])
        if MEMORY in names:
            light = memory.light(settings)
            records[MEMORY] = record(light, results=memory.measure(light), rows=[])
    return records


def record(settings: Settings, *, results: Mapping[str, Any], rows: list[Any]) -> dict[str, Any]:
    """What a benchmark's file holds."""
    made = {
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
    content = plain(made)
    assert isinstance(content, dict)
    return content


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Indented, but for rows, which take a line each; numbers to six digits."""
    files.write(path, row_a_line(_rounded(content)))


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
