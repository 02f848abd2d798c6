"""A stand-in for the runtime of TensorRT: a plan is an ONNX graph, which ONNX Runtime runs in the memory of `HostCuda`.

It answers as NVIDIA documents it; `test_tensorrt_rtx` compares the names and arguments that are used with TensorRT-RTX.
In one thing it is stricter: an engine does not keep its runtime alive, nor a context its engine, so that the order
shows in which they are given up. That TensorRT computes anything is not shown here.
"""

from __future__ import annotations

import ctypes
import enum
import functools
import sys
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest

from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.encoder import CellGraphs, FieldEncoder
from scene_completion_ros.inference.gpu import graph_engine
from scene_completion_ros.inference.gpu.half_precision import to_half
from scene_completion_ros.inference.graphs import StepGraph, graphs_of
from tests.inference.gpu.host_cuda import HostCuda


class Severity(enum.Enum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class DataType(enum.Enum):
    FLOAT, HALF, UINT8 = "tensor(float)", "tensor(float16)", "tensor(uint8)"


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class ILogger:
    Severity = Severity

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


@dataclass
class HostTensorRt:
    """What stands in for TensorRT.

    Attributes:
        cuda: Whose streams it works on.
        failing: What fails (runtime, engine, context, run, or a port), and TensorRT's error then.
        live: What there is of runtimes, engines and contexts.
        ended: What there was, in the order in which it went.
        builds: How many plans were asked for.
        refused: How many plans it refuses from now on.
    """

    cuda: HostCuda
    failing: dict[str, str] = field(default_factory=dict)
    live: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    builds: int = 0
    refused: int = 0

    def fails(self, logger: ILogger, what: str) -> bool:
        """Whether something is to fail; logs why."""
        if self.failing.get(what):
            logger.log(Severity.ERROR, self.failing[what])
        return what in self.failing

    def made(self, thing: object, what: str) -> None:
        def ended() -> None:
            self.live.remove(what)
            self.ended.append(what)

        self.live.append(what)
        weakref.finalize(thing, ended)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Be TensorRT."""
        host = self

        class Runtime:
            def __init__(self, logger: ILogger) -> None:
                if host.fails(logger, "runtime"):
                    raise TypeError("pybind11::init(): factory function returned nullptr")
                host.made(self, "runtime")
                self._logger = logger

            def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
                if host.fails(self._logger, "engine"):
                    return None
                if host.refused:
                    host.refused -= 1
                    serialized_engine = b""
                try:
                    session = onnxruntime.InferenceSession(serialized_engine, providers=["CPUExecutionProvider"])
                except Exception:  # onnxruntime's exceptions have no common base class
                    self._logger.log(Severity.ERROR, "Error Code 1: Serialization (stdVersionRead failed.)")
                    return None
                return ICudaEngine(session, self._logger)

        class ICudaEngine:
            def __init__(self, session: Any, logger: ILogger) -> None:
                host.made(self, "engine")
                self._session, self._logger = session, logger
                self._ports = {port.name: (port, TensorIOMode.INPUT) for port in session.get_inputs()}
                self._ports |= {port.name: (port, TensorIOMode.OUTPUT) for port in session.get_outputs()}

            num_io_tensors = property(lambda engine: len(engine._ports))

            def get_tensor_name(self, index: int) -> str:
                return list(self._ports)[index]

            def get_tensor_mode(self, name: str) -> TensorIOMode:
                return self._ports[name][1]

            def get_tensor_dtype(self, name: str) -> DataType:
                return DataType(self._ports[name][0].type)

            def get_tensor_shape(self, name: str) -> list[int]:  # a sequence, and no tuple
                return [size if isinstance(size, int) else -1 for size in self._ports[name][0].shape]

            def create_execution_context(self) -> IExecutionContext | None:
                if host.fails(self._logger, "context"):
                    return None
                return IExecutionContext(self._session, self._logger, list(self._ports))

        class IExecutionContext:
            def __init__(self, session: Any, logger: ILogger, ports: list[str]) -> None:
                host.made(self, "context")
                self._session, self._logger, self._names = session, logger, ports
                self._addresses: dict[str, int] = {}

            def set_tensor_address(self, name: str, memory: int) -> bool:
                assert type(memory) is int
                self._addresses[name] = memory
                return not host.fails(self._logger, name)

            def execute_async_v3(self, stream_handle: int) -> bool:
                assert type(stream_handle) is int
                if host.fails(self._logger, "run") or self._addresses.keys() != set(self._names):
                    return False
                run = functools.partial(host.run, self._session, dict(self._addresses))
                host.cuda.enqueue(stream_handle, run)
                return True

        module = ModuleType("tensorrt")
        contents = {"DataType": DataType, "ILogger": ILogger, "TensorIOMode": TensorIOMode, "Runtime": Runtime}
        for name, value in {**contents, "__version__": "10.3.0"}.items():
            setattr(module, name, value)
        patch.setitem(sys.modules, "tensorrt", module)
        graph_engine.load_tensorrt.cache_clear()

    def run(self, session: Any, addresses: dict[str, int]) -> None:
        """Compute the outputs of what lies at the inputs by now."""
        kinds = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}
        given = {
            port.name: _at(addresses.pop(port.name), tuple(port.shape), kinds[port.type])
            for port in session.get_inputs()
        }
        for pointer, output in zip(addresses.values(), session.run(list(addresses), given), strict=True):
            _at(pointer, output.shape, output.dtype)[:] = output


class HalfGraph:
    """A graph as GPUs run it, on the CPU."""

    def __init__(self, step: StepGraph) -> None:
        self._session = onnxruntime.InferenceSession(to_half(step), providers=["CPUExecutionProvider"])

    def __call__(self, given: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        return [np.asarray(part, np.float32) for part in self._session.run(None, dict(given))]


def half_networks(bundle: StudentBundle) -> FieldEncoder | CellGraphs:
    """The same networks as on the stand-in, with the kernels of the CPU."""
    graphs = [HalfGraph(step) for step in graphs_of(bundle)]
    return (CellGraphs if bundle.takes_evidence else FieldEncoder)("half", graphs, 1)


def _at(pointer: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_uint8 * size).from_address(pointer), dtype).reshape(shape)
