"""TensorRT and TensorRT-RTX: building the engines of graphs, and running them on memory of the GPU.

Their Python interfaces are alike, and there is one way for TensorRT 10.3 to 11.4 and for TensorRT-RTX; this is the one
place that imports them and receives their log. Networks are strongly typed: the graph's own types decide the
precision, as TensorRT 11 has it and 10 can. No flag of the builder that 11 removed is used. TensorRT-RTX builds without
a GPU; TensorRT measures kernels on the one that the plan is for.
"""

import functools
import importlib
import logging
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from scene_completion_ros.errors import BundleError, GpuError
from scene_completion_ros.inference.gpu.device import Flavour, PrimaryContext, explain_failure
from scene_completion_ros.inference.gpu.engine_cache import UnusableError
from scene_completion_ros.inference.gpu.half_precision import DevicePorts
from scene_completion_ros.inference.gpu.kernels import Buffer

ERRORS_KEPT = 5
SAY_EVERY_S = 5.0
WORKSPACE = 2**30  # bytes for intermediate results, at most: enough for the graphs that this package exports

_log = logging.getLogger(__name__)


class TensorRt:
    """An imported TensorRT.

    TensorRT has one logger a process. Where another part of the program gave it one before, that one has the errors,
    and `errors` is empty.
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
        """TensorRT's errors since then, the first one first."""
        return "; ".join(self._errors) or "TensorRT gave no reason; see its log"


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
            # Errors are raised with what was being done; warnings are for programmers, not for users of a robot.
            _log.debug("%s: %s", level, message)

    return Logger()


def check_ports(found: Iterable[tuple[str, bool, Any, Sequence[int]]], ports: DevicePorts, api: Any) -> str:
    """Whether a network or an engine takes and gives what it has to.

    Returns what is otherwise, in words; empty where nothing is. `found`: of each port of it its name, whether it is an
    input, TensorRT's type, and the shape.
    """
    types = api.DataType
    kinds: dict[Any, Any] = {np.uint8: types.UINT8, np.float16: types.HALF, np.float32: types.FLOAT}
    both = ((True, ports.given), (False, ports.made))
    wanted = {name: (given, kinds[kind], shape) for given, part in both for name, (shape, kind) in part.items()}
    there = {name: (given, kind, tuple(shape)) for name, given, kind, shape in found}
    return "" if there == wanted else f"has the ports {there}, needed are {wanted}"


class GraphEngine:
    """An engine that is ready to run, with memory for what it gives; made, run and closed with the context current.

    Errors of a run are those of pycuda, too: callers do their work in `PrimaryContext.work`. Raises UnusableError:
    TensorRT refuses it, or it takes or gives something else; GpuError where there is not enough memory for it, or the
    GPU fails. `plan`: the serialised engine. It has to come from this process's builder or through `EngineCache`, which
    checks whose it is and for which device and version: a plan is a program. `stream`: what it runs on.
    """

    def __init__(
        self, plan: bytes, ports: DevicePorts, tensorrt: TensorRt, context: PrimaryContext, stream: Any
    ) -> None:
        self.ports, self._stream, self._tensorrt = ports, stream, tensorrt
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self.outputs: Mapping[str, Buffer] = {}  # where results go, always the same places
        self._memory: list[Any] = []
        try:
            self._open(plan)
            for name, (shape, kind) in ports.made.items():
                size = int(np.prod(shape)) * np.dtype(kind).itemsize
                memory = context.allocate(size, f"the {name}")
                self._memory.append(memory)
                self.outputs = {**self.outputs, name: Buffer(int(memory), shape, np.dtype(kind), memory)}
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
        found = []
        for name in (engine.get_tensor_name(i) for i in range(engine.num_io_tensors)):
            given = engine.get_tensor_mode(name) == api.TensorIOMode.INPUT
            found.append((name, given, engine.get_tensor_dtype(name), tuple(engine.get_tensor_shape(name))))
        del engine
        # A file that was swapped for one of another graph would make TensorRT write behind the buffers.
        problem = check_ports(found, self.ports, api)
        if problem:
            raise UnusableError(problem, where="engine")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise explain_failure(tensorrt.errors(), "making an execution context")

    def enqueue(self, given: Mapping[str, Buffer]) -> None:
        """Ask for what follows from inputs, in the order of the stream; returns before it is there.

        The next call overwrites `outputs`. Raises GpuError: TensorRT refuses to run.
        """
        self._tensorrt.forget_errors()
        # No local variable holds the context: the traceback of an error would keep it alive after `close`.
        for name, buffer in {**given, **self.outputs}.items():
            done = self._context.set_tensor_address(name, buffer.pointer)
            self._require(done, f"setting the address of the {name}")
        self._require(self._context.execute_async_v3(int(self._stream.handle)), "running the engine")

    def close(self) -> None:
        """Release it, in the order that TensorRT wants, and free its memory: nothing of it may be touched any more."""
        self._context = None
        self._engine = None
        self._runtime = None
        self.outputs = {}
        while self._memory:
            self._memory.pop().free()
        self._stream = None

    def _require(self, done: bool, doing: str) -> None:
        if not done:
            raise explain_failure(self._tensorrt.errors(), doing)


def build_plan(onnx: bytes, ports: DevicePorts, tensorrt: TensorRt) -> bytes:
    """Build an engine of a graph whose sizes are all fixed.

    Raises BundleError where the graph cannot be parsed, or has other ports; GpuError where it cannot be built;
    KeyboardInterrupt where it was interrupted. `onnx`: see `to_half`; `ports`: what it must take and give.
    """
    api, where = tensorrt.api, f"engine {tensorrt.flavour} {tensorrt.version}"
    tensorrt.forget_errors()
    try:
        builder = api.Builder(tensorrt.logger)
    except TypeError as error:  # pybind11's answer to a null pointer
        cure = "See whether scene-completion doctor finds the GPU."
        raise GpuError(f"no builder: {tensorrt.errors()}", where=where, cure=cure) from error
    flags: Any = getattr(api, "NetworkDefinitionCreationFlag", None)
    typed = 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0  # always so where there is none
    network = builder.create_network(typed)
    parser = api.OnnxParser(network, tensorrt.logger)  # the network refers to its weights: both live as long as this
    problem = ""
    if parser.parse(onnx):
        given = [(network.get_input(i), True) for i in range(network.num_inputs)]
        made = [(network.get_output(i), False) for i in range(network.num_outputs)]
        found = [(port.name, is_input, port.dtype, tuple(port.shape)) for port, is_input in (*given, *made)]
        problem = check_ports(found, ports, api)
    else:
        errors = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        problem = f"cannot be parsed ({' '.join(errors.split())})"
    if problem:
        raise BundleError(f"the graph {problem}", where=where, cure="Export the bundle again.")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(api.MemoryPoolType.WORKSPACE, WORKSPACE)
    interruptions: list[BaseException] = []
    listener = _listener(api, interruptions)  # TensorRT does not keep it alive
    config.progress_monitor = listener
    plan = builder.build_serialized_network(network, config)
    if interruptions:
        raise interruptions[0]
    if plan is None:
        cure = "End other programs on the GPU, or take a CPU engine."
        raise GpuError(f"no engine can be built: {tensorrt.errors()}", where=where, cure=cure)
    return bytes(plan)


def _listener(api: Any, interruptions: list[BaseException]) -> Any:
    """Hears TensorRT's steps, logs some, notes what ends the build (Ctrl-C); raises nothing into TensorRT's code."""

    class Listener(api.IProgressMonitor):  # type: ignore[misc, name-defined]  # its base is known at run time only
        def __init__(self) -> None:
            api.IProgressMonitor.__init__(self)
            self._spoken_s = time.monotonic()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            pass

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                if time.monotonic() - self._spoken_s >= SAY_EVERY_S:
                    self._spoken_s = time.monotonic()
                    _log.info("building the engine: step %d of %s", step + 1, phase_name)
            except BaseException as error:
                interruptions.append(error)
            return not interruptions

        def phase_finish(self, phase_name: str) -> None:
            pass

    return Listener()
