"""TensorRT or TensorRT-RTX, whose Python interfaces are alike: imported, an engine run, images in and its outputs out.

This is the one place that imports them, and that hears what they log.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import GpuError
from scene_completion_ros.inference.gpu.device import PrimaryContext, explain_failure, gpu_errors
from scene_completion_ros.inference.gpu.engine_cache import EngineKey
from scene_completion_ros.inference.gpu.kernel_device import Buffer, EncodedOnDevice
from scene_completion_ros.inference.gpu.options import Flavour
from scene_completion_ros.inference.gpu.requirements import INSTALL, version_problem

INPUT, OUTPUT, VOLUME, DEPTH = "image", "features", "volume", "depth"
_MANY = {OUTPUT: "features", VOLUME: "volumes", DEPTH: "depths"}
ERRORS_KEPT = 5

_log = logging.getLogger(__name__)


class TensorRt:
    """An imported TensorRT.

    TensorRT has one logger a process. Where another part of the program gave it one before, that one has the errors,
    and `errors` knows nothing of them.

    Attributes:
        api: The module.
        flavour: Which of the two it is.
        logger: What it logs to.
    """

    def __init__(self, flavour: Flavour) -> None:
        try:
            self.api: Any = importlib.import_module(flavour)
        except Exception as error:  # a damaged installation may raise anything
            cure = f"{INSTALL[flavour]}."
            raise GpuError(f"cannot be imported ({error})", where=f"engine {flavour}", cure=cure) from error
        self.flavour = flavour
        self.version = str(self.api.__version__)
        problem = version_problem(flavour, self.version)
        if problem:
            raise GpuError(problem, where=f"engine {flavour}", cure=f"{INSTALL[flavour]}.")
        self._errors: deque[str] = deque(maxlen=ERRORS_KEPT)
        self.logger = _make_logger(self.api, self._errors)

    def forget_errors(self) -> None:
        """Begin something whose errors are wanted."""
        self._errors.clear()

    def errors(self) -> str:
        """What TensorRT said was wrong since then, the first error first."""
        return "; ".join(self._errors) or "TensorRT does not say why; see its log"


_loaded: dict[Flavour, TensorRt] = {}
_loading = threading.Lock()


def load_tensorrt(flavour: Flavour) -> TensorRt:
    """Import TensorRT; once a process, because it takes one logger only.

    Raises:
        GpuError: It is not installed, cannot be imported, or has another version than is needed.
    """
    with _loading:
        if flavour not in _loaded:
            _loaded[flavour] = TensorRt(flavour)
        return _loaded[flavour]


def _make_logger(api: Any, errors: deque[str]) -> Any:
    severity = api.ILogger.Severity

    class Logger(api.ILogger):  # type: ignore[misc, name-defined]  # its base is known at run time only
        def __init__(self) -> None:
            api.ILogger.__init__(self)

        def log(self, level: Any, message: str) -> None:
            if level in (severity.INTERNAL_ERROR, severity.ERROR):
                errors.append(message)
            # Errors are raised with what was being done; warnings speak to whoever programs, not to who drives a robot.
            _log.debug("%s: %s", level, message)

    return Logger()


def outputs_of(key: EngineKey) -> dict[str, tuple[tuple[int, ...], type[np.floating[Any]]]]:
    """Shape for one image, and type, of every output of an engine by name, in order.

    Depth is float32 in every precision: float16 would round it by up to 0.05 %, and its map is small.
    """
    kind = np.float32 if key.precision == "fp32" else np.float16
    volume = {VOLUME: (key.volume, kind)} if key.volume else {}
    return {OUTPUT: (key.features, kind), **volume, **({DEPTH: (key.depth, np.float32)} if key.depth else {})}


def element_type(kind: type[np.floating[Any]], api: Any) -> Any:
    """TensorRT's name of a type."""
    return api.DataType.FLOAT if kind is np.float32 else api.DataType.HALF


class UnusablePlanError(GpuError):
    """TensorRT refuses a plan, though its key is right."""


class TensorRtEngine:
    """An engine that is ready to run; made, run and closed with the primary context current, in one thread.

    Args:
        plan: The serialised engine. It has to come from this process's builder or through `EngineCache`, which checks
            whose it is and for which device and version: a plan is a program.

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

    def enqueue(
        self,
        image_pointer: int,
        features_pointer: int,
        stream_handle: int,
        batch: int = 1,
        *,
        volume_pointer: int | None = None,
        depth_pointer: int | None = None,
    ) -> None:
        """Run it in the order of a stream; returns before it is done.

        Args:
            image_pointer: Pointer of the device to uint8 [batch, H, W, 3] RGB.
            features_pointer: Pointer of the device to where features [batch, h, w, C + E] go: float32 for fp32,
                float16 otherwise.
            batch: Number of images, within the key's.
            volume_pointer: Where volumes [batch, X, Y, Z] go, of the same type; None where the key has none.
            depth_pointer: Where depths float32 [batch, h', w'] go; None where the key has none.

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
        for name, pointer in ((VOLUME, volume_pointer), (DEPTH, depth_pointer)):
            if pointer is not None:
                self._require(self._context.set_tensor_address(name, pointer), f"setting the {name}'s address")
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
        expected: dict[str, tuple[Any, Any, tuple[int, ...]]] = {
            INPUT: (api.TensorIOMode.INPUT, api.DataType.UINT8, (-1, *key.image, 3)),
        }
        for name, (shape, kind) in outputs_of(key).items():
            expected[name] = (api.TensorIOMode.OUTPUT, element_type(kind, api), (-1, *shape))
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


class EngineRunner:
    """Copies images to the GPU, runs an engine on them and copies its outputs back.

    Made, used and closed with the context current, in one thread.

    Args:
        context: The context that it was made in.
        stream: What all is done on (`pycuda.driver.Stream`); a new one by default.

    Attributes:
        stream: That stream.

    Raises:
        GpuError: There is not enough memory.
    """

    def __init__(self, engine: TensorRtEngine, context: PrimaryContext, stream: Any = None) -> None:
        self._engine = engine
        self._context = context
        self._device: list[Any] = []  # the image, the features, and volume and depth where there are any
        self._pinned: list[NDArray[Any]] = []
        key = engine.key
        largest = key.batch[1]
        outputs = [((largest, *shape), kind, _MANY[name]) for name, (shape, kind) in outputs_of(key).items()]
        self.stream: Any = context.stream() if stream is None else stream
        try:
            for shape, dtype, what in (((largest, *key.image, 3), np.uint8, "images"), *outputs):
                self._pinned.append(context.pinned(shape, dtype))
                self._device.append(context.allocate(self._pinned[-1].nbytes, what))
        except BaseException:
            self.close()
            raise

    def __call__(self, images: NDArray[np.uint8]) -> list[NDArray[Any]]:
        """Outputs of the engine for images; overwritten by the next call.

        Args:
            images: uint8 [n, H, W, 3] RGB, n within the engine's batch.

        Returns:
            Features [n, h, w, C + E]; volumes [n, X, Y, Z] and depths [n, h', w'] where there are any. See
            `outputs_of` for their types.

        Raises:
            GpuError: The GPU failed.
        """
        self.load(images)
        self.enqueue(len(images))
        outputs = [array[: len(images)] for array in self._pinned[1:]]
        with gpu_errors("running the encoder", self._context):
            for output, source in zip(outputs, self._device[1:], strict=True):
                self._context.copy_to_host(output, int(source), self.stream)
            self.stream.synchronize()
        return outputs

    def load(self, images: NDArray[np.uint8]) -> None:
        """Put images [n, H, W, 3] where they are copied from; outputs of the former ones must have been waited for."""
        self._pinned[0][: len(images)] = images

    def enqueue(self, count: int = 1) -> EncodedOnDevice:
        """Ask for the outputs of images that were loaded, in the order of the stream; returns before they are there.

        Args:
            count: How many images, within the engine's batch.

        Returns:
            Where features [n, h, w, C + E], volumes [n, X, Y, Z] and depths [n, h', w'] go on the GPU, always the same
            places.

        Raises:
            GpuError: The GPU failed.
        """
        image, *outputs = self._device
        host_images, *on_host = (array[:count] for array in self._pinned)
        made = EncodedOnDevice(
            *(Buffer(int(one), host.shape, host.dtype, one) for one, host in zip(outputs, on_host, strict=True))
        )
        volume, depth = (None if part is None else part.pointer for part in (made.volume, made.depth))
        pointer, stream = made.features.pointer, int(self.stream.handle)
        with gpu_errors("running the encoder", self._context):
            self._context.copy_to_device(int(image), host_images, self.stream)
            self._engine.enqueue(int(image), pointer, stream, count, volume_pointer=volume, depth_pointer=depth)
        return made

    def close(self) -> None:
        """Free its memory; features that it gave out must not be touched any more."""
        while self._device:
            self._device.pop().free()
        while self._pinned:
            self._context.free_pinned(self._pinned.pop())
        self.stream = None
