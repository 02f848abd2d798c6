"""A drive as a rosbag2 recording: compressed images, CameraInfo, transforms, odometry and LiDAR.

Frames: map -> base_link (the rig) on /tf; base_link -> that of the camera and velodyne on /tf_static.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scene_completion_ros.bags.writer import BagWriter, cloud_fields, header_fields
from scene_completion_ros.geometry import Camera, RigidTransform
from scene_completion_ros.sequences.posed_sequence import PosedSequence, image_file
from scene_completion_ros.voxels.cloud import POINT_FIELD_FLOAT32
from scene_completion_training.arrays import Doubles
from scene_completion_worlds.street.camera_rig import LidarModel, make_rig
from scene_completion_worlds.street.drive import StreetDrive
from scene_completion_worlds.street.town import SEEDS_OF_ROLE

MAP, BASE, LIDAR = "map", "base_link", "velodyne"
TRANSFORMS = "tf2_msgs/msg/TFMessage"
POINT_ROUNDING_M = 1.0 / 256.0
XYZ = [(axis, 4 * place, POINT_FIELD_FLOAT32, 1) for place, axis in enumerate("xyz")]


def write_drive_bag(sequence: PosedSequence, path: Path, *, lidar_every: int = 1) -> None:
    """Write what the first camera of a drive saw as a new bag, images as they are encoded.

    `lidar_every`: record the LiDAR of every so many frames, as far as the sequence has it. Raises BagError where the
    folder exists already.
    """
    camera = next(iter(sequence.cameras))
    optical, info = f"{camera}_optical", _camera_info(sequence.cameras[camera])
    with BagWriter(path) as bag:
        static = [(BASE, optical, sequence.rig_from_camera[camera])]
        static += [(BASE, sensor, pose) for sensor, pose in sequence.rig_from_sensor.items()]
        first = sequence.frames[0].stamp_ns
        bag.write("/tf_static", TRANSFORMS, _transforms(first, static), first)
        for index, frame in enumerate(sequence.frames):
            stamp, pose = frame.stamp_ns, frame.world_from_rig
            bag.write("/tf", TRANSFORMS, _transforms(stamp, [(MAP, BASE, pose)]), stamp)
            bag.write("/odom", "nav_msgs/msg/Odometry", _odometry(stamp, pose), stamp)
            header = {"header": header_fields(stamp, optical)}
            bag.write("/camera/camera_info", "sensor_msgs/msg/CameraInfo", header | info, stamp)
            content, suffix = image_file(frame.images[camera])
            image = {"data": np.frombuffer(content, np.uint8), "format": "png" if suffix == ".png" else "jpeg"}
            bag.write("/camera/image_raw/compressed", "sensor_msgs/msg/CompressedImage", header | image, stamp)
            if index % lidar_every == 0 and (measured := sequence.lidar(index)) is not None:
                points = sequence.rig_from_sensor[LIDAR].inverse().apply(measured)
                # Sensors count in steps of millimetres; round numbers also compress well.
                rounded = np.rint(points / POINT_ROUNDING_M).astype(np.float32) * np.float32(POINT_ROUNDING_M)
                cloud = cloud_fields(rounded, XYZ, stamp, LIDAR)
                bag.write("/velodyne_points", "sensor_msgs/msg/PointCloud2", cloud, stamp)


def _named(names: str, values: Doubles) -> dict[str, float]:
    return dict(zip(names, values.tolist(), strict=True))


def _transforms(stamp_ns: int, edges: Sequence[tuple[str, str, RigidTransform]]) -> dict[str, Any]:
    """Edges (parent, child, parent_from_child)."""
    found = []
    for parent, child, pose in edges:
        moved = {"translation": _named("xyz", pose.translation), "rotation": _named("xyzw", pose.quaternion)}
        found.append({"header": header_fields(stamp_ns, parent), "child_frame_id": child, "transform": moved})
    return {"transforms": found}


def _odometry(stamp_ns: int, pose: RigidTransform) -> dict[str, Any]:
    """Pose of the rig; the twist is left at zero."""
    place = {"position": _named("xyz", pose.translation), "orientation": _named("xyzw", pose.quaternion)}
    return {"header": header_fields(stamp_ns, MAP), "child_frame_id": BASE, "pose": {"pose": place}}


def _camera_info(camera: Camera) -> dict[str, Any]:
    """Calibration of an undistorted camera: zeros in plumb_bob."""
    return {
        "height": camera.height,
        "width": camera.width,
        "distortion_model": "plumb_bob",
        "d": np.zeros(5),
        "k": camera.matrix.reshape(-1).astype(np.float64),
        "r": np.eye(3).reshape(-1),
        "p": np.concatenate([camera.matrix, np.zeros((3, 1))], axis=1).reshape(-1).astype(np.float64),
    }


if __name__ == "__main__":  # makes the bundled drive: `python -m scene_completion_worlds.street.drive_bag FOLDER`
    demo = StreetDrive(SEEDS_OF_ROLE["demo"][0], 40, make_rig(lidar=LidarModel(beams=32, columns=600)))
    write_drive_bag(demo.sequence(("lidar",), quality=80, progress=True), Path(sys.argv[1]), lidar_every=4)
