"""Density models under the LiDAR protocols of `scene_completion_ros.evaluation.lidar_occupancy`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.evaluation.invisible_empty import InvisibleEmptyMetric, InvisibleEmptyResult
from scene_completion_ros.evaluation.lidar_occupancy import (
    LIDAR_ONLY,
    LIDAR_ONLY_NEAR,
    ORIGINAL,
    Scan,
    SlabCounter,
    slab_masks,
)
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.sequences.rigs import reference_camera
from scene_completion_training.evaluation.density_model import DensityModel, Observation

PROTOCOLS = {"original": ORIGINAL, "LiDAR only": LIDAR_ONLY_NEAR, "LiDAR only, far": LIDAR_ONLY}
LIDAR = "velodyne"


@dataclass(frozen=True, order=True)
class Setting:
    """A protocol as it was applied.

    Attributes:
        protocol: Its name in `PROTOCOLS`.
        scans: Number of scans N.
        pitch_degrees: How far the camera was taken to look down.
    """

    protocol: str
    scans: int
    pitch_degrees: float

    def __str__(self) -> str:
        near, far = PROTOCOLS[self.protocol].z_range
        return f"{self.protocol}@{self.scans}, {near:g} to {far:g} m"


class LidarEvaluation:
    """Accumulates frames: (setting, model, rule) -> metric."""

    def __init__(self) -> None:
        self.metrics: dict[tuple[Setting, str, str], InvisibleEmptyMetric] = {}

    def update(self, scans: Iterable[Scan], pitch: float, observations: list[tuple[DensityModel, Observation]]) -> None:
        """Count one frame of all models.

        Args:
            scans: From `level_scans` with the same pitch.
            pitch: How far the camera looks down, radians.
        """
        counters = {name: SlabCounter(replace(found, camera_pitch=pitch)) for name, found in PROTOCOLS.items()}
        for scan in scans:
            for counter in counters.values():
                counter.update(scan)
        for name, counter in counters.items():
            protocol, truth = counter.protocol, counter.compute()
            points = protocol.level_from_camera.inverse().apply(protocol.points())
            setting = Setting(name, truth.scans, round(math.degrees(pitch), 3))
            for model, observation in observations:
                shown = shown_by_depth(points, observation) if protocol.model_depth_shows else None
                masks = slab_masks(truth, protocol, shown)
                density = observation.density(points.reshape(-1, 3).astype(np.float32)).reshape(points.shape[:2])
                for rule, cutoff in model.cutoffs.items():
                    metric = self.metrics.setdefault((setting, model.name, rule), InvisibleEmptyMetric())
                    metric.update(density[masks.rows] > cutoff, masks.occupied, masks.visible)

    def compute(self) -> dict[tuple[Setting, str, str], InvisibleEmptyResult]:
        """(setting, model, rule) -> scores."""
        return {key: metric.compute() for key, metric in self.metrics.items()}


def shown_by_depth(points_camera: NDArray[np.float64], observation: Observation) -> NDArray[np.bool_]:
    """Whether the z-depth of points [..., 3], optical frame, metres, is at most the model's at their nearest pixel.

    Points beside the image take the pixel at its border.
    """
    camera = observation.camera
    pixels, _ = camera.project(points_camera.reshape(-1, 3))
    nearest = np.clip(np.floor(pixels + 0.5), 0.0, (camera.width - 1.0, camera.height - 1.0))
    unique, owner = np.unique(nearest, axis=0, return_inverse=True)
    depth = observation.depth(unique)[owner.reshape(-1)]
    return np.asarray(points_camera[..., 2] <= depth.reshape(points_camera.shape[:-1]))


def level_scans(sequence: PosedSequence, index: int, count: int, pitch: float) -> Iterator[Scan]:
    """Scans of a frame and of those after it, as far as there are any, in the frame's level frame, one at a time.

    Args:
        pitch: How far the reference camera looks down, radians.

    Raises:
        SequenceError: A frame has no scan, or the LiDAR's place is not known.
    """
    if LIDAR not in sequence.rig_from_sensor:
        raise SequenceError(
            f"no pose of the LiDAR {LIDAR!r}", where=sequence.name, cure="Give its calibration with the sequence"
        )
    rig_from_sensor = sequence.rig_from_sensor[LIDAR]
    level_from_camera = replace(ORIGINAL, camera_pitch=pitch).level_from_camera
    level_from_world = level_from_camera @ sequence.world_from_camera(index, reference_camera(sequence)).inverse()
    for frame in range(index, min(index + count, len(sequence))):
        points_rig = sequence.lidar(frame)
        if points_rig is None:
            raise SequenceError("no LiDAR scan", where=f"{sequence.name}, frame {frame}", cure="Restore the scan")
        level_from_sensor = level_from_world @ sequence.frames[frame].world_from_rig @ rig_from_sensor
        yield Scan(rig_from_sensor.inverse().apply(points_rig), level_from_sensor)


def camera_pitch(sequence: PosedSequence) -> float:
    """How far the reference camera looks down, radians: 5 degrees on KITTI-360's car, none on KITTI's and ours."""
    return ORIGINAL.camera_pitch if sequence.provenance.get("dataset") == "KITTI-360" else 0.0
