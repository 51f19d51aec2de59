"""Reads a network into layers and channel groups, by running it on channel labels.

`amc_env.graph.trace` is the entry point, `amc_env.graph.structure` holds the result, and `rule` adds support
for an operation.
"""

from amc_env.graph.operations import rule

__all__ = ["rule"]
