"""A student on an NVIDIA GPU: engines and kernels from the cache, or built, compared with the CPU by voxels and kept.

What the encoder gives stays on the GPU for the kernels, and what these give for the decoder: nothing is copied back but
states, depth, the ground and occupied voxels.
"""

import functools
import hashlib
import json
import logging
import platform
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scene_completion_ros.errors import GpuError
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.gpu import device
from scene_completion_ros.inference.gpu import kernels as gpu_kernels
from scene_completion_ros.inference.gpu.device import PrimaryContext
from scene_completion_ros.inference.gpu.device_scene import DeviceGraph, DeviceScene
from scene_completion_ros.inference.gpu.engine_cache import EngineCache, Key, UnusableError
from scene_completion_ros.inference.gpu.graph_engine import GraphEngine, TensorRt, build_plan, load_tensorrt
from scene_completion_ros.inference.gpu.half_precision import DevicePorts, device_ports, to_half
from scene_completion_ros.inference.gpu.kernels import CompiledKernels, KernelDevice, compile_kernels
from scene_completion_ros.inference.gpu.parity import DEVICE, device_parity
from scene_completion_ros.inference.graphs import graphs_of
from scene_completion_ros.inference.scene_query import Networks, PreparedScene

PRECISION = "fp16"

_log = logging.getLogger(__name__)


class DeviceStudent:
    """Kernels and engines of a student, ready to run on one stream; made and closed with the context current.

    `engines`: one a graph, in order, on the stream; they become this one's, which closes them.
    """

    def __init__(
        self, name: str, kernels: CompiledKernels, engines: Sequence[DeviceGraph], context: PrimaryContext, stream: Any
    ) -> None:
        self.name, self._kernels, self._engines = name, kernels, list(engines)
        self._context, self._stream = context, stream

    @classmethod
    def opened(
        cls,
        kernels: CompiledKernels,
        plans: Sequence[bytes],
        ports: Sequence[DevicePorts],
        tensorrt: TensorRt,
        context: PrimaryContext,
    ) -> "DeviceStudent":
        """The student on TensorRT.

        Raises UnusableError: the driver or TensorRT refuses it; GpuError: there is not enough memory, or the GPU fails.
        """
        student = cls(f"{tensorrt.flavour}_{PRECISION}", kernels, [], context, context.stream())
        try:
            check_loads(context, kernels)
            for plan, one in zip(plans, ports, strict=True):
                student._engines.append(GraphEngine(plan, one, tensorrt, context, student._stream))
        except BaseException:
            student.close()
            raise
        return student

    def scene(self, prepared: PreparedScene) -> DeviceScene:
        """What answers for a prepared scene. Raises GpuError where there is not enough memory."""
        with self._context.work("loading the kernels"):
            kernels = KernelDevice(self._context, self._kernels, self._stream)
        return DeviceScene(self._engines, kernels, self._context, prepared)

    def close(self) -> None:
        """Frees all memory; nothing of it may be touched any more."""
        while self._engines:
            self._engines.pop().close()
        self._stream = None


class DeviceNetworks(Networks):
    """A student on an NVIDIA GPU.

    Belongs to the thread that makes it, which holds the GPU's primary context; the last reference to it is to go there,
    too. Raises BundleError where a graph cannot be used; GpuError: something is missing, or engines or kernels cannot
    be built, miss the gate or cannot be run. `reference`: makes the CPU's networks, to compare what is built with.
    """

    def __init__(self, bundle: StudentBundle, reference: Callable[[], Networks]) -> None:
        device.require(device.installed_flavour())
        device.check_limits(bundle)
        self._bundle = bundle
        self._context = PrimaryContext()
        try:
            with self._context.work("preparing the GPU"):
                self._student = provide_student(bundle, self._context, reference)
        except BaseException:
            self._context.close()
            raise
        self.name = self._student.name
        finalizer = weakref.finalize(self, device.release, self._context, self._student)
        finalizer.atexit = False  # pycuda may be gone by then, and the driver cleans up by itself

    def scene(self, prepared: PreparedScene) -> DeviceScene:
        """See `Networks`."""
        device.check_limits(self._bundle, prepared.query.grid)
        scene = self._student.scene(prepared)
        scene.owner = self
        return scene


def provide_student(bundle: StudentBundle, context: PrimaryContext, reference: Callable[[], Networks]) -> DeviceStudent:
    """Engines and kernels of a bundle for this GPU, from the cache or built; with the context current.

    Errors: see `DeviceNetworks`.
    """
    tensorrt, facts = load_tensorrt(device.installed_flavour()), context.facts
    sizes = gpu_kernels.KernelSizes.of(bundle)
    steps = list(graphs_of(bundle))
    ports = [device_ports(step) for step in steps]

    def use(content: bytes) -> DeviceStudent:
        cubin, *plans = _split(content)
        kernels = CompiledKernels(cubin, sizes.kernels, "an earlier start")
        return DeviceStudent.opened(kernels, plans, ports, tensorrt, context)

    def build() -> tuple[bytes, DeviceStudent]:
        what = f"engines with {tensorrt.flavour} {tensorrt.version} for {facts.name}"
        # Warnings, so that they are shown without a handler of the log, too: the numbers belong into a bug report.
        _log.warning("building %s; this takes minutes, and is done once", what)
        started_s = time.monotonic()
        major, minor = (int(part) for part in facts.compute_capability.split("."))
        # Seconds that may fail stand before minutes.
        kernels = compile_kernels(sizes, (major, minor), check=functools.partial(check_loads, context))
        plans = [build_plan(to_half(step), one, tensorrt) for step, one in zip(steps, ports, strict=True)]
        seconds = time.monotonic() - started_s
        try:
            student = DeviceStudent.opened(kernels, plans, ports, tensorrt, context)
        except UnusableError as error:
            cure = "TensorRT may not know this GPU: take another version, or a CPU engine."
            raise GpuError(f"refused by what built them ({error.what})", where=what, cure=cure) from error
        try:
            lines = DEVICE.require(device_parity(bundle, student, reference()))
        except BaseException:
            student.close()
            raise
        _log.warning("built after %.0f s; against the CPU: %s", seconds, "; ".join(lines))
        return _joined([kernels.cubin, *plans]), student

    key: Key = {
        "kind": _kind(),
        "student": bundle.made_from(),
        "compared": [repr(one) for one in (bundle.calibration, bundle.thresholds, bundle.grid)],
        **asdict(sizes),
        "flavour": tensorrt.flavour,
        "version": tensorrt.version,
        "machine": platform.machine(),
        **asdict(facts),  # the power mode of a Jetson changes how many multiprocessors there are
    }
    return EngineCache().provide(key, use, build)


def require_compiler() -> None:
    """Refuse a machine on which kernels would have to be compiled, and cannot be.

    Raises GpuError where there is neither a compiler nor a file of this version in the engine cache, which may be the
    one that is needed; or where the cache cannot be used.
    """
    if not gpu_kernels.nvrtc_libraries() and not any(EngineCache().folder.glob(f"{_kind()}-*")):
        raise gpu_kernels.no_compiler()


def check_loads(context: PrimaryContext, kernels: CompiledKernels) -> None:
    """Raise UnusableError where the driver does not take kernels, another GpuError where the device fails."""
    try:
        KernelDevice(context, kernels).close()
    except device.GpuFailureError as error:
        if error.kind != "unknown":
            raise
        raise UnusableError(
            f"the kernels that {kernels.compiler} made do not load ({error.what})",
            where="GPU kernels",
            cure="See in nvidia-smi the newest CUDA version that the driver takes. Install a compiler that is no newer "
            "(pip install 'nvidia-cuda-nvrtc<=VERSION', or a toolkit), or a newer driver",
        ) from error


def _joined(parts: Sequence[bytes]) -> bytes:
    return json.dumps([len(part) for part in parts]).encode() + b"\n" + b"".join(parts)


def _split(content: bytes) -> list[bytes]:
    """What `_joined` made one of; the cache has checked that it is whole."""
    sizes, _, rest = content.partition(b"\n")
    parts = []
    for size in json.loads(sizes):
        parts.append(rest[:size])
        rest = rest[size:]
    return parts


@functools.cache
def _kind() -> str:
    """The version of what builds, runs and compares students, which made former files worthless where it is another."""
    own = sorted(path for path in Path(__file__).parent.iterdir() if path.suffix in (".cu", ".py"))
    return f"student-{hashlib.sha256(b''.join(path.read_bytes() for path in own)).hexdigest()[:16]}"
