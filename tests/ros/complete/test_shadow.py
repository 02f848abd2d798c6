"""A second student behind the deployed one: who was right on a drive, and that it harms nobody."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from rclpy.logging import get_logger

from scene_completion_ros.bags.demo_drive import DEMO_DRIVE
from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.evaluation.student_comparison import ComparedFrame, StudentComparison
from scene_completion_ros.geometry.grids import read_grid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.phrase_query import Words
from scene_completion_ros.ros.complete.shadow import Shadow
from scene_completion_ros.ros.frame import Epoch, Frame, Placement, Scene, Selection
from scene_completion_ros.ros.messages import image_message
from scene_completion_ros.ros.parameters.schema import NodeParameters
from scene_completion_ros.ros.replay.bag_replay import replay_over_dds
from scene_completion_ros.ros.replay.results import Playback, ReplayStatistics
from scene_completion_ros.ros.student import Student
from tests.inference.small_bundle import PLAIN_STUDENT, make_small_bundle
from tests.ros.camera_to_voxels import CAMERA, some_image

IMAGES = "/camera/image_raw/compressed"
FRAMES = 40
MOUNT = """\
- {parent: base_link, child: camera_left_optical, translation: [0.0, 0.27, 1.65], angles: [0, 0, 0], optical: true}
"""


@pytest.fixture(scope="module")
def worse(tmp_path_factory: pytest.TempPathFactory) -> StudentBundle:
    """The shipped student, that finds matter where there is none: its density is too large everywhere."""
    student = StudentBundle.load(PLAIN_STUDENT)
    head = dataclasses.replace(student.head, density_bias=student.head.density_bias + np.float32(0.4))
    folder = tmp_path_factory.mktemp("worse") / "bundle"
    return dataclasses.replace(student, head=head, gpu_encoders={}).save(folder, student.read_encoder())


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> StudentBundle:
    return make_small_bundle(tmp_path_factory.mktemp("second") / "bundle", seed=1, classes=3, threshold=0.2)


def driven(tmp_path: Path, first: Path, second: Path, **further: object) -> ReplayStatistics:
    """What is said of two students after the shipped drive of 31 m, with the odometry that was recorded."""
    grid, mount = tmp_path / "grid.yaml", tmp_path / "mount.yaml"
    grid.write_text(
        "origin: [0.0, -6.4, -2.2]\nvoxel_size: 0.2\nshape: [64, 64, 16]\n"
        "grid_from_camera: [0, 0, 1, 0, -1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 0, 1]\n",
        encoding="utf-8",
    )
    mount.write_text(MOUNT, encoding="utf-8")
    parameters: dict[str, object] = {"bundle": str(first), "shadow.bundle": str(second), "shadow.every": 1}
    parameters |= {"grid.file": str(grid), "threads": 1, "engine": "openvino"}
    parameters |= {"transform.source": "topics", "odometry.topics": "/odom", "odometry.frame": "map"}
    parameters |= {"extrinsics_file": str(mount), **further}
    with BagReader(DEMO_DRIVE) as reader:
        playback = Playback(also=("/odom",))
        return replay_over_dds(reader, IMAGES, playback=playback, node_parameters=parameters)


def test_a_student_that_was_made_worse_is_told_so_whichever_is_deployed(tmp_path: Path, worse: StudentBundle) -> None:
    assert worse.folder is not None
    for first, second, better in (
        (PLAIN_STUDENT, worse.folder, "deployed student"),
        (worse.folder, PLAIN_STUDENT, "shadow"),
    ):
        statistics = driven(tmp_path, first, second)
        shadow = statistics.shadow
        assert statistics.frames_out == FRAMES  # nothing is lost
        assert f"the {better} is better" in shadow["outcome"], shadow
        assert int(shadow["images judged by later ones"]) >= 10
        assert int(shadow["voxels judged"]) > 10_000
        low, high = (float(part) for part in shadow["iou: gain of the shadow"].split(" with")[0].split(" to "))
        assert (high < 0.0) if better == "deployed student" else (low > 0.0)
        assert 0.8 < float(shadow["occupied voxels alike"].split()[0]) < 1.0


@pytest.mark.parametrize("deployed", [0, 1])
def test_answers_stay_with_the_student_whichever_is_deployed(
    deployed: int, bundle_folder: Path, grid_file: Path, second: StudentBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores are those of a student, not of a role."""
    grid, pose = read_grid(grid_file)
    parameters = NodeParameters(threads=1, shadow_every=2)
    bundles = StudentBundle.load(bundle_folder), second
    students = [Student(one, grid, get_logger("test")) for one in bundles]
    models = [student.get("", CAMERA, pose, parameters) for student in students]
    frames: list[ComparedFrame] = []
    monkeypatch.setattr(StudentComparison, "add", lambda _, frame: frames.append(frame))
    shadow = Shadow(grid, get_logger("test"))
    shadow.follow_with(students[0], students[1])
    assert [shadow.wants(parameters) for _ in range(4)] == [False, True, False, True]
    published = Frame("", "image", image_message(some_image(1), 7, "front"), 7, 0.0, parameters)
    identity = RigidTransform.identity()
    published.placement = Placement("front", pose, identity, "front", identity, odometry_from_grid=pose)
    published.completion = models[deployed].complete(some_image(1))
    scene = Scene((published,), parameters, Selection(students[deployed], Words()), Epoch(0, 0))
    shadow.follow(scene)
    shadow._comparing.shutdown()
    (frame,) = frames
    assert frame.odometry_from_grid is pose
    for answer, one in zip(frame.answers, models, strict=True):
        expected = one.complete(some_image(1))
        np.testing.assert_array_equal(answer.probability, expected.probability.reshape(-1)[frame.voxels])
        np.testing.assert_array_equal(answer.depth, expected.shown_depth)
    assert (shadow.record.report.completed, shadow.record.report.skipped) == (1, 0)
    with students[1 - deployed].lock:  # somebody makes its models anew
        shadow.follow(scene)
    assert shadow.record.report.why_skipped == "the student was being prepared"
