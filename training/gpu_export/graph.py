"""The bundle's encoder as a graph for GPUs in float32: bytes in, channels last, any number of images.

An encoder is traced with one image, so that its shapes are numbers. What names the number of images (the shape of a
Reshape, the sizes of a Resize) is written anew without it. Constants that were joined with an image's channels or
tokens are added instead.

The other precisions are made from it, see `precisions`. What a GPU gains: no shape arithmetic is left, no
constant runs along with the images, and channels stay multiples of what tensor cores take.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from scene_completion_ros.errors import BundleError
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.scene_query import ray_camera

INPUT, OUTPUT, VOLUME, DEPTH = "image", "features", "volume", "depth"
OPSET, IR_VERSION = 19, 9  # from opset 19 on, the scale of a quantised tensor may be float16
OLDEST_OPSET = 17  # what encoders hold means the same in these
BATCH = "N"
_CURE = "Only encoders whose images stay apart are exported for GPUs; report this one and how it was made."


def gpu_graph(bundle: StudentBundle) -> onnx.ModelProto:
    """The float32 graph: ``image`` uint8 [N, H, W, 3] RGB -> ``features`` float32 [N, h, w, C + E].

    Where the head reads a volume, ``volume`` float32 [N, X, Y, Z] is the second output, and ``depth`` float32
    [N, h', w'] the third.

    Raises:
        BundleError: Its encoder is none, or has operators that mix the images of a batch.
    """
    where = str(bundle.encoder_path)
    model = simplified(bundle.read_encoder(), where)
    graph, shapes = model.graph, _shapes(model)
    camera, head = bundle.canonical, bundle.head
    outputs: dict[str, tuple[int, ...]] = {OUTPUT: (*bundle.feature_size, head.channels)}
    if head.volume is not None:
        rays = ray_camera(camera)
        outputs |= {VOLUME: head.volume_knots, DEPTH: (rays.height, rays.width)}
    if [value.name for value in graph.input] != [INPUT] or [value.name for value in graph.output] != [*outputs]:
        raise BundleError(
            f"has other inputs and outputs than {INPUT} and {', '.join(outputs)}", where=where, cure=_CURE
        )
    _take_constants_out(graph, shapes, where)
    _take_numbers_of_images_out(graph, shapes, where)
    for node in graph.node:
        node.input[:] = ["image_planes" if name == INPUT else name for name in node.input]
    front = [
        helper.make_node("Cast", [INPUT], ["image_float"], "image/cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["image_float"], ["image_planes"], "image/planes", perm=[0, 3, 1, 2]),
    ]
    replace_nodes(graph, [*front, *graph.node])
    del graph.input[:], graph.output[:], graph.value_info[:]
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [BATCH, camera.height, camera.width, 3]))
    for name, sizes in outputs.items():
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH, *sizes]))
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
            # A product of matrices and its sum as one Gemm would need the images of a batch in one matrix.
            onnxruntime.InferenceSession(
                encoder, options, providers=["CPUExecutionProvider"], disabled_optimizers=["MatMulAddFusion"]
            )
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


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor that the graph computes, for one image."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name: tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }


def _take_numbers_of_images_out(graph: onnx.GraphProto, shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Lets shapes and sizes that were those of one image hold for any number of them, which stays the first axis.

    Raises:
        BundleError: Another axis becomes the first one, or a shape is not known before.
    """
    values = constants(graph)
    nodes: list[onnx.NodeProto] = []

    def constant(name: str, value: NDArray[np.generic]) -> str:
        graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    for node in graph.node:
        made, given = shapes.get(node.output[0], ()), shapes.get(node.input[0], ())
        moved = node.op_type == "Transpose" and helper.get_node_attr_value(node, "perm")[0] != 0
        known = made and given and all((*made, *given))
        if moved or not (known or node.op_type not in ("Reshape", "Resize", "GridSample")):
            raise BundleError(f"{node.name} mixes the images of a batch", where=where, cure=_CURE)
        if node.op_type == "Reshape":
            node.input[1] = constant(f"{node.output[0]}/shape", np.array([-1, *made[1:]], np.int64))
        elif node.op_type == "Resize" and len(node.input) == 4:
            scales = [_scale(*sizes) for sizes in zip(given, made, strict=True)]
            node.input[:] = [node.input[0], "", constant(f"{node.output[0]}/scales", np.array(scales, np.float32))]
            kept = [entry for entry in node.attribute if entry.name != "axes"]
            del node.attribute[:]
            node.attribute.extend(kept)
        elif node.op_type == "GridSample" and node.input[1] in values:
            # The places are the same in every image: the channels of all of them are those of one.
            name, joined, apart = node.output[0], (1, -1, *given[2:]), (-1, *made[1:])
            shape = constant(f"{name}/joined", np.array(joined, np.int64))
            nodes.append(helper.make_node("Reshape", [node.input[0], shape], [f"{name}/channels"], f"{name}/join"))
            node.input[0], node.output[0] = f"{name}/channels", f"{name}/sampled"
            shape = constant(f"{name}/apart", np.array(apart, np.int64))
            nodes += [node, helper.make_node("Reshape", [f"{name}/sampled", shape], [name], f"{name}/part")]
            continue
        nodes.append(node)
    replace_nodes(graph, nodes)


def _scale(before: int, after: int) -> np.float32:
    """The factor that makes one size of another, which is rounded down."""
    scale = np.float32(after / before)
    while min(int(np.float32(before) * scale), int(before * float(scale))) < after:
        scale = np.nextafter(scale, np.float32(np.inf))
    return scale


def _take_constants_out(graph: onnx.GraphProto, shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Replaces constants that were joined with what an image says, which no other number of images could be.

    Constant channels in front of a convolution become a constant map after it. A convolution is linear, so conv([x, c])
    = conv(x) + conv(c). The constant channels (pixel coordinates, the mean depth) would have to be repeated for each
    image of a batch. They would share one quantisation step with the others. Elsewhere zeros take their place, and the
    constant is added to these: [x, c] = [x, 0] + [0, c].
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
                nodes += _padded(graph, node, values, shapes, where)
                continue
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


def _padded(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    values: Mapping[str, NDArray[np.generic]],
    shapes: Mapping[str, tuple[int, ...]],
    where: str,
) -> list[onnx.NodeProto]:
    """A concatenation with constants as a sum: what is not constant between zeros, and the constants between zeros."""
    name, made, axis = node.output[0], shapes[node.output[0]], int(helper.get_node_attr_value(node, "axis"))
    axis %= len(made)
    joined = [place for place, given in enumerate(node.input) if given not in values]
    if axis == 0 or joined != list(range(joined[0], joined[-1] + 1)):
        raise BundleError(
            f"{node.name} joins a constant with the image's channels in a way that no batch can have",
            where=where,
            cure=_CURE,
        )
    kept = [node.input[place] for place in joined]
    around = [[values[given] for given in part] for part in (node.input[: joined[0]], node.input[joined[-1] + 1 :])]
    before, after = (sum(value.shape[axis] for value in part) for part in around)
    middle = np.zeros((1, *made[1:axis], made[axis] - before - after, *made[axis + 1 :]), np.float32)
    ends = np.zeros(2 * len(made), np.int64)
    ends[axis], ends[len(made) + axis] = before, after
    constant = np.concatenate([*around[0], middle, *around[1]], axis=axis).astype(np.float32)
    for suffix, value in (("ends", ends), ("constant", constant)):
        graph.initializer.append(numpy_helper.from_array(value, f"{name}/{suffix}"))
    join = (
        [helper.make_node("Concat", kept, [f"{name}/joined"], f"{node.name}/join", axis=axis)] if len(kept) > 1 else []
    )
    source = f"{name}/joined" if join else kept[0]
    return [
        *join,
        helper.make_node("Pad", [source, f"{name}/ends"], [f"{name}/padded"], f"{node.name}/pad"),
        helper.make_node("Add", [f"{name}/padded", f"{name}/constant"], [name], f"{node.name}/add"),
    ]


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
