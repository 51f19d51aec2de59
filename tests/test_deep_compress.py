"""Deep Compression: constraints hold during training, and the file holds the network."""

import shutil

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from amc_env import checkpoints, packing
from amc_env.card import CheckpointError
from amc_env.coding import CodingError
from amc_env.compressors.constraints import Pruned, Shared, constrain, unconstrained
from amc_env.compressors.fine_grained import largest, layer_densities
from amc_env.compressors.sharing import codebook
from amc_env.evaluator import accuracy
from amc_env.graph.trace import trace
from experiments.analysis import deep_compression as analysis
from experiments.cli import config
from experiments.cli.datasets import load_data
from experiments.cli.sweep import Run
from experiments.cli.trained import trained
from experiments.delivery import runtimes
from experiments.recording.record import RecordError, RunRecord
from experiments.recording.tracking import NoTracker
from experiments.searching import search
from experiments.training import deep_compression, pretrain
from experiments.training.loop import DivergedError


def test_values_at_two_places_are_found_and_their_codes_lead_back():
    weights = torch.tensor([1.0, 1.1, 0.9, -2.0, -2.1, -1.9, 5.0])
    values, codes = codebook(weights, 3)
    assert values.tolist() == pytest.approx([-2.0, 1.0, 5.0])
    assert (values.diff() > 0).all()
    assert ((values[codes] - weights).abs() <= 0.11).all()


@pytest.mark.parametrize("start", ["linear", "density", "random"])
def test_more_bits_leave_a_smaller_error(start):
    weights = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    errors = []
    for bits in range(1, 9):
        values, codes = codebook(weights, 2**bits, start=start)
        assert len(values) <= 2**bits
        errors.append(float((values[codes] - weights).square().mean()))
        again, same = codebook(weights, 2**bits, start=start)
        assert torch.equal(again, values)
        assert torch.equal(same, codes)
    assert errors == sorted(errors, reverse=True)
    assert errors[3] < 0.02  # 16 values: Lloyd's best for a normal distribution is 0.0095


def test_few_values_are_their_own_codebook():
    weights = torch.tensor([0.5, -1.0, 0.5])
    values, codes = codebook(weights, 256)
    assert values[codes].tolist() == weights.tolist()
    assert len(values) == 2


def test_settings_of_a_codebook_that_cannot_be():
    with pytest.raises(ValueError, match="1 to 256 values, not 257"):
        codebook(torch.zeros(3), 257)
    with pytest.raises(ValueError, match="linear, density, random"):
        codebook(torch.zeros(3), 2, start="kmeans++")


def test_the_largest_weights_stay():
    mask = largest(torch.tensor([[3.0, -4.0], [0.5, 0.5]]), 0.75)
    assert mask.tolist() == [[True, True], [True, False]]
    assert int(largest(torch.randn(7), 0.001).sum()) == 1


def linears():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 20), nn.ReLU(), nn.Linear(20, 4)).eval()


def test_one_threshold_in_standard_deviations_serves_all_layers():
    model = linears()
    with torch.no_grad():
        model[1].weight.mul_(50)  # the rule looks at weights relative to their layer
    graph = trace(model, (3, 4, 4))
    found = layer_densities(model, graph, 0.3, {})
    kept = sum(found[name] * model.get_parameter(f"{name}.weight").numel() for name in found)
    assert kept == pytest.approx(0.3 * (48 * 20 + 20 * 4), abs=1)
    assert abs(found["1"] - found["3"]) < 0.15
    assert layer_densities(model, graph, 0.3, {"3": 0.9})["3"] == 0.9


@pytest.mark.parametrize(
    ("density", "keep", "told"),
    [(0.0, {}, "density"), (0.5, {"1": 1.5}, "keep.1"), (0.5, {"fc": 0.5}, "the layers are 1, 3")],
)
def test_densities_that_cannot_be(density, keep, told):
    model = linears()
    with pytest.raises(ValueError, match=told):
        layer_densities(model, trace(model, (3, 4, 4)), density, keep)


def test_a_shared_value_gets_the_sum_of_its_weights_gradients():
    module = nn.Linear(3, 1, bias=False)
    weight = torch.tensor([[2.0, 0.0, 2.0]])
    constrain(module, {"": Shared(weight, 1, start="linear", seed=0)})
    x = torch.tensor([[1.0, 10.0, 100.0]])
    module(x).sum().backward()
    (values,) = module.parameters()
    assert values.tolist() == [2.0]
    assert values.grad.tolist() == [101.0]


def test_pruned_weights_stay_zero_and_are_no_negative_zeros():
    module = nn.Linear(4, 2, bias=False)
    mask = torch.tensor([[True, False, True, False], [False, True, False, True]])
    constrain(module, {"": Pruned(mask)})
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        module(torch.ones(1, 4)).square().sum().backward()
        optimizer.step()
    weight = unconstrained(module).state_dict()["weight"]
    assert torch.equal(weight != 0, mask)
    assert not np.signbit(weight[~mask].numpy()).any()


TINY = ["data=digits", "model=lenet300_100", "model.options.side=8", "device=cpu"]


@pytest.fixture(scope="module")
def lenet(tmp_path_factory):
    """The stem of a LeNet-300-100 trained on digits for a few epochs."""
    folder = tmp_path_factory.mktemp("lenet")
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        cfg = compose("pretrain", [*TINY, "recipe.epochs=6", "recipe.batch_size=64", f"output={folder}"])
    pretrain.pretrain(cfg, folder)
    return pretrain.stem(cfg, folder)


def composed(lenet, folder, *overrides, full=False):
    short = ["recipe.epochs=2", "rounds=2", "sharing.epochs=1", "recipe.batch_size=64", "density=0.2"]
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        return compose(
            "deep_compress", [*TINY, f"model.checkpoint={lenet}", f"output={folder}", *short, *overrides],
            return_hydra_config=full,
        )  # fmt: skip


@pytest.fixture(scope="module")
def summary():
    """What trackers are told at the end."""
    return {}


@pytest.fixture(scope="module")
def whole(lenet, summary, tmp_path_factory):
    """The folder of a finished compression."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NoTracker, "summary", lambda tracker, values: summary.update(values))
        deep_compression.run(composed(lenet, folder), folder)
    return folder


def test_trackers_get_the_size_and_the_accuracies_of_the_file(whole, summary):
    results = RunRecord.read(whole).content["results"]
    accuracy = {f"accuracy/{split}": top1 for split, top1 in results["accuracy"]["file"].items()}
    assert summary == accuracy | {"bytes": results["bytes"]}


def test_a_compression_of_other_weights_is_not_called_finished(lenet, whole, capsys, monkeypatch):
    def refuse(record, model, data):
        raise RecordError("begun with other weights")

    monkeypatch.setattr(deep_compression, "check_identity", refuse)
    with pytest.raises(RecordError, match="other weights"):
        deep_compression.run(composed(lenet, whole), whole)
    assert "nothing to do" not in capsys.readouterr().out


def test_a_finished_compression_is_not_run_again_and_ends_tidy(lenet, whole, tmp_path, capsys):
    folder = tmp_path / "again"
    shutil.copytree(whole, folder)
    (folder / "share.state").touch()  # as a kill after the end leaves it
    deep_compression.run(composed(lenet, folder), folder)
    assert "nothing to do" in capsys.readouterr().out
    assert not list(folder.glob("*.state"))
    (folder / deep_compression.FILE).unlink()
    deep_compression.run(composed(lenet, folder), folder)
    assert (folder / deep_compression.FILE).read_bytes() == (whole / deep_compression.FILE).read_bytes()


def test_the_file_is_the_network_and_the_table_is_the_file(whole):
    record, path = RunRecord.read(whole), whole / deep_compression.FILE
    results = record.content["results"]
    model, card = packing.read(path)
    assert accuracy(model, load_data_of(card), "test") == results["accuracy"]["file"]["test"]
    assert results["bytes"] == path.stat().st_size
    assert sum(one["bytes"] for one in results["layers"]) + results["overhead"] == results["bytes"]
    for name, bits in (("ip1", 5), ("ip2", 5), ("ip3", 5)):
        weight = model.get_parameter(f"{name}.weight")
        assert len(weight.unique()) <= 2**bits
    kept = sum(one["kept"] for one in results["layers"] if "weight" in one["name"])
    numbers = sum(one["numbers"] for one in results["layers"] if "weight" in one["name"])
    assert kept / numbers == pytest.approx(0.2, abs=0.01)
    assert f"{path.stat().st_size:,}" in analysis.layers_table(results)
    assert results["accuracy"]["file"]["test"] > results["accuracy"]["dense"]["test"] - 0.15
    assert not list(whole.glob("*.state"))


def load_data_of(card):
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        return load_data(compose("evaluate", [f"data={card.data}", "checkpoint=x"]).data)


def test_evaluate_reads_the_file(whole):
    found = runtimes.read(whole / deep_compression.FILE)
    assert (found.classes, found.shape, found.card.architecture) == (10, (1, 8, 8), "lenet300_100")


def test_a_killed_compression_goes_on_to_the_same_file(lenet, whole, tmp_path, monkeypatch):
    cfg, fit, calls = composed(lenet, tmp_path), deep_compression.fit, []

    def killed(*args, **kwargs):
        calls.append(kwargs["phase"])
        if len(calls) == 3:
            raise DivergedError("killed")
        return fit(*args, **kwargs)

    monkeypatch.setattr(deep_compression, "fit", killed)
    with pytest.raises(DivergedError):
        deep_compression.run(cfg, tmp_path)
    deep_compression.run(cfg, tmp_path)
    assert calls == ["prune-1", "prune-2", "share", "prune-1", "prune-2", "share"]
    files = [folder / deep_compression.FILE for folder in (tmp_path, whole)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_damaged_file_is_refused_by_its_name(whole, tmp_path):
    content = bytearray((whole / deep_compression.FILE).read_bytes())
    content[200] ^= 4
    (tmp_path / "a.packed").write_bytes(bytes(content))
    with pytest.raises(CodingError, match=r"a\.packed: .* cut short or changed"):
        packing.read(tmp_path / "a.packed")
    with pytest.raises(CheckpointError, match="cannot be read"):
        packing.read(tmp_path / "b.packed")


def test_a_teacher_of_other_classes_is_refused_before_anything_is_trained(lenet, tmp_path):
    other = checkpoints.shipped("plain20-cifar10")
    with pytest.raises(ValueError, match=r"teacher .* cannot take images of"):
        deep_compression.run(
            composed(lenet, tmp_path, "recipe.distill=0.5", f"recipe.teacher={other}"), tmp_path
        )
    assert not list(tmp_path.iterdir())


def test_one_row_a_network_over_its_seeds(whole):
    results = RunRecord.read(whole).content["results"]
    text = analysis.summary({"lenet-0": {"results": results}, "lenet-1": {"results": results}})
    assert "| `lenet` | 2 |" in text


def test_a_row_for_each_layer_and_one_for_all_vectors():
    def tensor(name, numbers):
        bits = {"bits": (4, 8), "coded_bits": (3.5, 4.0)}
        return (
            {"name": name, "numbers": numbers, "kept": numbers, "bytes": 2 * numbers}
            | bits
            | {"dense_bytes": 4 * numbers}
        )

    names = [("0.weight", 100), ("0.bias", 10), ("1.weight", 7), ("1.running_mean", 7), ("2.weight", 50)]
    text = analysis.layers_table({"layers": [tensor(*each) for each in names], "overhead": 3, "bytes": 351})
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:]]
    assert [row[0] for row in rows] == [
        "0.weight", "2.weight", "biases, batch norms", "header, tables, digest", "file",
    ]  # fmt: skip
    assert (rows[2][1], rows[2][7], rows[2][8]) == ("24", "48", "2.0x")


def test_settled_batch_norms_compute_the_same_from_two_vectors():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.BatchNorm2d(5)).train()
    images = torch.randn(8, 3, 9, 9)
    with torch.no_grad():
        for norm in (network[1], network[3]):
            nn.init.uniform_(norm.weight, -1, 1)
            nn.init.uniform_(norm.bias, -1, 1)
        network(2 * images + 1)
        network.eval()
        before = network(images)
        torch.testing.assert_close(deep_compression.settled(network)(images), before)
    assert not network[1].running_mean.any()
    assert (network[3].running_var == 1 - network[3].eps).all()


def test_layers_whose_names_have_dots_are_kept_from_the_command_line():
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        cfg = compose("deep_compress", ["+keep.features.0.0=0.6", "+keep.classifier=0.5"])
    config.check_settings(cfg)
    assert deep_compression.by_name(config.plain(cfg.keep)) == {"features.0.0": 0.6, "classifier": 0.5}


def test_a_search_of_single_weights_says_what_each_layer_keeps(lenet, tmp_path):
    overrides = ["model=lenet300_100", "data=digits", f"model.checkpoint={lenet}", "model.options.side=8"]
    overrides += ["compressor=fine_grained", "protocol=params_50", "protocol.target=0.3", "agent=random"]
    overrides += ["episodes=2", "confirm=1", "deliver=false", "env.device=cpu", "env.reward_images=50"]
    overrides += ["compressor.calibration_images=40", f"output={tmp_path / 'search'}"]
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        search.search(compose("config", overrides), tmp_path / "search")
    graph = trace(trained(composed(lenet, tmp_path)).model, (1, 8, 8))
    found = deep_compression.searched_densities(tmp_path / "search", "lenet300_100", graph)
    assert list(found) == ["ip1", "ip2", "ip3"]
    assert all(0 < share <= 1 for share in found.values())
    course = deep_compression.Course.of(
        composed(lenet, tmp_path / "packed", f"policy={tmp_path / 'search'}", "+keep.ip3=0.9"),
        trained(composed(lenet, tmp_path / "packed")),
    )
    assert course.keep == found | {"ip3": 0.9}
    asked = composed(lenet, tmp_path / "packed", f"policy={tmp_path / 'search'}")
    words = [f"hydra.sweep.dir={tmp_path}", "hydra.sweep.subdir=packed"]
    run = Run.of([], composed(lenet, tmp_path, f"policy={tmp_path / 'search'}", *words, full=True))
    assert not run.finished
    deep_compression.run(asked, tmp_path / "packed")
    assert run.finished
    assert RunRecord.read(tmp_path / "packed").content["config"]["plan"]
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        again = compose("config", [*overrides[:-1], "seed=1", "keep_whole=[ip3]", "output=x"])
    shutil.rmtree(tmp_path / "search")
    search.search(again, tmp_path / "search")
    found = deep_compression.searched_densities(tmp_path / "search", "lenet300_100", graph)
    assert found["ip3"] == 1.0 > found["ip1"]
    with pytest.raises(RecordError, match="plan was"):
        deep_compression.run(asked, tmp_path / "packed")
    with pytest.raises(config.ConfigError, match="give one of lenet5 with compressor=fine_grained"):
        deep_compression.searched_densities(tmp_path / "search", "lenet5", graph)
