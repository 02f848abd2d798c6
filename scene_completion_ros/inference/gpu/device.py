"""The GPU through pycuda: its primary context, streams, memory, and what its errors mean.

The primary context is the one that TensorRT, torch and everything on the CUDA runtime use. A second context of pycuda's
would cost memory and make handles of one invalid in the other. It is current in a thread only between
``__enter__`` and ``__exit__``, so that it disturbs no other user of CUDA in the same thread.
"""

import ctypes
import importlib
import importlib.util
import logging
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from scene_completion_ros.errors import BundleError, GpuError, SceneCompletionError
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.inference.bundle import StudentBundle

Flavour = Literal["tensorrt", "tensorrt_rtx"]
FLAVOURS: tuple[Flavour, ...] = get_args(Flavour)

LARGEST_MAP = 2**28  # numbers of a feature map: 1 GiB in float32
LARGEST_GRID = 2**27  # voxels; 512 x 512 x 512


def check_limits(bundle: StudentBundle, grid: VoxelGrid | None = None) -> None:
    """Refuse what no engine, or no kernel, can be made for.

    Raises BundleError where features are too large; GpuError where the grid has too many voxels for the kernels.
    """
    if bundle.volume is None:
        shape = *bundle.feature_size, bundle.field_head.channels
        if math.prod(shape) > LARGEST_MAP:
            what = f"a map of {'x'.join(map(str, shape))} is larger than {LARGEST_MAP} numbers"
            cure = "Train a smaller student, or take a CPU engine."
            raise BundleError(what, where=f"bundle {bundle.name}", cure=cure)
    if grid is not None and math.prod(grid.shape) > LARGEST_GRID:
        what = f"{'x'.join(map(str, grid.shape))} voxels are more than the {LARGEST_GRID} that are allowed on a GPU"
        raise GpuError(what, where="grid", cure="Take larger voxels, a smaller grid, or a CPU engine.")


VERSIONS: dict[Flavour, tuple[tuple[int, int], tuple[int, int]]] = {
    "tensorrt": ((10, 3), (11, 4)),
    "tensorrt_rtx": ((1, 0), (1, 7)),
}  # oldest and newest version of each flavour that the code is written for; newer ones of the same generation may do

DRIVER = (
    "Ubuntu: sudo ubuntu-drivers install; a Jetson has it from JetPack; in a container: docker run --gpus all, on a "
    "Jetson --runtime nvidia"
)
DEVICE = "nvidia-smi must list it, and CUDA_VISIBLE_DEVICES must not hide it; in a container: docker run --gpus all"
PYCUDA = "pip install pycuda (it compiles, with a C++ compiler and the CUDA toolkit, nvcc on the PATH)"
INSTALL: dict[Flavour, str] = {
    "tensorrt": (
        "pip install tensorrt, with NVIDIA's package index, which its installation guide names. A Jetson has it from "
        "JetPack: sudo apt install nvidia-jetpack, and a virtual environment sees it with --system-site-packages"
    ),
    "tensorrt_rtx": "pip install tensorrt_rtx (x86-64 only)",
}


class CudaDevices(NamedTuple):
    """What the CUDA driver sees."""

    names: tuple[str, ...] | None  # names of the devices; None where there is no driver library
    error: int = 0  # error number of the driver; 0 where there is none


class Missing(NamedTuple):
    """A part that is missing, what is wrong with it, and how to install it."""

    part: str
    what: str
    cure: str


def cuda_devices() -> CudaDevices:
    """Ask the CUDA driver for its devices."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return CudaDevices(None)
    error = library.cuInit(0)
    count = ctypes.c_int(0)
    error = error or library.cuDeviceGetCount(ctypes.byref(count))
    names = []
    for index in range(count.value):
        name = ctypes.create_string_buffer(256)
        library.cuDeviceGetName(name, len(name), index)
        names.append(name.value.decode(errors="replace"))
    return CudaDevices(tuple(names), int(error))


def installed_flavour() -> Flavour:
    """The flavour that is used: TensorRT, unless only TensorRT-RTX is installed."""
    return next((flavour for flavour in FLAVOURS if importlib.util.find_spec(flavour)), "tensorrt")


def missing_parts(flavour: Flavour) -> list[Missing]:
    """What of driver, GPU, pycuda and TensorRT is missing; packages are imported where the driver sees a GPU."""
    missing: list[Missing] = []
    devices = cuda_devices()
    if devices.names is None:
        missing.append(Missing("the NVIDIA driver", "is missing (no libcuda.so.1)", DRIVER))
    elif not devices.names:
        missing.append(Missing("a GPU", f"is not seen by the NVIDIA driver (CUDA error {devices.error})", DEVICE))
    # Without the driver's library pycuda cannot be imported whether or not it is installed right.
    importable = not missing
    missing += _missing_package("pycuda", "pycuda.driver", PYCUDA, importable=importable)
    missing += _missing_package(flavour, flavour, INSTALL[flavour], importable=importable)
    for package in ("onnx", "onnxruntime"):  # they make the graph in float16
        missing += _missing_package(package, package, f"pip install {package}", importable=False)
    if not missing:
        problem = version_problem(flavour, str(getattr(importlib.import_module(flavour), "__version__", "")))
        missing += [Missing(flavour, problem, INSTALL[flavour])] if problem else []
    return missing


def require(flavour: Flavour) -> None:
    """Raises GpuError where something is missing: names all of it, and how to install it."""
    missing = missing_parts(flavour)
    if missing:
        cure = ". ".join(f"To get {part.part}: {part.cure}" for part in missing) + "."
        raise GpuError("; ".join(f"{part.part} {part.what}" for part in missing), where=f"engine {flavour}", cure=cure)


def version_problem(flavour: Flavour, version: str) -> str:
    """Why a version (its ``__version__``) cannot be used; empty where it can, or may be able to."""
    oldest, newest = VERSIONS[flavour]
    numbers = re.match(r"(\d+)\.(\d+)", version)
    found = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    if oldest <= found < (newest[0] + 1, 0):
        return ""
    needed = " to ".join(f"{major}.{minor}" for major, minor in (oldest, newest))
    return f"is version {version or 'unknown'}, needed is {needed}"


def _missing_package(package: str, module: str, cure: str, *, importable: bool) -> list[Missing]:
    if importlib.util.find_spec(package) is None:
        return [Missing(package, "is not installed", cure)]
    if importable:
        try:
            importlib.import_module(module)
        except Exception as error:  # a damaged installation may raise anything
            what = f"cannot be imported ({type(error).__name__}: {' '.join(str(error).split())})"
            return [Missing(package, what, cure)]
    return []


FailureKind = Literal["memory", "lost", "unknown"]

_OUT_OF_MEMORY = re.compile("out of memory|outofmemory|memory allocation|initialization failure with error: 2", re.I)
# After these nothing works in the process's context any more, whatever is tried.
_LOST = re.compile(
    "illegal memory access|illegal instruction|launch failed|launch failure|misaligned address|hardware stack error|"
    "device unavailable|busy or unavailable|timed out|invalid program counter|invalid pc|device-side assert|"
    "not supported on global/shared address space|ecc error|uncorrectable|context is destroyed|is lost|unknown error",
    re.I,
)
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DeviceFacts:
    """What a GPU is."""

    name: str
    compute_capability: str  # such as "8.7"
    multiprocessors: int  # how many of them are on; the power mode of a Jetson changes that


class PrimaryContext:
    """The primary context of the first GPU that CUDA_VISIBLE_DEVICES leaves, held until all who hold it have closed it.

    Made, used and closed in one thread. With it as a context manager it is current in the thread; so must be whatever
    allocates, launches or frees. May be entered within itself. Raises GpuError where there is no such GPU, or it cannot
    be used.
    """

    def __init__(self) -> None:
        with gpu_errors("opening the GPU"):
            import pycuda.driver as cuda

            self.cuda: Any = cuda  # `pycuda.driver`
            cuda.init()
            device = cuda.Device(0)
            major, minor = device.compute_capability()
            self.facts = DeviceFacts(
                name=device.name(),
                compute_capability=f"{major}.{minor}",
                multiprocessors=int(device.get_attribute(cuda.device_attribute.MULTIPROCESSOR_COUNT)),
            )
            self._context: Any = device.retain_primary_context()
        self._holders = 1

    def __enter__(self) -> "PrimaryContext":
        self._context.push()
        return self

    def __exit__(self, *exception: object) -> None:
        self.cuda.Context.pop()

    @contextmanager
    def work(self, doing: str) -> Iterator[None]:
        """The context is current for some work, whose errors become those of `gpu_errors`."""
        with gpu_errors(doing), self, gpu_errors(doing, self):  # entering may fail, too
            yield

    def hold(self) -> "PrimaryContext":
        """Hold it once more, so that it takes one more `close`: for an object that has memory in it."""
        self._holders += 1
        return self

    def stream(self) -> Any:
        """A new `pycuda.driver.Stream`; it and others, torch's default one too, do not wait for each other."""
        return self.cuda.Stream(_NON_BLOCKING)

    def allocate(self, size: int, what: str) -> Any:
        """Memory of the GPU (`pycuda.driver.DeviceAllocation`; ``int`` of it is the pointer, ``free`` frees it).

        `size`: bytes; `what`: what it is for, for the message where there is not enough. Raises GpuError where there is
        not enough, with the numbers.
        """
        with gpu_errors(f"allocating {size / 2**20:.0f} MiB for {what}", self):
            return self.cuda.mem_alloc(max(size, 1))

    def close(self) -> None:
        """Give the context back, once all have who hold it. All that was allocated in it must be freed before."""
        self._holders -= 1
        if self._holders:
            return
        context, self._context = self._context, None
        try:
            context.push()
            context.detach()
            _pop_released_context()
        except self.cuda.Error as error:  # nothing can be done about a lost device
            _log.warning("the GPU's context could not be given back: %s", error)


def _pop_released_context() -> None:
    """Make a context that was detached while it was current so no more: pycuda forgets it, CUDA does not."""
    ctypes.CDLL("libcuda.so.1").cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


def release(context: PrimaryContext, closed: Any) -> None:
    """Frees what something has on the GPU by its `close`, and holds the context once less."""
    try:
        with context.work("freeing memory"):
            closed.close()
    except GpuError as error:  # of a lost device, of which there is nothing left to release
        _log.warning("%s", error)
    context.close()


@contextmanager
def gpu_errors(doing: str, context: PrimaryContext | None = None) -> Iterator[None]:
    """Turns every error into a `GpuError`, after which callers go on without a GPU.

    That includes what only another version of pycuda or TensorRT raises, such as a TypeError for a changed signature.
    `context`: where given, which must be current, the message has the free memory.
    """
    try:
        yield
    except SceneCompletionError:
        raise
    except Exception as error:
        free = ""
        if context is not None:
            try:
                left, total = context.cuda.mem_get_info()
                free = f"; {left / 2**20:.0f} of {total / 2**20:.0f} MiB are free"
            except context.cuda.Error:  # of a lost device
                pass
        raise explain_failure(f"{type(error).__name__}: {error}{free}", doing) from error


class GpuFailureError(GpuError):
    """Something failed on the GPU."""

    def __init__(self, what: str, kind: FailureKind, cure: str) -> None:
        super().__init__(what, where="GPU", cure=cure)
        self.kind = kind  # what is behind it, as far as that is known


def explain_failure(text: str, doing: str) -> GpuFailureError:
    """The error to raise for one of CUDA or TensorRT."""
    message = " ".join(text.split())
    if _OUT_OF_MEMORY.search(message):
        cure = (
            "End other programs on the GPU, or take a CPU engine. nvidia-smi lists programs; on a Jetson, tegrastats "
            "shows the memory that the GPU shares with everything else."
        )
        return GpuFailureError(f"out of memory while {doing}: {message}", "memory", cure)
    if _LOST.search(message):
        cure = "Restart the node; where it comes again, see dmesg for lines with NVRM or Xid."
        return GpuFailureError(f"the device was lost while {doing}: {message}", "lost", cure)
    return GpuFailureError(
        f"{doing} failed: {message}", "unknown", "Run scene-completion doctor, and see its lines on the GPU."
    )
