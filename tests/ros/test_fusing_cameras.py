"""Several cameras whose successive images are joined: the cameras of one moment first, then with earlier moments."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.mapping.temporal_fusion import FusedFrame, TemporalFusion
from scene_completion_ros.ros.topics import NODE_NAME
from tests.ros.camera_to_voxels import SECOND_NS, is_cloud_of
from tests.ros.moving_robot import SETTINGS, MovingRobot, pose
from tests.ros.test_several_cameras import MILLISECOND_NS, start_rig

ARGUMENTS = ("-p", "fusion.enabled:=true", "-p", "transform.source:=topics", "-p", "odometry.topics:=odometry")


def test_the_fused_grid_of_a_moment_is_joined_with_those_before(
    start: Callable[..., Any], completer: Callable[..., Completer], tmp_path: Path
) -> None:
    rig = start_rig(start, completer, tmp_path, *ARGUMENTS)  # without odometry all is published too
    robot = MovingRobot(rig.graph, "topics")
    assert "not joined with earlier ones: transforms" in rig.node.log
    # What is sent before the node listens as reliably as this is offered may be lost.
    rig.until_logged("odometry: subscribed as its publishers offer it: reliable")
    assert rig.graph.repeat(lambda: None, lambda: robot.publishers[0].get_subscription_count() == 1), rig.node.log
    fusion = TemporalFusion(rig.grid, rig.completers["front"].grid_from_camera, rig.threshold, SETTINGS, threads=1)

    def joined(stamp_ns: int, front: int, left: int, x: float) -> FusedFrame:
        voxels, probability = rig.joined([rig.view("front", front, stamp_ns), rig.view("left", left, stamp_ns)])
        return fusion.fuse(voxels, probability, pose(x))  # the grid is attached to the base

    assert rig.graph.set_parameters(NODE_NAME, transform_timeout=10.0).successful
    start_ns, later_ns = 20 * SECOND_NS, 5 * MILLISECOND_NS
    robot.say_pose(start_ns - SECOND_NS // 10, pose(-0.4))
    for number in range(1, 4):
        stamp_ns, x = start_ns + number * SECOND_NS // 10, 0.4 * number
        # The left camera is later, and the robot has driven on: the pose is that of the older image.
        robot.say_pose(stamp_ns, pose(x))
        robot.say_pose(stamp_ns + later_ns, pose(x + 0.2))
        rig.send("left", 10 + number, stamp_ns + later_ns)
        rig.send("front", number, stamp_ns)
        fused = joined(stamp_ns, number, 10 + number, x)
        cloud = rig.answered(stamp_ns)
        assert is_cloud_of(cloud, fused.voxels, RigidTransform.identity()), rig.node.log
        alone = rig.fused(front=number, left=10 + number)
        assert is_cloud_of(cloud, alone, RigidTransform.identity()) == (number == 1)
    rig.node.end_well()
