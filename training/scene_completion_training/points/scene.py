"""A scene of points with its posed RGB-D views, the classes of indoor data sets, and what may be wrong with one."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import SequenceError, VocabularyError
from scene_completion_ros.geometry import Camera, RigidTransform
from scene_completion_ros.geometry.depth_images import agreement
from scene_completion_ros.progress import print_lines
from scene_completion_ros.untrusted_files import read_yaml
from scene_completion_training.arrays import Bytes, Doubles, Floats, Ints

UNLABELLED = -1
# Classes of what is none of the others, by name: the released code of OpenScene finds them by index, and overwrites
# 'air vent', 'headboard' and 'person' with 'other' in the longer lists of Matterport3D.
OTHERS = ("other", "otherfurniture")
_FILE = Path(__file__).with_name("label_sets.yaml")
_PARTS = {"matterport40": 40, "matterport80": 80}  # the most frequent classes of matterport160
LEAST_POINTS = 100
NEAREST_MEDIAN, FARTHEST_MEDIAN = 0.2, 20.0  # metres, of the depth of a room
PROPORTIONS = 0.02  # by which those of depth and image may differ: ScanNet's do by 0.4 %
UPRIGHT = 0.3  # least mean cosine between cameras' upper side and z
_STARTS, _GAPS = 4, (1, 4, 16)  # views of a scene that are checked, each with those so many places behind it
_GRID = 40  # pixels along a side that are compared from view to view


@dataclass(frozen=True, eq=False)
class RgbdView:
    """One posed image with depth that is registered to it; both are read on access."""

    name: str
    camera: Camera  # of the image; the depth image may have another size, and then `camera.resized` is its camera
    world_from_camera: RigidTransform  # optical frame: x right, y down, z ahead
    image: Callable[[], Bytes]  # RGB [H, W, 3]
    depth: Callable[[], Floats]  # z-depth [h, w], metres; 0 where unknown


@dataclass(frozen=True, eq=False)
class PointScene:
    """A cloud of N points, z up."""

    name: str
    points: Floats  # [N, 3], metres, world frame of the views
    colours: Floats | None = None  # [N, 3] in 0..1
    normals: Floats | None = None  # [N, 3], unit length; zero where unknown
    classes: tuple[str, ...] = ()  # K names
    label: Ints | None = None  # [N] in 0..K - 1, `UNLABELLED` where unknown
    instance: Ints | None = None  # [N], `UNLABELLED` where a point is of no thing
    views: tuple[RgbdView, ...] = ()

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True)
class LabelSet:
    """Names of K classes."""

    name: str
    classes: tuple[str, ...]
    ids: tuple[int, ...] = ()  # of each class in its data set; none where that has names alone

    def labels(self, ids: NDArray[Any], known: int, where: str) -> Ints:
        """Classes of ids [N]: 0..K - 1, `UNLABELLED` where an id is of none of them.

        Raises SequenceError where there are ids beyond: they are of another list. `known`: the largest id that the data
        set has.
        """
        table = np.full(known + 1, UNLABELLED, np.int64)
        table[list(self.ids)] = np.arange(len(self.ids))
        return looked_up(table, ids, where)


def looked_up(table: Ints, ids: NDArray[Any], where: str) -> Ints:
    """Entries of a table by ids, -1 for nothing known; a SequenceError where there are ids beyond the table."""
    beyond = (ids < UNLABELLED) | (ids >= len(table))
    if beyond.any():
        some = ", ".join(map(str, np.unique(ids[beyond])[:5].tolist()))
        cure = "These are ids of another list: name the label set that they belong to"
        raise SequenceError(f"has labels {some}, but its list ends at {len(table) - 1}", where=where, cure=cure)
    return np.where(ids < 0, UNLABELLED, table[np.maximum(ids, 0).astype(np.int64)])


@lru_cache(maxsize=1)
def label_sets() -> dict[str, LabelSet]:
    """All label sets by name: scannet20, scannet200, matterport21, -40, -80 and -160, s3dis."""
    stored = read_yaml(_FILE, VocabularyError, cure="Install the package again", kind=dict)
    found = {name: LabelSet(name, tuple(of["classes"]), tuple(of.get("ids", ()))) for name, of in stored.items()}
    return found | {name: LabelSet(name, found["matterport160"].classes[:first]) for name, first in _PARTS.items()}


def label_set(name: str, among: str = "") -> LabelSet:
    """A label set, whose name begins with `among`; a VocabularyError where there is none, or it is of other data."""
    usable = sorted(known for known in label_sets() if known.startswith(among))
    if name not in usable:
        raise VocabularyError(f"there are no labels {name!r} here", cure=f"Name one of {', '.join(usable)}")
    return label_sets()[name]


def require(scene: PointScene, *fields: str, least: int = LEAST_POINTS) -> None:
    """Raises a SequenceError if a scene has fewer than `least` points, or lacks one of these fields of `PointScene`."""
    if len(scene) < least:
        cure = "Leave this scene out"
        raise SequenceError(f"has {len(scene)} points, fewer than {least}", where=scene.name, cure=cure)
    for name in fields:
        value = getattr(scene, name)
        if value is None or (isinstance(value, tuple) and not value):
            cure = f"Choose settings that need no {name}, or scenes that have them"
            raise SequenceError(f"has no {name}", where=scene.name, cure=cure)


def drawn_rows(scene: PointScene, most: int) -> Ints:
    """At most so many labelled points, drawn by chance; a `SequenceError` if the scene has no labels."""
    labelled = np.flatnonzero(true_classes(scene) != UNLABELLED)
    return np.random.default_rng([0, zlib.crc32(scene.name.encode())]).permutation(labelled)[:most]


@cache
def say_once(what: str) -> None:
    """Prints a line, and never again in this process: scenes are read many times."""
    print_lines(what)


def true_classes(scene: PointScene) -> Ints:
    """Classes of points [N], `UNLABELLED` where unknown; a `SequenceError` where the scene has no labels."""
    if scene.label is None or not scene.classes:
        raise SequenceError("has no labels", where=scene.name, cure="Name scenes with labels, and their --labels")
    return scene.label


def check_views(views: Sequence[RgbdView], where: str) -> None:
    """Look at the depth of some views.

    Raises SequenceError: z is not up in the cameras, depth has another scale than metres or belongs to another camera
    than the image, or the poses are those of the world in the cameras.
    """
    count = len(views)
    starts = range(0, count, -(-count // _STARTS))
    pairs = [(start, start + gap) for start in starts for gap in _GAPS if start + gap < count]
    depths = {index: _depth_of(views[index], where) for index in {*starts, *(second for _, second in pairs)}}
    known = np.concatenate([depth[depth > 0.0][::7] for depth in depths.values()])
    median = float(np.median(known)) if len(known) else 0.0
    if not NEAREST_MEDIAN <= median <= FARTHEST_MEDIAN:
        what = f"the median of its depth is {median:.4g} m" if len(known) else "its depth images hold no depth"
        scale = "millimetres, it seems" if median > FARTHEST_MEDIAN else "divided twice, it seems"
        cure = f"Give z-depth in metres, 0 where unknown{f'; these are {scale}' if len(known) else ''}"
        raise SequenceError(what, where=where, cure=cure)
    agreeing, pixels = np.zeros((2, 2), np.int64), 0
    for one, other in pairs:
        poses = views[one].world_from_camera, views[other].world_from_camera
        sampled, seen = _grid(depths[one]), depths[other]
        shown = (_grid(np.nan_to_num(rays_of(views[one], depths[one]))) * sampled[..., None])[sampled > 0.0]
        camera = views[other].camera.resized(seen.shape[1], seen.shape[0])
        # Pixels of a grid in one view whose surface the other view sees where the pose puts it, and those compared.
        for inverse, relative in enumerate((poses[1].inverse() @ poses[0], poses[1] @ poses[0].inverse())):
            agreeing[inverse] += agreement(np.asarray(relative.apply(shown)), camera, seen)
        pixels += len(shown)
    as_given, inverted = agreeing[:, 0] / np.maximum(agreeing[:, 1], 1)
    if agreeing[1, 1] > 0.1 * pixels and inverted > max(0.6, as_given + 0.2):
        what = f"{inverted:.0%} of its depth agrees between views if poses are inverted, {as_given:.0%} as they are"
        cure = "Poses must be world_from_camera; these are camera_from_world: invert them"
        raise SequenceError(what, where=where, cure=cure)
    if np.mean([-view.world_from_camera.rotation[2, 1] for view in views]) < UPRIGHT:
        raise SequenceError("z is not up in its cameras", where=where, cure="Turn its world so that z points up")


def _depth_of(view: RgbdView, where: str) -> Floats:
    depth = view.depth()
    camera = view.camera
    if depth.ndim != 2 or abs(depth.shape[1] * camera.height / (depth.shape[0] * camera.width) - 1.0) > PROPORTIONS:
        size = "x".join(map(str, depth.shape[::-1]))
        what = f"the depth of view {view.name} is {size}, its image {camera.width}x{camera.height}: other proportions"
        cure = "Depth must be registered to the image: take the aligned depth, or warp it to the image's camera"
        raise SequenceError(what, where=where, cure=cure)
    return depth


def rays_of(view: RgbdView, depth: Floats) -> Doubles:
    """Points at z = 1 on the rays of the pixels of a depth image, [h, w, 3]; NaN where the lens has none."""
    camera = view.camera.resized(depth.shape[1], depth.shape[0])
    return np.asarray(camera.unproject(camera.pixel_centres()))


def _grid(depth: NDArray[Any]) -> NDArray[Any]:
    return depth[:: -(-depth.shape[0] // _GRID), :: -(-depth.shape[1] // _GRID)]
