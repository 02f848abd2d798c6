"""Stand-ins for TensorRT: what those for its builder and its runtime have in common, and an engine that computes."""

from __future__ import annotations

import ctypes
import enum
import functools
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import onnxruntime

from scene_completion_ros.inference.gpu.engine_cache import EngineKey
from scene_completion_ros.inference.gpu.failures import explain_failure
from scene_completion_ros.inference.gpu.tensorrt_runtime import UnusablePlanError
from tests.inference.gpu.host_cuda import HostCuda

# As TensorRT says it.
NO_CUDA = "[runtime.cpp::isCudaInstalledCorrectly] Error Code 6: CUDA initialization failure with error: 35"


class Severity(enum.Enum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class DataType(enum.Enum):
    FLOAT, HALF, BF16, INT8, INT32, INT64, BOOL, UINT8 = range(8)


class ILogger:
    Severity = Severity

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


def host_module(name: str, contents: dict[str, Any]) -> ModuleType:
    """A module with the parts that both have, and others."""
    module = ModuleType(name)
    for part, value in {"DataType": DataType, "ILogger": ILogger, **contents}.items():
        setattr(module, part, value)
    return module


class HostEngine:
    """A deserialised engine: runs the ONNX graph that its plan is, on the pointers of `HostCuda`.

    ``offset`` is added to what it computes, and some plans are refused.
    """

    cuda: ClassVar[HostCuda]
    offset = 0.0
    refused: ClassVar[set[bytes]] = set()
    opened: ClassVar[list[HostEngine]] = []

    def __init__(self, plan: bytes, key: EngineKey, tensorrt: object) -> None:
        if plan in self.refused:
            raise UnusablePlanError("deserialising the engine failed", where="engine")
        self.key = key
        self._session: Any = onnxruntime.InferenceSession(plan, providers=["CPUExecutionProvider"])
        self.batches: list[int] = []
        self.opened.append(self)

    def enqueue(self, image_pointer: int, features_pointer: int, stream_handle: int, batch: int = 1) -> None:
        assert self.key.batch[0] <= batch <= self.key.batch[1]
        if self.cuda.capturing(stream_handle) and batch not in self.batches[-1:]:
            raise explain_failure("the first batch of a size may not be captured", "running the engine")
        self.batches.append(batch)
        self.cuda.enqueue(stream_handle, functools.partial(self._run, image_pointer, features_pointer, batch))

    def _run(self, image_pointer: int, features_pointer: int, batch: int) -> None:
        images = _at(image_pointer, (batch, *self.key.image, 3), np.uint8)
        (features,) = self._session.run(["features"], {"image": images})
        _at(features_pointer, features.shape, features.dtype)[:] = features + np.asarray(self.offset, features.dtype)

    def close(self) -> None:
        self._session = None

    @property
    def closed(self) -> bool:
        return self._session is None


def _at(pointer: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_uint8 * size).from_address(pointer), dtype).reshape(shape)
