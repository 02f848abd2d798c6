"""TensorRT and TensorRT-RTX: a bundle's engine from the cache, or built, compared and kept; its encoder and queries.

Their Python interfaces are alike, and there is one way for TensorRT 10.3 to 11.4 and for TensorRT-RTX; this is the one
place that imports them and receives their log. Networks are strongly typed: the graph's own types decide the
precision, as TensorRT 11 has it and 10 can. No flag of the builder that 11 removed is used. TensorRT-RTX builds without
a GPU; TensorRT measures kernels on the one that the plan is for.

The encoder's output stays on the GPU for the kernels: nothing is copied back but states, depth and occupied voxels.
"""

import functools
import hashlib
import importlib
import logging
import platform
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import BundleError, GpuError
from scene_completion_ros.inference.bundle import PRECISION, StudentBundle
from scene_completion_ros.inference.cell_query import Pixels
from scene_completion_ros.inference.evidence import NO_EVIDENCE, Evidence
from scene_completion_ros.inference.gpu.device import (
    DeviceFacts,
    Flavour,
    PrimaryContext,
    check_limits,
    explain_failure,
    installed_flavour,
    require,
)
from scene_completion_ros.inference.gpu.engine_cache import EngineCache, Key, UnusableError
from scene_completion_ros.inference.gpu.kernel_provision import provide_kernels
from scene_completion_ros.inference.gpu.kernels import Buffer, KernelDevice
from scene_completion_ros.inference.gpu.parity import ENGINE, gate_images, map_errors
from scene_completion_ros.inference.gpu.voxel_pipeline import VoxelPipeline
from scene_completion_ros.inference.label_query import NO_WORDS, Words, matches_of
from scene_completion_ros.inference.query_kernel import VoxelQuery
from scene_completion_ros.inference.scene_query import Encoder, PreparedScene, SceneAnswer, SceneQuery
from scene_completion_ros.jit import aligned_empty

INPUT, OUTPUT = "image", "features"
ERRORS_KEPT = 5
SETTINGS = 2  # raised where other settings of the builder, or another gate, make former engines worthless
SAY_EVERY_S = 5.0
WORKSPACE = 2**30  # bytes for intermediate results, at most: enough for the encoders that this package exports
Port: TypeAlias = "tuple[tuple[int, ...], type[np.generic]]"
Ports: TypeAlias = "Mapping[str, Port]"  # what an engine takes and gives, by name: shape for one image, and type

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


def ports_of(bundle: StudentBundle) -> Ports:
    """The image, and the output of a bundle's encoder for GPUs."""
    camera = bundle.canonical
    return {
        INPUT: ((1, camera.height, camera.width, 3), np.uint8),
        OUTPUT: ((1, *bundle.feature_size, bundle.field_head.channels), np.float16),
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
        """Put in an image [1, H, W, 3], the canonical camera's, once former outputs are there."""
        assert images.shape == self.ports[INPUT][0]
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


def provide_engine(bundle: StudentBundle, context: PrimaryContext, reference: Callable[[], Encoder]) -> TensorRtEngine:
    """The engine of a bundle for this GPU, from the cache or built; with the context current.

    Raises BundleError where the graph cannot be used; GpuError where it cannot be built, misses the parity gate, or
    cannot be run. `reference`: makes the CPU's encoder, which an engine is compared with when it is built.
    """
    tensorrt = load_tensorrt(installed_flavour())
    onnx, ports = bundle.read_gpu_encoder(), ports_of(bundle)

    def open_engine(plan: bytes) -> TensorRtEngine:
        return TensorRtEngine(plan, ports, tensorrt, context)

    def build() -> tuple[bytes, TensorRtEngine]:
        what = f"the engine with {tensorrt.flavour} {tensorrt.version} for {context.facts.name}"
        # Warnings, so that they are shown without a handler of the log, too: the numbers belong into a bug report.
        _log.warning("building %s; this takes minutes, and is done once", what)
        started_s = time.monotonic()
        plan = build_plan(onnx, ports, tensorrt)
        seconds = time.monotonic() - started_s
        try:
            engine = open_engine(plan)
        except UnusableError as error:
            cure = "TensorRT may not know this GPU: take another version, or a CPU engine."
            raise GpuError(f"is refused by what built it ({error.what})", where=what, cure=cure) from error
        try:
            lines = measure_parity(engine, reference())
        except BaseException:
            engine.close()
            raise
        _log.warning("built after %.0f s; against the CPU's encoder: %s", seconds, "; ".join(lines))
        return plan, engine

    key = _key(onnx, tensorrt, context.facts)
    return EngineCache().provide(key, open_engine, build)


def build_plan(onnx: bytes, ports: Ports, tensorrt: TensorRt) -> bytes:
    """Build an engine for one image at a time.

    Raises BundleError where the graph cannot be parsed, or has other ports; GpuError where it cannot be built;
    KeyboardInterrupt where it was interrupted. `onnx`: the encoder, see `StudentBundle.read_gpu_encoder`; `ports`: what
    it must take and give.
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
        raise BundleError(f"the encoder for GPUs {problem}", where=where, cure="Export the bundle again.")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(api.MemoryPoolType.WORKSPACE, WORKSPACE)
    profile = builder.create_optimization_profile()
    image, _ = ports[INPUT]
    profile.set_shape(INPUT, image, image, image)
    config.add_optimization_profile(profile)
    interruptions: list[BaseException] = []
    listener = _listener(api, interruptions)  # TensorRT does not keep it alive
    config.progress_monitor = listener
    plan = builder.build_serialized_network(network, config)
    if interruptions:
        raise interruptions[0]
    if plan is None:
        cure = "End other programs on the GPU, take another precision, or a CPU engine."
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


def measure_parity(engine: TensorRtEngine, reference: Encoder) -> list[str]:
    """Compare an engine with the CPU's encoder on the images of the gate, see `ENGINE`."""
    _, height, width, _ = engine.ports[INPUT][0]
    images = gate_images(height, width)
    found = [engine(image[None])[0].copy() for image in images]
    return ENGINE.require(map_errors([reference(image).copy() for image in images], found))


def _key(onnx: bytes, tensorrt: TensorRt, device: DeviceFacts) -> Key:
    """All that an engine depends on; the power mode of a Jetson changes how many multiprocessors there are."""
    return {
        "kind": "engine",
        "settings": SETTINGS,
        "onnx_sha256": hashlib.sha256(onnx).hexdigest(),
        "flavour": tensorrt.flavour,
        "version": tensorrt.version,
        "machine": platform.machine(),
        **asdict(device),
    }


class TensorRtEncoder(Encoder):
    """The encoder on an NVIDIA GPU.

    Belongs to the thread that makes it, which holds the GPU's primary context; the last reference to it is to go there,
    too. Raises BundleError where the bundle has no encoder for GPUs, or one that cannot be used;
    GpuError: something is missing, or engine or kernels cannot be built, miss the gate or cannot be run. `reference`:
    makes the CPU's encoder of the same bundle, for the parity gates of what is built.
    """

    def __init__(self, bundle: StudentBundle, reference: Callable[[], Encoder]) -> None:
        flavour = installed_flavour()
        if bundle.takes_evidence:
            raise bundle.no_gpu_encoder()
        require(flavour)
        check_limits(bundle)
        self.name = f"{flavour}_{PRECISION}"
        self._bundle = bundle
        self._context = PrimaryContext()
        try:
            with self._context.work("preparing the GPU"):
                # Seconds that may fail stand before minutes.
                self._kernels = provide_kernels(bundle, self._context, reference)
                self._engine = provide_engine(bundle, self._context, reference)
        except BaseException:
            self._context.close()
            raise
        self._features = aligned_empty(*self._engine.ports[OUTPUT][0])
        finalizer = weakref.finalize(self, _release, self._context, self._engine)
        finalizer.atexit = False  # pycuda may be gone by then, and the driver cleans up by itself

    def __call__(self, image_rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Encoder`.

        Raises GpuError where the GPU failed; after the loss of the device nothing on it works any more in this process.
        """
        with self._context.work("running the encoder"):
            self._features[:] = self._engine(image_rgb[None])
        features: NDArray[np.float32] = self._features[0]
        return features

    def scene_query(self, prepared: PreparedScene[VoxelQuery]) -> SceneQuery:
        """See `DeviceEncoder`. Raises GpuError where the grid is too large for it, or there is not enough memory."""
        check_limits(self._bundle, prepared.query.grid)
        with self._context.work("loading the kernels"):
            device = KernelDevice(self._context, self._kernels, self._engine.stream)
        return DeviceSceneQuery(self._engine, device, self._context, prepared)


class DeviceSceneQuery:
    """Encoder and kernels on one stream, waited for once.

    Belongs to the thread of the engine; so does its end, which frees what it has on the device. Raises GpuError where
    there is not enough memory. `device`: what runs the kernels; it becomes this one's, which closes it.
    """

    def __init__(
        self, engine: TensorRtEngine, device: KernelDevice, context: PrimaryContext, prepared: PreparedScene[VoxelQuery]
    ) -> None:
        self._engine, self._device, self._context = engine, device, context
        self._answers = 0
        with context.work("preparing the voxel query"):
            try:
                self._pipeline = VoxelPipeline(
                    device, prepared.query, prepared.march, prepared.classifier, prepared.labels
                )
            except BaseException:
                device.close()
                raise
        finalizer = weakref.finalize(self, _release, context.hold(), device)
        finalizer.atexit = False  # the driver cleans up by itself, and pycuda may be gone

    def see(self, image_rgb: NDArray[np.uint8]) -> None:
        """See `SceneQuery`."""

    def __call__(
        self,
        image_rgb: NDArray[np.uint8],
        words: Words = NO_WORDS,
        pixels: Pixels | None = None,
        evidence: Evidence = NO_EVIDENCE,
    ) -> SceneAnswer:
        """See `SceneQuery`; field students take no evidence."""
        del pixels, evidence
        started_s, device = time.perf_counter(), self._device
        with self._context.work("completing an image"):
            self._engine.load(image_rgb[None])
            self._answers += 1  # from here on the former answer may be overwritten, also where this one fails
            device.begin()
            features = self._engine.enqueue()
            device.lap("encode")
            self._pipeline.enqueue(features)
            if words.vocabulary or words.queried:
                self._pipeline.compare(words)
            found = self._pipeline.wait()
            queried, count = words.queried, len(found.index)
            matches = () if queried is None else matches_of(queried, self._pipeline.cosines(queried, count))
        times_ms = dict.fromkeys(("encode", "query", "march", "assemble", "label"), 0.0) | device.laps_ms()
        times_ms.pop("copied", None)
        times_ms["label"] += times_ms.pop("compared", 0.0)
        answer = SceneAnswer(
            occupied=found.index.copy(),
            probability=found.probability.copy(),
            label=found.label.copy() if words.labels else np.zeros_like(found.label),
            confidence=found.confidence.copy() if words.labels else np.ones_like(found.confidence),
            state=found.state.copy(),
            depth=found.depth.copy(),
            transmittance=found.transmittance.copy(),
            dense=_FieldOnDevice(self, self._answers),
            times_ms=times_ms,
            matches=matches,
        )
        # Copies over the bus and in memory, and what the host took to ask for it all.
        times_ms["assemble"] += max(0.0, 1e3 * (time.perf_counter() - started_s) - sum(times_ms.values()))
        return answer

    def fetch(self, which: str, answer: int) -> NDArray[np.float32]:
        """Opacity or probability of all voxels.

        `which`: "alpha" or "probability"; `answer`: number of the answer that it belongs to. Raises GpuError where it
        was overwritten by a later answer, or cannot be copied.
        """
        if answer != self._answers:
            what = f"the {which} of all voxels was overwritten by the next image"
            raise GpuError(what, where="GPU", cure="Ask for it before the next image is completed.")
        with self._context.work(f"copying the {which} to the host"):
            values: NDArray[np.float32] = self._device.download(getattr(self._pipeline, which))
        return values


class _FieldOnDevice:
    """`DenseField` that is copied to the host when it is asked for."""

    def __init__(self, query: DeviceSceneQuery, answer: int) -> None:
        self._query, self._answer = query, answer

    @functools.cached_property
    def alpha(self) -> NDArray[np.float32]:
        return self._query.fetch("alpha", self._answer)

    @functools.cached_property
    def probability(self) -> NDArray[np.float32]:
        return self._query.fetch("probability", self._answer)


def _release(context: PrimaryContext, closed: TensorRtEngine | KernelDevice) -> None:
    try:
        with context.work("freeing memory"):
            closed.close()
    except GpuError as error:  # of a lost device, of which there is nothing left to release
        _log.warning("%s", error)
    context.close()
