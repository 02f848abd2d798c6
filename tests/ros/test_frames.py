"""Voxels in the frame of a robot, at the stamp of the image: the running node, and robots that drive, stop and loop."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Quaternion, TransformStamped
from nav_msgs.msg import OccupancyGrid, Odometry
from rosgraph_msgs.msg import Clock

from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD, RigidTransform, rotation_of_angles
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.mapping.ground_map import GroundProjection
from scene_completion_ros.ros import messages
from scene_completion_ros.ros.parameters import NodeParameters
from scene_completion_ros.ros.placements import camera_pose
from scene_completion_ros.ros.topics import NODE_NAME
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels
from tests.ros.camera_to_voxels import CAMERA, FRAME, PATIENT_S, SECOND_NS, CameraToVoxels, is_cloud_of, some_image
from tests.ros.graph import LATCHED, TF2, Graph, NodeUnderTest, as_arguments

Start = Callable[..., Any]
ODOM, BASE = "odom", "base_link"
MOUNT = RigidTransform(rotation_of_angles(0.0, 0.05, 0.02), np.array([0.3, -0.1, 0.4])) @ OPTICAL_FROM_FORWARD.inverse()
TENTH_NS = SECOND_NS // 10
ARGUMENTS = {"topics": ("-p", "odometry.topics:=odometry, mount_odometry"), "tf2": ()}
SOURCES = ["topics", pytest.param("tf2", marks=pytest.mark.skipif(not TF2, reason="tf2_ros is not installed"))]


def pose(x: float, yaw: float = 0.0) -> RigidTransform:
    """Pose of the base in the odometry frame: metres forward, radians to the left."""
    return RigidTransform(rotation_of_angles(0.0, 0.0, yaw), np.array([x, 0.0, 0.0]))


def transform_message(parent: str, child: str, parent_from_child: RigidTransform, stamp_ns: int = 0) -> Any:
    """A geometry_msgs/TransformStamped."""
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id, message.header.stamp = parent, messages.stamp_message(stamp_ns)
    translation, rotation = message.transform.translation, message.transform.rotation
    translation.x, translation.y, translation.z = parent_from_child.translation.tolist()
    rotation.x, rotation.y, rotation.z, rotation.w = parent_from_child.quaternion.tolist()
    return message


def assert_same(message: Any, model: Completer, seed: int, grid_from_camera: RigidTransform) -> SemanticVoxels:
    """That a cloud holds what a model makes of an image taken somewhere in the grid, in the grid's own frame."""
    voxels = model.placed(grid_from_camera).complete(some_image(seed)).voxels
    assert len(voxels) > 50  # or the comparison shows nothing
    assert is_cloud_of(message, voxels, RigidTransform.identity())
    return voxels


class Drive(CameraToVoxels):
    """A robot that drives, and a node that completes its images in the frame of its odometry.

    Where its base is, and how its camera is mounted, is published for a source: "topics" or "tf2".
    """

    def __init__(self, start: Callable[[Graph], NodeUnderTest], source: str) -> None:
        super().__init__(start)
        create = self.graph.node.create_publisher
        self._tf_message: Any = None
        if source == "tf2":
            from tf2_msgs.msg import TFMessage

            self._tf_message = TFMessage
            self.moving, self._fixed = create(TFMessage, "/tf", 100), create(TFMessage, "/tf_static", LATCHED)
        else:
            self.moving, self._fixed = create(Odometry, "odometry", 100), create(Odometry, "mount_odometry", 100)
        self.maps = self.graph.collect(OccupancyGrid, f"{self.output}/occupancy_grid", LATCHED)
        self.send_camera(messages.camera_info_message(CAMERA, 0, FRAME), "ready for 320x96")

    def say_mount(self) -> None:
        """Publish on tf how the camera is mounted, once and latched; topics say it with each pose."""
        if self._tf_message:
            self._fixed.publish(self._tf_message(transforms=[transform_message(BASE, FRAME, MOUNT)]))

    def say_pose(self, stamp_ns: int, odom_from_base: RigidTransform) -> None:
        """Publish where the base is."""
        if self._tf_message:
            stamped = transform_message(ODOM, BASE, odom_from_base, stamp_ns)
            self.moving.publish(self._tf_message(transforms=[stamped]))
        else:
            self._fixed.publish(messages.odometry_message(MOUNT, stamp_ns, BASE, FRAME))
            self.moving.publish(messages.odometry_message(odom_from_base, stamp_ns, ODOM, BASE))


@pytest.mark.parametrize("source", SOURCES)
def test_a_robot_that_drives(source: str, start: Start, completer: Callable[..., Completer]) -> None:
    model = completer(CAMERA)
    given = {"grid.frame": ODOM, "base_frame": BASE, "sync.timeout": 0.2}
    drive = start(*ARGUMENTS[source], *as_arguments(given), kind=Drive, source=source)
    # Nothing says yet where the camera is: nothing is published in a wrong place, and it is said why.
    drive.until_logged("no transform, 1 so far", lambda: drive.images.publish(drive.image(0, 0)))
    assert f"no transform from '{FRAME}' to '{ODOM}'" in drive.node.log or source == "tf2"
    assert not drive.voxels

    # Poses are interpolated at the stamp of the image.
    drive.say_mount()
    start_ns = 100 * SECOND_NS

    def say_all() -> None:
        drive.say_pose(start_ns, pose(0.0))
        drive.say_pose(start_ns + TENTH_NS, pose(0.4, 0.1))
        drive.images.publish(drive.image(1, start_ns + TENTH_NS // 4))

    assert drive.graph.repeat(say_all, lambda: bool(drive.voxels)), drive.node.log
    first = drive.voxels[0]
    assert first.header.frame_id == ODOM
    assert messages.stamp_nanoseconds(first.header.stamp) == start_ns + TENTH_NS // 4
    assert_same(first, model, 1, pose(0.1, 0.025) @ MOUNT)

    # A transform that comes after its image is waited for; the map is in another frame, at the same stamp.
    later_ns = start_ns + 2 * TENTH_NS
    drive.wait_for(PATIENT_S)
    drive.receive(drive.image(2, later_ns))
    assert later_ns not in drive.stamps_ns
    drive.say_pose(later_ns, pose(0.8, 0.2))
    voxels = assert_same(drive.stamped(drive.voxels, later_ns), model, 2, pose(0.8, 0.2) @ MOUNT)
    ground = drive.stamped(drive.maps, later_ns)
    assert ground.header.frame_id == BASE
    wanted = GroundProjection(model.grid, pose(0.8, 0.2).inverse(), 0.3, 2.0)(voxels, ignored=[])
    np.testing.assert_array_equal(np.reshape(ground.data, wanted.cells.shape), wanted.cells)
    assert (wanted.cells == 100).any()

    # What is no transform is left out and counted; those before it still hold.
    bad = 0
    if source == "topics":  # tf2 only logs such
        said = pose(0.8, 0.2), start_ns + 2 * TENTH_NS, ODOM, BASE
        nowhere, unturned = messages.odometry_message(*said), messages.odometry_message(*said)
        nowhere.pose.pose.position.x = math.nan
        unturned.pose.pose.orientation = Quaternion(x=0.0, y=0.0, z=0.0, w=0.0)  # of length 0
        for spoilt in (nowhere, unturned):
            drive.moving.publish(spoilt)
            bad += 1
        drive.images.publish(drive.image(7, later_ns + 1_000_000))
        drive.say_pose(later_ns + 2_000_000, pose(0.8, 0.2))
        assert_same(drive.stamped(drive.voxels, later_ns + 1_000_000), model, 7, pose(0.8, 0.2) @ MOUNT)

    # What never comes costs the image, and no more than that: one of an unknown frame, one in a gap of a second.
    lost_ns, next_ns = start_ns + 3 * TENTH_NS, start_ns + 13 * TENTH_NS
    drive.wait_for(0.2)
    drive.images.publish(drive.image(3, lost_ns - 1, "unknown_optical"))
    if source == "topics":  # tf2 interpolates over any gap
        drive.images.publish(drive.image(3, lost_ns))
    drive.say_pose(next_ns, pose(0.9, 0.2))
    drive.answer(drive.image(4, next_ns))
    assert not {lost_ns - 1, lost_ns} & set(drive.stamps_ns)

    # The recording begins anew, and the robot goes another way: what it did before is forgotten.
    again_ns = start_ns + TENTH_NS // 2
    heard = len(drive.voxels)
    drive.wait_for(PATIENT_S)
    drive.images.publish(drive.image(5, start_ns - 2 * SECOND_NS))
    drive.until_logged("stamps jumped back")
    drive.say_pose(again_ns, pose(-0.2))
    drive.images.publish(drive.image(6, again_ns))
    assert drive.graph.until(lambda: again_ns in drive.stamps_ns[heard:]), drive.node.log
    assert drive.stamps_ns[heard:] == [again_ns]
    assert_same(drive.voxels[-1], model, 6, pose(-0.2) @ MOUNT)
    dropped = drive.node.end_with_all_counted("bad transform")
    assert dropped.pop("bad transform", 0) == bad
    assert dropped["no transform"] > 0
    assert dropped.keys() <= {"no transform", "newer image arrived", "waited while time went back"}
    assert ("odometry: odom -> base_link: not finite" in drive.node.log) == bool(bad)


@pytest.fixture(scope="module")
def mounted(start_once: Start) -> CameraToVoxels:
    """A node whose parameters say where its camera is on the robot, in simulated time."""
    given = {"grid.frame": BASE, "camera.height": 0.5, "camera.pitch": 4.0, "use_sim_time": "true"}
    mounted: CameraToVoxels = start_once(*as_arguments(given))
    mounted.start()
    return mounted


def test_a_camera_at_a_fixed_place_needs_no_transforms(
    mounted: CameraToVoxels, completer: Callable[..., Completer]
) -> None:
    model, given = completer(CAMERA), {"grid_frame": BASE, "camera_pitch": 4.0}
    message = mounted.answer(mounted.image(1, SECOND_NS))
    assert message.header.frame_id == BASE
    assert_same(message, model, 1, camera_pose(NodeParameters(**given, camera_height=0.5)))

    # Moved by more than the tolerance, it is prepared anew.
    assert mounted.graph.set_parameters(NODE_NAME, camera_height=0.9).successful
    moved = mounted.answer(mounted.image(1, 3 * SECOND_NS))
    assert_same(moved, model, 1, camera_pose(NodeParameters(**given, camera_height=0.9)))
    assert mounted.node.log.count("ready for") == 1  # the encoder was not built again

    refused = mounted.graph.set_parameters(NODE_NAME, base_frame="base_footprint")
    assert not refused.successful
    assert "camera.height and camera.pitch place the camera in base_footprint, not in base_link" in refused.reason


def test_a_clock_that_jumps_back_makes_older_stamps_count_again(mounted: CameraToVoxels) -> None:
    clock = mounted.graph.node.create_publisher(Clock, "/clock", 10)
    mounted.answer(mounted.image(2, 50 * SECOND_NS))
    mounted.until_logged(
        "stamp went back, 1 so far", lambda: mounted.images.publish(mounted.image(2, 50 * SECOND_NS - TENTH_NS))
    )

    times = itertools.cycle([Time(sec=50), Time(sec=49, nanosec=900_000_000)])
    mounted.until_logged("the clock jumped back", lambda: clock.publish(Clock(clock=next(times))))
    again = mounted.answer(mounted.image(2, 50 * SECOND_NS - 2 * TENTH_NS))
    assert messages.stamp_nanoseconds(again.header.stamp) == 50 * SECOND_NS - 2 * TENTH_NS
