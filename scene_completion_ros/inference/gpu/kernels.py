"""Compiles ``voxel_query.cu`` for one student and one GPU with NVRTC, which needs neither GPU nor driver.

NVRTC is a library (the package nvidia-cuda-nvrtc, or a CUDA toolkit, as JetPack has) and compiles in this process.
"""

import ctypes
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scene_completion_ros.errors import GpuError
from scene_completion_ros.inference.gpu.device import GpuFailureError
from scene_completion_ros.inference.head import HeadWeights

SOURCE = Path(__file__).with_name("voxel_query.cu")
KERNELS = ("query_density", "see_rays", "march_rays", "classify", "offsets", "compact", "query_labels", "query_phrases")
STANDARD = "--std=c++17"
CHANNEL_TILE = 32  # units that a warp's threads take at a time; their number must be a multiple of it
# The last one is a toolkit's of which the linker does not know.
SYSTEM = ("libnvrtc.so.13", "libnvrtc.so.12", "/usr/local/cuda/lib64/libnvrtc.so")
CURE = "pip install nvidia-cuda-nvrtc, or install the CUDA toolkit of your driver"


@dataclass(frozen=True)
class KernelSizes:
    """For which student kernels are compiled. Raises GpuError where the kernels cannot have so many units."""

    channels: int  # hidden units of the density
    units: int  # hidden units of the labels, 0 for none
    classes: int  # number of classes
    half_features: bool  # the encoder's map and volume are float16, not float32
    volume: bool = False  # the encoder gives a volume and the depth of the rays beside its map

    def __post_init__(self) -> None:
        if self.channels < CHANNEL_TILE or self.channels % CHANNEL_TILE or self.units % CHANNEL_TILE:
            what = f"{self.channels} hidden units and {self.units} of labels are no multiples of {CHANNEL_TILE}"
            cure = "Train a student with such sizes, or use an engine of the CPU."
            raise GpuError(what, where="GPU kernels", cure=cure)

    @staticmethod
    def of(head: HeadWeights, *, half_features: bool) -> "KernelSizes":
        """The sizes of a student's head."""
        return KernelSizes(head.hidden, head.label_hidden, head.classes, half_features, head.volume is not None)

    @property
    def kernels(self) -> tuple[str, ...]:
        """Names of the kernels that such a student has."""
        without = ["march_rays" if self.volume else "see_rays"]
        without += [] if self.units else ["query_labels", "query_phrases"]
        return tuple(name for name in KERNELS if name not in without)

    def definitions(self) -> tuple[str, ...]:
        """Options of the compiler."""
        return tuple(f"-D{name.upper()}={int(value)}" for name, value in vars(self).items())


@dataclass(frozen=True)
class CompiledKernels:
    """Machine code for one architecture."""

    cubin: bytes  # the code, for ``cuModuleLoadData``
    names: tuple[str, ...]  # the kernels in it
    compiler: str  # file of the NVRTC that compiled it
    log: str = ""  # what that said, with the registers that each kernel takes


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
            code = nvrtc_cubin(library, SOURCE.read_bytes(), SOURCE.name, compute_capability, sizes.definitions())
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


def nvrtc_cubin(
    library: Path, source: bytes, name: str, compute_capability: tuple[int, int], definitions: Sequence[str] = ()
) -> tuple[bytes, str]:
    """Machine code of any source, and what the compiler says of it. Raises GpuError where it does not compile.

    Args:
        library: NVRTC, see `nvrtc_libraries`.
        source: CUDA C++.
        name: What to call it in messages.
        compute_capability: Of the GPU, e.g. (8, 7).
        definitions: More options.
    """
    architecture = "sm_{}{}".format(*compute_capability)
    options = [f"--gpu-architecture={architecture}", STANDARD, "--ptxas-options=-v", *definitions]
    program, log, cubin = ctypes.c_void_p(), "", b""
    try:
        nvrtc = ctypes.CDLL(str(library))
        status = nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, name.encode(), 0, None, None)
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
