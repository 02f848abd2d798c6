"""What planners get from the running node, over DDS, compared with the voxels that come with it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nav_msgs.msg import OccupancyGrid
from numpy.typing import NDArray
from sensor_msgs.msg import Image, PointCloud2

from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.mapping.clearing import ClearingRays, seen_free_cubes
from scene_completion_ros.ros import messages, topics
from tests.ros.camera_to_voxels import CAMERA, FRAME, SECOND_NS, CameraToVoxels, some_image
from tests.ros.graph import TF2, Graph, NodeUnderTest, as_arguments
from tests.voxels.samples import bytes_to_state_and_label

HEIGHT = 1.5
BASE = "base_link"
LOWEST, HIGHEST = 0.3, 2.0


class Planner(CameraToVoxels):
    """Hears all that planners may, from a node whose camera stands somewhere on a vehicle."""

    def __init__(self, start: Callable[[Graph], NodeUnderTest], student: StudentBundle) -> None:
        super().__init__(start)
        self.ignored, self.trained_height = student.class_names[1], student.height_above_ground
        self.heard: dict[str, list[Any]] = {}
        for topic, message_type in (
            (topics.VOXEL_GRID, Image),
            (topics.OCCUPANCY_GRID, OccupancyGrid),
            (topics.OBSTACLES, PointCloud2),
            (topics.CLEARING, PointCloud2),
            (topics.FREE_SPACE, PointCloud2),
        ):
            self.heard[topic] = self.graph.collect(message_type, topic.replace("~", self.output))

    def answers(self, image: NDArray[np.uint8], stamp_s: int) -> dict[str, Any]:
        """What becomes of an image, by topic."""
        self.answer(self.make_image(image, stamp_s * SECOND_NS, FRAME), *self.heard.values())
        return {topic: self.stamped(heard, stamp_s * SECOND_NS) for topic, heard in self.heard.items()}


@pytest.fixture(scope="module")
def planner(start_once: Callable[..., Any], bundle_folder: Path) -> Planner:
    student = StudentBundle.load(bundle_folder)
    given = {"base_frame": BASE, "camera.height": HEIGHT, "obstacle.ignored_classes": student.class_names[1]}
    planner: Planner = start_once(*as_arguments(given), kind=Planner, student=student)
    planner.start()
    return planner


def points_of(cloud: Any) -> NDArray[np.float32]:
    assert [(field.name, field.offset) for field in cloud.fields] == [("x", 0), ("y", 4), ("z", 8)]
    return np.frombuffer(bytes(cloud.data), np.float32).reshape(-1, 3)


def occupied_cells(ground: Any) -> set[tuple[int, int]]:
    cells = np.array(ground.data, np.int8).reshape(ground.info.height, ground.info.width)
    return {(int(row), int(column)) for row, column in np.argwhere(cells == 100)}


def cells_under(points: NDArray[np.float64], ground: Any, corner: NDArray[np.float64]) -> set[tuple[int, int]]:
    """Cells (row along y, column along x) that points [N, 3] of the map's upright frame lie over, within the band."""
    within = points[(points[:, 2] >= LOWEST - 1e-6) & (points[:, 2] <= HIGHEST + 1e-6)]
    places = np.floor((within[:, :2] - corner[:2]) / ground.info.resolution).astype(int)
    return {(int(row), int(column)) for column, row in places}


def test_all_outputs_are_those_of_the_voxels(planner: Planner, completer: Callable[..., Completer]) -> None:
    image = some_image(1)
    found = planner.answers(image, 20)
    completion = completer(CAMERA).complete(image)
    voxels = completion.voxels
    assert {message.header.frame_id for topic, message in found.items() if topic != topics.OCCUPANCY_GRID} == {FRAME}

    state, label = bytes_to_state_and_label(np.frombuffer(bytes(found[topics.VOXEL_GRID].data), np.uint8))
    np.testing.assert_array_equal(state.reshape(voxels.grid.shape), voxels.state)
    np.testing.assert_array_equal(label.reshape(voxels.grid.shape)[tuple(voxels.index.T)], voxels.label)

    wanted = voxels.points_camera()[voxels.label != voxels.class_names.index(planner.ignored)]
    assert 0 < len(wanted) < len(voxels)
    obstacles = points_of(found[topics.OBSTACLES])
    np.testing.assert_allclose(obstacles, wanted, atol=1e-5)

    # By hand: x of the base is z of the camera, y its negative x, z its negative y.
    ground = found[topics.OCCUPANCY_GRID]
    corner = np.array([ground.info.origin.position.x, ground.info.origin.position.y])
    assert ground.header.frame_id == BASE
    assert ground.info.origin.orientation.w == 1.0
    np.testing.assert_allclose(corner, [1.0, -3.2], atol=1e-6)
    in_base = np.stack([obstacles[:, 2], -obstacles[:, 0], HEIGHT - obstacles[:, 1]], axis=1)
    cells = cells_under(in_base.astype(np.float64), ground, corner)
    assert cells and occupied_cells(ground) == cells

    rays = ClearingRays(voxels.grid, voxels.grid_from_camera, completion.depth_camera, threads=None)
    ends = rays(voxels)
    assert len(ends) > 100
    np.testing.assert_allclose(points_of(found[topics.CLEARING]), ends, atol=1e-5)
    np.testing.assert_allclose(points_of(found[topics.FREE_SPACE]), seen_free_cubes(voxels, 2), atol=1e-5)


def test_changes_are_checked_and_take_effect(planner: Planner) -> None:
    graph = planner.graph
    refused = graph.set_parameters(topics.NODE_NAME, obstacle_min_height=2.5)
    assert not refused.successful and "2.5 m is above 2.0 m" in refused.reason
    refused = graph.set_parameters(topics.NODE_NAME, obstacle_ignored_classes="dragon")
    assert not refused.successful and "'dragon'" in refused.reason and planner.ignored in refused.reason

    assert graph.set_parameters(topics.NODE_NAME, base_frame="", obstacle_ignored_classes="").successful
    found = planner.answers(some_image(1), 30)
    ground = found[topics.OCCUPANCY_GRID]
    assert ground.header.frame_id == FRAME
    position, turn = ground.info.origin.position, ground.info.origin.orientation
    pose = RigidTransform.from_quaternion([turn.x, turn.y, turn.z, turn.w], [position.x, position.y, position.z])
    obstacles = points_of(found[topics.OBSTACLES]).astype(np.float64)
    in_map = pose.inverse().apply(obstacles)  # the map's corner is its origin, its plane lies HEIGHT below the camera
    np.testing.assert_allclose(in_map[:, 2], HEIGHT - obstacles[:, 1], atol=1e-6)
    assert occupied_cells(ground) == cells_under(in_map, ground, np.zeros(2))

    # A height that is not known any more is that of the student's training, which is said.
    assert graph.set_parameters(topics.NODE_NAME, camera_height=0.0).successful
    ground = planner.answers(some_image(1), 35)[topics.OCCUPANCY_GRID]
    assert ground.info.origin.position.y == pytest.approx(planner.trained_height, abs=1e-6)
    assert f"lies {planner.trained_height:g} m below it" in planner.node.log
    placed = graph.set_parameters(topics.NODE_NAME, base_frame=BASE)
    assert placed.successful == TF2  # which could say where the camera is
    assert TF2 or "it is unknown where the camera is in base_link" in placed.reason
    assert graph.set_parameters(topics.NODE_NAME, base_frame="", camera_height=HEIGHT).successful

    # A band that no voxel lies in is said, and the other outputs go on.
    assert graph.set_parameters(topics.NODE_NAME, obstacle_min_height=40.0, obstacle_max_height=41.0).successful
    message = messages.image_message(some_image(1), 40 * SECOND_NS, FRAME)
    planner.answer(message)
    planner.until_logged("~/occupancy_grid is not published")
    assert "no voxel lies 40.0 to 41.0 m above the ground" in planner.node.log
    obstacles_heard = planner.heard[topics.OBSTACLES]
    assert graph.until(lambda: obstacles_heard[-1].header.stamp == message.header.stamp)
