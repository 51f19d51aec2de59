"""The training loop that pre-training and fine-tuning share: SGD, a schedule, flip and shift, resumable."""

import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amc_env.data.splits import DataSet, Split
from amc_env.evaluator import accuracy
from amc_env.execution import CPU, has_bfloat16
from experiments.training.recipe import Recipe, RecipeError


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
    device: torch.device = CPU.device,
    state: Path | None = None,
    on_step: Callable[[int, int, float], None] = lambda step, steps, loss: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> list[Epoch]:
    """Train a model in place on the train split; the last weights are the result, none is picked by accuracy.

    On a CPU the same call gives the same weights; a GPU adds up in an order of its own.

    Args:
        model: gives logits ``(N, classes)``.
        data: the train split is learnt from, the selection split is only reported.
        recipe: what to do.
        device: where to; the model is left there.
        state: where everything needed to go on is kept, rewritten after each epoch; an existing file is gone
            on from, and the result equals that of an uninterrupted run.
        on_step: called with (step, steps in all, loss).
        on_epoch: called after each epoch.

    Raises:
        DivergedError: when the loss is not finite; the state of the last good epoch is kept.
        RecipeError: when ``state`` is damaged, or belongs to another recipe or network.
    """
    model.to(device).to(memory_format=torch.channels_last)
    learnt = Split(data["train"].images.to(device), data["train"].labels.to(device))
    steps_an_epoch = math.ceil(len(learnt) / recipe.batch_size)
    optimizer = sgd(model, recipe)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule(recipe, recipe.epochs * steps_an_epoch))
    generator = torch.Generator().manual_seed(recipe.seed)
    history = _resume(state, recipe, model, optimizer, scheduler, generator)
    for epoch in range(len(history), recipe.epochs):
        total = 0.0
        model.train()
        order = torch.randperm(len(learnt), generator=generator)
        for step, chosen in enumerate(order.split(recipe.batch_size)):
            images, labels = augmented(data, learnt, chosen, recipe.shift, generator)
            loss = _step(model, images, labels, optimizer, recipe)
            if not math.isfinite(loss):
                raise DivergedError(
                    f"the loss is {loss} in epoch {epoch}, step {step}: lower lr from {recipe.lr}"
                )
            scheduler.step()
            total += loss * len(chosen)
            on_step(epoch * steps_an_epoch + step + 1, recipe.epochs * steps_an_epoch, loss)
        history.append(Epoch(epoch, total / len(order), accuracy(model, data, "selection")))
        if state is not None:
            _save(state, recipe, model, optimizer, scheduler, generator, history)
        on_epoch(history[-1])
    model.eval()
    return history


def sgd(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD that decays weights of two and more dimensions only: not biases, not batch norm."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p.ndim > 1]
    plain = [p for p in parameters if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, recipe.lr, recipe.momentum, nesterov=recipe.momentum > 0)


def schedule(recipe: Recipe, steps: int) -> Callable[[int], float]:
    """The factor of the learning rate at each step: warm-up to 1, then half a cosine down to 0."""
    warmup = round(recipe.warmup * steps) if recipe.schedule == "onecycle" else 0

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return factor


def augmented(
    data: DataSet, split: Split, chosen: Tensor, shift: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A normalised batch, each image shifted by up to ``shift`` pixels and, where the data allow, flipped.

    What is drawn, and ``chosen``, are of the CPU, so that it is the same wherever the split lies.
    """
    device = split.images.device
    chosen = chosen.to(device)
    images = data.normalise(split.images[chosen])
    count, _, height, width = images.shape
    rows = torch.arange(height).expand(count, height)
    columns = torch.arange(width).expand(count, width)
    if shift:
        images = F.pad(images, (shift, shift, shift, shift))
        offsets = torch.randint(0, 2 * shift + 1, (2, count, 1), generator=generator)
        rows, columns = rows + offsets[0], columns + offsets[1]
    if data.flip:
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    picked = images.permute(0, 2, 3, 1)[
        torch.arange(count, device=device)[:, None, None],
        rows.to(device)[:, :, None],
        columns.to(device)[:, None, :],
    ]
    return picked.permute(0, 3, 1, 2), split.labels[chosen]


def _step(
    model: nn.Module, images: Tensor, labels: Tensor, optimizer: torch.optim.Optimizer, recipe: Recipe
) -> float:
    half = recipe.bfloat16 and has_bfloat16(images.device)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
        logits = model(images)
    loss = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def _save(
    path: Path,
    recipe: Recipe,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LambdaLR,
    generator: torch.Generator,
    history: list[Epoch],
) -> None:
    state = {
        "recipe": asdict(recipe),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "generator": generator.get_state(),
        "history": [asdict(epoch) for epoch in history],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    torch.save(state, partial)
    os.replace(partial, path)


def _resume(
    path: Path | None,
    recipe: Recipe,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LambdaLR,
    generator: torch.Generator,
) -> list[Epoch]:
    if path is None or not path.exists():
        return []
    state = _read(path)
    asked = asdict(recipe)
    if differences := [
        f"{k} {state['recipe'].get(k)}, not {v}" for k, v in asked.items() if state["recipe"].get(k) != v
    ]:
        raise RecipeError(
            f"{path} is of a training with {', '.join(differences)}: match it or delete the file"
        )
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError) as error:
        raise RecipeError(f"{path} is of another network ({error}): delete the file to start anew") from error
    scheduler.load_state_dict(state["scheduler"])
    generator.set_state(state["generator"])
    return [Epoch(**epoch) for epoch in state["history"]]


def read_history(path: Path) -> list[Epoch]:
    """The epochs that a state file has behind it; none where there is no file."""
    return [Epoch(**epoch) for epoch in _read(path)["history"]] if path.exists() else []


def _read(path: Path) -> dict[str, Any]:
    """A state file; only tensors and plain data are read from it, nothing is run."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, UnpicklingError) as error:
        raise RecipeError(f"{path} cannot be read ({error}): delete the file to start anew") from error
    return state
