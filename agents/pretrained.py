"""An agent with critics that were trained on other networks, corrected by a Gaussian process."""

from pathlib import Path
from typing import Any, ClassVar

from agents.critic import Ensemble, read
from agents.damage import errors_of
from agents.episode import Array, Info
from agents.gp_errors import GPErrors
from agents.lattice import Floats, Lattice, Plans

SHIPPED = Path(__file__).parent / "weights/critic.safetensors"


class Pretrained(GPErrors):
    """`GPErrors` with the damage that pretrained critics predict in place of the errors' own.

    The first plan has the least predicted damage, with disagreement between the critics counted as damage.

    Args:
        critic: path of the critics that `experiments.pretrain_agent` wrote; None for the shipped ones.

    Raises:
        CriticError: for a file that is no critic of this version.
    """

    reads_errors: ClassVar[bool] = True

    def __init__(self, *args: Any, critic: str | None = None, **kwargs: Any) -> None:
        self.critic: Ensemble = read(Path(critic) if critic else SHIPPED)
        super().__init__(*args, **kwargs)

    def _identity(self) -> dict[str, Any]:
        return super()._identity() | {"critic": self.critic.digest}

    def act(self, observation: Array, info: Info, *, explore: bool) -> Array:
        """Like `GPErrors`.

        Raises:
            ErrorsError: if the environment tells no errors.
        """
        if "decisions" in info:
            errors_of(info)
        return super().act(observation, info, explore=explore)

    def damage(self, lattice: Lattice, plans: Plans) -> Floats:
        """``(n,)`` the critics' geometric mean for plans ``(n, T)``, in units of the uniform plan's."""
        return self.critic.damage(lattice, self._errors, plans, lattice.uniform())

    def doubted(self, lattice: Lattice, plans: Plans) -> Floats:
        """``(n,)`` the damage, larger where the critics disagree."""
        return self.critic.doubted(lattice, self._errors, plans, lattice.uniform())
