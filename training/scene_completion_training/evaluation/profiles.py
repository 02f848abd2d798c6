"""Density from above, as figures of BTS (Wimbauer et al., 2023) and of KDBTS (Han et al., 2024) show it.

The profile of a frame is the density of a slab ahead of its camera, summed over the slab's height, of whatever was
completed there: also of what the camera does not see. Colours are of the opacity that follows, seen from above, and
reach up to the largest of each profile, as in the public code.
"""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.report.pictures import INK, Picture, draw_text, fit_width
from scene_completion_ros.sequences.opening import voxel_truth
from scene_completion_ros.sequences.posed_sequence import PosedSequence, reference_camera
from scene_completion_training.arrays import Floats
from scene_completion_training.evaluation.geometry import grid_density
from scene_completion_training.evaluation.lidar_evaluation import ORIGINAL, camera_pitch
from scene_completion_training.evaluation.predictor import PointFunction, Predictor

X_RANGE, Y_RANGE, Z_RANGE = (-9.0, 9.0), (0.0, 1.0), (3.0, 23.0)  # metres right, down and ahead, as KDBTS has them
CELL = 0.1  # metres between points; BTS takes 256 × 256 columns of 64 points
SOLID = 100.0  # density of what is known to be there, per metre
_PIXELS, _EDGE, _GAP, _TICK = 2, 34, 12, 5  # of a cell, around a profile, between profiles; metres between ticks


def profile(density: PointFunction, camera_from_level: RigidTransform | None = None) -> Floats:
    """Density summed over the height of the slab, float32 [Z, X]: minus the logarithm of what is transmitted.

    The first row is the farthest, the first column that farthest left. `camera_from_level`: pose of the level frame
    (x right, y down, z along the road) in the camera's; by default the camera is level.
    """
    x, y, z = (np.arange(low + CELL / 2, high, CELL) for low, high in (X_RANGE, Y_RANGE, Z_RANGE))
    ahead, right, down = np.meshgrid(z[::-1], x, y, indexing="ij")
    points = np.stack([right, down, ahead], axis=-1).reshape(-1, 3)
    if camera_from_level is not None:
        points = camera_from_level.apply(points)
    sigma = density(points.astype(np.float32)).reshape(ahead.shape)
    return np.asarray(sigma.sum(axis=-1) * np.float32(CELL), np.float32)


def true_profile(sequence: PosedSequence, index: int, camera_from_level: RigidTransform) -> tuple[str, Floats] | None:
    """What measured a frame, and its profile [Z, X]: of its true voxels, else of its LiDAR scan; None without any."""
    truth, name = voxel_truth(sequence, index), reference_camera(sequence)
    if truth is not None:
        solid = np.where(truth.occupied & truth.known, np.float32(SOLID), np.float32(0.0))
        found = grid_density(solid, truth.grid, truth.grid_from_camera)
        return f"{truth.source} voxels", profile(found, camera_from_level)
    points = sequence.lidar(index)
    if points is None:
        return None
    level_from_rig = camera_from_level.inverse() @ sequence.rig_from_camera[name].inverse()
    x, y, z = level_from_rig.apply(points.astype(np.float64)).T
    inside = (y >= Y_RANGE[0]) & (y <= Y_RANGE[1])
    bins = [round((high - low) / CELL) for low, high in (Z_RANGE, X_RANGE)]
    hits, _, _ = np.histogram2d(z[inside], x[inside], bins, (Z_RANGE, X_RANGE))
    return "LiDAR", (SOLID * (hits[::-1] > 0)).astype(np.float32)


def profile_picture(sequence: PosedSequence, index: int, models: Sequence[Predictor]) -> Picture:
    """The image of a frame over the profiles of models and of the truth, each with its name."""
    camera_from_level = replace(ORIGINAL, camera_pitch=camera_pitch(sequence)).level_from_camera.inverse()
    found = [(one.name, profile(one.complete(sequence, index).density, camera_from_level)) for one in models]
    truth = true_profile(sequence, index, camera_from_level)
    tiles = [_tile(*named) for named in (found if truth is None else [*found, truth])]
    below = np.concatenate(tiles, axis=1)
    image = fit_width(sequence.image(index, reference_camera(sequence)), max(640, below.shape[1] - 2 * _GAP))
    below = np.pad(
        below, ((0, 0), (0, max(0, image.shape[1] + 2 * _GAP - below.shape[1])), (0, 0)), constant_values=255
    )
    return np.concatenate([np.pad(image, ((_GAP, 0), (_GAP, _GAP), (0, 0)), constant_values=255), below])


def _tile(name: str, summed: Floats) -> Picture:
    """A profile with its name above, metres ahead on its left and metres to the right below."""
    alpha = -np.expm1(-summed)
    grey = np.rint(255 * alpha / max(float(alpha.max()), 1e-6)).astype(np.uint8)
    coloured = cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_MAGMA), cv2.COLOR_BGR2RGB)
    drawn = np.kron(coloured, np.ones((_PIXELS, _PIXELS, 1), np.uint8))
    tile = np.pad(drawn, ((_EDGE, _EDGE), (_EDGE, _GAP), (0, 0)), constant_values=255)
    draw_text(tile, name, (_EDGE, _EDGE - 10), scale=0.45)
    scale, bottom = _PIXELS / CELL, _EDGE + len(drawn)
    for metres in range(-_TICK, _TICK + 1, _TICK):
        column = _EDGE + round((metres - X_RANGE[0]) * scale)
        cv2.line(tile, (column, bottom), (column, bottom + 5), INK, 1)
        draw_text(tile, f"{metres} m", (column, bottom + 20), centred=True)
    for metres in range(_TICK, int(Z_RANGE[1]) + 1, _TICK):
        row = bottom - round((metres - Z_RANGE[0]) * scale)
        cv2.line(tile, (_EDGE - 5, row), (_EDGE, row), INK, 1)
        draw_text(tile, f"{metres}", (_EDGE - 17, row + 4), centred=True)
    return np.asarray(tile, np.uint8)
