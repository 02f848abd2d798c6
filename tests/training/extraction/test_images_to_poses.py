"""Rectified views, masks, keyframes, and reconstructions of a street that is known exactly, with their scale."""

import dataclasses
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.geometry import Camera, RigidTransform, view_rotation
from scene_completion_ros.sequences.posed_sequence import Frame, PosedSequence, stereo_pair
from scene_completion_training.extraction import images_to_poses
from scene_completion_training.extraction.finishing import rectified_views, select_by_image_motion
from scene_completion_training.extraction.images_to_poses import ground_plane, reconstruct, scale_from_rig
from tests.training.extraction.textured_street import CAMERA, aligned_error, drive, picture

IDENTITY = RigidTransform.identity()
FISHEYE = Camera(120.0, 121.0, 160.0, 118.0, 320, 240, "equidistant", (0.02, -0.01, 0.002, 0.0))
BARREL = dataclasses.replace(CAMERA, distortion_model="plumb_bob", distortion=(-0.2, 0.05, 0.001, -0.001, 0.0))


@pytest.mark.parametrize("camera", [FISHEYE, BARREL], ids=["fisheye", "barrel"])
def test_a_rectified_picture_is_what_the_pinhole_camera_would_have_taken(camera: Camera) -> None:
    pose = drive(4)[3]
    (view,) = rectified_views({"a": camera}, {"a": IDENTITY}, 100.0).values()
    assert view.camera.distortion_model == "none" and view.rig_from_camera.matrix.tolist() == np.eye(4).tolist()
    recorded = cv2.cvtColor(picture(camera, pose), cv2.COLOR_GRAY2RGB)
    source = view.image(lambda: recorded)
    expected = picture(view.camera, pose)
    validity = view.validity
    assert validity is not None and validity.mean() > 0.8
    difference = np.abs(source()[..., 0].astype(float) - expected)[validity]
    assert difference.mean() < 6.0 and np.quantile(difference, 0.95) < 20.0  # blurred once more, not shifted
    shifted = np.abs(np.roll(source()[..., 0], 2, axis=1).astype(float) - expected)[validity]
    assert shifted.mean() > 1.5 * difference.mean()
    assert (source()[~validity] == 0).all()


def test_an_oblique_pair_becomes_a_rectified_one() -> None:
    """Both cameras squint, distort and differ; afterwards a point has one row and the disparity of its depth."""
    cameras = {"left": BARREL, "right": dataclasses.replace(BARREL, fx=195.0, fy=194.0)}
    poses = {
        "left": RigidTransform(view_rotation(yaw=0.05, pitch=0.02), np.array([0.0, 0.0, 0.0])),
        "right": RigidTransform(view_rotation(yaw=-0.04), np.array([0.5, 0.02, 0.03])),
    }
    views = rectified_views(cameras, poses, 100.0)
    assert views["left"].camera == views["right"].camera
    frame = Frame(0, {}, IDENTITY)
    sequence = PosedSequence(
        "pair", {n: v.camera for n, v in views.items()}, {n: v.rig_from_camera for n, v in views.items()}, [frame], "tf"
    )
    left, right, baseline = stereo_pair(sequence)  # what training asks for
    assert (left, right) == ("left", "right")
    assert baseline == pytest.approx(np.linalg.norm([0.5, 0.02, 0.03]))
    point = np.array([0.3, -0.2, 6.0])
    pixels = {name: view.camera.project(view.rig_from_camera.inverse().apply(point))[0] for name, view in views.items()}
    depth = views["left"].rig_from_camera.inverse().apply(point)[2]
    assert pixels["left"][1] == pytest.approx(pixels["right"][1], abs=1e-9)
    assert pixels["left"][0] - pixels["right"][0] == pytest.approx(views["left"].camera.fx * baseline / depth)


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


def test_a_rig_of_two_cameras_is_metric_by_itself(tmp_path: Path) -> None:
    pytest.importorskip("pycolmap")
    poses = drive(6)
    right = RigidTransform(np.eye(3), np.array([0.5, 0.0, 0.0]))
    images = {"left": [picture(CAMERA, p) for p in poses], "right": [picture(CAMERA, p @ right) for p in poses]}
    cameras = {"left": CAMERA, "right": CAMERA}
    found = reconstruct(images, cameras, {"left": RigidTransform.identity(), "right": right}, tmp_path)
    paths = (np.stack([pose.translation for pose in path]) for path in (found[0].world_from_first.values(), poses))
    error, scale = aligned_error(*paths)
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


def test_a_mapper_that_dies_is_an_error_of_this_bag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def died(command: list[str], *, stdout: object, **rest: object) -> subprocess.CompletedProcess[bytes]:
        stdout.write(b"checks\nCheck failed: it broke\n")  # type: ignore[attr-defined]
        return subprocess.CompletedProcess(command, -6)

    monkeypatch.setattr(subprocess, "run", died)
    monkeypatch.setattr(images_to_poses, "find_spec", lambda name: True)
    images = {"camera": [picture(CAMERA, drive(1)[0])]}
    with pytest.raises(SequenceError, match="status -6: Check failed: it broke"):
        reconstruct(images, {"camera": CAMERA}, {"camera": RigidTransform.identity()}, tmp_path)
    monkeypatch.setattr(images_to_poses, "find_spec", lambda name: None)
    with pytest.raises(SequenceError, match="needs pycolmap"):
        reconstruct(images, {"camera": CAMERA}, {"camera": RigidTransform.identity()}, tmp_path)


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
