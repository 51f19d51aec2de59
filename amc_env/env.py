"""The compression of a trained CNN as an episode of decisions."""

import copy
import math
import os
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, Self

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from amc_env import checkpoints as weights
from amc_env import render
from amc_env.actions import SCALES
from amc_env.budget import Budget
from amc_env.compressors import Compressor
from amc_env.compressors.channels import Channels
from amc_env.compressors.surgery import Solve, Surgeon, cut, drop
from amc_env.cost import RESOURCES, Macs, Params
from amc_env.data.splits import DataError, DataSet, load
from amc_env.evaluator import Evaluation, EvaluationError, Evaluator, culprit
from amc_env.execution import Execution, device_of
from amc_env.graph.structure import Graph
from amc_env.graph.trace import TraceError, trace
from amc_env.modes import evaluating
from amc_env.observation import FEATURES, Embedding, Observation
from amc_env.plan import Plan
from amc_env.repair.moments import collect_cached
from amc_env.repair.sequential import Sequential
from amc_env.rewards import REWARDS, Reward
from amc_env.stopping import Stopping

REFITS = ("moments", "sequential", "none")

if hasattr(os, "register_at_fork"):
    # OpenMP's threads do not survive a fork: a worker of AsyncVectorEnv would wait for them forever.
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))


class CompressionEnv(gym.Env[Observation, NDArray[np.float32]]):
    """Choose how much of each channel group to keep, in forward order; the reward comes once, at the end.

    *Source*: He et al., "AMC: AutoML for Model Compression and Acceleration on Mobile Devices", ECCV 2018,
    section 3.

    | | space | meaning |
    |-|-|-|
    | action | `Box(0, 1, (1,), float32)` | how much to keep, before the budget bounds it |
    | observation | `Box(0, 1, (11,), float32)` | s_t; `amc_env.observation.FEATURES` names the columns |

    On the *absolute* scale the action is the fraction of the group's channels to keep, as in the paper. On
    the *relative* scale it is centred on the share of the budget that is left:
    keep = share exp(beta (2a - 1)), so that 0.5 at every step is the uniform policy.

    The reward is 0 until the last step; there it is that of ``reward``, for the network that was cut,
    refitted by least squares and evaluated on the reward split. An episode terminates at the last decision
    and is never truncated.

    `info` of `reset` holds ``share``, the largest keep ratio that every decision can be given within the
    budget, and ``decisions``, their number. That of each step holds ``share`` for the decisions that are
    left, ``action_asked`` and ``action_executed`` (what would have asked for exactly what was applied),
    ``keep_asked``, ``keep_bound`` and ``keep_applied`` in [0, 1], and ``macs`` and ``params`` with all
    later groups whole. The last one also holds ``top1``, ``top5``, ``agreement`` in [0, 1], ``loss`` and
    ``kl`` in nats, ``std_error`` of top1, ``n_images``, and the `Plan` under ``plan``. There are no clock
    times in it, so that equal runs compare equal.

    With ``block`` set, ``reset(options={"leaders": plans})`` tells the best of the plans that were given all
    images: where there are ``2 * rank`` of them, an episode whose plan is with confidence worse than the one
    of that rank ends with estimates from fewer images, see `amc_env.stopping`. The option holds for one
    episode, and without it a plan is given all images.

    Args:
        model: the dense network; logits ``(N, classes)``. It is copied, not changed.
        data: calibration images for the refit, reward images for the reward; no other split is read.
        target: fraction of the dense cost that may be spent, in (0, 1].
        resource: what the target limits: a key of `amc_env.cost.RESOURCES`.
        reward: a key of `amc_env.rewards.REWARDS`.
        scale: a key of `amc_env.actions.SCALES`.
        beta: half the width of the relative scale, in nats: 0.7 spans from half of the share to twice of it.
        round_to: channels are kept in multiples of this where a group is wide enough.
        floor: smallest fraction of a group that may be kept.
        refit: repair the layers by least squares: "moments", from the dense network's inputs, without a
            forward pass; "sequential", after that from the smaller network's own, in a pass of it; or "none".
        calibration_images: how many images the refit is made from.
        points: positions sampled in each of them.
        reward_images: how many images a reward is measured on; None for the whole reward split.
        block: images between two looks at whether the plan may be stopped, each at the end of a batch, which
            on a GPU may hold them all; None gives every plan all images.
        confidence: standard errors by which a plan must be worse than a leader to be stopped.
        rank: which leader that is: the best is 1.
        memo: keep what is measured in the cache folder, for other runs; see `amc_env.memo`.
        prefix_mb: megabytes of what first layers gave that are kept, so that they are not run again for plans
            that leave them as they were, see `amc_env.prefix`. It changes no result, and nothing at all on a
            GPU and where plans are compiled or repaired as a whole (``refit="sequential"``).
        device: where plans are solved and run: a name in `amc_env.execution.DEVICES`.
        bfloat16: run them in bfloat16, see `amc_env.execution.Execution`.
        compile: compile networks before they are run, likewise.
        seed: draws the sampled positions.
        render_mode: "ansi" or "rgb_array": the keep ratios as bars.

    Raises:
        TraceError, BudgetError, DataError, DeviceError, EvaluationError, ValueError: for what does not fit
            together, before any long work; each says what is possible.

    Version history: v0, first release.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # noqa: RUF012

    plan: Plan  # of the episode so far
    counts: list[int]  # kept of each group decided so far
    leaders: tuple[Plan, ...] = ()  # the best plans before this episode, where they were told
    evaluator: Callable[[Plan, Sequence[Plan]], Evaluation]
    target: float
    budget: Budget
    _budgets: dict[float, Budget]  # by target, each built once
    _budget_of: type[Budget] = Budget
    _share: float

    def __init__(
        self,
        model: nn.Module,
        data: DataSet,
        *,
        target: float = 0.5,
        resource: str = "macs",
        reward: str = "error",
        scale: str = "relative",
        beta: float = 0.7,
        round_to: int = 8,
        floor: float = 0.2,
        refit: str = "moments",
        calibration_images: int = 2000,
        points: int = 10,
        reward_images: int | None = 1000,
        block: int | None = 50,
        confidence: float = 1.2,
        rank: int = 10,
        memo: bool = False,
        prefix_mb: int = 0,
        device: str = "auto",
        bfloat16: bool = False,
        compile: bool = False,
        seed: int = 0,
        render_mode: str | None = None,
    ) -> None:
        _positive(calibration_images=calibration_images, points=points, reward_images=reward_images)
        _positive(block=block, confidence=confidence, rank=rank)
        if prefix_mb < 0:
            raise ValueError(f"prefix_mb is {prefix_mb}, it must be at least 0")
        _choice("refit", refit, REFITS)
        check_fit(model, data)
        self.model, self.data = model, data
        graph = trace(model, data.shape)
        if not graph.groups:
            raise TraceError(f"nothing to decide in {type(model).__name__}: {_why_fixed(graph)}")
        self._pose(
            Channels(model, graph, round_to=round_to, floor=floor),
            target=target,
            resource=resource,
            reward=reward,
            scale=scale,
            beta=beta,
            render_mode=render_mode,
        )
        self._sample = {"images": calibration_images, "points": points, "seed": seed}
        self.execution = Execution(device_of(device), bfloat16, compile)
        self.solve: Solve = drop
        self.device_solve: Solve = drop  # on the device
        if refit != "none":
            moments = collect_cached(model, graph, data, **self._sample)
            self.solve, self.device_solve = moments.solve, moments.to(self.execution.device).solve
        self.sequential = refit == "sequential"
        self._memo = (
            f"{refit} {data.fingerprint('calibration', calibration_images)} {self._sample}" if memo else None
        )
        self.stopping = None if block is None else Stopping(block, confidence, self._worth(), rank)
        whole = self.sequential or compile or self.execution.device.type != "cpu"
        self._prefixes = 0 if whole else prefix_mb * 10**6
        self.evaluator = self.judge("reward", reward_images)

    def _pose(
        self,
        compressor: Compressor,
        *,
        target: float,
        resource: str,
        reward: str,
        scale: str,
        beta: float,
        render_mode: str | None,
    ) -> None:
        """Set up everything but what measures a plan."""
        _choice("resource", resource, RESOURCES)
        _choice("reward", reward, REWARDS)
        _choice("scale", scale, SCALES)
        _choice("render_mode", render_mode, (None, *self.metadata["render_modes"]))
        _positive(beta=beta)
        self.compressor, self.graph, self.render_mode = compressor, compressor.graph, render_mode
        self.scale, self.reward = SCALES[scale](beta), REWARDS[reward]
        self._resource, self._budgets = RESOURCES[resource](self.graph), {}
        self.aim(target)
        self.macs, self.params = Macs(self.graph), Params(self.graph)
        self._embedding = Embedding(self.graph, self.macs.by_layer(self.budget.widths([])))
        self.observation_space = gym.spaces.Box(0, 1, (len(FEATURES),), np.float32)
        self.action_space = gym.spaces.Box(0, 1, (1,), np.float32)

    def aim(self, target: float) -> None:
        """Go for another target, in (0, 1], from the beginning of an episode; the one at hand is given up.

        Raises:
            BudgetError: when no plan is within it; the target is then the one before.
        """
        if target not in self._budgets:
            self._budgets[target] = self._budget_of(self.compressor, self._resource, target)
        self.target, self.budget = target, self._budgets[target]
        self._begin()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Back to the dense network.

        Args:
            seed: of ``np_random``, from which nothing is drawn.
            options: ``leaders``, a sequence of `Plan` or None.

        Raises:
            PlanError: for a leader of another network.
        """
        super().reset(seed=seed)
        self._begin((options or {}).get("leaders") or ())
        return self._observe(), {"share": self._share, "decisions": len(self.graph.groups)}

    def step(self, action: ArrayLike) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Spend one action on the next channel group.

        Raises:
            ValueError: for an action that is not one number in [0, 1].
            RuntimeError: after the last decision.
            EvaluationError: when the compressed network's logits, or the reward, are not finite.
        """
        group, share = self._group_at_hand(), self._share
        asked = _number(action, group)
        keep, bound = self.scale.to_keep(asked, share), self.budget.bound(self.counts)
        count = min(self.budget.snap(group, keep), bound)

        self.plan = self.plan.with_group(group, self.compressor.choose(group, count))
        self.counts.append(count)
        self._share = self.budget.share(self.counts)

        size = len(self.graph.groups[group])
        info = self._costs() | {
            "share": self._share,
            "action_asked": asked,
            "action_executed": self.scale.to_action(count / size, share),
            "keep_asked": keep,
            "keep_bound": bound / size,
            "keep_applied": count / size,
        }
        if len(self.counts) < len(self.graph.groups):
            return self._observe(), 0.0, False, False, info
        reward, measured = self._judge(info)
        return self._observe(), reward, True, False, info | measured

    def judge(self, split: str, images: int | None = None) -> Evaluator:
        """An evaluator of this environment's plans on a split, with its refit."""
        repair = None
        if self.sequential:
            surgeon = Surgeon(self.model, self.graph, fold=True, device=self.execution.device)
            whole = surgeon.cut(Plan.dense(self.graph))
            repair = Sequential(whole, self.graph, self.data, **self._sample).repair
        return Evaluator(
            self.model, self.graph, self.data, self.device_solve, repair=repair, split=split, images=images,
            stopping=self.stopping, memo=self._memo, execution=self.execution, prefixes=self._prefixes,
        )  # fmt: skip

    def network(self, plan: Plan) -> nn.Module:
        """The physically smaller, trainable network that a plan leaves, refitted as its reward was measured.

        Raises:
            PlanError: for a plan of another network.
        """
        small = cut(self.model, self.graph, plan, self.solve)
        if self.sequential:
            repair = Sequential(self.model, self.graph, self.data, **self._sample).repair
            repair(small, self.graph.mask(plan.kept))
        return small

    def twin(self, target: float | None = None) -> Self:
        """Another episode of the same task, which shares everything but its own state.

        Args:
            target: what it aims at; None for the same.
        """
        other = copy.copy(self)
        other.aim(self.target if target is None else target)
        return other

    def render(self) -> Any:
        """The keep ratios so far: a text for "ansi", an image ``(H, W, 3)`` uint8 for "rgb_array"."""
        if self.render_mode == "ansi":
            return render.text(self.graph, self.plan, self.budget.spent(self.counts))
        if self.render_mode == "rgb_array":
            return render.picture(self.plan.keeps(self.graph), len(self.counts))
        return None

    def _begin(self, leaders: Sequence[Plan] = ()) -> None:
        checked = {id(leader) for leader in self.leaders}
        for leader in leaders:
            if id(leader) not in checked:
                leader.check(self.graph)
        self.leaders = tuple(leaders)
        self.plan = Plan.dense(self.graph)
        self.counts = []
        self._share = self.budget.share(self.counts)

    def _group_at_hand(self) -> int:
        if len(self.counts) == len(self.graph.groups):
            raise RuntimeError(f"all {len(self.counts)} decisions are made; call reset before the next step")
        return len(self.counts)

    def _judge(self, costs: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        evaluation = self.evaluator(self.plan, self.leaders)
        reward = self.reward(evaluation, costs["macs"], costs["params"])
        if not math.isfinite(reward):
            raise EvaluationError(
                f"the reward of plan {self.plan.hash} is {reward}; measured was {evaluation}"
            )
        measured = {
            "top1": evaluation.top1,
            "top5": evaluation.top5,
            "loss": evaluation.loss,
            "agreement": evaluation.agreement,
            "kl": evaluation.kl,
            "std_error": evaluation.std_error,
            "n_images": evaluation.n_images,
            "plan": self.plan,
        }
        return reward, measured

    def _worth(self) -> Callable[[Plan, Evaluation], float]:
        """(plan, evaluation) -> reward; without this environment and its data, for it is sent to workers."""
        return partial(_reward, self.budget, self.macs, self.params, self.reward)

    def _costs(self) -> dict[str, Any]:
        widths = self.budget.widths(self.counts)
        return {"macs": int(self.macs(widths)), "params": int(self.params(widths))}

    def _observe(self) -> Observation:
        decided, previous = len(self.counts), 1.0
        if self.counts:
            previous = self.counts[-1] / len(self.graph.groups[decided - 1])
        return self._embedding(decided, 1 - self.budget.spent(self.counts), previous)


def make(checkpoint: str, **settings: Any) -> CompressionEnv:
    """The environment of a shipped checkpoint and the data it was trained on; the registered ids call it."""
    model, card = weights.load(weights.shipped(checkpoint))
    return CompressionEnv(model, load(card.data), **settings)


def check_fit(model: nn.Module, data: DataSet) -> None:
    """Run a model on two images, so that what does not fit together is found before any long work.

    Raises:
        DataError: when the model does not take a data set's images, or does not answer with its classes.
        EvaluationError: when its logits are not finite.
    """
    images, _ = next(data.batches("calibration", 2))
    name = type(model).__name__
    try:
        with evaluating(model):
            logits = model(images)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise DataError(
            f"{name} cannot take the images of {data.name}, {data.shape} each: {error}. "
            "Build it with in_channels and a resolution that match, or choose other data"
        ) from error
    if not isinstance(logits, Tensor) or logits.shape != (len(images), data.classes):
        given = f"{tuple(logits.shape[1:])} outputs" if isinstance(logits, Tensor) else type(logits).__name__
        raise DataError(
            f"{name} gives {given} for an image, {data.name} has {data.classes} classes; "
            "build it with as many, or choose other data"
        )
    if not bool(logits.isfinite().all()):
        raise EvaluationError(f"the logits of {name} are not finite: {culprit(model)}")


def _reward(
    budget: Budget, macs: Macs, params: Params, reward: Reward, plan: Plan, evaluation: Evaluation
) -> float:
    """The reward of a plan of which that would have been measured."""
    kept = [int(size) if k is None else len(k) for size, k in zip(budget.whole, plan.kept, strict=True)]
    widths = budget.widths(kept)
    return reward(evaluation, int(macs(widths)), int(params(widths)))


def _number(action: ArrayLike, group: int) -> float:
    values = np.asarray(action, dtype=np.float64).ravel()
    if values.size != 1 or not 0 <= values[0] <= 1:
        raise ValueError(f"the action of decision {group} is {action!r}, not one number in [0, 1]")
    return float(values[0])


def _choice(what: str, given: object, possible: Collection[object]) -> None:
    if given not in possible:
        raise ValueError(f"unknown {what} {given!r}; there are {', '.join(map(str, possible))}")


def _positive(**settings: float | None) -> None:
    for name, value in settings.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name} is {value}, it must be above 0")


def _why_fixed(graph: Graph) -> str:
    if graph.notes:
        return "all its channels must stay, for " + "; ".join(graph.notes)
    return "it has no layer whose inputs another layer writes, beside the image and the classes"
