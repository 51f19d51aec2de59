"""Decodes an image file to eight bits a channel, whatever it holds: 16-bit, palette, CMYK, grey."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from amc_env.data.splits import DataError


def decoded(source: Path | bytes, name: object, mode: str = "RGB") -> Image.Image:
    """The image in a file.

    Args:
        source: the file, or its content.
        name: for messages.
        mode: Pillow's mode of the result, "RGB" or "L".

    Raises:
        DataError: for a file that is damaged, of no known kind, or larger than Pillow considers safe.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
            return eight_bit(opened).convert(mode)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{name} cannot be read as an image: {error}") from error


def eight_bit(image: Image.Image) -> Image.Image:
    """Scale sixteen-bit grey to 0..255; Pillow's own conversion would clip it."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, np.float64)
        top = 255.0 if values.max(initial=0) <= 255 else 65535.0
        return Image.fromarray(np.clip(values * (255.0 / top), 0, 255).astype(np.uint8))
    return image


def check_sides(size: int, resize: int) -> None:
    """Raise a `DataError` unless a square of ``size`` fits into a shorter side of ``resize`` pixels."""
    if not 0 < size <= resize:
        raise DataError(
            f"size={size} is cut out of the shorter side resize={resize}: give 0 < size <= resize"
        )
