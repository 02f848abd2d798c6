"""The rigs that drive through the towns: a car's stereo pair, perhaps with side fisheyes, or one camera; and a LiDAR.

Rig frame: x forward, y left, z up, on the ground below the middle of the stereo pair.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from scene_completion_ros.geometry import OPTICAL_FROM_FORWARD, Camera, RigidTransform, VoxelGrid
from scene_completion_ros.geometry.cameras import undistorted_angle
from scene_completion_ros.geometry.grids import DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA
from scene_completion_ros.geometry.transforms import about, rotation_of_angles
from scene_completion_training.arrays import Doubles, Floats, Random, Reals
from scene_completion_worlds.street.kernels import turn

# Angle off the axis at which a fisheye's image ends; beyond lies the dark inside of the lens.
LENS_ANGLE = np.deg2rad(92.5)
BASELINE_M = 0.54
CAMERA_HEIGHT_M = 1.65
LIDAR_POSITION_M = (-0.25, 0.0, 1.75)
FOCAL_PER_WIDTH = 0.58
LEFT, RIGHT = "camera_left", "camera_right"
SIDE_LEFT, SIDE_RIGHT = "camera_side_left", "camera_side_right"
SIDE_PER_WIDTH = 700 / 1242  # size of the square side images
SIDE_LENS = (-0.018, 0.0012, 0.0, 0.0)  # Kannala-Brandt k1 ... k4
SIDE_POSITION_M = (-0.85, 0.42, 1.95)  # of the left one, on the roof
MOUNTING_ANGLE = np.deg2rad(0.7)  # to which a car's camera bar is off in pitch and roll
VARIED_HEIGHTS_M, VARIED_PITCH, VARIED_ROLL = (0.4, 2.2), np.deg2rad(3.0), np.deg2rad(1.0)
VARIED_FOCAL_PER_WIDTH = (0.42, 0.78)


def viewing_directions(camera: Camera, pixels: Reals) -> Doubles:
    """Unit directions [..., 3] in the optical frame of pixels [..., 2]; NaN where the lens shows nothing."""
    if camera.distortion_model != "equidistant":
        rays = np.asarray(camera.unproject(np.asarray(pixels, np.float64)))
        return np.asarray(rays / np.linalg.norm(rays, axis=-1, keepdims=True))
    x = (np.asarray(pixels, np.float64) - (camera.cx, camera.cy)) / (camera.fx, camera.fy)
    radius = np.linalg.norm(x, axis=-1)
    angle, valid = undistorted_angle(camera.distortion, radius)
    flat = x / np.maximum(radius, 1e-12)[..., None] * np.sin(angle)[..., None]
    directions = np.concatenate([flat, np.cos(angle)[..., None]], axis=-1)
    directions[~(np.asarray(valid) & (np.asarray(angle) <= LENS_ANGLE))] = np.nan
    return np.asarray(directions)


def turned(directions: Floats, rotation: Doubles) -> Floats:
    """Directions [N, 3] turned by a rotation matrix."""
    out = np.empty(directions.shape, np.float32)
    turn(directions, rotation.astype(np.float32), out)
    return out


@lru_cache(maxsize=8)
def pixel_directions(camera: Camera, supersampling: int = 1) -> Floats:
    """Directions through k by k points of every pixel, float32 [H * k, W * k, 3]; kept, as drives reuse them."""
    fine = camera.resized(camera.width * supersampling, camera.height * supersampling)
    directions = viewing_directions(fine, fine.pixel_centres()).astype(np.float32)
    directions.setflags(write=False)
    return directions


@dataclass(frozen=True)
class LidarModel:
    """A spinning LiDAR."""

    beams: int = 64  # number of beams, evenly spread in elevation
    columns: int = 1800  # firings a turn
    elevation: tuple[float, float] = (-0.434, 0.035)  # lowest and highest beam, radians
    reach_m: float = 80.0  # longest distance measured
    noise_m: float = 0.015  # standard deviation of a distance
    dropout: float = 0.03  # share of returns lost


@dataclass(frozen=True, eq=False)
class StreetRig:
    """Cameras and LiDAR with their places in the rig frame, and the grid of the ground truth."""

    cameras: dict[str, Camera]
    rig_from_camera: dict[str, RigidTransform]
    lidar: LidarModel
    rig_from_lidar: RigidTransform
    grid: VoxelGrid = DEFAULT_GRID  # around the left camera
    # The grid stands upright on the ground below the left camera, as it would around a camera that faces straight
    # ahead from `CAMERA_HEIGHT_M`; otherwise it is turned with the camera.
    level: bool = False

    @property
    def grid_from_camera(self) -> RigidTransform:
        """Pose of the left camera's optical frame in the grid of the ground truth."""
        if not self.level:
            return DEFAULT_GRID_FROM_CAMERA
        rig_from_camera = self.rig_from_camera[LEFT]
        foot = rig_from_camera.translation * (1.0, 1.0, 0.0) + (0.0, 0.0, CAMERA_HEIGHT_M)
        return RigidTransform(np.eye(3), -foot) @ rig_from_camera


def make_rig(width: int = 1242, height: int = 375, lidar: LidarModel | None = None, kind: str = "stereo") -> StreetRig:
    """A rig with front images of a given size; the horizontal field of view stays the same.

    `kind`: "stereo", "kitti360" with a fisheye of 185 degrees to each side as well, or "varied" with one camera, whose
    place and lens `mounted` draws from the seed.
    """
    focal = FOCAL_PER_WIDTH * width
    camera = Camera(fx=focal, fy=focal, cx=0.4915 * width - 0.5, cy=0.466 * height - 0.5, width=width, height=height)
    axes = OPTICAL_FROM_FORWARD.inverse().rotation
    rig_from_camera = {
        name: RigidTransform(axes, np.array([0.0, y, CAMERA_HEIGHT_M]))
        for name, y in ((LEFT, BASELINE_M / 2), (RIGHT, -BASELINE_M / 2))
    }
    if kind == "varied":
        del rig_from_camera[RIGHT]
    cameras = dict.fromkeys(rig_from_camera, camera)
    if kind == "kitti360":
        size = max(16, 4 * round(SIDE_PER_WIDTH * width / 4))  # their circles touch the edges of square images
        for name, side in ((SIDE_LEFT, 1), (SIDE_RIGHT, -1)):
            cameras[name] = _fisheye(size)
            place = np.array(SIDE_POSITION_M) * (1, side, 1)
            rig_from_camera[name] = RigidTransform(about(2, side * np.pi / 2) @ axes, place)
    lidar_place = RigidTransform(np.eye(3), np.array(LIDAR_POSITION_M))
    return StreetRig(cameras, rig_from_camera, lidar or LidarModel(), lidar_place, level=kind == "varied")


def _fisheye(size: int) -> Camera:
    a, (k1, k2, k3, k4) = LENS_ANGLE, SIDE_LENS
    radius = a * (1 + k1 * a**2 + k2 * a**4 + k3 * a**6 + k4 * a**8)
    focal, middle = 0.5 * size / radius, 0.5 * (size - 1)
    return Camera(focal, focal, middle, middle, size, size, "equidistant", SIDE_LENS)


def mounted(rig: StreetRig, seed: int) -> StreetRig:
    """The rig as it is mounted on the car of a town's drive: its cameras' bar a little off in pitch and roll.

    The stereo pair stays rectified, the LiDAR and the truth stay exact. A "varied" rig gets height, pitch, roll and
    focal length of its own: half of them about as high as a car's, the others from a small robot's to a lorry's.
    """
    if rig.level:
        return _varied(rig, np.random.default_rng([seed, 14]))
    pitch, roll = np.random.default_rng([seed, 6]).uniform(-MOUNTING_ANGLE, MOUNTING_ANGLE, 2)
    pivot = rig.rig_from_camera[LEFT].translation * (0.0, 0.0, 1.0)
    turn = RigidTransform(rotation_of_angles(roll, pitch, 0.0), pivot) @ RigidTransform(np.eye(3), -pivot)
    return replace(rig, rig_from_camera={name: turn @ pose for name, pose in rig.rig_from_camera.items()})


def _varied(rig: StreetRig, rng: Random) -> StreetRig:
    low, high = VARIED_HEIGHTS_M
    height = rng.uniform(1.35, 1.95) if rng.random() < 0.5 else float(np.exp(rng.uniform(np.log(low), np.log(high))))
    pitch, roll = rng.uniform(-VARIED_PITCH, VARIED_PITCH), rng.uniform(-VARIED_ROLL, VARIED_ROLL)
    axes = OPTICAL_FROM_FORWARD.inverse().rotation
    pose = RigidTransform(rotation_of_angles(roll, pitch, 0.0) @ axes, np.array([0.0, 0.0, height]))
    old = rig.cameras[LEFT]
    focal = old.width * (FOCAL_PER_WIDTH if rng.random() < 0.4 else rng.uniform(*VARIED_FOCAL_PER_WIDTH))
    return replace(rig, cameras={LEFT: replace(old, fx=focal, fy=focal)}, rig_from_camera={LEFT: pose})
