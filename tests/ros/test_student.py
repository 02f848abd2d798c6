"""When the model of a camera is built, when it is only moved, and when neither."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rclpy.logging import get_logger

from scene_completion_ros.geometry.grids import read_grid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.ros.frame import Student
from scene_completion_ros.ros.parameters import NodeParameters
from tests.ros.camera_to_voxels import CAMERA

PARAMETERS = NodeParameters(threads=1)


def test_built_once_and_moved_where_it_matters(bundle_folder: Path, grid_file: Path) -> None:
    grid, pose = read_grid(grid_file)
    student = Student(StudentBundle.load(bundle_folder), grid, get_logger("test"))

    def at(x: float) -> RigidTransform:
        return RigidTransform(np.eye(3), np.array([x, 0.0, 0.0])) @ pose

    first = student.get(CAMERA, at(0.0), PARAMETERS)
    assert student.get(CAMERA, at(0.04), PARAMETERS) is first
    moved = student.get(CAMERA, at(0.06), PARAMETERS)
    assert moved is not first
    assert moved.grid_from_camera.translation[0] == pytest.approx(0.06)
    assert moved.encoder is first.encoder
    assert student.get(CAMERA, at(0.1), PARAMETERS) is moved  # from where it is, not from where it was
    student.prepare(CAMERA, at(5.0), PARAMETERS)  # a guess, and worse than what is known
    assert student.get(CAMERA, at(0.06), PARAMETERS) is moved

    other = student.get(replace(CAMERA, fx=200.0), at(0.06), PARAMETERS)
    assert other is not moved and other.encoder is moved.encoder
    threaded = student.get(CAMERA, at(0.06), NodeParameters(threads=2))
    assert threaded is not None and threaded.encoder is not moved.encoder


def test_a_camera_that_stands_unlike_in_training_is_warned_of_once(bundle_folder: Path, grid_file: Path) -> None:
    grid, pose = read_grid(grid_file)
    warnings: list[str] = []

    def warn(text: str) -> None:
        if "above the ground" in text or "sees none of" in text:
            warnings.append(text)

    log = SimpleNamespace(warning=warn, info=lambda _: None)
    student = Student(StudentBundle.load(bundle_folder), grid, log)
    grid_file_pose = pose.translation[2]

    def placed(height: float) -> RigidTransform:
        return RigidTransform(np.eye(3), np.array([0.0, 0.0, height - grid_file_pose])) @ pose

    standing = NodeParameters(threads=1, base_frame="base")
    student.check_mounting(placed(0.5), standing)  # nothing was built yet
    assert student.get(CAMERA, pose, PARAMETERS) is not None
    student.check_mounting(None, PARAMETERS)  # its place is unknown
    assert warnings == []
    student.check_mounting(placed(0.5), standing)
    student.check_mounting(placed(0.6), standing)
    (warning,) = warnings
    assert "the camera stands 0.50 m above the ground, the student was trained at 1.65 m" in warning
    assert "a factor of 3.30" in warning
    assert student.model.warnings[-1] == warning
    corrected = NodeParameters(threads=1, camera_height=1.7)
    student.check_mounting(placed(1.7), corrected)
    assert len(warnings) == 1
    assert not any("above the ground" in text for text in student.model.warnings)
