"""The engine of a bundle: from the cache, or built, compared with the CPU's and kept.

There is one way for TensorRT 10.3 to 11.4 and for TensorRT-RTX. Networks are strongly typed: the graph's own types
decide the precision, as TensorRT 11 has it and 10 can. No flag of the builder that 11 removed is used. TensorRT-RTX
builds without a GPU; TensorRT measures kernels on the one that the plan is for.
"""

import hashlib
import logging
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from scene_completion_ros.errors import BundleError, GpuError
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.encoded_image import Encoder
from scene_completion_ros.inference.gpu.device import DeviceFacts, PrimaryContext
from scene_completion_ros.inference.gpu.engine_cache import EngineCache, Provided, Record, UnusableError
from scene_completion_ros.inference.gpu.parity import check_parity, gate_images
from scene_completion_ros.inference.gpu.requirements import EngineOptions, installed_flavour
from scene_completion_ros.inference.gpu.tensorrt_runtime import (
    INPUT,
    Ports,
    TensorRt,
    TensorRtEngine,
    check_ports,
    load_tensorrt,
    ports_of,
)

SETTINGS = 2  # raised where other settings of the builder, or another gate, make former engines worthless
SAY_EVERY_S = 5.0
WORKSPACE = 2**30  # bytes for intermediate results, at most: enough for the encoders that this package exports

_log = logging.getLogger(__name__)


def provide_engine(
    bundle: StudentBundle, options: EngineOptions, context: PrimaryContext, reference: Callable[[], Encoder]
) -> tuple[TensorRtEngine, Provided]:
    """The engine of a bundle for this GPU, and where it came from; with the context current.

    Raises BundleError where the graph cannot be used; GpuError where it cannot be built, misses the parity gate, or
    cannot be run. `reference`: makes the CPU's encoder, which an engine is compared with when it is built.
    """
    tensorrt, precision = load_tensorrt(installed_flavour()), options.precision
    onnx, ports = bundle.read_gpu_encoder(precision), ports_of(bundle, precision)

    def open_engine(plan: bytes) -> TensorRtEngine:
        return TensorRtEngine(plan, ports, tensorrt, context)

    def build() -> tuple[bytes, Record, TensorRtEngine]:
        what = f"the {precision} engine with {tensorrt.flavour} {tensorrt.version} for {context.facts.name}"
        # A warning, for whoever waits for it sees nothing else where nobody listens to the log.
        _log.warning("building %s; this takes minutes, and is done once", what)
        started_s = time.monotonic()
        plan = build_plan(onnx, ports, tensorrt, exact=precision == "fp32")
        seconds = time.monotonic() - started_s
        try:
            engine = open_engine(plan)
        except UnusableError as error:
            cure = "TensorRT may not know this GPU: take another version, or a CPU engine."
            raise GpuError(f"is refused by what built it ({error.what})", where=what, cure=cure) from error
        try:
            lines = measure_parity(engine, reference(), precision)
        except BaseException:
            engine.close()
            raise
        _log.info("built after %.0f s; against the CPU's encoder: %s", seconds, "; ".join(lines))
        return plan, {"build_seconds": round(seconds, 1), "parity": lines}, engine

    key = _key(onnx, precision, tensorrt, context.facts)
    return EngineCache(options.cache).provide(key, lambda plan, _: open_engine(plan), build)


def build_without_device(bundle: StudentBundle, options: EngineOptions) -> Provided:
    """Build an engine with TensorRT-RTX, which can on a machine without a GPU; it is compared with nothing.

    Its key names no GPU, so that nobody who has one takes it. Raises BundleError where the graph cannot be used;
    GpuError where it cannot be built.
    """
    tensorrt, precision = load_tensorrt("tensorrt_rtx"), options.precision
    onnx, ports = bundle.read_gpu_encoder(precision), ports_of(bundle, precision)

    def build() -> tuple[bytes, Record, None]:
        return build_plan(onnx, ports, tensorrt, exact=precision == "fp32"), {"parity": []}, None

    return EngineCache(options.cache).provide(_key(onnx, precision, tensorrt, None), lambda *_: None, build)[1]


def build_plan(onnx: bytes, ports: Ports, tensorrt: TensorRt, *, exact: bool = False) -> bytes:
    """Build an engine for one image at a time.

    Raises BundleError where the graph cannot be parsed, or has other ports; GpuError where it cannot be built;
    KeyboardInterrupt where it was interrupted. `onnx`: the encoder, see `StudentBundle.read_gpu_encoder`; `ports`: what
    it must take and give; `exact`: compute float32 as such; otherwise its products may be of numbers with a mantissa of
    10 bits (TF32).
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
    if exact:
        config.clear_flag(api.BuilderFlag.TF32)
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


def measure_parity(engine: TensorRtEngine, reference: Encoder, precision: str) -> list[str]:
    """Compare an engine with the CPU's encoder on the images of the gate, see `check_parity`."""
    _, height, width, _ = engine.ports[INPUT][0]
    images = gate_images(height, width)
    found = [engine(image[None])[0].copy() for image in images]
    return check_parity([reference(image).copy() for image in images], found, precision)


def _key(onnx: bytes, precision: str, tensorrt: TensorRt, device: DeviceFacts | None) -> Record:
    """All that an engine depends on; the power mode of a Jetson changes how many multiprocessors there are."""
    return {
        "kind": f"engine-{precision}",
        "settings": SETTINGS,
        "onnx_sha256": hashlib.sha256(onnx).hexdigest(),
        "flavour": tensorrt.flavour,
        "version": tensorrt.version,
        "machine": platform.machine(),
        **(asdict(device) if device else {}),
    }
