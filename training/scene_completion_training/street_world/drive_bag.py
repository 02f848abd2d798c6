"""A drive as a rosbag2 recording: compressed images, CameraInfo, transforms, odometry and LiDAR.

Frames: map -> base_link (the rig) on /tf; base_link -> camera_*_optical and velodyne on /tf_static.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.typesys.store import Typestore

from scene_completion_ros.bags.writer import BagWriter
from scene_completion_ros.errors import ImageError
from scene_completion_ros.geometry import Camera, RigidTransform
from scene_completion_ros.sequences.posed_sequence import EncodedImage, ImageSource, PosedSequence
from scene_completion_training.street_world.camera_rig import LEFT

MAP, BASE, LIDAR = "map", "base_link", "velodyne"
POINT_ROUNDING_M = 1.0 / 256.0


def write_drive_bag(
    sequence: PosedSequence,
    path: Path,
    *,
    cameras: Sequence[str] = (LEFT,),
    lidar_every: int = 1,
    on_frame: Callable[[int], None] | None = None,
) -> None:
    """Write a drive as a new bag; images are taken as they are encoded.

    Args:
        cameras: Cameras to record: a single one on /camera, several on a namespace each.
        lidar_every: Record the LiDAR of every so many frames, as far as the sequence has it; 0 leaves it out.
        on_frame: Called with the number of each frame that is written.

    Raises:
        BagError: The folder exists already.
    """
    namespace = {name: "/camera" if len(cameras) == 1 else f"/{name}" for name in cameras}
    base_from_lidar = sequence.rig_from_sensor[LIDAR]
    with BagWriter(path) as bag:
        messages = _Messages(bag.typestore)
        static = [(BASE, optical_frame(name), sequence.rig_from_camera[name]) for name in cameras]
        static.append((BASE, LIDAR, base_from_lidar))
        first = sequence.frames[0].stamp_ns
        bag.write("/tf_static", messages.TF, messages.transforms(first, static), first)
        for index, frame in enumerate(sequence.frames):
            stamp, pose = frame.stamp_ns, frame.world_from_rig
            bag.write("/tf", messages.TF, messages.transforms(stamp, [(MAP, BASE, pose)]), stamp)
            bag.write("/odom", messages.ODOMETRY, messages.odometry(stamp, pose), stamp)
            for name, topic in namespace.items():
                optical = optical_frame(name)
                info = messages.camera_info(stamp, optical, sequence.cameras[name])
                bag.write(f"{topic}/camera_info", messages.CAMERA_INFO, info, stamp)
                image = messages.compressed_image(stamp, optical, _jpeg_of(frame.images[name]))
                bag.write(f"{topic}/image_raw/compressed", messages.IMAGE, image, stamp)
            if lidar_every and index % lidar_every == 0 and (measured := sequence.lidar(index)) is not None:
                points = base_from_lidar.inverse().apply(measured)
                # Sensors count in steps of millimetres; round numbers also compress well.
                rounded = np.rint(points / POINT_ROUNDING_M).astype(np.float32) * np.float32(POINT_ROUNDING_M)
                bag.write("/velodyne_points", messages.CLOUD, messages.cloud(stamp, rounded), stamp)
            if on_frame is not None:
                on_frame(index)


def _jpeg_of(source: ImageSource) -> bytes:
    """JPEG bytes of a drive's image, as they were encoded."""
    if isinstance(source, Path):
        return source.read_bytes()
    if isinstance(source, EncodedImage) and (encoded := source.encoded()) is not None:
        return encoded[0]
    raise ImageError(
        "this image is not stored as JPEG or PNG", where=repr(source), cure="Write the bag from a saved drive"
    )


def optical_frame(camera: str) -> str:
    """Name of a camera's optical frame."""
    return f"{camera}_optical"


class _Messages:
    """Builds messages of the types a bag is written with."""

    TF = "tf2_msgs/msg/TFMessage"
    ODOMETRY = "nav_msgs/msg/Odometry"
    CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
    IMAGE = "sensor_msgs/msg/CompressedImage"
    CLOUD = "sensor_msgs/msg/PointCloud2"

    def __init__(self, typestore: Typestore) -> None:
        self._types = typestore.types

    def _make(self, msgtype: str, /, **fields: Any) -> Any:
        return self._types[msgtype](**fields)

    def _header(self, stamp_ns: int, frame: str) -> Any:
        stamp = self._make("builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
        return self._make("std_msgs/msg/Header", stamp=stamp, frame_id=frame)

    def _vector(self, kind: str, values: NDArray[np.float64]) -> Any:
        x, y, z = (float(value) for value in values)
        return self._make(f"geometry_msgs/msg/{kind}", x=x, y=y, z=z)

    def _rotation(self, pose: RigidTransform) -> Any:
        x, y, z, w = (float(value) for value in pose.quaternion)
        return self._make("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)

    def transforms(self, stamp_ns: int, edges: Sequence[tuple[str, str, RigidTransform]]) -> Any:
        """Edges (parent, child, parent_from_child)."""
        stamped = [
            self._make(
                "geometry_msgs/msg/TransformStamped",
                header=self._header(stamp_ns, parent),
                child_frame_id=child,
                transform=self._make(
                    "geometry_msgs/msg/Transform",
                    translation=self._vector("Vector3", pose.translation),
                    rotation=self._rotation(pose),
                ),
            )
            for parent, child, pose in edges
        ]
        return self._make(self.TF, transforms=stamped)

    def odometry(self, stamp_ns: int, pose: RigidTransform) -> Any:
        """Pose of the rig; the twist is left at zero."""
        zero = np.zeros(3)
        place = self._make(
            "geometry_msgs/msg/Pose",
            position=self._vector("Point", pose.translation),
            orientation=self._rotation(pose),
        )
        twist = self._make(
            "geometry_msgs/msg/Twist", linear=self._vector("Vector3", zero), angular=self._vector("Vector3", zero)
        )
        return self._make(
            self.ODOMETRY,
            header=self._header(stamp_ns, MAP),
            child_frame_id=BASE,
            pose=self._make("geometry_msgs/msg/PoseWithCovariance", pose=place, covariance=np.zeros(36)),
            twist=self._make("geometry_msgs/msg/TwistWithCovariance", twist=twist, covariance=np.zeros(36)),
        )

    def camera_info(self, stamp_ns: int, frame: str, camera: Camera) -> Any:
        """Calibration of a camera; an undistorted one has zeros in plumb_bob."""
        projection = np.concatenate([camera.matrix, np.zeros((3, 1))], axis=1)
        region = self._make(
            "sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        )
        return self._make(
            self.CAMERA_INFO,
            header=self._header(stamp_ns, frame),
            height=camera.height,
            width=camera.width,
            distortion_model="plumb_bob" if camera.distortion_model == "none" else camera.distortion_model,
            d=np.array(camera.distortion or np.zeros(5), np.float64),
            k=camera.matrix.reshape(-1).astype(np.float64),
            r=np.eye(3).reshape(-1),
            p=projection.reshape(-1).astype(np.float64),
            binning_x=0,
            binning_y=0,
            roi=region,
        )

    def compressed_image(self, stamp_ns: int, frame: str, jpeg: bytes) -> Any:
        """A JPEG."""
        header = self._header(stamp_ns, frame)
        return self._make(self.IMAGE, header=header, format="jpeg", data=np.frombuffer(jpeg, np.uint8))

    def cloud(self, stamp_ns: int, points: NDArray[np.float32]) -> Any:
        """Points [N, 3] in the LiDAR's frame."""
        fields = [
            self._make("sensor_msgs/msg/PointField", name=name, offset=4 * k, datatype=7, count=1)
            for k, name in enumerate("xyz")
        ]
        return self._make(
            self.CLOUD,
            header=self._header(stamp_ns, LIDAR),
            height=1,
            width=len(points),
            fields=fields,
            is_bigendian=False,
            point_step=12,
            row_step=12 * len(points),
            data=np.ascontiguousarray(points, np.float32).view(np.uint8).reshape(-1),
            is_dense=True,
        )
