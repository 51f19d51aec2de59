"""Names of the logged metrics, and the interface of trackers, which show a run outside its record."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from agents.search import Trial
from amc_env.env import METRICS as METRICS_OF_ENV

# Every name that is logged, and its meaning; a table in the results page is made from this.
METRICS = {
    "episode": "number of the episode, from 0",
    "reward": "reward of the episode, by the protocol's formula",
    "best_reward": "highest reward up to and including this episode",
    "top1": "accuracy of the compressed network on the reward images, in [0, 1]",
    "std_error": "binomial standard error of top1",
    "top5": "fraction of the reward images whose label is among the five largest logits",
    "loss": "mean cross-entropy on the reward images, in nats",
    "agreement": "fraction of the reward images on which compressed and dense network predict the same class",
    "kl": "mean KL(dense, compressed) of the predicted distributions, in nats",
    "n_images": "number of reward images",
    "macs": "multiply-accumulates of the compressed network for one image",
    "params": "parameters of the compressed network",
    "macs_share": "macs as a fraction of the dense network's",
    "params_share": "params as a fraction of the dense network's",
    "latency": "nanoseconds of the compressed network by its latency table",
    "latency_share": "latency as a fraction of the dense network's",
    "bits": "bits of the compressed network's weights, where they are limited or rewarded",
    "bits_share": "bits as a fraction of the dense network's",
    "bound_share": "fraction of the decisions in which the budget allowed less than was asked",
    "episode_seconds": "seconds of the episode, learning included",
    "agent/sigma": "standard deviation of the exploration noise, in units of the action",
    "agent/baseline": "moving average of rewards that is subtracted from the critic's target",
    "agent/critic_loss": "mean squared error of the critic over the episode's updates",
    "agent/q": "mean Q(s, mu(s)) over the episode's updates",
    "agent/actor_loss": "loss of the actor over the episode's updates (Stable-Baselines3)",
    "train/epoch": "epoch of a training, from 0; those of several rounds are numbered on",
    "train/loss": "mean training loss of the epoch, in nats",
    "train/selection": "accuracy on the selection split after the epoch, in [0, 1]",
    "uniform/epoch": "epoch of the uniform policy's fine-tuning, from 0",
    "uniform/loss": "its mean training loss of the epoch, in nats",
    "uniform/selection": "its accuracy on the selection split after the epoch, in [0, 1]",
}


class TrackingError(ValueError):
    """A tracker that cannot be started."""


class Tracker(Protocol):
    """Receives metrics besides the record; a context manager, so that it is always closed."""

    def log(self, metrics: Mapping[str, float]) -> None:
        """Log one row: the metrics of an episode or an epoch, named as in `METRICS`."""
        ...

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set final values of the run."""
        ...

    def artifact(self, name: str, kind: str, files: Sequence[Path], facts: Mapping[str, Any]) -> None:
        """Attach files that the run wrote, with metadata."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def episode_metrics(trial: Trial, *, best_reward: float, dense: Mapping[str, int]) -> dict[str, float]:
    """Make the row of an episode, named as in `METRICS`.

    Args:
        trial: the episode.
        best_reward: of all episodes so far.
        dense: cost of the dense network by resource; the row has these resources and their shares.
    """
    final, infos = trial.episode.final, trial.episode.infos
    measured = (*METRICS_OF_ENV, *dense)
    bounded = sum(info["keep_applied"] >= info["keep_bound"] < info["keep_asked"] for info in infos)
    return {
        "episode": trial.index,
        "reward": trial.episode.reward,
        "best_reward": best_reward,
        **{name: final[name] for name in measured if name in final},
        **{f"{name}_share": final[name] / cost for name, cost in dense.items()},
        "bound_share": bounded / len(infos),
        "episode_seconds": trial.seconds,
        **{f"agent/{name}": value for name, value in trial.metrics.items()},
    }


class NoTracker(Tracker):
    """Logs nothing: the methods that it inherits do nothing."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        pass

    def __enter__(self) -> Self:
        return self
