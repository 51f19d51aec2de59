"""A detector of torchvision on generated images, measured by a metric of its own, mean average precision.

A model for your own detector: the files in ``conf/experiment/detection`` name a function each for network,
data and metric, and the backbone as the part that is compressed.
"""

import argparse
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import box_iou

from amc_env import checkpoints
from amc_env.card import Card
from amc_env.data.own import OwnData
from experiments.recording.provenance import commit

SIDE = 64  # pixels of an image
STEPS, BATCH, LR = 600, 16, 0.008  # of training
SPLITS = {"calibration": 64, "reward": 64, "selection": 64, "test": 128}  # images
OVERLAPS = tuple(at / 100 for at in range(50, 100, 5))  # with a wanted box, from which a box counts as found
Boxes = Mapping[str, Tensor]


class Backbone(nn.Module):
    """Eight convolutions; its one feature map has an eighth of the image's side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [3, width, width, 2 * width, 2 * width, 4 * width, 4 * width, 4 * width]
        layers: list[nn.Module] = []
        for at, (c_in, c_out) in enumerate(pairwise(widths)):
            stride = 2 if at in (0, 2, 4) else 1
            layers += [nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()]
        self.body, self.out = nn.Sequential(*layers), nn.Conv2d(4 * width, 32, 1)
        self.out_channels = 32

    def forward(self, images: Tensor) -> Tensor:
        """Features ``(N, 32, H / 8, W / 8)``."""
        found: Tensor = self.out(self.body(images))
        return found


def build(classes: int, in_channels: int, width: int = 16) -> nn.Module:
    """FCOS with a small backbone; `main` trains it."""
    anchors = AnchorGenerator(((16,),), ((1.0,),))
    return FCOS(
        Backbone(width), classes + 1, min_size=SIDE, max_size=SIDE, anchor_generator=anchors,
        image_mean=[0.5] * in_channels, image_std=[0.25] * in_channels, score_thresh=0.05,
        detections_per_img=10,
    ).eval()  # fmt: skip


def trained(steps: int = STEPS) -> nn.Module:
    """The detector, trained on images that are drawn as it goes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(classes=2, in_channels=3).train()
    optimiser = torch.optim.AdamW(model.parameters(), LR)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LR, total_steps=steps)
    for step in range(steps):
        images, targets = drawn(BATCH, seed=1000 + step)
        loss = sum(model(images, targets).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval()


def main(stem: str, steps: int = STEPS) -> None:
    """Train, and write weights and card: ``python -m experiments.examples.detection STEM``."""
    model = trained(steps)
    data = load()
    with torch.no_grad():
        found = precision(model, data.splits["test"])
    Path(stem).parent.mkdir(parents=True, exist_ok=True)
    note = f"FCOS on generated shapes, mean average precision {found:.3f} on test"
    checkpoints.save(stem, model, Card("import", 2, 3, data.name, (3, SIDE, SIDE), 0, commit(), note=note))
    print(f"{stem}: {note}")


def load() -> OwnData:
    """Images of discs and squares on noise, with their boxes."""
    splits = {}
    for seed, (name, count) in enumerate(SPLITS.items()):
        images, targets = drawn(count, seed)
        splits[name] = [(images[at : at + 32], targets[at : at + 32]) for at in range(0, count, 32)]
    return OwnData("shapes", classes=2, splits=splits)


def drawn(count: int, seed: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Images ``(3, 64, 64)`` in [0, 1], each with one to three discs (label 1) and squares (label 2)."""
    rng = np.random.default_rng((seed, 7))
    rows, columns = np.mgrid[:SIDE, :SIDE]
    images, targets = [], []
    for _ in range(count):
        image = 0.35 + 0.1 * rng.standard_normal((3, SIDE, SIDE))
        boxes, labels = list[list[int]](), list[int]()
        for _ in range(rng.integers(1, 4)):
            radius, label = rng.integers(6, 13), rng.integers(1, 3)
            y, x = rng.integers(radius, SIDE - radius, 2)
            if any(
                x - radius < b[2] and b[0] < x + radius and y - radius < b[3] and b[1] < y + radius
                for b in boxes
            ):
                continue  # one would hide another
            far = np.abs(rows - y), np.abs(columns - x)
            inside = far[0] ** 2 + far[1] ** 2 <= radius**2 if label == 1 else np.maximum(*far) <= radius
            image[:, inside] = rng.uniform(0.6, 1.0, (3, 1)) + 0.05 * rng.standard_normal((3, inside.sum()))
            boxes.append([x - radius, y - radius, x + radius, y + radius])
            labels.append(int(label))
        images.append(torch.tensor(image.clip(0, 1), dtype=torch.float32))
        targets.append({"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": torch.tensor(labels)})
    return images, targets


def precision(network: Any, batches: Sequence[tuple[Any, Any]]) -> float:
    """Mean average precision over the classes and overlaps of 0.5, 0.55, ... 0.95, as in COCO, in [0, 1]."""
    pairs = [pair for images, targets in batches for pair in zip(network(images), targets, strict=True)]
    labels = sorted({int(label) for _, wanted in pairs for label in wanted["labels"]})
    return float(np.mean([average_precision(pairs, each, least) for each in labels for least in OVERLAPS]))


def average_precision(pairs: Sequence[tuple[Boxes, Boxes]], label: int, least: float) -> float:
    """The area under precision against recall for one class; each wanted box is found at most once."""
    scores, right, count = list[float](), list[bool](), 0
    for found, wanted in pairs:
        boxes, of = wanted["boxes"][wanted["labels"] == label], found["labels"] == label
        count += len(boxes)
        shared, free = box_iou(found["boxes"][of].cpu(), boxes).numpy(), np.ones(len(boxes), bool)
        own = found["scores"][of].cpu().numpy()
        for at in np.argsort(-own, kind="stable"):
            overlap = shared[at] * free
            hit = len(boxes) > 0 and float(overlap.max()) >= least
            if hit:
                free[overlap.argmax()] = False
            scores.append(float(own[at]))
            right.append(hit)
    if not count or not scores:
        return 0.0
    hits = np.cumsum(np.array(right)[np.argsort(-np.array(scores), kind="stable")])
    recall, exact = hits / count, hits / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(exact[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * best))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("stem", help="path of the checkpoint to write, without suffix")
    main(**vars(parser.parse_args()))
