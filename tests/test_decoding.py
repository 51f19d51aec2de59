"""Decoding of images: 16-bit, float, palette, CMYK, grey, alpha, damaged, too large; wrong numbers."""

import numpy as np
import pytest
import torch
from PIL import Image

from amc_env.data import imagefolder, photos, pictures
from amc_env.data.decoding import decoded
from amc_env.data.specs import DataSpec
from amc_env.data.splits import DataError, DataSet, Split
from amc_env.data.tensors import from_tensors

RED = (200, 10, 10)


def image_of(mode: str) -> Image.Image:
    """Red, or a grey as bright, in 8 x 8 pixels."""
    if mode == "I;16":
        return Image.fromarray(np.full((8, 8), 77 * 257, np.uint16))
    if mode == "F":
        return Image.fromarray(np.full((8, 8), 77.0, np.float32))
    if mode == "P":
        return Image.new("RGB", (8, 8), RED).quantize(4)
    return Image.new("RGB", (8, 8), RED if mode not in ("L", "LA") else (77,) * 3).convert(mode)


def written(path, mode):
    path.parent.mkdir(parents=True, exist_ok=True)
    image_of(mode).save(path)


MODES = [
    ("RGB", "png", RED), ("RGBA", "png", RED), ("P", "png", RED), ("P", "bmp", RED), ("CMYK", "jpg", RED),
    ("CMYK", "tif", RED), ("L", "png", (77,) * 3), ("L", "jpg", (77,) * 3), ("LA", "png", (77,) * 3),
    ("I;16", "png", (77,) * 3), ("I;16", "tif", (77,) * 3), ("F", "tif", (77,) * 3), ("RGB", "webp", RED),
]  # fmt: skip


@pytest.mark.parametrize(("mode", "ending", "colour"), MODES)
def test_every_kind_of_image_has_its_colour(tmp_path, mode, ending, colour):
    written(tmp_path / f"a.{ending}", mode)
    pixels = np.asarray(decoded(tmp_path / f"a.{ending}", "a"))
    assert pixels.shape == (8, 8, 3)
    assert np.abs(pixels.astype(int) - colour).max() <= 4  # JPEG and WebP are not exact


@pytest.mark.parametrize(
    ("dtype", "ending", "highest", "white"),
    [
        (np.uint16, "png", 250, 65535), (np.uint16, "tif", 250, 65535), (np.uint16, "png", 65535, 65535),
        (np.float32, "tif", 1, 1), (np.float32, "tif", 0.5, 1), (np.float32, "tif", 1.00001, 1),
        (np.float32, "tif", 255, 255), (np.float32, "tif", 300, 65535),
        (np.int32, "tif", 250, 255), (np.int32, "tif", 300, 65535),
    ],
)  # fmt: skip
def test_grey_of_more_than_eight_bits_is_scaled_by_its_range(tmp_path, dtype, ending, highest, white):
    values = np.linspace(0, highest, 64).reshape(8, 8).astype(dtype)
    Image.fromarray(values).save(tmp_path / f"a.{ending}")
    pixels = np.asarray(decoded(tmp_path / f"a.{ending}", "a", "L")).astype(float)
    assert np.abs(pixels - values.astype(float) * 255 / white).max() <= 0.501


@pytest.mark.parametrize(
    ("dtype", "odd", "message"),
    [
        (np.int32, 70000, r"its range is none of 0\.\.1, 0\.\.255, 0\.\.65535, but 0\.\.70000"),
        (np.int32, -3, r"0\.\.65535, but -3\.\.0"),
        (np.float32, 70000, "its range is none of"),
        (np.float32, -0.25, "its range is none of"),
        (np.float32, np.nan, "it holds NaN or infinity"),
        (np.float32, np.inf, "it holds NaN or infinity"),
    ],
)
def test_grey_of_another_range_is_refused(tmp_path, dtype, odd, message):
    values = np.zeros((8, 8), dtype)
    values[2, 3] = odd
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=f"^a.tif cannot be read as an image: .*{message}"):
        decoded(tmp_path / "a.tif", "a.tif")


def read_photos(root):
    return photos.load(root, seed=0, size=8, resize=8)


def read_folder(root):
    return imagefolder.load(root, seed=0, train_per_class=5, test_per_class=1, size=8, resize=8)


def read_pictures(root):
    spec = DataSpec("x", 1, (3, 8, 8), (0.5,) * 3, (0.5,) * 3, (1, 1, 1), False, (5, 1))
    return pictures.read(spec, root)


READERS = {"val": read_folder, "test": read_pictures, "": read_photos}


@pytest.mark.parametrize("part", READERS)
@pytest.mark.parametrize(
    "content",
    [b"not an image", b"", b"\x89PNG\r\n\x1a\n" + bytes(40), "half a file", "too large"],
    ids=["text", "empty", "broken header", "half", "too large"],
)
def test_an_image_that_cannot_be_read_is_named(tmp_path, part, content, monkeypatch):
    for number in range(20):
        written(tmp_path / "train/a" / f"{number}.png", "RGB")
    odd = tmp_path / (part or "train") / "a" / "odd.png"
    written(odd, "RGB")
    if content == "half a file":
        odd.write_bytes(odd.read_bytes()[:45])
    elif content == "too large":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 31)  # it refuses more than twice as many
    else:
        odd.write_bytes(content)
    with pytest.raises(DataError, match=r"\.png cannot be read as an image"):
        READERS[part](tmp_path)


def test_a_square_larger_than_the_shorter_side_is_refused(tmp_path):
    with pytest.raises(DataError, match="size=9 is cut out of the shorter side resize=8"):
        imagefolder.load(tmp_path, seed=0, train_per_class=1, test_per_class=1, size=9, resize=8)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mean": (123.7, 116.3)}, r"mean=\[123.7, 116.3\] is on the scale 0..255: divide by 255"),
        ({"std": (58.4, 57.1)}, r"std=\[58.4, 57.1\] is on the scale 0..255"),
        ({"mean": (0.5,)}, "mean is 2 finite numbers, one a channel, not"),
        ({"std": (0.5, 0.5, 0.5)}, "std is 2 finite numbers"),
        ({"mean": (0.5, float("nan"))}, "mean is 2 finite numbers"),
        ({"std": (0.5, float("inf"))}, "std is 2 finite numbers"),
        ({"std": (0.5, 0.0)}, "std is above 0"),
        ({"std": (0.5, -0.5)}, "std is above 0"),
    ],
)
def test_numbers_of_another_scale_or_length_are_refused(changed, message):
    images, labels = torch.zeros(30, 2, 4, 4, dtype=torch.uint8), torch.arange(30) % 3
    given = {"mean": (0.5, 0.5), "std": (0.5, 0.5)} | changed
    with pytest.raises(DataError, match=message):
        from_tensors(images, labels, images, labels, seed=0, **given)
    with pytest.raises(DataError, match=message):
        DataSet("own", 3, given["mean"], given["std"], False, {"train": Split(images, labels)})


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("shape", ["column", "one-hot", "none"])
def test_labels_of_another_form_are_refused_by_their_shape(part, shape):
    images, labels = torch.zeros(30, 2, 4, 4, dtype=torch.uint8), torch.arange(30) % 3
    odd = {
        "column": labels[:, None],
        "one-hot": torch.nn.functional.one_hot(labels),
        "none": torch.tensor(1),
    }[shape]
    given = (images, odd, images, labels) if part == "train" else (images, labels, images, odd)
    with pytest.raises(DataError, match=rf"{part} labels are of shape \(.*wanted is \(N,\) class numbers"):
        from_tensors(*given, seed=0)
