"""How a network is read: labels, what operations and modules do to them, and the two scribes that keep the
record.

`amc_env.graph.trace` is the way in; `amc_env.graph.structure` holds what comes out.
"""
