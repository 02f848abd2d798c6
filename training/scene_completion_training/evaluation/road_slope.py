"""The plane of the road that a predictor sees, and by how much it follows where pictures are turned.

A predictor that learned on level roads alone predicts those, whatever the picture shows. So pictures are turned by a
little to either side, and so should be the plane of the same points of the road in what is predicted of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from scene_completion_ros.evaluation.metric import Column, Metric, Row, Tally
from scene_completion_ros.evaluation.scan_voxels import ground_of_scans
from scene_completion_ros.geometry import DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA, Resampler, RigidTransform
from scene_completion_ros.geometry.road_plane import LEAST_POINTS, RoadPlane, fitted_plane
from scene_completion_ros.sequences.opening import depth_truth
from scene_completion_ros.sequences.posed_sequence import Frame, PosedSequence, reference_camera, stored_classes
from scene_completion_training.arrays import Doubles, Mask
from scene_completion_training.data.turned_views import TurnedView, turned
from scene_completion_training.evaluation.predictor import Predictor

ROLL, PITCH = np.radians(2.0), np.radians(1.0)
TURNS = ((0.0, 0.0), (ROLL, 0.0), (-ROLL, 0.0), (0.0, PITCH), (0.0, -PITCH))  # roll and pitch of pictures
PLACES, ROAD = ("pixels", "voxels", "together"), "road"
_AHEAD_M, _ASIDE_M = (3.0, 12.0), 4.0  # the road that counts, ahead and to each side
_SURFACE_M = 15.0  # how far ahead the ground of voxels counts
# Raw SemanticKITTI ids of the road, parking and lane markings; without ids, what lies so near to the lowest returns.
_ROAD_IDS, _ON_GROUND_M = (40, 44, 60), 0.15
_MOST_POINTS = 2000


@dataclass(frozen=True, eq=False)
class RoadFrame:
    """A frame and points of its road [N, 3], optical frame, metres."""

    sequence: PosedSequence
    index: int
    road: Doubles


@dataclass(frozen=True, eq=False)
class Slopes:
    """Roll, pitch, radians, and height, metres, of the camera above the road; NaN where there is no plane."""

    true: Doubles  # [3]
    found: Doubles  # [places, turns, 3], of pictures that are turned by `TURNS`


def road_frames(sequence: PosedSequence, indices: Sequence[int]) -> Iterator[RoadFrame]:
    """Those frames of which LiDAR or exact depth knows enough of the road."""
    for index in indices:
        points = _known_road(sequence, index)
        x, _, z = points.T
        road = points[(z > _AHEAD_M[0]) & (z < _AHEAD_M[1]) & (np.abs(x) < _ASIDE_M)]
        road = road[np.linspace(0, len(road) - 1, min(len(road), _MOST_POINTS)).astype(int)]
        if len(road) >= LEAST_POINTS:
            yield RoadFrame(sequence, index, road)


def _known_road(sequence: PosedSequence, index: int) -> Doubles:
    name = reference_camera(sequence)
    label, points, classes = sequence.asset(index, "label"), sequence.lidar(index), stored_classes(sequence)
    if label is not None and "depth" in sequence.frames[index].assets and ROAD in classes.target:
        known = depth_truth(sequence, index, name)
        assert known is not None
        road = (classes.apply(label) == classes.target.index(ROAD)) & np.isfinite(known.depth)
        return np.asarray(known.camera.unproject(known.camera.pixel_centres()[road]) * known.depth[road][:, None])
    if points is None:
        return np.zeros((0, 3))
    optical = np.asarray(sequence.rig_from_camera[name].inverse().apply(points), np.float64)
    ids = sequence.asset(index, "lidar_semantic")
    if ids is not None:
        return np.asarray(optical[np.isin(ids, _ROAD_IDS)])
    placed = np.asarray(DEFAULT_GRID_FROM_CAMERA.apply(optical))
    cells, inside = DEFAULT_GRID.index_of(placed)
    ground = ground_of_scans(placed, DEFAULT_GRID)[tuple(cells[inside][:, :2].T)]
    return np.asarray(optical[inside][np.abs(placed[inside, 2] - ground) < _ON_GROUND_M])


def turned_sequence(sequence: PosedSequence, index: int, roll: float, pitch: float) -> tuple[PosedSequence, Mask]:
    """A frame as its reference camera would see it if it were turned, radians; and which pixels [H, W] show something.

    Nothing else is known of it, not even how the camera is mounted. Borders are repeated, as on a robot; pixels that a
    turn to the other side would not show count for neither. Lenses are rectified.
    """
    name = reference_camera(sequence)
    recorded, rotation = sequence.cameras[name], turned(roll, pitch)
    camera = replace(recorded, distortion_model="none", distortion=())
    image = sequence.image(index, name)
    if camera != recorded:
        image = np.asarray(Resampler(recorded, camera)(image), np.uint8)
    view = TurnedView(rotation, edges=(rotation.T,))
    picture = view.picture(image, camera, camera)
    pose = sequence.rig_from_camera[name] @ RigidTransform(rotation, np.zeros(3))
    frame = Frame(sequence.frames[index].stamp_ns, {name: lambda: picture}, sequence.frames[index].world_from_rig)
    alone = PosedSequence(sequence.name, {name: camera}, {name: pose}, [frame], sequence.pose_source)
    return alone, view.shown(camera, camera)


def slopes(model: Predictor, frame: RoadFrame) -> Slopes:
    """The planes that a predictor sees in the pictures of a frame."""
    found = np.full((len(PLACES), len(TURNS), 3), np.nan)
    for number, turn in enumerate(TURNS):
        sequence, shown = turned_sequence(frame.sequence, frame.index, *turn)
        prediction = model.complete(sequence, 0)
        camera = next(iter(sequence.cameras.values()))
        pixels, inside = camera.project(frame.road @ turned(*turn))
        column, row = np.round(pixels[inside]).astype(int).T
        seen = pixels[inside][shown[row.clip(0, camera.height - 1), column.clip(0, camera.width - 1)]]
        found[0, number] = _plane(camera.unproject(seen) * prediction.depth(seen)[:, None])
        if prediction.ground is not None:
            ground = prediction.ground()
            near = (ground[:, 2] > _AHEAD_M[0]) & (ground[:, 2] < _SURFACE_M) & (np.abs(ground[:, 0]) < _ASIDE_M)
            found[1, number] = _plane(ground[near].astype(np.float64))
        if prediction.plane is not None:
            found[2, number] = _of_plane(prediction.plane())
    itself = model.complete(frame.sequence, frame.index)
    if itself.plane is not None:  # with its mounting, and the frames before it
        found[2, 0] = _of_plane(itself.plane())
    return Slopes(_plane(frame.road), found)


def _of_plane(plane: RoadPlane) -> Doubles:
    return np.array([plane.roll, plane.pitch, plane.height])


def _plane(points: Doubles) -> Doubles:
    plane = fitted_plane(points[np.isfinite(points).all(axis=1)])
    return np.full(3, np.nan) if plane is None else _of_plane(plane)


class SlopeTally(Tally):
    """Medians over frames."""

    def __init__(self, _: object) -> None:
        self._answers: list[Slopes] = []

    def add(self, answer: Slopes) -> None:
        """Count the planes of a frame."""
        self._answers.append(answer)
        self.frames += 1

    def rows(self) -> Iterator[Row]:
        """By where the plane is seen, as far as the predictor has such."""
        true, found = (np.array([getattr(one, name) for one in self._answers]) for name in ("true", "found"))
        off = np.abs(found[:, :, 0] - true[:, None]) / true[:, None] ** (0, 0, 1)
        gain = np.stack([found[:, :, 1, 0] - found[:, :, 2, 0], found[:, :, 3, 1] - found[:, :, 4, 1]], axis=-1)
        gain /= 2.0 * np.array([ROLL, PITCH])
        for number, place in enumerate(PLACES):
            known = np.isfinite(found[:, number]).all(axis=(1, 2))
            if known.any():
                roll, pitch, height = np.median(off[known, number], axis=0) * (180.0 / np.pi, 180.0 / np.pi, 1.0)
                figures = dict(zip(("gain_roll", "gain_pitch"), np.median(gain[known, number], axis=0), strict=True))
                figures |= {"roll_off_deg": roll, "pitch_off_deg": pitch, "height_off": height}
                row = {name: float(value) for name, value in figures.items()}
                yield {"in": place, "frames": int(known.sum()), **row}


SLOPE = Metric(
    "road_slope",
    "The plane of the road 3 to 12 m ahead, in voxels of the predicted ground up to 15 m: medians over frames. Gains "
    "say by how much of it the plane follows where pictures are turned by ±2° of roll and ±1° of pitch, of which the "
    "mounting is unknown. Errors are those of the picture as it is, against LiDAR or the exact road: roll and pitch in "
    "degrees, height in percent; `together` of the plane that volumes are levelled by, which also follows from the "
    "mounting as it is stated and, with --scale-from, from the frames before.",
    (
        Column("gain_roll", "gain of roll", percent=False),
        Column("gain_pitch", "gain of pitch", percent=False),
        Column("roll_off_deg", "roll off, °", percent=False),
        Column("pitch_off_deg", "pitch off, °", percent=False),
        Column("height_off", "height off"),
    ),
    SlopeTally,
    by=("in",),
    headline={"in": "pixels"},
)
