"""The global random generators, which our code must not draw from."""

import random

import numpy as np
import torch


def global_state() -> tuple[object, ...]:
    """The whole state of Python's, numpy's and torch's; equal exactly when nobody drew or seeded."""
    name, key, *rest = np.random.get_state()  # noqa: NPY002 - to see whether somebody else used it
    return random.getstate(), name, key.tolist(), *rest, torch.random.get_rng_state().tolist()
