"""A graph of a student as GPUs run it: typed strongly in float16, as TensorRT wants it.

Every tensor has its declared type, and every change of type is a Cast. TensorRT 11 knows only such graphs, and 10 takes
them as well. No shape arithmetic is left. An image is its bytes, channels last.
"""

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from scene_completion_ros.errors import BundleError
from scene_completion_ros.inference.graphs import FEATURES, IMAGE, StepGraph

if TYPE_CHECKING:
    import onnx

OPSET, IR_VERSION = 19, 9
Port: TypeAlias = "tuple[tuple[int, ...], type[np.generic]]"
Ports: TypeAlias = Mapping[str, Port]  # by name: shape and type
# Operators that stay in float32, with all that is computed from them until the next product.
_SUMS = {"ReduceMean", "ReduceSum", "Sqrt", "Reciprocal", "Pow", "Softmax", "LayerNormalization", "Exp", "Erf"}
_SUMS |= {"InstanceNormalization"}
_PRODUCTS = {"Conv", "ConvTranspose", "MatMul", "Gemm"}
# Inputs that are no values of the network: the scales of a Resize are float32 by definition.
_NOT_VALUES = {"Resize": (1, 2)}
CURE = "Export the bundle again, or take a CPU engine."


class DevicePorts(NamedTuple):
    """What a graph takes and gives on a GPU."""

    given: Ports
    made: Ports


def device_ports(graph: StepGraph) -> DevicePorts:
    """Bytes of an image, features in float16, and all else in float32."""
    given: dict[str, Port] = {name: (tuple(shape), np.float32) for name, shape in graph.given}
    if IMAGE in given:
        batch, channels, height, width = given[IMAGE][0]
        given[IMAGE] = (batch, height, width, channels), np.uint8
    kinds = {FEATURES: np.float16}
    return DevicePorts(given, {name: (tuple(shape), kinds.get(name, np.float32)) for name, shape in graph.made})


def to_half(step: StepGraph) -> bytes:
    """The graph in float16, from its first products on to its outputs.

    What stays float32: what comes before the first products, such as the normalisation of an image (a mean of 123.675
    is none in float16), sums over channels, and scores of attention. Raises BundleError: it cannot run, or has other
    inputs or outputs than it is to have.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = _simplified(step)
    graph, floats = model.graph, (TensorProto.FLOAT, TensorProto.FLOAT16)
    _check_ports(step, graph)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    known = (*inferred.input, *inferred.value_info, *inferred.output)
    types = {value.name: value.type.tensor_type.elem_type for value in known}  # until a tensor's node comes
    nodes = _with_bytes(graph, types) if IMAGE in device_ports(step).given else []
    single, made = _single(graph), device_ports(step).made
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    cast: dict[tuple[str, int], str] = {}

    def typed(name: str, wanted: int) -> str:
        """The tensor in a type, by a Cast where it has another one."""
        if types[name] == wanted:
            return name
        if (name, wanted) not in cast:
            cast[name, wanted] = f"{name}/{'half' if wanted == TensorProto.FLOAT16 else 'single'}"
            nodes.append(helper.make_node("Cast", [name], [cast[name, wanted]], cast[name, wanted], to=wanted))
        return cast[name, wanted]

    added: dict[str, onnx.TensorProto] = {}
    renamed = {name: f"{name}/computed" for name in made}
    for node in graph.node:
        wanted = TensorProto.FLOAT if node.output[0] in single else TensorProto.FLOAT16
        for position, name in enumerate(node.input):
            if not name or position in _NOT_VALUES.get(node.op_type, ()):
                continue
            if name in values:
                if wanted == TensorProto.FLOAT16 and values[name].dtype == np.float32:
                    node.input[position] = f"{name}/half"
                    added[f"{name}/half"] = numpy_helper.from_array(values[name].astype(np.float16), f"{name}/half")
            elif node.op_type == "Cast" or types[renamed.get(name, name)] not in floats:
                node.input[position] = renamed.get(name, name)
            else:
                node.input[position] = typed(renamed.get(name, name), wanted)
        results = [name for name in node.output if types.get(name) in floats]  # not integers, nor what is true or false
        if node.op_type == "Cast" and results:
            next(entry for entry in node.attribute if entry.name == "to").i = wanted
        node.output[:] = [renamed.get(name, name) for name in node.output]
        types |= {renamed.get(name, name): wanted for name in results}
        nodes.append(node)
    for name, (_, kind) in made.items():
        wanted = TensorProto.FLOAT16 if kind is np.float16 else TensorProto.FLOAT
        if name in values:  # always the same
            added[renamed[name]] = numpy_helper.from_array(values[name].astype(kind), renamed[name])
            types[renamed[name]] = wanted
        nodes.append(helper.make_node("Identity", [typed(renamed[name], wanted)], [name], f"{name}/given"))
    made_port, type_of = helper.make_tensor_value_info, helper.np_dtype_to_tensor_dtype
    inputs, outputs = (
        [made_port(name, type_of(np.dtype(kind)), shape) for name, (shape, kind) in ports.items()]
        for ports in device_ports(step)
    )
    used = {name for node in nodes for name in node.input}
    tensors = {**{tensor.name: tensor for tensor in graph.initializer}, **added}
    kept = [tensors[name] for name in sorted(used & tensors.keys())]
    whole = helper.make_graph(nodes, step.path.stem, inputs, outputs, kept)
    half = helper.make_model(whole, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    for index, node in enumerate(half.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    onnx.checker.check_model(half, full_check=True)
    return bytes(half.SerializeToString(deterministic=True))


def _with_bytes(graph: Any, types: dict[str, int]) -> list[Any]:
    """What makes planes of numbers of the bytes of an image, which all nodes then read."""
    from onnx import TensorProto, helper

    planes, numbers = f"{IMAGE}/planes", f"{IMAGE}/float"
    for node in graph.node:
        node.input[:] = [planes if name == IMAGE else name for name in node.input]
    types |= {IMAGE: TensorProto.UINT8, planes: TensorProto.FLOAT, numbers: TensorProto.FLOAT}
    return [
        helper.make_node("Cast", [IMAGE], [numbers], "image/cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", [numbers], [planes], "image/transpose", perm=[0, 3, 1, 2]),
    ]


def _check_ports(step: StepGraph, graph: Any) -> None:
    inputs, outputs = (
        [(port.name, [one.dim_value for one in port.type.tensor_type.shape.dim]) for port in ports]
        for ports in (graph.input, graph.output)
    )
    step.check_ports(inputs, outputs, CURE)
    if step.rows is not None:  # a GPU takes all of them at once
        del graph.value_info[:]
        for port in (*graph.input, *graph.output):
            port.type.tensor_type.shape.dim[0].dim_value = step.made[0][1][0]


def _simplified(step: StepGraph) -> "onnx.ModelProto":
    """A graph with all constants computed; a `BundleError` if it cannot run."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # weights of 8 bits are constants, too
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = f"{folder}/simplified.onnx"
        try:
            # As one Gemm, a product of matrices and its sum would get reshapes around them.
            onnxruntime.InferenceSession(
                step.onnx, options, providers=["CPUExecutionProvider"], disabled_optimizers=["MatMulAddFusion"]
            )
        except Exception as error:  # onnxruntime's exceptions have no common base class
            what = f"ONNX Runtime cannot run it ({' '.join(str(error).split())[:300]})"
            raise BundleError(what, where=str(step.path), cure=CURE) from error
        return onnx.load(Path(options.optimized_model_filepath))


def _single(graph: Any) -> set[str]:
    """Tensors that are computed in float32."""
    single: set[str] = set()
    before = {value.name for value in graph.input} | {f"{IMAGE}/planes"}  # tensors that no product came before
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


def _since_products(graph: Any, names: Iterable[str]) -> set[str]:
    """What tensors are computed of since the last products before them, with what these give."""
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
