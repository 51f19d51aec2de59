"""One file for a compressed network: positions as coded steps, values as coded entries of a codebook.

A tensor is stored as words, the bit patterns of its entries, so that it is read back bit for bit, with signed
zeros, infinities and integers. Words that are not zero are stored one after another, and the steps say where
they belong; if words repeat, a codebook holds each of them once. Steps and codebook are left out where they
would not make the file smaller.

    magic, version, size of the header
    header: zlib of JSON, see `Coded`; the Huffman tables are in it as code lengths
    body: for each tensor its codebook or words, the coded entries, the coded steps
    SHA-256 of all that
"""

import hashlib
import json
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from amc_env import files
from amc_env.coding import CodingError, gaps, huffman

MAGIC, VERSION = b"AMCPACK\n", 1
FRONT = struct.Struct("<8sHI")
DIGEST = hashlib.sha256().digest_size
INDEX_BITS = range(1, 9)  # of a step
MOST_SHARED = 4096  # words in a codebook
MOST_ENTRIES = 2**32  # of a tensor that is read
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
        torch.int8, torch.uint8, torch.bool,
    )
}  # fmt: skip

Words = NDArray[Any]  # unsigned integers of the size of an entry


@dataclass(frozen=True, slots=True)
class Coded:
    """How one tensor is stored in the file.

    Attributes:
        name: of the tensor.
        dtype: a key of `DTYPES`.
        shape: of the tensor.
        entries: number of stored words, fillers included.
        shared: words in the codebook; 0 where each entry is stored as it is.
        index_bits: of a step; 0 where all entries are stored, so that no positions are needed.
        words: code lengths of the codebook's words, a byte each, in hexadecimal.
        steps: likewise, of the steps.
        sizes: bytes of codebook or words, coded entries, coded steps.
        zeros: number of entries that are zero, fillers included.
    """

    name: str
    dtype: str
    shape: Sequence[int]
    entries: int
    shared: int
    index_bits: int
    words: str
    steps: str
    sizes: Sequence[int]
    zeros: int

    @property
    def kept(self) -> int:
        """Entries that are not zero."""
        return self.entries - self.zeros

    @property
    def numbers(self) -> int:
        """Entries of the tensor."""
        return math.prod(self.shape)

    @property
    def dense_bytes(self) -> int:
        """Bytes of the uncompressed tensor."""
        return self.numbers * DTYPES[self.dtype].itemsize

    @property
    def nbytes(self) -> int:
        """Bytes in the body of the file."""
        return sum(self.sizes)


def encode(tensors: Mapping[str, Tensor], about: Mapping[str, Any] | None = None) -> bytes:
    """The content of a file that holds these tensors.

    Args:
        tensors: by name, of a dtype in `DTYPES`.
        about: further facts for readers, as plain data.

    Raises:
        CodingError: for a tensor of another dtype.
    """
    parts = [_coded(name, tensor) for name, tensor in tensors.items()]
    facts = {"about": dict(about or {}), "tensors": [list(asdict(coded).values()) for coded, _ in parts]}
    header = zlib.compress(json.dumps(facts, separators=(",", ":")).encode(), 9)
    content = b"".join([FRONT.pack(MAGIC, VERSION, len(header)), header, *(body for _, body in parts)])
    return content + hashlib.sha256(content).digest()


def decode(content: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file, and the facts that were given as ``about``.

    Raises:
        CodingError: when the content was shortened, extended or changed.
    """
    about, coded, at = _read(content)
    tensors = {}
    for one in coded:
        tensors[one.name] = _tensor(one, content[at : at + one.nbytes])
        at += one.nbytes
    return tensors, about


def contents(content: bytes) -> tuple[Coded, ...]:
    """How each tensor of a file is stored.

    Raises:
        CodingError: as `decode`.
    """
    return _read(content)[1]


def _read(content: bytes) -> tuple[dict[str, Any], tuple[Coded, ...], int]:
    """The facts, how the tensors are stored, and where the first of them begins; all of it checked."""
    if len(content) < FRONT.size + DIGEST or not content.startswith(MAGIC):
        raise CodingError("this is no compressed network: write one with experiments.deep_compress")
    _, version, size = FRONT.unpack_from(content)
    if version != VERSION:
        raise CodingError(f"the compressed network is of version {version}, this code reads {VERSION}")
    if hashlib.sha256(content[:-DIGEST]).digest() != content[-DIGEST:]:
        raise CodingError("the compressed network was cut short or changed: take it from its source again")
    try:
        facts = files.parse(_inflated(content[FRONT.size : FRONT.size + size]))
        coded = tuple(_as_coded(one) for one in facts["tensors"])
        about = dict(facts["about"])
    except (zlib.error, ValueError, KeyError, TypeError) as error:
        raise CodingError(f"the header of the compressed network cannot be read: {error}") from error
    if len({one.name for one in coded}) < len(coded):
        raise CodingError("the compressed network has two tensors of one name")
    at = FRONT.size + size
    if at + sum(one.nbytes for one in coded) + DIGEST != len(content):
        raise CodingError("the parts of the compressed network do not add up to its size")
    return about, coded, at


def _inflated(header: bytes) -> bytes:
    """The text of a header, of at most `files.LONGEST` bytes."""
    stream = zlib.decompressobj()
    text = stream.decompress(header, files.LONGEST)
    if not stream.eof:
        raise ValueError(f"it is cut short, or has more than {files.LONGEST:,} bytes")
    return text


def _as_coded(facts: Any) -> Coded:
    """How a tensor is stored, from plain data.

    Raises:
        TypeError: for data of other types; a number is whole and not negative.
    """
    one = Coded(*facts)
    texts = (one.name, one.dtype, one.words, one.steps)
    numbers = (one.entries, one.shared, one.index_bits, one.zeros, *one.shape, *one.sizes)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("names, dtypes and code lengths are texts")
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise TypeError("counts, shapes and sizes are whole numbers from 0 on")
    return one


def _coded(name: str, tensor: Tensor) -> tuple[Coded, bytes]:
    """A tensor, stored in the way that takes the fewest bits."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise CodingError(f"{name} is {dtype}; what can be written is {', '.join(DTYPES)}")
    words = _words(tensor)
    at = np.flatnonzero(words)
    book, counts = np.unique(words[at], return_counts=True)
    _, bits = min((_bits(words, at, counts, bits), bits) for bits in (0, *INDEX_BITS))
    steps, stored = np.zeros(0, dtype=np.int64), words
    if bits:
        steps, real = gaps.to_steps(at, bits)
        stored = np.zeros(len(steps), words.dtype)
        stored[real] = words[at]
    zeros = int((stored == 0).sum())
    front, entries, word_lengths = stored.tobytes(), b"", np.zeros(0, np.uint8)
    if _entry_bits(counts, zeros, words.itemsize)[1]:
        book = np.union1d(book, np.zeros(min(zeros, 1), words.dtype))
        symbols = np.searchsorted(book, stored).astype(np.int64)
        word_lengths = huffman.code_lengths(np.bincount(symbols, minlength=len(book)))
        front, entries = book.tobytes(), huffman.encode(symbols, word_lengths)
    step_lengths = huffman.code_lengths(np.bincount(steps, minlength=(1 << bits) * bool(bits)))
    coded_steps = huffman.encode(steps, step_lengths)
    coded = Coded(
        name, dtype, tuple(tensor.shape), len(stored), len(word_lengths), bits, word_lengths.tobytes().hex(),
        step_lengths.tobytes().hex(), (len(front), len(entries), len(coded_steps)), zeros,
    )  # fmt: skip
    return coded, front + entries + coded_steps


def _bits(words: Words, at: NDArray[np.int64], counts: NDArray[np.int64], bits: int) -> int:
    """Bits that a tensor takes with steps of ``bits`` bits; 0 stores every word."""
    if not bits:
        return _entry_bits(counts, len(words) - len(at), words.itemsize)[0]
    steps, _ = gaps.to_steps(at, bits)
    of_steps = np.bincount(steps, minlength=1 << bits)
    entries, _ = _entry_bits(counts, len(steps) - len(at), words.itemsize)
    return entries + _code_bits(of_steps)


def _entry_bits(counts: NDArray[np.int64], zeros: int, size: int) -> tuple[int, bool]:
    """Bits that the entries take, and whether a codebook makes them fewer.

    Args:
        counts: how often each nonzero word occurs.
        zeros: number of words that are zero.
        size: bytes of a word.
    """
    plain = 8 * size * (int(counts.sum()) + zeros)
    if len(counts) >= MOST_SHARED:
        return plain, False
    every = np.append(counts, zeros) if zeros else counts
    shared = 8 * size * len(every) + _code_bits(every)
    return min(plain, shared), shared < plain


def _code_bits(counts: NDArray[np.int64]) -> int:
    """Bits of the Huffman codes, and about half a byte for each entry of their table."""
    return int(counts @ huffman.code_lengths(counts)) + 4 * len(counts)


def _tensor(coded: Coded, body: bytes) -> Tensor:
    dtype, count = DTYPES.get(coded.dtype), math.prod(coded.shape)
    if dtype is None or count > MOST_ENTRIES:
        raise CodingError(f"{coded.name} cannot be a tensor of {coded.dtype} and shape {coded.shape}")
    if not count:
        return torch.zeros(coded.shape, dtype=dtype)
    try:
        words = _stored(coded, count, dtype.itemsize, body)
    except (ValueError, IndexError, TypeError) as error:
        raise CodingError(f"{coded.name} cannot be read: {error}") from error
    return torch.frombuffer(bytearray(words.tobytes()), dtype=dtype).view(coded.shape)


def _stored(coded: Coded, count: int, size: int, body: bytes) -> Words:
    """``(count,)`` the words of a tensor."""
    front, entries, _ = coded.sizes
    stored = np.frombuffer(body[:front], dtype=f"<u{size}")
    if coded.shared:
        symbols = huffman.decode(body[front : front + entries], _table(coded.words), coded.entries)
        stored = stored[symbols]
    if not coded.index_bits:
        return stored.reshape(count)
    steps = huffman.decode(body[front + entries :], _table(coded.steps), coded.entries)
    words = np.zeros(count, stored.dtype)
    words[gaps.to_positions(steps)] = stored.reshape(coded.entries)
    return words


def _table(lengths: str) -> huffman.Lengths:
    return np.frombuffer(bytes.fromhex(lengths), dtype=np.uint8)


def _words(tensor: Tensor) -> Words:
    """``(entries,)`` the bits of each entry."""
    flat = tensor.detach().cpu().contiguous().view(-1)
    content = flat.view(torch.uint8).numpy() if len(flat) else np.zeros(0, np.uint8)
    return content.view(f"<u{tensor.dtype.itemsize}")


def bits_before(coded: Coded) -> tuple[int, int]:
    """Bits of an entry and of a step before Huffman coding, for example (5, 4)."""
    of_word = math.ceil(math.log2(max(2, coded.shared))) if coded.shared else 8 * DTYPES[coded.dtype].itemsize
    return of_word, coded.index_bits


def mean_bits(coded: Coded) -> tuple[float, float]:
    """Mean bits of an entry and of a step in the file, without tables and codebook."""
    front, entries, steps = coded.sizes
    each = 8 / max(1, coded.entries)
    return each * (entries if coded.shared else front), each * steps


def overhead(content: bytes, coded: Sequence[Coded]) -> int:
    """Bytes of header, Huffman tables and digest."""
    return len(content) - sum(one.nbytes for one in coded)
