"""What an engine is asked for, and what is too large for one."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from scene_completion_ros.errors import BundleError, GpuError
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.gpu_encoders import missing

Flavour = Literal["tensorrt", "tensorrt_rtx"]
FLAVOURS: tuple[Flavour, ...] = get_args(Flavour)

LARGEST_MAP = 2**28  # numbers of a feature map, and of a volume: 1 GiB in float32
LARGEST_GRID = 2**27  # voxels; 512 x 512 x 512


@dataclass(frozen=True)
class EngineOptions:
    """What an engine is asked for."""

    precision: str = "fp16"  # one of those that the bundle has
    cache: Path | None = None  # folder of the engine cache; None for the user's


def check_limits(bundle: StudentBundle, options: EngineOptions, grid: VoxelGrid | None = None) -> None:
    """Refuse what no engine, or no kernel, can be made for.

    Raises BundleError where there is no encoder in this precision, or features or volume are too large; GpuError where
    the grid has too many voxels for the kernels.
    """
    if options.precision not in bundle.gpu_precisions:
        raise missing(options.precision, bundle.gpu_precisions, str(bundle.folder))
    for shape in ((*bundle.feature_size, bundle.head.channels), bundle.head.volume_knots):
        if math.prod(shape) > LARGEST_MAP:
            what = f"a map of {'x'.join(map(str, shape))} is larger than {LARGEST_MAP} numbers"
            cure = "Train a smaller student, or take a CPU engine."
            raise BundleError(what, where=f"bundle {bundle.name}", cure=cure)
    if grid is not None and math.prod(grid.shape) > LARGEST_GRID:
        what = f"{'x'.join(map(str, grid.shape))} voxels are more than the {LARGEST_GRID} that are allowed on a GPU"
        raise GpuError(what, where="grid", cure="Take larger voxels, a smaller grid, or a CPU engine.")
