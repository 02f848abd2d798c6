"""What several students together know of the voxels before a camera: soft targets for one that is to know as much.

The mean of the probabilities of students that learned differently is better than each of them, and one student that
learns it answers at the price of one (Hinton et al., Distilling the Knowledge in a Neural Network, 2015). It takes
images alone. Where the students disagree, none of them may know: how far they are apart is kept with the mean.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.geometry import DEFAULT_GRID_FROM_CAMERA, Resampler, RigidTransform, VoxelGrid
from scene_completion_ros.inference.bundle import MANIFEST, StudentBundle, open_student
from scene_completion_ros.inference.cells import STRIDE
from scene_completion_ros.inference.completer import SMALLEST_COVERAGE, Completer, mounting_warnings
from scene_completion_ros.inference.encoder import cpu_engine
from scene_completion_training.arrays import Bytes, Floats, Reals
from scene_completion_training.viewpoint import Viewpoint

UNKNOWN = 255  # doubt of cells that the image does not show; the deviation of probabilities is at most 127.5
_VERSION = 1


class TaughtVoxels:
    """Probabilities of occupancy of cells by the members of an ensemble, as these run on a robot, in single precision.

    Members that were not trained for a camera's height or pitch are not asked. Raises BundleError where a member cannot
    be read; ConfigurationError where it is of another world.

    Attributes:
        key: Names the members, by the hashes of all their files.
    """

    def __init__(
        self,
        members: Sequence[str | Path],  # folders of bundles, or names of those of the package
        viewpoint: Viewpoint,  # that of the student to be trained
    ) -> None:
        self.viewpoint = viewpoint
        self._bundles = [open_student(member) for member in members]
        for member, bundle in zip(members, self._bundles, strict=True):
            _check(str(member), bundle, viewpoint)
        # A manifest has the hash of each file of its bundle.
        manifests = [bundle.encoder_path.with_name(MANIFEST).read_bytes() for bundle in self._bundles]
        made_of = [_VERSION, *(hashlib.sha256(manifest).hexdigest() for manifest in manifests)]
        self.key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
        self._last: tuple[RigidTransform, list[Completer]] | None = None

    def of(self, image_rgb: Bytes, volume_from_camera: RigidTransform) -> tuple[Bytes, Bytes]:
        """Mean over the members, and standard deviation between them, of the probability that a cell is occupied.

        That of a cell is the mean of its voxels in the view of all members. `image_rgb`: of the viewpoint's camera,
        uint8 [H, W, 3] RGB; `volume_from_camera`: pose of the camera in the viewpoint's volume, which stands upright.
        Returns uint8 [ceil(X / 2), ceil(Y / 2), ceil(Z / 2)] each, in 1/255; without a voxel in view the mean is 0
        and the deviation `UNKNOWN`.
        """
        placed = self._placed(volume_from_camera)
        seen = np.full(self.viewpoint.volume.grid.shape, bool(placed))
        for completer in placed:
            seen &= completer.in_view
        count = _in_cells(seen)
        if not placed:
            return np.zeros(count.shape, np.uint8), np.full(count.shape, UNKNOWN, np.uint8)
        found = [_in_cells(seen * one.complete(image_rgb, labels=False).probability) for one in placed]
        each = np.rint(255.0 / np.maximum(count, 1.0) * (np.mean(found, axis=0), np.std(found, axis=0)))
        return each[0].astype(np.uint8), np.where(count > 0, each[1], UNKNOWN).astype(np.uint8)

    def _placed(self, volume_from_camera: RigidTransform) -> list[Completer]:
        """The members that are asked, for a place of the camera; those of the last one are kept."""
        if self._last is None or not np.array_equal(self._last[0].matrix, volume_from_camera.matrix):
            height = np.array([0.0, 0.0, self.viewpoint.height_above_ground])
            upright = RigidTransform(np.eye(3), height) @ volume_from_camera
            asked = [one for one in self._completers if not mounting_warnings(one.bundle, upright)]
            self._last = volume_from_camera, [one.mounted(upright).placed(volume_from_camera) for one in asked]
        return self._last[1]

    @cached_property
    def _completers(self) -> list[Completer]:
        grid, pose, engine = self.viewpoint.volume.grid, DEFAULT_GRID_FROM_CAMERA, cpu_engine()
        options = {"grid": grid, "grid_from_camera": pose, "engine": engine}
        return [Completer(bundle, self.viewpoint.camera, **options) for bundle in self._bundles]  # type: ignore[arg-type]


def cells_of(grid: VoxelGrid) -> VoxelGrid:
    """The cells of a grid, `STRIDE` voxels to an edge; the last ones may reach beyond it."""
    x, y, z = (-(-count // STRIDE) for count in grid.shape)
    return VoxelGrid(grid.origin, STRIDE * grid.voxel_size, (x, y, z), grid.frame)


def _in_cells(values: Reals) -> Floats:
    """Sums over the voxels of cells, of numbers or booleans [X, Y, Z]."""
    sums = values.astype(np.float32)
    for axis, count in enumerate(values.shape):
        sums = np.add.reduceat(sums, np.arange(0, count, STRIDE), axis)
    return sums


def _check(member: str, bundle: StudentBundle, viewpoint: Viewpoint) -> None:
    """Raises ConfigurationError: its voxels, or its camera, are of another world than the student to be trained."""
    where, cure = f"data.teachers: {member}", "Name students for the camera and the volume of the configuration"
    edge, own = viewpoint.volume.voxel_size, bundle.grid.voxel_size
    if abs(own - edge) > 1e-6:
        raise ConfigurationError(f"its voxels are {own:g} m, those of the volume {edge:g} m", where=where, cure=cure)
    cameras = viewpoint.camera, bundle.canonical
    shared = min(float(Resampler(*pair).validity.mean()) for pair in (cameras, cameras[::-1]))
    if shared < SMALLEST_COVERAGE:
        what = f"its camera and that of the configuration have {100 * shared:.0f} % of an image in common"
        raise ConfigurationError(f"{what}, {100 * SMALLEST_COVERAGE:.0f} % are needed", where=where, cure=cure)
