"""A float32 graph in float16 and in 8-bit integers, as TensorRT wants it.

It is typed strongly: every tensor has the type it says, and every change of type is a Cast. TensorRT 11 knows only such
graphs, and 10 takes them as well. Integers are symmetric; what is not quantised is float16. ONNX Runtime's quantiser
looks at real images. It puts a pair of QuantizeLinear and DequantizeLinear behind every tensor that a convolution
reads, so that whatever else reads it reads the same integers. It puts a DequantizeLinear behind the weights, with a
scale for each output channel. All zero points are 0.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from scene_completion_ros.errors import BundleError
from scene_completion_training.gpu_export.graph import DEPTH, INPUT, constants, finished, replace_nodes

_SUMS = {"ReduceMean", "ReduceSum", "Sqrt", "Reciprocal", "Pow", "Softmax", "LayerNormalization", "Exp", "Erf"}
_SUMS |= {"InstanceNormalization", "GroupNormalization", "GridSample"}
"""Operators that stay in float32, with all that is computed from them until the next convolution.

GridSample, because float16 would move the places that it looks up by a tenth of a pixel.
"""
_PRODUCTS = {"Conv", "ConvTranspose", "MatMul", "Gemm"}
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
_NOT_VALUES = {"Resize": (1, 2)}
"""Inputs that are no values of the network: the scales of a Resize are float32 by definition."""
MOST_IMAGES = 64
"""Images that calibration looks at: all that lies between the layers is kept for its histograms, some MB an image."""
PERCENTILE = 99.999
"""Share of the values, in percent, that a quantised tensor holds without clipping; see docs/gpu.md for the others."""
LAST_LAYERS = 3
"""Convolutions before an output that stay float16, counted along every path."""


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
    exact = _scores(graph) | _behind_products(graph, DEPTH)
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


def _scores(graph: onnx.GraphProto) -> set[str]:
    """What a Softmax reads, back to the product that it comes from.

    Attention reads differences of scores: rounded to float16, those of a Depth Anything trunk made half of the error.
    """
    makers = {name: node for node in graph.node for name in node.output}
    scores: set[str] = set()
    waiting = [node.input[0] for node in graph.node if node.op_type == "Softmax"]
    while waiting:
        name = waiting.pop()
        if name in makers and name not in scores:
            scores.add(name)
            waiting += [] if makers[name].op_type in _PRODUCTS else makers[name].input
    return scores


def _behind_products(graph: onnx.GraphProto, output: str) -> set[str]:
    """What an output is computed of since the last convolutions or products before it.

    Depth is the inverse of a number that is small far away: each rounding of that one costs many times its share there.
    """
    makers = {name: node for node in graph.node for name in node.output}
    found: set[str] = set()
    waiting = [output]
    while waiting:
        name = waiting.pop()
        if name in makers and name not in found and makers[name].op_type not in _PRODUCTS:
            found.add(name)
            waiting += makers[name].input
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


def to_int8(model: onnx.ModelProto, images: NDArray[np.uint8], where: str) -> onnx.ModelProto:
    """The graph with its convolutions in int8; the first one and the last `LAST_LAYERS` stay float16.

    Args:
        model: What `gpu_graph` gives, float32.
        images: Canonical images uint8 [K, H, W, 3] RGB, those of the training, at most `MOST_IMAGES`.

    Raises:
        BundleError: No convolution is left to quantise.
    """
    kept = kept_in_half(model.graph)
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    if not set(convolutions) - kept:
        raise BundleError(
            f"it has {len(convolutions)} convolutions, and first and last stay float16: none is left for int8",
            where=where,
            cure="Use --precision fp16.",
        )
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        onnx.save(_marked_as_prepared(model), source)
        quantize_static(
            source,
            target,
            _Images(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=sorted(kept),
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                # TensorRT moves the steps through what lies between two convolutions by itself.
                "OpTypesToExcludeOutputQuantization": ["Conv"],
                "CalibTensorRangeSymmetric": True,
                "CalibPercentile": PERCENTILE,
            },
        )
        quantised = onnx.load(target)
    _round_scales(quantised.graph, constants(model.graph))
    return to_half(quantised)


def kept_in_half(graph: onnx.GraphProto) -> set[str]:
    """Names of the convolutions that stay float16: the first, and the last `LAST_LAYERS` of every path.

    What a decoder in space looks up counts as an end: it says how far surfaces are, and 256 steps are too few for that.
    """
    makers = {name: node for node in graph.node for name in node.output}
    kept = {next(node.name for node in graph.node if node.op_type == "Conv")}
    reached: dict[str, int] = {}  # tensor -> convolutions between it and an output, the fewest
    waiting = [(output.name, 0) for output in graph.output]
    waiting += [(node.input[0], 0) for node in graph.node if node.op_type == "GridSample"]
    while waiting:
        name, layers = waiting.pop()
        if name not in makers or layers >= reached.get(name, LAST_LAYERS):
            continue
        reached[name] = layers
        node = makers[name]
        if node.op_type == "Conv":
            kept.add(node.name)
        waiting += [(source, layers + (node.op_type == "Conv")) for source in node.input]
    return kept


def _round_scales(graph: onnx.GraphProto, weights: Mapping[str, NDArray[Any]]) -> None:
    """Rounds all scales to float16, upwards, and the weights to the steps that these make."""
    values = constants(graph)
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        scale = values[node.input[1]]
        rounded = scale.astype(np.float16)
        rounded = np.where(
            rounded.astype(np.float32) < scale.astype(np.float32), np.nextafter(rounded, np.float16(np.inf)), rounded
        )
        tensors[node.input[1]].CopyFrom(numpy_helper.from_array(rounded.astype(np.float32), node.input[1]))
        if node.input[0] in tensors:
            weight = weights[node.input[0].removesuffix("_quantized")]
            steps = rounded.astype(np.float32).reshape(-1, *[1] * (weight.ndim - 1))
            integers = np.clip(np.rint(weight / steps), -127, 127).astype(np.int8)
            tensors[node.input[0]].CopyFrom(numpy_helper.from_array(integers, node.input[0]))


class _Images(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._images: Iterator[NDArray[np.uint8]] = iter(images)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        image = next(self._images, None)
        return None if image is None else {INPUT: image[None]}


def _marked_as_prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the mark of ONNX Runtime's preparation, which `gpu_graph` did."""
    marked = onnx.ModelProto()
    marked.CopyFrom(model)
    onnx.helper.set_model_props(marked, {"onnx.quant.pre_process": "onnxruntime.quant"})
    logging.getLogger("onnxruntime.quantization").setLevel(logging.ERROR)
    return marked
