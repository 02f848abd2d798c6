"""A street of textured planes through which a camera drives: pictures with exactly known geometry, and bags of them."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.bags.writer import BagWriter
from scene_completion_ros.geometry import Camera, RigidTransform, view_rotation
from tests.bags.recordings import SECOND, START, camera_info, image, odometry, transform

HEIGHT_ABOVE_GROUND = 1.5
HALF_WIDTH = 5.0
CAMERA = Camera(190.0, 190.0, 159.5, 91.5, 320, 184)
TEXTURE_METRES = 100.0


def texture(seed: int) -> NDArray[np.uint8]:
    """Blotches of 0.3 to 2 m, [2048, 2048]."""
    generator = np.random.default_rng(seed)
    total = np.zeros((2048, 2048), np.float32)
    for cells in (50, 150, 300):
        noise = generator.normal(size=(cells, cells)).astype(np.float32)
        total += cv2.resize(noise, (2048, 2048), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(127 + 30 * total, 0, 255), np.uint8)


PLANES = (  # axis, offset, texture axes, texture
    (1, HEIGHT_ABOVE_GROUND, (0, 2), texture(1)),
    (0, -HALF_WIDTH, (1, 2), texture(2)),
    (0, HALF_WIDTH, (1, 2), texture(3)),
    (2, 60.0, (0, 1), texture(4)),
)


def picture(camera: Camera, world_from_camera: RigidTransform) -> NDArray[np.uint8]:
    """Grey picture [H, W]; the world's axes are those of a camera that looks along the street, y = 0 at its height."""
    fine = camera.resized(2 * camera.width, 2 * camera.height)  # averaged below: textures far away would glitter
    rays = np.nan_to_num(fine.unproject(fine.pixel_centres())) @ world_from_camera.rotation.T
    nearest = np.full(rays.shape[:2], np.inf)
    shown = np.full(rays.shape[:2], 200, np.uint8)  # sky
    for axis, offset, (first, second), pattern in PLANES:
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = (offset - world_from_camera.translation[axis]) / rays[..., axis]
        distance = np.where(np.isfinite(distance) & (distance > 0.1), distance, 1e9)
        points = world_from_camera.translation + rays * distance[..., None]
        scale = pattern.shape[0] / TEXTURE_METRES
        columns, rows = (_mirrored(points[..., index] * scale, pattern.shape[0]) for index in (first, second))
        colours = cv2.remap(pattern, columns, rows, cv2.INTER_LINEAR)
        visible = (distance < nearest) & (distance < 1e8)
        if axis != 1:
            visible &= (points[..., 1] > -4.0) & (points[..., 1] < HEIGHT_ABOVE_GROUND)  # above them is sky
        shown, nearest = np.where(visible, colours, shown), np.where(visible, distance, nearest)
    size = (camera.width, camera.height)
    return np.asarray(cv2.resize(shown.astype(np.uint8), size, interpolation=cv2.INTER_AREA), np.uint8)


def _mirrored(coordinates: NDArray[np.float64], size: int) -> NDArray[np.float32]:
    """Texture coordinates that run back and forth, so that no seam shows."""
    return np.asarray(np.clip(np.abs(np.mod(coordinates, 2 * size) - size), 0, size - 1), np.float32)


def drive(count: int, step: float = 0.5) -> list[RigidTransform]:
    """Poses world_from_camera along a slight curve; steps are metres."""
    poses = []
    for index in range(count):
        turned = 0.25 * math.sin(index / 9.0)
        place = np.array([0.8 * math.sin(index / 7.0), 0.0, step * index])
        poses.append(RigidTransform(view_rotation(yaw=turned), place))
    return poses


def placed(parent: str, child: str, pose: RigidTransform, stamp_ns: int) -> Any:
    """tf2_msgs/TFMessage of one frame's pose in another."""
    message = transform(parent, child, tuple(pose.translation), stamp_ns)
    rotation = message.transforms[0].transform.rotation
    rotation.x, rotation.y, rotation.z, rotation.w = pose.quaternion
    return message


def write_bag(
    path: Path,
    poses: Sequence[RigidTransform],
    cameras: Mapping[str, tuple[Camera, RigidTransform]],
    *,
    tf: bool = True,
    wheel_odometry: bool = False,
) -> Path:
    """Record a drive: raw images and CameraInfo at 10 Hz, static transforms, and the poses asked for.

    Args:
        path: Bag to be made.
        poses: world_from_base of every frame; the base has the axes of a camera.
        cameras: Name -> camera and base_from_camera.
        tf: Whether /tf and /tf_static are recorded (several cameras are always placed by /tf_static).
        wheel_odometry: Whether /odom is recorded, whose frame "wheels" nothing connects with the cameras.
    """
    with BagWriter(path) as writer:
        if tf or len(cameras) > 1:
            for name, (_, base_from_camera) in cameras.items():
                message = placed("base", name, base_from_camera, START)
                writer.write("/tf_static", "tf2_msgs/msg/TFMessage", message, START)
        if wheel_odometry:  # its first message is cut short
            writer.write("/odom", "nav_msgs/msg/Odometry", b"\x00\x01\x00\x00\x07", START)
        for index, pose in enumerate(poses):
            stamp = START + index * SECOND // 10
            if tf:
                writer.write("/tf", "tf2_msgs/msg/TFMessage", placed("map", "base", pose, stamp), stamp)
            if wheel_odometry:
                message = odometry("odom", "wheels", tuple(pose.translation), stamp)
                writer.write("/odom", "nav_msgs/msg/Odometry", message, stamp)
            for name, (camera, base_from_camera) in cameras.items():
                grey = picture(camera, pose @ base_from_camera)
                of = {"width": camera.width, "height": camera.height, "stamp_ns": stamp, "frame_id": name}
                writer.write(f"/{name}/image_raw", "sensor_msgs/msg/Image", image(grey, "mono8", **of), stamp)
                message = camera_info(**of, f=camera.fx, centre=(camera.cx, camera.cy))
                if camera.distortion:
                    message.distortion_model, message.d = camera.distortion_model, np.array(camera.distortion)
                writer.write(f"/{name}/camera_info", "sensor_msgs/msg/CameraInfo", message, stamp)
    return path


def aligned_error(estimate: NDArray[np.float64], truth: NDArray[np.float64]) -> tuple[float, float]:
    """RMS distance [m] of two paths [N, 3] after the best similarity (Umeyama 1991), and its scale."""
    one, other = estimate - estimate.mean(axis=0), truth - truth.mean(axis=0)
    left, values, right = np.linalg.svd(other.T @ one)
    signs = np.diag([1.0, 1.0, np.sign(np.linalg.det(left) * np.linalg.det(right))])
    scale = float(np.trace(np.diag(values) @ signs) / (one**2).sum())
    residual = other - scale * one @ (left @ signs @ right).T
    return float(np.sqrt((residual**2).sum(axis=1).mean())), scale
