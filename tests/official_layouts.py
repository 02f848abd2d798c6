"""Writes the public data sets in the layouts of their owners, tiny, with what a reader can get wrong.

Cameras are a tenth of the real ones, a scene is a corridor: ground, walls to both sides, one ahead. Every number that
a network or a protocol sees (intrinsics, poses, scans, voxels) fits every other.
"""

import math
from collections.abc import Collection, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry import RigidTransform
from scene_completion_ros.geometry.transforms import about
from scene_completion_ros.sequences.kitti_360 import FISHEYES, IMAGE_FOLDERS
from scene_completion_ros.sequences.kitti_raw import EARTH_RADIUS
from tests.geometry.test_camera_files import KITTI360_FISHEYE

DRIVE = "2013_05_28_drive_0000_sync"
FISHEYE = KITTI360_FISHEYE.replace("1400", "140").replace("e+02", "e+01").replace("e+03", "e+02")
RECTIFY = about(1, 0.01) @ about(0, 0.02)  # rectified from raw camera 0
IMU_FROM_CAMERA0 = RigidTransform(np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]), np.array([1.6, -0.27, -0.9]))
SIDEWAYS = RigidTransform(np.array([[-1.0, 0, 0], [0, 0, -1], [0, -1, 0]]), np.array([0.7, -1.1, -0.9]))
OTHER_SIDE = RigidTransform(np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]), np.array([0.7, 1.1, -0.9]))
VELO_FROM_CAMERA0 = RigidTransform(np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]), np.array([0.77, 0.3, -0.1]))
WORLD_FROM_OPTICAL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
STEP_M = 0.8
WALLS_M, AHEAD_M, SENSOR_M = 5.0, 60.0, 1.7
RAW_DRIVE = "2011_09_26_drive_0001_sync"
RAW_SIZE, RAW_FX = (64, 48), 50.0
LATITUDE, LONGITUDE = 49.0, 8.4
VELO_TO_CAM = "R: 0 -1 0 0 0 -1 1 0 0\nT: 0.0 -0.08 -0.27\n"  # x forward, y left, z up to x right, y down, z forward
IMU_TO_VELO = "R: 1 0 0 0 1 0 0 0 1\nT: -0.8 0.3 -0.8\n"


def row(matrix: NDArray[np.float64]) -> str:
    """Numbers of a matrix, row by row."""
    return " ".join(f"{value:.12e}" for value in np.asarray(matrix).reshape(-1))


def world_from_rig(frame: int) -> RigidTransform:
    """The rectified camera 0 of KITTI-360 drives along the world's x, and turns slowly."""
    rotation = WORLD_FROM_OPTICAL @ about(1, 0.01 * frame)
    return RigidTransform(rotation, np.array([STEP_M * frame, 2.0, 117.0]))


def picture(size: tuple[int, int], frame: int) -> NDArray[np.uint8]:
    """A textured picture [H, W, 3] of a size (W, H) whose first pixel says its frame."""
    noise = np.random.default_rng(frame).integers(0, 256, (12, 16, 3), np.uint8)
    image = cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC)
    image[:2, :2] = frame % 256
    return image


def corridor_scan(travelled: float) -> NDArray[np.float32]:
    """A scan [N, 4] (x forward, y left, z up, reflectance) of the corridor, so many metres from its start."""
    azimuth, elevation = np.meshgrid(np.radians(np.arange(0.0, 360.0, 2.0)), np.radians(np.arange(-24.0, 3.0, 1.5)))
    flat = np.cos(elevation)
    ray = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)], axis=-1).reshape(-1, 3)
    with np.errstate(divide="ignore"):
        reach = np.where(ray[:, 2] < 0, -SENSOR_M / ray[:, 2], np.inf)
        reach = np.minimum(reach, WALLS_M / np.abs(ray[:, 1]))
        reach = np.minimum(reach, np.where(ray[:, 0] > 0, (AHEAD_M - travelled) / ray[:, 0], np.inf))
    near = reach < 80.0
    return np.hstack([ray[near] * reach[near, None], np.full((int(near.sum()), 1), 0.25)]).astype(np.float32)


def _write_image(file: Path, pixels: NDArray[np.uint8]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), pixels)


def write_pictures(folder: Path, size: tuple[int, int], numbers: Collection[int], name: str = "{:010d}.png") -> None:
    """Numbered pictures of a camera."""
    for number in numbers:
        _write_image(folder / name.format(number), picture(size, number))


def write_scans(folder: Path, scans: dict[int, NDArray[np.float32]]) -> None:
    """Scans by number, as KITTI writes them."""
    folder.mkdir(parents=True)
    for number, scan in scans.items():
        scan.astype("<f4").tofile(folder / f"{number:010d}.bin")


def kitti_360(
    root: Path,
    *,
    drive: str = DRIVE,
    frames: int = 10,
    posed: Sequence[int] = (4, 5, 7, 8),
    scans: dict[int, NDArray[np.float32]] | None = None,
) -> Path:
    """A drive of KITTI-360 whose car stood still in some frames, which have no pose; the folder of its images."""
    calibration = root / "calibration"
    if not calibration.exists():
        _kitti_360_calibration(calibration)
    images = root / "data_2d_raw" / drive
    for name, folder in IMAGE_FOLDERS.items():
        write_pictures(images / folder, (140, 140) if name in FISHEYES else (140, 38), range(frames))
        times = "".join(f"2013-05-28 08:46:{2 + k // 10:02d}.{90_000_000 * (k % 10):09d}\n" for k in range(frames))
        (images / folder).parent.joinpath("timestamps.txt").write_text(times)
    scans = {k: corridor_scan(STEP_M * k) for k in posed} if scans is None else scans
    write_scans(root / "data_3d_raw" / drive / "velodyne_points" / "data", scans)
    poses = root / "data_poses" / drive
    poses.mkdir(parents=True)
    rig_from_imu = RigidTransform(RECTIFY, np.zeros(3)) @ IMU_FROM_CAMERA0.inverse()
    (poses / "cam0_to_world.txt").write_text("".join(f"{k} {row(world_from_rig(k).matrix)}\n" for k in posed))
    imu = {k: (world_from_rig(k) @ rig_from_imu).matrix[:3] for k in posed}
    (poses / "poses.txt").write_text("".join(f"{k} {row(pose)}\n" for k, pose in imu.items()))
    return images


def _kitti_360_calibration(folder: Path) -> None:
    folder.mkdir(parents=True)
    perspective = ["calib_time: Thu Aug 22 11:33:00 2013", "corner_dist: 9.950000e-02"]
    for number, p4 in (("00", 0.0), ("01", -33.0)):
        perspective += [f"S_{number}: 1392 512", f"S_rect_{number}: 140 38", f"R_rect_{number}: {row(RECTIFY)}"]
        perspective.append(f"P_rect_{number}: 55.25 0 68.2 {p4} 0 55.25 23.9 0 0 0 1 0")
    (folder / "perspective.txt").write_text("\n".join(perspective) + "\n")
    cameras = {"image_00": IMU_FROM_CAMERA0, "image_01": IMU_FROM_CAMERA0, "image_02": SIDEWAYS, "image_03": OTHER_SIDE}
    lines = [f"{name}: {row(pose.matrix[:3])}" for name, pose in cameras.items()]
    (folder / "calib_cam_to_pose.txt").write_text("\n".join(lines) + "\n")
    (folder / "calib_cam_to_velo.txt").write_text(row(VELO_FROM_CAMERA0.matrix[:3]) + "\n")
    for number in ("02", "03"):
        (folder / f"image_{number}.yaml").write_text(FISHEYE)


def oxts_packet(east: float, north: float, yaw: float) -> str:
    """Latitude and longitude at which the Mercator projection gives these metres from the start."""
    scale = math.cos(math.radians(LATITUDE))
    start = math.log(math.tan(math.radians(90.0 + LATITUDE) / 2.0))
    longitude = LONGITUDE + math.degrees(east / (scale * EARTH_RADIUS))
    latitude = math.degrees(2.0 * math.atan(math.exp(start + north / (scale * EARTH_RADIUS)))) - 90.0
    return " ".join(map(repr, [latitude, longitude, 100.0, 0.0, 0.0, yaw, *[0.0] * 24]))


def kitti_raw(
    root: Path,
    *,
    drive: str = RAW_DRIVE,
    frames: int = 5,
    scans: dict[int, NDArray[np.float32]] | None = None,
    slam: Path | None = None,
) -> Path:
    """A drive of KITTI raw that goes north-east at 1 m a frame, with cameras 2 and 3 and no scan of the last frame.

    `slam` is the folder that takes poses as Behind the Scenes publishes them.
    """
    date = root / drive[:10]
    folder = date / drive
    width, height = RAW_SIZE
    lines = ["calib_time: 09-Jan-2012 13:57:47", "corner_dist: 9.950000e-02", "R_rect_00: 1 0 0 0 1 0 0 0 1"]
    for number, p4 in (("02", 2.0), ("03", -25.0)):
        lines.append(f"S_rect_{number}: {width}.0 {height}.0")
        lines.append(f"P_rect_{number}: {RAW_FX} 0 31.5 {p4} 0 {RAW_FX} 23.5 0 0 0 1 0")
    date.mkdir(parents=True, exist_ok=True)
    (date / "calib_cam_to_cam.txt").write_text("\n".join(lines) + "\n")
    (date / "calib_velo_to_cam.txt").write_text("calib_time: 15-Mar-2012 11:37:16\n" + VELO_TO_CAM)
    (date / "calib_imu_to_velo.txt").write_text("calib_time: 25-May-2012 16:47:16\n" + IMU_TO_VELO)
    times = "".join(f"2011-09-26 13:02:{25 + k // 10}.{100_000_000 * (k % 10):09d}\n" for k in range(frames))
    for camera in ("image_02", "image_03"):
        write_pictures(folder / camera / "data", RAW_SIZE, range(frames))
        (folder / camera / "timestamps.txt").write_text(times)
    (folder / "oxts" / "data").mkdir(parents=True)
    for k in range(frames):
        packet = oxts_packet(k / math.sqrt(2.0), k / math.sqrt(2.0), math.pi / 4)
        (folder / "oxts" / "data" / f"{k:010d}.txt").write_text(packet + "\n")
    scans = {k: corridor_scan(float(k)) for k in range(frames - 1)} if scans is None else scans
    write_scans(folder / "velodyne_points" / "data", scans)
    if slam is not None:
        (slam / drive[:10]).mkdir(parents=True, exist_ok=True)
        poses = [np.hstack([np.eye(3), [[0.0], [0.0], [0.9 * k]]]) for k in range(frames)]
        (slam / drive[:10] / f"{drive}.txt").write_text("".join(f"{row(pose)}\n" for pose in poses))
    return folder


def write_split(file: Path, lines: Sequence[str], *, windows: bool = False) -> Path:
    """A frame list as its authors publish it; `windows` ends its lines as Windows does."""
    file.parent.mkdir(parents=True, exist_ok=True)
    end = "\r\n" if windows else "\n"
    file.write_bytes((end.join(lines) + end).encode())
    return file


def realestate10k(
    root: Path,
    *,
    name: str = "249fd0890d439aa9",
    missing: Collection[int] = (),
    cameras: str = "test",
    pictures: str = "frames/test",
    unit: int = 1,
    windows: bool = False,
) -> Path:
    """A video of RealEstate10K that moves 0.1 along its own z a frame and turns slowly; the folder of its pictures.

    `missing`: lines of the camera file without a picture; `unit`: microseconds by which pictures are called.
    """
    folder = root / pictures / name
    lines = ["https://www.youtube.com/watch?v=none"]
    for k in range(12):
        camera_from_world = RigidTransform(about(1, 0.01 * k), np.array([0.0, 0.0, 0.1 * k])).inverse()
        time = 50_000_000 + 33_367 * k
        lines.append(f"{time} 0.5 0.9 0.5 0.5 0 0 {row(camera_from_world.matrix[:3])}")
        if k not in missing:
            _write_image(folder / f"{time // unit}.jpg", picture((128, 72), k))
    write_split(root / cameras / f"{name}.txt", lines, windows=windows)
    return folder


LABEL_SKY, LABEL_ROAD, LABEL_BUILDING, LABEL_CAR, LABEL_VOID = 23, 7, 11, 26, 0
_TRAIN_IDS = {LABEL_SKY: 10, LABEL_ROAD: 0, LABEL_BUILDING: 2, LABEL_CAR: 13, LABEL_VOID: 255}


def label_image(size: tuple[int, int], *, train_ids: bool = False) -> NDArray[np.uint8]:
    """Ids [H, W] of a street: sky above, a building left, a car right, road below, and an unlabelled edge."""
    width, height = size
    ids = np.full((height, width), LABEL_ROAD, np.uint8)
    ids[: height // 3] = LABEL_SKY
    ids[height // 3 : 2 * height // 3, : width // 2] = LABEL_BUILDING
    ids[height // 3 : 2 * height // 3, width // 2 :] = LABEL_CAR
    ids[-2:] = LABEL_VOID
    return np.vectorize(_TRAIN_IDS.get)(ids).astype(np.uint8) if train_ids else ids


def kitti_360_semantics(root: Path, *, frames: Collection[int], train_ids: bool = False) -> Path:
    """Labels of frames of a drive of `kitti_360`; their folder. `train_ids` writes ids of the wrong kind."""
    folder = root / "data_2d_semantics" / "train" / DRIVE / "image_00" / "semantic"
    for number in frames:
        _write_image(folder / f"{number:010d}.png", label_image((140, 38), train_ids=train_ids))
    return folder


def cityscapes(root: Path, *, cities: Sequence[str] = ("frankfurt", "munster")) -> Path:
    """Two images a city of a twentieth of the real size, with labels; the folder of the split's images."""
    for city in cities:
        for number in range(2):
            name = f"{city}_000000_{number:06d}"
            _write_image(root / "leftImg8bit" / "val" / city / f"{name}_leftImg8bit.png", picture((102, 51), number))
            ids = label_image((102, 51))
            for kind, pixels in (("labelIds", ids), ("instanceIds", ids), ("color", np.dstack([ids] * 3))):
                _write_image(root / "gtFine" / "val" / city / f"{name}_gtFine_{kind}.png", pixels)
    return root / "leftImg8bit" / "val"


def bdd100k(root: Path, *, images: int = 3) -> Path:
    """Images of a tenth of the real size, with train ids; the folder of the images."""
    for number in range(images):
        name = f"7d{number:06x}-5fc4{number:04x}"
        _write_image(root / "images" / "10k" / "val" / f"{name}.jpg", picture((128, 72), number))
        ids = label_image((128, 72), train_ids=True)
        _write_image(root / "labels" / "sem_seg" / "masks" / "val" / f"{name}.png", ids)
    return root / "images" / "10k" / "val"


def sscbench_scene() -> NDArray[np.uint8]:
    """Labels of the corridor in SSCBench's ids [256, 256, 32], known 10 m ahead: road, a building and bushes."""
    labels = np.full((256, 256, 32), 255, np.uint8)
    left, right, ground = 128 + round(WALLS_M / 0.2), 127 - round(WALLS_M / 0.2), round((2.0 - SENSOR_M) / 0.2)
    labels[:50, right : left + 1, :20] = 0
    labels[:50, right : left + 1, ground] = 7
    labels[:50, right, ground:20], labels[:50, left, ground:20] = 11, 13
    return labels


def sscbench_labels(
    folder: Path, *, drive: str = DRIVE, numbers: Sequence[int] = (0, 5, 10), labels: NDArray[np.generic] | None = None
) -> Path:
    """A folder of SSCBench-KITTI-360's labels (`preprocess/labels`, or S4C's `voxel_gt`), some of one drive.

    `numbers`: SSCBench's own, of the frames with a pose; `labels`: of every frame, by default those of the corridor.
    """
    (folder / drive).mkdir(parents=True, exist_ok=True)
    for number in numbers:
        np.save(folder / drive / f"{number:06d}_1_1.npy", sscbench_scene() if labels is None else labels)
        np.save(folder / drive / f"{number:06d}_1_8.npy", np.zeros((32, 32, 4), np.uint8))
    return folder


def odometry_projection(p4: Sequence[float] = (0.0, 0.0, 0.0)) -> str:
    """The projection matrix of a camera of KITTI odometry, with its last column."""
    return f"{RAW_FX} 0 31.5 {p4[0]} 0 {RAW_FX} 23.5 {p4[1]} 0 0 1 {p4[2]}"


def kitti_odometry(root: Path) -> Path:
    """Sequence 77 of KITTI odometry: two cameras, four frames, the car drives 1 m a frame along z; its folder."""
    folder = root / "sequences" / "77"
    for camera in ("image_2", "image_3"):
        for number in range(4):
            _write_image(folder / camera / f"{number:06d}.png", np.full((48, 64, 3), (10, 20, number), np.uint8))
    columns = {"P0": (0.0, 0.0, 0.0), "P1": (-27.0, 0, 0), "P2": (3.0, 0.0, 0.0), "P3": (-24.0, 0.0, 0.0)}
    lines = [f"{name}: {odometry_projection(p4)}" for name, p4 in columns.items()]
    (folder / "calib.txt").write_text("\n".join([*lines, "Tr: 0 -1 0 0 0 0 -1 -0.1 1 0 0 -0.3"]))
    (folder / "poses.txt").write_text("\n".join(f"1 0 0 0 0 1 0 0 0 0 1 {z}" for z in range(6)))
    (folder / "times.txt").write_text("\n".join(str(z * 0.1) for z in range(6)))
    return folder


def semantic_kitti(root: Path, images: Sequence[int], labelled: Sequence[int]) -> Path:
    """Sequence 08 of KITTI odometry with SemanticKITTI's voxels of some frames, all of them road; its folder."""
    folder = root / "sequences" / "08"
    write_pictures(folder / "image_2", RAW_SIZE, images, "{:06d}.png")
    (folder / "calib.txt").write_text(f"P2: {odometry_projection()}\nTr: 0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27\n")
    (folder / "poses.txt").write_text("".join(f"1 0 0 0 0 1 0 0 0 0 1 {k}\n" for k in range(max(images) + 1)))
    (folder / "voxels").mkdir()
    for number in labelled:
        np.full((256, 256, 32), 40, "<u2").tofile(folder / "voxels" / f"{number:06d}.label")
        np.zeros(256 * 256 * 4, np.uint8).tofile(folder / "voxels" / f"{number:06d}.invalid")
    return folder
