"""Settings that our DDPG and the learners of Stable-Baselines3 share."""

from dataclasses import dataclass

from agents.episode import check_limits
from agents.noise import SigmaSchedule

LIMITS = {  # of the numbers in `ActorCritic`: the lowest and the highest
    "hidden": (1, 16_384),
    "gamma": (0.0, 1.0),
    "tau": (0.0, 1.0),
    "batch": (1, 1_000_000),
    "memory": (1, 100_000_000),
    "updates_per_step": (1e-6, 1_000.0),
    "learn_after": (0, 1_000_000),
    "sigma": (0.0, 10.0),
    "warmup": (0, 1_000_000),
    "sigma_decay": (1e-6, 1.0),
}


class UpdatesError(ValueError):
    """Settings that leave an episode without an update."""


@dataclass(frozen=True, kw_only=True)
class ActorCritic:
    """Networks, replay, updates and noise; a wrong value is a ``ValueError``."""

    hidden: int = 300  # units in each of two hidden layers, as in AMC's released code
    gamma: float = 1.0  # so that early decisions count as much as late ones
    tau: float = 0.01  # share of the online network that enters the target at each update
    batch: int = 64  # transitions
    memory: int = 2000  # transitions
    updates_per_step: float = 1.0  # updates after an episode, for each of its decisions
    learn_after: int = 100  # episodes after which nothing is learnt yet
    sigma: float = 0.5  # of the noise, in units of the action in [0, 1]
    warmup: int = 100  # the last episode, from 0, with the first sigma
    sigma_decay: float = 0.95  # an episode; not in the paper, the released code's

    def __post_init__(self) -> None:
        check_limits(LIMITS, vars(self))

    @property
    def schedule(self) -> SigmaSchedule:
        """Sigma of each episode."""
        return SigmaSchedule(self.sigma, self.warmup, self.sigma_decay)

    def updates(self, decisions: int) -> int:
        """The number of updates after an episode with this many decisions.

        Raises:
            UpdatesError: if it rounds to none.
        """
        if count := round(self.updates_per_step * decisions):
            return count
        raise UpdatesError(
            f"updates_per_step {self.updates_per_step} rounds to no update in an episode with "
            f"decisions={decisions}; give {1 / decisions:.2g} or more"
        )
