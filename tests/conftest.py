"""What all tests share: a fixed hypothesis profile, few threads, and folders that a test cannot leave."""

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hypothesis import settings
from omegaconf import DictConfig

from experiments.cli.config import CONF

settings.register_profile("ci", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("ci")
torch.set_num_threads(int(torch.get_num_threads() > 1) + 1)  # at most two: more only fight over small tensors


@pytest.fixture(scope="session", autouse=True)
def no_gpu() -> Iterator[None]:
    """Tests are of the CPU wherever they run, and so are the processes that they start; see `test_cuda`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        yield


@pytest.fixture(autouse=True)
def seeded() -> None:
    """A network that a test makes has the same weights whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder in the place of the user's."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("AMC_CACHE", str(folder))
    return folder


@pytest.fixture
def composed() -> Iterator[Callable[..., DictConfig]]:
    """A function of a config's name and overrides that gives the config, as an entry point gets it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield lambda name, *overrides, full=False: compose(name, list(overrides), return_hydra_config=full)


JOBS = (
    "searching.search", "searching.compare", "searching.tune", "searching.policies", "training.finetune",
    "training.pretrain", "searching.fidelity", "training.deep_compression",
    "recording.wandb_tracker",
)  # fmt: skip


@pytest.fixture(scope="session")
def imported() -> None:
    """All that commands import, so that their forks start at once; see `forks`."""
    torch.set_num_threads(1)  # a fork has no threads but its own
    for job in JOBS:
        importlib.import_module(f"experiments.{job}")
