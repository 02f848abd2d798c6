"""Prepares training frames (images at the canonical focal length, stereo depth, fused occupancy) in a cache on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from scene_completion_ros.geometry import OPTICAL_FROM_FORWARD, Camera, RigidTransform, VoxelGrid
from scene_completion_ros.geometry.resampling import Resampler
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from training.data.fused_occupancy import DepthView, fuse_occupancy
from training.data.stereo import stereo_depth, stereo_pair

CANONICAL_CAMERA = Camera(fx=370.0, fy=370.0, cx=319.5, cy=92.0, width=640, height=192)
"""Canonical camera of the street student: KITTI's field of view at 192×640."""
DOWNWARD = np.asarray(cv2.Rodrigues(np.array([-np.radians(15.0), 0.0, 0.0]))[0], np.float64)
"""Rotation of the rectified view of a camera that looks aside: 15° down, to where the ground and its things are."""
POINT_UNIT = 0.002
"""Metres per step of the stored voxel centres (int16: ±65 m)."""
_VERSION = 5


@dataclass(frozen=True)
class FusionSettings:
    """How far around a frame its sequence is fused.

    Attributes:
        metres_behind: Travelled distance before the frame.
        metres_ahead: Travelled distance after the frame.
        views: Most views used.
        free_samples: Voxels tested for free space.
        kept: Most voxels kept a frame, half of them with hits.
    """

    metres_behind: float = 15.0
    metres_ahead: float = 45.0
    views: int = 14
    free_samples: int = 300_000
    kept: int = 120_000


@dataclass(frozen=True, eq=False)
class PreparedFrame:
    """One instant, ready for training.

    Attributes:
        images: Camera -> uint8 RGB [h, w, 3] at about the canonical focal length: "left" and "right" of the pair, and
            what cameras looking elsewhere see, rectified into the canonical camera.
        depths: "left", "right" -> stereo z-depth float16 [h, w], metres, 0 unknown.
        cameras: Camera -> intrinsics of the image.
        world_from_camera: Camera -> pose.
        points: Voxel centres int16 [N, 3] in units of `POINT_UNIT`, left camera's optical frame.
        target: Occupancy uint8 [N], 255 = certainly occupied.
        evidence: float16 [N].
    """

    images: dict[str, NDArray[np.uint8]]
    depths: dict[str, NDArray[np.float16]]
    cameras: dict[str, Camera]
    world_from_camera: dict[str, RigidTransform]
    points: NDArray[np.int16]
    target: NDArray[np.uint8]
    evidence: NDArray[np.float16]

    @property
    def far_cameras(self) -> tuple[str, str]:
        """Two cameras that see from further along what is hidden here: those that look aside, or the pair."""
        aside = sorted(set(self.images) - {"left", "right"})
        first, second = (*aside, "left", "right")[:2]
        return first, second

    @property
    def has_evidence(self) -> bool:
        """Whether there are both hit and free voxels to draw from."""
        return bool((self.target > 0).any() and (self.target == 0).any())


def prepare_sequence(
    sequence: PosedSequence, cache: Path, *, settings: FusionSettings | None = None, workers: int = 2
) -> list[Path]:
    """Prepares every frame of a stereo sequence; frames that are already in the cache are left alone.

    Args:
        sequence: Sequence with a rectified stereo pair.
        cache: Folder for the prepared frames.
        settings: Fusion settings; part of the cache key.
        workers: Processes.

    Returns:
        One file a frame, in order.

    Raises:
        SequenceError: The sequence has no stereo pair.
    """
    settings = settings or FusionSettings()
    stereo_pair(sequence)
    folder = cache / f"{sequence.name.replace('/', '_')}-{_fingerprint(sequence, settings)}"
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{index:06d}.safetensors" for index in range(len(sequence))]
    missing = [index for index, file in enumerate(files) if not file.exists()]
    chunks = [chunk.tolist() for chunk in np.array_split(missing, workers) if len(chunk)]
    if len(chunks) == 1:
        _prepare_frames(sequence, chunks[0], files, settings)
    elif chunks:
        # Spawned, not forked: a fork inherits the locks of OpenCV's threads and can wait for them forever.
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            list(pool.map(_prepare_frames, *zip(*[(sequence, c, files, settings) for c in chunks], strict=True)))
    return files


def _fingerprint(sequence: PosedSequence, settings: FusionSettings) -> str:
    """Hash of what the prepared frames follow from, but for the pixels: cameras, poses, stamps, settings."""
    cameras = {
        name: [vars(sequence.cameras[name]), _matrix(sequence.rig_from_camera[name])] for name in sequence.cameras
    }
    frames = [[frame.stamp_ns, _matrix(frame.world_from_rig)] for frame in sequence.frames]
    content = [_VERSION, sequence.name, cameras, frames, vars(settings), vars(CANONICAL_CAMERA)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _matrix(pose: RigidTransform) -> list[float]:
    return [round(float(value), 9) for value in pose.matrix.ravel()]


def _prepare_frames(sequence: PosedSequence, indices: list[int], files: list[Path], settings: FusionSettings) -> None:
    cv2.setNumThreads(1)
    left, right, baseline = stereo_pair(sequence)
    camera = sequence.cameras[left]
    aside = {
        name: Resampler(sequence.cameras[name], CANONICAL_CAMERA, source_from_target_rotation=DOWNWARD)
        for name in looking_aside(sequence, left)
    }

    @lru_cache(maxsize=160)
    def pair(index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        grey = [cv2.cvtColor(sequence.image(index, name), cv2.COLOR_RGB2GRAY) for name in (left, right)]
        return np.asarray(grey[0], np.uint8), np.asarray(grey[1], np.uint8)

    @lru_cache(maxsize=160)
    def depth(index: int) -> NDArray[np.float32]:
        return stereo_depth(*pair(index), camera.fx, baseline)

    for index in indices:
        views = list(fusion_views(sequence, index, left, depth, camera.fx * baseline, settings))
        points, target, evidence = _voxels(views, settings, seed=index)
        shrunk = {"left": _shrink(sequence.image(index, left), camera, depth(index))}
        right_depth = stereo_depth(*pair(index), camera.fx, baseline, reference="right")
        shrunk["right"] = _shrink(sequence.image(index, right), sequence.cameras[right], right_depth)
        poses = {
            side: sequence.world_from_camera(index, name).matrix for side, name in (("left", left), ("right", right))
        }
        arrays: dict[str, NDArray[Any]] = {"points": points, "target": target, "evidence": evidence}
        for side, (image, small_depth, small_camera) in shrunk.items():
            arrays |= {f"image_{side}": image, f"depth_{side}": small_depth, f"camera_{side}": small_camera}
            arrays[f"pose_{side}"] = np.ascontiguousarray(poses[side])
        for name in set(aside) & set(sequence.frames[index].images):
            pose = sequence.world_from_camera(index, name) @ RigidTransform(DOWNWARD, np.zeros(3))
            arrays |= {
                f"image_aside_{name}": aside[name](sequence.image(index, name)),
                f"camera_aside_{name}": _intrinsics(CANONICAL_CAMERA),
                f"pose_aside_{name}": np.ascontiguousarray(pose.matrix),
            }
        temporary = files[index].with_suffix(".part")
        safetensors.numpy.save_file(arrays, temporary)
        temporary.replace(files[index])


def _shrink(
    image: NDArray[np.uint8], camera: Camera, depth: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.float16], NDArray[np.float64]]:
    scale = CANONICAL_CAMERA.fx / camera.fx
    small = camera.resized(round(camera.width * scale), round(camera.height * scale))
    size = (small.width, small.height)
    shrunk = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    nearest = cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST_EXACT).astype(np.float16)
    return shrunk, nearest, _intrinsics(small)


def _intrinsics(camera: Camera) -> NDArray[np.float64]:
    return np.array([camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height])


def looking_aside(sequence: PosedSequence, left: str) -> list[str]:
    """Cameras whose optical axis differs by more than 30° from that of the left camera of the pair."""
    axis = sequence.rig_from_camera[left].rotation[:, 2]
    return [name for name in sorted(sequence.cameras) if sequence.rig_from_camera[name].rotation[:, 2] @ axis < 0.866]


def fusion_views(
    sequence: PosedSequence,
    index: int,
    left: str,
    depth: Callable[[int], NDArray[np.float32]],
    focal_baseline: float,
    settings: FusionSettings,
) -> Iterator[DepthView]:
    """Depth views to fuse for a frame: itself, then frames spread evenly over the distance travelled around it.

    Args:
        sequence: The sequence.
        index: The frame.
        left: Name of the left camera.
        depth: Gives the left camera's stereo depth [H, W] of a frame, metres.
        focal_baseline: Focal length × baseline, pixel metres.
        settings: Fusion settings.

    Yields:
        Views at half resolution; their grid frame is the frame's left camera, axes x forward, y left, z up.
    """
    positions = np.array([sequence.world_from_camera(i, left).translation for i in range(len(sequence))])
    travelled = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(positions, axis=0), axis=1))])
    travelled -= travelled[index]
    near = np.flatnonzero((travelled >= -settings.metres_behind) & (travelled <= settings.metres_ahead))
    wanted = np.linspace(travelled[near[0]], travelled[near[-1]], settings.views)
    others = {int(near[np.abs(travelled[near] - w).argmin()]) for w in wanted} - {index}
    grid_from_world = OPTICAL_FROM_FORWARD.inverse() @ sequence.world_from_camera(index, left).inverse()
    matrix = sequence.cameras[left].matrix
    half = np.diag([0.5, 0.5, 1.0])  # every second pixel, from pixel (0, 0) on
    for other in [index, *sorted(others)]:
        view_depth = np.ascontiguousarray(depth(other)[::2, ::2])
        yield DepthView(
            depth=view_depth,
            matrix=half @ matrix,
            grid_from_camera=grid_from_world @ sequence.world_from_camera(other, left),
            focal_baseline=focal_baseline,
            trust=3.0 if other == index else 1.0,
        )


def _voxels(
    views: list[DepthView], settings: FusionSettings, *, seed: int
) -> tuple[NDArray[np.int16], NDArray[np.uint8], NDArray[np.float16]]:
    """Evidence on a grid ahead of the camera, slightly turned and shifted at random against its axes."""
    generator = np.random.default_rng(seed)
    yaw, offset = generator.uniform(-0.15, 0.15), generator.uniform(-0.1, 0.1, 3)
    cos, sin = np.cos(yaw), np.sin(yaw)
    turned_from_grid = RigidTransform(np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]]), np.zeros(3))
    grid = VoxelGrid((-0.4 + offset[0], -25.6 + offset[1], -2.4 + offset[2]), 0.2, (262, 256, 34), "turned")
    turned = [
        DepthView(v.depth, v.matrix, turned_from_grid @ v.grid_from_camera, v.focal_baseline, v.trust) for v in views
    ]
    centres, target, evidence = fuse_occupancy(turned, grid, free_samples=settings.free_samples, generator=generator)
    optical = (OPTICAL_FROM_FORWARD @ turned_from_grid.inverse()).apply(centres)
    keep = []
    for chosen in (np.flatnonzero(target > 0), np.flatnonzero(target == 0)):
        keep.append(generator.permutation(chosen)[: settings.kept // 2])
    kept = np.concatenate(keep)
    return (
        np.round(np.asarray(optical)[kept] / POINT_UNIT).astype(np.int16),
        np.round(target[kept] * 255).astype(np.uint8),
        evidence[kept].astype(np.float16),
    )


def load_prepared(file: Path) -> PreparedFrame:
    """Reads one prepared frame."""
    data = safetensors.numpy.load_file(file)
    names = [key.removeprefix("camera_") for key in data if key.startswith("camera_")]
    cameras = {}
    for name in names:
        fx, fy, cx, cy, width, height = data[f"camera_{name}"]
        cameras[name] = Camera(float(fx), float(fy), float(cx), float(cy), int(width), int(height))
    return PreparedFrame(
        images={name: data[f"image_{name}"] for name in names},
        depths={name: data[f"depth_{name}"] for name in names if f"depth_{name}" in data},
        cameras=cameras,
        world_from_camera={name: RigidTransform.from_matrix(data[f"pose_{name}"]) for name in names},
        points=data["points"],
        target=data["target"],
        evidence=data["evidence"],
    )
