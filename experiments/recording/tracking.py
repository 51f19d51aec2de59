"""Views of a run outside of its record: the names of what is logged, and Weights & Biases."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from agents.search import Trial

# Every name that is logged, and what it means; the table in the README is made from this.
METRICS = {
    "episode": "number of the episode, from 0",
    "target": "share of the cost that the episode may spend, where each has a target of its own",
    "reward": "what the agent is given at the end; the protocol names the formula",
    "best_reward": "highest reward up to this episode",
    "top1": "share of the reward images, in [0, 1], that the cut and refitted network gets right; all that "
    "is measured is an estimate of what all images would give where a plan was stopped",
    "std_error": "standard error of top1: binomial, and that of the estimate on top where a plan was stopped",
    "top5": "share of the reward images whose label is among the five largest logits",
    "loss": "mean cross-entropy on the reward images, in nats",
    "agreement": "share of the reward images on which cut and dense network say the same",
    "kl": "mean KL(dense, cut) of the predicted distributions, in nats",
    "n_images": "number of reward images that counted; fewer than all where a plan was stopped",
    "macs": "multiply-accumulates of the cut network for one image",
    "params": "parameters of the cut network",
    "macs_share": "macs as a share of the dense network's",
    "params_share": "params as a share of the dense network's",
    "bound_share": "share of the decisions that the budget bounded below what was asked",
    "episode_seconds": "time of the episode, learning included; of those played together, the mean",
    "agent/sigma": "standard deviation of the exploration noise, in units of the action",
    "agent/baseline": "moving average b of rewards that is subtracted in the target",
    "agent/critic_loss": "mean squared error of the critic over the episode's updates",
    "agent/q": "mean Q(s, mu(s)) over the episode's updates",
    "agent/actor_loss": "loss of the actor over the episode's updates (Stable-Baselines3)",
    "agent/ent_coef": "entropy coefficient of SAC",
    "train/epoch": "epoch of a training, from 0",
    "train/loss": "mean training loss of the epoch, in nats",
    "train/selection": "top-1 accuracy on the selection split after the epoch",
}


class TrackingError(ValueError):
    """A tracker that cannot be started."""


class Tracker(Protocol):
    """Where metrics go besides the record; a context, so that it is closed whatever happens."""

    def log(self, metrics: Mapping[str, float]) -> None:
        """One row: an episode's or an epoch's metrics, by the names in `METRICS`."""
        ...

    def summary(self, values: Mapping[str, Any]) -> None:
        """What the run came to."""
        ...

    def artifact(self, name: str, kind: str, files: Sequence[Path], facts: Mapping[str, Any]) -> None:
        """Files that the run made, with facts about them."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def episode_metrics(
    trial: Trial, *, best_reward: float, dense_macs: int, dense_params: int
) -> dict[str, float]:
    """An episode under the names in `METRICS`."""
    final, infos = trial.episode.final, trial.episode.infos
    measured = ("top1", "std_error", "top5", "loss", "agreement", "kl", "n_images", "macs", "params")
    bounded = sum(info["keep_applied"] >= info["keep_bound"] < info["keep_asked"] for info in infos)
    return {
        "episode": trial.index,
        **{name: final[name] for name in ("target",) if name in final},
        "reward": trial.episode.reward,
        "best_reward": best_reward,
        **{name: final[name] for name in measured},
        "macs_share": final["macs"] / dense_macs,
        "params_share": final["params"] / dense_params,
        "bound_share": bounded / len(infos),
        "episode_seconds": trial.seconds,
        **{f"agent/{name}": value for name, value in trial.metrics.items()},
    }


class NoTracker:
    """Logs nothing."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        pass

    def log(self, metrics: Mapping[str, float]) -> None:
        """Nothing."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Nothing."""

    def artifact(self, name: str, kind: str, files: Sequence[Path], facts: Mapping[str, Any]) -> None:
        """Nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class WandbTracker:
    """Weights & Biases, everything that it writes inside of the run's folder.

    Args:
        folder: of the run; W&B's files go to ``wandb`` in it.
        config: plain data.
        mode: "offline" writes files that ``wandb sync`` uploads and ``wandb leet`` shows; "online" needs a
            login.
        project: name of the project.
        group: what the run is shown with, as the seeds of one experiment.
        tags: to find it by.

    Raises:
        TrackingError: on entry, when W&B cannot be started.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        *,
        mode: Literal["offline", "online"] = "offline",
        project: str = "amc-rl",
        group: str | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        if mode not in ("offline", "online"):
            raise TrackingError(
                f"unknown mode {mode!r} of W&B; there are offline, online (and tracking=none)"
            )
        self.folder, self.config, self.mode = folder.absolute(), dict(config), mode
        self.project, self.group, self.tags = project, group, list(tags)

    def __enter__(self) -> Self:
        import wandb  # 0.7 s to import

        self._environment = _Environment(
            WANDB_DATA_DIR=str(self.folder / "wandb" / "data"),  # else artifacts are staged in ~/.local/share
            WANDB_CACHE_DIR=str(self.folder / "wandb" / "cache"),  # else logs go to ~/.cache
            WANDB_DISABLE_WEAVE="true",  # takes our package `agents` for another and advertises itself
        )
        self._environment.set()
        settings = wandb.Settings(
            console="off",  # the terminal shows a progress bar, which is no log
            silent=True,
            disable_git=True,  # the config holds the commit
            init_timeout=30,
            x_disable_stats=True,
            x_save_requirements=False,
            x_transaction_log_flush_interval=1.0,  # seconds; of 15, a kill takes all
        )
        try:
            self.run = wandb.init(
                dir=self.folder,
                mode=self.mode,
                project=self.project,
                name=self.folder.name,
                group=self.group,
                tags=self.tags,
                config=self.config,
                settings=settings,
                reinit="create_new",
            )
        except wandb.Error as error:
            self._environment.restore()
            raise TrackingError(
                f"W&B does not start {self.mode} ({error}): use tracking=wandb_offline or tracking=none"
            ) from error
        self.run.define_metric("*", step_metric="episode", step_sync=False)
        self.run.define_metric("train/*", step_metric="train/epoch", step_sync=False)
        return self

    def log(self, metrics: Mapping[str, float]) -> None:
        """One row of the history."""
        self.run.log(dict(metrics))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set keys of the run's summary."""
        self.run.summary.update(dict(values))

    def artifact(self, name: str, kind: str, files: Sequence[Path], facts: Mapping[str, Any]) -> None:
        """Log files as one artifact; they are copied."""
        import wandb

        artifact = wandb.Artifact(name, kind, metadata=dict(facts))
        for path in files:
            artifact.add_file(str(path))
        self.run.log_artifact(artifact)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.run.finish(exit_code=0 if error is None else 1)
        finally:
            self._environment.restore()


class _Environment:
    """Variables that are set for a time, and then as they were."""

    def __init__(self, **values: str) -> None:
        self.values = values

    def set(self) -> None:
        self.before = {name: os.environ.get(name) for name in self.values}
        os.environ.update(self.values)

    def restore(self) -> None:
        for name, value in self.before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value
