"""A plan in memory to features on the GPU: deserialised, checked, and run on pointers of the device."""

from __future__ import annotations

from typing import Any

from scene_completion_ros.errors import GpuError
from scene_completion_ros.inference.gpu.engine_cache import EngineKey
from scene_completion_ros.inference.gpu.failures import explain_failure
from scene_completion_ros.inference.gpu.tensorrt_api import TensorRt
from scene_completion_ros.inference.gpu.tensorrt_build import INPUT, OUTPUT


class UnusablePlanError(GpuError):
    """TensorRT refuses a plan, though its key is right."""


class TensorRtEngine:
    """An engine that is ready to run; made, run and closed with the primary context current, in one thread.

    Args:
        plan: The serialised engine. It has to come from this process's builder or through `EngineCache`, which checks
            whose it is and for which device and version: a plan is a program.
        key: What it was built for.
        tensorrt: What runs it.

    Attributes:
        key: What it was built for.

    Raises:
        UnusablePlanError: TensorRT refuses it, or its ports are not those of the key.
        GpuError: There is not enough memory for it, or the GPU fails.
    """

    def __init__(self, plan: bytes, key: EngineKey, tensorrt: TensorRt) -> None:
        self.key = key
        self._tensorrt = tensorrt
        self._batch = 0
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        try:
            self._open(plan)
        except BaseException:
            self.close()
            raise

    def _open(self, plan: bytes) -> None:
        api, tensorrt, key = self._tensorrt.api, self._tensorrt, self.key
        tensorrt.forget_errors()
        try:
            self._runtime = api.Runtime(tensorrt.logger)
        except TypeError as error:  # pybind11's answer to a null pointer
            raise explain_failure(tensorrt.errors(), "starting TensorRT's runtime") from error
        if key.dla_core is not None:
            self._runtime.DLA_core = key.dla_core  # otherwise core 0, whatever it was built for
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            failure = explain_failure(tensorrt.errors(), "deserialising the engine")
            if failure.kind == "unknown":
                raise UnusablePlanError(failure.what, where="engine", cure="Build it again.")
            raise failure
        self._check_ports()
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise explain_failure(tensorrt.errors(), "making an execution context")

    def enqueue(self, image_pointer: int, features_pointer: int, stream_handle: int, batch: int = 1) -> None:
        """Run it in the order of a stream; returns before it is done.

        Args:
            image_pointer: Pointer of the device to uint8 [batch, H, W, 3] RGB.
            features_pointer: Pointer of the device to where features [batch, h, w, C + E] go: float32 for fp32,
                float16 otherwise.
            stream_handle: Handle of the CUDA stream.
            batch: Number of images, within the key's.

        Raises:
            GpuError: The batch is not within the key's, or TensorRT refuses to run.
        """
        low, high = self.key.batch
        if not low <= batch <= high:
            cure = "Build an engine for that batch (scene-completion build-engine --batch)."
            raise GpuError(f"{batch} images where it takes {low} to {high}", where="engine", cure=cure)
        self._tensorrt.forget_errors()
        # No local variable holds the context: the traceback of an error would keep it alive after `close`.
        if batch != self._batch:
            self._require(self._context.set_input_shape(INPUT, (batch, *self.key.image, 3)), "setting the batch size")
            self._batch = batch
        self._require(self._context.set_tensor_address(INPUT, image_pointer), "setting the image's address")
        self._require(self._context.set_tensor_address(OUTPUT, features_pointer), "setting the features' address")
        self._require(self._context.execute_async_v3(stream_handle), "running the engine")

    def close(self) -> None:
        """Release it, in the order that TensorRT wants."""
        self._context = None
        self._engine = None
        self._runtime = None

    def _require(self, done: bool, doing: str) -> None:
        if not done:
            raise explain_failure(self._tensorrt.errors(), doing)

    def _check_ports(self) -> None:
        """A file that was swapped for one of another graph would make TensorRT write behind the buffers."""
        api, key = self._tensorrt.api, self.key
        kind = api.DataType.FLOAT if key.precision == "fp32" else api.DataType.HALF
        expected: dict[str, tuple[Any, Any, tuple[int, ...]]] = {
            INPUT: (api.TensorIOMode.INPUT, api.DataType.UINT8, (-1, *key.image, 3)),
            OUTPUT: (api.TensorIOMode.OUTPUT, kind, (-1, *key.features)),
        }
        found = _ports(self._engine)
        if key.batch[0] == key.batch[1]:  # one size only: TensorRT may state it, or leave it open
            found = {
                name: (mode, kind, (-1, *shape[1:]) if shape[:1] == key.batch[:1] else shape)
                for name, (mode, kind, shape) in found.items()
            }
        if found != expected:
            what = f"has the ports {found}, needed are {expected}"
            raise UnusablePlanError(what, where="engine", cure="Build it again.")


def _ports(engine: Any) -> dict[str, tuple[Any, Any, tuple[int, ...]]]:
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    return {
        name: (engine.get_tensor_mode(name), engine.get_tensor_dtype(name), tuple(engine.get_tensor_shape(name)))
        for name in names
    }
