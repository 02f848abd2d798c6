"""Compiles ``voxel_query.cu`` for one student and one GPU: NVRTC where it is installed, else nvcc.

Neither needs a GPU or its driver. NVRTC is a library (the package nvidia-cuda-nvrtc, or a CUDA toolkit) and compiles in
this process; nvcc is the compiler of a toolkit.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scene_completion_ros.errors import GpuError
from scene_completion_ros.inference.gpu.device import GpuFailureError
from scene_completion_ros.inference.head import HeadWeights

SOURCE = Path(__file__).with_name("voxel_query.cu")
KERNELS = ("query_density", "see_rays", "march_rays", "classify", "offsets", "compact", "query_labels", "query_phrases")
STANDARD = "--std=c++17"
CHANNEL_TILE = 32
"""Units that a warp's threads take at a time; their number must be a multiple of it."""
CURE = "pip install nvidia-cuda-nvrtc, or install the CUDA toolkit of your driver"

_USED = re.compile(r"Used (\d+) registers")
_MEMORY = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_ENTRY = re.compile(r"Compiling entry function '(\w+)'")


@dataclass(frozen=True)
class KernelSizes:
    """For which student kernels are compiled.

    Attributes:
        channels: Hidden units of the density.
        units: Hidden units of the labels, 0 for none.
        classes: Number of classes.
        half_features: The encoder's map and volume are float16, not float32.
        volume: The encoder gives a volume and the depth of the rays beside its map.

    Raises:
        GpuError: The kernels cannot have so many units.
    """

    channels: int
    units: int
    classes: int
    half_features: bool
    volume: bool = False

    def __post_init__(self) -> None:
        if self.channels < CHANNEL_TILE or self.channels % CHANNEL_TILE or self.units % CHANNEL_TILE:
            raise GpuError(
                f"{self.channels} hidden units and {self.units} of labels are no multiples of {CHANNEL_TILE}",
                where="GPU kernels",
                cure="Train a student with such sizes, or use an engine of the CPU.",
            )

    @staticmethod
    def of(head: HeadWeights, *, half_features: bool) -> KernelSizes:
        """The sizes of a student's head."""
        return KernelSizes(head.hidden, head.label_hidden, head.classes, half_features, head.volume is not None)

    @property
    def kernels(self) -> tuple[str, ...]:
        """Names of the kernels that such a student has."""
        without = {
            "march_rays" if self.volume else "see_rays",
            *(() if self.units else ("query_labels", "query_phrases")),
        }
        return tuple(name for name in KERNELS if name not in without)

    def definitions(self) -> tuple[str, ...]:
        """Options of the compiler."""
        values = {
            "CHANNELS": self.channels,
            "UNITS": self.units,
            "CLASSES": self.classes,
            "HALF_FEATURES": int(self.half_features),
            "VOLUME": int(self.volume),
        }
        return tuple(f"-D{name}={value}" for name, value in values.items())


@dataclass(frozen=True)
class KernelResources:
    """What one kernel takes on the GPU.

    Attributes:
        registers: A thread.
        spilled: Bytes a thread that are stored to or loaded from memory for want of registers.
        stack: Bytes a thread of arrays that lie in memory, because an index into them is not known before.
    """

    registers: int
    spilled: int
    stack: int


@dataclass(frozen=True)
class CompiledKernels:
    """Machine code for one architecture.

    Attributes:
        cubin: The code, for ``cuModuleLoadData``.
        names: The kernels in it.
        resources: Of each kernel.
        compiler: What compiled it.
    """

    cubin: bytes
    names: tuple[str, ...]
    resources: dict[str, KernelResources]
    compiler: str


def has_compiler() -> bool:
    """Whether `compile_kernels` has something to compile with."""
    return find_nvrtc() is not None or shutil.which("nvcc") is not None


def no_compiler() -> GpuError:
    """The error for where it has not."""
    return GpuError("neither NVRTC nor nvcc was found", where="GPU kernels", cure=f"{CURE}.")


def compile_kernels(
    sizes: KernelSizes,
    compute_capability: tuple[int, int],
    *,
    check: Callable[[CompiledKernels], None] | None = None,
) -> CompiledKernels:
    """Compiles the kernels with the first compiler that there is and whose kernels can be used.

    Args:
        sizes: The student's sizes.
        compute_capability: Of the GPU, e.g. (8, 7).
        check: Raises GpuError for kernels that cannot be used. A package's NVRTC may be newer than the driver. The
            driver then does not take what that NVRTC makes, but takes what the nvcc beside it makes.

    Raises:
        GpuError: There is no compiler, or each one fails.
    """
    library, nvcc = find_nvrtc(), shutil.which("nvcc")
    compilers: list[Callable[[KernelSizes, tuple[int, int]], CompiledKernels]] = []
    if library is not None:
        compilers.append(functools.partial(compile_with_nvrtc, library))
    if nvcc is not None:
        compilers.append(functools.partial(compile_with_nvcc, nvcc))
    if not compilers:
        raise no_compiler()
    failures: list[GpuError] = []
    for compiled_by in compilers:
        try:
            kernels = compiled_by(sizes, compute_capability)
            if check is not None:
                check(kernels)
        except GpuFailureError:  # of the device itself, for which no compiler is a cure
            raise
        except GpuError as error:
            failures.append(error)
        else:
            return kernels
    what = "; ".join(error.what for error in failures)
    raise GpuError(what, where="GPU kernels", cure=failures[-1].cure) from failures[-1]


def compile_with_nvcc(nvcc: str, sizes: KernelSizes, compute_capability: tuple[int, int]) -> CompiledKernels:
    """Compiles with the nvcc of a toolkit, see `compile_kernels`."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "voxel_query.cubin"
        command = [
            nvcc,
            "-cubin",
            f"-arch={_name(compute_capability)}",
            STANDARD,
            "-Xptxas",
            "-v",
            "-Werror=all-warnings",
        ]
        done = subprocess.run(
            [*command, *sizes.definitions(), "-o", str(file), str(SOURCE)], capture_output=True, text=True, check=False
        )
        log = done.stdout + done.stderr
        if done.returncode or not file.exists():
            raise _failed("nvcc", compute_capability, log)
        return CompiledKernels(file.read_bytes(), sizes.kernels, _resources(log), "nvcc")


def compile_with_nvrtc(library: Path, sizes: KernelSizes, compute_capability: tuple[int, int]) -> CompiledKernels:
    """Compiles with the library NVRTC, see `compile_kernels`."""
    cubin, log = nvrtc_cubin(library, SOURCE.read_bytes(), SOURCE.name, compute_capability, sizes.definitions())
    return CompiledKernels(cubin, sizes.kernels, _resources(log), "NVRTC")


def nvrtc_cubin(
    library: Path, source: bytes, name: str, compute_capability: tuple[int, int], definitions: Sequence[str] = ()
) -> tuple[bytes, str]:
    """Machine code of any source, and what the compiler says of it.

    Args:
        library: NVRTC, see `find_nvrtc`.
        source: CUDA C++.
        name: What to call it in messages.
        compute_capability: Of the GPU, e.g. (8, 7).
        definitions: More options.

    Raises:
        GpuError: It does not compile.
    """
    nvrtc = ctypes.CDLL(str(library))
    options = [f"--gpu-architecture={_name(compute_capability)}", STANDARD, "--ptxas-options=-v", *definitions]
    program = ctypes.c_void_p()
    if nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, name.encode(), 0, None, None):
        raise _failed("NVRTC", compute_capability, "no program could be made")
    try:
        encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        status = nvrtc.nvrtcCompileProgram(program, len(options), encoded)
        log = _text(nvrtc, "ProgramLog", program).decode(errors="replace").rstrip("\0")
        if status:
            raise _failed("NVRTC", compute_capability, log)
        return _text(nvrtc, "CUBIN", program), log
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def find_nvrtc() -> Path | None:
    """The library of the package nvidia-cuda-nvrtc, else the one that the system's linker finds, else None."""
    for package in ("nvidia.cu13", "nvidia.cuda_nvrtc"):
        try:
            found = importlib.util.find_spec(package)
        except ModuleNotFoundError:
            continue
        for folder in found.submodule_search_locations or () if found else ():
            libraries = sorted(Path(folder).glob("lib/libnvrtc.so.*[0-9]"))
            if libraries:
                return libraries[-1]
    name = ctypes.util.find_library("nvrtc")
    return Path(name) if name else None


def _text(nvrtc: ctypes.CDLL, what: str, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, text)
    return text.raw


def _name(compute_capability: tuple[int, int]) -> str:
    return f"sm_{compute_capability[0]}{compute_capability[1]}"


def _failed(compiler: str, compute_capability: tuple[int, int], log: str) -> GpuError:
    lines = [line for line in log.splitlines() if "error" in line] or log.splitlines()
    return GpuError(
        f"{compiler} failed for {_name(compute_capability)} ({'; '.join(lines[:3])[:300]})",
        where="GPU kernels",
        cure="The compiler may be older than the GPU, or newer than what it still supports: " + CURE,
    )


def _resources(log: str) -> dict[str, KernelResources]:
    """Registers and spills by kernel, from what ptxas says."""
    resources: dict[str, KernelResources] = {}
    kernel, spilled, stack = "", 0, 0
    for line in log.splitlines():
        if entry := _ENTRY.search(line):
            kernel, spilled, stack = entry[1], 0, 0
        elif memory := _MEMORY.search(line):
            stack, spilled = int(memory[1]), int(memory[2]) + int(memory[3])
        elif used := _USED.search(line):
            resources[kernel] = KernelResources(int(used[1]), spilled, stack)
    return resources
