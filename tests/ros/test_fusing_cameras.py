"""Several cameras whose successive images are joined: the cameras of one moment first, then with earlier moments."""
# ruff: noqa: E402

from __future__ import annotations

from pathlib import Path

from tests.ros.rclpy_required import require_rclpy

require_rclpy()

from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.mapping.camera_fusion import fuse_views
from scene_completion_ros.mapping.temporal_fusion import FusedFrame, TemporalFusion
from scene_completion_ros.ros.topics import NODE_NAME
from tests.ros.camera_to_voxels import SECOND_NS
from tests.ros.fusing_drive import SETTINGS, is_cloud_of
from tests.ros.moving_robot import MovingRobot, pose
from tests.ros.test_several_cameras import MILLISECOND_NS, Rig

ARGUMENTS = ("-p", "temporal_fusion:=true", "-p", "transform_source:=topics", "-p", "odometry_topics:=odometry")


def test_the_fused_grid_of_a_moment_is_joined_with_those_before(
    bundle_folder: Path, grid_file: Path, tmp_path: Path
) -> None:
    rig = Rig(bundle_folder, grid_file, tmp_path, *ARGUMENTS)
    try:
        robot = MovingRobot(rig.graph, "topics")
        rig.start()  # without odometry all is published too
        assert "not joined with earlier ones: transforms" in rig.node.log
        fusion = TemporalFusion(
            rig.grid, rig.view("front", 0).voxels.grid_from_camera, rig.bundle.threshold, SETTINGS, threads=1
        )

        def joined(stamp_ns: int, front: int, left: int, x: float) -> FusedFrame:
            views = [rig.view("front", front, stamp_ns), rig.view("left", left, stamp_ns)]
            voxels, probability = fuse_views(
                [view.voxels for view in views], [view.probability for view in views], rig.bundle.threshold
            )
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
            cloud = rig.answer(stamp_ns)
            assert is_cloud_of(cloud, fused.voxels, RigidTransform.identity()), rig.node.log
            alone = rig.fused(front=number, left=10 + number)
            assert is_cloud_of(cloud, alone, RigidTransform.identity()) == (number == 1)
        assert rig.node.end() == 0
        assert "Traceback" not in rig.node.log
    finally:
        rig.close()
