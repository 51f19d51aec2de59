"""Huffman codes over small alphabets: canonical, so that a table of code lengths is all that a reader needs.

*Source*: Huffman, "A Method for the Construction of Minimum-Redundancy Codes", 1952; used as the third stage
of Han et al., "Deep Compression", ICLR 2016, section 4.
"""

import heapq

import numpy as np
from numpy.typing import NDArray

from amc_env.coding import CodingError

Symbols = NDArray[np.int64]
Lengths = NDArray[np.uint8]

LONGEST = 16  # bits of a code: a reader looks codes up in a table of 2^16 entries


def code_lengths(counts: Symbols) -> Lengths:
    """``(symbols,)`` bits of each symbol's code; 0 for a symbol that does not occur.

    For example, counts (5, 1, 1, 0) give (1, 2, 2, 0). If they are so uneven that a code would be longer than
    `LONGEST`, they are halved until none is; the codes are then slightly longer than the optimal ones.

    Args:
        counts: ``(symbols,)`` how often each symbol occurs; at most 2^16 of them do.
    """
    if np.count_nonzero(counts) > 1 << LONGEST:
        raise CodingError(f"{np.count_nonzero(counts)} symbols have no codes of at most {LONGEST} bits")
    lengths = _lengths(counts)
    while lengths.max(initial=0) > LONGEST:
        counts = -(-counts // 2)
        lengths = _lengths(counts)
    return lengths


def _lengths(counts: Symbols) -> Lengths:
    used = np.flatnonzero(counts).tolist()
    lengths = np.zeros(len(counts), dtype=np.uint8)
    if len(used) == 1:
        lengths[used] = 1
        return lengths
    heap = [(int(counts[symbol]), symbol) for symbol in used]  # nodes are numbered on from the symbols
    heapq.heapify(heap)
    parents: dict[int, int] = {}
    while len(heap) > 1:
        (one, a), (other, b) = heapq.heappop(heap), heapq.heappop(heap)
        node = len(counts) + len(parents) // 2
        parents[a] = parents[b] = node
        heapq.heappush(heap, (one + other, node))
    depths = {heap[0][1]: 0} if heap else {}
    for node in sorted(parents, reverse=True):
        depths[node] = depths[parents[node]] + 1
    lengths[used] = [depths[symbol] for symbol in used]
    return lengths


def encode(symbols: Symbols, lengths: Lengths) -> bytes:
    """The codes of the symbols one after another, padded with zeros to whole bytes.

    Args:
        symbols: ``(n,)``, each of which has a code.
        lengths: from `code_lengths`.
    """
    codes, sizes = _codes(lengths)[symbols], lengths[symbols].astype(np.int64)
    ends = sizes.cumsum()
    bits = np.zeros(int(ends[-1]) if len(ends) else 0, dtype=np.uint8)
    for behind in range(int(sizes.max(initial=0))):  # the last bit of every code, the one before it, ...
        longer = sizes > behind
        bits[ends[longer] - 1 - behind] = (codes[longer] >> behind) & 1
    return np.packbits(bits).tobytes()


def decode(content: bytes, lengths: Lengths, count: int) -> Symbols:
    """The first ``count`` symbols of what `encode` wrote.

    All bit positions are looked up at once; only the walk from code to code goes symbol by symbol.

    Raises:
        CodingError: when the content is not a sequence of ``count`` codes.
    """
    if not count:
        return np.zeros(0, dtype=np.int64)
    symbol_at, length_at = _tables(lengths)
    padded = np.frombuffer(content + bytes(2), dtype=np.uint8).astype(np.int64)
    three = padded[:-2] << 16 | padded[1:-1] << 8 | padded[2:]
    windows = (three[:, None] >> np.arange(8, 0, -1) & 0xFFFF).ravel()  # the 16 bits from each position on
    jumps, starts, at = length_at[windows].tobytes(), [0] * count, 0
    for index in range(count):
        if at >= len(jumps) or not jumps[at]:
            raise CodingError(f"no code at bit {at} of {len(jumps)}, after {index} of {count} symbols")
        starts[index] = at
        at += jumps[at]
    if at > len(jumps):
        raise CodingError(f"the codes end at bit {at} of {len(jumps)}")
    found: Symbols = symbol_at[windows[starts]]
    return found


def _codes(lengths: Lengths) -> Symbols:
    """The canonical codes: consecutive numbers, shorter ones first, symbols of one length in their order."""
    order = np.lexsort((np.arange(len(lengths)), lengths))
    order = order[lengths[order] > 0]
    sizes = lengths[order].astype(np.int64)
    spans = np.left_shift(1, LONGEST - sizes)  # of the table of all windows
    if spans.sum() > 1 << LONGEST:
        raise CodingError("the code lengths belong to no prefix code")
    codes = np.zeros(len(lengths), dtype=np.int64)
    codes[order] = (spans.cumsum() - spans) >> (LONGEST - sizes)
    return codes


def _tables(lengths: Lengths) -> tuple[Symbols, Lengths]:
    """Symbol and length of the code that begins each window of 16 bits; length 0 where none does."""
    if lengths.max(initial=0) > LONGEST:
        raise CodingError(f"a code has {lengths.max()} bits, the most is {LONGEST}")
    codes, symbols, sizes = (
        _codes(lengths),
        np.zeros(1 << LONGEST, np.int64),
        np.zeros(1 << LONGEST, np.uint8),
    )
    for symbol in np.flatnonzero(lengths):
        free = LONGEST - int(lengths[symbol])
        window = slice(int(codes[symbol]) << free, (int(codes[symbol]) + 1) << free)
        symbols[window], sizes[window] = symbol, lengths[symbol]
    return symbols, sizes
