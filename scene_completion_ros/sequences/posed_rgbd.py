"""Folders of posed colour and depth images: 7-Scenes (Shotton et al., CVPR 2013), and what is laid out like it.

Files are frame-000000.color.jpg (or .png), .depth.png and .pose.txt, world_from_camera. Their intrinsics are in
camera-intrinsics.txt; without it they are those of 7-Scenes. They are those of depth: colour has often a lens of its
own, which is found by where edges of depth lie in colour images. Folders of DeepVideoMVS have image/, depth/ in
millimetres, which may be smaller, K.txt of both, and poses.txt with a line an image. The world of such recordings
hangs somehow in space: it is set upright by the floor and the walls that depth shows, and its floor lies at height 0.
True voxels come from a truncated signed distance field of all depth images (Curless and Levoy, SIGGRAPH 1996).
"""

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numba import prange
from numpy.typing import NDArray

from scene_completion_ros.arrays import Bytes, Doubles, Floats
from scene_completion_ros.errors import SequenceError
from scene_completion_ros.evaluation.truth import FREE, UNKNOWN, VoxelTruth, labelled_truth
from scene_completion_ros.geometry import Camera, RigidTransform, VoxelGrid
from scene_completion_ros.geometry.depth_images import agreement, depth_at_rays, surface_normals
from scene_completion_ros.geometry.grids import ROOM_GRID
from scene_completion_ros.jit import kernel
from scene_completion_ros.picture_files import png_depth, read_picture, read_size
from scene_completion_ros.sequences import posed_sequence
from scene_completion_ros.sequences.frame_lists import FRAME_NUMBERS
from scene_completion_ros.sequences.kitti import check_lines, lines_of, numbered_images
from scene_completion_ros.sequences.posed_sequence import Frame, PosedSequence, Source, numbers_of, rigid_transform
from scene_completion_ros.untrusted_files import read_text

CAMERA = "camera"
INTRINSICS, LISTED_INTRINSICS = "camera-intrinsics.txt", "K.txt"
# Asset: voxels of `ROOM_GRID`, upright below the camera, that all depth images of the recording know of.
FUSED = "fused_voxels"
FINE_M = 0.025
FUSED_FRAMES = 250  # most depth images that are fused
PERIOD_NS = 33_333_333
KINECT_FOCAL = 585.0 / 640.0
OCCUPIED = 1
TRUNCATION = 4.0  # voxels: how far before and behind a surface distances count as they are
THICKNESS = 0.75  # voxels to each side of the surface that hold it
LEAST_VIEWS = 2.0
LEAST_M, MOST_M = 0.15, 8.0
Depth: TypeAlias = Floats  # z-depth [h, w], metres, 0 where unknown
Depths: TypeAlias = Sequence[Callable[[], Depth]]  # of frames, read when they are looked at
_NAME = re.compile(r"frame-(\d{1,9})\.color\.(?:jpg|png)")
_LOOKED_AT = 40  # frames that say where up is
_PLAUSIBLE_M = (0.2, 15.0)
_LEAST_FLOOR = 0.02  # of the level places
_LEAST_LEVEL = 0.02  # of all surfaces, within 14 degrees of level
_ZOOMS = np.arange(0.86, 1.145, 0.01)  # of colour against depth
_COMPARED, _FARTHEST_SHIFT = 12, 0.04  # frames, and of the width of the image
_CLEARER = 1.5  # by how much edges have to agree better for another lens to be believed
_LEAST_SMOOTH = 0.1  # of the pixels with a depth, from which an image shows surfaces


def _folder(path: Path) -> Path | None:
    """Where the images lie: in the folder itself, or in `data/` of it; or the folder of `image/` and `depth/`."""
    if (path / LISTED_INTRINSICS).is_file() and (path / "image").is_dir():
        return path
    for folder in (path, path / "data"):
        if next(folder.glob("frame-*.pose.txt"), None) is not None:
            return folder
    return None


def read_depth(file: Path) -> Depth:
    """16-bit depth in millimetres as metres [H, W]; 0 where unknown, or out of reach of such cameras."""
    metres = png_depth(file, 1000.0)
    metres[(metres < LEAST_M) | (metres > MOST_M)] = 0.0
    return metres


def posed_rgbd(path: Path, *, poses: str | None = None) -> PosedSequence:
    """Opens a folder.

    Raises SequenceError where files are missing or damaged, depth is not in millimetres or belongs to another image,
    poses are camera_from_world, or nothing shows where up is.
    """
    folder = _folder(path)
    assert folder is not None
    listed = (folder / LISTED_INTRINSICS).is_file()
    found_poses, images, depth_files = _listed(folder) if listed else _named(folder)
    lost = [number for number, pose in found_poses.items() if pose is None]
    kept = {number: pose for number, pose in found_poses.items() if pose is not None}
    if not kept:
        raise SequenceError("no frame has a pose", where=str(folder), cure="Name a recording that was tracked")
    camera = _camera(folder / (LISTED_INTRINSICS if listed else INTRINSICS), images[next(iter(kept))])
    matrices = list(kept.values())
    depths = [partial(read_depth, depth_files[number]) for number in kept]
    small = depths[0]().shape != (camera.height, camera.width)
    _check_depth(folder, camera, depths[0]())
    _check_poses(folder, camera, matrices, depths)
    level_from_world = _upright(folder, camera, matrices, depths)
    recording = _Recording(camera, [level_from_world @ pose for pose in matrices], depths)
    step = max(1, len(depths) // _COMPARED)
    colour = camera if listed else _colour_camera(camera, [images[n] for n in list(kept)[::step]], depths[::step])
    unrelated = poses == posed_sequence.UNKNOWN_POSES
    frames = [
        Frame(
            stamp_ns=number * PERIOD_NS,
            images={CAMERA: images[number]},
            world_from_rig=RigidTransform.identity() if unrelated else recording.poses[index],
            assets={
                "depth": (
                    partial(_registered, camera, colour, depths[index]) if small or colour != camera else depths[index]
                ),
                FUSED: partial(recording.voxels, index),
            },
        )
        for index, number in enumerate(kept)
    ]
    return PosedSequence(
        name=path.resolve().name,
        cameras={CAMERA: colour},
        rig_from_camera={CAMERA: RigidTransform.identity()},
        frames=frames,
        pose_source=poses or "poses of the recording",
        provenance={
            "dataset": "posed RGB-D",
            "floor": 0.0,
            FRAME_NUMBERS: list(kept),
            "voxel_grid": {**posed_sequence.grid_entry(ROOM_GRID, CAMERA), "grid_from_camera": "level"},
            **({"frames_without_pose": lost} if lost else {}),
            **({"colour_lens": "found by the edges of depth"} if colour != camera else {}),
        },
    )


@dataclass(frozen=True, eq=False)
class _Recording:
    """All depth images of one recording in one upright world."""

    camera: Camera
    poses: Sequence[RigidTransform]
    depths: Depths

    def voxels(self, index: int) -> Bytes:
        """Labels of `ROOM_GRID` below the camera of a frame.

        What lies below the floor counts for nothing, and no place on the floor is free: rays that pass just above one
        of unknown depth see the upper half of its voxel.
        """
        grid, labels = self._fused
        found = resampled(labels, grid, ROOM_GRID, self.poses[index] @ self.poses[index].levelled().inverse())
        height = ROOM_GRID.centres()[..., 2] / ROOM_GRID.voxel_size
        wrong = (height < -0.5) | ((height <= 0.5) & (found == FREE))
        return np.where(wrong, UNKNOWN, found).astype(np.uint8)

    @cached_property
    def _fused(self) -> tuple[VoxelGrid, Bytes]:
        chosen = range(0, len(self.poses), -(-len(self.poses) // FUSED_FRAMES))
        depths = [self.depths[index]() for index in chosen]
        cameras, poses = [_depth_camera(self.camera, depth) for depth in depths], [self.poses[i] for i in chosen]
        images = list(zip(cameras, poses, depths, strict=True))
        places = np.concatenate([pose.apply(_points(camera, depth, 16)) for camera, pose, depth in images])
        low, high = np.percentile(places, 0.1, axis=0) - 0.2, np.percentile(places, 99.9, axis=0) + 0.2
        grid = VoxelGrid(tuple(low), FINE_M, tuple(np.ceil((high - low) / FINE_M).astype(int)))
        return grid, fused_labels(*fuse_depth(images, grid))


def fuse_depth(images: Iterable[tuple[Camera, RigidTransform, Depth]], grid: VoxelGrid) -> tuple[Floats, Floats]:
    """Fuses camera, world_from_camera and z-depth [H, W], metres, 0 where unknown, on a grid in the world.

    Returns distances to the nearest surface along the rays that saw a place, the mean [X, Y, Z], voxels, positive
    before the surface, at most `TRUNCATION`; and how many images saw it or what is just behind its surface [X, Y, Z].
    """
    total, views = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.float32)
    for camera, pose, depth in images:
        pixel_from_world = (camera.matrix @ pose.inverse().matrix[:3]).astype(np.float32)
        place = np.asarray(grid.origin, np.float32), np.float32(grid.voxel_size)
        _integrate(np.ascontiguousarray(depth, np.float32), pixel_from_world, *place, total, views)
    total /= np.maximum(views, np.float32(1.0))
    return total, views


def fused_labels(distance: Floats, views: Floats) -> Bytes:
    """`FREE`, `OCCUPIED` within `THICKNESS` of a surface, `UNKNOWN` where no image looked or behind surfaces."""
    label = np.where(distance > THICKNESS, FREE, np.where(distance >= -THICKNESS, OCCUPIED, UNKNOWN))
    return np.where(views >= LEAST_VIEWS, label, UNKNOWN).astype(np.uint8)


@kernel()
def _integrate(depth, p, origin, size, total, views):  # type: ignore[no-untyped-def]
    """Adds one image to sums of distances and counts [X, Y, Z], looking up the pixel of each voxel's centre."""
    height, width = depth.shape
    for i in prange(total.shape[0]):
        x = origin[0] + (i + 0.5) * size
        for j in range(total.shape[1]):
            y = origin[1] + (j + 0.5) * size
            for k in range(total.shape[2]):
                z = origin[2] + (k + 0.5) * size
                away = p[2, 0] * x + p[2, 1] * y + p[2, 2] * z + p[2, 3]
                if away <= size:
                    continue
                u = int(np.rint((p[0, 0] * x + p[0, 1] * y + p[0, 2] * z + p[0, 3]) / away))
                v = int(np.rint((p[1, 0] * x + p[1, 1] * y + p[1, 2] * z + p[1, 3]) / away))
                if u < 0 or v < 0 or u >= width or v >= height or depth[v, u] <= 0.0:
                    continue
                before = (depth[v, u] - away) / size
                if before >= -TRUNCATION:
                    total[i, j, k] += min(before, TRUNCATION)
                    views[i, j, k] += 1.0


def resampled(fine: Bytes, grid: VoxelGrid, wanted: VoxelGrid, grid_from_wanted: RigidTransform) -> Bytes:
    """Labels [X, Y, Z] of voxels that are larger than those of a fused grid, and turned against them.

    Each looks up the eight centres of its eighths. One that holds any surface is occupied; one is free where at least
    half of them are free, and no surface is among them.
    """
    occupied, free = np.zeros(wanted.shape, np.bool_), np.zeros(wanted.shape, np.uint8)
    centres = wanted.centres().reshape(-1, 3)
    for offset in np.ndindex(2, 2, 2):
        points = grid_from_wanted.apply(centres + (np.array(offset) - 0.5) * wanted.voxel_size / 2.0)
        index, inside = grid.index_of(points)
        found = np.full(len(points), UNKNOWN, np.uint8)
        found[inside] = fine[tuple(index[inside].T)]
        occupied |= (found == OCCUPIED).reshape(wanted.shape)
        free += (found == FREE).reshape(wanted.shape)
    return np.where(occupied, OCCUPIED, np.where(free >= 4, FREE, UNKNOWN)).astype(np.uint8)


def fused_voxels(sequence: PosedSequence, index: int, camera: str) -> VoxelTruth | None:
    """The voxels that all depth images of the recording know of, around a frame's camera."""
    label = np.asarray(sequence.frames[index].assets[FUSED]())
    nothing = np.zeros(label.shape, np.bool_)
    pose = sequence.grid_from_camera(index)
    truth = labelled_truth("fused depth", label, nothing, ROOM_GRID, pose, sequence.cameras[camera])
    return replace(truth, label=None)


_Files: TypeAlias = tuple[dict[int, RigidTransform | None], dict[int, Path], dict[int, Path]]


def _named(folder: Path) -> _Files:
    """Pose, colour image and depth image of each frame, by its number, of a folder like 7-Scenes."""
    images = {int(found[1]): file for file in sorted(folder.iterdir()) if (found := _NAME.fullmatch(file.name))}
    if not images:
        raise SequenceError("has poses without images", where=str(folder), cure="Unpack frame-*.color.jpg, too")
    poses = {number: _pose(folder / f"frame-{number:06d}.pose.txt") for number in images}
    return poses, images, {number: folder / f"frame-{number:06d}.depth.png" for number in images}


def _listed(folder: Path) -> _Files:
    """The same of a folder of `image/`, `depth/` and `poses.txt`."""
    images, file = numbered_images(folder / "image"), folder / "poses.txt"
    if not images:
        raise SequenceError("has poses without images", where=str(folder), cure="Unpack image/, too")
    cure = "Restore it: row-major 4x4 matrices, world_from_camera"
    poses = posed_sequence.read_lines(
        file, "pose", lambda line: None if "nan" in line.lower() else posed_sequence.pose_of(line), cure
    )
    line_of = lines_of(folder / "frames.txt", list(images))
    check_lines(poses, "poses", max(line_of.values()), file)
    depth = {number: folder / "depth" / f"{image.stem}.png" for number, image in images.items()}
    return {number: poses[line] for number, line in line_of.items()}, images, depth


def _pose(file: Path) -> RigidTransform | None:
    """world_from_camera; None where tracking was lost, which files say with numbers that are not finite."""
    cure = "Restore it: a row-major 4x4 matrix, world_from_camera"
    matrix = numbers_of(read_text(file, SequenceError, cure=cure), (4, 4), str(file), cure, finite=False)
    return rigid_transform(matrix, str(file), cure) if np.isfinite(matrix).all() else None


def _camera(file: Path, image: Path) -> Camera:
    width, height = read_size(image)
    if not file.is_file():
        focal = KINECT_FOCAL * width
        return Camera(focal, focal, 0.5 * width, 0.5 * height, width, height)
    cure = "Restore it: a row-major 3x3 matrix, in pixels"
    matrix = numbers_of(read_text(file, SequenceError, cure=cure), (3, 3), str(file), cure)
    return posed_sequence.pinhole_camera(matrix, (width, height), str(file), cure)


def _colour_camera(camera: Camera, images: Sequence[Path], depths: Depths) -> Camera:
    """The lens of colour images: that of depth, unless edges of depth clearly lie elsewhere in them.

    Edges of inverse depth are zoomed about the middle of the image; their correlation with edges of colour, summed over
    frames, has its peak at the shift between the two.
    """
    width, height = camera.width // 2, camera.height // 2
    frames = []
    for file, read in zip(images, depths, strict=True):
        image = cv2.resize(read_picture(file), (width, height))
        depth = cv2.resize(read(), (width, height), interpolation=cv2.INTER_NEAREST)
        near = cv2.medianBlur(np.divide(1.0, depth, out=np.zeros_like(depth), where=depth > 0.0), 5)
        measured = cv2.erode((depth > 0.0).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        edges = np.where(measured, np.minimum(_edges(near), 0.5), 0.0)
        colour = np.minimum(_edges(cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (0, 0), 1.0)), 150.0)
        frames.append((edges.astype(np.float32), np.fft.rfft2(colour - colour.mean())))
    reach = max(1, round(_FARTHEST_SHIFT * width))
    peaks = []
    for zoom in _ZOOMS:
        warp = np.array([[zoom, 0.0, 0.5 * width * (1.0 - zoom)], [0.0, zoom, 0.5 * height * (1.0 - zoom)]])
        total = np.zeros((height, width))
        for edges, colour in frames:
            moved = cv2.warpAffine(edges, warp, (width, height))
            moved = (moved - moved.mean()) / max(float(np.linalg.norm(moved - moved.mean())), 1e-9)
            total += np.fft.irfft2(colour * np.conj(np.fft.rfft2(moved)), s=total.shape)
        window = np.roll(total, (reach, reach), axis=(0, 1))[: 2 * reach + 1, : 2 * reach + 1]
        row, column = np.unravel_index(int(window.argmax()), window.shape)
        peaks.append((float(window.max()), float(zoom), int(column) - reach, int(row) - reach))
    best, same = max(peaks), min(peaks, key=lambda peak: abs(peak[1] - 1.0))
    if best[0] < _CLEARER * same[0]:
        return camera
    _, zoom, right, down = best
    cx = zoom * (camera.cx - 0.5 * camera.width) + 0.5 * camera.width + 2.0 * right
    cy = zoom * (camera.cy - 0.5 * camera.height) + 0.5 * camera.height + 2.0 * down
    return replace(camera, fx=zoom * camera.fx, fy=zoom * camera.fy, cx=cx, cy=cy)


def _edges(values: NDArray[Any]) -> Floats:
    across, down = (cv2.Sobel(np.asarray(values, np.float32), cv2.CV_32F, *axis) for axis in ((1, 0), (0, 1)))
    return np.hypot(across, down)


def _registered(camera: Camera, colour: Camera, depth: Callable[[], Depth]) -> Depth:
    """A depth image as the lens of the colour images has it, and of their size."""
    measured = depth()
    return depth_at_rays(measured, _depth_camera(camera, measured), colour)


def _depth_camera(camera: Camera, depth: Depth) -> Camera:
    return camera.resized(depth.shape[1], depth.shape[0])


def _points(camera: Camera, depth: Depth, step: int) -> Doubles:
    """Points of every so many-th pixel whose depth is known [N, 3], optical frame."""
    pixels = camera.pixel_centres()[::step, ::step]
    known = depth[::step, ::step] > 0.0
    return np.asarray(camera.unproject(pixels[known]) * depth[::step, ::step][known][:, None], np.float64)


def _check_depth(folder: Path, camera: Camera, depth: Depth) -> None:
    where = f"depth images of {folder}"
    if abs(depth.shape[1] / depth.shape[0] - camera.width / camera.height) > 0.02:
        what = f"they have {depth.shape[1]}x{depth.shape[0]} pixels, the colour images {camera.width}x{camera.height}"
        cure = "Register depth to the colour image: each pixel must show the same place"
        raise SequenceError(what, where=where, cure=cure)
    known = depth[depth > 0.0]
    low, high = _PLAUSIBLE_M
    if len(known) < 0.01 * depth.size or not low < float(np.median(known)) < high:
        middle = "next to nothing" if len(known) < 0.01 * depth.size else f"a median of {np.median(known):.3g} m"
        what = f"in millimetres the first holds {middle} between {LEAST_M:g} and {MOST_M:g} m"
        raise SequenceError(what, where=where, cure="Write millimetres as 16 bits")


def _check_poses(folder: Path, camera: Camera, poses: Sequence[RigidTransform], depths: Depths) -> None:
    """Refuses poses whose inverses bring the surfaces of two frames together, where they themselves do not."""
    step = max(1, len(poses) // 12)
    compared = np.zeros((2, 2))  # of poses as they are and inverted: places that agree, places that two frames show
    for first, second in itertools.pairwise(range(0, len(poses), step)):
        one, seen = depths[first](), depths[second]()
        points = _points(_depth_camera(camera, one), one, 24)
        turns = (poses[second].inverse() @ poses[first], poses[second] @ poses[first].inverse())
        compared += [agreement(turn.apply(points), _depth_camera(camera, seen), seen) for turn in turns]
    given, inverted = (agree / max(count, 1.0) for agree, count in compared)
    if inverted > given + 0.2 and compared[1, 1] > 0.3 * compared[0, 1]:
        what = f"{given:.0%} of the places that two frames show agree, with inverted poses {inverted:.0%}"
        raise SequenceError(what, where=f"poses of {folder}", cure="Write world_from_camera, not camera_from_world")


def _upright(folder: Path, camera: Camera, poses: Sequence[RigidTransform], depths: Depths) -> RigidTransform:
    """The pose of the world in one that stands upright, with the floor at height 0.

    Up is the direction that most surfaces face or stand along (a Manhattan world without its two level axes), near to
    what is up in the images; the floor is the lowest level surface of some extent.
    """
    places, normals, ups = [], [], []
    for index in range(0, len(poses), max(1, len(poses) // _LOOKED_AT)):
        found, facing = _surfaces(_depth_camera(camera, depth := depths[index]()), depth)
        places.append(poses[index].apply(found))
        normals.append(facing @ poses[index].rotation.T)
        ups.append(-poses[index].rotation[:, 1])
    place, normal = np.concatenate(places), np.concatenate(normals)
    mean, aside = np.mean(ups, axis=0), np.mean([pose.rotation[:, 0] for pose in poses], axis=0)
    cure = "Name a recording that shows some floor"
    if not len(normal):
        raise SequenceError("depth shows no surface", where=str(folder), cure=cure)
    best, most = mean, -1.0
    for tilt in np.radians(np.arange(-50.0, 51.0, 10.0)):
        up = np.asarray(cv2.Rodrigues(tilt * aside / max(np.linalg.norm(aside), 1e-9))[0]) @ mean
        for within in (0.9, 0.97, 0.99, 0.99):
            facing_up = normal[normal @ (up / np.linalg.norm(up)) > within]
            up = facing_up.mean(axis=0) if len(facing_up) else up
        up = up / np.linalg.norm(up)
        along = normal @ up
        score = float((along > 0.99).mean() + 0.5 * (np.abs(along) < 0.1).mean())
        if score > most:
            best, most = up, score
    level = (normal @ best) > 0.97
    heights = place[level] @ best
    counts, edges = np.histogram(heights, np.arange(heights.min(initial=0.0), heights.max(initial=0.0) + 0.05, 0.04))
    floors = np.flatnonzero(counts > _LEAST_FLOOR * max(level.sum(), 1))
    if level.mean() < _LEAST_LEVEL or not len(floors):
        raise SequenceError("nothing shows where up is, and where the floor is", where=str(folder), cure=cure)
    near = np.abs(heights - edges[floors[0]] - 0.03) < 0.05
    ahead = np.cross(np.eye(3)[np.argmin(np.abs(best))], best)
    axis = ahead / np.linalg.norm(ahead)
    turn = np.stack([axis, np.cross(best, axis), best])
    return RigidTransform(turn, np.array([0.0, 0.0, -float(np.median(heights[near]))]))


def _surfaces(camera: Camera, depth: Depth) -> tuple[Doubles, Doubles]:
    """Places and unit normals [N, 3] of every fourth pixel whose surface its neighbours show, optical frame."""
    known = np.where(depth > 0.0, depth, np.nan)[..., None]
    points = np.asarray(camera.unproject(camera.pixel_centres()) * known)[::4, ::4]
    normals = surface_normals(points)
    smooth = normals.any(axis=-1)
    if smooth.mean() < _LEAST_SMOOTH * (depth > 0.0).mean():  # noise
        smooth = np.zeros_like(smooth)
    return points[smooth], normals[smooth]


SOURCE = Source(
    "a folder of frame-000000.color.jpg, .depth.png and .pose.txt, or of image/, depth/, K.txt and poses.txt",
    lambda path: path.is_dir() and _folder(path) is not None,
    lambda path, poses: posed_rgbd(path, poses=poses),
    (FUSED,),
    fused_voxels,
)
