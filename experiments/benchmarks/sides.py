"""Both sides on one checkpoint, its data and the same plans, in turn, in one process."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from hydra import initialize_config_dir
from numpy.typing import NDArray

from agents.search import Agent, Array, Episode, Info
from agents.search import search as trials
from experiments.benchmarks.ours import Bare, Ours
from experiments.benchmarks.reference import Played, Reference
from experiments.benchmarks.subjects import BenchmarkError, Settings, Subject
from experiments.cli import config
from experiments.searching.compare import contender

SIDES = ("ours", "reference")
TOLERANCE = 0.3  # points between the rewards of the two sides

Row = dict[str, Any]


def compare(subject: Subject, settings: Settings, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Play the same random plans on both sides and time them; then short searches.

    A play of ours begins with a new evaluator, so that nothing is answered from memory; a search keeps its
    evaluator, as searches do.

    Args:
        subject: what is compressed.
        settings: how much of it.
        say: is told of every round.

    Returns:
        ``results`` and ``rows``, plain data of a record.
    """
    ours = Ours(subject, settings)
    graph = ours.env.graph
    reference = Reference(subject, graph, settings)
    bare = Bare(subject, ours.env, settings)
    plans = actions(settings, len(graph.groups))
    ours.play(plans[0])  # what a device does once is done then, as the yardstick's is by its stored rows
    rows = []
    for repeat in range(settings.repeats):
        for index, chosen in enumerate(plans):
            rows.append({"repeat": repeat, "plan": index} | play(ours, reference, bare, chosen))
        worst = max(abs(row["difference_points"]) for row in rows)
        say(f"{subject.name}: round {repeat + 1} of {settings.repeats}, rewards within {worst:.2f} points")
    results = {
        "weights": subject.weights,
        "rewards": rewards(rows[: len(plans)]),
        "median_seconds": {side: medians(rows, side) for side in ("ours", "reference", "bare")},
        "faster": ratio(rows, "reference", "ours"),
        "over_bare": ratio(rows, "ours", "bare"),
        "batch": bare.batch,
        "search": search(ours, bare, settings),
    }
    return {"results": results, "rows": rows}


def actions(settings: Settings, decisions: int) -> list[list[NDArray[np.float32]]]:
    """Random actions of each plan."""
    rng = np.random.default_rng(settings.seed)
    return [list(rng.random((decisions, 1), np.float32)) for _ in range(settings.plans)]


def play(ours: Ours, reference: Reference, bare: Bare, chosen: Sequence[NDArray[np.float32]]) -> Row:
    """One plan on both sides and through the bare network.

    Raises:
        BenchmarkError: when the sides keep different channels.
    """
    ours.forget()
    env, played = ours.env, {"ours": ours.play(chosen)}
    theirs = played["reference"] = reference.play(env.counts)
    if env.plan.kept != theirs.kept:
        raise BenchmarkError(
            f"the sides keep different channels of plan {env.plan.hash}: {env.plan.kept}, {theirs.kept}"
        )
    return {
        "hash": env.plan.hash,
        "top1": {name: side.top1 for name, side in played.items()},
        "difference_points": 100 * (played["ours"].top1 - theirs.top1),
        **{f"{name}_seconds": by_phase(side) for name, side in played.items()},
        "bare_seconds": {"episode": bare.seconds(env.plan)},
    }


def by_phase(played: Played) -> dict[str, float]:
    """Seconds of each phase, and of the episode."""
    return {"episode": played.total} | played.seconds


def medians(rows: Sequence[Mapping[str, Any]], side: str) -> dict[str, float]:
    """The median seconds of each phase of a side."""
    key = f"{side}_seconds"
    return {phase: statistics.median(row[key][phase] for row in rows) for phase in rows[0][key]}


def ratio(rows: Sequence[Mapping[str, Any]], above: str, below: str) -> dict[str, float]:
    """Of the seconds of two sides' episodes, each row with itself: median, lowest and highest."""
    return spread([row[f"{above}_seconds"]["episode"] / row[f"{below}_seconds"]["episode"] for row in rows])


def spread(each: Sequence[float]) -> dict[str, float]:
    """Their median, the lowest and the highest."""
    return {"median": statistics.median(each), "lowest": min(each), "highest": max(each)}


def rewards(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How far apart the two sides' accuracies are, in points."""
    apart = [abs(row["difference_points"]) for row in rows]
    return {
        "largest_points": max(apart),
        "mean_points": statistics.mean(apart),
        "agree": max(apart) <= TOLERANCE,
    }


def search(ours: Ours, bare: Bare, settings: Settings) -> dict[str, Any]:
    """Medians over the episodes of a search by DDPG that learns from the first on, each beside its bare pass.

    ``episode_seconds`` has the agent in it, and ``over_bare`` its ratio to the bare pass.
    """
    ours.forget()
    agent = Timed(learner(ours, settings, learn_after=0))
    rows, last = [], time.perf_counter()
    for trial in trials(ours.env, agent, episodes=settings.episodes, seed=settings.seed):
        episode = time.perf_counter() - last
        rows.append(
            {
                "episode": episode,
                "act": agent.act_seconds,
                "update": agent.update_seconds,
                "bare": bare.seconds(trial.episode.final["plan"]),
            }
        )
        agent.act_seconds = agent.update_seconds = 0.0
        last = time.perf_counter()
    middle = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    return {
        "episodes": settings.episodes,
        "median_seconds": middle,
        "over_bare": statistics.median(row["episode"] / row["bare"] for row in rows),
    }


def learner(ours: Ours, settings: Settings, **changes: Any) -> Agent:
    """The main job's default agent, but for what changes."""
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        settled = contender("ddpg", ["agent=ddpg"])["agent"] | changes
    spaces = {"observation_space": ours.env.observation_space, "action_space": ours.env.action_space}
    agent: Agent = config.instantiate(settled, **spaces, seed=settings.seed)
    return agent


class Timed:
    """An agent whose acting and learning are timed."""

    def __init__(self, agent: Agent) -> None:
        self.agent, self.act_seconds, self.update_seconds = agent, 0.0, 0.0

    def act(self, observation: Array, info: Info, *, explore: bool) -> Array:
        """As the agent does."""
        start = time.perf_counter()
        action = self.agent.act(observation, info, explore=explore)
        self.act_seconds += time.perf_counter() - start
        return action

    def end_episode(self, episode: Episode) -> dict[str, float]:
        """As the agent does."""
        start = time.perf_counter()
        metrics = self.agent.end_episode(episode)
        self.update_seconds += time.perf_counter() - start
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """The agent's."""
        return self.agent.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Into the agent."""
        self.agent.load_state_dict(state)
