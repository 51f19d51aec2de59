"""From a trained network and its data to an environment."""

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn

from amc_env import checkpoints, checks
from amc_env.actions import SCALES
from amc_env.compressors.channels import Channels, magnitude_orders
from amc_env.compressors.networks import CutNetworks, Networks, networks
from amc_env.compressors.surgery import Solve, Surgeon, cut, drop
from amc_env.compressors.trial import check, random_plan, try_cut
from amc_env.cost import Ints
from amc_env.data.own import OwnData
from amc_env.data.splits import DataSet, load
from amc_env.env import CompressionEnv
from amc_env.evaluator import Evaluator
from amc_env.execution import DEVICES, device_of
from amc_env.fit import check_fit
from amc_env.graph.part import observe
from amc_env.graph.structure import Graph
from amc_env.graph.trace import TraceError, trace
from amc_env.joint_task import JointTask
from amc_env.latency import table_for
from amc_env.layer_task import LayerTask, make_layer_task
from amc_env.metrics import Evaluation, EvaluationError
from amc_env.plan import Plan
from amc_env.repair.elimination import orders_cached
from amc_env.repair.moments import Moments, collect_cached
from amc_env.repair.sensitivity import errors
from amc_env.repair.sequential import Sequential
from amc_env.rewards import OF_SCORES, REWARDS
from amc_env.scoring import Metric, Scorer

REPAIRS = ("moments", "sequential", "staged", "none")
ORDERS = ("elimination", "magnitude")
METHODS = ("channels", "fine_grained", "weight_sharing", "low_rank", "joint")
SPLITS = ("channel", "spatial")
STARTS = ("linear", "density", "random")
LIMITS = {  # of the settings of `make_env`: the lowest, the highest, words beside them; or the choices
    "target": (1e-6, 1.0),
    "resource": ("macs", "params", "bits", "latency"),
    "reward": REWARDS,
    "scale": SCALES,
    "beta": (1e-3, 100.0),
    "floor": (1e-6, 1.0),
    "order": ORDERS,
    "repair": REPAIRS,
    "method": METHODS,
    "split": SPLITS,
    "start": STARTS,
    "round_to": (1, 65_536),
    "calibration_images": (1, 100_000_000),
    "points": (1, 1_000_000),
    "reward_images": (1, 100_000_000),
    "device": DEVICES,
    "seed": (0, 4_294_967_295),
}

if hasattr(os, "register_at_fork"):
    # OpenMP's threads do not survive a fork: without this a process of AsyncVectorEnv waits for them forever.
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))


class Task:
    """A network that is compressed, its data, and how plans of it are cut, repaired and evaluated.

    `make_task` makes one from names; moments and orders are made when they are first needed.

    Args:
        model: the dense network; logits ``(N, classes)``, but for a metric. It is copied, not changed.
        graph: of it.
        data: its splits.
        channels: the orders of the groups -> a compressor.
        order: a name of `ORDERS`.
        repair: a name of `REPAIRS`.
        sample: ``images``, ``points`` and ``seed`` of the calibration rows, see `make_task`.
        device: where plans are repaired and run.
        metric: stands in the place of accuracy; None for accuracy itself.
        tunable: whether the network answers with logits, and the data have class labels.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: Graph,
        data: DataSet | OwnData,
        *,
        channels: Callable[[Sequence[Ints]], Channels],
        order: str,
        repair: str,
        sample: dict[str, int],
        device: torch.device,
        metric: Metric | None = None,
        tunable: bool = True,
    ) -> None:
        self.model, self.graph, self._channels = model, graph, channels
        self.data: Any = data
        self.order, self.repair, self.device, self._sample = order, repair, device, sample
        self.metric, self.tunable, self.part = metric, tunable, graph.given.part
        self.draft = channels(magnitude_orders(model, graph))  # its budgets are known before any long work
        self.latency = self.draft.latency

    @cached_property
    def compressor(self) -> Channels:
        """Makes the plans."""
        if self.order == "magnitude":
            made = self.draft
        else:
            made = self._channels(orders_cached(self.model, self.graph, self.data, **self._sample))
        if self.moments is not None:
            made.errors = errors(self.model, self.graph, self.moments, made.orders, made.choices)
        return made

    @cached_property
    def moments(self) -> Moments | None:
        """Of the dense network's inputs; None where nothing is repaired."""
        if self.repair == "none":
            return None
        return collect_cached(self.model, self.graph, self.data, **self._sample)

    @cached_property
    def solve(self) -> Solve:
        """Gives the weights of layers that lost inputs; its tensors are on the device."""
        return drop if self.moments is None else self.moments.to(self.device).solve

    def networks(self, images: int, split: str = "reward") -> Networks:
        """Makes the networks of plans that are each run on so many images of a split."""
        if not self._whole or (self.repair == "staged" and split == "reward"):
            return networks(self.model, self.graph, self.solve, device=self.device, images=images)
        whole = Surgeon(self.model, self.graph, fold=True, device=self.device).cut(Plan.dense(self.graph))
        repair = Sequential(whole, self.graph, self.data, **self._sample).repair
        return CutNetworks(self.model, self.graph, self.solve, repair=repair, device=self.device)

    def evaluator(self, split: str, images: int | None = None) -> Any:
        """An `Evaluator` or `Scorer` of plans on the first ``images`` of a split; None for all of them."""
        count = len(self.data[split].head(images))
        if self.metric is not None:
            return Scorer(self.networks(count, split), self.data, self.metric, split=split, images=images)
        return Evaluator(self.networks(count, split), self.data, split=split, images=images)

    def network(self, plan: Plan) -> nn.Module:
        """The physically smaller, trainable network that a plan leaves, repaired as it is delivered.

        Raises:
            PlanError: for a plan of another network.
        """
        solve = drop if self.moments is None else self.moments.solve
        small = cut(self.model, self.graph, plan, solve)
        if self._whole:
            self._sequential.repair(small.to(self.device), self.graph.mask(plan.kept))
        return small.cpu()

    def rehearsal(self) -> nn.Module:
        """A small trainable network, made without moments."""
        return cut(self.model, self.graph, random_plan(self.graph))

    def described(self, plan: Plan) -> dict[str, Any] | None:
        """What a card needs to build a plan's network."""
        return plan.to_dict()

    @property
    def _whole(self) -> bool:
        """Whether a network that is delivered is repaired as a whole."""
        return self.repair in ("sequential", "staged")

    @cached_property
    def _sequential(self) -> Sequential:
        """Repairs trainable networks, whose batch norms are not folded; on the device."""
        dense = copy.deepcopy(self.model).to(self.device)
        return Sequential(dense, self.graph, self.data, **self._sample)


def make_task(
    model: nn.Module,
    data: DataSet | OwnData,
    *,
    round_to: int = 8,
    floor: float = 0.2,
    order: str = "elimination",
    repair: str = "moments",
    calibration_images: int = 2000,
    points: int = 10,
    device: str = "auto",
    latency: str | None = None,
    force: bool = False,
    seed: int = 0,
    keep_whole: Sequence[str] = (),
    method: str = "channels",
    split: str = "channel",
    start: str = "linear",
    part: str | None = None,
    metric: Metric | None = None,
) -> Task | LayerTask | JointTask:
    """The task of compressing a network.

    Args:
        model: the dense network; logits ``(N, classes)``, but for a metric. It is copied, not changed.
        data: repair reads its calibration split; other splits are read by the evaluators on them.
        round_to: channels are kept in multiples of this if a group is wide enough.
        floor: smallest fraction of a group that may be kept, in (0, 1].
        order: which channels stay: "elimination", those without which the layers that read them lose most
            although they are refitted; "magnitude", those that are read with the largest weights.
        repair: what makes up for removed channels by least squares: "moments", from the dense network's
            inputs, without a forward pass; "sequential", after that from the small network's own inputs, in
            one pass of it; "staged", by moments while rewards are measured, which is fast, and sequentially
            from the confirmation on; or "none".
        calibration_images: how many images the repair is made from; no more than 1,000 of them pass through
            each smaller network.
        points: positions sampled in each of them.
        device: where plans are repaired and run: a name in `amc_env.execution.DEVICES`.
        latency: path of a table of `experiments.latency`, for the resource "latency".
        force: use it although it was measured under other conditions.
        seed: draws the sampled positions.
        keep_whole: names of layers, or of modules with layers in them, that lose no channel on either side.
        method: what a decision is spent on: "channels"; or, layer by layer, "fine_grained", its single
            weights ("elimination" then ranks them by second-order saliency); "weight_sharing", the bits of a
            weight; "low_rank", its rank; "joint", channels and bits together. Only channels can be repaired
            sequentially.
        split: of low rank, of a k x k convolution: by "channel" or "spatial".
        start: of weight sharing's k-means: "linear", "density" or "random".
        part: name of a module that alone is compressed, as the backbone of a detector; costs are its own. It
            takes and returns tensors, or lists, tuples or dicts of them, whose channels all stay.
        metric: (network, batches) -> a number, higher is better, or it and its standard error; it stands in
            the place of accuracy, and the network may return what it likes.

    Raises:
        TraceError, DataError, DeviceError, EvaluationError, ValueError: for what does not fit together,
            before any long work; each says what is possible.
    """
    checks.positive(calibration_images=calibration_images, points=points)
    checks.one_of("order", order, ORDERS)
    checks.one_of("repair", repair, REPAIRS)
    checks.one_of("method", method, METHODS)
    tunable = check_fit(model, data, logits=metric is None)
    images = next(data.batches("calibration", 2, 2))[0]
    given = None if part is None else observe(model, part, images)
    graph = trace(model, data.shape, keep_whole=keep_whole, given=given)
    sample = {"images": calibration_images, "points": points, "seed": seed}
    if method != "channels":
        if method == "joint" and repair == "sequential":
            raise ValueError("repair=sequential is for channels alone: with method=joint give repair=moments")
        if part is not None or metric is not None:
            raise ValueError(f"method={method} is for whole classifiers: part and metric go with channels")
        if latency is not None:
            raise ValueError(f"a latency table is of channels, not of method {method!r}: give latency=null")
    if method not in ("channels", "joint"):
        assert isinstance(data, DataSet)  # with class labels, see `check_fit`
        return make_layer_task(
            model, graph, data, method=method, order=order, repair=repair, floor=floor, split=split,
            start=start, sample=sample, device=device_of(device),
        )  # fmt: skip
    if not graph.groups:
        raise TraceError(f"nothing to decide in {type(model).__name__}: {_why_fixed(graph)}")
    table = None if latency is None else table_for(graph, latency, force=force)
    try_cut(model, graph)
    check(model, graph, random_plan(graph), images)
    task = Task(
        model,
        graph,
        data,
        channels=partial(Channels, graph, round_to=round_to, floor=floor, latency=table),
        order=order,
        repair=repair,
        sample=sample,
        device=device_of(device),
        metric=metric,
        tunable=tunable,
    )
    return JointTask(task, start=start, seed=seed) if method == "joint" else task


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
    round_to: int = 8,
    floor: float = 0.2,
    order: str = "elimination",
    repair: str = "moments",
    calibration_images: int = 2000,
    points: int = 10,
    reward_images: int | None = 1000,
    device: str = "auto",
    latency: str | None = None,
    force: bool = False,
    seed: int = 0,
    keep_whole: Sequence[str] = (),
    method: str = "channels",
    split: str = "channel",
    start: str = "linear",
    part: str | None = None,
    metric: Metric | None = None,
    render_mode: str | None = None,
) -> CompressionEnv:
    """An environment that compresses a network.

    Args:
        model: the dense network; logits ``(N, classes)``, but for a metric. It is copied, not changed.
        data: repair reads its calibration split, rewards its reward split; no other split is read.
        target: fraction of the dense cost that may be spent, in (0, 1].
        resource: what the target limits: "macs", "params", "latency", or "bits" where layers are decided.
        limits: further targets that hold as well, by resource.
        reward: a key of `amc_env.rewards.REWARDS`.
        scale: a key of `amc_env.actions.SCALES`; None for "relative".
        beta: half the width of the relative scale, in nats.
        round_to: channels are kept in multiples of this if a group is wide enough.
        floor: smallest fraction of a group that may be kept, in (0, 1].
        order: a name of `ORDERS`, see `make_task`.
        repair: a name of `REPAIRS`, see `make_task`.
        calibration_images: how many images the repair is made from; no more than 1,000 of them pass through
            each smaller network.
        points: positions sampled in each of them.
        reward_images: how many images of the reward split a reward is measured on; None for all.
        device: where plans are repaired and run: a name in `amc_env.execution.DEVICES`.
        latency: path of a table of `experiments.latency`, for the resource "latency".
        force: use it although it was measured under other conditions.
        seed: draws the sampled positions.
        keep_whole: names of layers that stay whole, see `make_task`.
        method: a name of `METHODS`, see `make_task`.
        split: a name of `SPLITS`, see `make_task`.
        start: a name of `STARTS`, see `make_task`.
        part: name of the module that is compressed, see `make_task`; None for the whole network.
        metric: in the place of accuracy, see `make_task`.
        render_mode: "ansi" or "rgb_array": the keep ratios as bars.

    Raises:
        TraceError, BudgetError, DataError, DeviceError, EvaluationError, ValueError: for what does not fit
            together, before any long work; each says what is possible.
    """
    task = make_task(
        model, data, round_to=round_to, floor=floor, order=order, repair=repair,
        calibration_images=calibration_images, points=points, device=device,
        latency=latency, force=force, seed=seed, keep_whole=keep_whole,
        method=method, split=split, start=start,
        part=part, metric=metric,
    )  # fmt: skip
    return _with_evaluator(
        task, reward_images, target=target, resource=resource, limits=limits, reward=reward,
        scale=scale or "relative",
        beta=beta, render_mode=render_mode,
    )  # fmt: skip


def _with_evaluator(
    task: Task | LayerTask | JointTask, reward_images: int | None, **problem: Any
) -> CompressionEnv:
    check_problem(task, reward_images, **problem)
    env = CompressionEnv(task.compressor, task.evaluator("reward", reward_images), **problem)
    env.task = task
    return env


class ShippedEnv(CompressionEnv):
    """The environment of a shipped checkpoint and the data it was trained on; the registered ids make it.

    Args:
        checkpoint: a name of `amc_env.checkpoints.shipped`.
        reward_images: see `make_env`.
        **settings: those of `make_task` and `CompressionEnv`.
    """

    def __init__(self, checkpoint: str, *, reward_images: int | None = 1000, **settings: Any) -> None:
        model, card = checkpoints.load(checkpoints.shipped(checkpoint))
        of_task = {name: settings.pop(name) for name in (make_task.__kwdefaults__ or {}) if name in settings}
        task = make_task(model, load(card.data), **of_task)
        check_problem(task, reward_images, **settings)
        super().__init__(task.compressor, task.evaluator("reward", reward_images), **settings)
        self.task = task


def check_problem(task: Task | LayerTask | JointTask, reward_images: int | None, **problem: Any) -> None:
    """Find settings that do not fit before moments and orders are made, which takes long.

    Args:
        task: to be posed.
        reward_images: see `make_env`.
        **problem: the keywords of `CompressionEnv`.

    Raises:
        BudgetError, ValueError: as `CompressionEnv`.
    """
    checks.positive(reward_images=reward_images)
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
