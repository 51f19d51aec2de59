"""One epoch of training steps: one by one on a processor, as a captured CUDA graph on a GPU."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amc_env.data.splits import DataSet, Split
from experiments.training.distillation import soft_loss, teach
from experiments.training.mixed import has_bfloat16, in_bfloat16
from experiments.training.recipe import Recipe

READ_EVERY = 50  # steps between two looks at the loss on a GPU, each of which waits for it
MOVES = 5  # numbers that say how an image is augmented, see `drawn`
UNCAPTURED = 3  # steps before a capture, in which libraries choose their kernels and take their memory


def steps_an_epoch(images: int, batch_size: int) -> int:
    """The number of batches in an epoch of some images, see `batches`."""
    return max(1, math.ceil(images / batch_size) - (batch_size > 1 and images % batch_size == 1))


def batches(order: Tensor, batch_size: int) -> list[Tensor]:
    """Split an order into batches; a single last image, which batch norm refuses, joins the batch before."""
    parts = list(order.split(batch_size))
    if len(parts) > steps_an_epoch(len(order), batch_size):
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


class Steps:
    """Training steps one by one: batches, forward and backward passes, updates."""

    def __init__(
        self,
        model: nn.Module,
        data: DataSet,
        split: Split,
        recipe: Recipe,
        optimizer: torch.optim.Optimizer,
        teacher: nn.Module | None,
        layout: torch.memory_format,
    ) -> None:
        self.model, self.data, self.split, self.teacher = model, data, split, teacher
        self.recipe, self.optimizer, self.layout = recipe, optimizer, layout
        self.half = recipe.bfloat16 and has_bfloat16(split.images.device)

    def epoch(self, rates: Sequence[float], generator: torch.Generator) -> Iterator[tuple[int, int, float]]:
        """Train on every image once, in a random order.

        Args:
            rates: the learning rate of each step.
            generator: of the CPU.

        Yields:
            (step, number of images, their mean loss before it).
        """
        order = torch.randperm(len(self.split), generator=generator)
        for step, chosen in enumerate(batches(order, self.recipe.batch_size)):
            for group in self.optimizer.param_groups:
                group["lr"] = rates[step]
            moves = drawn(len(chosen), self.recipe, self.data, generator)
            yield step, len(chosen), self.step(chosen, moves).item()

    def step(self, chosen: Tensor, moves: Tensor) -> Tensor:
        """One update on the chosen images; returns the loss before it."""
        images, labels = augmented(self.data, self.split, chosen, moves, self.recipe)
        if self.layout is torch.contiguous_format:  # they lie channels last
            images = images.clone(memory_format=self.layout)
        with in_bfloat16(self.model, images.device) if self.half else nullcontext():
            logits = self.model(images)
            told = None if self.teacher is None else teach(self.teacher, images)
        loss = F.cross_entropy(logits.float(), labels)
        if told is not None:
            soft = soft_loss(logits, told)
            loss = torch.lerp(loss, soft, self.recipe.distill)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


class CapturedSteps(Steps):
    """The same on a GPU, where a small network's kernels are shorter than their launches.

    The step is captured once as a CUDA graph and replayed on batches of one size; the last batch of an epoch
    is padded with its first images, but a single last image, see `batches`, is left out. The loss is read
    every `READ_EVERY` steps.
    """

    def __init__(self, *of: Any) -> None:
        super().__init__(*of)
        device = self.split.images.device
        self.batch = torch.zeros(1 + MOVES, self.recipe.batch_size, dtype=torch.long, device=device)
        self.rate = torch.full((), self.recipe.lr, device=device)
        self.total = torch.zeros((), device=device)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        self.model.train()
        self.graph = self._captured()

    def epoch(self, rates: Sequence[float], generator: torch.Generator) -> Iterator[tuple[int, int, float]]:
        """Like `Steps.epoch`, with mean losses since the loss was last read."""
        size = self.recipe.batch_size
        order = torch.randperm(len(self.split), generator=generator)
        order = order[torch.arange(len(rates) * size) % len(order)]
        moves = drawn(len(order), self.recipe, self.data, generator)
        plan = torch.cat([order[None], moves]).to(self.batch.device)
        waiting = 0
        for step, (batch, rate) in enumerate(zip(plan.split(size, 1), rates, strict=True)):
            self.batch.copy_(batch)
            self.rate.fill_(rate)
            self.graph.replay()
            waiting += 1
            if waiting == READ_EVERY or step + 1 == len(rates):
                yield step, waiting * size, float(self.total) / waiting
                self.total.zero_()
                waiting = 0

    def _static_step(self) -> None:
        self.total += self.step(self.batch[0], self.batch[1:])

    def _captured(self) -> torch.cuda.CUDAGraph:
        """Capture the graph of one step and undo the warm-up."""
        self._warm_up()
        graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad()
        with torch.cuda.graph(graph):
            self._static_step()
        self.total.zero_()
        return graph

    def _warm_up(self) -> None:
        """Run a few steps on another stream, as a capture needs, and restore all values."""
        weights = {name: value.clone() for name, value in self.model.state_dict().items()}
        momenta = {p: state["momentum_buffer"].clone() for p, state in self._momenta()}
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(UNCAPTURED):
                self._static_step()
        torch.cuda.current_stream().wait_stream(stream)
        for name, value in self.model.state_dict().items():
            value.copy_(weights[name])
        for p, state in self._momenta():
            if p in momenta:
                state["momentum_buffer"].copy_(momenta[p])
            else:
                state["momentum_buffer"].zero_()  # the first update then is that of a fresh optimizer

    def _momenta(self) -> list[tuple[Tensor, dict[str, Tensor]]]:
        found = self.optimizer.state.items()
        return [(p, state) for p, state in found if state.get("momentum_buffer") is not None]


def steps_on(device: torch.device, *of: Any) -> Steps:
    """Training steps on a device: captured on a GPU, unless the forward pass cannot be.

    A forward that reads a number back, such as that of ``BatchNorm2d(momentum=None)``, is run step by step,
    with a warning, as that is slower.

    Args:
        device: where the model and the images lie.
        of: the arguments of `Steps`.
    """
    if device.type != "cuda":
        return Steps(*of)
    try:
        return CapturedSteps(*of)
    except RuntimeError as error:
        if "captur" not in str(error):
            raise
        warnings.warn(f"training steps cannot be captured and are launched one by one: {error}", stacklevel=2)
    return Steps(*of)


def drawn(count: int, recipe: Recipe, data: DataSet, generator: torch.Generator) -> Tensor:
    """Draws the augmentation of each of ``count`` images, ``(5, count)`` int64.

    The rows are the shift down and the shift right in 0..2 ``recipe.shift``, whether it is mirrored, and the
    row and column of the middle of the square that is erased.
    """
    moves = torch.zeros(MOVES, count, dtype=torch.long)
    if recipe.shift:
        moves[:2] = torch.randint(0, 2 * recipe.shift + 1, (2, count), generator=generator)
    if data.flip:
        moves[2] = torch.rand(count, generator=generator) < 0.5
    if recipe.erase:
        height, width = data.shape[1:]
        moves[3] = torch.randint(0, height, (count,), generator=generator)
        moves[4] = torch.randint(0, width, (count,), generator=generator)
    return moves


def augmented(
    data: DataSet, split: Split, chosen: Tensor, moves: Tensor, recipe: Recipe
) -> tuple[Tensor, Tensor]:
    """A normalised batch, each image shifted, mirrored and partly erased as `drawn` says, and its labels.

    *Source*: DeVries & Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017,
    for the erased square, which may reach over the border.

    Args:
        data: normalises images.
        split: where the images lie.
        chosen: ``(n,)`` int64 indices of images; this and the next argument may lie on the CPU.
        moves: ``(5, n)`` int64; a shift of ``recipe.shift`` leaves an image where it is.
        recipe: has the largest shift and the side of the square in pixels; pixels that move in or are erased
            are 0, the mean.
    """
    device, shift = split.images.device, recipe.shift
    chosen, moves = chosen.to(device), moves.to(device)[:, :, None]
    images = data.normalise(split.images[chosen])
    count, _, height, width = images.shape
    images = F.pad(images, (shift, shift, shift, shift)) if shift else images
    down, right = torch.arange(height, device=device), torch.arange(width, device=device)
    rows, columns = down + moves[0], right + moves[1]
    columns = torch.where(moves[2] == 1, columns.flip(1), columns)
    picked = images.permute(0, 2, 3, 1)[
        torch.arange(count, device=device)[:, None, None], rows[:, :, None], columns[:, None, :]
    ].permute(0, 3, 1, 2)
    if recipe.erase:
        top, left = (middle - recipe.erase // 2 for middle in moves[3:])
        erased = (down >= top) & (down < top + recipe.erase)
        erased = erased[:, :, None] & ((right >= left) & (right < left + recipe.erase))[:, None, :]
        picked = picked.masked_fill(erased[:, None], 0.0)
    return picked, split.labels[chosen]
