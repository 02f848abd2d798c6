"""Posed sequences from KITTI-360, in its official layout.

    calibration/
        perspective.txt  calib_cam_to_pose.txt  calib_cam_to_velo.txt
        image_02.yaml  image_03.yaml
    data_2d_raw/2013_05_28_drive_0000_sync/
        image_00/data_rect/  image_01/data_rect/  image_02/data_rgb/  image_03/data_rgb/    0000000000.png …
        image_00/timestamps.txt …
    data_3d_raw/2013_05_28_drive_0000_sync/velodyne_points/    timestamps.txt  data/0000000000.bin …
    data_poses/2013_05_28_drive_0000_sync/                     poses.txt  cam0_to_world.txt
    preprocess/labels/2013_05_28_drive_0000_sync/              000000_1_1.npy  000005_1_1.npy …    of SSCBench
    voxel_gt/2013_05_28_drive_0000_sync/                       000000_1_1.npy …    of SSCBench, as S4C made them anew

The rig frame is the rectified camera 0 (x right, y down, z forward). Cameras 2 and 3 are the raw fisheyes to the left
and right (model "mei"); a turned `Resampler` looks through them. Only frames with a pose exist: the list has gaps where
the car stood, so that "ten frames later" is no fixed time. The asset "lidar" is float32 [N, 3] in the rig frame (scans
are not corrected for the motion within a revolution).

The voxel labels of SSCBench are [256, 256, 32] in the frame of the LiDAR (`SSCBENCH_GRID`): SSCBench's ids, 0 empty,
255 invalid. SSCBench counts the frames that KITTI-360 has a pose of: its number i is line i of
`data_poses/DRIVE/poses.txt`, from 0 on, as SceneDINO reads it, too. The labels that SSCBench distributed first were
made with its label map for nuScenes, whose ids end at 10 (SSCBench, issue 9); its folder `unified` has other ids again,
up to 12. Vegetation is 13 here, and no drive is without it.

Li et al., "SSCBench" (arXiv 2306.09001); Hayler et al., "S4C" (3DV 2024).
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.evaluation.semantic_classes import SSCBENCH_CLASSES, SSCBENCH_TO_COMMON
from scene_completion_ros.evaluation.semantics import SSCBENCH_GRID
from scene_completion_ros.evaluation.truth import FREE, UNKNOWN, VoxelTruth, labelled_truth
from scene_completion_ros.geometry.camera_files import read_kitti360_fisheye, read_kitti_calibration
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.sequences import kitti_raw
from scene_completion_ros.sequences.kitti import numbered_images, scan_assets, stamps_of
from scene_completion_ros.sequences.posed_sequence import Frame, PosedSequence, Source, pose_of, read_lines
from scene_completion_ros.untrusted_files import read_array

IMAGE_FOLDERS = {
    "image_00": "image_00/data_rect",
    "image_01": "image_01/data_rect",
    "image_02": "image_02/data_rgb",
    "image_03": "image_03/data_rgb",
}
FISHEYES = ("image_02", "image_03")
SSCBENCH_DIGITS = 6
LABEL_FOLDERS = ("preprocess/labels", "voxel_gt")  # where labels are looked for in the root of KITTI-360
LABELS = "sscbench_label"
SUFFIX = "_1_1.npy"
# Labelled frames of the drives that SSCBench validates and tests on.
PUBLISHED = {"2013_05_28_drive_0006_sync": 1812, "2013_05_28_drive_0009_sync": 2566}
UNUSED = 19  # an id that S4C reads as empty
VEGETATION = SSCBENCH_CLASSES.index("vegetation")
_LOOKED_AT = 16
_DOWNLOAD = "Restore it, from SSCBench's preprocess/labels or from S4C's voxel_gt.zip"


def kitti_360(folder: Path | str, *, poses: str | None = None, labels: Path | None = None) -> PosedSequence:
    """Read a drive of KITTI-360, with the cameras whose folders exist.

    Raises SequenceError where a file is missing or malformed, or no frame is left: names it; CameraError where a
    calibration file is malformed. `folder`: that of the images, `ROOT/data_2d_raw/DRIVE`; `poses`: folder with other
    poses, such as those of a SLAM, in the layout of `data_poses`: `DRIVE/poses.txt` (of the IMU) or
    `DRIVE/cam0_to_world.txt`; `labels`: folder with SSCBench's labels, `DRIVE/NNNNNN_1_1.npy`; by default the first of
    `LABEL_FOLDERS` in the root that has some of this drive. Frames have them as the asset "sscbench_label".
    """
    images_root = Path(folder).resolve()
    root, drive = images_root.parent.parent, images_root.name
    chosen = [name for name, path in IMAGE_FOLDERS.items() if (images_root / path).is_dir()]
    if not chosen:
        raise SequenceError("no images", where=str(images_root), cure=f"Unpack some of {list(IMAGE_FOLDERS.values())}")
    images = {name: numbered_images(images_root / IMAGE_FOLDERS[name]) for name in chosen}
    if any(len(path.stem) == SSCBENCH_DIGITS for found in images.values() for path in found.values()):
        what = "images numbered as SSCBench numbers them, which belong to other poses"
        cure = "Unpack KITTI-360's own images, with numbers of ten digits, and leave SSCBench's labels next to them"
        raise SequenceError(what, where=str(images_root), cure=cure)
    models, rig_from_camera, rig_from_sensor = read_kitti360_rig(root / "calibration", chosen)
    pose_folder = (Path(poses) if poses else root / "data_poses") / drive
    world_from_rig, source = _poses(pose_folder, rig_from_sensor["imu"])
    numbers, provenance = kitti_raw.complete_frames(images, world_from_rig, str(images_root))
    times = images_root / chosen[0] / "timestamps.txt"
    stamps = stamps_of(times, {number: number for number in numbers}, kitti_raw.read_timestamps)
    scans = root / "data_3d_raw" / drive / "velodyne_points" / "data"
    labels = labels or next((root / name for name in LABEL_FOLDERS if (root / name / drive).is_dir()), None)
    labelled: dict[int, Path] = {}
    if labels is not None:
        posed = read_numbered_poses(root / "data_poses" / drive / "poses.txt")
        labelled = label_files(labels / drive, list(posed))
    found = [
        Frame(
            stamps[number],
            {name: images[name][number] for name in chosen},
            world_from_rig[number],
            scan_assets(scans / f"{number:010d}.bin", rig_from_sensor["velodyne"])
            | ({LABELS: partial(load_labels, labelled[number])} if number in labelled else {}),
        )
        for number in numbers
    ]
    return PosedSequence(
        name=drive,
        cameras=models,
        rig_from_camera=rig_from_camera,
        frames=kitti_raw.advancing(found, provenance),
        pose_source=f"{poses}, {source}" if poses else source,
        provenance={"dataset": "KITTI-360", "licence": "CC BY-NC-SA 3.0", "folder": drive, **provenance},
        rig_from_sensor=rig_from_sensor,
    )


def read_kitti360_rig(
    folder: Path, cameras: Sequence[str]
) -> tuple[dict[str, Camera], dict[str, RigidTransform], dict[str, RigidTransform]]:
    """Read the folder `calibration`. `cameras`: some of image_00 … image_03.

    Returns camera models, their poses in the rig, and those of "velodyne" and "imu" (KITTI-360's "pose" frame).
    """
    intrinsics_file, pose_file = folder / "perspective.txt", folder / "calib_cam_to_pose.txt"
    intrinsics, imu_from_raw = read_kitti_calibration(intrinsics_file), read_kitti_calibration(pose_file)

    def imu_from(camera: str) -> RigidTransform:
        return RigidTransform.from_matrix(kitti_raw.entry(imu_from_raw, camera, (3, 4), pose_file))

    rig_from_camera0 = kitti_raw.rotation_of(kitti_raw.entry(intrinsics, "R_rect_00", (3, 3), intrinsics_file))
    rig_from_imu = rig_from_camera0 @ imu_from("image_00").inverse()
    (velodyne_from_camera0, *_) = read_lines(folder / "calib_cam_to_velo.txt", "3x4 matrix", pose_of)
    rig_from_velodyne = rig_from_camera0 @ velodyne_from_camera0.inverse()
    models, rig_from_camera = {}, {}
    for name in cameras:
        if name in FISHEYES:
            models[name] = read_kitti360_fisheye(folder / f"{name}.yaml")
            rig_from_camera[name] = rig_from_imu @ imu_from(name)
        else:
            models[name], rig_from_camera[name] = kitti_raw.rectified_camera(intrinsics, name, intrinsics_file)
    return models, rig_from_camera, {"velodyne": rig_from_velodyne, "imu": rig_from_imu}


def read_numbered_poses(path: Path) -> dict[int, RigidTransform]:
    """Lines of frame number and row-major 3x4 or 4x4 matrix. Raises SequenceError with the line that is not."""

    def read(line: str) -> tuple[int, RigidTransform]:
        number, _, matrix = line.partition(" ")
        return int(number), pose_of(matrix)

    return dict(read_lines(path, "pose", read))


def _poses(folder: Path, rig_from_imu: RigidTransform) -> tuple[dict[int, RigidTransform], str]:
    """world_from_rig of every frame with a pose, and the file they come from."""
    if (direct := folder / "cam0_to_world.txt").is_file():
        return read_numbered_poses(direct), direct.name
    imu_from_rig = rig_from_imu.inverse()
    poses = read_numbered_poses(folder / "poses.txt")
    return {number: world_from_imu @ imu_from_rig for number, world_from_imu in poses.items()}, "poses.txt"


def label_files(folder: Path, posed: Sequence[int]) -> dict[int, Path]:
    """KITTI-360's frame number -> file of its labels, of one drive.

    `folder`: `LABELS/DRIVE`; `posed`: frame numbers of the lines of `poses.txt`, in their order. Raises SequenceError
    where the folder is missing, holds no labels, or those of a longer drive.
    """
    files = {int(path.name[: -len(SUFFIX)]): path for path in sorted(folder.glob(f"[0-9]*{SUFFIX}"))}
    if not files:
        there = sorted(path.name for path in folder.parent.glob("*"))[:8]
        what = f"no labels NNNNNN{SUFFIX}; its folder has {', '.join(there) or 'nothing'}"
        cure = "Name the folder with a folder of labels for each drive: SSCBench's preprocess/labels, or S4C's voxel_gt"
        raise SequenceError(what, where=str(folder), cure=cure)
    if (last := max(files)) >= len(posed):
        what = f"labels up to number {last}, but the drive has {len(posed)} poses"
        cure = "Put the labels of this drive there, and KITTI-360's own poses.txt into data_poses"
        raise SequenceError(what, where=str(folder), cure=cure)
    return {posed[number]: path for number, path in files.items()}


def check_complete(sequence: PosedSequence) -> None:
    """Raise a `SequenceError` where a drive that SSCBench validates or tests on lacks some of its labelled frames."""
    found = sum(LABELS in frame.assets for frame in sequence.frames)
    if found < (published := PUBLISHED.get(sequence.name, 1)):
        cure = "Download its labels and images to the end, or go on without: --allow-missing"
        raise SequenceError(f"{found} of {published} labelled frames are there", where=sequence.name, cure=cure)


def load_labels(path: Path) -> NDArray[np.uint8]:
    """Load the labels of a frame: uint8 [256, 256, 32], ids of `SSCBENCH_CLASSES`, 255 invalid.

    Raises SequenceError: the file is damaged or of another shape, holds other ids, or was made with a wrong label map.
    """
    labels = _stored(path)
    if (highest := _highest(labels)) < VEGETATION and not _right_label_map(path.parent):
        what = f"its ids end at {highest}, and no other frame has vegetation ({VEGETATION}) either"
        what += ": they were made with the label map of another data set"
        cure = "Take S4C's voxel_gt, or make them anew with SSCBench's dataset/configs/kitti360.yaml"
        raise SequenceError(what, where=str(path), cure=cure)
    return np.where(labels == UNUSED, np.uint8(FREE), labels)


def sscbench_truth(sequence: PosedSequence, index: int, camera: str) -> VoxelTruth:
    """The labels of a frame as its true voxels."""
    label = sequence.frames[index].assets[LABELS]()
    pose = sequence.rig_from_sensor["velodyne"].inverse() @ sequence.rig_from_camera[camera]
    nothing = np.zeros(label.shape, np.bool_)
    grid, model = SSCBENCH_GRID, sequence.cameras[camera]
    return labelled_truth("SSCBench", label, nothing, grid, pose, model, SSCBENCH_TO_COMMON)


def _stored(path: Path) -> NDArray[np.uint8]:
    """What a file holds, as whole numbers; S4C's script writes floating-point ones."""
    stored = read_array(path, SequenceError, cure=_DOWNLOAD)
    if stored.shape != SSCBENCH_GRID.shape or stored.dtype.kind not in "uif":
        what = f"{stored.dtype} {stored.shape} instead of uint8 {SSCBENCH_GRID.shape}"
        raise SequenceError(what, where=str(path), cure=_DOWNLOAD)
    counted = (stored >= 0) & (stored <= UNUSED) | (stored == UNKNOWN)
    labels = np.where(counted, stored, 0).astype(np.uint8)
    if not np.array_equal(labels, stored):
        wrong = np.unique(stored[labels != stored])[:8].tolist()
        what = f"ids {wrong} are none of SSCBench-KITTI-360's 0 to {UNUSED} and {UNKNOWN}"
        cure = "Take the labels that are preprocessed: voxels/*.label hold raw ids"
        raise SequenceError(what, where=str(path), cure=cure)
    return labels


@lru_cache(maxsize=64)
def _right_label_map(folder: Path) -> bool:
    """Whether any of some frames of a drive has vegetation, or an id behind it."""
    files = sorted(folder.glob(f"*{SUFFIX}"))
    some = files[:: max(1, len(files) // _LOOKED_AT)]
    return any(_highest(_stored(path)) >= VEGETATION for path in some)


def _highest(labels: NDArray[np.uint8]) -> int:
    return int(labels.max(initial=0, where=labels != UNKNOWN))


SOURCE = Source(
    "data_2d_raw/DRIVE of KITTI-360",
    lambda path: path.resolve().parent.name == "data_2d_raw",
    lambda path, poses: kitti_360(path, poses=poses),
    (LABELS,),
    sscbench_truth,
)
