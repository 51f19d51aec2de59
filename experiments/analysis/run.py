"""One search by one agent, its best plan, and what its network has before and after fine-tuning."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from amc_env.checks import number_of
from experiments.recording.record import RECORD, ROWS

SPLITS = ("selection", "test")
RECIPE = ("batch_size", "lr", "shift", "erase", "distill")  # of fine-tuning, what a comparison shares
FILES = ("compressed.onnx", "compressed.pt2", "compressed.safetensors", "plan.json", RECORD, ROWS)


class Kept(NamedTuple):
    """One decision of a plan: the first layer that reads the group, the group's size, and how much is kept.

    ``weights`` is the layer's number of weights, 0 if the record lacks it.
    """

    layer: str
    size: int
    stay: int
    weights: int = 0

    @property
    def ratio(self) -> float:
        """The fraction that is kept."""
        return self.stay / self.size


@dataclass(frozen=True)
class Run:
    """One search and its plan.

    Attributes:
        name: of its folder or record, unique in a report.
        status: running, finished, interrupted or failed.
        model, data, agent: their names in ``conf/``.
        resource, target: what the budget bounds, and the fraction of the dense cost that may be spent.
        seed: of the agent.
        evaluations: plans that were evaluated.
        curve: ``(evaluation, reward)`` of each improvement, the first evaluation being 1.
        plan: a `Kept` a decision; empty if the record lacks the sizes.
        before, after: top-1 in [0, 1] by split, before and after fine-tuning; empty where not measured.
        dense: likewise, of the dense network.
        experiment: the file in ``conf/experiment`` that it ran; empty for none.
        costs: ``macs_share``, ``params_share``, ``macs``, ``params``, ``bytes``, ``dense_bytes``, ``ms``,
            ``dense_ms``, and both times by runtime and batch, such as ``ms torch 64``; those known.
        epochs: of fine-tuning; None if unknown.
        seconds: of the search; of the whole run where there is none. None if unknown.
        commit, command: the code that ran, several commits with `AND` between them, and its command line.
        config: the resolved configuration.
        weights: digest of the dense network's; empty if unknown.
        folder: where its files lie; None for a committed record.
    """

    name: str
    status: str
    model: str
    data: str
    agent: str
    resource: str
    target: float
    seed: int
    evaluations: int
    curve: tuple[tuple[int, float], ...] = ()
    plan: tuple[Kept, ...] = ()
    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)
    dense: Mapping[str, float] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    epochs: int | None = None
    seconds: float | None = None
    experiment: str = ""
    commit: str = "unknown"
    command: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    weights: str = ""
    folder: Path | None = None

    @property
    def problem(self) -> tuple[str, str]:
        """The network and its data, within which runs are compared."""
        return self.model, self.data

    @property
    def setting(self) -> tuple[str, ...]:
        """How its networks are made and fine-tuned: seeds of one mean share this.

        Also from which dense network: networks of one name are trained anew.
        """
        known = self.config.get("compressor") or {}
        words = [str(known[key]) for key in ("method", "repair") if key in known]
        words += [number_of(self.epochs, "epoch")] if self.epochs is not None else []
        recipe = self.config.get("recipe") or self.config.get("finetune") or {}
        words += [f"{key} {recipe[key]:g}" for key in RECIPE if self.epochs and recipe.get(key)]
        if self.folder is None and self.dense:
            words.append(f"dense {100 * self.dense['test']:.1f} %")
        elif self.weights:
            words.append(f"weights {self.weights[:6]}")
        return tuple(words)

    @property
    def reward(self) -> str:
        """The name of the reward that it maximised; empty for a run without a search."""
        return str((self.config.get("protocol") or self.config.get("env") or {}).get("reward", ""))

    @property
    def accuracy(self) -> tuple[float, str] | None:
        """The accuracy of the delivered network, and what it was measured on; None before it is known."""
        for stage, found in (("fine-tuned", self.after), ("not fine-tuned", self.before)):
            for split in reversed(SPLITS):
                if split in found:
                    return found[split], f"{split}, {stage}"
        return None

    @property
    def files(self) -> list[str]:
        """The names of files in its folder that readers may want."""
        return [] if self.folder is None else [name for name in FILES if (self.folder / name).exists()]
