"""Draws photographs with the classes that networks give them before and after compression."""

from collections.abc import Mapping
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F
from torchvision.models import EfficientNet_B0_Weights

from amc_env.data.splits import DataSet
from experiments.recording.networks import spelled_out

MOST = 8  # photographs
SIDE = 112  # pixels of each
LONGEST = 20  # letters of a class name
PADDING = 3 / 72  # inches around everything, as in matplotlib's constrained layout
IMAGENET = 1000  # classes that have names


def draw(data: DataSet, said: Mapping[str, Tensor], path: Path) -> Path | None:
    """Draw the first test photographs that networks classify differently; None if there are none.

    Args:
        data: of the photographs.
        said: by network ``(N,)`` classes of the test split's images, the dense network first.
        path: of the PNG.
    """
    first, *others = said.values()
    differ = torch.stack([other != first for other in others]).any(0)
    chosen = differ.nonzero().flatten()[:MOST].tolist()
    if not chosen:
        return None
    figure = Figure(figsize=(1.5 * len(chosen), 1.45 + 0.16 * len(said)), dpi=90, layout="constrained")
    axes = figure.subplots(1, len(chosen), squeeze=False)[0]
    for axis, at in zip(axes, chosen, strict=True):
        image = F.interpolate(data["test"].images[[at]].float(), (SIDE, SIDE), mode="area")[0]
        axis.imshow(image.byte().permute(1, 2, 0).numpy())
        axis.set_axis_off()
        for line, (name, classes) in enumerate(said.items()):
            same = bool(classes[at] == first[at])
            axis.text(
                0.5, -0.08 - 0.14 * line, _named(int(classes[at]), data.classes), transform=axis.transAxes,
                ha="center", va="top", fontsize=7, color="black" if same else "C3",
            )  # fmt: skip
            if axis is axes[0]:
                axis.text(
                    -0.1, -0.08 - 0.14 * line, spelled_out(name), transform=axis.transAxes, ha="right",
                    va="top", fontsize=7, fontweight="bold",
                )  # fmt: skip
    # Wherever the names need more height than the figure has, it grows.
    figure.savefig(path, bbox_inches="tight", pad_inches=PADDING, metadata={"Software": None})
    return path


def _named(number: int, classes: int) -> str:
    """The name of a class, if it is one of ImageNet's."""
    if classes != IMAGENET:
        return f"class {number}"
    name = str(EfficientNet_B0_Weights.DEFAULT.meta["categories"][number])
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
