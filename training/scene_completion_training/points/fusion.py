"""Posed RGB-D made points: rendered rooms, recordings, bags with depth."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.geometry import RigidTransform
from scene_completion_ros.geometry.depth_images import surface_normals
from scene_completion_ros.sequences.posed_sequence import ArrayLoader, PosedSequence, read_source
from scene_completion_ros.sequences.rigs import reference_camera
from scene_completion_training.points.scene import (
    UNLABELLED,
    PointScene,
    RgbdView,
    check_upright,
    check_views,
    looked_up,
    rays_of,
    rotation_to_z,
)
from scene_completion_training.points.voxels import VoxelMeans, unit

VOXEL = 0.02  # metres; one point is kept in each, as ScanNet's meshes have about them
FARTHEST = 10.0  # metres, up to which depth is taken: that of cameras is noise beyond
_IMAGES = ("label", "instance")


def fused_scene(
    sequence: PosedSequence,
    *,
    # Names of labels. Where the sequence's provenance lists "classes", its own are found among them by name; by default
    # they are all of its own.
    classes: Sequence[str] = (),
    voxel: float = VOXEL,  # side, metres
    # Direction that points up in the world of the poses, see `rotation_to_z`; z where it is "", which is checked.
    up: str = "",
    every: int = 1,  # take every n-th view
    name: str = "",
) -> PointScene:
    """Fuse the depth of a sequence to points.

    Each voxel keeps the mean of the points of all pixels in it, of their colours and normals, and the most frequent
    label and instance. Assets of frames: "depth" [h, w] is z-depth of the reference camera in metres, 0 or infinite
    where unknown. "label" [h, w] are indices of classes, "instance" [h, w] numbers of things, 0 of none. In both, -1
    and the largest value of unsigned numbers stand for unknown. Returns the scene, with z up in its points and in the
    poses of its views. Raises SequenceError where there is no depth, it does not fit images or poses, labels have no
    names, or z is not up.
    """
    where = name or sequence.name
    camera = reference_camera(sequence)
    frames = [frame for frame in sequence.frames if "depth" in frame.assets and camera in frame.images][::every]
    if not frames:
        cure = "Record depth that is registered to the image, or name a data set with points"
        raise SequenceError("no frame has depth", where=where, cure=cure)
    if not sequence.metric_scale:
        raise SequenceError("its poses are not in metres", where=where, cure="Scale them: depth is in metres")
    listed = sequence.provenance.get("classes")
    own = tuple(map(str, listed)) if isinstance(listed, list) else ()
    names = tuple(classes) or own
    place = {label: number for number, label in enumerate(names)}
    table = np.array([place.get(label, UNLABELLED) for label in own or names], np.int64)
    views = tuple(
        RgbdView(
            f"{frame.stamp_ns}",
            sequence.cameras[camera],
            frame.world_from_rig @ sequence.rig_from_camera[camera],
            partial(read_source, frame.images[camera]),
            partial(_depth, frame.assets["depth"]),
            partial(_named, frame.assets["label"], table, where) if len(table) and "label" in frame.assets else None,
        )
        for frame in frames
    )
    check_views(views, where)
    turn = RigidTransform(rotation_to_z(up, views, where) if up else np.eye(3), np.zeros(3))
    views = tuple(dataclasses.replace(view, world_from_camera=turn @ view.world_from_camera) for view in views)
    points, means, votes = _fused(views, [frame.assets for frame in frames], table, VoxelMeans(voxel, where))
    if not up:
        check_upright(points, views, where)
    return PointScene(
        where, points, means[:, :3], unit(means[:, 3:]), names if "label" in votes else (), views=views, **votes
    )


def _fused(
    views: Sequence[RgbdView], assets: Sequence[Mapping[str, ArrayLoader]], table: NDArray[np.int64], sums: VoxelMeans
) -> tuple[NDArray[np.float32], NDArray[np.float32], dict[str, NDArray[np.int64]]]:
    """Points [N, 3], colours and normals [N, 6], and labels and instances [N] where any frame has them."""
    where, there = sums.where, [name for name in _IMAGES if any(name in of for of in assets)]
    if "label" in there and not len(table):
        cure = "Name the label set, or list them as classes in its provenance"
        raise SequenceError("its labels have no names", where=where, cure=cure)
    for view, of in zip(views, assets, strict=True):
        depth = view.depth()
        positions = rays_of(view, depth) * depth[..., None]
        chosen = (depth > 0.0) & (depth < FARTHEST) & np.isfinite(positions).all(axis=-1)
        pose = view.world_from_camera
        normals = surface_normals(np.where(chosen[..., None], positions, np.nan))[chosen] @ pose.rotation.T
        colours = cv2.resize(view.image(), depth.shape[::-1], interpolation=cv2.INTER_AREA)[chosen] / 255.0
        votes = {}
        for name in there:
            ids = _ids(of.get(name), depth, f"{where}, {name} of view {view.name}")[chosen]
            votes[name] = looked_up(table, ids, where) if name == "label" else np.where(ids > 0, ids, UNLABELLED)
        sums.add(np.asarray(pose.apply(positions[chosen])), np.hstack([colours, normals]), votes)
    return sums.result()


def _depth(load: Callable[[], NDArray[Any]]) -> NDArray[np.float32]:
    stored = load()
    if stored.dtype.kind not in "fiu":
        raise SequenceError(f"depth is {stored.dtype}", cure="Give z-depth in metres, 0 where unknown")
    depth = np.asarray(stored, np.float32)
    return np.where(np.isfinite(depth), depth, np.float32(0.0))


def _named(load: ArrayLoader, classes: NDArray[np.int64], where: str) -> NDArray[np.int64]:
    """Classes of pixels [h, w] of a frame."""
    return looked_up(classes, _whole_numbers(load, where), where)


def _ids(load: ArrayLoader | None, depth: NDArray[np.float32], where: str) -> NDArray[np.int64]:
    """Whole numbers [h, w] of a frame, in the size of its depth."""
    if load is None:
        return np.full(depth.shape, UNLABELLED)
    ids = _whole_numbers(load, where)
    if ids.shape != depth.shape:
        rows = (np.arange(depth.shape[0]) * ids.shape[0]) // depth.shape[0]
        ids = ids[rows][:, (np.arange(depth.shape[1]) * ids.shape[1]) // depth.shape[1]]
    return ids


def _whole_numbers(load: ArrayLoader, where: str) -> NDArray[np.int64]:
    """The numbers of an image; `UNLABELLED` for the largest of unsigned ones."""
    found = load()
    if found.ndim != 2 or found.dtype.kind not in "iu":
        cure = "Give whole numbers [h, w]"
        raise SequenceError(f"is {found.dtype} of shape {list(found.shape)}", where=where, cure=cure)
    ids = found.astype(np.int64)
    if found.dtype.kind == "u":
        ids[found == np.iinfo(found.dtype).max] = UNLABELLED
    return ids
