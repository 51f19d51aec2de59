"""`evaluating`, under the name by which some modules still import it."""

from amc_env.execution import evaluating

__all__ = ["evaluating"]
