"""Archives and folders of images: errors that say what to do, and names that are no images of the user's."""

import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

from amc_env.data.splits import DataError

AGAIN = "take it from its source again"
DAMAGED = (
    tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, struct.error,
    EOFError, KeyError, OSError, ValueError,
)  # fmt: skip


@contextmanager
def explained(root: Path) -> Iterator[None]:
    """Turn an error of reading a folder or an archive into a `DataError` that names it and the way out."""
    try:
        yield
    except DataError:
        raise
    except RuntimeError as error:  # zipfile's, for encrypted members and unknown kinds of compression
        raise DataError(
            f"{root} cannot be read ({error}): unpack it with another program, and give the folder"
        ) from error
    except DAMAGED as error:
        raise DataError(f"{root} cannot be read ({error}): {AGAIN}") from error


def hidden(path: PurePath) -> bool:
    """Whether a name, or a folder above it, begins with a dot, or is ``__MACOSX``, which macOS adds to zips.

    Args:
        path: below the user's folder or in the archive, such as ``.thumbs/0.png`` or ``a/._0.png``.
    """
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
