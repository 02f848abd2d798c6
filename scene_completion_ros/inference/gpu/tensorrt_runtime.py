"""TensorRT or TensorRT-RTX, whose Python interfaces are alike: imported, an engine run, images in and features out.

This is the one place that imports them, and that hears what they log.
"""

import functools
import importlib
import logging
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import ImageError
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.gpu.device import PrimaryContext, explain_failure
from scene_completion_ros.inference.gpu.engine_cache import UnusableError
from scene_completion_ros.inference.gpu.kernels import Buffer
from scene_completion_ros.inference.gpu.requirements import Flavour

INPUT, OUTPUT = "image", "features"
ERRORS_KEPT = 5
Port: TypeAlias = "tuple[tuple[int, ...], type[np.generic]]"
Ports: TypeAlias = "Mapping[str, Port]"  # what an engine takes and gives, by name: shape for one image, and type

_log = logging.getLogger(__name__)


class TensorRt:
    """An imported TensorRT.

    TensorRT has one logger a process. Where another part of the program gave it one before, that one has the errors,
    and `errors` knows nothing of them.
    """

    def __init__(self, flavour: Flavour) -> None:
        self.api: Any = importlib.import_module(flavour)  # the module
        self.flavour = flavour  # which of the two it is
        self.version = str(self.api.__version__)
        self._errors: deque[str] = deque(maxlen=ERRORS_KEPT)
        self.logger = _make_logger(self.api, self._errors)  # what it logs to

    def forget_errors(self) -> None:
        """Begin something whose errors are wanted."""
        self._errors.clear()

    def errors(self) -> str:
        """What TensorRT said was wrong since then, the first error first."""
        return "; ".join(self._errors) or "TensorRT does not say why; see its log"


@functools.cache
def load_tensorrt(flavour: Flavour) -> TensorRt:
    """Import TensorRT, which `require` found; once a process, because it takes one logger only."""
    return TensorRt(flavour)


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


def ports_of(bundle: StudentBundle, precision: str) -> Ports:
    """The image, and the output of a bundle's encoder for GPUs."""
    camera = bundle.canonical
    return {
        INPUT: ((1, camera.height, camera.width, 3), np.uint8),
        OUTPUT: ((1, *bundle.feature_size, bundle.head.channels), np.float32 if precision == "fp32" else np.float16),
    }


def check_ports(found: Iterable[tuple[str, bool, Any, Sequence[int]]], ports: Ports, api: Any) -> str:
    """Whether a network or an engine takes and gives what it has to.

    Returns what is otherwise, in words; empty where nothing is. `found`: of each port of it its name, whether it is an
    input, TensorRT's type, and the shape. The number of images may be open (-1).
    """
    kinds: dict[Any, Any] = {
        np.uint8: api.DataType.UINT8,
        np.float16: api.DataType.HALF,
        np.float32: api.DataType.FLOAT,
    }
    wanted = {name: (name == INPUT, kinds[kind], shape) for name, (shape, kind) in ports.items()}
    there = {name: (given, kind, (abs(shape[0]), *shape[1:])) for name, given, kind, shape in found}
    return "" if there == wanted else f"has the ports {there}, needed are {wanted}"


class TensorRtEngine:
    """An engine that is ready to run, with memory for its ports; made, run and closed with the context current.

    Errors of a run are those of pycuda, too: callers do their work in `PrimaryContext.work`. Raises UnusableError:
    TensorRT refuses it, or it takes or gives something else; GpuError where there is not enough memory for it, or the
    GPU fails. `plan`: the serialised engine. It has to come from this process's builder or through `EngineCache`, which
    checks whose it is and for which device and version: a plan is a program.
    """

    def __init__(self, plan: bytes, ports: Ports, tensorrt: TensorRt, context: PrimaryContext) -> None:
        self.ports = ports
        # What all is done on (`pycuda.driver.Stream`); may be exchanged for another one of the same context.
        self.stream: Any = context.stream()
        self._tensorrt, self._gpu = tensorrt, context
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._pinned: dict[str, NDArray[Any]] = {}
        self._device: dict[str, Buffer] = {}
        try:
            self._open(plan)
            for name, (shape, kind) in ports.items():
                self._pinned[name] = pinned = context.pinned(shape, kind)
                memory = context.allocate(pinned.nbytes, f"the {name}")
                self._device[name] = Buffer(int(memory), shape, pinned.dtype, memory)
        except BaseException:
            self.close()
            raise

    def _open(self, plan: bytes) -> None:
        api, tensorrt = self._tensorrt.api, self._tensorrt
        tensorrt.forget_errors()
        try:
            self._runtime = api.Runtime(tensorrt.logger)
        except TypeError as error:  # pybind11's answer to a null pointer
            raise explain_failure(tensorrt.errors(), "starting TensorRT's runtime") from error
        self._engine = engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            failure = explain_failure(tensorrt.errors(), "deserialising the engine")
            raise UnusableError(failure.what, where="engine") if failure.kind == "unknown" else failure
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        found = [
            (
                name,
                engine.get_tensor_mode(name) == api.TensorIOMode.INPUT,
                engine.get_tensor_dtype(name),
                tuple(engine.get_tensor_shape(name)),
            )
            for name in names
        ]
        del engine
        # A file that was swapped for one of another graph would make TensorRT write behind the buffers.
        problem = check_ports(found, self.ports, api)
        if problem:
            raise UnusableError(problem, where="engine")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise explain_failure(tensorrt.errors(), "making an execution context")
        self._require(self._context.set_input_shape(INPUT, self.ports[INPUT][0]), "setting the image's shape")

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """Features of an image, uint8 [1, H, W, 3] RGB; the next call overwrites. Raises GpuError of TensorRT."""
        self.load(images)
        self._gpu.cuda.memcpy_dtoh_async(self._pinned[OUTPUT], self.enqueue().pointer, self.stream)
        self.stream.synchronize()
        return self._pinned[OUTPUT]

    def load(self, images: NDArray[np.uint8]) -> None:
        """Put in an image [1, H, W, 3] once former outputs are there. Raises ImageError for other sizes, types."""
        shape, kind = self.ports[INPUT]
        if images.shape != shape or images.dtype != kind:
            what = f"is {images.dtype} {images.shape[1:]} where uint8 {shape[1:]} is needed"
            cure = "Resample the camera image into the canonical camera first."
            raise ImageError(what, where="canonical image", cure=cure)
        self._pinned[INPUT][:] = images

    def enqueue(self) -> Buffer:
        """Ask for the features of the image that was loaded, in the order of the stream; returns before they are there.

        Returns where they go on the GPU, always the same place. Raises GpuError: TensorRT refuses to run.
        """
        self._gpu.cuda.memcpy_htod_async(self._device[INPUT].pointer, self._pinned[INPUT], self.stream)
        self._tensorrt.forget_errors()
        # No local variable holds the context: the traceback of an error would keep it alive after `close`.
        for name, buffer in self._device.items():
            done = self._context.set_tensor_address(name, buffer.pointer)
            self._require(done, f"setting the address of the {name}")
        self._require(self._context.execute_async_v3(int(self.stream.handle)), "running the engine")
        return self._device[OUTPUT]

    def close(self) -> None:
        """Release it, in the order that TensorRT wants, and free its memory: nothing of it may be touched any more."""
        self._context = None
        self._engine = None
        self._runtime = None
        while self._device:
            memory: Any = self._device.popitem()[1].owner
            memory.free()
        while self._pinned:
            allocation: Any = self._pinned.popitem()[1].base
            allocation.free()
        self.stream = None

    def _require(self, done: bool, doing: str) -> None:
        if not done:
            raise explain_failure(self._tensorrt.errors(), doing)
