"""Engines that run the graphs of a student, with any named inputs and outputs.

Those of the CPU take the ONNX graphs of the bundle as they are. OpenVINO is the default. It reads the camera's bytes in
place: conversion and transposition become part of the graph. In float32 it is as fast as ONNX Runtime or faster; see
``docs/benchmarks.md``. bfloat16 is not exact: it is chosen for students that passed a gate
(`StudentBundle.passed_bf16`). TensorRT runs the same graphs in float16 on NVIDIA GPUs, see `gpu`.
"""

import ctypes
import functools
import importlib
import importlib.util
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from types import ModuleType
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.arrays import Bytes, Floats
from scene_completion_ros.errors import BundleError, GpuError, SceneCompletionError
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.inference import scene_query
from scene_completion_ros.inference.bundle import SEEN_GROUND, StudentBundle
from scene_completion_ros.inference.cell_query import Pixels, PredictedCells
from scene_completion_ros.inference.graphs import IMAGE, StepGraph, graphs_of
from scene_completion_ros.jit import aligned_empty

EngineName = Literal["auto", "openvino", "openvino_bf16", "onnxruntime", "tensorrt"]
ENGINES: tuple[str, ...] = get_args(EngineName)
CURE = "Export the bundle again."
LONGEST_START_S = 120.0  # seconds to open a graph and run it once; those of the package take 2

_log = logging.getLogger(__name__)


# A graph that is ready to run: its outputs for named inputs, in the order in which they were wanted; overwritten by the
# next call. An image is uint8 [1, H, W, 3] RGB.
Graph: TypeAlias = Callable[[Mapping[str, NDArray[Any]]], list[Floats]]
_Open: TypeAlias = Callable[[StepGraph], Graph]


def _opened(open_graph: _Open, step: StepGraph) -> Graph:
    """A graph that ran once, in a thread that stays behind where that does not end: OpenVINO cannot be stopped.

    Raises BundleError where it cannot be read, has other inputs or outputs than wanted, or does not end.
    """
    done: Future[Graph] = Future()

    def run() -> None:
        try:
            opened = open_graph(step)
            given: dict[str, NDArray[Any]] = {name: np.zeros(shape, np.float32) for name, shape in step.given}
            if IMAGE in given:
                batch, channels, height, width = given[IMAGE].shape
                given[IMAGE] = np.zeros((batch, height, width, channels), np.uint8)
            opened(given)
            # To open a graph takes twice the memory that it keeps: what is freed goes back to the system.
            getattr(ctypes.CDLL(None), "malloc_trim", int)(0)
            done.set_result(opened)
        except Exception as error:
            done.set_exception(error)

    threading.Thread(target=run, name="graph", daemon=True).start()
    if not wait([done], LONGEST_START_S).done:
        what = f"its first run did not end within {LONGEST_START_S:.0f} s"
        raise BundleError(what, where=str(step.path), cure="Export a smaller one, or try another engine")
    return done.result()


def _last_line(error: Exception) -> str:
    """The last line of an engine's error message."""
    lines = str(error).strip().splitlines()
    return lines[-1][:200] if lines else type(error).__name__


class FieldEncoder:
    """The encoder of a field student on an engine of the CPU; see `make_networks`."""

    def __init__(self, name: str, graphs: list[Graph], threads: int) -> None:
        self.name, self._threads = name, threads
        (self._encode,) = graphs

    def __call__(self, image_rgb: Bytes) -> Floats:
        """The map float32 [h, w, C + E] of a canonical image, uint8 [H, W, 3] RGB; overwritten by the next call."""
        (features,) = self._encode({IMAGE: np.ascontiguousarray(image_rgb)[None]})
        return np.asarray(features[0])

    def scene(self, prepared: scene_query.PreparedScene) -> scene_query.HostFieldQuery:
        """See `Networks`."""
        return scene_query.HostFieldQuery(self, prepared, self._threads)


class CellGraphs(scene_query.CellNetworks):
    """The graphs of a student that completes cells on an engine of the CPU; see `make_networks`."""

    def __init__(self, name: str, graphs: list[Graph], threads: int) -> None:
        self.name, self._threads = name, threads
        self._see, self._decode, self._complete = graphs

    def see(self, image_rgb: Bytes) -> Pixels:
        """See `CellNetworks`."""
        height, width = (side // 2 for side in image_rgb.shape[:2])
        nothing = np.zeros((1, 2, height, width), np.float32)
        found = self._see({IMAGE: np.ascontiguousarray(image_rgb)[None], "ground": nothing})
        return Pixels(*(part[0] for part in found))

    def complete(self, local: Floats, columns: Floats, seen_ground: Floats | None) -> PredictedCells:
        """See `CellNetworks`."""
        given = {"local": local, "columns": columns} | ({} if seen_ground is None else {SEEN_GROUND: seen_ground})
        around, mean, *of_columns = self._decode(given)
        hidden, others = self._complete({"around": around, "local": local, "mean": mean})
        return PredictedCells(hidden, others, *of_columns)

    def scene(self, prepared: scene_query.PreparedScene) -> scene_query.HostCellQuery:
        """See `Networks`."""
        return scene_query.HostCellQuery(self, prepared, self._threads)


class _OpenVinoGraph:
    """A graph on OpenVINO's CPU plugin, which takes an image as the bytes of the camera."""

    def __init__(self, options: Mapping[str, Any], step: StepGraph) -> None:
        openvino = _openvino()
        from openvino import Layout, Type
        from openvino.passes import ConstantFolding, Manager
        from openvino.preprocess import PrePostProcessor

        try:
            core = openvino.Core()
            model = core.read_model(step.onnx)
            inputs = [(port.any_name, _static_shape(port.partial_shape)) for port in model.inputs]
            outputs = [(port.any_name, _static_shape(port.partial_shape)) for port in model.outputs]
            step.check_ports(inputs, outputs, CURE)
            self._step = step._replace(onnx=b"")  # the file is not needed any more
            if options["INFERENCE_PRECISION_HINT"] == "bf16":  # unpacking int8 weights at each run would cost a quarter
                folding = Manager()
                folding.register_pass(ConstantFolding())
                folding.run_passes(model)
            pre = PrePostProcessor(model)
            if step.given[0][0] == IMAGE:
                pre.input(IMAGE).tensor().set_element_type(Type.u8).set_layout(Layout("NHWC"))
                pre.input(IMAGE).model().set_layout(Layout("NCHW"))
            self._request = core.compile_model(pre.build(), "CPU", options).create_infer_request()
            self._given: dict[str, NDArray[Any]] = {}  # keeps alive what the request reads
            # OpenVINO's own output starts at any multiple of 16 bytes.
            self._outputs = [aligned_empty(*shape) for _, shape in step.made]
            self._runs: list[dict[str, Any]] = [{} for _ in step.parts]  # the tensors of each run by name
            for (name, _), array in zip(step.made, self._outputs, strict=True):
                self._bind(name, array)
        except RuntimeError as error:
            what = f"OpenVINO cannot run it ({_last_line(error)})"
            raise BundleError(what, where=str(step.path), cure=CURE) from error

    def __call__(self, given: Mapping[str, NDArray[Any]]) -> list[Floats]:
        """Runs it; see `Graph`."""
        for name, values in given.items():
            if values is not self._given.get(name):
                self._bind(name, values)
                self._given[name] = values
        for tensors in self._runs:
            if self._step.rows is not None:
                self._set(tensors)
            self._request.infer()
        return self._outputs

    def _bind(self, name: str, values: NDArray[Any]) -> None:
        import openvino

        for part, tensors in zip(self._step.parts, self._runs, strict=True):
            tensors[name] = openvino.Tensor(values[part], shared_memory=True)
        if self._step.rows is None:
            self._set({name: self._runs[0][name]})

    def _set(self, tensors: Mapping[str, Any]) -> None:
        for name, tensor in tensors.items():
            self._request.set_tensor(name, tensor)


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

    def __init__(self, threads: int, step: StepGraph) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        # Idle workers would spin on the cores that the voxel query needs next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(step.onnx, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no common base class
            what = f"ONNX Runtime cannot run it ({_last_line(error)})"
            raise BundleError(what, where=str(step.path), cure=CURE) from error
        inputs = [(port.name, port.shape) for port in self._session.get_inputs()]
        step.check_ports(inputs, [(port.name, port.shape) for port in self._session.get_outputs()], CURE)
        self._step = step._replace(onnx=b"")
        self._whole = [] if step.rows is None else [aligned_empty(*shape) for _, shape in step.made]
        self._images = {name: np.empty(shape, np.float32) for name, shape in step.given if name == IMAGE}

    def __call__(self, given: Mapping[str, NDArray[Any]]) -> list[Floats]:
        """Runs it; see `Graph`."""
        for name, planes in self._images.items():
            planes[:] = given[name].transpose(0, 3, 1, 2)
        step, given = self._step, {**given, **self._images}
        _, made = step.ports_of_run()
        names = [name for name, _ in made]
        for part in step.parts:
            found: list[Floats] = self._session.run(names, {name: values[part] for name, values in given.items()})
            # What a graph declares is not always what it gives, and kernels read what was declared.
            shapes = [(name, list(values.shape)) for name, values in zip(names, found, strict=True)]
            if shapes != made or any(values.dtype != np.float32 for values in found):
                what = f"output is {shapes} of {[str(values.dtype) for values in found]} where {made} is needed"
                raise BundleError(what, where=str(step.path), cure=CURE)
            if step.rows is None:
                return found
            for whole, values in zip(self._whole, found, strict=True):
                whole[part] = values
        return self._whole


def make_networks(bundle: StudentBundle, engine: str = "auto", *, threads: int | None = None) -> scene_query.Networks:
    """The networks of a bundle on an engine.

    Raises SceneCompletionError where the engine is unknown or not installed; BundleError where it cannot run the graph;
    GpuError: TensorRT was asked for and cannot run. `engine`: one of `ENGINES`. ``auto`` takes TensorRT where there is
    a GPU, and all that it needs. Otherwise it takes the CPU (`engine_for_cpu`), with a warning where a GPU was there to
    be used. `threads`: CPU threads; None for all that this process may use.
    """
    if engine == "tensorrt" or (engine == "auto" and gpu_is_there()):
        from scene_completion_ros.inference.gpu.device_networks import DeviceNetworks

        try:
            return DeviceNetworks(bundle, lambda: cpu_networks(bundle, cpu_engine(), threads=threads))
        except (GpuError, BundleError) as error:
            if engine == "tensorrt":
                raise
            _log.warning("the CPU runs the student, because TensorRT cannot: %s", error)
    return cpu_networks(bundle, engine, threads=threads)


def cpu_networks(
    bundle: StudentBundle, engine: str = "auto", *, threads: int | None = None
) -> FieldEncoder | CellGraphs:
    """The networks of a bundle on an engine of the CPU, see `make_networks`; ``auto`` takes `engine_for_cpu`."""
    if engine not in ENGINES or engine == "tensorrt":
        what = f"unknown engine {engine!r}" if engine not in ENGINES else "TensorRT gives nothing between its steps"
        raise SceneCompletionError(what, where="engine", cure=f"Use one of {', '.join(ENGINES)}.")
    engine = engine_for_cpu(bundle) if engine == "auto" else engine
    package = engine.partition("_")[0]
    if importlib.util.find_spec(package) is None:
        what = f"the package {package} is not installed"
        raise SceneCompletionError(what, where="engine", cure=f"pip install {package}")
    threads = threads or len(os.sched_getaffinity(0))
    open_graph: _Open = functools.partial(_OnnxRuntimeGraph, threads)
    if package == "openvino":
        open_graph = functools.partial(_OpenVinoGraph, _openvino_options(threads, engine == "openvino_bf16"))
    graphs = [_opened(open_graph, step) for step in graphs_of(bundle)]
    return (CellGraphs if bundle.takes_evidence else FieldEncoder)(engine, graphs, threads)


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


def gpu_is_there() -> bool:
    """Whether the driver sees a GPU: only then ``auto`` thinks of TensorRT."""
    from scene_completion_ros.inference.gpu.device import cuda_devices

    return bool(cuda_devices().names)


def check_engine(bundle: StudentBundle, engine: str, grid: VoxelGrid) -> None:
    """Refuse an engine that cannot run here, before anything is built. CPU engines are not checked.

    Raises BundleError where features are too large; GpuError: something is missing that TensorRT or the kernels need,
    with how to install it, the grid is too large, or the kernels cannot have as many units as the student. `engine`:
    one of `ENGINES`.
    """
    if engine == "tensorrt":
        from scene_completion_ros.inference.gpu.device import check_limits, installed_flavour, require
        from scene_completion_ros.inference.gpu.device_networks import require_compiler
        from scene_completion_ros.inference.gpu.kernels import KernelSizes

        require(installed_flavour())
        check_limits(bundle, grid)
        KernelSizes.of(bundle)
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
