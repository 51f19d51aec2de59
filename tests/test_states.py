"""Weights files of trainers and wrappers are read without running code from them."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from amc_env.zoo.states import is_state, load_state


def chain(width: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width * 36, 3)
    )


class Inner(nn.Module):
    """A network whose own names begin as those of wrappers do."""

    def __init__(self) -> None:
        super().__init__()
        self.module = chain()


STATE = chain().state_dict()


def below(prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{key}": value for key, value in STATE.items()}


def written(tmp_path, saved):
    torch.save(saved, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def assert_loaded(model, file):
    load_state(model, file)
    for key, value in model.state_dict().items():
        assert torch.equal(value, STATE[key.removeprefix("module.")]), key


@pytest.mark.parametrize(
    ("saved", "taken_off"),
    [
        (below("module."), "module."),
        (below("_orig_mod."), "_orig_mod."),
        (below("module._orig_mod."), "module._orig_mod."),
        (below("_orig_mod.module."), "_orig_mod.module."),
        ({"state_dict": STATE, "epoch": 3, "optimizer": {"state": {}}}, "state_dict:"),
        ({"state_dict": below("model.")}, "state_dict: model."),
        ({"model": STATE}, "model:"),
        ({"model": STATE, "model_ema": None}, "model:"),
        ({"model": {}, "model_ema": STATE}, "model_ema:"),
        ({"epoch": 3, "model_state_dict": STATE, "optimizer_state_dict": {"state": {}}}, "model_state_dict:"),
        ({"state_dict": below("net.")}, "state_dict: net."),
        ({"params_ema": STATE, "params": STATE}, "params_ema:"),
        ({"model": {"state_dict": below("module.")}}, "model: state_dict: module."),
        (AveragedModel(chain()).state_dict(), "module."),
        (nn.DataParallel(chain()).state_dict(), "module."),
    ],
)
def test_states_of_wrappers_and_trainers_are_read_and_it_is_said(tmp_path, saved, taken_off):
    model = chain()
    for value in model.parameters():
        value.data.zero_()
    with pytest.warns(UserWarning, match=f"are those of the network behind {taken_off}$"):
        assert_loaded(model, written(tmp_path, saved))


def test_a_checkpoint_of_lightning_is_read(tmp_path):
    file = tmp_path / "epoch=3.ckpt"
    saved = {"epoch": 3, "pytorch-lightning_version": "2.5.0", "state_dict": below("model."), "loops": {}}
    torch.save(saved | {"hyper_parameters": {"lr": 0.1}, "optimizer_states": [], "callbacks": {}}, file)
    assert is_state(str(file))
    with pytest.warns(UserWarning, match=r"behind state_dict: model\.$"):
        assert_loaded(chain(), file)


def test_a_plain_state_is_read_without_a_word(tmp_path):
    assert_loaded(chain(), written(tmp_path, STATE))


def test_an_old_file_without_counts_of_batches_is_read(tmp_path):
    old = {key: value for key, value in STATE.items() if not key.endswith("num_batches_tracked")}
    assert len(old) == len(STATE) - 1
    assert_loaded(chain(), written(tmp_path, old))


@pytest.mark.parametrize("content", [b"", b"hello", b"0.bias: 3\n", b"PK\x03\x04 no archive"])
def test_a_file_that_holds_no_tensors_is_refused_in_a_line(tmp_path, content):
    file = tmp_path / "weights.pth"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"^the weights file .*weights\.pth cannot be used: [^\n]+$"):
        load_state(chain(), file)


def test_names_of_the_network_itself_are_left_alone(tmp_path):
    assert_loaded(Inner(), written(tmp_path, Inner().state_dict()))
    with pytest.warns(UserWarning, match=r"behind module\."):
        assert_loaded(Inner(), written(tmp_path, nn.DataParallel(Inner()).state_dict()))


def test_half_precision_becomes_the_networks_own(tmp_path):
    model = chain()
    load_state(model, written(tmp_path, {key: value.half() for key, value in STATE.items()}))
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert torch.equal(model[0].weight, STATE["0.weight"].half().float())


class Code:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        ({"state": {}, "param_groups": []}, "holds an optimizer's state, not a network's"),
        ({"epoch": 3}, "it lacks 9, as 0.weight, 0.bias, 1.weight; it holds 1 other, as epoch"),
        (below("backbone."), "it holds 9 others, as backbone.0.weight, backbone.0.bias"),
        (chain(5).state_dict(), "it has 7 of another shape, as 0.weight"),
        (STATE | {"0.bias": 3}, "it has 1 of another shape, as 0.bias"),
        (STATE | {"0.bias": torch.full((4,), torch.nan)}, "holds NaN or infinite numbers, in 0.bias"),
        ([1, 2], "holds a list, not tensors by name"),
        ({1: torch.ones(1)}, "holds a dict, not tensors by name"),
        ({}, "it lacks 9"),
        (chain(), "or holds code or objects, which are never run; save the tensors alone"),
        ({"model": chain()}, "holds code or objects"),
        (Code(), "holds code or objects"),
    ],
)
def test_what_is_not_this_networks_is_refused_in_a_few_words(tmp_path, saved, words, capsys):
    model = chain()
    with pytest.raises(ValueError, match="the weights file") as caught:
        load_state(model, written(tmp_path, saved))
    message = str(caught.value)
    assert words in message
    assert len(message) < 800
    assert message.count("\n") < 10
    assert not capsys.readouterr().out
    assert all(torch.equal(value, STATE[key]) for key, value in model.state_dict().items())


def test_auxiliary_heads_in_a_file_are_passed_over(tmp_path):
    assert_loaded(chain(), written(tmp_path, STATE | {"AuxLogits.fc.weight": torch.ones(1)}))
