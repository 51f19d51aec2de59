"""Evolution with one parent: a mutation moves channels from one layer to another."""

from agents.lattice import Lattice, Plans
from agents.plan_search import PlanSearch


class EvoPress(PlanSearch):
    """Mutates the best plan so far: a decision or two are lowered, others raised until the budget is used up.

    It starts from the uniform plan. A mutation replaces the parent only if its reward is higher.

    Source: Sieberling et al., "EvoPress", ICML 2025, Algorithm 1, without its selection in several steps:
    every plan is evaluated in full, as for all agents.
    """

    def propose(self, lattice: Lattice) -> Plans:
        """One new mutation of the best; the uniform plan at first."""
        if not len(self.plans):
            return lattice.filled(lattice.uniform(), self.rng)
        return self.mutated(lattice)
