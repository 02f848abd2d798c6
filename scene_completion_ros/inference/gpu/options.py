"""What an engine is asked for, what a bundle has to offer for it, and the limits of both."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from scene_completion_ros.errors import BundleError, GpuError, GridError
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.gpu_encoders import PRECISIONS

Flavour = Literal["tensorrt", "tensorrt_rtx"]
FLAVOURS: tuple[Flavour, ...] = get_args(Flavour)

LARGEST_BATCH = 16
WORKSPACE_MIB = (16, 65_536)  # smallest, largest
DLA_CORES = 2  # of Xavier and Orin; others have none
LARGEST_IMAGE_SIDE = 4096  # pixels
LARGEST_FEATURE_BYTES = 2**30  # of the feature maps of a batch, and of its volumes
LARGEST_GRID = 2**27  # voxels; 512 x 512 x 512


@dataclass(frozen=True)
class EngineOptions:
    """What an engine is asked for.

    Attributes:
        precision: One of `PRECISIONS`.
        batch: Smallest and largest number of images at a time; it is tuned for the largest.
        workspace_mib: Most memory that TensorRT may take for intermediate results, MiB.
        dla_core: Core of the deep learning accelerator of a Jetson to run on; None for the GPU. What the accelerator
            cannot run, runs on the GPU.
        flavour: TensorRT or TensorRT-RTX; None for the one that is installed.
        cache: Folder of the engine cache; None for the user's.
        graphs: Run encoder and voxel query as one CUDA graph where that gives the same voxels.

    Raises:
        GpuError: One of them is out of its limits, or they contradict each other.
    """

    precision: str = "fp16"
    batch: tuple[int, int] = (1, 1)
    workspace_mib: int = 1024
    dla_core: int | None = None
    flavour: Flavour | None = None
    cache: Path | None = None
    graphs: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise GpuError(
                f"{self.precision!r} is no precision", where="precision", cure=f"Use one of {', '.join(PRECISIONS)}."
            )
        low, high = self.batch
        if not 1 <= low <= high <= LARGEST_BATCH:
            cure = f"Give the smallest and the largest number of images, within 1 and {LARGEST_BATCH}, as in 1 4."
            raise GpuError(f"{low} to {high} is no range of batch sizes", where="batch", cure=cure)
        smallest, largest = WORKSPACE_MIB
        if not smallest <= self.workspace_mib <= largest:
            raise GpuError(
                f"{self.workspace_mib} MiB lie outside of {smallest} to {largest}",
                where="workspace",
                cure="1024 is enough for the encoders that this package exports.",
            )
        if self.dla_core is not None:
            self._check_dla(self.dla_core)

    def _check_dla(self, core: int) -> None:
        if not 0 <= core < DLA_CORES:
            raise GpuError(f"there is no core {core}", where="DLA", cure="Take core 0 or 1, or none.")
        if self.precision == "fp32":
            raise GpuError("it computes in fp16 and int8 only", where="DLA", cure="Take --precision fp16.")
        if self.batch[0] != self.batch[1]:
            cure = f"Take the same number twice, as in {self.batch[1]} {self.batch[1]}."
            raise GpuError("it runs one fixed batch size only", where="DLA", cure=cure)
        if self.flavour == "tensorrt_rtx":
            raise GpuError("TensorRT-RTX cannot use it", where="DLA", cure="Take the flavour tensorrt.")


def gpu_bundle(bundle: StudentBundle, precision: str) -> StudentBundle:
    """The bundle, where it has an encoder for GPUs in this precision.

    Raises:
        BundleError: It has none.
    """
    offered = bundle.gpu_precisions
    if precision not in offered:
        what = "has no encoder for GPUs"
        if offered:
            what = f"has encoders for GPUs in {', '.join(offered)} only, not in {precision}"
        raise BundleError(
            what,
            where=f"bundle {bundle.name}",
            cure=f"Add one (scene-completion export-gpu BUNDLE --precision {precision}), or take a CPU engine.",
        )
    return bundle


def check_limits(bundle: StudentBundle, options: EngineOptions, grid: VoxelGrid | None = None) -> None:
    """Refuse sizes that no engine should be built for.

    Args:
        grid: Where voxels are wanted; None where only the encoder runs on the GPU.

    Raises:
        BundleError: Image, features or volume are too large.
        GridError: The grid has too many voxels.
    """
    width, height = bundle.canonical.width, bundle.canonical.height
    if max(width, height) > LARGEST_IMAGE_SIDE:
        raise BundleError(
            f"images of {width}x{height} pixels are larger than {LARGEST_IMAGE_SIDE} on a side",
            where="canonical_camera",
            cure="Train a student for smaller images.",
        )
    rows, columns = bundle.feature_size
    size = 4 * options.batch[1] * rows * columns * bundle.head.channels
    if size > LARGEST_FEATURE_BYTES:
        raise BundleError(
            f"{options.batch[1]} feature maps of {columns}x{rows} with {bundle.head.channels} channels take "
            f"{size / 2**20:.0f} MiB, at most {LARGEST_FEATURE_BYTES / 2**20:.0f} MiB are allowed",
            where="head",
            cure="Take a smaller batch, or a student with fewer channels.",
        )
    if bundle.head.volume_knots and 4 * options.batch[1] * math.prod(bundle.head.volume_knots) > LARGEST_FEATURE_BYTES:
        raise BundleError(
            f"{options.batch[1]} volumes of {'x'.join(map(str, bundle.head.volume_knots))} knots take more than "
            f"{LARGEST_FEATURE_BYTES / 2**20:.0f} MiB",
            where="head.volume_knots",
            cure="Take a smaller batch, or a student with fewer voxels.",
        )
    if grid is not None:
        check_grid(grid)


def check_grid(grid: VoxelGrid) -> None:
    """Raise GridError where a grid has more voxels than the kernels can count."""
    voxels = grid.shape[0] * grid.shape[1] * grid.shape[2]
    if voxels > LARGEST_GRID:
        raise GridError(
            f"{'x'.join(map(str, grid.shape))} are {voxels} voxels, at most {LARGEST_GRID} are allowed on a GPU",
            where="grid",
            cure="Take larger voxels, a smaller grid, or a CPU engine.",
        )
