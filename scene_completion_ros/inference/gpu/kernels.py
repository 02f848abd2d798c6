"""Compiles the CUDA kernels for one student and one GPU and runs them: memory for them, one stream with all in order.

NVRTC compiles in this process, and needs neither GPU nor driver: it is a library (the package nvidia-cuda-nvrtc, or a
CUDA toolkit, as JetPack has). pycuda runs what it made.
"""

import ctypes
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import GpuError
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.gpu.device import GpuFailureError, PrimaryContext, gpu_errors

FOLDER = Path(__file__).parent
SHARED = ("classify", "offsets", "compact")  # kernels of all students; those of the two kinds; and of those with labels
OF_FIELDS = ("query_density", "march_rays")
OF_CELLS = ("lift_cells", "find_lowest", "query_cells", "see_rays")
OF_LABELS = ("query_labels", "query_phrases")
STANDARD = "--std=c++17"
CHANNEL_TILE = 32  # units that a warp's threads take at a time; their number must be a multiple of it
MOST_CONTEXT = 64  # channels that cells look up
# The last one is a toolkit's of which the linker does not know.
SYSTEM = ("libnvrtc.so.13", "libnvrtc.so.12", "/usr/local/cuda/lib64/libnvrtc.so")
CURE = "pip install nvidia-cuda-nvrtc, or install the CUDA toolkit of your driver"


def padded_units(classes: int) -> int:
    """Units of a student that completes cells: its classes, and some that no class has."""
    return -(-classes // CHANNEL_TILE) * CHANNEL_TILE


@dataclass(frozen=True)
class KernelSizes:
    """For which student kernels are compiled. Raises GpuError where the kernels cannot have so many units."""

    units: int  # that labels and words follow from, 0 for none
    classes: int  # number of classes
    channels: int | None = None  # of a field student: hidden units of the density
    context: int | None = None  # of one that completes cells: channels that cells look up

    def __post_init__(self) -> None:
        channels = CHANNEL_TILE if self.channels is None else self.channels
        if channels < CHANNEL_TILE or channels % CHANNEL_TILE or self.units % CHANNEL_TILE:
            what = f"{channels} hidden units and {self.units} of labels are no multiples of {CHANNEL_TILE}"
        elif not 0 < (1 if self.context is None else self.context) <= MOST_CONTEXT:
            what = f"cells look up {self.context} channels where 1 to {MOST_CONTEXT} are possible"
        else:
            return
        raise GpuError(what, where="GPU kernels", cure="Train a student with such sizes, or use an engine of the CPU.")

    @staticmethod
    def of(bundle: StudentBundle) -> "KernelSizes":
        """The sizes of a student; to the classes of one that completes cells, units without a class are added."""
        volume = bundle.volume
        if volume is not None:
            return KernelSizes(padded_units(volume.classes), volume.classes, context=volume.context)
        head = bundle.field_head
        return KernelSizes(head.label_hidden, head.classes, channels=head.hidden)

    @property
    def kernels(self) -> tuple[str, ...]:
        """Names of the kernels that such a student has."""
        return (*(OF_FIELDS if self.context is None else OF_CELLS), *SHARED, *(OF_LABELS if self.units else ()))

    @property
    def source(self) -> str:
        """CUDA C++ of these."""
        files = "voxels.cu", "field.cu" if self.context is None else "cells.cu", "words.cu"
        return "\n".join(f'#line 1 "{name}"\n{(FOLDER / name).read_text(encoding="utf-8")}' for name in files)

    def definitions(self) -> tuple[str, ...]:
        """Options of the compiler."""
        return tuple(f"-D{name.upper()}={value}" for name, value in vars(self).items() if value is not None)


@dataclass(frozen=True)
class CompiledKernels:
    """Machine code for one architecture."""

    cubin: bytes  # the code, for ``cuModuleLoadData``
    names: tuple[str, ...]  # the kernels in it
    compiler: str  # file of the NVRTC that compiled it
    log: str = ""  # its output, with the registers of each kernel


def compile_kernels(
    sizes: KernelSizes,
    compute_capability: tuple[int, int],  # of the GPU, e.g. (8, 7)
    *,
    # Raises GpuError for kernels that cannot be used. A package's NVRTC may be newer than the driver. The driver then
    # does not take what that one makes, but takes what the toolkit's makes.
    check: Callable[[CompiledKernels], None] = lambda _: None,
) -> CompiledKernels:
    """Compiles the kernels with the first NVRTC that can. Raises GpuError where none is there, or each fails."""
    failures: list[GpuError] = []
    for library in nvrtc_libraries():
        try:
            code = nvrtc_cubin(library, sizes, compute_capability)
            kernels = CompiledKernels(code[0], sizes.kernels, str(library), code[1])
            check(kernels)
        except GpuFailureError:  # of the device itself, for which no compiler is a cure
            raise
        except GpuError as error:
            failures.append(error)
        else:
            return kernels
    if not failures:
        raise no_compiler()
    raise GpuError("; ".join(error.what for error in failures), where="GPU kernels", cure=failures[-1].cure)


def nvrtc_cubin(library: Path, sizes: KernelSizes, compute_capability: tuple[int, int]) -> tuple[bytes, str]:
    """Machine code, and the output of NVRTC, a library of `nvrtc_libraries`. Raises GpuError: it does not compile."""
    architecture = "sm_{}{}".format(*compute_capability)
    options = [f"--gpu-architecture={architecture}", STANDARD, "--ptxas-options=-v", *sizes.definitions()]
    program, log, cubin = ctypes.c_void_p(), "", b""
    try:
        nvrtc = ctypes.CDLL(str(library))
        status = nvrtc.nvrtcCreateProgram(ctypes.byref(program), sizes.source.encode(), b"voxels.cu", 0, None, None)
        if not status:
            encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            status = nvrtc.nvrtcCompileProgram(program, len(options), encoded)
            log = _text(nvrtc, "ProgramLog", program).decode(errors="replace").rstrip("\0")
            cubin = b"" if status else _text(nvrtc, "CUBIN", program)
            nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    except (OSError, AttributeError) as error:  # no such library, or one that is too old for this
        status, log = -1, str(error)
    if status:
        lines = [line for line in log.splitlines() if "error" in line] or log.splitlines()
        what = f"{library} failed for {architecture} ({'; '.join(lines[:3])[:300]})"
        cure = f"The compiler may be older than the GPU, or newer than what it still supports: {CURE}"
        raise GpuError(what, where="GPU kernels", cure=cure)
    return cubin, log


def nvrtc_libraries() -> list[Path]:
    """The libraries of the package nvidia-cuda-nvrtc, those that the system's linker finds, and a toolkit's."""
    found: list[Path] = []
    for package in ("nvidia.cu13", "nvidia.cuda_nvrtc"):
        try:
            spec = importlib.util.find_spec(package)
        except ModuleNotFoundError:
            continue
        for folder in spec.submodule_search_locations or () if spec else ():
            found += sorted(Path(folder).glob("lib/libnvrtc.so.*[0-9]"), reverse=True)
    for name in SYSTEM:
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        found.append(Path(name))
    return found


def no_compiler() -> GpuError:
    """The error for where there is none."""
    return GpuError("NVRTC was not found", where="GPU kernels", cure=f"{CURE}.")


def _text(nvrtc: ctypes.CDLL, what: str, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, text)
    return text.raw


@dataclass(frozen=True, eq=False)
class Buffer:
    """Memory that kernels read and write; it lives as long as this object."""

    pointer: int  # its address for kernels
    # shape, dtype: What lies there, row by row.
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: object  # what keeps the memory


@dataclass(frozen=True, eq=False)
class SharedBuffer(Buffer):
    """Page-locked memory of the host that kernels write to across the bus."""

    array: NDArray[Any]  # the same memory for the host; its content is defined after `KernelDevice.synchronise`


Argument: TypeAlias = "Buffer | np.int32 | np.float32 | None"  # a kernel's argument; None is a null pointer


class KernelDevice:
    """Runs kernels on a GPU, in the primary context.

    Made, used and closed with the context current, in one thread. Errors are those of pycuda unless stated: callers do
    their work in `PrimaryContext.work`. Raises GpuError where the kernels cannot be loaded. `stream`: what all is done
    on (`pycuda.driver.Stream`), for example an encoder's; a new one by default.
    """

    def __init__(self, context: PrimaryContext, kernels: CompiledKernels, stream: Any = None) -> None:
        self._context = context
        self._cuda = context.cuda
        self.stream: Any = context.stream() if stream is None else stream
        self._owned: list[Any] = []
        self._events: dict[str, Any] = {}
        self._laps: list[str] = []
        self.laps_ms: dict[str, float] = {}  # milliseconds of each lap since the last `begin`, after `synchronise`
        with gpu_errors("loading the kernels", context):
            self._module: Any = self._cuda.module_from_buffer(kernels.cubin)
            self._functions = {name: self._module.get_function(name) for name in kernels.names}

    def upload(self, array: NDArray[Any]) -> Buffer:
        """A copy of an array [...] on the device; returns when it is done."""
        contiguous = np.ascontiguousarray(array)
        buffer = self._allocated(contiguous.shape, contiguous.dtype)
        self.refill(buffer, contiguous)
        return buffer

    def refill(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """Copies an array [...] over the begin of what lies in a buffer; returns when it is done."""
        contiguous = np.ascontiguousarray(array)
        if contiguous.size:
            self._cuda.memcpy_htod_async(buffer.pointer, contiguous, self.stream)
            self.stream.synchronize()

    def fill(self, buffer: Buffer, source: SharedBuffer) -> None:
        """Copies from the host to the device, after all that was asked for before; does not wait for it."""
        self._cuda.memcpy_htod_async(buffer.pointer, source.array, self.stream)

    def empty(self, shape: Sequence[int], dtype: type[np.generic]) -> Buffer:
        """Memory on the device whose content is not defined. Raises GpuError where there is not enough."""
        return self._allocated(tuple(shape), np.dtype(dtype))

    def shared(self, shape: Sequence[int], dtype: type[np.generic]) -> SharedBuffer:
        """Memory of the host that the device writes to."""
        flags = self._cuda.host_alloc_flags.DEVICEMAP
        array: NDArray[Any] = self._cuda.pagelocked_zeros(tuple(shape), np.dtype(dtype), mem_flags=flags)
        owner: Any = array.base
        self._owned.append(owner)
        return SharedBuffer(int(owner.get_device_pointer()), array.shape, array.dtype, owner, array)

    def clear(self, buffer: Buffer) -> None:
        """Zeros."""
        self._cuda.memset_d8_async(buffer.pointer, 0, int(np.prod(buffer.shape)) * buffer.dtype.itemsize, self.stream)

    def launch(self, kernel: str, blocks: int, threads: int, *arguments: Argument) -> None:
        """Runs a kernel, after all that was asked for before."""
        values = [_value(argument) for argument in arguments]
        self._functions[kernel](*values, grid=(blocks, 1, 1), block=(threads, 1, 1), stream=self.stream)

    def copy(self, source: Buffer, target: SharedBuffer) -> None:
        """Copies from the device to the host, after all that was asked for before."""
        self._cuda.memcpy_dtoh_async(target.array, source.pointer, self.stream)

    def begin(self) -> None:
        """Takes note of when all that was asked for until now is done: the first lap begins there."""
        self._laps.clear()  # of a frame that failed
        self.lap("")

    def lap(self, name: str) -> None:
        """Takes note of when all that was asked for until now is done; each name once between two `begin`."""
        if name not in self._events:
            self._events[name] = self._cuda.Event()
        self._events[name].record(self.stream)
        self._laps.append(name)

    def synchronise(self) -> None:
        """Waits until everything that was asked for is done."""
        laps, self._laps = self._laps, []
        self.stream.synchronize()
        events = [self._events[name] for name in laps]
        times = [float(later.time_since(former)) for former, later in pairwise(events)]
        self.laps_ms = dict(zip(laps[1:], times, strict=True))

    def download(self, buffer: Buffer) -> NDArray[Any]:
        """A copy of what lies in a buffer, after all that was asked for."""
        array = np.empty(buffer.shape, buffer.dtype)
        self.stream.synchronize()
        if array.size:
            self._cuda.memcpy_dtoh(array, buffer.pointer)
        return array

    def close(self) -> None:
        """Frees all memory; nothing of it may be touched any more."""
        while self._owned:
            self._owned.pop().free()
        self._functions.clear()
        self._events.clear()
        self.stream = None  # with the context current
        self._module = None

    def _allocated(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Buffer:
        allocation = self._context.allocate(int(np.prod(shape)) * dtype.itemsize, "the voxel query")
        self._owned.append(allocation)
        return Buffer(int(allocation), shape, dtype, allocation)


def _value(argument: Argument) -> np.number[Any]:
    if argument is None:
        return np.uint64(0)
    return np.uint64(argument.pointer) if isinstance(argument, Buffer) else argument
