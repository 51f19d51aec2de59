"""An object whose tensors lie in one block of shared memory, for processes that only read them.

PyTorch hands tensors to another process one by one, each by an open file: a network and its images are
hundreds, and many systems allow a process 1,024. Here one file holds them all.
"""

import io
import pickle
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ALIGNMENT = 64  # bytes, as PyTorch's own memory has

_Place = tuple[
    int, torch.dtype, tuple[int, ...], tuple[int, ...]
]  # offset in elements, dtype, shape, strides


@dataclass(frozen=True)
class Shared:
    """An object, pickled, beside its tensors; `share` makes it.

    Attributes:
        block: ``(bytes,)`` uint8 in shared memory; it is sent to another process without a copy.
        content: the pickled rest.
    """

    block: Tensor
    content: bytes

    def load(self) -> Any:
        """The object, its tensors in the block: who writes into one writes into everybody's."""
        return _Unpickler(self).load()


def share(value: Any) -> Shared:
    """A value and a copy of its tensors, for `torch.multiprocessing` to send.

    Tensors that share memory still do; what they are parameters of, or how often they are referred to, is
    kept. They lie on the CPU and are dense.
    """
    content = io.BytesIO()
    pickler = _Pickler(content)
    pickler.dump(value)
    block = torch.empty(pickler.size, dtype=torch.uint8).share_memory_()
    for start, storage in pickler.storages.values():
        block[start : start + storage.nbytes()] = torch.empty(0, dtype=torch.uint8).set_(storage)
    return Shared(block, content.getvalue())


class _Pickler(pickle.Pickler):
    """Writes a tensor as its place in the block."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.size = 0
        self.storages: dict[int, tuple[int, torch.UntypedStorage]] = {}  # by address: start in the block

    def persistent_id(self, obj: Any) -> _Place | None:
        if type(obj) is not Tensor:
            return None
        storage = obj.untyped_storage()
        if storage.data_ptr() not in self.storages:
            self.storages[storage.data_ptr()] = self.size, storage
            self.size += -(-storage.nbytes() // ALIGNMENT) * ALIGNMENT
        start = self.storages[storage.data_ptr()][0] // obj.element_size()
        return start + int(obj.storage_offset()), obj.dtype, tuple(obj.shape), obj.stride()


class _Unpickler(pickle.Unpickler):
    """Reads it back."""

    def __init__(self, shared: Shared) -> None:
        super().__init__(io.BytesIO(shared.content))
        self._storage = shared.block.untyped_storage()

    def persistent_load(self, place: _Place) -> Tensor:
        offset, dtype, shape, strides = place
        return torch.empty(0, dtype=dtype).set_(self._storage, offset, shape, strides)
