"""A float32 graph in float16, as TensorRT wants it.

It is typed strongly: every tensor has the type it says, and every change of type is a Cast. TensorRT 11 knows only such
graphs, and 10 takes them as well.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from scene_completion_training.gpu_export.graph import DEPTH, constants, finished, replace_nodes

_SUMS = {"ReduceMean", "ReduceSum", "Sqrt", "Reciprocal", "Pow", "Softmax", "LayerNormalization", "Exp", "Erf"}
_SUMS |= {"InstanceNormalization", "GroupNormalization", "GridSample"}
"""Operators that stay in float32, with all that is computed from them until the next convolution.

GridSample, because float16 would move the places that it looks up by a tenth of a pixel.
"""
_PRODUCTS = {"Conv", "ConvTranspose", "MatMul", "Gemm"}
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
# Inputs that are no values of the network: the scales of a Resize are float32 by definition.
_NOT_VALUES = {"Resize": (1, 2)}


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph in float16, from the first convolution on to the output.

    The normalisation of the image before it stays float32 (a mean of 123.675 is none in float16). So do sums over
    channels, scores of attention, and what a decoder in space makes of the places that it looks up. So does the depth,
    whose output is float32 in every graph.
    """
    half = onnx.ModelProto()
    half.CopyFrom(model)
    graph = half.graph
    single = _single(graph)
    values = constants(graph)
    nodes: list[onnx.NodeProto] = []
    cast: dict[tuple[str, int], str] = {}
    types = _types(model)  # until a tensor's node comes, those of the float32 graph
    added: dict[str, onnx.TensorProto] = {}
    for node in graph.node:
        wanted = TensorProto.FLOAT if node.output[0] in single else TensorProto.FLOAT16
        for position, name in _values(node):
            if name in values:
                if wanted == TensorProto.FLOAT16 and values[name].dtype == np.float32:
                    node.input[position] = f"{name}/half"
                    added[f"{name}/half"] = numpy_helper.from_array(values[name].astype(np.float16), f"{name}/half")
            elif node.op_type != "Cast" and types[name] in _FLOATS and types[name] != wanted:
                if (name, wanted) not in cast:
                    cast[name, wanted] = f"{name}/{'half' if wanted == TensorProto.FLOAT16 else 'single'}"
                    nodes.append(helper.make_node("Cast", [name], [cast[name, wanted]], cast[name, wanted], to=wanted))
                node.input[position] = cast[name, wanted]
        made = [name for name in node.output if types[name] in _FLOATS]  # not integers, nor what is true or false
        types |= dict.fromkeys(made, wanted)
        if node.op_type == "Cast" and made:
            next(entry for entry in node.attribute if entry.name == "to").i = wanted
        nodes.append(node)
    replace_nodes(graph, nodes)
    graph.initializer.extend(added.values())
    for output in graph.output:
        wanted = TensorProto.FLOAT if output.name == DEPTH else TensorProto.FLOAT16
        if types[output.name] != wanted:
            _cast_output(graph, output.name, wanted)
        output.type.tensor_type.elem_type = wanted
    return finished(half)


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor that a graph computes."""
    graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    known = (*graph.input, *graph.value_info, *graph.output)
    return {value.name: value.type.tensor_type.elem_type for value in known}


def _single(graph: onnx.GraphProto) -> set[str]:
    """Tensors that are computed in float32."""
    single: set[str] = set()
    before = {value.name for value in graph.input}  # tensors that no convolution came before
    # Attention reads differences of scores: rounded to float16, those of a Depth Anything trunk made half of the error.
    scores = _since_products(graph, [node.input[0] for node in graph.node if node.op_type == "Softmax"], products=True)
    # Depth is the inverse of a number that is small far away: each rounding costs many times its share there.
    exact = scores | _since_products(graph, [DEPTH], products=False)
    for node in graph.node:
        inputs = set(node.input)
        if node.op_type not in _PRODUCTS and inputs & before:
            before |= set(node.output)
        elif not exact.isdisjoint(node.output):
            pass
        elif node.op_type not in _SUMS and (node.op_type in _PRODUCTS or not inputs & single):
            continue
        single |= set(node.output)
    return single


def _since_products(graph: onnx.GraphProto, names: Iterable[str], *, products: bool) -> set[str]:
    """What tensors are computed of since the last convolutions or products before them, with what these give or not."""
    makers = {name: node for node in graph.node for name in node.output}
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in makers or name in found:
            continue
        product = makers[name].op_type in _PRODUCTS
        if products or not product:
            found.add(name)
        waiting += [] if product else makers[name].input
    return found


def _values(node: onnx.NodeProto) -> Iterator[tuple[int, str]]:
    for position, name in enumerate(node.input):
        if name and position not in _NOT_VALUES.get(node.op_type, ()):
            yield position, name


def _cast_output(graph: onnx.GraphProto, output: str, kind: int) -> None:
    computed = f"{output}/computed"
    for node in graph.node:
        node.output[:] = [computed if name == output else name for name in node.output]
        node.input[:] = [computed if name == output else name for name in node.input]
    graph.node.append(helper.make_node("Cast", [computed], [output], f"{output}/typed", to=kind))
