"""The conditions of a measurement; only times under equal conditions can be compared."""

import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from amc_env.graph.structure import Graph

BLOCK = {"avx512f": 16, "avx2": 8}  # float32 channels in a vector register, by processor feature


class LatencyError(ValueError):
    """A latency table that is missing, damaged or of another network, or a network that cannot have one."""


@dataclass(frozen=True)
class Conditions:
    """The network, machine and settings of a measurement.

    Attributes:
        network: the geometry of the graph: its structure and the sizes that layers run on.
        shape: C, H, W of an image.
        device: "cpu" or "cuda".
        processor: name of the processor or graphics card.
        features: vector instructions of the processor.
        runtime: a name in `amc_env.latency.RUNTIMES`.
        version: of the runtime.
        threads: of the runtime.
        batch: images in a pass.
    """

    network: str
    shape: tuple[int, int, int]
    device: str
    processor: str
    features: tuple[str, ...]
    runtime: str
    version: str
    threads: int
    batch: int

    @classmethod
    def here(
        cls, graph: Graph, *, runtime: str, threads: int, batch: int, device: str = "cpu"
    ) -> "Conditions":
        """The conditions of this machine.

        Args:
            graph: of the network.
            runtime: a name in `amc_env.latency.RUNTIMES`.
            threads: of the runtime.
            batch: images in a pass.
            device: "cpu" or "cuda".
        """
        processor, features = _processor()
        if device == "cuda":
            processor = torch.cuda.get_device_name() if torch.cuda.is_available() else "no graphics card"
        version = metadata.version(runtime)
        return cls(
            graph.geometry, graph.shape, device, processor, features, runtime, version, threads, batch
        )  # fmt: skip

    def again(self, graph: Graph) -> "Conditions":
        """The conditions of the same settings, for a network on this machine."""
        return Conditions.here(
            graph, runtime=self.runtime, threads=self.threads, batch=self.batch, device=self.device
        )

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Conditions":
        """The conditions in a file.

        Raises:
            LatencyError: when one is missing, or there are others.
        """
        known = {entry.name for entry in fields(cls)}
        if content.keys() != known:
            raise LatencyError(f"its conditions are {sorted(content)}, not {sorted(known)}")
        given: dict[str, Any] = {
            key: tuple(each) if isinstance(each, list) else each for key, each in content.items()
        }
        return cls(**given)

    def differences(self, other: "Conditions") -> list[str]:
        """One line for each condition that differs."""
        ours, theirs = asdict(self), asdict(other)
        return [
            f"{name}: the table has {_text(ours[name])}, here it is {_text(theirs[name])}"
            for name in ours
            if ours[name] != theirs[name]
        ]

    def check(self, other: "Conditions", path: Path, *, force: bool) -> None:
        """Raise a `LatencyError` that names each difference, unless ``force`` is set."""
        if not force and (found := self.differences(other)):
            raise LatencyError(
                f"{path} was measured under other conditions; {'; '.join(found)}. Measure another table, or "
                "use this one all the same with force=true"
            )


def block_of(features: Sequence[str]) -> int:
    """Channels that a processor with these features handles at once; 4 without AVX."""
    return next((size for feature, size in BLOCK.items() if feature in features), 4)


def _processor() -> tuple[str, tuple[str, ...]]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine(), ()
    name = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    vector = [
        flag for flag in (flags[1].split() if flags else ()) if re.match(r"avx|amx|fma$|asimd|sve", flag)
    ]
    return f"{name[1] if name else platform.machine()}, {os.cpu_count()} cores", tuple(sorted(vector))


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
