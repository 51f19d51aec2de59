"""The job of `experiments.deep_compress`: prune, retrain, share and code a network into one file.

*Source*: Han, Mao & Dally, "Deep Compression", ICLR 2016; retraining and the rule for the layers' densities
are of Han et al., "Learning both Weights and Connections", NeurIPS 2015, section 3.
"""

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from amc_env import packing
from amc_env.card import COMPRESSED
from amc_env.coding import CodingError, packed
from amc_env.compressors.constraints import Pruned, Shared, constrain, unconstrained, weight_of
from amc_env.compressors.fine_grained import largest, layer_densities
from amc_env.evaluator import accuracies
from amc_env.execution import device_of
from amc_env.graph.structure import Graph
from amc_env.graph.trace import trace
from experiments.analysis import deep_compression as analysis
from experiments.cli import config
from experiments.cli.datasets import refuse_unlabelled
from experiments.cli.identity import check_identity
from experiments.cli.record_config import of_record
from experiments.cli.trained import Trained, trained
from experiments.recording import plans
from experiments.recording import state as states
from experiments.recording.opening import ended
from experiments.recording.provenance import commit
from experiments.recording.record import RunRecord
from experiments.recording.tracking import Tracker
from experiments.training.distillation import teacher_of
from experiments.training.fitting import fit, opened
from experiments.training.recipe import Recipe

FILE = f"compressed{packing.SUFFIX}"


def run(cfg: DictConfig, folder: Path) -> None:
    """Compress the network of a configuration, and print the table of its file."""
    original, settings = trained(cfg), of_record(cfg, folder)
    course = Course.of(cfg, original)
    phases = [*(f"prune-{number}" for number in range(1, course.rounds + 1)), "share"]
    names = [f"{phase}.state" for phase in phases]

    def identity(record: RunRecord) -> dict[str, str]:
        return check_identity(record, original.model, original.data)

    if ended(folder, settings, "compress", identity) is None:
        record = opened(folder, settings, seeds={"batches": course.recipe.seed}, states=names)
        with record, config.instantiate(cfg.tracking, folder=folder, config=settings) as tracker:
            record.update(results=identity(record))
            found = compressed(course, record, tracker)
            record.update(results=found)
            record.wrote(folder / FILE)
            _track(tracker, found, folder / FILE)
        print(analysis.layers_table(found))
        print(f"written: {folder / FILE}")
    for name in names:
        states.remove(folder / name)  # also those of a run that was killed when it had finished


@dataclass(frozen=True)
class Course:
    """The steps of Deep Compression for one network.

    Attributes:
        original: the dense network and its data.
        graph: of it.
        keep: by layer, the fraction of its weights that is kept in the end, in (0, 1].
        bits: by layer, of a code.
        rounds: of pruning.
        start: of k-means.
        recipe: of retraining after each round.
        sharing: of training the shared values.
        device: where to train.
    """

    original: Trained
    graph: Graph
    keep: Mapping[str, float]
    bits: Mapping[str, int]
    rounds: int
    start: str
    recipe: Recipe
    sharing: Recipe
    device: torch.device

    @classmethod
    def of(cls, cfg: DictConfig, original: Trained) -> "Course":
        """The course of a configuration, checked as far as possible before training."""
        if original.card.architecture == "import":
            raise config.ConfigError(
                f"a {packing.SUFFIX} file is read back by a network of the zoo alone, not by model=import: "
                "`experiments.search compressor=fine_grained` or `weight_sharing` compresses your own"
            )
        refuse_unlabelled(original.data)
        graph = trace(original.model, original.data.shape)
        keep = by_name(config.plain(cfg.keep))
        if cfg.policy is not None:
            keep = searched_densities(Path(cfg.policy), cfg.model.name, graph) | keep
        keep = layer_densities(original.model, graph, cfg.density, keep)
        bits = {
            layer.name: cfg.linear_bits if layer.kind == "linear" else cfg.conv_bits for layer in graph.layers
        }
        recipe, sharing = (Recipe(**config.plain(node)) for node in (cfg.recipe, cfg.sharing))
        for each in (recipe, sharing):
            teacher_of(each, original.model, original.data)
        device = device_of(cfg.device)
        return cls(original, graph, keep, bits, cfg.rounds, cfg.start, recipe, sharing, device)


def by_name(keep: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Fractions by layer name, from nested keys of a command line such as ``+keep.features.0.0=0.6``."""
    found: dict[str, Any] = {}
    for key, value in keep.items():
        nested = isinstance(value, Mapping)
        found |= by_name(value, f"{before}{key}.") if nested else {f"{before}{key}": value}
    return found


def searched_densities(folder: Path, model: str, graph: Graph) -> dict[str, float]:
    """By layer, the fraction of its weights that the best plan of a search keeps; 1 where it kept all.

    Args:
        folder: of a search with ``compressor=fine_grained``.
        model: name of the network.
        graph: of it.

    Raises:
        ConfigError: for a search of another network, or by another compressor.
        RecordError, PlanError: if it has not ended or is damaged.
    """
    plan, content = plans.of_run(folder), RunRecord.read(folder).content
    asked = content["config"]
    found = asked["model"]["name"], asked["compressor"]["method"]
    if found != (model, "fine_grained"):
        raise config.ConfigError(
            f"policy={folder} is a search of {found[0]} by {found[1]}: give one of {model} "
            "with compressor=fine_grained"
        )
    kept = zip(content["results"]["groups"], plan.kept, strict=True)
    return dict.fromkeys((layer.name for layer in graph.layers), 1.0) | {
        group["layer"]: 1.0 if positions is None else len(positions) / group["size"]
        for group, positions in kept
    }


def compressed(course: Course, record: RunRecord, tracker: Tracker) -> dict[str, Any]:
    """Run all steps, write the file beside the record, and read it back.

    Returns:
        ``accuracy`` by stage and split, ``layers`` of the file, and ``bytes`` of it.
    """
    dense, network = course.original.model, copy.deepcopy(course.original.model)
    found = {"dense": _measured(course, dense)}
    for number in range(1, course.rounds + 1):
        masks = {
            name: largest(weight_of(network.get_submodule(name)), share ** (number / course.rounds))
            for name, share in course.keep.items()
        }
        constrain(network, {name: Pruned(mask) for name, mask in masks.items()})
        if number == 1:
            found["pruned, not retrained"] = _measured(course, network)
        _trained(course, network, course.recipe, f"prune-{number}", record, tracker)
    found["pruned"] = _measured(course, network)
    constrain(network, _shared(course, network))
    found["shared, not trained"] = _measured(course, network)
    _trained(course, network, course.sharing, "share", record, tracker)
    state = settled(unconstrained(network)).state_dict()
    path = record.folder / FILE
    card = replace(
        course.original.card, recipe=asdict(course.recipe), accuracy={}, seed=course.recipe.seed,
        commit=commit(), note=f"{COMPRESSED} {course.original.card.sha256[:12]}", sha256="",
    )  # fmt: skip
    content = packing.write(path, state, card)
    read, _ = packing.read(path)
    _check(state, read)
    found["file"] = _measured(course, read)
    return {"accuracy": found, "bytes": len(content), **_of_file(content)}


def _track(tracker: Tracker, found: Mapping[str, Any], path: Path) -> None:
    accuracy = found["accuracy"]["file"]
    shown = {f"accuracy/{split}": top1 for split, top1 in accuracy.items()}
    tracker.summary(shown | {"bytes": found["bytes"]})
    tracker.artifact("compressed", "model", [path], accuracy)


def settled(network: nn.Module) -> nn.Module:
    """Fold each batch norm's statistics into its scale and shift, in place; returns the network.

    It computes the same, and two of four vectors need not be stored: the mean is 0 and the variance 1.
    """
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.affine and norm.running_var is not None:
            assert norm.running_mean is not None
            with torch.no_grad():
                norm.weight.mul_((norm.running_var + norm.eps).rsqrt())
                norm.bias.sub_(norm.running_mean * norm.weight)
                norm.running_mean.zero_()
                norm.running_var.fill_(1 - norm.eps)
    return network


def _trained(
    course: Course, network: nn.Module, recipe: Recipe, phase: str, record: RunRecord, tracker: Tracker
) -> None:
    fit(
        network, course.original.data, recipe, device=course.device, phase=phase, record=record,
        tracker=tracker, state=record.folder / f"{phase}.state",
        teacher=teacher_of(recipe, course.original.model, course.original.data),
    )  # fmt: skip
    network.cpu().eval()


def _shared(course: Course, network: nn.Module) -> dict[str, nn.Module]:
    return {
        name: Shared(
            weight_of(network.get_submodule(name)).detach(), bits, start=course.start, seed=course.recipe.seed
        )
        for name, bits in course.bits.items()
    }


def _measured(course: Course, network: nn.Module) -> dict[str, float]:
    network.to(course.device)
    found = accuracies(network, course.original.data)
    network.cpu()
    return found


def _check(state: Mapping[str, Tensor], read: nn.Module) -> None:
    for name, value in read.state_dict().items():
        if not torch.equal(value, state[name]):
            raise CodingError(f"{name} was not read as it was written")


def _of_file(content: bytes) -> dict[str, Any]:
    """The contents of a file by tensor, and its overhead."""
    coded = packed.contents(content)
    layers = [
        {
            "name": one.name,
            "numbers": one.numbers,
            "kept": one.kept,
            "bits": packed.bits_before(one),
            "coded_bits": packed.mean_bits(one),
            "bytes": one.nbytes,
            "dense_bytes": one.dense_bytes,
        }
        for one in coded
    ]
    return {"layers": layers, "overhead": packed.overhead(content, coded)}
