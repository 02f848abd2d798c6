"""Occupancy of a slab of street from accumulated LiDAR scans: the two protocols of the density-field literature.

Both compare a field with what the next N scans (this frame's first) saw of a horizontal grid of points ahead of the
camera. A scan saw a point free, or it did not; a point that at most two scans saw free is occupied.

* `ORIGINAL`: Wimbauer et al., "Behind the Scenes" (CVPR 2023); 20 scans, points from 4 to 20 m. A point counts as
  visible if the first scan saw it free *or the evaluated model's own depth lies behind it*. So every model is scored on
  other points. An empty field, which sees everything, has no occluded and no occupied points and an accuracy of 1.
* `LIDAR_ONLY`: Li et al., "Know Your Neighbors" (CVPR 2024); up to 300 scans, 4 to 50 m. A point counts as visible if
  the first scan saw it free. Rows more than 2 m behind the farthest visible one are cut off. Every model is scored on
  the same points.
* `LIDAR_ONLY_NEAR` is the latter from 4 to 20 m, cut out of the same ground truth.

The *level* frame of the points stands in the camera's centre, with x right, y down and z forward along the road. The
camera of KITTI-360 looks 5 degrees down, other rigs need another `camera_pitch`. y = 0 to 0.75 m below the camera is
0.8 to 1.55 m above the road for KITTI-360's camera, 0.9 to 1.65 m for KITTI's.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from scene_completion_ros.errors import GridError, SequenceError
from scene_completion_ros.evaluation.metric import Column, Metric, Row, Tally, columns
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.sequences.posed_sequence import PosedSequence, reference_camera
from scene_completion_training.arrays import Doubles, Mask, Reals
from scene_completion_training.evaluation.predictor import Answer, Prediction


@dataclass(frozen=True)
class SlabProtocol:
    """Where and how a field is compared with LiDAR; the defaults are the published values of `ORIGINAL`."""

    x_range: tuple[float, float] = (-4.0, 4.0)  # left and right end of the points, metres, level frame
    # Heights of the LiDAR points that count (y points down), metres; the points lie in the middle.
    y_range: tuple[float, float] = (0.0, 0.75)
    z_range: tuple[float, float] = (4.0, 20.0)  # nearest and farthest point ahead, metres
    points_per_metre: int = 10  # points along a metre of x and z
    camera_pitch: float = math.radians(5.0)  # how far the camera looks down, radians
    # LiDAR points at least this far from the camera, metres, count at any height: without them a free direction would
    # have no return at all.
    reach: float = math.hypot(20.0, 4.0)
    bins: int = 360  # angular bins of a scan
    ego_radius: float = 3.0  # points nearer to a scan's sensor than this, metres, it has not seen free
    model_depth_shows: bool = True  # points in front of the model's own depth count as visible too
    # Rows farther than this behind the farthest visible row, metres, are dropped; None keeps all.
    cut_behind: float | None = None

    @property
    def level_from_camera(self) -> RigidTransform:
        """Takes the camera's optical frame to the level frame; straight ahead points down by `camera_pitch`."""
        c, s = math.cos(self.camera_pitch), math.sin(self.camera_pitch)
        return RigidTransform(np.array([[1.0, 0.0, 0.0], [0.0, c, s], [0.0, -s, c]]), np.zeros(3))

    def points(self) -> Doubles:
        """Points float64 [Z, X, 3], level frame, metres; the first row is the farthest, both ends included."""
        (left, right), (near, far) = self.x_range, self.z_range
        x = np.linspace(left, right, round((right - left) * self.points_per_metre))
        z = np.linspace(far, near, round((far - near) * self.points_per_metre))
        points = np.empty((len(z), len(x), 3))
        points[..., 0] = x
        points[..., 1] = sum(self.y_range) / 2.0
        points[..., 2] = z[:, None]
        return points


ORIGINAL = SlabProtocol()
LIDAR_ONLY = replace(
    ORIGINAL, z_range=(4.0, 50.0), reach=math.hypot(50.0, 4.0), model_depth_shows=False, cut_behind=2.0
)
LIDAR_ONLY_NEAR = replace(LIDAR_ONLY, z_range=(4.0, 20.0))


@dataclass(frozen=True, eq=False)
class Scan:
    """One turn of a LiDAR."""

    # Points [N, 3] in the sensor's frame, metres; its z axis is the axis of rotation.
    points_sensor: Reals
    level_from_sensor: RigidTransform  # pose of the sensor in the level frame of the evaluated camera


@dataclass(frozen=True, eq=False)
class SlabMasks:
    """The points that are scored, bool [Z', X] each."""

    rows: slice  # rows of the protocol's points that are scored
    occupied: Mask  # occupied and not visible: what is seen free cannot be occupied
    visible: Mask  # neither occluded nor unknown; completion is scored on all others


def surface_profile(scan: Scan, protocol: SlabProtocol) -> Doubles:
    """Distance to the nearest return of a scan in each angular bin, in the plane of the sensor's x and y axes.

    Returns count at the heights of the slab, or at any height beyond `reach`. Bin i covers the angles from -pi + 2 pi i
    / bins on. A bin without a return repeats the one before; those before the first filled bin take the return with the
    smallest angle. Returns float64 [bins], metres; all 0 where no return counts, so that the scan has seen nothing
    free.
    """
    points_level = scan.level_from_sensor.apply(np.asarray(scan.points_sensor, dtype=np.float64))
    top, bottom = protocol.y_range
    in_slab = (points_level[:, 1] >= top) & (points_level[:, 1] <= bottom)
    kept = scan.points_sensor[in_slab | (np.linalg.norm(points_level, axis=1) >= protocol.reach)].astype(np.float64)
    if not len(kept):
        return np.zeros(protocol.bins)
    angle = np.arctan2(kept[:, 1], kept[:, 0])
    distance = np.hypot(kept[:, 0], kept[:, 1])
    index = ((angle + np.pi) / (2.0 * np.pi) * protocol.bins).astype(np.int64)
    nearest = np.full(protocol.bins, np.inf)
    np.minimum.at(nearest, np.minimum(index, protocol.bins - 1), distance)
    source = np.maximum.accumulate(np.where(np.isfinite(nearest), np.arange(protocol.bins), -1))
    return np.where(source >= 0, nearest[np.maximum(source, 0)], distance[np.argmin(angle)])


def surface_distance(profile: Doubles, angle: Doubles) -> Doubles:
    """Distance to the surface at angles [...], radians in -pi..pi, linear between the middles of the bins [bins]."""
    width = 2.0 * np.pi / len(profile)
    middles = -np.pi + width * (np.arange(-1, len(profile) + 1) + 0.5)  # one more on both sides: it wraps around
    return np.asarray(np.interp(angle, middles, np.concatenate([profile[-1:], profile, profile[:1]])))


def not_seen_free(points_level: Doubles, scan: Scan, profile: Doubles, protocol: SlabProtocol) -> Mask:
    """Whether points lie behind the surface that a scan measured, or too near to its sensor. Returns bool [...].

    `points_level`: points [..., 3], level frame, metres; `profile`: its `surface_profile`, in the sensor's plane; the
    points' distances to the sensor are spatial.
    """
    points = scan.level_from_sensor.inverse().apply(points_level)
    distance = np.linalg.norm(points, axis=-1)
    surface = surface_distance(profile, np.arctan2(points[..., 1], points[..., 0]))
    return np.asarray((distance > surface) | (distance < protocol.ego_radius))


class SlabTruth:
    """What scans saw of the points of a protocol, counted one scan after the other, arrays [Z, X].

    300 scans of a street are half a gigabyte: they need not be in memory together.
    """

    def __init__(self, protocol: SlabProtocol, name: str = "") -> None:
        self.protocol, self.name = protocol, name
        self._points = protocol.points()
        # int64, how many scans did not see the point free.
        self.not_seen_free = np.zeros(self._points.shape[:2], dtype=np.int64)
        self.first_saw_free = np.zeros(self._points.shape[:2], dtype=np.bool_)  # bool, the first scan saw it free
        self.scans = 0  # their number N

    def add(self, scan: Scan) -> None:
        """Count a scan; that of the evaluated frame comes first."""
        unseen = not_seen_free(self._points, scan, surface_profile(scan, self.protocol), self.protocol)
        if self.scans == 0:
            self.first_saw_free = ~unseen
        self.not_seen_free += unseen
        self.scans += 1

    @property
    def occupied(self) -> Mask:
        """Points that at most two scans saw free: c >= N - 2.

        The published counter starts at 1 and asks for (1 + c) / N > (N - 2) / N, which is the same. Raises GridError
        where there were fewer than three: everything would be occupied.
        """
        if self.scans < 3:
            cure = "A point is free if three scans saw it so: evaluate a frame with more scans ahead"
            raise GridError(f"{self.scans} scans", where="LiDAR occupancy", cure=cure)
        return np.asarray(self.not_seen_free >= self.scans - 2)


def slab_masks(truth: SlabTruth, shown_by_model: Mask | None = None) -> SlabMasks:
    """The points that are scored under the protocol of the truth, and what is true of them.

    `shown_by_model`: points whose z-depth does not exceed the
    model's own depth at their pixel, bool [Z, X]; needed by the original protocol, ignored by the other.
    """
    visible, protocol = truth.first_saw_free, truth.protocol
    if protocol.model_depth_shows:
        assert shown_by_model is not None
        visible = visible | shown_by_model
    rows = slice(0, None)
    if protocol.cut_behind is not None:
        seen = np.flatnonzero(visible.any(axis=1))
        behind = round(protocol.cut_behind * protocol.points_per_metre)
        # Rows run from far to near. Where nothing is visible, nothing can be scored.
        rows = slice(max(int(seen[0]) - behind, 0), None) if len(seen) else slice(len(visible), None)
    return SlabMasks(rows, (truth.occupied & ~visible)[rows], visible[rows])


SCORES = ("O_acc", "O_prec", "O_rec", "IE_acc", "IE_prec", "IE_rec")
# Points behind the scores; the last are not visible and not occupied, `t_ie` of the published code.
COUNTS = ("points", "predicted", "occupied", "occluded", "occluded_free")
# Share of predicted points above which a field has filled the street; even a town's is free for the most part.
MOST_PREDICTED = 0.9


def slab_scores(predicted: Mask, occupied: Mask, visible: Mask) -> tuple[float, ...]:
    """`SCORES` of a frame, NaN where not defined.

    They are the scores of occupancy (O) and of invisible and empty space (IE) of Behind the Scenes. With p the
    prediction, o the truth and v what is visible (free, or no obstacle), bool [...], over the points of one frame:

        O_acc  = mean [p = o]                 IE_acc  = mean [p = o | not v]
        O_prec = mean [o | p]                 IE_prec = mean [not o | not p, not v]
        O_rec  = mean [p | o]                 IE_rec  = mean [not p | not o, not v]
    """
    right, hidden = predicted == occupied, ~visible
    of_occupancy = right, occupied[predicted], predicted[occupied]
    of_hidden = right[hidden], ~occupied[~predicted & hidden], ~predicted[~occupied & hidden]
    return tuple(float(part.mean()) if part.size else float("nan") for part in (*of_occupancy, *of_hidden))


PROTOCOLS = {"original": ORIGINAL, "LiDAR only": LIDAR_ONLY_NEAR, "LiDAR only, far": LIDAR_ONLY}
LIDAR = "velodyne"
SAME_M = 1e-4  # poses of a LiDAR that differ by less are those of one scan, or of one that stood still


def slabs_of(scans: Iterable[Scan], pitch: float) -> tuple[SlabTruth, ...]:
    """What scans from `level_scans` with the same pitch, radians, saw under each protocol."""
    truths = tuple(SlabTruth(replace(one, camera_pitch=pitch), name) for name, one in PROTOCOLS.items())
    for scan in scans:
        for truth in truths:
            truth.add(scan)
    return truths


class LidarTally(Tally):
    """Mean over frames of `slab_scores` under each protocol, as it was applied, and each rule.

    Each score is the mean over the frames in which it is defined. Read none without the number of points and of frames
    behind it. Under the original protocol an empty field has no occluded points at all and an O_acc of 1.
    """

    def __init__(self, _: object) -> None:
        # Protocol, scans, pitch and rule -> scores and counts of each frame.
        self._found: dict[tuple[str, int, float, str], list[tuple[tuple[float, ...], tuple[int, ...]]]] = {}

    def add(self, answer: Answer) -> None:
        """Count a frame that has slabs."""
        for slab in answer.frame.slabs:
            protocol = slab.protocol
            points = protocol.level_from_camera.inverse().apply(protocol.points())
            shown = shown_by_depth(points, answer.prediction) if protocol.model_depth_shows else None
            masks = slab_masks(slab, shown)
            density = answer.prediction.density(points.reshape(-1, 3).astype(np.float32)).reshape(points.shape[:2])
            for rule, cutoff in answer.predictor.cutoffs.items():
                key = (slab.name, slab.scans, round(math.degrees(protocol.camera_pitch), 3), rule)
                predicted = density[masks.rows] > cutoff
                kinds = (predicted, masks.occupied, ~masks.visible, ~masks.visible & ~masks.occupied)
                counts = (predicted.size, *(int(np.count_nonzero(kind)) for kind in kinds))
                self._found.setdefault(key, []).append((slab_scores(predicted, masks.occupied, masks.visible), counts))
        self.frames += bool(answer.frame.slabs)

    def rows(self) -> Iterator[Row]:
        """By protocol, scans, pitch and rule."""
        for (name, scans, pitch, rule), found in sorted(self._found.items()):
            near, far = PROTOCOLS[name].z_range
            protocol = f"{name}@{scans}, {near:g} to {far:g} m"
            yield {"protocol": protocol, "pitch": pitch, "rule": rule, **mean_slab_scores(found)}


def mean_slab_scores(found: Sequence[tuple[tuple[float, ...], tuple[int, ...]]]) -> Row:
    """Means of scores of frames, NaN where one is defined in none; in how many frames each is; sums of `COUNTS`.

    `remarks` name what makes the scores worthless or not comparable.
    """
    scores, counted = (np.array(part) for part in zip(*found, strict=True))
    defined = (~np.isnan(scores)).sum(axis=0)
    with np.errstate(invalid="ignore"):
        means = np.nansum(scores, axis=0) / defined
    counts = dict(zip(COUNTS, counted.sum(axis=0).tolist(), strict=True))
    remarks = []
    if missing := [name for name in ("occluded", "occupied") if not counts[name]]:
        remarks.append(f"no {missing[0]} point: O_acc is meaningless")
    if not counts["predicted"]:
        remarks.append("nothing predicted")
    if counts["predicted"] > MOST_PREDICTED * counts["points"]:
        remarks.append("nearly everything predicted: O_rec, IE_acc say nothing")
    if short := [name for name, count in zip(SCORES, defined, strict=True) if 0 < count < len(scores)]:
        remarks.append(f"{', '.join(short)} not defined in every frame")
    frames = dict(zip((f"{name} frames" for name in SCORES), defined.tolist(), strict=True))
    return {**dict(zip(SCORES, means.tolist(), strict=True)), **frames, **counts, "remarks": remarks}


LIDAR_OCCUPANCY = Metric(
    "lidar",
    "LiDAR protocols after so many scans: a point is occupied if at most two of them saw it free. Scores in percent, "
    "means over frames in which they are defined; counts are sums over frames. t_ie are the occluded free points. "
    "Under the original protocol points in front of the model's own depth count as visible. So each row is scored on "
    "other points, and a field that sees through everything has no occluded ones. Never compare its O_acc alone.",
    (
        *(Column(name, name) for name in SCORES),
        *columns("points, predicted, occupied, occluded, occluded_free: t_ie, remarks"),
    ),
    LidarTally,
    by=("protocol", "pitch", "rule"),
)


def shown_by_depth(points_camera: Doubles, prediction: Prediction) -> Mask:
    """Whether z-depths of points [..., 3], optical frame, are at most the model's at the nearest pixel in the image."""
    camera = prediction.camera
    pixels, _ = camera.project(points_camera.reshape(-1, 3))
    nearest = np.clip(np.floor(pixels + 0.5), 0.0, (camera.width - 1.0, camera.height - 1.0))
    unique, owner = np.unique(nearest, axis=0, return_inverse=True)
    depth = prediction.depth(unique)[owner.reshape(-1)]
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


def level_scans(sequence: PosedSequence, index: int, count: int, pitch: float) -> Iterator[Scan]:
    """Scans from a frame on, see `scan_poses`, in its level frame; pitch in radians; a `SequenceError` if one lacks."""
    level_from_camera = replace(ORIGINAL, camera_pitch=pitch).level_from_camera
    level_from_world = level_from_camera @ sequence.world_from_camera(index, reference_camera(sequence)).inverse()
    for frame, rig_from_sensor in islice(scan_poses(sequence, index), count):
        points_rig = sequence.lidar(frame)
        if points_rig is None:
            raise SequenceError("no LiDAR scan", where=f"{sequence.name}, frame {frame}", cure="Restore the scan")
        level_from_sensor = level_from_world @ sequence.frames[frame].world_from_rig @ rig_from_sensor
        yield Scan(rig_from_sensor.inverse().apply(points_rig), level_from_sensor)


def camera_pitch(sequence: PosedSequence) -> float:
    """How far the reference camera looks down, radians: 5 degrees on KITTI-360's car, and 0 where it is unknown."""
    return ORIGINAL.camera_pitch if sequence.provenance.get("dataset") == "KITTI-360" else 0.0
