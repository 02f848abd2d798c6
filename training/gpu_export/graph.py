"""The bundle's encoder as a graph for GPUs in float32: bytes in, channels last, any number of images.

The other precisions are made from it, see `precisions`. What a GPU gains: no shape arithmetic is left, no
constant runs along with the images, and channels stay multiples of what tensor cores take.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from scene_completion_ros.errors import BundleError
from scene_completion_ros.inference.bundle import StudentBundle

INPUT, OUTPUT = "image", "features"
OPSET, IR_VERSION = 19, 9  # from opset 19 on, the scale of a quantised tensor may be float16
OLDEST_OPSET = 17  # what encoders hold means the same in these
BATCH = "N"
_CURE = "Only encoders of convolutions are exported for GPUs; report the bundle's encoder and how it was made."


def gpu_graph(bundle: StudentBundle) -> onnx.ModelProto:
    """The float32 graph: ``image`` uint8 [N, H, W, 3] RGB -> ``features`` float32 [N, h, w, C + E].

    Raises:
        BundleError: Its encoder is none, or has operators that mix the images of a batch.
    """
    where = str(bundle.encoder_path)
    if bundle.head.volume is not None:
        raise BundleError(
            "gives a volume, which the kernels for GPUs do not read", where=where, cure="Run this student on the CPU."
        )
    model = simplified(bundle.read_encoder(), where)
    graph = model.graph
    _take_constants_out(graph, where)
    camera, (height, width) = bundle.canonical, bundle.feature_size
    if [value.name for value in graph.input] != [INPUT] or [value.name for value in graph.output] != [OUTPUT]:
        raise BundleError(f"has other inputs and outputs than {INPUT!r} and {OUTPUT!r}", where=where, cure=_CURE)
    for node in graph.node:
        node.input[:] = ["image_planes" if name == INPUT else name for name in node.input]
    front = [
        helper.make_node("Cast", [INPUT], ["image_float"], "image/cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["image_float"], ["image_planes"], "image/planes", perm=[0, 3, 1, 2]),
    ]
    replace_nodes(graph, [*front, *graph.node])
    del graph.input[:], graph.output[:], graph.value_info[:]
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [BATCH, camera.height, camera.width, 3]))
    shape: list[str | int | None] = [BATCH, height, width, bundle.head.channels]
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, shape))
    graph.name = "encoder"
    return finished(model)


def finished(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, checked, without what it does not use and without traces of what made it."""
    graph = model.graph
    used = {name for node in graph.node for name in node.input}
    kept = sorted((tensor for tensor in graph.initializer if tensor.name in used), key=lambda tensor: tensor.name)
    result = helper.make_model(
        helper.make_graph(list(graph.node), graph.name, list(graph.input), list(graph.output), kept),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    for index, node in enumerate(result.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
        node.doc_string = ""
        del node.metadata_props[:]
    onnx.checker.check_model(result, full_check=True)
    return result


def simplified(encoder: bytes, where: str) -> onnx.ModelProto:
    """An encoder with all constants computed, of standard operators; still for one image.

    Raises:
        BundleError: ONNX Runtime cannot run it, or it has operators of its own.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = f"{folder}/simplified.onnx"
        try:
            onnxruntime.InferenceSession(encoder, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise BundleError(f"ONNX Runtime cannot run it ({error})", where=where, cure=_CURE) from error
        model = onnx.load(Path(options.optimized_model_filepath))
    if foreign := sorted({node.op_type for node in model.graph.node if node.domain not in ("", "ai.onnx")}):
        raise BundleError(f"has operators that are not standard: {', '.join(foreign)}", where=where, cure=_CURE)
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if not OLDEST_OPSET <= version <= OPSET:
        raise BundleError(f"is of opset {version} where {OLDEST_OPSET} to {OPSET} is needed", where=where, cure=_CURE)
    return model


def constants(graph: onnx.GraphProto) -> dict[str, NDArray[np.generic]]:
    """Value of every initializer by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def replace_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Gives a graph other nodes."""
    nodes = list(nodes)
    del graph.node[:]
    graph.node.extend(nodes)


def _take_constants_out(graph: onnx.GraphProto, where: str) -> None:
    """Replaces constant channels in front of a convolution by a constant map after it, which is the same.

    A convolution is linear, so conv([x, c]) = conv(x) + conv(c). The constant channels (pixel coordinates, the mean
    depth) would have to be repeated for each image of a batch, and would share one quantisation step with the others.
    """
    values = constants(graph)
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    nodes: list[onnx.NodeProto] = []
    maps: dict[str, tuple[slice, NDArray[np.generic]]] = {}  # output of a shortened concatenation -> what is gone
    for node in graph.node:
        given = [name for name in node.input if name in values]
        if node.op_type == "Concat" and given:
            followers = readers.get(node.output[0], [])
            tail = list(node.input)[len(node.input) - len(given) :]
            if tail != given or not followers or any(not _plain_convolution(other) for other in followers):
                raise BundleError(
                    f"{node.name} joins a constant with the image's channels in a way that no batch can have",
                    where=where,
                    cure=_CURE,
                )
            constant = np.concatenate([values[name] for name in given], axis=1)
            maps[node.output[0]] = (slice(None, -constant.shape[1]), constant)
            kept = [name for name in node.input if name not in values]
            if len(kept) == 1:
                nodes.append(helper.make_node("Identity", kept, node.output, node.name))
            else:
                nodes.append(helper.make_node("Concat", kept, node.output, node.name, axis=1))
        elif node.input and node.input[0] in maps:
            nodes += _split(graph, node, values, *maps[node.input[0]])
        else:
            nodes.append(node)
    replace_nodes(graph, _without_identities(nodes))


def _plain_convolution(node: onnx.NodeProto) -> bool:
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    return bool(node.op_type == "Conv" and groups == 1)


def _split(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    values: dict[str, NDArray[np.generic]],
    kept: slice,
    constant: NDArray[np.generic],
) -> list[onnx.NodeProto]:
    """A convolution without its constant channels, and the sum with what those and its bias give."""
    name, weight = node.output[0], values[node.input[1]]
    bias = values[node.input[2]] if len(node.input) > 2 else np.zeros(len(weight), np.float32)
    alone = onnx.NodeProto()
    alone.CopyFrom(node)
    alone.input[:] = ["constant", "weight", "bias"]
    evaluator = ReferenceEvaluator(
        helper.make_model(
            helper.make_graph(
                [alone],
                "constant",
                [helper.make_tensor_value_info(entry, TensorProto.FLOAT, None) for entry in alone.input],
                [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
            ),
            opset_imports=[helper.make_opsetid("", OPSET)],
        )
    )
    gone = np.ascontiguousarray(weight[:, -constant.shape[1] :])
    results = evaluator.run(None, {"constant": constant, "weight": gone, "bias": bias})
    assert isinstance(results, list)
    for suffix, value in (("weight", np.ascontiguousarray(weight[:, kept])), ("constant", results[0])):
        graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), f"{name}/{suffix}"))
    convolution = onnx.NodeProto()
    convolution.CopyFrom(node)
    convolution.input[:] = [node.input[0], f"{name}/weight"]
    convolution.output[:] = [f"{name}/image"]
    return [convolution, helper.make_node("Add", [f"{name}/image", f"{name}/constant"], [name], f"{name}/add")]


def _without_identities(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    same = {node.output[0]: node.input[0] for node in nodes if node.op_type == "Identity"}
    kept = [node for node in nodes if node.op_type != "Identity"]
    for node in kept:
        node.input[:] = [same.get(name, name) for name in node.input]
    return kept
