"""Training: schedule and batches against hand-computed values, and exact resume of a killed training."""

import copy
import io
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from torch import nn

from amc_env import checkpoints as weights
from amc_env.data.specs import DataSpec
from amc_env.data.splits import DataSet, split_dataset
from experiments.recording.record import RecordError, RunRecord
from experiments.recording.tracking import METRICS, NoTracker
from experiments.training import loop
from experiments.training.finetune import finetune
from experiments.training.fitting import fit
from experiments.training.loop import DivergedError, read_history, schedule, sgd, train
from experiments.training.recipe import Recipe, RecipeError
from experiments.training.steps import augmented, batches, drawn, steps_an_epoch

SPEC = DataSpec("stripes", 2, (1, 4, 4), (0.5,), (0.25,), (8, 8, 8), flip=True, sizes=(88, 8))


def stripes(flip: bool = True) -> DataSet:
    """Horizontal against vertical stripes: learnable in a few steps, whatever is shifted or flipped."""
    rows = torch.tensor([0, 255, 0, 255], dtype=torch.uint8)
    pair = torch.stack([rows[:, None].expand(4, 4), rows[None, :].expand(4, 4)]).unsqueeze(1)
    raw = {}
    for part, size in zip(("train", "test"), SPEC.sizes, strict=True):
        raw[f"{part}_labels"] = torch.arange(size) % 2
        raw[f"{part}_images"] = pair[raw[f"{part}_labels"]]
    spec = SPEC if flip else DataSpec("stripes", 2, (1, 4, 4), (0.5,), (0.25,), (8, 8, 8), False, (88, 8))
    return split_dataset(spec, raw, seed=0)


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))


RECIPE = Recipe(epochs=4, batch_size=16, lr=0.1, shift=1)


def test_the_onecycle_schedule_by_hand():
    factor = schedule(Recipe(schedule="onecycle"), 10)
    assert [factor(step) for step in range(2)] == [pytest.approx(1 / 3), pytest.approx(2 / 3)]
    assert factor(2) == 1.0
    assert factor(6) == pytest.approx(0.5)
    assert factor(10) == pytest.approx(0.0)


def test_the_cosine_schedule_by_hand():
    factor = schedule(Recipe(schedule="cosine"), 4)
    assert [factor(step) for step in (0, 2, 4)] == [pytest.approx(v) for v in (1.0, 0.5, 0.0)]


def test_biases_and_batch_norm_are_not_decayed():
    decayed, plain = sgd(network(), Recipe(weight_decay=0.1)).param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 1, 3, 3), (2, 16)]
    assert [tuple(p.shape) for p in plain["params"]] == [(4,), (4,), (4,), (2,)]
    assert (decayed["weight_decay"], plain["weight_decay"], plain["nesterov"]) == (0.1, 0.0, True)


def test_what_is_augmented_is_the_image_moved_or_mirrored():
    """Each result is found among all shifts and mirrors of its own image, and all of them occur."""
    data = stripes()
    marked = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    marked[0, 0, 1, 2] = 255
    data["train"].images[:1] = marked
    recipe = Recipe(shift=1)
    moves = drawn(500, recipe, data, torch.Generator().manual_seed(0))
    chosen = torch.zeros(500, dtype=torch.long)
    images, labels = augmented(data, data["train"], chosen, moves, recipe)
    zero = -2.0  # a black pixel is (0 - 0.5) / 0.25; what is shifted in is 0, the mean
    assert labels.tolist() == [int(data["train"].labels[0])] * 500
    places = {tuple(torch.nonzero(image[0] == 2.0)[0].tolist()) for image in images}
    assert places == {
        (row, column) for row in (0, 1, 2) for column in (0, 1, 2, 3)
    }  # 2 moves to 1..3, 1 to 0..2
    assert set(images.unique().tolist()) == {zero, 0.0, 2.0}


def test_without_shift_and_flip_a_batch_is_the_images():
    data = stripes(flip=False)
    chosen = torch.tensor([3, 0, 7])
    recipe = Recipe(shift=0)
    images, labels = augmented(data, data["train"], chosen, drawn(3, recipe, data, torch.Generator()), recipe)
    torch.testing.assert_close(images, data.normalise(data["train"].images[chosen]))
    assert torch.equal(labels, data["train"].labels[chosen])


def test_an_erased_square_lies_around_its_middle_and_ends_at_the_border():
    data, recipe = stripes(flip=False), Recipe(shift=0, erase=2)
    moves = torch.tensor([[0, 0], [0, 0], [0, 0], [1, 0], [2, 3]])  # middles (1, 2) and (0, 3)
    images, _ = augmented(data, data["train"], torch.tensor([3, 3]), moves, recipe)
    wanted = data.normalise(data["train"].images[[3, 3]])
    wanted[0, :, 0:2, 1:3] = 0.0
    wanted[1, :, 0:1, 2:4] = 0.0
    torch.testing.assert_close(images, wanted)
    middles = drawn(300, recipe, data, torch.Generator().manual_seed(0))[3:]
    assert set(middles.flatten().tolist()) == {0, 1, 2, 3}


def test_it_learns_and_repeats_itself_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    first, second, other = network(), network(), network()
    history = train(first, stripes(), RECIPE)
    assert train(second, stripes(), RECIPE) == history
    assert train(other, stripes(), replace(RECIPE, seed=1)) != history
    assert [epoch.epoch for epoch in history] == [0, 1, 2, 3]
    assert history[-1].loss < 0.2 < history[0].loss
    assert history[-1].selection == 1.0
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not first.training
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("of_teacher", [False, True])
def test_a_network_whose_views_need_the_default_format_is_trained(of_teacher):
    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(16, 2)

        def forward(self, x):
            return self.head(self.conv(x).relu().view(len(x), -1))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        views = Views()
    model, teacher = (network(), views.eval()) if of_teacher else (views, None)
    history = train(model, stripes(), replace(RECIPE, distill=0.5 if of_teacher else 0.0), teacher=teacher)
    assert history[-1].loss < history[0].loss


def test_steps_and_epochs_are_reported():
    steps, epochs = [], []
    train(network(), stripes(), RECIPE, on_step=lambda *step: steps.append(step[:2]), on_epoch=epochs.append)
    assert steps == [(step, 16) for step in range(1, 17)]  # 64 images, 16 a batch, 4 epochs
    assert [epoch.epoch for epoch in epochs] == [0, 1, 2, 3]


def test_each_step_has_its_own_learning_rate(monkeypatch):
    rates = []

    def spied(self, closure=None):
        rates.append({group["lr"] for group in self.param_groups})
        return step(self, closure)

    step = torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", spied)
    train(network(), stripes(), RECIPE)
    factor = schedule(RECIPE, 16)
    assert rates == [{0.1 * factor(step)} for step in range(16)]


def test_a_single_last_image_joins_the_batch_before():
    assert [len(part) for part in batches(torch.arange(33), 16)] == [16, 17]
    assert [len(part) for part in batches(torch.arange(34), 16)] == [16, 16, 2]
    assert [len(part) for part in batches(torch.arange(1), 16)] == [1]
    for images in range(1, 40):
        assert len(batches(torch.arange(images), 8)) == steps_an_epoch(images, 8)


class Stop(Exception):
    pass


def interrupted_at(step: int):
    def on_step(now: int, steps: int, loss: float) -> None:
        if now == step:
            raise Stop

    return on_step


@pytest.mark.parametrize("step", [1, 6, 8, 16])
def test_a_training_that_is_cut_off_ends_as_one_that_is_not(tmp_path, step):
    whole, resumed = network(), network()
    history = train(whole, stripes(), RECIPE)
    with pytest.raises(Stop):
        train(resumed, stripes(), RECIPE, state=tmp_path / "state", on_step=interrupted_at(step))
    resumed = network(seed=9)  # its weights come from the state, or are those of epoch 0 again
    if not (tmp_path / "state").exists():
        resumed = network()
    assert read_history(tmp_path / "state") == history[: (step - 1) // 4]
    assert train(resumed, stripes(), RECIPE, state=tmp_path / "state") == history
    states = zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in states)


def test_dropout_follows_the_seed_and_a_training_that_is_cut_off(tmp_path):
    def dropping() -> nn.Module:
        return nn.Sequential(*network()[:-1], nn.Dropout(0.5), network()[-1])

    def trained(seed: int, **options) -> list[torch.Tensor]:
        model = dropping()
        train(model, stripes(), replace(RECIPE, seed=seed), **options)
        return list(model.parameters())

    whole = trained(0)
    torch.rand(3)  # the global generator is somewhere else
    assert all(torch.equal(a, b) for a, b in zip(whole, trained(0), strict=True))
    assert not torch.equal(whole[0], trained(1)[0])
    with pytest.raises(Stop):
        trained(0, state=tmp_path / "state", on_step=interrupted_at(6))
    assert all(torch.equal(a, b) for a, b in zip(whole, trained(0, state=tmp_path / "state"), strict=True))


def test_a_state_of_a_gpu_is_continued_by_the_optimizer_of_this_device(tmp_path, monkeypatch):
    state = tmp_path / "state"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "sgd", lambda *arguments: fused(sgd(*arguments)))
        with pytest.raises(Stop):
            train(network(), stripes(), RECIPE, state=state, on_step=interrupted_at(6))
    made = []
    monkeypatch.setattr(loop, "sgd", lambda *arguments: made.append(sgd(*arguments)) or made[0])
    train(network(), stripes(), RECIPE, state=state)
    assert [group["fused"] for group in made[0].param_groups] == [None, None]


def fused(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    for group in optimizer.param_groups:
        group["fused"] = True
    return optimizer


def test_weights_that_the_last_step_ruins_are_not_the_state_of_a_good_epoch(tmp_path):
    model, state = network(), tmp_path / "state"

    def poison(step: int, steps: int, loss: float) -> None:
        if step == 8:
            model[1].running_var.fill_(float("inf"))

    with pytest.raises(
        DivergedError, match=r"1\.running_var is not finite after epoch 1: lower lr from 0\.1"
    ):
        train(model, stripes(), RECIPE, state=state, on_step=poison)
    assert len(read_history(state)) == 1


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_epoch(tmp_path):
    model, state = network(), tmp_path / "state"

    def poison(step: int, steps: int, loss: float) -> None:
        if step == 6:
            with torch.no_grad():
                model[0].weight.fill_(float("nan"))

    with pytest.raises(DivergedError, match=r"the loss is nan in epoch 1, step 2: lower lr from 0\.1"):
        train(model, stripes(), RECIPE, state=state, on_step=poison)
    assert len(read_history(state)) == 1


def test_a_network_that_cannot_be_saved_is_refused_before_the_first_step():
    model, steps = network(), []
    model.register_buffer("floor", torch.tensor(float("-inf")))
    with pytest.raises(
        weights.CheckpointError, match=r"cannot be trained: 1 of 1 numbers of floor are NaN or"
    ):
        train(model, stripes(), RECIPE, on_step=lambda *given: steps.append(given))
    assert not steps


class Keeps(nn.Sequential):
    """Keeps a feature map in training mode, as for an auxiliary loss."""

    def forward(self, x):
        found = super().forward(x)
        if self.training:
            self.kept = found
        return found


def test_what_a_training_forward_leaves_in_a_network_is_not_delivered(tmp_path):
    net, record = Keeps(*network()), RunRecord.create(tmp_path, {}, seeds={})
    of = {"dense": net, "device": torch.device("cpu"), "record": record, "tracker": NoTracker(tmp_path, {})}
    tuned = finetune(net, stripes(), RECIPE, **of)
    assert not hasattr(tuned, "kept")
    trained = copy.deepcopy(net)
    train(trained, stripes(), RECIPE)
    alike = zip(tuned.state_dict().values(), trained.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in alike)


def test_a_state_that_does_not_fit_is_told(tmp_path):
    state = tmp_path / "state"
    train(network(), stripes(), Recipe(epochs=1, batch_size=16), state=state)
    with pytest.raises(RecipeError, match=r"is of a training with epochs 1, not 2: match it or choose"):
        train(network(), stripes(), Recipe(epochs=2, batch_size=16), state=state)
    other = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with pytest.raises(RecipeError, match="is of another network"):
        train(other, stripes(), Recipe(epochs=1, batch_size=16), state=state)
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(RecordError, match=r"state is damaged: .*; nothing is changed"):
        train(network(), stripes(), Recipe(epochs=1, batch_size=16), state=state)


def test_fit_keeps_the_record_and_shows_where_it_is(tmp_path):
    record, out = RunRecord.create(tmp_path, {}, seeds={}), io.StringIO()
    with NoTracker(tmp_path, {}) as tracker:
        history = fit(
            network(), stripes(), RECIPE, device=torch.device("cpu"), state=tmp_path / "state", record=record,
            tracker=tracker, phase="finetune", console=Console(file=out, width=100),
        )  # fmt: skip
    assert record.rows == [
        {"train/epoch": e.epoch, "train/loss": e.loss, "train/selection": e.selection} for e in history
    ]
    assert set(record.rows[0]) <= set(METRICS)
    assert record.content["seconds"].keys() == {"finetune"}
    assert "epoch 3: loss" in out.getvalue()
    assert "steps 16/16  loss" in out.getvalue()


def test_trainings_in_one_record_have_names_and_their_rounds_are_numbered_on(tmp_path):
    record, short = RunRecord.create(tmp_path, {}, seeds={}), replace(RECIPE, epochs=2)
    with NoTracker(tmp_path, {}) as tracker:
        for name, at in (("uniform", 0), ("train", 1), ("train", 2)):
            fit(
                network(), stripes(), short, device=torch.device("cpu"), state=tmp_path / f"{at}.state",
                record=record, tracker=tracker, phase="finetune", name=name,
            )  # fmt: skip
    assert {name for row in record.rows for name in row} <= set(METRICS)
    assert [row["uniform/epoch"] for row in record.rows if "uniform/epoch" in row] == [0, 1]
    assert [row["train/epoch"] for row in record.rows if "train/epoch" in row] == [0, 1, 2, 3]
