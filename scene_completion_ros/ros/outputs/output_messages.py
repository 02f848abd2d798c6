"""The messages of the outputs for planners: dense grid, occupancy map, clouds of plain points, markers."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from nav_msgs.msg import MapMetaData, OccupancyGrid
from numpy.typing import NDArray
from sensor_msgs.msg import Image, PointCloud2, PointField
from std_msgs.msg import ColorRGBA, Header, String
from visualization_msgs.msg import Marker

from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.mapping.dense_grid import dense_grid_json, voxels_to_bytes
from scene_completion_ros.mapping.ground_map import GroundMap
from scene_completion_ros.report.colours import voxel_colours
from scene_completion_ros.ros.messages import stamp_message, with_data
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels

MARKER_NAMESPACE = "voxels"


def voxel_grid_message(voxels: SemanticVoxels, frame_id: str) -> Any:
    """All voxels, one byte each (see `dense_grid`), as an image of X rows and Y * Z columns.

    Args:
        voxels: Completed voxels; their stamp becomes the message's.
        frame_id: The frame in which `voxel_grid_info_message` places them.

    Returns:
        sensor_msgs/Image, mono8.

    Raises:
        GridError: There are more classes than a byte can hold.
    """
    count_x, count_y, count_z = voxels.grid.shape
    message = Image(
        header=Header(stamp=stamp_message(voxels.stamp_ns), frame_id=frame_id),
        height=count_x,
        width=count_y * count_z,
        encoding="mono8",
        is_bigendian=0,
        step=count_y * count_z,
    )
    return with_data(message, voxels_to_bytes(voxels))


def voxel_grid_info_message(grid: VoxelGrid, grid_from_camera: RigidTransform | None) -> Any:
    """What the bytes of `voxel_grid_message` mean and where they lie: std_msgs/String with JSON (`dense_grid_json`)."""
    return String(data=dense_grid_json(grid, grid_from_camera))


def occupancy_grid_message(
    ground: GroundMap, stamp_ns: int, frame_id: str, frame_from_upright: RigidTransform | None = None
) -> Any:
    """A map of the ground.

    Args:
        ground: The map.
        stamp_ns: Stamp of the image, nanoseconds.
        frame_id: The frame that the map is published in.
        frame_from_upright: Pose of the map's upright frame in that frame; None where they are the same. Readers such
            as Nav2's StaticLayer understand nothing but a shift in x and y.

    Returns:
        nav_msgs/OccupancyGrid.
    """
    stamp = stamp_message(stamp_ns)
    rows, columns = ground.cells.shape
    frame_from_upright = frame_from_upright or RigidTransform.identity()
    corner = RigidTransform(np.eye(3), np.array([*ground.origin, 0.0]))
    message = OccupancyGrid(
        header=Header(stamp=stamp, frame_id=frame_id),
        info=MapMetaData(
            map_load_time=stamp,
            resolution=ground.resolution,
            width=columns,
            height=rows,
            origin=_pose_message(frame_from_upright @ corner),
        ),
    )
    return with_data(message, ground.cells)


def points_message(points: NDArray[np.float32], stamp_ns: int, frame_id: str) -> Any:
    """Points [N, 3] in metres as a PointCloud2 of x, y, z (float32)."""
    message = PointCloud2(
        header=Header(stamp=stamp_message(stamp_ns), frame_id=frame_id),
        height=1,
        width=len(points),
        fields=[
            PointField(name=name, offset=4 * place, datatype=PointField.FLOAT32, count=1)
            for place, name in enumerate("xyz")
        ],
        is_bigendian=sys.byteorder == "big",
        point_step=12,
        row_step=12 * len(points),
        is_dense=True,
    )
    return with_data(message, points.astype(np.float32, copy=False))


def voxels_marker(
    voxels: SemanticVoxels, frame_id: str, limit: int, frame_from_grid: RigidTransform | None = None
) -> Any:
    """Occupied voxels as cubes in the colours of their classes (of heights where there is one class only).

    Args:
        voxels: Completed voxels; their stamp becomes the message's.
        frame_id: Frame that they are placed in.
        limit: Cubes at most: those nearest to the camera.
        frame_from_grid: Pose of the grid in that frame; None where it is the optical frame of the image.

    Returns:
        visualization_msgs/Marker, CUBE_LIST (which replaces the last one), as opaque as each voxel is probable. Its
        ``text``, which RViz does not show for cubes, says if voxels were left out, and is empty otherwise. Where no
        voxel is occupied, it deletes the last one.
    """
    count = len(voxels)
    header = Header(stamp=stamp_message(voxels.stamp_ns), frame_id=frame_id)
    if not min(count, limit):
        return Marker(header=header, ns=MARKER_NAMESPACE, id=0, type=Marker.CUBE_LIST, action=Marker.DELETE)
    points = voxels.points_grid()
    nearest = np.arange(count)
    if count > limit:
        distance = np.linalg.norm(points - voxels.grid_from_camera.translation, axis=1)
        nearest = np.sort(np.argpartition(distance, limit - 1)[:limit])
    colours = voxel_colours(voxels.label[nearest], points[nearest, 2], voxels.class_colours) / 255.0
    alpha = voxels.probability[nearest].clip(0.0, 1.0)
    edge = voxels.grid.voxel_size
    return Marker(
        header=header,
        ns=MARKER_NAMESPACE,
        id=0,
        type=Marker.CUBE_LIST,
        action=Marker.ADD,
        pose=_pose_message(frame_from_grid or voxels.grid_from_camera.inverse()),
        scale=Vector3(x=edge, y=edge, z=edge),
        color=ColorRGBA(a=1.0),
        lifetime=Duration(),
        points=[Point(x=x, y=y, z=z) for x, y, z in points[nearest].astype(float).tolist()],
        colors=[ColorRGBA(r=r, g=g, b=b, a=a) for (r, g, b), a in zip(colours.tolist(), alpha.tolist(), strict=True)],
        text=f"the nearest {limit} of {count} voxels: the others exceed the limit" if count > limit else "",
    )


def _pose_message(pose: RigidTransform) -> Any:
    x, y, z = pose.translation.tolist()
    q_x, q_y, q_z, q_w = pose.quaternion.tolist()
    return Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=q_x, y=q_y, z=q_z, w=q_w))
