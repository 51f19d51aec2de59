"""How a network is read: labels, what each operation does to them, and the two scribes that keep the record.

`amc_env.graph.trace` is the way in; `amc_env.graph.structure` holds what comes out; `rule` adds an operation.
"""

from amc_env.graph.operations import rule

__all__ = ["rule"]
