"""Cuts an exported network to any widths by cutting the arrays in its file."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from amc_env.conditions import LatencyError
from amc_env.graph.structure import Graph
from experiments.delivery.export import write_onnx

TAG = "layer{}."  # begins the name of all that runs until the next layer begins
JOINS = ("Conv", "ConvTranspose", "Gemm")


class SlicedOnnx:
    """Cuts a network's ONNX file to any widths without exporting it again; the weights' values stay.

    Args:
        model: the dense network.
        graph: of it.

    Raises:
        LatencyError: when the file does not name the weights of a layer.
    """

    def __init__(self, model: nn.Module, graph: Graph) -> None:
        self.graph = graph
        with TemporaryDirectory() as folder:
            self._proto = onnx.load(write_onnx(model, graph.shape, Path(folder) / "dense.onnx"))
        self._arrays = {each.name: numpy_helper.to_array(each) for each in self._proto.graph.initializer}
        self._nodes = self._tagged()

    def _tagged(self) -> dict[int, list[int]]:
        """Name every node after the layer that it follows; returns the indices of each layer's nodes."""
        by_weight = {f"{layer.name}.weight": index for index, layer in enumerate(self.graph.layers)}
        renamed: dict[str, str] = {}
        found: dict[int, list[int]] = {index: [] for index in range(len(self.graph.layers))}
        outputs, current = {each.name for each in self._proto.graph.output}, 0
        for at, node in enumerate(self._proto.graph.node):
            if node.op_type == "Reshape" and self._arrays.get(node.input[1], np.empty(0)).shape == (2,):
                node.op_type = "Flatten"  # however many channels there are
                del node.attribute[:], node.input[1:]
            if node.op_type in JOINS and node.input[1] in by_weight:
                current = by_weight[node.input[1]]
                found[current].append(at)
            node.name = TAG.format(current) + str(at)
            node.input[:] = [renamed.get(name, name) for name in node.input]
            for position, name in enumerate(node.output):
                if name not in outputs:
                    renamed[name] = f"{node.name}.{position}"
                    node.output[position] = renamed[name]
        del self._proto.graph.value_info[:]
        if missing := [self.graph.layers[index].name for index, nodes in found.items() if not nodes]:
            raise LatencyError(
                f"the ONNX file does not name the weights of {', '.join(missing)}: give runtime=torch"
            )
        return found

    def cut(self, mask: NDArray[np.bool_]) -> bytes:
        """The file of the network that keeps the atoms of a mask."""
        proto, arrays = onnx.ModelProto(), dict(self._arrays)
        proto.CopyFrom(self._proto)
        for vector in self.graph.vectors:
            if vector.name in arrays:
                arrays[vector.name] = arrays[vector.name].compress(mask[vector.atoms], axis=vector.dim)
        for index, layer in enumerate(self.graph.layers):
            reads, writes = int(mask[layer.reads].sum()), int(mask[layer.writes].sum())
            groups = reads if layer.kind == "depthwise" else layer.groups
            inner = reads // groups
            for at in self._nodes[index]:
                node = proto.graph.node[at]
                for attribute in node.attribute:
                    if attribute.name == "group":
                        attribute.i = groups
                sides = (reads, writes // groups) if layer.kind == "transposed" else (writes, inner)
                arrays[node.input[1]] = self._arrays[node.input[1]][: sides[0], : sides[1]]
                if len(node.input) > 2:
                    arrays[node.input[2]] = self._arrays[node.input[2]][:writes]
        del proto.graph.initializer[:]
        proto.graph.initializer.extend(
            numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in arrays.items()
        )
        serialised: bytes = proto.SerializeToString()
        return serialised
