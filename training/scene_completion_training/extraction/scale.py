"""Metres for reconstructions that have none: from odometry, or from the height of the camera above the ground."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from scene_completion_training.arrays import Doubles, Random
from scene_completion_training.extraction.structure_from_motion import Model

_CHORD = 5  # keyframes between the ends of a compared distance: a single step is mostly noise
_NEIGHBOURS = 5  # keyframes before and after whose points help to see the ground
_HYPOTHESES = 600
_LARGEST_TILT = math.radians(25.0)  # of the ground against the camera's horizontal plane
_THICKNESS = 0.03  # of the camera's height: distance to the plane up to which a point lies on it
_REACH = 12.0  # camera heights: points further away are too inexact
_FEWEST_POINTS = 25
_FEWEST_FRAMES = 3
_LARGEST_SPREAD = 0.25


@dataclass(frozen=True)
class Scale:
    """A factor from a reconstruction's unit to metres, and what speaks for it."""

    source: str  # "stereo", "odometry", "camera height", "recorded" or "unknown"
    factor: float  # metres per unit; 1 where unknown
    support: str  # in words

    @property
    def metric(self) -> bool:
        """Whether the result is in metres."""
        return self.source != "unknown"


def scale_from_odometry(model: Model, stamps: Mapping[int, int], position_at: Callable[[int], Doubles | None]) -> Scale:
    """Compare distances between keyframes with those that odometry has measured: the median ratio.

    It is unknown where odometry covers less than three distances, or they contradict each other.

    `stamps`: frame index -> time, ns; `position_at`: position [3] in metres at a time, None where odometry has none.
    """
    frames = list(model.world_from_first)
    places = {frame: position_at(stamps[frame]) for frame in frames}
    ratios = []
    chord = max(1, min(_CHORD, len(frames) // 2))
    for start, end in zip(frames, frames[chord:], strict=False):
        one, other = places[start], places[end]
        if one is None or other is None:
            continue
        moved = np.linalg.norm(model.world_from_first[end].translation - model.world_from_first[start].translation)
        measured = np.linalg.norm(other - one)
        if moved > 0.0 and measured > 0.0:
            ratios.append(float(measured / moved))
    return _median_scale("odometry", np.array(ratios), "distances")


def scale_from_camera_height(model: Model, height: float) -> Scale:
    """Fit the ground under the camera and compare its distance with the known height of the camera, metres.

    For every keyframe a plane is fitted by random samples (Fischler and Bolles 1981) to the sparse points around it.
    Planes that are tilted against the camera's horizontal plane, as walls are, do not count. Returns the scale; unknown
    where too few keyframes show enough ground or their heights contradict each other. `model`: reconstruction of
    unknown scale; the first camera looks about horizontally.
    """
    generator = np.random.default_rng(0)
    heights, supports = [], []
    frames = list(model.world_from_first)
    for position, frame in enumerate(frames):
        around = frames[max(position - _NEIGHBOURS, 0) : position + _NEIGHBOURS + 1]
        visible = np.unique(np.concatenate([model.seen[other] for other in around]))
        camera_from_world = model.world_from_first[frame].inverse()
        found = ground_plane(np.asarray(camera_from_world.apply(model.points[visible])), generator)
        if found is not None and found[1] >= _FEWEST_POINTS:
            heights.append(found[0])
            supports.append(found[1])
    scale = _median_scale("camera height", height / np.array(heights), "keyframes")
    points = f", {np.median(supports):.0f} points each on the ground" if supports else ""
    return Scale(scale.source, scale.factor, f"{scale.support}{points}")


def ground_plane(points: Doubles, generator: Random) -> tuple[float, int] | None:
    """Distance to the plane below a camera with most points of [N, 3] (y down), and their number; None if none fits."""
    below = points[(points[:, 1] > 0.0) & (points[:, 1] > 0.05 * np.abs(points[:, 2]))]
    if len(below) < _FEWEST_POINTS:
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
    return abs(float(normal @ centre)), len(inliers)


def _planes(corners: Doubles) -> tuple[Doubles, Doubles]:
    """Downward normals [K, 3] and distances [K] of those planes through triples [S, 3, 3] that may be ground."""
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = normals / np.where(lengths > 0.0, lengths, 1.0)
    normals *= np.where(normals[:, 1:2] < 0.0, -1.0, 1.0)
    heights = np.einsum("ij,ij->i", normals, corners[:, 0])
    usable = (lengths[:, 0] > 0.0) & (normals[:, 1] > math.cos(_LARGEST_TILT)) & (heights > 0.0)
    return normals[usable], heights[usable]


def _median_scale(source: str, ratios: Doubles, unit: str) -> Scale:
    if len(ratios) < _FEWEST_FRAMES:
        return Scale("unknown", 1.0, f"{source}: only {len(ratios)} usable {unit}")
    median = float(np.median(ratios))
    spread = float(1.4826 * np.median(np.abs(ratios - median)) / median)
    if spread > _LARGEST_SPREAD:
        return Scale("unknown", 1.0, f"{source}: {len(ratios)} {unit} contradict each other by {spread:.0%}")
    return Scale(source, median, f"{len(ratios)} {unit}, spread {spread:.1%}")
