"""Density models under the LiDAR protocols of `scene_completion_ros.evaluation.lidar_occupancy`."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.evaluation import lidar_occupancy
from scene_completion_ros.evaluation.metric import Column, Metric, Row, Tally
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.sequences.rigs import reference_camera
from scene_completion_training.arrays import Doubles, Mask
from scene_completion_training.evaluation.density_model import Observation

PROTOCOLS = {
    "original": lidar_occupancy.ORIGINAL,
    "LiDAR only": lidar_occupancy.LIDAR_ONLY_NEAR,
    "LiDAR only, far": lidar_occupancy.LIDAR_ONLY,
}
LIDAR = "velodyne"
SAME_M = 1e-4  # poses of a LiDAR that differ by less are those of one scan, or of one that stood still


@dataclass(frozen=True, eq=False)
class Slab:
    """What scans say of the points of a protocol, as it was applied."""

    name: str
    truth: lidar_occupancy.SlabTruth
    pitch_degrees: float  # how far the camera was taken to look down


def slabs_of(scans: Iterable[lidar_occupancy.Scan], pitch: float) -> tuple[Slab, ...]:
    """What scans from `level_scans` with the same pitch, radians, say under each protocol."""
    truths = {name: lidar_occupancy.SlabTruth(replace(one, camera_pitch=pitch)) for name, one in PROTOCOLS.items()}
    for scan in scans:
        for truth in truths.values():
            truth.add(scan)
    return tuple(Slab(name, truth, round(math.degrees(pitch), 3)) for name, truth in truths.items())


class LidarTally(Tally):
    """`SlabMetric` of each protocol, as it was applied, and each rule."""

    def __init__(self, _: object) -> None:
        self.metrics: dict[tuple[str, int, float, str], lidar_occupancy.SlabMetric] = {}

    def add(self, answer: Any) -> None:
        """Count a frame that has slabs, and that a density model answers (`DensityAnswer`)."""
        for slab in answer.frame.slabs:
            protocol = slab.truth.protocol
            points = protocol.level_from_camera.inverse().apply(protocol.points())
            shown = shown_by_depth(points, answer.observation) if protocol.model_depth_shows else None
            masks = lidar_occupancy.slab_masks(slab.truth, shown)
            density = answer.observation.density(points.reshape(-1, 3).astype(np.float32)).reshape(points.shape[:2])
            for rule, cutoff in answer.model.cutoffs.items():
                key = (slab.name, slab.truth.scans, slab.pitch_degrees, rule)
                metric = self.metrics.setdefault(key, lidar_occupancy.SlabMetric())
                metric.update(density[masks.rows] > cutoff, masks.occupied, masks.visible)
        self.frames += bool(answer.frame.slabs)

    def rows(self) -> Iterator[Row]:
        """By protocol, scans, pitch and rule."""
        for (name, scans, pitch, rule), metric in sorted(self.metrics.items()):
            near, far = PROTOCOLS[name].z_range
            yield {
                "protocol": f"{name}@{scans}, {near:g} to {far:g} m",
                "pitch": pitch,
                "rule": rule,
                **metric.compute(),
            }


LIDAR_OCCUPANCY = Metric(
    "lidar",
    "LiDAR protocols after so many scans: a point is occupied if at most two of them saw it free. Scores in percent, "
    "means over frames in which they are defined; counts are sums over frames. t_ie are the occluded free points. "
    "Under the original protocol points in front of the model's own depth count as visible. So each row is scored on "
    "other points, and a field that sees through everything has no occluded ones. Never compare its O_acc alone.",
    (
        *(Column(name, name) for name in lidar_occupancy.SCORES),
        Column("points", "points"),
        Column("predicted", "predicted"),
        Column("occupied", "occupied"),
        Column("occluded", "occluded"),
        Column("occluded_free", "t_ie"),
        Column("remarks", "remarks"),
    ),
    LidarTally,
    by=("protocol", "pitch", "rule"),
)


def shown_by_depth(points_camera: Doubles, observation: Observation) -> Mask:
    """Whether z-depths of points [..., 3], optical frame, are at most the model's at the nearest pixel in the image."""
    camera = observation.camera
    pixels, _ = camera.project(points_camera.reshape(-1, 3))
    nearest = np.clip(np.floor(pixels + 0.5), 0.0, (camera.width - 1.0, camera.height - 1.0))
    unique, owner = np.unique(nearest, axis=0, return_inverse=True)
    depth = observation.depth(unique)[owner.reshape(-1)]
    return np.asarray(points_camera[..., 2] <= depth.reshape(points_camera.shape[:-1]))


def scan_poses(sequence: PosedSequence, start: int = 0) -> Iterator[tuple[int, RigidTransform]]:
    """Frames from `start` on that have a scan of their own, and the LiDAR's pose in the rig when it was made.

    Every frame of a data set has one. Those of a bag take the scan next to them: the first of several frames has it,
    and where scans were lost, some have none.
    """
    before: Doubles | None = None
    for index in range(start, len(sequence)):
        stored = sequence.asset(index, "lidar_pose")
        if stored is not None:
            pose = RigidTransform.from_matrix(stored)
            here = (sequence.frames[index].world_from_rig @ pose).matrix
            if before is None or not np.allclose(here, before, rtol=0.0, atol=SAME_M):
                yield index, pose
            before = here
        elif "bag" not in sequence.provenance:
            yield index, sequence.rig_from_sensor[LIDAR]


def level_scans(sequence: PosedSequence, index: int, count: int, pitch: float) -> Iterator[lidar_occupancy.Scan]:
    """Scans from a frame on, see `scan_poses`, in its level frame; pitch in radians; a `SequenceError` if none."""
    if LIDAR not in sequence.rig_from_sensor:
        what = f"no pose of the LiDAR {LIDAR!r}"
        raise SequenceError(what, where=sequence.name, cure="Give its calibration with the sequence")
    level_from_camera = replace(lidar_occupancy.ORIGINAL, camera_pitch=pitch).level_from_camera
    level_from_world = level_from_camera @ sequence.world_from_camera(index, reference_camera(sequence)).inverse()
    for frame, rig_from_sensor in islice(scan_poses(sequence, index), count):
        points_rig = sequence.lidar(frame)
        if points_rig is None:
            raise SequenceError("no LiDAR scan", where=f"{sequence.name}, frame {frame}", cure="Restore the scan")
        level_from_sensor = level_from_world @ sequence.frames[frame].world_from_rig @ rig_from_sensor
        yield lidar_occupancy.Scan(rig_from_sensor.inverse().apply(points_rig), level_from_sensor)


def camera_pitch(sequence: PosedSequence) -> float:
    """How far the reference camera looks down, radians: 5 degrees on KITTI-360's car, and none where nobody knows."""
    return lidar_occupancy.ORIGINAL.camera_pitch if sequence.provenance.get("dataset") == "KITTI-360" else 0.0
