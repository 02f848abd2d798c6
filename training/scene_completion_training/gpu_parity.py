"""Encoders for GPUs: made, measured against the student (features, densities, decisions, labels), added if they pass.

An encoder is a graph in float16: bytes in, channels last, one image, and no shape arithmetic is left. It is typed
strongly, as TensorRT wants it: every tensor has its declared type, and every change of type is a Cast. TensorRT 11
knows only such graphs, and 10 takes them as well.
"""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from scene_completion_ros.errors import BundleError
from scene_completion_ros.geometry import Camera, Resampler
from scene_completion_ros.inference.bundle import StudentBundle, completes_cells
from scene_completion_ros.inference.encoder import GpuGraphEncoder, field_encoder
from scene_completion_ros.inference.gpu.parity import GRAPH
from scene_completion_ros.inference.label_query import LabelQuery
from scene_completion_ros.inference.query_kernel import VoxelQuery
from scene_completion_ros.sequences.opening import open_recording
from scene_completion_ros.sequences.posed_sequence import UNKNOWN_POSES, reference_camera
from scene_completion_ros.voxels.occupancy import opacity
from scene_completion_training.arrays import Bytes, Doubles, Floats, Mask

INPUT, OUTPUT = "image", "features"
OPSET, IR_VERSION = 19, 9
Constant: TypeAlias = NDArray[np.generic]
_CURE = "Report this encoder and how it was made."


def gpu_graph(bundle: StudentBundle) -> onnx.ModelProto:
    """The float32 graph: uint8 [1, H, W, 3] RGB -> features; a `BundleError` if none."""
    where = str(bundle.encoder_path)
    if bundle.takes_evidence:
        raise completes_cells(where)
    model = simplified(bundle.read_encoder(), where)
    graph = model.graph
    camera = bundle.canonical
    for node in graph.node:
        node.input[:] = ["image_planes" if name == INPUT else name for name in node.input]
    front = [
        helper.make_node("Cast", [INPUT], ["image_float"], "image/cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["image_float"], ["image_planes"], "image/planes", perm=[0, 3, 1, 2]),
    ]
    replace_nodes(graph, [*front, *graph.node])
    del graph.input[:], graph.output[:], graph.value_info[:]
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [1, camera.height, camera.width, 3]))
    shape = [1, *bundle.feature_size, bundle.field_head.channels]
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, shape))
    graph.name = "encoder"
    return finished(model)


def finished(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, checked, without what it does not use and without traces of what made it."""
    graph = model.graph
    used = {name for node in graph.node for name in node.input}
    kept = sorted((tensor for tensor in graph.initializer if tensor.name in used), key=lambda tensor: tensor.name)
    whole = helper.make_graph(list(graph.node), graph.name, list(graph.input), list(graph.output), kept)
    result = helper.make_model(whole, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    for index, node in enumerate(result.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
        node.doc_string = ""
        del node.metadata_props[:]
    onnx.checker.check_model(result, full_check=True)
    return result


def simplified(encoder: bytes, where: str) -> onnx.ModelProto:
    """An encoder with all constants computed, for one image; a `BundleError` if it cannot run."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = f"{folder}/simplified.onnx"
        try:
            # As one Gemm, a product of matrices and its sum would get reshapes around them.
            onnxruntime.InferenceSession(
                encoder, options, providers=["CPUExecutionProvider"], disabled_optimizers=["MatMulAddFusion"]
            )
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise BundleError(f"ONNX Runtime cannot run it ({error})", where=where, cure=_CURE) from error
        return onnx.load(Path(options.optimized_model_filepath))


def constants(graph: onnx.GraphProto) -> dict[str, Constant]:
    """Value of every initializer by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def replace_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Gives a graph other nodes."""
    nodes = list(nodes)
    del graph.node[:]
    graph.node.extend(nodes)


_SUMS = {"ReduceMean", "ReduceSum", "Sqrt", "Reciprocal", "Pow", "Softmax", "LayerNormalization", "Exp", "Erf"}
"""Operators that stay in float32, with all that is computed from them until the next convolution."""
_PRODUCTS = {"Conv", "ConvTranspose", "MatMul", "Gemm"}
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
# Inputs that are no values of the network: the scales of a Resize are float32 by definition.
_NOT_VALUES = {"Resize": (1, 2)}


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph in float16, from the first convolution on to the output.

    What stays float32: the normalisation of the image before it (a mean of 123.675 is none in float16), sums over
    channels, and scores of attention.
    """
    half = onnx.ModelProto()
    half.CopyFrom(model)
    graph = half.graph
    single = _single(graph)
    values = constants(graph)
    nodes: list[onnx.NodeProto] = []
    cast: dict[tuple[str, int], str] = {}
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    known = (*inferred.input, *inferred.value_info, *inferred.output)
    types = {value.name: value.type.tensor_type.elem_type for value in known}  # until a tensor's node comes
    added: dict[str, onnx.TensorProto] = {}
    for node in graph.node:
        wanted = TensorProto.FLOAT if node.output[0] in single else TensorProto.FLOAT16
        for position, name in enumerate(node.input):
            if not name or position in _NOT_VALUES.get(node.op_type, ()):
                continue
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
    if types[OUTPUT] != TensorProto.FLOAT16:
        computed = f"{OUTPUT}/computed"
        for node in graph.node:
            for names in (node.output, node.input):
                names[:] = [computed if name == OUTPUT else name for name in names]
        graph.node.append(helper.make_node("Cast", [computed], [OUTPUT], f"{OUTPUT}/typed", to=TensorProto.FLOAT16))
    graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    return finished(half)


def _single(graph: onnx.GraphProto) -> set[str]:
    """Tensors that are computed in float32."""
    single: set[str] = set()
    before = {value.name for value in graph.input}  # tensors that no convolution came before
    # Attention reads differences of scores: rounded to float16, those of a Depth Anything trunk made half of the error.
    scores = _since_products(graph, [node.input[0] for node in graph.node if node.op_type == "Softmax"])
    for node in graph.node:
        inputs = set(node.input)
        if node.op_type not in _PRODUCTS and inputs & before:
            before |= set(node.output)
        elif not scores.isdisjoint(node.output):
            pass
        elif node.op_type not in _SUMS and (node.op_type in _PRODUCTS or not inputs & single):
            continue
        single |= set(node.output)
    return single


def _since_products(graph: onnx.GraphProto, names: Iterable[str]) -> set[str]:
    """What tensors are computed of since the last convolutions or products before them, with what these give."""
    makers = {name: node for node in graph.node for name in node.output}
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in makers or name in found:
            continue
        found.add(name)
        waiting += [] if makers[name].op_type in _PRODUCTS else makers[name].input
    return found


Encode = Callable[[Bytes], Floats]  # the map of a canonical image uint8 [H, W, 3]
REFERENCE = "encoder.onnx in ONNX Runtime, float32"


class ParityCheck:
    """Measures variants of the encoder against the one for CPUs on canonical images, uint8 [K, H, W, 3].

    Densities, decisions and labels are those of the default grid's voxels in view. Raises BundleError where nothing is
    occupied in any image.
    """

    def __init__(self, bundle: StudentBundle, images: Bytes, *, threads: int | None = None) -> None:
        self._bundle, self._images = bundle, images
        camera_from_grid = bundle.grid_from_camera.inverse()
        self._query = VoxelQuery(
            bundle.field_head, bundle.point_code, bundle.canonical, bundle.feature_size, bundle.grid, camera_from_grid
        )
        self._in_view = self._query.in_view.reshape(-1)
        self._label = None
        if bundle.label_units:
            self._label = LabelQuery(self._query.field, self._query.samples, self._in_view.size)
        encoder = field_encoder(bundle, "onnxruntime", threads=threads)
        self._reference = [encoder(image).copy() for image in images]
        if not any(self._density_and_occupied(features)[1].any() for features in self._reference):
            what = f"the student sees nothing occupied in any of {len(images)} images, so nothing can be compared"
            cure = "Name images of what it was trained for with --parity-images"
            raise BundleError(what, where=f"bundle {bundle.name}", cure=cure)

    def __call__(self, variant: Encode) -> dict[str, float]:
        """The numbers that `GRAPH` limits, of all images together, and how many of the decisions agree.

        The IoU is 1 where nothing is occupied; so is the agreement of labels where there are none.
        """
        off = {name: np.zeros(2) for name in ("features", "density")}  # difference, size
        agreed = voxels = both = either = same_label = 0
        for image, wanted in zip(self._images, self._reference, strict=True):
            found = variant(image).copy()
            (density, occupied), (right_density, right) = map(self._density_and_occupied, (found, wanted))
            off["features"] += _difference(found, wanted)
            off["density"] += _difference(density, right_density)
            voxels += len(occupied)
            agreed += int(np.count_nonzero(occupied == right))
            both += int(np.count_nonzero(occupied & right))
            either += int(np.count_nonzero(occupied | right))
            if self._label is not None:
                targets = np.flatnonzero(self._in_view)[occupied & right]
                labels, right_labels = (self._label(one, targets)[0].copy() for one in (found, wanted))
                same_label += int(np.count_nonzero(labels == right_labels))
        return {
            "images": float(len(self._images)),
            **{f"{name}_relative": float(sums[0] / max(sums[1], 1e-30)) for name, sums in off.items()},
            "occupied_agreement": agreed / voxels,
            "occupied_iou": both / either if either else 1.0,
            "labels_agreement": 1.0 if self._label is None else same_label / max(both, 1),
        }

    def _density_and_occupied(self, features: Floats) -> tuple[Floats, Mask]:
        """Density, 1/m, and decision of the voxels in view."""
        density = self._query.density(features).reshape(-1)[self._in_view]
        alpha = opacity(density, self._bundle.grid.voxel_size)
        return density, self._bundle.calibration.apply(alpha) >= self._bundle.threshold


def _difference(found: Floats, wanted: Floats) -> Doubles:
    """Mean difference, and mean size of what is right."""
    return np.array([np.abs(one).mean(dtype=np.float64) for one in (found - wanted, wanted)])


def canonical_images(sources: Sequence[Path], canonical: Camera, most: int) -> Bytes:
    """Images of several recordings, at most so many, spread evenly over each: uint8 [K, H, W, 3] RGB.

    They are resampled by their calibration. Raises SequenceError where a place is no recording.
    """
    images = []
    for source in sources:
        sequence = open_recording(source, poses=UNKNOWN_POSES)  # a bag may have none
        camera = reference_camera(sequence)
        resample = Resampler(sequence.cameras[camera], canonical)
        for index in spread(len(sequence), max(1, most // len(sources))):
            images.append(resample(sequence.image(index, camera)))
    return np.stack(images[:most])


def spread(count: int, most: int) -> list[int]:
    """Numbers of at most so many among 0 ... count - 1, spread evenly, the first and the last among them."""
    return sorted({int(index) for index in np.linspace(0, count - 1, min(count, most)).round()})


PARITY_IMAGES = 8  # images that an encoder is compared on, in all


def export_for_gpus(
    bundle: StudentBundle,  # the student, saved; its folder is written
    *,
    parity: Sequence[Path],  # places of the images that it is compared on
    threads: int | None = None,
    report: Callable[[str], None] = lambda _: None,  # called if it passes, with its numbers in words
) -> StudentBundle:
    """Adds an encoder for GPUs, and returns the bundle; a `GpuError` where it misses its gate."""
    check = ParityCheck(bundle, canonical_images(parity, bundle.canonical, PARITY_IMAGES), threads=threads)
    graph: bytes = to_half(gpu_graph(bundle)).SerializeToString(deterministic=True)
    numbers = check(GpuGraphEncoder(graph, f"encoder for GPUs of {bundle.folder}", threads=threads))
    lines = GRAPH.require(numbers)
    report(f"{len(graph) / 1e6:.1f} MB; {'; '.join(lines)}; {numbers['images']:.0f} images")
    return bundle.add_gpu_encoder(graph, numbers, REFERENCE)
