"""Posed sequences in the layout of KITTI odometry and SemanticKITTI, official or repacked, with the files next to them.

The rig frame is the rectified camera 0 (x right, y down, z forward), the frame KITTI's poses are given in. Cameras 1..3
are shifted against it by the fourth column of their projection matrix, see `camera_from_projection`. Assets of the
frames, where the folder holds them:

* "lidar": float32 [N, 3] in the rig frame; "lidar_semantic": uint16 [N] raw SemanticKITTI ids
* "depth": float32 [H, W], metres, 0 where unknown, of image_2, from KITTI 2015's disparity
* "ssc_label": uint8 [256, 256, 32] learning ids (0 free, 255 unknown), and "ssc_invalid": bool, of SemanticKITTI's
  voxels or of `ssc_derived`

Voxel grids lie in the velodyne frame: index = floor((p_velodyne - [0, -25.6, -2.2]) / 0.2).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.evaluation.truth import VoxelTruth, labelled_truth
from scene_completion_ros.geometry.camera_files import camera_from_projection, read_kitti_calibration
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import DEFAULT_GRID, VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.picture_files import read_picture, read_size
from scene_completion_ros.sequences import posed_sequence
from scene_completion_ros.sequences.frame_lists import DRIVES
from scene_completion_ros.sequences.posed_sequence import ArrayLoader, Frame, PosedSequence, Source, read_lines
from scene_completion_ros.untrusted_files import MOST_ARRAY_BYTES, read_arrays, read_bytes

VOXEL_SHAPE = (256, 256, 32)
SEMANTIC_KITTI_GRID = VoxelGrid((0.0, -25.6, -2.2), 0.2, VOXEL_SHAPE, "velodyne")
UNKNOWN = 255
# Learning id of SemanticKITTI's voxels -> its raw ids.
_RAW_IDS = {
    0: [0],  # empty
    1: [10, 252],  # car
    2: [11],  # bicycle
    3: [15],  # motorcycle
    4: [18, 258],  # truck
    5: [13, 16, 20, 256, 257, 259],  # bus, on rails, other vehicle
    6: [30, 254],  # person
    7: [31, 253],  # bicyclist
    8: [32, 255],  # motorcyclist
    9: [40, 60],  # road, lane marking
    10: [44],  # parking
    11: [48],  # sidewalk
    12: [49],  # other ground
    13: [50],  # building
    14: [51],  # fence
    15: [70],  # vegetation
    16: [71],  # trunk
    17: [72],  # terrain
    18: [80],  # pole
    19: [81],  # traffic sign
    UNKNOWN: [1, 52, 99],  # outlier, other structure, other object: without a class
}


def load_scan(path: Path, rig_from_velodyne: RigidTransform) -> NDArray[np.float32]:
    """Points of `velodyne*/*.bin`: float32 [N, 3], rig frame."""
    values = _numbers(path, np.dtype("<f4"))
    if values.size % 4:
        raise _damaged(path, f"{values.size} numbers are no points of x, y, z, reflectance", ", it is cut short")
    points = values.reshape(-1, 4)[:, :3].astype(np.float64)
    return np.asarray(rig_from_velodyne.apply(points), dtype=np.float32)


def load_point_ids(path: Path) -> NDArray[np.uint16]:
    """Load the raw id of every point from a SemanticKITTI `labels/*.label`: uint16 [N]."""
    return _numbers(path, np.dtype("<u4")).view("<u2")[::2].astype(np.uint16)


def load_voxel_mask(path: Path) -> NDArray[np.bool_]:
    """Load a SemanticKITTI `voxels/*.invalid`: bool [256, 256, 32]."""
    return unpack_voxels(_numbers(path, np.dtype(np.uint8)), path)


def load_semantic_kitti_labels(path: Path) -> NDArray[np.uint8]:
    """Load a SemanticKITTI `voxels/*.label` with its `.invalid`, as the benchmark evaluates them.

    Returns learning ids, uint8 [256, 256, 32]: 0 empty, 255 does not count. The latter is what is invalid, labelled or
    not, and what is occupied by something without a class. Raises SequenceError where a file is missing, too short or
    too long, or holds ids that SemanticKITTI has not.
    """
    raw = _numbers(path, np.dtype("<u2"))
    if raw.size != np.prod(VOXEL_SHAPE):
        raise _damaged(path, f"{raw.size} voxels instead of {np.prod(VOXEL_SHAPE)}")
    table = np.full(np.iinfo(np.uint16).max + 1, -1, dtype=np.int16)
    for learning_id, raw_ids in _RAW_IDS.items():
        table[raw_ids] = learning_id
    labels = table[raw].reshape(VOXEL_SHAPE)
    if (labels < 0).any():
        raise _damaged(path, f"raw ids {np.unique(raw[labels.ravel() < 0])[:8].tolist()} are unknown")
    labels[load_voxel_mask(path.with_suffix(".invalid"))] = UNKNOWN
    return np.asarray(labels, np.uint8)


def unpack_voxels(bits: NDArray[np.uint8], where: object) -> NDArray[np.bool_]:
    """Unpack a grid of one bit a voxel: bool [256, 256, 32]."""
    expected = int(np.prod(VOXEL_SHAPE)) // 8
    if bits.size != expected:
        raise _damaged(where, f"{bits.size} bytes instead of {expected}")
    return np.unpackbits(bits).reshape(VOXEL_SHAPE).astype(bool)


def _numbers(path: Path, kind: np.dtype[Any]) -> NDArray[Any]:
    content = read_bytes(path, SequenceError, cure="Restore the file", most_bytes=MOST_ARRAY_BYTES)
    if len(content) % kind.itemsize:
        raise _damaged(path, f"{len(content)} bytes, no multiple of {kind.itemsize}", ", it is cut short")
    return np.frombuffer(content, kind)


def _damaged(where: object, what: str, why: str = "") -> SequenceError:
    return SequenceError(what, where=str(where), cure=f"Restore the file{why}")


ODOMETRY_LIDAR_UNIT = 0.004  # metres per step of the packed scans of the odometry windows
RAW_LIDAR_UNIT = 0.02  # metres per step of the packed scans of the raw drives
FRAME_PERIOD_NS = 100_000_000  # KITTI records at 10 Hz
IMAGE_SUFFIXES = (".jpg", ".png")
OFFICIAL_VOXELS = ("ssc_label", "ssc_invalid")
PROJECTIONS = {"image_0": "P0", "image_1": "P1", "image_2": "P2", "image_3": "P3"}


def kitti_odometry(folder: Path | str, *, poses: str | None = None) -> PosedSequence:
    """Read a sequence in the layout of KITTI odometry or of a repacked raw drive.

    The official layout is `sequences/XX/{calib.txt, times.txt, image_2/, velodyne/}` with the poses in `poses/XX.txt`
    (of KITTI) or `sequences/XX/poses.txt` (of SemanticKITTI, next to `labels/` and `voxels/`). The two are different
    trajectories: name the file where both exist and it matters. Raises SequenceError where a file is missing or
    malformed: names file and line. `folder`: holds `calib.txt`, `times.txt` and `image_0` … `image_3` (any of them);
    `poses`: name of the pose file; by default `poses.txt`, `poses_gt.txt` or `../../poses/XX.txt`, whichever comes
    first. Line i belongs to frame i, or to the i-th frame of `frames.txt`. "none": there are none, every frame gets the
    identity, and the frames are unrelated, as always where `source.txt` names the scene, date, drive and frame of each.
    """
    root = Path(folder)
    chosen = [camera for camera in PROJECTIONS if (root / camera).is_dir()]
    if not chosen:
        raise SequenceError("no image folder found", where=str(root), cure=f"Expected one of {list(PROJECTIONS)}")
    images = {camera: numbered_images(root / camera) for camera in chosen}
    numbers = sorted(set.intersection(*(set(found) for found in images.values())))
    if not numbers:
        what, cure = f"no frame has an image of all of {chosen}", "Leave out the folder that lacks them"
        raise SequenceError(what, where=str(root), cure=cure)
    provenance: dict[str, Any] = {}
    if (source := root / "source.txt").is_file():
        drives = read_lines(source, "drive", _drive_of, "Expected `scene date drive frame`")
        check_lines(drives, "drives", numbers[-1], source)
        poses, provenance[DRIVES] = posed_sequence.UNKNOWN_POSES, [drives[number] for number in numbers]
    line_of = lines_of(root / "frames.txt", numbers)
    last = max(line_of.values())
    if poses == posed_sequence.UNKNOWN_POSES:
        pose_file, world_from_cam0 = Path(posed_sequence.UNKNOWN_POSES), [RigidTransform.identity()] * (last + 1)
    else:
        pose_file = root / poses if poses else _default_pose_file(root)
        world_from_cam0 = read_kitti_poses(pose_file)
    check_lines(world_from_cam0, "poses", last, pose_file)
    seconds = partial(read_lines, kind="time", read=lambda line: round(float(line) * 1e9), cure="Expected seconds")
    stamps = stamps_of(root / "times.txt", line_of, seconds)
    camera_models, rig_from_camera, rig_from_sensor = _rig(root, {c: images[c][numbers[0]] for c in chosen})
    frames = [
        Frame(
            stamp_ns=stamps[number],
            images={camera: images[camera][number] for camera in chosen},
            world_from_rig=world_from_cam0[line_of[number]],
            assets=_assets(root, number, rig_from_sensor.get("velodyne"), camera_models.get("image_2")),
        )
        for number in numbers
    ]
    if "depth" in frames[0].assets:
        provenance["voxel_grid"] = posed_sequence.grid_entry(DEFAULT_GRID, "image_2")
    return PosedSequence(
        name=f"{root.resolve().parent.name}/{root.resolve().name}",
        cameras=camera_models,
        rig_from_camera=rig_from_camera,
        frames=frames,
        pose_source=pose_file.name,
        provenance={
            "dataset": "KITTI",
            "licence": "CC BY-NC-SA 3.0",
            "folder": root.name,
            "poses": pose_file.name,
            **provenance,
        },
        rig_from_sensor=rig_from_sensor,
    )


def _drive_of(line: str) -> str:
    _, _, drive, _ = line.split()
    return drive


def lines_of(listed: Path, numbers: Sequence[int]) -> dict[int, int]:
    """The line of each frame in files with a line a frame: its number, or where `frames.txt` lists it.

    Raises SequenceError where the list is damaged, or lacks one.
    """
    if not listed.is_file():
        return {number: number for number in numbers}
    line_of = {number: line for line, number in enumerate(read_lines(listed, "frame", int, "Expected its number"))}
    if missing := [number for number in numbers if number not in line_of]:
        raise _damaged(listed, f"does not list frame {missing[0]}, which has an image")
    return {number: line_of[number] for number in numbers}


def stamps_of(times: Path, line_of: Mapping[int, int], read: Callable[[Path], Sequence[int]]) -> dict[int, int]:
    """Times of the frames, ns, by their lines in a file; counted at 10 Hz where it was not unpacked."""
    if not times.is_file():
        return {number: number * FRAME_PERIOD_NS for number in line_of}
    stamps = read(times)
    check_lines(stamps, "times", max(line_of.values()), times)
    return {number: stamps[line] for number, line in line_of.items()}


def check_lines(values: Sequence[object], what: str, last: int, path: Path) -> None:
    """Raise SequenceError where a file with a line for each frame ends before the last frame that has an image."""
    if len(values) <= last:
        cure = f"Every image needs its {what} on line (number + 1): restore the file"
        raise SequenceError(f"{len(values)} {what}, but images up to frame {last}", where=str(path), cure=cure)


def read_kitti_poses(path: Path) -> list[RigidTransform]:
    """Row-major 3x4 `world_from_cam0`, a line each. Raises SequenceError with the line that is no rigid transform."""
    return read_lines(
        path, "pose", posed_sequence.pose_of, "Expected 12 finite numbers: a row-major 3x4 camera-to-world matrix"
    )


def load_packed_scan(path: Path, rig_from_velodyne: RigidTransform) -> NDArray[np.float32]:
    """Load the points of a packed scan into the rig frame.

    The coordinates are stored as differences along the scan, in steps of 4 mm (odometry) or 20 mm (raw drives, which
    store no reflectance). Returns float32 [N, 3], rig frame.
    """
    data = _arrays(path, "dxyz")
    if data["dxyz"].ndim != 2 or 3 not in data["dxyz"].shape or data["dxyz"].dtype.kind != "i":
        kind, shape = data["dxyz"].dtype, list(data["dxyz"].shape)
        raise _damaged(path, f"dxyz is {kind} {shape}, no steps of x, y, z in whole numbers")
    odometry = "refl" in data
    by_axis = odometry or data["dxyz"].shape[0] == 3
    steps = np.cumsum(data["dxyz"].T if by_axis else data["dxyz"], axis=0, dtype=np.int32)
    if odometry:  # sums wrap around in 16 bits by design
        steps = steps.astype(np.int16)
    unit = ODOMETRY_LIDAR_UNIT if odometry else RAW_LIDAR_UNIT
    return np.asarray(rig_from_velodyne.apply(steps.astype(np.float64) * unit), dtype=np.float32)


def load_log_depth(path: Path, camera: Camera) -> NDArray[np.float32]:
    """Load depth in 254 steps of its logarithm from 2 m to 100 m: float32 [H, W], metres, 0 where unknown."""
    values = read_picture(path)
    if values.shape[:2] != (camera.height, camera.width):
        raise _damaged(path, f"is {values.shape[1]}x{values.shape[0]}, its image {camera.width}x{camera.height}")
    if values.dtype != np.uint8 or values.ndim != 2:
        raise _damaged(path, "is no grey image of 8 bits")
    return np.where(values > 0, 2.0 * 50.0 ** ((values - 1.0) / 254.0), 0.0).astype(np.float32)


def load_packed(path: Path, key: str, kind: type[np.integer[Any]]) -> NDArray[Any]:
    """Load the raw ids "sem" [N] of a packed scan, or the learning ids "label" [256, 256, 32] of derived voxels."""
    return _arrays(path, key)[key].astype(kind)


def load_packed_voxels(path: Path, key: str) -> NDArray[np.bool_]:
    """Load one bit-packed voxel grid: bool [256, 256, 32]."""
    return unpack_voxels(_arrays(path, key)[key], f"{path}, {key}")


def _rig(
    root: Path, first_images: dict[str, Path]
) -> tuple[dict[str, Camera], dict[str, RigidTransform], dict[str, RigidTransform]]:
    """Cameras, their poses in the rig, and the LiDAR's pose in the rig, from `calib.txt`."""
    calibration = read_kitti_calibration(root / "calib.txt")
    cameras, rig_from_camera = {}, {}
    for name, path in first_images.items():
        key = PROJECTIONS[name]
        if key not in calibration:
            raise SequenceError(f"no {key} for {name}", where=str(root / "calib.txt"), cure="Use its own calib.txt")
        cameras[name], camera_from_rig = camera_from_projection(calibration[key], *read_size(path))
        rig_from_camera[name] = camera_from_rig.inverse()
    sensors = {"velodyne": RigidTransform.from_matrix(calibration["Tr"])} if "Tr" in calibration else {}
    return cameras, rig_from_camera, sensors


def _assets(
    root: Path, number: int, rig_from_velodyne: RigidTransform | None, camera: Camera | None
) -> dict[str, ArrayLoader]:
    """Loaders of a frame's scan, its labels and its voxels, as published; what is repacked goes before that."""
    assets = scan_assets(root / "velodyne" / f"{number:06d}.bin", rig_from_velodyne)
    if (labels := root / "labels" / f"{number:06d}.label").is_file():
        assets["lidar_semantic"] = partial(load_point_ids, labels)
    ids = root / "voxels" / f"{number:06d}.label"
    invalid = ids.with_suffix(".invalid")
    if ids.is_file() and invalid.is_file():
        assets["ssc_label"] = partial(load_semantic_kitti_labels, ids)
        assets["ssc_invalid"] = partial(load_voxel_mask, invalid)
    folders = ("velodyne_npz", "velodyne_front", "ssc_derived")
    scan, front, derived = (root / folder / f"{number:06d}.npz" for folder in folders)
    if rig_from_velodyne is not None and scan.is_file():
        assets["lidar"] = partial(load_packed_scan, scan, rig_from_velodyne)
        assets["lidar_semantic"] = partial(load_packed, scan, "sem", np.uint16)
    if rig_from_velodyne is not None and front.is_file():
        assets["lidar"] = partial(load_packed_scan, front, rig_from_velodyne)
    if camera is not None and (depth := root / "true_depth" / f"{number:06d}.png").is_file():
        assets["depth"] = partial(load_log_depth, depth, camera)
    if derived.is_file():
        assets["ssc_label"] = partial(load_packed, derived, "label", np.uint8)
        assets["ssc_invalid"] = partial(load_packed_voxels, derived, "official_invalid")
    return assets


def scan_assets(scan: Path, rig_from_velodyne: RigidTransform | None) -> dict[str, ArrayLoader]:
    """Loader of a scan, where it exists (a few drives lack some), and where it is known how the LiDAR is mounted."""
    if rig_from_velodyne is None or not scan.is_file():
        return {}
    return {"lidar": partial(load_scan, scan, rig_from_velodyne)}


def _default_pose_file(root: Path) -> Path:
    resolved = root.resolve()
    official = resolved.parent.parent / "poses" / f"{resolved.name}.txt"
    for candidate in (root / "poses.txt", root / "poses_gt.txt", official):
        if candidate.is_file():
            return candidate
    cure = f"Name the pose file, or unpack KITTI's poses to {official}"
    raise SequenceError("no poses.txt or poses_gt.txt", where=str(root), cure=cure)


def numbered_images(folder: Path) -> dict[int, Path]:
    """Number -> image file of a folder of numbered images, sorted. Raises SequenceError without such a folder."""
    if not folder.is_dir():
        raise SequenceError("image folder is missing", where=str(folder), cure="Unpack its images")
    found = (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.stem.isdigit())
    return {int(path.stem): path for path in sorted(found, key=lambda path: int(path.stem))}


def _arrays(path: Path, *needed: str) -> dict[str, NDArray[Any]]:
    return read_arrays(path, SequenceError, cure="Restore the file", needed=needed)


def official_voxels(sequence: PosedSequence, index: int, camera: str) -> VoxelTruth | None:
    """The voxels "ssc_label" and "ssc_invalid" of a frame, in the frame of the LiDAR."""
    if "velodyne" not in sequence.rig_from_sensor:
        return None
    label, invalid = (sequence.frames[index].assets[name]() for name in OFFICIAL_VOXELS)
    pose = sequence.rig_from_sensor["velodyne"].inverse() @ sequence.rig_from_camera[camera]
    return labelled_truth("labelled LiDAR", label, invalid, SEMANTIC_KITTI_GRID, pose, sequence.cameras[camera])


SOURCE = Source(
    "a sequence of KITTI odometry (calib.txt)",
    lambda path: (path / "calib.txt").is_file(),
    lambda path, poses: kitti_odometry(path, poses=poses),
    OFFICIAL_VOXELS,
    official_voxels,
)
