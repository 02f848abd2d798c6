"""A float32 graph in float16, typed strongly: every tensor has the type it says, and every change of type is a Cast.

TensorRT 11 knows only such graphs, and 10 takes them as well.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from scene_completion_training.gpu_export.graph import OUTPUT, constants, finished, replace_nodes

_SUMS = {"ReduceMean", "ReduceSum", "Sqrt", "Reciprocal", "Pow", "Softmax", "LayerNormalization", "Exp", "Erf"}
"""Operators that stay in float32, with all that is computed from them until the next convolution."""
_PRODUCTS = {"Conv", "ConvTranspose", "MatMul", "Gemm"}
_NOT_VALUES = {"Resize": (1, 2)}
"""Inputs that are no values of the network: the scales of a Resize are float32 by definition."""


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph in float16, from the first convolution on to the output.

    The normalisation of the image before it stays float32 (a mean of 123.675 is none in float16), and so do sums over
    channels.
    """
    half = onnx.ModelProto()
    half.CopyFrom(model)
    graph = half.graph
    single = _single(graph)
    values = constants(graph)
    nodes: list[onnx.NodeProto] = []
    cast: dict[tuple[str, int], str] = {}
    types = {value.name: TensorProto.UINT8 for value in graph.input}
    added: dict[str, onnx.TensorProto] = {}
    for node in graph.node:
        wanted = TensorProto.FLOAT if node.output[0] in single else TensorProto.FLOAT16
        for position, name in _values(node):
            if types.get(name) == TensorProto.INT8:
                continue
            if name in values:
                if wanted == TensorProto.FLOAT16 and values[name].dtype == np.float32:
                    node.input[position] = f"{name}/half"
                    added[f"{name}/half"] = numpy_helper.from_array(values[name].astype(np.float16), f"{name}/half")
            elif node.op_type != "Cast" and types[name] != wanted:
                if (name, wanted) not in cast:
                    cast[name, wanted] = f"{name}/{'half' if wanted == TensorProto.FLOAT16 else 'single'}"
                    nodes.append(helper.make_node("Cast", [name], [cast[name, wanted]], cast[name, wanted], to=wanted))
                node.input[position] = cast[name, wanted]
        types |= dict.fromkeys(node.output, TensorProto.INT8 if node.op_type == "QuantizeLinear" else wanted)
        nodes.append(node)
    replace_nodes(graph, nodes)
    graph.initializer.extend(added.values())
    if types[OUTPUT] != TensorProto.FLOAT16:
        _cast_output(graph)
    graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    return finished(half)


def _single(graph: onnx.GraphProto) -> set[str]:
    """Tensors that are computed in float32."""
    single: set[str] = set()
    before = {value.name for value in graph.input}  # tensors that no convolution came before
    for node in graph.node:
        inputs = set(node.input)
        if node.op_type not in _PRODUCTS and inputs & before:
            before |= set(node.output)
        elif node.op_type not in _SUMS and (node.op_type in _PRODUCTS or not inputs & single):
            continue
        single |= set(node.output)
    return single


def _values(node: onnx.NodeProto) -> Iterator[tuple[int, str]]:
    for position, name in enumerate(node.input):
        if name and position not in _NOT_VALUES.get(node.op_type, ()):
            yield position, name


def _cast_output(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        node.output[:] = [f"{OUTPUT}/single" if name == OUTPUT else name for name in node.output]
        node.input[:] = [f"{OUTPUT}/single" if name == OUTPUT else name for name in node.input]
    graph.node.append(
        helper.make_node("Cast", [f"{OUTPUT}/single"], [OUTPUT], f"{OUTPUT}/half", to=TensorProto.FLOAT16)
    )
