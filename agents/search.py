"""The loop of every search: an agent explores, one or several environments evaluate, it learns."""

import time
from bisect import insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agents.episode import (
    ActionError,
    Agent,
    Array,
    Environment,
    Episode,
    EpisodeError,
    Info,
    Play,
    Space,
    run_episode,
)

__all__ = [
    "AHEAD",
    "ActionError",
    "Agent",
    "Array",
    "Best",
    "Environment",
    "Episode",
    "EpisodeError",
    "Info",
    "RewardError",
    "Space",
    "StateError",
    "Trial",
    "check_state",
    "episode_seed",
    "run_episode",
    "run_search",
    "search",
]

AHEAD = 16  # episodes that are played at most before an agent learns of the first: an interrupt loses them


class RewardError(ValueError):
    """An episode ended with a reward that is not a number."""


class StateError(ValueError):
    """A saved state that belongs to another agent or to other settings."""


@dataclass(frozen=True)
class Trial:
    """An episode of a search, its index from 0, and what the agent had to say of it.

    ``seconds`` is its share of the time that its batch took, learning included. ``settled`` says that no
    episode is pending: the agent's state can be taken.
    """

    index: int
    episode: Episode
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    settled: bool = True


@dataclass
class Best:
    """The best trial so far by reward, and the best plans that differ; of equals, the first.

    A plan is what a trial's last info holds under that name, and it counts if the reward is of as many images
    as any was, under ``n_images``, and not an estimate. Where the trial itself is gone, as in a search that
    goes on from a record, the reward stands for it. Where episodes have goals, numbers that their last info
    holds under ``target``, there are the best plans of each.

    Args:
        count: how many plans are kept, at least 1.
    """

    count: int = 50
    trial: Trial | None = field(default=None, init=False)
    reward: float = field(default=-np.inf, init=False)
    _plans: dict[float | None, list[tuple[float, Any]]] = field(default_factory=dict, init=False)
    _images: int = field(default=0, init=False)

    @property
    def leaders(self) -> Any:
        """What a reset is told: the best plans, the best first, or those of each goal; None before any."""
        told = {goal: tuple(plan for _, plan in plans) for goal, plans in self._plans.items()}
        return told.get(None, told) or None

    def offer(self, trial: Trial) -> bool:
        """Keep a trial if it is better than all before; says whether it was."""
        final = trial.episode.final
        images, goal = final.get("n_images", self._images), final.get("target")
        better = self.note(trial.episode.reward, final.get("plan"), goal, images)
        if better:
            self.trial = trial
        return better

    def note(self, reward: float, plan: Any, goal: float | None, images: int) -> bool:
        """The same of a trial that is gone."""
        self._images = max(self._images, images)
        if plan is not None and images == self._images:
            plans = self._plans.setdefault(goal, [])
            if all(plan != known for _, known in plans):
                insort(plans, (reward, plan), key=lambda entry: -entry[0])
                del plans[self.count :]
        better = reward > self.reward
        if better:
            self.trial, self.reward = None, reward
        return better


def search(
    env: Environment | Sequence[Environment],
    agent: Agent,
    *,
    episodes: int,
    seed: int,
    start: int = 0,
    best: Best | None = None,
) -> Iterator[Trial]:
    """Explore, learn, and yield each trial: the loop of every search.

    Episodes are played in batches of what the agent can play `ahead`, at most `AHEAD`, and it learns from
    them in the same order. Several environments, all of the same task, evaluate a batch side by side; that
    changes nothing but the time. Each reset has a seed of its own, drawn from (seed, index), and is told the
    best plans before the batch, or those of each goal, under the option ``leaders``, so that an agent
    restored to the end of episode ``start - 1``, where that was settled, continues as if it had never
    stopped.

    Args:
        env: what is asked; of several, each plays one episode at a time, its last step on another thread.
        agent: who answers.
        episodes: how many in all, those before ``start`` included.
        seed: of the environment's resets; the agent has its own.
        start: the first episode to play, where the agent was restored to that point.
        best: of the episodes before ``start``; it is kept up to date, so that the caller has it after an
            interrupt.

    Raises:
        ActionError: the agent's action is NaN, out of the box or of the wrong shape.
        RewardError: the reward is NaN or infinite; raised before the agent can learn from it.
    """
    if not 0 <= start <= episodes or episodes < 1:
        raise ValueError(f"episodes {start} to {episodes}: give at least 1, and a start within them")
    envs = list(env) if isinstance(env, Sequence) else [env]
    best, index = Best() if best is None else best, start
    with ThreadPoolExecutor(len(envs)) if len(envs) > 1 else _Here() as executor:
        while index < episodes:
            count = min(getattr(agent, "ahead", 1), AHEAD, episodes - index)
            seeds = [episode_seed(seed, i) for i in range(index, index + count)]
            before = time.perf_counter()
            batch = _play(envs, agent, seeds, best.leaders, executor)
            each = (time.perf_counter() - before) / len(batch)
            for number, outcome in enumerate(batch, 1):
                episode = outcome.result()
                _check_reward(episode, index)
                before = time.perf_counter()
                metrics = agent.end_episode(episode)
                seconds = each + time.perf_counter() - before
                trial = Trial(index, episode, metrics, seconds, settled=number == count)
                best.offer(trial)
                index += 1
                yield trial


def run_search(
    env: Environment | Sequence[Environment],
    agent: Agent,
    *,
    episodes: int,
    seed: int,
    start: int = 0,
    best: Best | None = None,
    on_episode: Callable[[Trial], None] = lambda trial: None,
) -> Episode:
    """Search to the end, as `search` does; the best episode by reward.

    ``on_episode`` is called after each, with the best already updated.
    """
    best = Best() if best is None else best
    for trial in search(env, agent, episodes=episodes, seed=seed, start=start, best=best):
        on_episode(trial)
    if best.trial is None:
        raise ValueError(
            f"nothing left to search after {start} of {episodes} episodes, and no best was given"
        )
    return best.trial.episode


def episode_seed(seed: int, index: int) -> int:
    """The seed of one episode's reset."""
    return int(np.random.SeedSequence((seed, index)).generate_state(1)[0])


def check_state(state: Mapping[str, Any], **expected: Any) -> None:
    """Raise `StateError`, and say what differs, unless the state was saved under what is expected."""
    for name, value in expected.items():
        if name not in state:
            raise StateError(f"not a state of this agent: no {name!r} in it")
        if isinstance(value, dict):
            check_state(state[name], **value)
        elif state[name] != value:
            raise StateError(
                f"saved with {name} {state[name]!r}, but this agent has {value!r}; search anew with it"
            )


class _Here(Executor):
    """Runs everything at once, on the thread that asks."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = Future[Any]()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def _play(
    envs: list[Environment], agent: Agent, seeds: list[int], leaders: Any, executor: Executor
) -> list[Future[Episode]]:
    """Play an episode a seed, the agent in that order; all are over, and after a failure no more are begun.

    Each environment evaluates on ``executor`` while the agent acts in the next one that is free.
    """
    options = None if leaders is None else {"leaders": leaders}
    idle, running, begun = list(envs), dict[Future[Episode], Environment](), list[Future[Episode]]()
    for pending, seed in enumerate(seeds):
        if not idle:
            over = wait(running, return_when=FIRST_COMPLETED).done
            idle += [running.pop(outcome) for outcome in over]
            if any(outcome.exception() for outcome in over):
                break
        play = Play(idle[-1], seed=seed, options=options)
        play.decide(agent, explore=True, pending=pending)
        begun.append(executor.submit(play.finish))
        running[begun[-1]] = idle.pop()
    wait(begun)
    return begun


def _check_reward(episode: Episode, index: int) -> None:
    if not np.isfinite(episode.reward):
        raise RewardError(
            f"episode {index} ended with reward {episode.reward}; its last info: {dict(episode.final)}; "
            "look for NaN in the weights, the data or the reward function"
        )
