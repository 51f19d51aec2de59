"""The training loop that pre-training and fine-tuning share: SGD, a schedule, flip and shift, resumable."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from amc_env.checkpoints import refuse_non_finite, refuse_objects
from amc_env.data.splits import DataSet, Split, digest
from amc_env.evaluator import accuracy
from amc_env.execution import CPU, common_layout, lay_out
from experiments.recording import state as states
from experiments.training.recipe import Recipe, RecipeError
from experiments.training.steps import steps_an_epoch, steps_on

MOMENTUM = 0.9  # Nesterov's
WARM_UP = 0.2  # of the steps, before a onecycle schedule falls


@dataclass(frozen=True, slots=True)
class Epoch:
    """One finished epoch: mean training loss, and top-1 accuracy in [0, 1] on the selection split."""

    epoch: int
    loss: float
    selection: float


class DivergedError(ArithmeticError):
    """The loss is no longer a number."""


def train(
    model: nn.Module,
    data: DataSet,
    recipe: Recipe,
    *,
    device: torch.device = CPU,
    teacher: nn.Module | None = None,
    state: Path | None = None,
    of: str = "",
    on_step: Callable[[int, int, float], None] = lambda step, steps, loss: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> list[Epoch]:
    """Train a model in place on the train split; the result is the last epoch, not the most accurate one.

    On a CPU the same call gives the same weights; on a GPU the order of sums may differ.

    Args:
        model: returns logits ``(N, classes)``.
        data: trained on the train split; accuracy on the selection split is only reported.
        recipe: the training recipe.
        device: where to train; the model is left there.
        teacher: for a recipe that distills, see `distillation.teacher_of`; it is moved to the device.
        state: file to resume from, rewritten after each epoch; the result equals that of an uninterrupted
            run.
        of: the run that the state belongs to; a state of another run is refused.
        on_step: called with (step, total steps, loss).
        on_epoch: called after each epoch.

    Raises:
        CheckpointError: for a network that no checkpoint may hold.
        DivergedError: when the loss is not finite; the state of the last good epoch is kept.
        RecipeError: if ``state`` belongs to another recipe or network, or if the recipe distills and there is
            no teacher.
        RecordError: if it and the previous state are damaged or of another run.
    """
    if (teacher is None) == bool(recipe.distill):
        raise RecipeError(f"distill is {recipe.distill} and the teacher {teacher}: give both or neither")
    begun = model.state_dict()
    refuse_objects(begun)
    refuse_non_finite(begun, "the network cannot be trained")
    refuse_frozen(model)
    images = next(data.batches("train", 2))[0].to(device)
    networks = [network.to(device) for network in (model, teacher) if network is not None]
    layout = common_layout([lay_out(network, images) for network in networks])
    learnt = Split(data["train"].images.to(device), data["train"].labels.to(device))
    optimizer = sgd(model, recipe)
    generator = torch.Generator().manual_seed(recipe.seed)
    taught = "" if teacher is None else digest([value.cpu() for value in teacher.state_dict().values()])
    saved = _Saved(state, of, recipe, taught, model, optimizer, generator)
    history = saved.resume()
    each = steps_an_epoch(len(learnt), recipe.batch_size)
    steps = recipe.epochs * each
    factor = schedule(recipe, steps)
    learner = steps_on(device, model, data, learnt, recipe, optimizer, teacher, layout)
    for epoch in range(len(history), recipe.epochs):
        total, seen, first = 0.0, 0, epoch * each
        rates = [recipe.lr * factor(first + step) for step in range(each)]
        model.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed((recipe.seed << 20) + epoch)  # of dropout
            for step, count, loss in learner.epoch(rates, generator):
                if not math.isfinite(loss):
                    raise DivergedError(
                        f"the loss is {loss} in epoch {epoch}, step {step}: lower lr from {recipe.lr}"
                    )
                total, seen = total + loss * count, seen + count
                on_step(first + step + 1, steps, loss)
        if broken := non_finite(model):
            raise DivergedError(f"{broken} is not finite after epoch {epoch}: lower lr from {recipe.lr}")
        history.append(Epoch(epoch, total / seen, accuracy(model, data, "selection")))
        saved.write(history)
        on_epoch(history[-1])
    model.eval()
    return history


def refuse_frozen(model: nn.Module) -> None:
    """Raise a `RecipeError` for a network without a parameter that can be trained."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise RecipeError(
            f"all parameters of {type(model).__name__} are frozen: call requires_grad_(True) on the network"
        )


def non_finite(model: nn.Module) -> str | None:
    """The name of the first parameter or buffer that holds NaN or infinity."""
    state = model.state_dict().items()
    return next((name for name, value in state if not bool(value.isfinite().all())), None)


def sgd(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD with weight decay only for weights of two or more dimensions, not for biases and batch norm."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p.ndim > 1]
    plain = [p for p in parameters if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    fused = any(p.is_cuda for p in parameters) or None  # the one that takes a learning rate in GPU memory
    return torch.optim.SGD(groups, recipe.lr, MOMENTUM, nesterov=True, fused=fused)


def schedule(recipe: Recipe, steps: int) -> Callable[[int], float]:
    """The factor of the learning rate at each step: warm-up to 1, then half a cosine down to 0."""
    warmup = round(WARM_UP * steps) if recipe.schedule == "onecycle" else 0

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return factor


@dataclass(frozen=True, slots=True)
class _Saved:
    """What a training resumes from: a file that is rewritten after each epoch.

    ``path`` is None for a training that saves nothing; ``taught`` is the digest of the teacher, "" without.
    """

    path: Path | None
    of: str
    recipe: Recipe
    taught: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator

    def write(self, history: Sequence[Epoch]) -> None:
        """Write the state after the last epoch of a history."""
        if self.path is None:
            return
        state = {
            "of": self.of,
            "recipe": asdict(self.recipe),
            "teacher": self.taught,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "history": [asdict(epoch) for epoch in history],
        }
        states.write(self.path, state)

    def resume(self) -> list[Epoch]:
        """Load model, optimizer and generator from the file; returns the finished epochs.

        Raises:
            RecipeError: if it is of another recipe, teacher or network.
        """
        state = None if self.path is None else _read(self.path, self.of)
        if state is None:
            return []
        self._check(state)
        fused = [group["fused"] for group in self.optimizer.param_groups]  # of this device, not the state's
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise RecipeError(
                f"{self.path} is of another network ({error}): choose another folder"
            ) from error
        for group, own in zip(self.optimizer.param_groups, fused, strict=True):
            group["fused"] = own
        self.generator.set_state(state["generator"])
        return [Epoch(**epoch) for epoch in state["history"]]

    def _check(self, state: Mapping[str, Any]) -> None:
        known, way_out = state["recipe"], "match it or choose another folder"
        differences = [
            f"{key} {known.get(key)}, not {value}"
            for key, value in asdict(self.recipe).items()
            if known.get(key) != value
        ]
        if differences:
            raise RecipeError(f"{self.path} is of a training with {', '.join(differences)}: {way_out}")
        if state.get("teacher", self.taught) != self.taught:
            raise RecipeError(f"{self.path} is of a training by another teacher: {way_out}")


def read_history(path: Path, of: str = "") -> list[Epoch]:
    """The finished epochs in a state file; empty without a file."""
    state = _read(path, of)
    return [] if state is None else [Epoch(**epoch) for epoch in state["history"]]


def _read(path: Path, of: str) -> dict[str, Any] | None:
    def foreign(state: Mapping[str, Any]) -> str | None:
        return None if state.get("of") == of else "is of another run"

    return states.newest(path, foreign)
