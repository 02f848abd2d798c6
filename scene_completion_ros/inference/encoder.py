"""Engines that run the graphs of a student, with any named inputs and outputs.

Those of the CPU take the ONNX graphs of the bundle as they are. OpenVINO is the default. It reads the camera's bytes in
place: conversion and transposition become part of the graph. In float32 it is as fast as ONNX Runtime or faster; see
``docs/benchmarks.md``. bfloat16 is not exact: it is chosen for students that passed a gate
(`StudentBundle.passed_bf16`). TensorRT runs on NVIDIA GPUs and takes graphs of its own, see `gpu`.

The encoders for GPUs on the CPU, through ONNX Runtime: to measure what a variant costs in accuracy.

It rounds as a GPU does where a graph is typed float16. ONNX Runtime has no float16 convolution on the CPU; it computes
in float32 and leaves out all roundings in between. So every result passes through operators that have to store it as
float16. Sums are accumulated in float32, as tensor cores do. It is slow: no engine for a robot.
"""

import functools
import importlib
import importlib.util
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import BundleError, GpuError, SceneCompletionError
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.inference.bundle import (
    CELL_OUTPUTS,
    DECODER,
    PIXEL_OUTPUTS,
    PRECISION,
    StudentBundle,
    export_cure,
)
from scene_completion_ros.inference.cell_query import Pixels, PredictedCells
from scene_completion_ros.inference.cells import STRIDE
from scene_completion_ros.inference.query_kernel import VoxelQuery
from scene_completion_ros.inference.scene_query import CellNetworks, Encoder, Networks, PreparedScene, SceneQuery
from scene_completion_ros.jit import aligned_empty

GPU_GRAPH_ENGINE = f"onnxruntime_{PRECISION}"


class GpuGraphEncoder(Encoder):
    """An ONNX graph made for GPUs, run as described above.

    Raises BundleError: ONNX Runtime cannot run it; SceneCompletionError: onnx or onnxruntime is not installed. `where`:
    what it is, for messages; `threads`: CPU threads; None for all.
    """

    def __init__(self, graph: bytes, where: str, *, threads: int | None = None) -> None:
        for package in ("onnx", "onnxruntime"):
            if importlib.util.find_spec(package) is None:
                what = f"the package {package} is not installed"
                raise SceneCompletionError(what, where="engine", cure=f"pip install {package}")
        self.name = GPU_GRAPH_ENGINE
        self._session = open_session(lambda: _with_roundings(graph), where, export_cure("BUNDLE"), threads, exact=True)

    def __call__(self, image_rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Encoder`."""
        (features,) = self._session.run(["features"], {"image": image_rgb[None]})
        return np.asarray(features[0], np.float32)


def open_session(
    graph: bytes | Callable[[], bytes], where: str, cure: str, threads: int | None, *, exact: bool = False
) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU. Raises BundleError: ONNX Runtime cannot run it.

    `graph`: the ONNX graph, or what makes it; `where`, `cure`: for messages; `threads`: CPU threads; None for all;
    `exact`: compute node by node: optimised, roundings between them would be gone.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    # Idle workers would spin on the cores that the voxel query needs next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if exact:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        content = graph if isinstance(graph, bytes) else graph()
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's and onnx's exceptions have no common base class
        raise BundleError(f"ONNX Runtime cannot run it ({last_line(error)})", where=where, cure=cure) from error


def last_line(error: Exception) -> str:
    """The last line of an engine's error message."""
    lines = str(error).strip().splitlines()
    return lines[-1][:200] if lines else type(error).__name__


def _with_roundings(graph: bytes) -> bytes:
    """The graph with two Identities behind every node of float16 results.

    What is between the two has to be stored as float16; one alone would be moved to float32 with its neighbours.
    """
    import onnx
    from onnx import TensorProto, helper

    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(graph))
    half = {value.name for value in model.graph.value_info if value.type.tensor_type.elem_type == TensorProto.FLOAT16}
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type != "Cast" and node.output[0] in half:
            name = node.output[0]
            node.output[0] = f"{name}/computed"
            nodes.append(helper.make_node("Identity", [node.output[0]], [f"{name}/stored"]))
            nodes.append(helper.make_node("Identity", [f"{name}/stored"], [name]))
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    serialised: bytes = model.SerializeToString()
    return serialised


IMAGE = "image"  # name of the input that takes the camera's bytes
EngineName = Literal["auto", "openvino", "openvino_bf16", "onnxruntime", "tensorrt"]
ENGINES: tuple[str, ...] = get_args(EngineName)
CURE = "Export the bundle again."
LONGEST_START_S = 120.0  # seconds to open a graph and run it once; those of the package take 2

_log = logging.getLogger(__name__)


@runtime_checkable
class DeviceEncoder(Encoder, Protocol):
    """An encoder behind which kernels of the same device go on: features need not come to the host."""

    def scene_query(self, prepared: PreparedScene[VoxelQuery]) -> SceneQuery:
        """All of it on the device, for one scene. Raises GpuError where memory lacks or the GPU fails."""
        ...


Ports = list[tuple[str, list[int]]]  # names and shapes of inputs or outputs, in order


class Graph(Protocol):
    """A graph that is ready to run."""

    def __call__(self, given: Mapping[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
        """Its outputs for named inputs, in the order in which they were wanted; overwritten by the next call.

        An image is uint8 [1, H, W, 3] RGB.
        """
        ...


_Open = Callable[[bytes, str, Ports, Ports], Graph]


def _opened(open_graph: _Open, graph: bytes, path: Path, given: Ports, made: Ports) -> Graph:
    """A graph that ran once, in a thread that stays behind where that does not end: OpenVINO cannot be stopped.

    Raises BundleError where it cannot be read, has other inputs or outputs than wanted, or does not end.
    """
    done: Future[Graph] = Future()

    def run() -> None:
        try:
            opened = open_graph(graph, str(path), given, made)
            opened({name: _example(name, shape) for name, shape in given})
            done.set_result(opened)
        except Exception as error:
            done.set_exception(error)

    threading.Thread(target=run, name="graph", daemon=True).start()
    if not wait([done], LONGEST_START_S).done:
        what = f"its first run did not end within {LONGEST_START_S:.0f} s"
        raise BundleError(what, where=str(path), cure="Export a smaller one, or try another engine")
    return done.result()


def _example(name: str, shape: list[int]) -> NDArray[Any]:
    batch, channels, height, width = shape if name == IMAGE else (0, 0, 0, 0)
    return np.zeros((batch, height, width, channels), np.uint8) if name == IMAGE else np.zeros(shape, np.float32)


class FieldEncoder(Encoder):
    """The encoder of a field student on an engine of the CPU; errors: see `make_encoder`."""

    def __init__(self, bundle: StudentBundle, name: str, open_graph: _Open) -> None:
        self.name = name
        made = [("features", [1, *bundle.feature_size, bundle.field_head.channels])]
        self._encode = _opened(open_graph, bundle.read_encoder(), bundle.encoder_path, [_image_port(bundle)], made)

    def __call__(self, image_rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Encoder`."""
        (features,) = self._encode({IMAGE: np.ascontiguousarray(image_rgb)[None]})
        return np.asarray(features[0])


class CellGraphs(CellNetworks):
    """The graphs of a student that completes cells on an engine of the CPU; errors: see `make_encoder`."""

    def __init__(self, bundle: StudentBundle, name: str, open_graph: _Open) -> None:
        assert bundle.volume is not None
        self.name, volume, path = name, bundle.volume, bundle.encoder_path
        size = [bundle.canonical.height // 2, bundle.canonical.width // 2]
        columns = volume.cells[0] * volume.cells[1]
        cells = columns * volume.cells[2]
        channels = 2, volume.classes + 1, volume.context
        pixels = [(each, [1, *size, count]) for each, count in zip(PIXEL_OUTPUTS, channels, strict=True)]
        predicted = zip(CELL_OUTPUTS, ([cells, STRIDE**3], [cells, volume.of_cell], [columns, 2]), strict=True)
        image = [_image_port(bundle), ("ground", [1, 2, *size])]
        given = [("local", [cells, volume.looked_up]), ("columns", [columns, volume.of_column])]
        self._see = _opened(open_graph, bundle.read_encoder(), path, image, pixels)
        decoder = path.with_name(DECODER)
        self._complete = _opened(open_graph, bundle.read_decoder(), decoder, given, list(predicted))

    def see(self, image_rgb: NDArray[np.uint8], ground: NDArray[np.float32]) -> Pixels:
        """See `CellNetworks`."""
        found = self._see({IMAGE: np.ascontiguousarray(image_rgb)[None], "ground": ground[None]})
        return Pixels(*(part[0] for part in found))

    def complete(self, local: NDArray[np.float32], columns: NDArray[np.float32]) -> PredictedCells:
        """See `CellNetworks`."""
        return PredictedCells(*self._complete({"local": local, "columns": columns}))


def _image_port(bundle: StudentBundle) -> tuple[str, list[int]]:
    return IMAGE, [1, 3, bundle.canonical.height, bundle.canonical.width]


class _OpenVinoGraph:
    """A graph on OpenVINO's CPU plugin, which takes an image as the bytes of the camera."""

    def __init__(self, options: Mapping[str, Any], graph: bytes, where: str, given: Ports, made: Ports) -> None:
        openvino = _openvino()
        from openvino import Layout, Type
        from openvino.preprocess import PrePostProcessor

        try:
            core = openvino.Core()
            model = core.read_model(graph)
            inputs = [(port.any_name, _static_shape(port.partial_shape)) for port in model.inputs]
            outputs = [(port.any_name, _static_shape(port.partial_shape)) for port in model.outputs]
            _check_ports(where, inputs, outputs, given, made)
            pre = PrePostProcessor(model)
            if given[0][0] == IMAGE:
                pre.input(IMAGE).tensor().set_element_type(Type.u8).set_layout(Layout("NHWC"))
                pre.input(IMAGE).model().set_layout(Layout("NCHW"))
            self._request = core.compile_model(pre.build(), "CPU", options).create_infer_request()
            self._given: dict[str, NDArray[Any]] = {}  # keeps alive what the request reads
            # OpenVINO's own output starts at any multiple of 16 bytes.
            self._outputs = [aligned_empty(*shape) for _, shape in made]
            for number, array in enumerate(self._outputs):
                self._request.set_output_tensor(number, openvino.Tensor(array, shared_memory=True))
        except RuntimeError as error:
            what = f"OpenVINO cannot run it ({last_line(error)})"
            raise BundleError(what, where=where, cure=CURE) from error

    def __call__(self, given: Mapping[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
        """See `Graph`."""
        import openvino

        for name, values in given.items():
            if values is not self._given.get(name):
                self._request.set_tensor(name, openvino.Tensor(values, shared_memory=True))
                self._given[name] = values
        self._request.infer()
        return self._outputs


def _openvino_options(threads: int, bf16: bool) -> dict[str, Any]:
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
        # Pinned threads would fight with whatever else runs on a robot's cores.
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_NUM_THREADS": threads,
    }


class _OnnxRuntimeGraph:
    """A graph on ONNX Runtime's CPU provider."""

    def __init__(self, threads: int, graph: bytes, where: str, given: Ports, made: Ports) -> None:
        self._session = open_session(graph, where, CURE, threads)
        inputs = [(port.name, port.shape) for port in self._session.get_inputs()]
        outputs = [(port.name, port.shape) for port in self._session.get_outputs()]
        _check_ports(where, inputs, outputs, given, made)
        self._made, self._where = made, where
        self._images = {name: np.empty(shape, np.float32) for name, shape in given if name == IMAGE}

    def __call__(self, given: Mapping[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
        """See `Graph`."""
        for name, planes in self._images.items():
            planes[:] = given[name].transpose(0, 3, 1, 2)
        names = [name for name, _ in self._made]
        found: list[NDArray[np.float32]] = self._session.run(names, {**given, **self._images})
        # What a graph declares is not always what it gives, and kernels read what was declared.
        shapes = [(name, list(values.shape)) for name, values in zip(names, found, strict=True)]
        if shapes != self._made or any(values.dtype != np.float32 for values in found):
            what = f"output is {shapes} of {[str(values.dtype) for values in found]} where {self._made} is needed"
            raise BundleError(what, where=self._where, cure=CURE)
        return found


def make_encoder(bundle: StudentBundle, engine: str = "auto", *, threads: int | None = None) -> Networks:
    """The networks of a bundle on an engine: of a field student, its encoder.

    Raises SceneCompletionError where the engine is unknown or not installed; BundleError where it cannot run the graph;
    GpuError: TensorRT was asked for and cannot run. `engine`: one of `ENGINES`. ``auto`` takes TensorRT where there is
    a GPU, all that it needs, and a bundle that has an encoder for it. Otherwise it takes the CPU (`engine_for_cpu`),
    with a warning where a GPU was there to be used. For measurements also `GPU_GRAPH_ENGINE`. `threads`: CPU threads;
    None for all that this process may use.
    """
    if engine == GPU_GRAPH_ENGINE:
        return GpuGraphEncoder(bundle.read_gpu_encoder(), str(bundle.folder), threads=threads)
    if engine not in ENGINES:
        what = f"unknown engine {engine!r}"
        raise SceneCompletionError(what, where="engine", cure=f"Use one of {', '.join(ENGINES)}.")
    if engine == "auto" and not (bundle.gpu_encoder or bundle.takes_evidence) and _gpu_is_there():
        _log.info(
            "the bundle has no encoder for the GPU that is there, so the CPU runs everything: add one with "
            "`scene-completion export --gpu`"
        )
    if engine == "tensorrt" or (engine == "auto" and gpu_is_offered(bundle)):
        from scene_completion_ros.inference.gpu.tensorrt_engine import TensorRtEncoder

        try:
            return TensorRtEncoder(bundle, lambda: field_encoder(bundle, cpu_engine(), threads=threads))
        except (GpuError, BundleError) as error:
            if engine == "tensorrt":
                raise
            _log.warning("the encoder runs on the CPU, because TensorRT cannot: %s", error)
    engine = engine_for_cpu(bundle) if engine in ("auto", "tensorrt") else engine
    package = engine.partition("_")[0]
    if importlib.util.find_spec(package) is None:
        what = f"the package {package} is not installed"
        raise SceneCompletionError(what, where="engine", cure=f"pip install {package}")
    threads = threads or len(os.sched_getaffinity(0))
    open_graph: _Open = functools.partial(_OnnxRuntimeGraph, threads)
    if package == "openvino":
        open_graph = functools.partial(_OpenVinoGraph, _openvino_options(threads, engine == "openvino_bf16"))
    return (CellGraphs if bundle.takes_evidence else FieldEncoder)(bundle, engine, open_graph)


def field_encoder(bundle: StudentBundle, engine: str = "auto", *, threads: int | None = None) -> Encoder:
    """The encoder of a field student; see `make_encoder`. Raises BundleError: it completes cells."""
    bundle.field_head  # noqa: B018 # raises the error
    networks = make_encoder(bundle, engine, threads=threads)
    assert not isinstance(networks, CellNetworks)
    return networks


def cpu_engine() -> str:
    """The engine for the CPU: OpenVINO where it is installed, otherwise ONNX Runtime."""
    return next((name for name in ("openvino", "onnxruntime") if importlib.util.find_spec(name)), "openvino")


def engine_for_cpu(bundle: StudentBundle) -> str:
    """The engine that ``auto`` takes on the CPU: in bfloat16 where the student passed the gate, and the CPU has it."""
    exact = cpu_engine()
    return "openvino_bf16" if exact == "openvino" and bundle.passed_bf16 and cpu_has_bf16() else exact


@functools.cache
def cpu_has_bf16() -> bool:
    """Whether OpenVINO is installed, and the CPU has instructions for bfloat16: AVX-512 BF16 or AMX."""
    if importlib.util.find_spec("openvino") is None:
        return False
    return "BF16" in _openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def gpu_is_offered(bundle: StudentBundle) -> bool:
    """Whether the driver sees a GPU, and the bundle has an encoder for one: only then ``auto`` thinks of TensorRT."""
    return bundle.gpu_encoder is not None and _gpu_is_there()


def _gpu_is_there() -> bool:
    from scene_completion_ros.inference.gpu.device import cuda_devices

    return bool(cuda_devices().names)


def check_engine(bundle: StudentBundle, engine: str, grid: VoxelGrid) -> None:
    """Refuse an engine that cannot run here, before anything is built. CPU engines are not checked.

    Raises BundleError where the bundle has no encoder for TensorRT, or images or features are too large; GpuError:
    something is missing that TensorRT or the kernels need, with how to install it, or the kernels cannot have as many
    units as the student; GridError where the grid is too large. `engine`: one of `ENGINES`.
    """
    if engine == "tensorrt":
        from scene_completion_ros.inference.gpu.device import check_limits, installed_flavour, require
        from scene_completion_ros.inference.gpu.kernel_provision import require_compiler
        from scene_completion_ros.inference.gpu.kernels import KernelSizes

        if bundle.takes_evidence:
            raise bundle.no_gpu_encoder()
        require(installed_flavour())
        check_limits(bundle, grid)
        KernelSizes.of(bundle.field_head)
        require_compiler()


def _openvino() -> ModuleType:
    """OpenVINO without its telemetry, which reports each import to Google Analytics and writes into the home folder."""
    if "openvino_telemetry" in sys.modules:  # another package uses it
        return importlib.import_module("openvino")
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] # as if it were not installed
    try:
        return importlib.import_module("openvino")
    finally:
        del sys.modules["openvino_telemetry"]


def _static_shape(shape: Any) -> list[Any]:
    return [int(size.get_length()) if size.is_static else str(size) for size in shape]


def _check_ports(where: str, inputs: Ports, outputs: Ports, given: Ports, made: Ports) -> None:
    for kind, found, expected in (("input", inputs, given), ("output", outputs, made)):
        if found != expected:
            raise BundleError(f"{kind} is {found} where {expected} is needed", where=where, cure=CURE)
