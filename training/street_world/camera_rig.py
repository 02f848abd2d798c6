"""The rig that drives through the town: a stereo pair, a spinning LiDAR, and the path they take.

Rig frame: x forward, y left, z up, on the ground below the middle of the stereo pair.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD, RigidTransform
from training.street_world.street_line import StreetLine
from training.street_world.town import DRIVE_OFFSET

BASELINE_M = 0.54
CAMERA_HEIGHT_M = 1.65
LIDAR_POSITION_M = (-0.25, 0.0, 1.75)
FRAME_RATE_HZ = 10.0
SPEED_M_S = 8.0
FIRST_STAMP_NS = 1_700_000_000_000_000_000
FOCAL_PER_WIDTH = 0.58
LEFT, RIGHT = "camera_left", "camera_right"


@dataclass(frozen=True)
class LidarModel:
    """A spinning LiDAR.

    Args:
        beams: Number of beams, evenly spread in elevation.
        columns: Firings a turn.
        elevation: Lowest and highest beam, radians.
        reach_m: Longest distance measured.
        noise_m: Standard deviation of a distance.
        dropout: Share of returns lost.
    """

    beams: int = 64
    columns: int = 1800
    elevation: tuple[float, float] = (-0.434, 0.035)
    reach_m: float = 80.0
    noise_m: float = 0.015
    dropout: float = 0.03


@dataclass(frozen=True, eq=False)
class StreetRig:
    """Cameras and LiDAR with their places in the rig frame."""

    cameras: dict[str, Camera]
    rig_from_camera: dict[str, RigidTransform]
    lidar: LidarModel
    rig_from_lidar: RigidTransform


def make_rig(width: int = 1242, height: int = 375, lidar: LidarModel | None = None) -> StreetRig:
    """The default rig with images of a given size; the horizontal field of view stays the same."""
    focal = FOCAL_PER_WIDTH * width
    camera = Camera(fx=focal, fy=focal, cx=0.4915 * width - 0.5, cy=0.466 * height - 0.5, width=width, height=height)
    axes = OPTICAL_FROM_FORWARD.inverse().rotation
    rig_from_camera = {
        name: RigidTransform(axes, np.array([0.0, y, CAMERA_HEIGHT_M]))
        for name, y in ((LEFT, BASELINE_M / 2), (RIGHT, -BASELINE_M / 2))
    }
    return StreetRig(
        cameras=dict.fromkeys(rig_from_camera, camera),
        rig_from_camera=rig_from_camera,
        lidar=lidar or LidarModel(),
        rig_from_lidar=RigidTransform(np.eye(3), np.array(LIDAR_POSITION_M)),
    )


def drive_length(frames: int, rate_hz: float = FRAME_RATE_HZ) -> float:
    """Metres of street that a drive of this many frames needs."""
    return frames / rate_hz * (SPEED_M_S + 1.0) + 2.0


def drive_poses(line: StreetLine, frames: int, seed: int, rate_hz: float = FRAME_RATE_HZ) -> list[RigidTransform]:
    """Poses `world_from_rig` along the right lane, about 8 m/s, with the sway and nod of a car.

    Args:
        line: The street.
        frames: Number of poses.
        seed: Town.
        rate_hz: Poses a second.
    """
    rng = np.random.default_rng([seed, 2])
    time = np.arange(frames) / rate_hz
    phase = rng.uniform(0.0, 2.0 * np.pi, 6)
    speed = SPEED_M_S * (1.0 + 0.06 * np.sin(0.5 * time + phase[0]))
    s = np.concatenate([[0.0], np.cumsum(speed[:-1]) / rate_hz])
    sway = 0.12 * np.sin(0.07 * s + phase[1])
    sway_slope = 0.12 * 0.07 * np.cos(0.07 * s + phase[1])
    xy = line.point(s, DRIVE_OFFSET + sway)
    yaw = line.heading_at(s) + sway_slope
    pitch = 0.004 * np.sin(6.3 * time + phase[2]) + 0.002 * np.sin(17.0 * time + phase[3])
    roll = 0.005 * np.sin(4.1 * time + phase[4])
    heave = 0.012 * np.sin(7.7 * time + phase[5])
    return [
        RigidTransform(_rotation(yaw[k], pitch[k], roll[k]), np.array([xy[k, 0], xy[k, 1], heave[k]]))
        for k in range(frames)
    ]


def _rotation(yaw: float, pitch: float, roll: float) -> NDArray[np.float64]:
    """Rotation by roll about x, then pitch about y, then yaw about z."""
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    about_z = np.array([[cy, -sy, 0.0], [sy, cy, 0.0], [0.0, 0.0, 1.0]])
    about_y = np.array([[cp, 0.0, sp], [0.0, 1.0, 0.0], [-sp, 0.0, cp]])
    about_x = np.array([[1.0, 0.0, 0.0], [0.0, cr, -sr], [0.0, sr, cr]])
    return np.asarray(about_z @ about_y @ about_x)


def stamps_ns(frames: int, rate_hz: float = FRAME_RATE_HZ) -> list[int]:
    """Time stamps of a drive's frames."""
    step = round(1e9 / rate_hz)
    return [FIRST_STAMP_NS + k * step for k in range(frames)]
