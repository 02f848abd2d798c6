"""Poses from the GPS/IMU packets (OXTS) of KITTI's raw recordings."""

import math
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.geometry.extrinsics import rotation_of_angles
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.sequences.kitti import text_lines

EARTH_RADIUS = 6378137.0  # metres, as in KITTI's development kit
_FIELDS = 30


def read_oxts(path: Path) -> NDArray[np.float64]:
    """Read latitude, longitude (degrees), altitude (metres), roll, pitch, yaw (radians) of a packet: [6].

    Raises SequenceError where the file is missing or holds no packet of finite numbers.
    """
    text = " ".join(text_lines(path, "OXTS packet"))
    try:
        values = np.array([float(word) for word in text.split()])
    except ValueError:
        values = np.zeros(0)
    if values.size != _FIELDS or not np.isfinite(values[:6]).all():
        what = f"no packet of {_FIELDS} numbers with finite position and angles: {text[:60]!r}"
        raise SequenceError(what, where=str(path), cure="Restore the file from the data set")
    return values[:6]


def mercator_scale(latitude: float) -> float:
    """Scale of the Mercator projection at a latitude in degrees: that of the first frame is used for a whole drive."""
    return math.cos(math.radians(latitude))


def world_from_imu(packet: NDArray[np.float64], scale: float) -> RigidTransform:
    """Pose of the IMU by the Mercator projection of KITTI's development kit (Geiger et al. 2013).

    `packet`: latitude, longitude, altitude, roll, pitch, yaw [6]; `scale`: `mercator_scale` of the drive. Returns pose
    in a frame x east, y north, z up whose origin is far away.
    """
    latitude, longitude, altitude, roll, pitch, yaw = packet.tolist()
    east = scale * EARTH_RADIUS * math.radians(longitude)
    north = scale * EARTH_RADIUS * math.log(math.tan(math.radians(90.0 + latitude) / 2.0))
    return RigidTransform(rotation_of_angles(roll, pitch, yaw), np.array([east, north, altitude]))


def read_timestamps(path: Path) -> list[int]:
    """Read a `timestamps.txt` of KITTI raw or KITTI-360 (`2011-09-26 13:02:25.594360375`, taken as UTC): nanoseconds.

    Raises SequenceError where the file is missing or a line is no time: names the line.
    """
    stamps = []
    for number, line in enumerate(text_lines(path, "time file"), start=1):
        whole, _, fraction = line.strip().partition(".")
        try:
            seconds = datetime.strptime(whole, "%Y-%m-%d %H:%M:%S").replace(tzinfo=timezone.utc).timestamp()
            stamps.append(round(seconds) * 1_000_000_000 + int(fraction.ljust(9, "0")[:9]))
        except ValueError:
            cure = "Restore the file from the data set"
            raise SequenceError(f"not a time: {line[:60]!r}", where=f"{path}, line {number}", cure=cure) from None
    return stamps
