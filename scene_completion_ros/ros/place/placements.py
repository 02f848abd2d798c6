"""Where the voxels of an image lie: the camera in the grid, the grid in what is published, the grid in the map."""

import math
import re
from dataclasses import replace

import numpy as np

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.geometry.extrinsics import rotation_of_angles
from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD, RigidTransform
from scene_completion_ros.ros.frame import Frame, NotYetError, Placement
from scene_completion_ros.ros.parameters.schema import NodeParameters, names_in
from scene_completion_ros.ros.place.transform_source import (
    TransformSource,
    camera_by_parameters,
    fixed_transforms,
    source_kind,
)

_CAMERA_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


class Placements:
    """Places images by the parameters, or by a source of transforms.

    `source`: the source; None where the parameters `camera.x` to `camera.yaw` say all; `default`: pose of the camera's
    optical frame in a grid that is attached to it; `trained_height`: height above the ground of the cameras that the
    student was trained with, metres. A map that has no frame of the robot takes it where `camera.height` was not given.
    """

    def __init__(self, source: TransformSource | None, default: RigidTransform, trained_height: float) -> None:
        self._source, self._default, self._trained_height = source, default, trained_height

    def expected(self, parameters: NodeParameters) -> RigidTransform:
        """Pose of the camera in the grid before any image came: right, unless a source of transforms says otherwise."""
        known = parameters.grid_frame and self._source_for(parameters) is None
        return camera_pose(parameters) if known else self._default

    def place(self, frame_id: str, stamp_ns: int, parameters: NodeParameters) -> Placement:
        """Where an image's voxels lie, by its parameters. Raises NotYetError where a transform for that is missing."""
        placement = self._place(frame_id, stamp_ns, parameters)
        scaled = parameters.scale_wait and parameters.scale_from != "off"
        if not (scaled or parameters.fusion_enabled):
            return placement
        try:
            return replace(placement, odometry_from_grid=self.in_odometry(frame_id, stamp_ns, parameters))
        except NotYetError as error:
            return replace(placement, odometry_from_grid=error.with_traceback(None))

    def _source_for(self, parameters: NodeParameters) -> TransformSource | None:
        """What says where the camera is; None where that is `camera.x` to `camera.yaw`."""
        return None if camera_by_parameters(parameters) else self._source

    def in_odometry(self, frame_id: str, stamp_ns: int, parameters: NodeParameters) -> RigidTransform:
        """The grid's pose in the odometry frame at an image's stamp. Raises NotYetError if a transform is missing."""
        odometry, grid_frame = parameters.odometry_frame, parameters.grid_frame
        if odometry == grid_frame:
            return RigidTransform.identity()
        if self._source is None:
            raise NotYetError(f"nothing says where the voxel grid is in {odometry!r}", may_come=False)
        found = self._source.lookup(odometry, grid_frame or frame_id, stamp_ns, _tolerance_ns(parameters))
        return found if grid_frame else found @ self._default.inverse()

    def camera_from_sensor(self, frame: Frame, sensor: str) -> RigidTransform:
        """Pose of a sensor's frame in that of a camera, when it took an image. Raises NotYetError if it is missing."""
        if sensor.strip("/") == frame.frame_id:
            return RigidTransform.identity()
        if self._source is None:
            cure = "Name an extrinsics_file or transform.topics, or have tf2 installed"
            raise NotYetError(f"nothing says where {sensor!r} is in {frame.frame_id!r}", cure=cure, may_come=False)
        return self._source.lookup(frame.frame_id, sensor, frame.stamp_ns, _tolerance_ns(frame.parameters))

    def _place(self, frame_id: str, stamp_ns: int, parameters: NodeParameters) -> Placement:
        base, grid_frame = parameters.base_frame, parameters.grid_frame
        if not grid_frame:
            return self._place_with_camera(frame_id, stamp_ns, parameters)
        identity = RigidTransform.identity()
        source = self._source_for(parameters)
        if source is None:
            return Placement(grid_frame, camera_pose(parameters), identity, grid_frame, identity)
        tolerance_ns = _tolerance_ns(parameters)
        grid_from_camera = source.lookup(grid_frame, frame_id, stamp_ns, tolerance_ns)
        map_from_grid = identity
        if base and base != grid_frame:
            map_from_grid = source.lookup(base, grid_frame, stamp_ns, tolerance_ns)
        return Placement(grid_frame, grid_from_camera, identity, base or grid_frame, map_from_grid)

    def _place_with_camera(self, frame_id: str, stamp_ns: int, parameters: NodeParameters) -> Placement:
        camera_from_grid = self._default.inverse()
        base, source = parameters.base_frame, self._source_for(parameters)
        if base:
            if source is None:
                map_from_camera = camera_pose(parameters)
            else:
                map_from_camera = source.lookup(base, frame_id, stamp_ns, _tolerance_ns(parameters))
            return Placement(frame_id, self._default, camera_from_grid, base, map_from_camera @ camera_from_grid)
        assumed = None if parameters.camera_height else self._trained_height
        map_from_camera = camera_pose(parameters if assumed is None else replace(parameters, camera_height=assumed))
        return Placement(
            frame_id,
            self._default,
            camera_from_grid,
            frame_id,
            map_from_camera @ camera_from_grid,
            map_from_camera.inverse(),
            assumed_height=assumed,
        )


def _tolerance_ns(parameters: NodeParameters) -> int:
    return round(1e9 * parameters.transform_tolerance)


def check_frames(parameters: NodeParameters) -> None:
    """Raise SceneCompletionError, which names them, where the parameters about frames do not fit each other."""
    kind = source_kind(parameters)
    _check_odometry(parameters)
    cameras = names_in(parameters.cameras)
    _check_cameras(cameras, parameters.grid_frame)
    fixed = bool(parameters.extrinsics_file)  # which holds at least one
    if kind == "topics" and not (fixed or parameters.transform_topics or parameters.odometry_topics):
        raise SceneCompletionError(
            "transform.source is topics, but no topic is named",
            where="parameters transform.source, transform.topics, odometry.topics",
            cure="Name topics, or an extrinsics_file",
        )
    if kind != "parameters" or fixed:
        return
    if cameras:
        what = "camera.x to camera.yaw are those of one camera"
        cure = "Name an extrinsics_file, or let topics or tf2 say where the cameras are"
        raise SceneCompletionError(what, where="parameters cameras, transform.source", cure=cure)
    if parameters.base_frame and parameters.grid_frame and parameters.base_frame != parameters.grid_frame:
        raise SceneCompletionError(
            f"camera.x to camera.yaw say where the camera is in {parameters.base_frame}, not in "
            f"{parameters.grid_frame}",
            where="parameters base_frame, grid.frame",
            cure="Take one frame for both, or let an extrinsics_file, topics or tf2 say where the camera is",
        )
    frame = parameters.grid_frame or parameters.base_frame
    if frame and not parameters.camera_height:
        names = "grid.frame" if parameters.grid_frame else "base_frame"
        raise SceneCompletionError(
            f"nothing says where the camera is in {frame}",
            where=f"parameters {names}, camera.height, transform.source",
            cure="Give its place by camera.height and camera.x to camera.yaw, or name an extrinsics_file, "
            "transform.topics or odometry.topics, or have a ROS 2 distribution sourced, so that tf2 can say it",
        )


def _check_cameras(names: tuple[str, ...], grid_frame: str) -> None:
    wrong = [name for name in names if not _CAMERA_NAME.fullmatch(name)]
    if wrong or len(set(names)) < len(names):
        what = f"{', '.join(map(repr, wrong or names))} cannot be names of cameras"
        cure = "Give each a name of its own, of letters, digits and _, such as: front, left"
        raise SceneCompletionError(what, where="parameter cameras", cure=cure)
    if names and not grid_frame:
        what = "several cameras share one grid, which must be attached to a frame"
        cure = "Name the frame of the robot, such as base_link, in grid.frame"
        raise SceneCompletionError(what, where="parameters cameras, grid.frame", cure=cure)


def camera_pose(parameters: NodeParameters) -> RigidTransform:
    """Pose of the camera's optical frame in the upright frame of the map, by the parameters `camera.x` to `camera.yaw`.

    That is `base_frame`, or where it is empty `grid.frame`. Without both it is the frame on the ground below the camera
    that looks where the camera looks: place and heading then say nothing.
    """
    roll, pitch, yaw = (
        math.radians(angle) for angle in (parameters.camera_roll, parameters.camera_pitch, parameters.camera_yaw)
    )
    x, y = parameters.camera_x, parameters.camera_y
    if not (parameters.base_frame or parameters.grid_frame):
        x = y = yaw = 0.0
    forward = RigidTransform(rotation_of_angles(roll, pitch, yaw), np.array([x, y, parameters.camera_height]))
    return forward @ OPTICAL_FROM_FORWARD.inverse()


def _check_odometry(parameters: NodeParameters) -> None:
    """Find out whether something can say where the grid is in the odometry frame, for `fusion.enabled`.

    Raises SceneCompletionError where nothing can: says what to name; TransformError where the file of fixed transforms
    is malformed.
    """
    odometry = parameters.odometry_frame
    if not parameters.fusion_enabled or (odometry and odometry == parameters.grid_frame):
        return
    if not odometry:
        what = "fusion.enabled has no frame to join images in"
        cure = "Name the frame in which the robot moves without jumps, such as odom"
        raise SceneCompletionError(what, where="parameters fusion.enabled, odometry.frame", cure=cure)
    kind = source_kind(parameters)
    if kind == "tf2" or (kind == "topics" and names_in(f"{parameters.transform_topics},{parameters.odometry_topics}")):
        return
    fixed = fixed_transforms(parameters)
    known = {name.strip("/") for extrinsic in fixed for name in (extrinsic.parent, extrinsic.child)}
    if odometry not in known:
        says = f"extrinsics_file knows {', '.join(sorted(known))} only" if known else "there is no source of transforms"
        raise SceneCompletionError(
            f"nothing says where the voxel grid is in {odometry!r}: {says}",
            where="parameters fusion.enabled, transform.source",
            cure="Set transform.source to topics and name odometry.topics or transform.topics, or set it to tf2. For a "
            f"camera that never moves, give its place in {odometry} in an extrinsics_file",
        )
