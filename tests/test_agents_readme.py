"""The snippets of agents/README.md run in order."""

import io
import re
from pathlib import Path

import numpy as np
import torch

PAGE = Path(__file__).resolve().parents[1] / "agents" / "README.md"


def test_the_snippets_run() -> None:
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(snippets) == 3
    space: dict[str, object] = {}
    for snippet in snippets:
        exec(snippet, space)
    rewards = [trial.episode.reward for trial in space["trials"]]
    assert max(rewards[50:]) > rewards[0]
    assert space["model"].num_timesteps == 500


def test_the_example_can_be_saved_and_goes_on() -> None:
    space: dict[str, object] = {}
    exec(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0], space)
    one, other = (space["HillClimber"](None, None, decisions=3, seed=seed) for seed in (0, 1))
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    actions = [agent.act(None, {"decisions": 3}, explore=True) for agent in (one, other)]
    np.testing.assert_array_equal(*actions)


def test_every_agent_of_the_configuration_is_on_the_page() -> None:
    files = (PAGE.parents[1] / "conf" / "agent").glob("*.yaml")
    text = PAGE.read_text()
    assert [path.stem for path in files if f"`{path.stem}`" not in text] == []
