"""From a trained network and its data to an environment."""

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import nn

from amc_env import checkpoints, checks
from amc_env.actions import BETA, SCALES
from amc_env.budget import TARGET
from amc_env.compressors.channels import FLOOR, ROUND_TO, Channels
from amc_env.compressors.low_rank import FACTORINGS
from amc_env.compressors.sharing import STARTS
from amc_env.compressors.trial import check, check_replaceable, random_plan, try_cut, with_sound_folds
from amc_env.data.own import OwnData
from amc_env.data.splits import DataSet, load
from amc_env.env import CompressionEnv
from amc_env.execution import DEVICES, device_of
from amc_env.fit import check_fit
from amc_env.graph.labels import TraceError
from amc_env.graph.part import observe
from amc_env.graph.structure import Graph
from amc_env.graph.trace import trace
from amc_env.joint_task import JointTask
from amc_env.latency import table_for
from amc_env.layer_task import LayerTask, make_layer_task
from amc_env.metrics import Evaluation, EvaluationError
from amc_env.plan import Plan
from amc_env.repair.sequential import most_images
from amc_env.rewards import OF_SCORES, REWARDS
from amc_env.scoring import Metric
from amc_env.task import Task

AnyTask = Task | LayerTask | JointTask
REPAIRS = ("moments", "sequential", "staged", "none")
ORDERS = ("elimination", "magnitude")
METHODS = ("channels", "fine_grained", "weight_sharing", "low_rank", "joint")
LIMITS = {  # of the arguments of `make_env`: the lowest and the highest, or the choices
    "target": TARGET,
    "resource": ("macs", "params", "bits", "latency"),
    "reward": REWARDS,
    "scale": SCALES,
    "beta": BETA,
    "floor": FLOOR,
    "order": ORDERS,
    "repair": REPAIRS,
    "method": METHODS,
    "split": FACTORINGS,
    "start": STARTS,
    "round_to": ROUND_TO,
    "calibration_images": (1, 100_000_000),
    "points": (1, 1_000_000),
    "reward_images": (1, 100_000_000),
    "device": DEVICES,
    "seed": (0, 4_294_967_295),
}

if hasattr(os, "register_at_fork"):
    # OpenMP's threads do not survive a fork: without this a process of AsyncVectorEnv waits for them forever.
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a network is compressed: the keywords of `make_task`, and of `make_env` beside its own.

    Args:
        round_to: channels are kept in multiples of this; it is halved until it divides the width of a group
            and leaves it 16 choices.
        floor: smallest fraction of a group or layer that may be kept, in (0, 1].
        order: which channels stay: "elimination" keeps those without which the layers that read them lose
            most although they are refitted; "magnitude" keeps those that are read with the largest weights.
        repair: how least squares makes up for removed channels. "moments": from the dense network's inputs,
            without a forward pass. "sequential": after that from the small network's own inputs, in one
            forward pass. "staged": by moments while rewards are measured, which is fast, and sequentially
            from the confirmation on. "none": not at all.
        calibration_images: number of images that the repair reads; at most 1,000 of them pass through each
            smaller network, fewer where its layers are wide.
        points: positions sampled in each of them.
        device: where plans are repaired and run: a name in `amc_env.execution.DEVICES`.
        latency: path of a table of `experiments.latency`, for the resource "latency".
        force: use that table even if it was measured on another machine, with another runtime, or of another
            network with as many layers and the same channels.
        seed: draws the sampled positions.
        keep_whole: names of layers, or of modules with layers in them, that lose no channel on either side.
        method: what a decision is spent on. "channels", or, layer by layer: "fine_grained", its single
            weights ("elimination" then ranks them by second-order saliency); "weight_sharing", the bits of a
            weight; "low_rank", its rank; "joint", channels and bits together. Only channels can be repaired
            sequentially.
        split: how low rank factors a k x k convolution: by "channel" or "spatial".
        start: of weight sharing's k-means: "linear", "density" or "random".
        part: name of a module that alone is compressed, such as the backbone of a detector; costs are its
            own. It takes and returns tensors, or lists, tuples or dicts of them, whose channels all stay.
        metric: maps (network, batches) to a number, higher is better, or to it and its standard error. It
            replaces accuracy, and the network may return anything.

    Raises:
        ValueError: for a setting that does not exist, or does not fit another.
    """

    round_to: int = 8
    floor: float = 0.2
    order: str = "elimination"
    repair: str = "sequential"
    calibration_images: int = 2000
    points: int = 10
    device: str = "auto"
    latency: str | None = None
    force: bool = False
    seed: int = 0
    keep_whole: Sequence[str] = ()
    method: str = "channels"
    split: str = "channel"
    start: str = "linear"
    part: str | None = None
    metric: Metric | None = None

    def __post_init__(self) -> None:
        checks.within(LIMITS, vars(self))
        if isinstance(self.keep_whole, str):
            raise ValueError(f"keep_whole is a list of names: give [{self.keep_whole!r}]")
        if self.method == "channels":
            return
        if self.repair in ("sequential", "staged"):
            raise ValueError(
                f"repair={self.repair} is for channels alone: with method={self.method} "
                "give repair=moments or repair=none"
            )
        if self.part is not None or self.metric is not None:
            raise ValueError(
                f"method={self.method} is for whole classifiers: part and metric go with channels"
            )
        if self.latency is not None:
            raise ValueError(
                f"a latency table is of channels, not of method {self.method!r}: give latency=null"
            )

    @property
    def sample(self) -> dict[str, int]:
        """Which calibration rows are drawn."""
        return {"images": self.calibration_images, "points": self.points, "seed": self.seed}


def make_task(model: nn.Module, data: DataSet | OwnData, **settings: Any) -> AnyTask:
    """The task of compressing a network.

    Args:
        model: the dense network; logits ``(N, classes)`` unless there is a metric. It is copied, not changed.
        data: repair reads its calibration split, evaluators read the other splits.
        **settings: fields of `Settings`.

    Raises:
        TraceError, DataError, DeviceError, EvaluationError, ValueError: for what does not fit together,
            before any long work; each says what is possible.
        CheckpointError: for a network whose state holds more than tensors.
    """
    s = Settings(**settings)
    tunable = check_fit(model, data, logits=s.metric is None)
    checkpoints.refuse_objects(model.state_dict())
    model = copy.deepcopy(model)
    images = next(data.batches("calibration", 2, 2))[0]
    given = None if s.part is None else observe(model, s.part, images)
    graph = trace(model, data.shape, keep_whole=s.keep_whole, given=given)
    if isinstance(data, OwnData) and s.repair in ("sequential", "staged"):
        data.joined("calibration", most_images(graph, s.calibration_images))
    if s.method not in ("channels", "joint"):
        assert isinstance(data, DataSet)  # with class labels, see `check_fit`
        by_layer = make_layer_task(
            model, graph, data, method=s.method, order=s.order, repair=s.repair, floor=s.floor, split=s.split,
            start=s.start, sample=s.sample, device=device_of(s.device),
        )  # fmt: skip
        check_replaceable(by_layer.model, graph, by_layer.smallest(), images, method=s.method)
        return by_layer
    if not graph.groups:
        raise TraceError(f"nothing to decide in {type(model).__name__}: {_why_fixed(graph)}")
    table = None if s.latency is None else table_for(graph, s.latency, force=s.force)
    try_cut(model, graph)
    check(model, graph, random_plan(graph), images)
    graph = with_sound_folds(model, graph, images)
    channels = partial(Channels, graph, round_to=s.round_to, floor=s.floor, latency=table)
    task = Task(
        model, graph, data, channels=channels, order=s.order, repair=s.repair, sample=s.sample,
        device=device_of(s.device), metric=s.metric, tunable=tunable,
    )  # fmt: skip
    return JointTask(task, start=s.start, seed=s.seed) if s.method == "joint" else task


def make_env(
    model: nn.Module,
    data: DataSet | OwnData,
    *,
    target: float = 0.5,
    resource: str = "macs",
    limits: Mapping[str, float] | None = None,
    reward: str = "error",
    scale: str | None = None,
    beta: float = 0.7,
    reward_images: int | None = 1000,
    render_mode: str | None = None,
    **settings: Any,
) -> CompressionEnv:
    """An environment that compresses a network.

    Args:
        model: the dense network; logits ``(N, classes)`` unless there is a metric. It is copied, not changed.
        data: repair reads its calibration split, rewards its reward split; no other split is read.
        target: fraction of the dense cost that may be spent, in (0, 1].
        resource: what the target limits: "macs", "params", "latency", or "bits" where layers are decided.
        limits: further targets that hold as well, by resource.
        reward: a key of `amc_env.rewards.REWARDS`.
        scale: a key of `amc_env.actions.SCALES`; None for "relative".
        beta: half the width of the relative scale, in nats, at most 8.
        reward_images: number of images of the reward split that a reward is measured on; None for all.
        render_mode: "ansi" or "rgb_array": the keep ratios as bars.
        **settings: fields of `Settings`.

    Raises:
        TraceError, BudgetError, DataError, DeviceError, EvaluationError, ValueError: for what does not fit
            together, before any long work; each says what is possible.
    """
    task = make_task(model, data, **settings)
    problem: dict[str, Any] = {
        "target": target, "resource": resource, "limits": limits, "reward": reward,
        "scale": scale or "relative", "beta": beta, "render_mode": render_mode,
    }  # fmt: skip
    check_problem(task, reward_images, **problem)
    env = CompressionEnv(task.compressor, task.evaluator("reward", reward_images), **problem)
    env.task = task
    return env


class ShippedEnv(CompressionEnv):
    """The environment of a shipped checkpoint and the data it was trained on; the registered ids make it.

    Args:
        checkpoint: a name of `amc_env.checkpoints.shipped`.
        reward_images: see `make_env`.
        **settings: fields of `Settings`, and keywords of `CompressionEnv`.
    """

    def __init__(self, checkpoint: str, *, reward_images: int | None = 1000, **settings: Any) -> None:
        model, card = checkpoints.load(checkpoints.shipped(checkpoint))
        of_task = {one.name: settings.pop(one.name) for one in fields(Settings) if one.name in settings}
        task = make_task(model, load(card.data), **of_task)
        check_problem(task, reward_images, **settings)
        super().__init__(task.compressor, task.evaluator("reward", reward_images), **settings)
        self.task = task


def check_problem(task: AnyTask, reward_images: int | None, **problem: Any) -> None:
    """Find settings that do not fit before moments and orders are made, which takes long.

    Args:
        task: to be posed.
        reward_images: see `make_env`.
        **problem: the keywords of `CompressionEnv`.

    Raises:
        BudgetError, ValueError: as `CompressionEnv`.
    """
    if reward_images is not None:
        checks.within(LIMITS, {"reward_images": reward_images})
    if task.metric is not None and problem.get("reward", "error") not in OF_SCORES:
        raise ValueError(
            f"reward is {problem['reward']}, which needs logits; with a metric of your own it is one of "
            f"{', '.join(OF_SCORES)}, where the metric stands in the place of accuracy"
        )
    CompressionEnv(task.draft, _unmeasured, **problem)


def _unmeasured(plan: Plan) -> Evaluation:
    raise EvaluationError(f"there is no evaluator yet that measures plan {plan.hash}")


def _why_fixed(graph: Graph) -> str:
    if graph.notes:
        return "all its channels must stay, for " + "; ".join(graph.notes)
    return "it has no layer whose inputs another layer writes, beside the image and the classes"
