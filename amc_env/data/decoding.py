"""Decodes an image file to eight bits a channel, whatever it holds: 16-bit, float, palette, CMYK, grey."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from amc_env.data.splits import DataError

ROUNDING = 1e-4  # by which floats may exceed a range
TOPS = {"F": (1, 255, 65535), "I": (255, 65535), "I;16": (65535,)}  # white in Pillow's modes of one channel


def decoded(source: Path | bytes, name: object, mode: str = "RGB") -> Image.Image:
    """The image in a file.

    Args:
        source: the file, or its content.
        name: for messages.
        mode: Pillow's mode of the result, "RGB" or "L".

    Raises:
        DataError: for a file that is damaged, of no known kind, larger than Pillow considers safe, or of a
            range that `eight_bit` refuses.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
            return eight_bit(opened).convert(mode)
    except UnidentifiedImageError as error:
        raise DataError(f"{name} cannot be read as an image: it is empty or of no known kind") from error
    except (Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{name} cannot be read as an image: {error}") from error


def eight_bit(image: Image.Image) -> Image.Image:
    """Scale grey of more than eight bits to 0..255; Pillow's own conversion would clip it.

    Pillow opens PNG and TIFF files of sixteen bits in mode "I;16" (PNG since 10.3): the range is 0..65535. In
    mode "I" (32 bits) it is the first of 0..255 and 0..65535 that holds all pixels, in "F" (floats) the first
    of 0..1, 0..255 and 0..65535.

    Raises:
        ValueError: for NaN, infinity, and pixels outside of each range.
    """
    if (tops := TOPS.get(image.mode[:4])) is None:
        return image
    values = np.asarray(image, np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it holds NaN or infinity")
    low, high = values.min(), values.max()
    top = next((each for each in tops if high <= (1 + ROUNDING) * each), None)
    if low < 0 or top is None:
        raise ValueError(f"its range is none of 0..1, 0..255, 0..65535, but {low:g}..{high:g}")
    return Image.fromarray(np.rint(np.minimum(values * (255 / top), 255)).astype(np.uint8))


def check_sides(size: int, resize: int) -> None:
    """Raise a `DataError` unless a square of ``size`` fits into a shorter side of ``resize`` pixels."""
    if not 0 < size <= resize:
        raise DataError(
            f"size={size} is cut out of the shorter side resize={resize}: give 0 < size <= resize"
        )
