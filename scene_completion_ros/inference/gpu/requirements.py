"""What a GPU engine is asked for and needs, what of it is missing here, and how to install that. Starts no CUDA."""

import ctypes
import importlib
import importlib.util
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from scene_completion_ros.errors import BundleError, GpuError
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.inference.bundle import StudentBundle

Flavour = Literal["tensorrt", "tensorrt_rtx"]
FLAVOURS: tuple[Flavour, ...] = get_args(Flavour)

LARGEST_MAP = 2**28  # numbers of a feature map: 1 GiB in float32
LARGEST_GRID = 2**27  # voxels; 512 x 512 x 512


@dataclass(frozen=True)
class EngineOptions:
    """What an engine is asked for."""

    precision: str = "fp16"  # one of those that the bundle has
    cache: Path | None = None  # folder of the engine cache; None for the user's


def check_limits(bundle: StudentBundle, options: EngineOptions, grid: VoxelGrid | None = None) -> None:
    """Refuse what no engine, or no kernel, can be made for.

    Raises BundleError where there is no encoder in this precision, or features are too large; GpuError where the grid
    has too many voxels for the kernels.
    """
    if options.precision not in bundle.gpu_precisions:
        raise bundle.no_gpu_encoder(options.precision)
    shape = *bundle.feature_size, bundle.head.channels
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


def missing_parts(flavour: Flavour, *, device: bool = True) -> list[Missing]:
    """What of driver, GPU, pycuda and TensorRT is missing; packages are imported where the driver sees a GPU.

    `device`: whether a GPU is needed, or the builder alone.
    """
    missing: list[Missing] = []
    if device:
        devices = cuda_devices()
        if devices.names is None:
            missing.append(Missing("the NVIDIA driver", "is missing (no libcuda.so.1)", DRIVER))
        elif not devices.names:
            missing.append(Missing("a GPU", f"is not seen by the NVIDIA driver (CUDA error {devices.error})", DEVICE))
    # Without the driver's library pycuda cannot be imported whether or not it is installed right.
    importable = not missing
    if device:
        missing += _missing_package("pycuda", "pycuda.driver", PYCUDA, importable=importable)
    missing += _missing_package(flavour, flavour, INSTALL[flavour], importable=importable)
    if not missing:
        problem = version_problem(flavour, str(getattr(importlib.import_module(flavour), "__version__", "")))
        missing += [Missing(flavour, problem, INSTALL[flavour])] if problem else []
    return missing


def require(flavour: Flavour, *, device: bool = True) -> None:
    """Raises GpuError where something is missing: names all of it, and how to install it."""
    missing = missing_parts(flavour, device=device)
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
