"""Compressed files: tensors are read back bit for bit, or the file is refused."""

import hashlib
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amc_env.coding import CodingError, gaps, huffman, packed


def test_code_lengths_by_hand():
    assert huffman.code_lengths(np.array([5, 1, 1, 0])).tolist() == [1, 2, 2, 0]
    assert huffman.code_lengths(np.array([0, 7])).tolist() == [0, 1]
    assert huffman.code_lengths(np.array([45, 13, 12, 16, 9, 5])).tolist() == [1, 3, 3, 3, 4, 4]


def test_codes_by_hand():
    lengths = np.array([1, 2, 2, 0], dtype=np.uint8)  # 0, 10, 11
    assert huffman.encode(np.array([0, 1, 2, 0]), lengths) == bytes([0b01011000 | 0])
    assert huffman.decode(bytes([0b01011000]), lengths, 4).tolist() == [0, 1, 2, 0]


def test_no_code_is_longer_than_a_table_has_bits():
    fibonacci = [1, 1]
    while len(fibonacci) < 40:
        fibonacci.append(sum(fibonacci[-2:]))
    lengths = huffman.code_lengths(np.array(fibonacci))
    assert lengths.max() == huffman.LONGEST
    symbols = np.arange(40).repeat(3)
    assert huffman.decode(huffman.encode(symbols, lengths), lengths, 120).tolist() == symbols.tolist()


@given(st.lists(st.integers(0, 40), max_size=300))
def test_symbols_come_back(symbols):
    values = np.array(symbols, dtype=np.int64)
    counts = np.bincount(values, minlength=41)
    lengths = huffman.code_lengths(counts)
    written = huffman.encode(values, lengths)
    assert huffman.decode(written, lengths, len(values)).tolist() == symbols
    share = counts[counts > 0] / max(1, len(values))
    entropy = -(share * np.log2(share)).sum() * len(values)
    assert entropy - 1e-6 <= counts @ lengths <= entropy + max(1, len(values))


@pytest.mark.parametrize(("content", "count"), [(b"", 1), (b"\xff", 5), (b"\xff\xff", 99)])
def test_what_is_no_sequence_of_codes_is_refused(content, count):
    with pytest.raises(CodingError, match="code"):
        huffman.decode(content, np.array([1, 2, 2], dtype=np.uint8), count)
    with pytest.raises(CodingError, match="prefix"):
        huffman.decode(b"ab", np.array([1, 1, 1], dtype=np.uint8), 1)


def test_steps_of_the_paper_s_figure():
    """Deep Compression, figure 2: values at 1, 4 and 15 with 3 bits take one filler, at 12."""
    steps, real = gaps.to_steps(np.array([1, 4, 15]), 3)
    assert (steps + 1).tolist() == [2, 3, 8, 3]
    assert real.tolist() == [True, True, False, True]
    assert gaps.to_positions(steps).tolist() == [1, 4, 12, 15]
    assert gaps.fillers(np.array([1, 4, 15]), 3) == 1


@given(st.sets(st.integers(0, 3000), max_size=60), st.integers(1, 8))
def test_positions_come_back(positions, bits):
    wanted = np.array(sorted(positions), dtype=np.int64)
    steps, real = gaps.to_steps(wanted, bits)
    assert gaps.to_positions(steps)[real].tolist() == wanted.tolist()
    assert len(steps) == len(wanted) + gaps.fillers(wanted, bits)
    assert ((steps >= 0) & (steps < 1 << bits)).all()


@st.composite
def networks(draw):
    """Tensors of some layers: sparse or not, shared or not, of any dtype, at times empty or odd."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tensors = {}
    for index in range(draw(st.integers(1, 4))):
        shape = tuple(draw(st.lists(st.integers(0, 9), max_size=4)))
        values = rng.standard_normal(shape)
        if values_in_all := draw(st.sampled_from([None, 1, 2, 16, 300])):
            values = rng.standard_normal(values_in_all)[rng.integers(0, values_in_all, shape)]
        values = np.where(rng.random(shape) < draw(st.sampled_from([0.0, 0.05, 0.5, 1.0])), values, 0.0)
        tensor = torch.from_numpy(np.asarray(100 * values)).to(packed.DTYPES[draw(st.sampled_from(DTYPES))])
        if tensor.is_floating_point() and tensor.numel() and draw(st.booleans()):
            tensor.view(-1)[0] = draw(st.sampled_from([-0.0, float("inf"), float("nan"), 1e-7]))
        tensors[f"layer{index}.weight"] = tensor
    return tensors


DTYPES = sorted(packed.DTYPES)


def assert_same(found, wanted):
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert bits_of(found[name]) == bits_of(tensor)


def bits_of(tensor):
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


@settings(max_examples=30)
@given(networks())
def test_networks_come_back_bit_for_bit(tensors):
    found, about = packed.decode(packed.encode(tensors, {"of": "test"}))
    assert_same(found, tensors)
    assert about == {"of": "test"}


@pytest.mark.slow
@settings(max_examples=1000)
@given(networks())
def test_a_thousand_networks_come_back_bit_for_bit(tensors):
    assert_same(packed.decode(packed.encode(tensors))[0], tensors)


def lenet_like(seed=0):
    """Three layers as Deep Compression leaves them, and their biases."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape, density, bits in (
        ("a", (60, 100), 0.08, 6),
        ("b", (30, 60), 0.1, 5),
        ("c", (10, 30), 0.3, 5),
    ):
        book = torch.randn(1 << bits, generator=generator)
        kept = torch.rand(shape, generator=generator) < density
        at = torch.randint(1 << bits, shape, generator=generator)
        tensors[f"{name}.weight"] = torch.where(kept, book[at], 0.0)
        tensors[f"{name}.bias"] = torch.randn(shape[0], generator=generator)
    return tensors


def test_what_is_told_of_each_tensor_adds_up_to_the_file():
    tensors = lenet_like()
    content = packed.encode(tensors)
    coded = packed.contents(content)
    assert sum(one.nbytes for one in coded) + packed.overhead(content, coded) == len(content)
    first = coded[0]
    assert first.kept == int(tensors["a.weight"].count_nonzero())
    assert packed.bits_before(first)[0] in (6, 7)  # a codebook of 64, and a zero for fillers
    of_word, of_step = packed.mean_bits(first)
    assert of_word <= 7
    assert of_step <= first.index_bits
    book = 4 * first.shared
    assert first.nbytes == pytest.approx(book + first.entries * (of_word + of_step) / 8)


def test_it_is_smaller_than_zipped_weights():
    tensors = lenet_like()
    zipped = zlib.compress(b"".join(bits_of(tensor) for tensor in tensors.values()), 9)
    assert len(packed.encode(tensors)) < len(zipped)


def damaged(content, count, seed):
    """Copies with one bit flipped, cut short at some byte, or with a byte behind."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        changed = bytearray(content)
        if (kind := rng.integers(0, 20)) < 12:
            changed[rng.integers(0, len(content))] ^= 1 << int(rng.integers(0, 8))
        elif kind < 19:
            del changed[rng.integers(0, len(content)) :]
        else:
            changed.append(int(rng.integers(0, 256)))
        yield bytes(changed)


def test_damaged_files_are_refused():
    for changed in damaged(packed.encode(lenet_like()), 200, seed=0):
        with pytest.raises(CodingError):
            packed.decode(changed)


@pytest.mark.slow
def test_ten_thousand_damaged_files_are_refused():
    for seed in range(10):
        for changed in damaged(packed.encode(lenet_like(seed)), 1000, seed):
            with pytest.raises(CodingError):
                packed.decode(changed)


def test_every_bit_of_a_small_file_counts():
    content = packed.encode({"w": torch.tensor([0.0, 1.0, 0.0, 0.0, 2.0])})
    for at in range(8 * len(content)):
        changed = bytearray(content)
        changed[at // 8] ^= 1 << at % 8
        with pytest.raises(CodingError):
            packed.decode(bytes(changed))


def signed(content):
    return content + hashlib.sha256(content).digest()


def test_another_version_is_refused_by_its_number():
    content = packed.encode(lenet_like())[: -packed.DIGEST]
    _, _, size = packed.FRONT.unpack_from(content)
    other = packed.FRONT.pack(packed.MAGIC, 2, size) + content[packed.FRONT.size :]
    with pytest.raises(CodingError, match="version 2, this code reads 1"):
        packed.decode(signed(other))


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b"{}",
        b'{"about":{},"tensors":[[1]]}',
        b'{"about":{},"tensors":[["w","float32",[9],1,0,0,"","",[4,0,0],0]]}',
        b'{"about":{},"tensors":[["w","float32",[1],1,0,0,"","",["a","b","c"],0]]}',
        b'{"about":{},"tensors":[["w","float32",["2"],1,0,0,"","",[0,0,0],0]]}',
        b'{"about":{},"tensors":[["w","float32",2,1,0,0,"","",[0,0,0],0]]}',
        b'{"about":{},"tensors":[["w","float32",[0],0,0,0,"","",[0,0,0],0],["w","float32",[0],0,0,0,"","",[0,0,0],0]]}',
        b"[" * 200_000,
    ],
)
def test_a_digest_does_not_make_a_file_of_nonsense(header):
    told = zlib.compress(header) if header else b"x"
    with pytest.raises(CodingError):
        packed.decode(signed(packed.FRONT.pack(packed.MAGIC, 1, len(told)) + told))


@pytest.mark.parametrize("shape", ["[9]", "[-1]", "[1,99999999999]", "[0.5]"])
def test_nor_of_a_tensor_that_its_entries_do_not_fill(shape):
    header = f'{{"about":{{}},"tensors":[["w","float32",{shape},1,0,0,"","",[4,0,0],0]]}}'
    told = zlib.compress(header.encode())
    with pytest.raises(CodingError):
        packed.decode(signed(packed.FRONT.pack(packed.MAGIC, 1, len(told)) + told + bytes(4)))


def test_a_tensor_that_cannot_be_written():
    with pytest.raises(CodingError, match=r"w is complex64; what can be written is float32"):
        packed.encode({"w": torch.zeros(2, dtype=torch.complex64)})


def test_a_clean_process_reads_the_same_bits(tmp_path):
    tensors = lenet_like()
    (tmp_path / "net.packed").write_bytes(packed.encode(tensors))
    code = (
        "import sys, hashlib, pathlib; from amc_env.coding import packed;"
        "found, _ = packed.decode(pathlib.Path(sys.argv[1]).read_bytes());"
        "print(hashlib.sha256(b''.join(t.numpy().tobytes() for t in found.values())).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "net.packed"], capture_output=True, text=True, check=True
    )
    wanted = hashlib.sha256(b"".join(bits_of(tensor) for tensor in tensors.values())).hexdigest()
    assert done.stdout.strip() == wanted
