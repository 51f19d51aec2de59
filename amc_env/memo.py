"""What was measured of plans, kept on disk across runs: a folder a task, in it a small file a plan.

A file is replaced as a whole and holds a digest of its content, so that any number of processes may write and
any of them may be killed; what is damaged all the same is dropped, and a warning says so.
"""

import functools
import hashlib
import json
import os
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from amc_env.data.splits import cache_folder
from amc_env.metrics import IMAGE, Images
from amc_env.plan import Plan

DIGEST = hashlib.sha256().digest_size


class Memo:
    """The measurements of one task.

    Args:
        facts: everything that they depend on but for the plan, plain data. The code of this package is added,
            and at each use the number of threads, which sums depend on.
    """

    def __init__(self, **facts: Any) -> None:
        text = json.dumps(facts | {"code": code()}, sort_keys=True)
        self._task = cache_folder() / "evaluations" / hashlib.sha256(text.encode()).hexdigest()[:32]
        self._writes = True

    @property
    def folder(self) -> Path:
        """Where files lie now; in the cache folder."""
        return self._task / f"threads-{torch.get_num_threads()}"

    def read(self, plan: Plan) -> Images:
        """``(n,)`` what was measured of the first images of a split; none where a plan is not known."""
        path = self.folder / plan.hash
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return np.empty(0, IMAGE)
        body = content[DIGEST:]
        if content[:DIGEST] != _digest(plan, body) or len(body) % IMAGE.itemsize:
            warnings.warn(f"{path} is damaged: it is dropped and {plan.hash} is measured again", stacklevel=2)
            path.unlink(missing_ok=True)
            return np.empty(0, IMAGE)
        return np.frombuffer(body, IMAGE)

    def write(self, plan: Plan, images: Images) -> None:
        """Keep what was measured of a plan; where that cannot be, a warning says so, and nothing more is."""
        if not self._writes:
            return
        body, path = images.tobytes(), self.folder / plan.hash
        partial = path.with_name(f".{plan.hash}.{os.getpid()}.{threading.get_ident()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(_digest(plan, body) + body)
            os.replace(partial, path)
        except OSError as error:
            self._writes = False
            warnings.warn(f"evaluations are not kept from here on: {error}", stacklevel=2)


@functools.cache
def code() -> str:
    """A hash of this package's source: what another version measured is not taken for what this one would."""
    total = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        total.update(path.read_bytes())
    return total.hexdigest()


def _digest(plan: Plan, body: bytes) -> bytes:
    return hashlib.sha256(plan.to_json().encode() + body).digest()
