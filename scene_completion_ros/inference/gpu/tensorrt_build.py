"""ONNX to plan: one way for TensorRT 10.3 to 11.4 and for TensorRT-RTX.

Networks are strongly typed: the graph's own types decide the precision, as TensorRT 11 has it and 10 can. No flag of
the builder that 11 removed is used. TensorRT-RTX builds without a GPU; TensorRT measures kernels on the one that the
plan is for.
"""

from __future__ import annotations

import hashlib
import logging
import platform
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from scene_completion_ros.errors import BundleError, GpuError
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.gpu.engine_cache import EngineKey
from scene_completion_ros.inference.gpu.options import EngineOptions
from scene_completion_ros.inference.gpu.tensorrt_runtime import INPUT, TensorRt, element_type, outputs_of
from scene_completion_ros.inference.scene_query import ray_camera

SAY_EVERY_S = 5.0
_Port: TypeAlias = "tuple[str, tuple[int, ...], Any]"
"""Name, shape and type."""

_log = logging.getLogger(__name__)


def engine_key(
    bundle: StudentBundle,
    onnx: bytes,
    options: EngineOptions,
    tensorrt: TensorRt,
    *,
    gpu_name: str = "",
    compute_capability: str = "",
    multiprocessors: int = 0,
) -> EngineKey:
    """The key of an engine.

    Args:
        onnx: Its encoder for GPUs.
        gpu_name: Name of the GPU; empty, as the next two, for a build without one.
        compute_capability: Of the GPU, such as "8.7".
    """
    rays = ray_camera(bundle.canonical)
    return EngineKey(
        onnx_sha256=hashlib.sha256(onnx).hexdigest(),
        flavour=tensorrt.flavour,
        tensorrt_version=tensorrt.version,
        machine=platform.machine(),
        gpu_name=gpu_name,
        compute_capability=compute_capability,
        multiprocessors=multiprocessors,
        precision=options.precision,
        batch=options.batch,
        image=(bundle.canonical.height, bundle.canonical.width),
        features=(*bundle.feature_size, bundle.head.channels),
        volume=bundle.head.volume_knots or None,
        depth=(rays.height, rays.width) if bundle.head.volume else None,
        workspace_mib=options.workspace_mib,
        dla_core=options.dla_core,
    )


def build_plan(
    onnx: bytes, key: EngineKey, tensorrt: TensorRt, *, timings: bytes = b"", wanted: Callable[[], bool] = lambda: True
) -> tuple[bytes, bytes]:
    """Build an engine.

    Args:
        onnx: The encoder, see `StudentBundle.read_gpu_encoder`.
        key: What to build, and the shapes that the graph must have.
        timings: Timing cache of a former build; empty where there is none.
        wanted: Asked after every step; where it is false, the build is given up.

    Returns:
        The plan, and the timing cache to keep (empty with TensorRT-RTX, which has none).

    Raises:
        BundleError: The graph cannot be parsed, or has other ports than are needed.
        GpuError: It cannot be built, or is not wanted any more.
        KeyboardInterrupt: It was interrupted.
    """
    api = tensorrt.api
    tensorrt.forget_errors()
    try:
        builder = api.Builder(tensorrt.logger)
    except TypeError as error:  # pybind11's answer to a null pointer
        cure = "See whether scene-completion doctor finds the GPU."
        raise GpuError(f"no builder: {tensorrt.errors()}", where=f"engine {key.flavour}", cure=cure) from error
    flags: Any = getattr(api, "NetworkDefinitionCreationFlag", None)
    typed = 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0  # always so where there is none
    network = builder.create_network(typed)
    parser = api.OnnxParser(network, tensorrt.logger)  # refers to the network, as this function does
    if key.dla_core is not None and hasattr(getattr(api, "OnnxParserFlag", None), "ADJUST_FOR_DLA"):
        parser.set_flag(api.OnnxParserFlag.ADJUST_FOR_DLA)
    if not parser.parse(onnx):
        errors = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise _bad_graph(key, f"{key.flavour} {key.tensorrt_version} cannot parse it ({' '.join(errors.split())})")
    check_ports(network, key, api)
    config, cache = _configure(builder, key, tensorrt, timings)
    monitor = _Monitor(wanted)
    listener = monitor.of(api)  # TensorRT does not keep it alive
    config.progress_monitor = listener
    plan = builder.build_serialized_network(network, config)
    monitor.raise_interruption()
    if plan is None:
        if not wanted():
            raise GpuError("the build was given up", where=f"engine {key.flavour}", cure="Build it again.")
        raise GpuError(
            f"{key.flavour} {key.tensorrt_version} cannot build the {key.precision} engine: {tensorrt.errors()}",
            where=f"engine {key.flavour}",
            cure="Give it more workspace (gpu_workspace, --workspace) or another precision, or take a CPU engine.",
        )
    return bytes(plan), b"" if cache is None else bytes(config.get_timing_cache().serialize())


def check_ports(network: Any, key: EngineKey, api: Any) -> None:
    """Compare the inputs and outputs of a parsed network with what a key wants.

    Raises:
        BundleError: They differ.
    """
    given: list[_Port] = [(INPUT, (-1, *key.image, 3), api.DataType.UINT8)]
    made: list[_Port] = [
        (name, (-1, *shape), element_type(kind, api)) for name, (shape, kind) in outputs_of(key).items()
    ]
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    for what, found, expected in (("input", inputs, given), ("output", outputs, made)):
        ports = [(port.name, tuple(port.shape), port.dtype) for port in found]
        if ports != expected:
            raise _bad_graph(key, f"{what} is {_in_words(ports)} where {_in_words(expected)} is needed")


def _configure(builder: Any, key: EngineKey, tensorrt: TensorRt, timings: bytes) -> tuple[Any, Any]:
    """The configuration of a build, and its timing cache, where there is one."""
    api = tensorrt.api
    config = builder.create_builder_config()
    config.set_memory_pool_limit(api.MemoryPoolType.WORKSPACE, key.workspace_mib * 2**20)
    if key.precision == "fp32":
        config.clear_flag(api.BuilderFlag.TF32)  # which is on by default, and has a mantissa of 10 bits
    profile = builder.create_optimization_profile()
    smallest, largest = ((batch, *key.image, 3) for batch in key.batch)
    profile.set_shape(INPUT, smallest, largest, largest)
    config.add_optimization_profile(profile)
    if key.dla_core is not None:
        if builder.num_DLA_cores <= key.dla_core:
            raise GpuError(
                f"there are {builder.num_DLA_cores} cores, so none with number {key.dla_core}",
                where="DLA",
                cure="Build for the GPU. TensorRT has DLA up to 10.7, and from 11.4.1 under JetPack 7.2.2.",
            )
        config.default_device_type = api.DeviceType.DLA
        config.DLA_core = key.dla_core
        config.set_flag(api.BuilderFlag.GPU_FALLBACK)
    if key.flavour == "tensorrt_rtx":  # it measures nothing while it builds
        return config, None
    cache = _timing_cache(config, timings)
    if cache is None and timings:
        _log.warning("TensorRT cannot use the timing cache, and begins a new one")
        tensorrt.forget_errors()  # they would be given as the reason why the build failed
        cache = _timing_cache(config, b"")
    return config, cache


def _timing_cache(config: Any, timings: bytes) -> Any:
    """The timing cache that a configuration now has; None where TensorRT takes none of these timings."""
    cache = config.create_timing_cache(timings)
    return cache if cache is not None and config.set_timing_cache(cache, False) else None


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class BuildProgress:
    """Adds up the phases that TensorRT's builder reports, from any of its threads.

    Args:
        say: Called with the fraction, 0 to 1, and the name of the innermost phase; never less than before, at most
            every few seconds.
        wanted: Asked after every step; where it is false, the build is given up.
        every_s: Seconds between two calls of `say`.
    """

    def __init__(
        self,
        say: Callable[[float, str], None],
        *,
        wanted: Callable[[], bool] = lambda: True,
        every_s: float = SAY_EVERY_S,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say = say
        self._wanted = wanted
        self._every_s = every_s
        self._now_s = now_s
        self._said_s = now_s()
        self._phases: dict[str, _Phase] = {}
        self._fraction = 0.0
        self._lock = threading.Lock()

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins; it is a part of the next step of its parent."""
        with self._lock:
            self._phases[name] = _Phase(parent, max(steps, 1))

    def step(self, name: str, step: int) -> bool:
        """A step of a phase is done, counted from 0; whether the build is still wanted."""
        with self._lock:
            phase = self._phases.get(name)
            if phase is not None:
                phase.done = max(phase.done, min(step + 1, phase.steps))
            self._advance(name)
        return self._wanted()

    def finish(self, name: str) -> None:
        """A phase is over, also where the build failed."""
        with self._lock:
            self._phases.pop(name, None)

    def _advance(self, name: str) -> None:
        roots = [phase for phase in self._phases.items() if phase[1].parent is None]
        self._fraction = max([self._fraction, *(self._fraction_of(*root) for root in roots)])
        if self._now_s() - self._said_s >= self._every_s:
            self._said_s = self._now_s()
            self._say(self._fraction, name)

    def _fraction_of(self, name: str, phase: _Phase) -> float:
        parts = [self._fraction_of(*child) for child in self._phases.items() if child[1].parent == name]
        return min((phase.done + max(parts, default=0.0)) / phase.steps, 1.0)


class _Monitor:
    """Hands what TensorRT reports of a build to `BuildProgress`; nothing may be raised into TensorRT's code."""

    def __init__(self, wanted: Callable[[], bool]) -> None:
        self._interruption: BaseException | None = None
        self._progress = BuildProgress(_say_in_log, wanted=wanted)

    def of(self, api: Any) -> Any:
        """The object that TensorRT calls."""
        progress, guarded = self._progress, self._guarded

        class Monitor(api.IProgressMonitor):  # type: ignore[misc, name-defined]  # its base is known at run time only
            def __init__(self) -> None:
                api.IProgressMonitor.__init__(self)

            def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
                guarded(lambda: progress.start(phase_name, parent_phase, num_steps))

            def step_complete(self, phase_name: str, step: int) -> bool:
                return guarded(lambda: progress.step(phase_name, step))

            def phase_finish(self, phase_name: str) -> None:
                guarded(lambda: progress.finish(phase_name))

        return Monitor()

    def raise_interruption(self) -> None:
        """Raise what was raised during the build, such as KeyboardInterrupt."""
        if self._interruption is not None:
            raise self._interruption

    def _guarded(self, work: Callable[[], bool | None]) -> bool:
        """Do something; false ends the build."""
        if self._interruption is None:
            try:
                return work() is not False
            except BaseException as error:
                self._interruption = error
        return False


def _say_in_log(fraction: float, phase: str) -> None:
    _log.info("building the engine: %.0f %% (%s)", 100.0 * fraction, phase)


def _in_words(ports: list[_Port]) -> str:
    return ", ".join(
        f"{name} {getattr(kind, 'name', kind)} [{', '.join('N' if size == -1 else str(size) for size in shape)}]"
        for name, shape, kind in ports
    )


def _bad_graph(key: EngineKey, what: str) -> BundleError:
    return BundleError(what, where=f"encoder for GPUs, {key.precision}", cure="Export the bundle again.")
