"""Posed sequences from KITTI's raw recordings, in the official layout of the synchronised and rectified drives.

    2011_09_26/
        calib_cam_to_cam.txt  calib_velo_to_cam.txt  calib_imu_to_velo.txt
        2011_09_26_drive_0001_sync/
            image_00/ … image_03/    timestamps.txt  data/0000000000.png …
            oxts/                    timestamps.txt  data/0000000000.txt …
            velodyne_points/         timestamps.txt  data/0000000000.bin …

The rig frame is the rectified camera 0 (x right, y down, z forward). The world is the rig frame of the drive's first
packet. Both are as in KITTI odometry. The asset "lidar" is float32 [N, 3] in the rig frame.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from scene_completion_ros.arrays import Doubles
from scene_completion_ros.errors import SequenceError
from scene_completion_ros.geometry.camera_files import camera_from_projection, read_kitti_calibration
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.transforms import RigidTransform, rotation_of_angles
from scene_completion_ros.sequences.kitti import check_lines, numbered_images, read_kitti_poses, scan_assets
from scene_completion_ros.sequences.posed_sequence import UNKNOWN_POSES, Frame, PosedSequence, Source, read_lines

EARTH_RADIUS = 6378137.0  # metres, as in KITTI's development kit
_FIELDS = 30
_RESTORE = "Restore the file from the data set"


def read_oxts(path: Path) -> Doubles:
    """[6]: latitude, longitude (degrees), altitude (m), roll, pitch, yaw (rad). Raises SequenceError if not there."""

    def read(line: str) -> Doubles:
        values = np.array([float(word) for word in line.split()])
        if values.size != _FIELDS or not np.isfinite(values[:6]).all():
            raise ValueError(f"not {_FIELDS} numbers with finite position and angles")
        return values[:6]

    return read_lines(path, "OXTS packet", read, _RESTORE)[0]


def world_from_imu(packet: Doubles, scale: float) -> RigidTransform:
    """Pose of the IMU by the Mercator projection of KITTI's development kit (Geiger et al. 2013).

    `packet`: latitude, longitude, altitude, roll, pitch, yaw [6]; `scale`: of the projection
    at the latitude of the first frame, which is used for a whole drive. Returns pose in a frame x east, y north, z up
    whose origin is far away.
    """
    latitude, longitude, altitude, roll, pitch, yaw = packet.tolist()
    east = scale * EARTH_RADIUS * math.radians(longitude)
    north = scale * EARTH_RADIUS * math.log(math.tan(math.radians(90.0 + latitude) / 2.0))
    return RigidTransform(rotation_of_angles(roll, pitch, yaw), np.array([east, north, altitude]))


def read_timestamps(path: Path) -> list[int]:
    """Read a `timestamps.txt` of KITTI raw or KITTI-360 (`2011-09-26 13:02:25.594360375`, taken as UTC): nanoseconds.

    Raises SequenceError where the file is missing or a line is no time: names the line.
    """

    def read(line: str) -> int:
        whole, _, fraction = line.strip().partition(".")
        seconds = datetime.strptime(whole, "%Y-%m-%d %H:%M:%S").replace(tzinfo=timezone.utc).timestamp()
        return round(seconds) * 1_000_000_000 + int(fraction.ljust(9, "0")[:9])

    return read_lines(path, "time", read, _RESTORE)


CAMERAS = ("image_00", "image_01", "image_02", "image_03")
COLOUR_CAMERAS = CAMERAS[2:]


def kitti_raw(folder: Path | str, poses: str | None = None) -> PosedSequence:
    """Read a drive of KITTI's raw recordings; poses come from OXTS where no others are named.

    Of the cameras it takes the colour ones, if there are any: with both, the grey pair would become the reference.

    Raises SequenceError where a file is missing or malformed, or no frame is left: names it; CameraError where a
    calibration file is malformed. `folder`: `DATE/DATE_drive_NNNN_sync`; the calibration lies in the folder above;
    `poses`: folder with the poses of a SLAM as Behind the Scenes publishes them, `DATE/DRIVE.txt`, or such a file: line
    i is the 3x4 `world_from_cam0` of frame i. "none": the frames are unrelated.
    """
    root = Path(folder)
    chosen = _cameras(root)
    images = {name: numbered_images(root / name / "data") for name in chosen}
    listed: dict[int, RigidTransform] | None = None
    if poses not in (None, UNKNOWN_POSES):
        place, drive = Path(str(poses)), root.resolve()
        file = place / drive.parent.name / f"{drive.name}.txt" if place.is_dir() else place
        listed = dict(enumerate(read_kitti_poses(file)))
    numbers, provenance = complete_frames(images, listed, str(root))
    camera_models, rig_from_camera, rig_from_velodyne, rig_from_imu = _calibration(root.resolve().parent, chosen)
    stamps = read_timestamps(root / chosen[0] / "timestamps.txt")
    check_lines(stamps, "times", numbers[-1], root / chosen[0] / "timestamps.txt")
    if poses == UNKNOWN_POSES:
        listed = dict.fromkeys(numbers, RigidTransform.identity())
    world_from_rig = listed or _poses(root / "oxts" / "data", numbers, rig_from_imu)
    found = [
        Frame(
            stamps[number],
            {name: images[name][number] for name in chosen},
            world_from_rig[number],
            scan_assets(root / "velodyne_points" / "data" / f"{number:010d}.bin", rig_from_velodyne),
        )
        for number in numbers
    ]
    return PosedSequence(
        name=root.resolve().name,
        cameras=camera_models,
        rig_from_camera=rig_from_camera,
        frames=advancing(found, provenance),
        pose_source=poses or "oxts",
        provenance={"dataset": "KITTI raw", "licence": "CC BY-NC-SA 3.0", "folder": root.resolve().name, **provenance},
        rig_from_sensor={"velodyne": rig_from_velodyne, "imu": rig_from_imu},
    )


def complete_frames(
    images: Mapping[str, Collection[int]], wanted: Collection[int] | None, where: str
) -> tuple[list[int], dict[str, Any]]:
    """Frames, of `wanted` if given, that all cameras have, and what not. Raises SequenceError where none is left."""
    asked = set().union(*images.values()) if wanted is None else set(wanted)
    complete = asked.intersection(*(set(numbers) for numbers in images.values()))
    if not complete:
        what = f"none of {len(asked)} frames has an image of all of {sorted(images)}"
        raise SequenceError(what, where=where, cure="Unpack the images of this drive, or name other cameras or frames")
    missing = sorted(asked - complete)
    return sorted(complete), {"missing_images": missing} if missing else {}


def advancing(frames: Sequence[Frame], provenance: dict[str, Any]) -> list[Frame]:
    """Frames whose stamps advance; those that do not (a few recordings repeat a stamp) are counted in `provenance`."""
    kept: list[Frame] = []
    for frame in frames:
        if not kept or frame.stamp_ns > kept[-1].stamp_ns:
            kept.append(frame)
    if len(kept) < len(frames):
        provenance["repeated_stamps"] = len(frames) - len(kept)
    return kept


def entry(calibration: Mapping[str, Doubles], key: str, shape: tuple[int, ...], path: Path) -> Doubles:
    """An entry of a calibration file. Raises SequenceError where it is missing or of another shape."""
    if key not in calibration or calibration[key].size != np.prod(shape):
        raise SequenceError(f"no {key} of {np.prod(shape)} numbers", where=str(path), cure=_RESTORE)
    return calibration[key].reshape(shape)


def _calibration(
    date: Path, cameras: Sequence[str]
) -> tuple[dict[str, Camera], dict[str, RigidTransform], RigidTransform, RigidTransform]:
    """Cameras, their poses in the rig, rig_from_velodyne and rig_from_imu."""
    path = date / "calib_cam_to_cam.txt"
    calibration = read_kitti_calibration(path)
    models, rig_from_camera = {}, {}
    for name in cameras:
        models[name], rig_from_camera[name] = rectified_camera(calibration, name, path)
    rectified0_from_camera0 = rotation_of(entry(calibration, "R_rect_00", (3, 3), path))
    rig_from_velodyne = rectified0_from_camera0 @ _rigid(date / "calib_velo_to_cam.txt")
    return models, rig_from_camera, rig_from_velodyne, rig_from_velodyne @ _rigid(date / "calib_imu_to_velo.txt")


def rectified_camera(calibration: Mapping[str, Doubles], name: str, path: Path) -> tuple[Camera, RigidTransform]:
    """A camera such as image_02, without distortion, and its pose in the rig."""
    number = name.removeprefix("image_")
    width, height = (int(size) for size in entry(calibration, f"S_rect_{number}", (2,), path))
    projection = entry(calibration, f"P_rect_{number}", (3, 4), path)
    camera, camera_from_rig = camera_from_projection(projection, width, height)
    return camera, camera_from_rig.inverse()


def rotation_of(rotation: Doubles) -> RigidTransform:
    """A rectifying rotation [3, 3], printed with few digits, as a transform."""
    return RigidTransform.from_matrix(np.hstack([rotation, np.zeros((3, 1))]))


def _rigid(path: Path) -> RigidTransform:
    calibration = read_kitti_calibration(path)
    parts = [entry(calibration, key, shape, path) for key, shape in (("R", (3, 3)), ("T", (3, 1)))]
    return RigidTransform.from_matrix(np.hstack(parts))


def _poses(folder: Path, numbers: Sequence[int], rig_from_imu: RigidTransform) -> dict[int, RigidTransform]:
    packet = read_oxts(min(folder.glob("*.txt"), default=folder / f"{numbers[0]:010d}.txt"))
    scale = math.cos(math.radians(float(packet[0])))
    imu_from_rig = rig_from_imu.inverse()
    origin = (world_from_imu(packet, scale) @ imu_from_rig).inverse()
    return {
        number: origin @ world_from_imu(read_oxts(folder / f"{number:010d}.txt"), scale) @ imu_from_rig
        for number in numbers
    }


def _cameras(folder: Path) -> list[str]:
    """The colour cameras of a drive where it has any, else the grey ones."""
    found = [name for name in CAMERAS if (folder / name / "data").is_dir()]
    return [name for name in COLOUR_CAMERAS if name in found] or found


SOURCE = Source("DATE/DATE_drive_NNNN_sync of KITTI raw", lambda path: bool(_cameras(path)), kitti_raw)
