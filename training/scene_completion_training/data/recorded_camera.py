"""The viewpoint of a configuration; what it leaves to the recordings is taken from them, and printed."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from scene_completion_ros.errors import ConfigurationError, SequenceError
from scene_completion_ros.geometry import Camera
from scene_completion_ros.sequences.posed_sequence import PosedSequence, cameras_ahead, stereo_pair
from scene_completion_training.arrays import Doubles, Random
from scene_completion_training.data.stereo import rectified_sequence, stereo_depth
from scene_completion_training.viewpoint import ENCODER_STEP, STREET_CAMERA, CameraSettings, Viewpoint, VolumeSettings

# A pinhole stretches what lies further beyond all use; above and below lies little that a robot drives into.
WIDEST, TALLEST = math.radians(100.0), math.radians(60.0)
_STEP = 2 * ENCODER_STEP  # sizes are multiples of this, so that images of half the size will do as well
_MOUNTED_M = {"KITTI": 1.65, "KITTI raw": 1.65, "KITTI-360": 1.55}
_FRAMES = 8  # of a recording, whose ground is looked at
_POINTS = 4000  # of a frame
_HYPOTHESES = 600
_LARGEST_TILT = math.radians(25.0)  # of the ground against the camera's horizontal plane
_THICKNESS = 0.03  # of the camera's height: distance to the plane up to which a point lies on it
_REACH = 12.0  # camera heights: points further away are too inexact
_FEWEST_ON_GROUND = 25
_CONTRADICTING = 1.25  # heights that differ by more are those of different rigs


def viewpoint_of(
    camera: CameraSettings, volume: VolumeSettings, sequences: Sequence[PosedSequence]
) -> tuple[Viewpoint, list[str]]:
    """The viewpoint of settings, from recordings where something is "auto", and lines that report it.

    Raises ConfigurationError where the settings contradict each other, or no recording gives the height of the camera.
    """
    lines = []
    if camera.height_above_ground == "auto":
        height, source = recorded_height(sequences)
        camera = dataclasses.replace(camera, height_above_ground=height)
        lines.append(f"camera {height:.2f} m above the ground: {source}")
    if camera.field_of_view == "auto":
        if camera.fx is not None:
            what = f"both fx = {camera.fx} and a field of view of the recordings"
            raise ConfigurationError(what, where="camera", cure="Give one of them")
        if not sequences:
            raise ConfigurationError("there are no recordings", where="data.sources", cure="Name the recordings")
        seen = recorded_view(sequences)
        camera = _fitting(camera, seen)
        lines.append(f"field of view: {seen.summary}")
    return Viewpoint.of_settings(camera, volume), lines


@dataclass(frozen=True)
class RecordedView:
    """What all cameras ahead see."""

    left: float  # where their narrowest images end, as a tangent of the angle off the axis; as the next three
    right: float
    top: float
    bottom: float
    focal: float  # pixels per unit of tangent in the middle of the coarsest images
    summary: str  # what was taken, for people


def recorded_view(sequences: Sequence[PosedSequence]) -> RecordedView:
    """What the cameras ahead of all recordings see, so that every image fills the canonical camera."""
    cameras = [sequence.cameras[name] for sequence in sequences for name in cameras_ahead(sequence)[:1]]
    narrowest = np.array([_edges(camera) for camera in cameras]).min(axis=0)
    wide = [math.degrees(camera.horizontal_fov) for camera in cameras]
    models = sorted({camera.distortion_model for camera in cameras})
    summary = f"the recordings see {min(wide):.0f}°" + (f" to {max(wide):.0f}°" if max(wide) > min(wide) + 1.0 else "")
    summary += f" ({', '.join('pinhole' if model == 'none' else model for model in models)})"
    kept = np.minimum(narrowest[:2], math.tan(WIDEST / 2.0))
    if (kept < narrowest[:2]).any():
        angle = math.degrees(np.arctan(kept).sum())
        summary += f", of which a pinhole takes {angle:.0f}°: it stretches the rest beyond use"
    elif max(wide) > min(wide) + 1.0:
        summary += ", of which the narrowest is taken"
    focal = min(min(camera.axial_focal_lengths) for camera in cameras)
    return RecordedView(float(kept[0]), float(kept[1]), float(narrowest[2]), float(narrowest[3]), focal, summary)


def _edges(camera: Camera) -> tuple[float, float, float, float]:
    """Tangents of the angles off the axis at which an image ends: left, right, top, bottom."""
    u, v = [-0.5, camera.width - 0.5], [-0.5, camera.height - 0.5]
    pixels = np.array([[u[0], camera.cy], [u[1], camera.cy], [camera.cx, v[0]], [camera.cx, v[1]]])
    rays = np.abs(np.nan_to_num(np.asarray(camera.unproject(pixels)), nan=np.inf))  # NaN: beyond 90°
    return float(rays[0, 0]), float(rays[1, 0]), float(rays[2, 1]), float(rays[3, 1])


def _fitting(camera: CameraSettings, seen: RecordedView) -> CameraSettings:
    """Settings of a camera that sees as much, with as many pixels as the street's at most, and no finer than seen."""
    across = seen.left + seen.right
    top, bottom = (min(edge, math.tan(TALLEST / 2.0)) for edge in (seen.top, seen.bottom))
    pixels = STREET_CAMERA.width * STREET_CAMERA.height
    focal = min(seen.focal, math.sqrt(pixels / (across * (top + bottom))))
    width = camera.width or max(_STEP, _STEP * round(focal * across / _STEP))
    focal = width / across
    height = camera.height or max(_STEP, _STEP * round(focal * (top + bottom) / _STEP))
    if camera.height is None:
        while height > _STEP and height > focal * (seen.top + seen.bottom) + 0.05 * _STEP:
            height -= _STEP
    return dataclasses.replace(
        camera,
        width=width,
        height=height,
        fx=focal,
        fy=focal if camera.fy is None else camera.fy,
        cx=width * seen.left / across - 0.5 if camera.cx is None else camera.cx,
        cy=height * top / (top + bottom) - 0.5 if camera.cy is None else camera.cy,
        field_of_view=None,
    )


def recorded_height(sequences: Sequence[PosedSequence]) -> tuple[float, str]:
    """Height of the cameras ahead above the ground, metres, and its source; a `ConfigurationError` if unclear."""
    found = [known for sequence in sequences if (known := _height(sequence)) is not None]
    if not found:
        what = "the recordings do not say how high the camera stands: neither LiDAR nor a stereo pair shows the ground"
        cure = "Measure from the ground to the lens: `camera: {field_of_view: auto, height_above_ground: METRES}`"
        raise ConfigurationError(what, where="camera.height_above_ground", cure=cure)
    heights = [height for height, _ in found]
    if max(heights) > _CONTRADICTING * min(heights):
        what = f"cameras {min(heights):.2f} to {max(heights):.2f} m above the ground"
        cure = "Train on recordings of one rig, or name the height"
        raise ConfigurationError(what, where="camera.height_above_ground", cure=cure)
    return round(float(np.median(heights)), 2), ", ".join(sorted({source for _, source in found}))


def _height(sequence: PosedSequence) -> tuple[float, str] | None:
    provenance, name = sequence.provenance, cameras_ahead(sequence)[0]
    if provenance.get("source") == "street world":  # whose rigs stand on the origin of their frame
        return float(sequence.rig_from_camera[name].translation[2]), "exact, of the street world"
    if provenance.get("dataset") in _MOUNTED_M:
        return _MOUNTED_M[provenance["dataset"]], f"as {provenance['dataset']} has it mounted"
    generator = np.random.default_rng(0)
    measured = {"LiDAR": _lidar_points(sequence, name), "stereo": _stereo_points(sequence)}
    for source, clouds in measured.items():
        heights = []
        for points in clouds:
            height = ground_plane(points[generator.permutation(len(points))[:_POINTS]], generator)
            if height is not None:
                heights.append(height)
        if heights:
            return float(np.median(heights)), f"ground seen by {source}"
    return None


def _some_frames(sequence: PosedSequence) -> range:
    return range(0, len(sequence), -(-len(sequence) // _FRAMES))


def _lidar_points(sequence: PosedSequence, name: str) -> Iterator[Doubles]:
    """LiDAR points [N, 3] of some frames in a camera's optical frame, metres."""
    camera_from_rig = sequence.rig_from_camera[name].inverse()
    for index in _some_frames(sequence):
        points = sequence.lidar(index)
        if points is not None:
            yield np.asarray(camera_from_rig.apply(points.astype(np.float64)))


def _stereo_points(sequence: PosedSequence) -> Iterator[Doubles]:
    """Points [N, 3] that stereo finds in some frames, in the left camera's optical frame, metres."""
    try:
        left, right, baseline = stereo_pair(sequence)
    except SequenceError:
        return
    wide = _fitting(CameraSettings(), recorded_view([sequence])).camera()
    sequence = rectified_sequence(sequence, (left, right), wide)
    camera = sequence.cameras[left]
    pixels = camera.pixel_centres()
    for index in _some_frames(sequence):
        grey = [np.asarray(cv2.cvtColor(sequence.image(index, side), cv2.COLOR_RGB2GRAY)) for side in (left, right)]
        depth = stereo_depth(grey[0].astype(np.uint8), grey[1].astype(np.uint8), camera.fx, baseline)
        known = depth > 0.0
        yield np.asarray(camera.unproject(pixels[known])) * depth[known][:, None]


def ground_plane(points: Doubles, generator: Random) -> float | None:
    """Distance to the plane below a camera on which most of its points [N, 3] lie (y down); None if there is none.

    Planes are fitted to random samples (Fischler and Bolles 1981). Those that are tilted against the camera's
    horizontal plane, as walls are, do not count.
    """
    below = points[(points[:, 1] > 0.0) & (points[:, 1] > 0.05 * np.abs(points[:, 2]))]
    if len(below) < _FEWEST_ON_GROUND:
        return None
    normals, heights = _planes(below[generator.integers(0, len(below), (_HYPOTHESES, 3))])
    if not len(heights):
        return None
    near = np.linalg.norm(below[None, :, [0, 2]], axis=-1) < _REACH * heights[:, None]
    on_plane = near & (np.abs(normals @ below.T - heights[:, None]) < _THICKNESS * heights[:, None])
    best = int(on_plane.sum(axis=1).argmax())
    inliers = below[on_plane[best]]
    if len(inliers) < 3:
        return None
    centre = inliers.mean(axis=0)
    normal = np.linalg.svd(inliers - centre, full_matrices=False)[2][2]
    return abs(float(normal @ centre))


def _planes(corners: Doubles) -> tuple[Doubles, Doubles]:
    """Downward normals [K, 3] and distances [K] of those planes through triples [S, 3, 3] that may be ground."""
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = normals / np.where(lengths > 0.0, lengths, 1.0)
    normals *= np.where(normals[:, 1:2] < 0.0, -1.0, 1.0)
    heights = np.einsum("ij,ij->i", normals, corners[:, 0])
    usable = (lengths[:, 0] > 0.0) & (normals[:, 1] > math.cos(_LARGEST_TILT)) & (heights > 0.0)
    return normals[usable], heights[usable]
