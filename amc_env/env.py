"""The compression of a trained CNN as an episode of decisions."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from amc_env import checks, render
from amc_env.actions import BETA, SCALES
from amc_env.budget import Budget
from amc_env.compressors import Compressor
from amc_env.cost import RESOURCES, Macs, dense_widths
from amc_env.metrics import Evaluation, EvaluationError, Score
from amc_env.observation import FEATURES, Embedding, Observation
from amc_env.plan import Plan
from amc_env.rewards import REWARDS, WEIGHED

METRICS = ("top1", "top5", "loss", "agreement", "kl", "std_error", "n_images")


class CompressionEnv(gym.Env[Observation, NDArray[np.float32]]):
    """Choose how much of each channel group of a CNN to keep, in forward order.

    ## Description
    A trained network is compressed decision by decision. A decision is a channel group: channels that layers
    share and that therefore stay or go together, such as the outputs of a convolution and the inputs of the
    next. It is taken at the first layer that reads the group. After the last decision the small network is
    cut, repaired and evaluated, and its metrics make the reward.

    *Source*: He et al., "AMC: AutoML for Model Compression and Acceleration on Mobile Devices", ECCV 2018,
    section 3.

    ## Action Space
    `Box(0, 1, (1,), float32)`: how much to keep, before the budget bounds it. On the *absolute* scale this is
    the fraction of the group's channels to keep. On the *relative* scale it is centred on
    the share of the budget that is left, keep = share exp(beta (2 action - 1)), so that 0.5 at every step is
    the uniform policy.

    ## Observation Space
    `Box(0, 1, (11,), float32)`: the first layer that reads the group, what has been removed, and the last
    keep ratio; `amc_env.observation.FEATURES` names the entries.

    ## Rewards
    0 until the last step; there the reward function of ``reward``, a key of `amc_env.rewards.REWARDS`.

    ## Starting State
    The dense network, nothing decided. Nothing is random: equal actions give equal episodes.

    ## Episode End
    An episode terminates at the last decision. It is never truncated.

    ## Information
    `reset` gives ``share``, the largest keep ratio that the budget allows for all decisions alike;
    ``decisions``, their number; ``choices``, the allowed keep ratios of each; ``costs``, what every plan
    costs, see `amc_env.budget.Budget.cost_tables`; and where they are known, ``errors``, for each choice the
    relative errors of the layers that read the group, and ``losses``, the rises of the loss in nats that
    follow from them, see `amc_env.repair.sensitivity`. Before each decision
    ``actions`` holds the action that asks for each of its choices, the nearest one where the scale does not
    reach it. Each step gives
    ``share`` for the decisions that are left; ``action_asked`` and ``action_executed``, the action that
    asks for exactly what was applied; ``keep_asked``, ``keep_bound`` and ``keep_applied`` in [0, 1];
    ``macs``, ``params`` and each other resource that is limited, or that the reward weighs, with all later
    groups whole. The last step adds the metrics of `amc_env.metrics.Evaluation` or `Score`, and the `Plan`
    under ``plan``. Clock times are left out, so that equal runs compare equal.

    ## Arguments
    `amc_env.building.make_env` makes an environment of a network and its data; `gym.make` of a shipped one:

    >>> import gymnasium as gym, numpy as np, amc_env
    >>> env = gym.make("AMC/Tabular-Digits-v0", target=0.5)
    >>> observation, info = env.reset(seed=0)
    >>> observation.shape, info["decisions"]
    ((11,), 5)
    >>> terminated = False
    >>> while not terminated:
    ...     observation, reward, terminated, truncated, info = env.step(np.array([0.5], dtype=np.float32))
    >>> info["macs"] <= 0.5 * env.unwrapped.budget.dense, reward == info["top1"] - 1
    (True, True)

    ## Version History
    * v0: first release

    Args:
        compressor: offers each group's counts and makes the plans.
        evaluator: plan -> metrics.
        target: fraction of the dense cost that may be spent, in (0, 1].
        resource: what the target limits, one that the compressor prices, such as "macs" or "params".
        limits: further targets that hold as well, by resource.
        reward: a key of `amc_env.rewards.REWARDS`.
        scale: a key of `amc_env.actions.SCALES`.
        beta: half the width of the relative scale, in nats; 0.7 spans from half the share to twice the share.
        render_mode: "ansi" or "rgb_array": the keep ratios as bars.

    Attributes:
        plan: the plan of the episode so far.
        counts: number of kept positions of each decided group.
        task: what `amc_env.building` built compressor and evaluator from; None for a table.

    Raises:
        BudgetError: for a target that no allowed network meets.
        ValueError: for a setting that does not exist.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # noqa: RUF012

    task: Any = None
    plan: Plan
    counts: list[int]
    _share: float

    def __init__(
        self,
        compressor: Compressor,
        evaluator: Callable[[Plan], Evaluation | Score],
        *,
        target: float = 0.5,
        resource: str = "macs",
        limits: Mapping[str, float] | None = None,
        reward: str = "error",
        scale: str = "relative",
        beta: float = 0.7,
        render_mode: str | None = None,
    ) -> None:
        self.limits = dict(limits or {})
        _check_settings(reward, scale, beta)
        checks.one_of("render_mode", render_mode, (None, *self.metadata["render_modes"]))
        _check_targets(resource, target, self.limits)
        self.compressor, self.graph, self.evaluator = compressor, compressor.graph, evaluator
        self.resource, self.render_mode = resource, render_mode
        self.scale, self.reward = SCALES[scale](beta), REWARDS[reward]
        self.prices = {
            name: compressor.prices(name)
            for name in dict.fromkeys((*RESOURCES, resource, *self.limits, WEIGHED.get(reward, resource)))
        }
        self._check_weighed(reward)
        self.limits.pop(resource, None)
        self.target, self.budget = target, Budget(compressor, {resource: target} | self.limits)
        self._begin()
        self._embedding = Embedding(self.graph, Macs(self.graph).by_layer(dense_widths(self.graph)))
        self.observation_space = gym.spaces.Box(0, 1, (len(FEATURES),), np.float32)
        self.action_space = gym.spaces.Box(0, 1, (1,), np.float32)

    def _check_weighed(self, reward: str) -> None:
        """Refuse a reward with a cost that no choice of the compressor changes."""
        if reward not in WEIGHED:
            return
        prices = self.prices[WEIGHED[reward]]
        first, whole = ([int(choices[at]) for choices in self.compressor.choices] for at in (0, -1))
        if int(prices(first)) == int(prices(whole)):
            raise ValueError(
                f"reward={reward} weighs the {prices.unit}, which no choice of this compressor changes: "
                "take another reward, such as bits, or compress otherwise"
            )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start again from the dense network.

        Args:
            seed: of ``np_random``, from which nothing is drawn.
            options: ignored.
        """
        super().reset(seed=seed)
        self._begin()
        info = {"share": self._share, "decisions": len(self.graph.groups), "actions": self._actions()}
        info |= {"choices": self.budget.keeps, "costs": _own(self.budget.cost_tables)}
        for name in ("errors", "losses"):
            if (known := getattr(self.compressor, name, None)) is not None:
                info[name] = tuple(known)
        return self._observe(), info

    def step(self, action: ArrayLike) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Spend one action on the next channel group.

        Raises:
            ValueError: for an action that is not one number in [0, 1].
            RuntimeError: after the last decision.
            EvaluationError: when the compressed network's logits, or the reward, are not finite.
        """
        group, share = self._next_group(), self._share
        asked = _number(action, group)
        keep, size = self.scale.to_keep(asked, share), int(self.budget.dense_counts[group])
        count, bound = self.budget.take(self.counts, keep)

        self.plan = self.plan.with_group(group, self.compressor.choose(group, count))
        self.counts.append(count)
        self._share = self.budget.share(self.counts)

        info = self.costs(self.counts) | {
            "share": self._share,
            "action_asked": asked,
            "action_executed": self.scale.to_action(count / size, share),
            "keep_asked": keep,
            "keep_bound": bound / size,
            "keep_applied": count / size,
        }
        if len(self.counts) < len(self.graph.groups):
            return self._observe(), 0.0, False, False, info | {"actions": self._actions()}
        reward, metrics = self._evaluate(info)
        return self._observe(), reward, True, False, info | metrics

    def render(self) -> Any:
        """The keep ratios so far: a text for "ansi", an image ``(H, W, 3)`` uint8 for "rgb_array"."""
        if self.render_mode == "ansi":
            return render.text(self.graph, self.plan, self.budget.spent(self.counts))
        if self.render_mode == "rgb_array":
            return render.picture(self.plan.keeps(self.graph), len(self.counts))
        return None

    def _begin(self) -> None:
        self.plan = Plan.dense(self.graph)
        self.counts = []
        self._share = self.budget.share(self.counts)

    def _next_group(self) -> int:
        if len(self.counts) == len(self.graph.groups):
            raise RuntimeError("all decisions are made; call reset before the next step")
        return len(self.counts)

    def _evaluate(self, costs: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        evaluation = self.evaluator(self.plan)
        reward = self.reward(evaluation, costs)
        if not math.isfinite(reward):
            raise EvaluationError(f"the reward of plan {self.plan.hash} is {reward}, of {evaluation}")
        metrics = {name: getattr(evaluation, name) for name in METRICS if hasattr(evaluation, name)}
        return reward, metrics | {"plan": self.plan}

    def costs(self, decided: Sequence[int]) -> dict[str, Any]:
        """What the network costs in each resource when all undecided groups are whole."""
        counts = [*decided, *self.budget.dense_counts[len(decided) :]]
        return {name: int(prices(counts)) for name, prices in self.prices.items()}

    def _actions(self) -> tuple[float, ...]:
        """The action that asks for each choice of the group at hand; the nearest one where none does."""
        keeps = self.budget.keeps[len(self.counts)]
        return tuple(self.scale.to_action(keep, self._share) for keep in keeps)

    def _observe(self) -> Observation:
        decided, previous = len(self.counts), 1.0
        if self.counts:
            previous = self.counts[-1] / len(self.graph.groups[decided - 1])
        return self._embedding(decided, 1 - self.budget.spent(self.counts), previous)


def _check_settings(reward: str, scale: str, beta: float) -> None:
    checks.one_of("reward", reward, REWARDS)
    checks.one_of("scale", scale, SCALES)
    checks.within({"beta": BETA}, {"beta": beta})


def _check_targets(resource: str, target: float, limits: Mapping[str, float]) -> None:
    if resource in limits and limits[resource] != target:
        raise ValueError(
            f"two targets for {resource}: target={target} and {limits[resource]} in limits; give one"
        )


def _number(action: ArrayLike, group: int) -> float:
    values = np.asarray(action, dtype=np.float64).ravel()
    if values.size != 1 or not 0 <= values[0] <= 1:
        raise ValueError(f"the action of decision {group} is {action!r}, not one number in [0, 1]")
    return float(values[0])


def _own(costs: Mapping[str, Any]) -> dict[str, Any]:
    """Costs in dicts of their own, as each info has to have them; the tables in them cannot be changed."""
    own = dict(costs) | {"pairs": dict(costs["pairs"])}
    return own | {"others": tuple(map(_own, costs["others"]))} if "others" in costs else own
