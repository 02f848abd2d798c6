"""Keyframes by what moves in the image, and reconstructions of a street that is known exactly, with their scale."""

import dataclasses
import subprocess
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.geometry import RigidTransform
from scene_completion_training.extraction import structure_from_motion
from scene_completion_training.extraction.finishing import select_by_image_motion
from scene_completion_training.extraction.images_to_poses import scale_from_rig
from scene_completion_training.extraction.scale import ground_plane, scale_from_camera_height, scale_from_odometry
from scene_completion_training.extraction.structure_from_motion import Model, reconstruct
from tests.training.extraction.textured_street import CAMERA, HEIGHT_ABOVE_GROUND, aligned_error, drive, picture


def places(poses: dict[int, RigidTransform] | list[RigidTransform]) -> np.ndarray:
    return np.stack([pose.translation for pose in (poses.values() if isinstance(poses, dict) else poses)])


def test_one_camera_gives_the_path_but_for_its_scale(model: Model, driven: list[RigidTransform]) -> None:
    assert list(model.world_from_first) == list(range(len(driven)))
    error, scale = aligned_error(places(model.world_from_first), places(driven))
    assert error < 0.05
    assert abs(scale - 1.0) > 0.1  # nothing has told it the scale: the tests below are not about 1
    np.testing.assert_allclose(model.world_from_first[0].matrix, np.eye(4), atol=1e-12)
    turned = driven[0].rotation.T @ driven[9].rotation
    np.testing.assert_allclose(model.world_from_first[9].rotation, turned, atol=0.01)


def test_the_height_of_the_camera_gives_the_scale(model: Model, driven: list[RigidTransform]) -> None:
    _, truth = aligned_error(places(model.world_from_first), places(driven))
    scale = scale_from_camera_height(model, HEIGHT_ABOVE_GROUND)
    assert scale.source == "camera height" and "keyframes, spread" in scale.support
    assert scale.factor == pytest.approx(truth, rel=0.03)
    assert scale_from_camera_height(model, 2 * HEIGHT_ABOVE_GROUND).factor == pytest.approx(2 * scale.factor)
    np.testing.assert_allclose(
        places(model.scaled(scale.factor).world_from_first), scale.factor * places(model.world_from_first)
    )


def test_the_ground_is_found_among_walls_and_outliers() -> None:
    generator = np.random.default_rng(0)
    x, z = generator.uniform(-3, 3, 150), generator.uniform(3, 15, 150)
    ground = np.stack([x, 1.5 + 0.05 * z + generator.normal(0, 0.005, 150), z], axis=-1)  # tilted by 3 degrees
    wall = np.stack([np.full(400, 2.0), generator.uniform(-2, 1.5, 400), generator.uniform(1, 15, 400)], axis=-1)
    noise = generator.uniform([-5, -1, 1], [5, 3, 15], (60, 3))
    found = ground_plane(np.concatenate([ground, wall, noise]), generator)
    height, support = found
    assert height == pytest.approx(1.5 / np.hypot(1.0, 0.05), rel=0.02)
    assert 100 < support < 250


def test_odometry_gives_the_scale(model: Model, driven: list[RigidTransform]) -> None:
    _, truth = aligned_error(places(model.world_from_first), places(driven))
    stamps = {index: 100 * index for index in range(len(driven))}
    turned = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    scale = scale_from_odometry(
        model, stamps, lambda stamp: turned @ driven[stamp // 100].translation + [7.0, 8.0, 9.0]
    )
    assert scale.source == "odometry"
    assert scale.factor == pytest.approx(truth, rel=0.01)
    few = dataclasses.replace(model, world_from_first=dict(list(model.world_from_first.items())[:5]))
    short = scale_from_odometry(few, stamps, lambda stamp: driven[stamp // 100].translation)
    assert short.factor == pytest.approx(truth, rel=0.05)


def test_a_rig_of_two_cameras_is_metric_by_itself(driven: list[RigidTransform], tmp_path: Path) -> None:
    pytest.importorskip("pycolmap")
    poses = driven[:6]
    right = RigidTransform(np.eye(3), np.array([0.5, 0.0, 0.0]))
    images = {"left": [picture(CAMERA, p) for p in poses], "right": [picture(CAMERA, p @ right) for p in poses]}
    cameras = {"left": CAMERA, "right": CAMERA}
    found = reconstruct(images, cameras, {"left": RigidTransform.identity(), "right": right}, tmp_path)
    error, scale = aligned_error(places(found[0].world_from_first), places(poses))
    assert len(found[0].world_from_first) == len(poses)
    assert error < 0.03 and scale == pytest.approx(1.0, abs=0.02)
    stereo = scale_from_rig(found[0], [np.zeros(3), right.translation])
    assert stereo.source == "stereo" and stereo.support.startswith("baseline 0.500 m, ")
    blind = dataclasses.replace(found[0], shared=dict.fromkeys(found[0].shared, 3))  # they look to opposite sides
    assert not scale_from_rig(blind, [np.zeros(3), right.translation]).metric
    assert not scale_from_rig(found[0], [np.zeros(3), np.array([0.001, 0.0, 0.0])]).metric


def test_pictures_without_anything_give_no_model(tmp_path: Path) -> None:
    pytest.importorskip("pycolmap")
    blank = {"camera": [np.full((184, 320), 90, np.uint8)] * 6}
    assert reconstruct(blank, {"camera": CAMERA}, {"camera": RigidTransform.identity()}, tmp_path) == []


def test_a_mapper_that_dies_is_an_error_of_this_bag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driven: list[RigidTransform]
) -> None:
    def died(command: list[str], *, stdout: object, **rest: object) -> subprocess.CompletedProcess[bytes]:
        stdout.write(b"checks\nCheck failed: it broke\n")  # type: ignore[attr-defined]
        return subprocess.CompletedProcess(command, -6)

    monkeypatch.setattr(subprocess, "run", died)
    monkeypatch.setattr(structure_from_motion, "find_spec", lambda name: True)
    images = {"camera": [picture(CAMERA, driven[0])]}
    with pytest.raises(SequenceError, match="status -6: Check failed: it broke"):
        reconstruct(images, {"camera": CAMERA}, {"camera": RigidTransform.identity()}, tmp_path)
    monkeypatch.setattr(structure_from_motion, "find_spec", lambda name: None)
    with pytest.raises(SequenceError, match="needs pycolmap"):
        reconstruct(images, {"camera": CAMERA}, {"camera": RigidTransform.identity()}, tmp_path)


def test_models_keep_their_points_when_frames_are_taken_out(model: Model) -> None:
    poses = dict(list(model.world_from_first.items())[3:])
    part = dataclasses.replace(model, world_from_first=poses)
    assert scale_from_camera_height(part, 1.5).metric


def test_standing_frames_show_in_the_image() -> None:
    moving = drive(8)
    poses = [*moving[:4], *[moving[3]] * 6, *moving[4:]]
    noise = np.random.default_rng(0)
    images = [
        np.clip(picture(CAMERA, p).astype(int) + noise.integers(-3, 4, (CAMERA.height, CAMERA.width)), 0, 255)
        for p in poses
    ]
    chosen = select_by_image_motion(image.astype(np.uint8) for image in images)
    assert not set(chosen) & set(range(4, 10))
    assert {0, 10, 13} <= set(chosen)


def test_images_without_corners_do_not_stop_it() -> None:
    blank = [np.full((60, 80), 100, np.uint8)] * 5
    assert select_by_image_motion(blank) == [0, 1, 2, 3, 4]  # nothing is known: the reconstruction decides
    assert select_by_image_motion([]) == []
