"""Scenes hold the right voxels, with the image's colours on those that the camera sees."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scene_completion_ros.errors import ConfigurationError, GridError, SequenceError
from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.sequences.kitti import kitti_odometry
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.masked_scene.scenes import (
    FEATURES,
    SceneMaker,
    VoxelScene,
    feature_names,
    keep_scenes,
    points_camera,
)
from tests.training.evaluation.one_wall import CAMERA, GRID, make_street
from tests.training.masked_scene.small_scenes import scene_of
from tests.training.synthetic_scene import CAMERA_HEIGHT, WALL_AHEAD

COLUMN = {name: number for number, name in enumerate(FEATURES)}


def painted_street() -> PosedSequence:
    """The street with one wall, whose image tells its pixels: red grows with the column, green with the row."""
    row, column = np.mgrid[: CAMERA.height, : CAMERA.width]
    image = np.stack([4 * column, 10 * row, np.full_like(row, 50)], axis=-1).astype(np.uint8)
    street = make_street()
    frames = [dataclasses.replace(frame, images={"camera_left": lambda: image}) for frame in street.frames]
    return dataclasses.replace(street, frames=frames)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"index": np.zeros((0, 3), np.int16), "features": np.zeros((0, 5), np.float32)}, "no occupied voxel"),
        ({"index": np.array([[8, 0, 0], [0, 0, 0]], np.int16)}, r"\[0, 0, 0\] to \[8, 0, 0\] are more than a grid of"),
        ({"index": np.array([[-1, 0, 0], [0, 0, 0]], np.int16)}, "are more than a grid of"),
        ({"index": np.array([[1, 2, 3], [1, 2, 3]], np.int16)}, "occurs twice"),
        ({"features": np.zeros((2, 4), np.float32)}, r"Give index \[N, 3\], features \[N, 5\]"),
        ({"label": np.zeros(3, np.uint8)}, r"labels \(3,\)"),
    ],
)
def test_what_is_no_scene_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(GridError, match=said):
        dataclasses.replace(scene_of([[0, 0, 0], [1, 1, 1]]), **changes)


def test_exact_voxels_have_the_colours_of_their_pixels_where_the_camera_sees_them() -> None:
    street = painted_street()
    scene = SceneMaker(street, "exact").scene(0)
    assert scene.grid == GRID and set(scene.label) == {COMMON_CLASSES.index("car")}  # type: ignore[arg-type]
    points = points_camera(scene.index, scene.grid, scene.grid_from_camera)
    depth = points[:, 2]
    assert depth.min() > 9.6 and depth.max() < 11.0, "the front of the wall alone; its inside is no truth"
    pixels, valid = CAMERA.project(points)
    assert np.asarray(valid).all()
    seen = scene.features[:, COLUMN["seen"]] == 1.0
    assert seen.sum() >= 0.4 * len(scene)
    colours = 255.0 * scene.features[:, COLUMN["red"] : COLUMN["blue"] + 1]
    inner = seen & (pixels[:, 1] > 2) & (pixels[:, 1] < CAMERA.height - 3)
    assert inner.sum() > 5
    np.testing.assert_allclose(colours[inner, 0], 4 * pixels[inner, 0], atol=4)
    np.testing.assert_allclose(colours[inner, 1], 10 * pixels[inner, 1], atol=10)
    np.testing.assert_allclose(colours[inner, 2], 50, atol=0.1)
    assert not colours[~seen].any()


def test_stereo_finds_the_wall_and_the_road(synthetic_drive: Path) -> None:
    scene = SceneMaker(kitti_odometry(synthetic_drive), "stereo").scene(0)
    right, down, forward = points_camera(scene.index, scene.grid, scene.grid_from_camera).T
    assert scene.label is None and len(scene) > 2000
    off = np.minimum(np.abs(forward - WALL_AHEAD), np.abs(down - CAMERA_HEIGHT))
    beside = (np.abs(right) > 2.0) | (np.abs(forward - 13.0) > 3.0)  # away from the box
    assert np.median(off[beside]) < 0.2
    road = (np.abs(down - CAMERA_HEIGHT) < 0.2) & (forward < 15)
    assert scene.features[road, COLUMN["seen"]].mean() > 0.8
    assert (scene.features[:, COLUMN["probability"]] > 0.5).all()


def test_predicted_voxels_and_units_are_those_of_the_deployed_student(labelled_student: StudentBundle) -> None:
    sequence, student = make_street(), labelled_student
    scene = SceneMaker(sequence, "predicted", student=student, units=True).scene(0)
    completer = Completer(student, CAMERA, grid=scene.grid, grid_from_camera=scene.grid_from_camera)
    voxels = completer.complete(sequence.image(0, "camera_left")).voxels
    row_of = {tuple(place): row for row, place in enumerate(voxels.index.tolist())}
    rows = np.array([row_of[tuple(place)] for place in scene.index.tolist()])
    assert len(rows) > 0.99 * len(voxels)
    np.testing.assert_allclose(scene.features[:, 0], voxels.probability[rows], atol=1e-6)
    units = scene.features[:, len(FEATURES) :]
    assert scene.columns == feature_names(units.shape[1]) and scene.columns[5] == "unit_000"
    _, _, weight, bias = student.head.label_layers()
    agreeing = (units @ weight.T + bias).argmax(axis=1) == voxels.label[rows]
    assert agreeing.mean() > 0.995


def test_what_a_recording_lacks_is_said(synthetic_drive: Path, student: StudentBundle) -> None:
    drive = kitti_odometry(synthetic_drive)
    with pytest.raises(SequenceError, match="frame 0: has no rendered voxels"):
        SceneMaker(drive, "exact").scene(0)
    with pytest.raises(SequenceError, match="frame 0: has no LiDAR"):
        SceneMaker(drive, "lidar").scene(0)
    with pytest.raises(SequenceError, match="has no stereo pair"):
        SceneMaker(make_street(), "stereo").scene(0)
    with pytest.raises(ConfigurationError, match="student: no student is named"):
        SceneMaker(drive, "predicted")
    with pytest.raises(ConfigurationError, match="has no label units"):
        SceneMaker(drive, "stereo", student=student, units=True)
    with pytest.raises(ConfigurationError, match="'seen' does not exist"):
        SceneMaker(drive, "seen")  # type: ignore[arg-type]


def test_scenes_are_made_once_and_frames_without_voxels_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    maker = SceneMaker(make_street(), "exact")
    made: list[int] = []

    def scene(self: SceneMaker, index: int) -> VoxelScene:
        made.append(index)
        return scene_of([] if index == 1 else [[index, 0, 0]], name=f"frame {index}")

    monkeypatch.setattr(SceneMaker, "scene", scene)
    files = keep_scenes(maker, tmp_path, [0, 1, 2])
    assert [file.name for file in files] == ["000000.safetensors", "000002.safetensors"]
    assert "left out: scene frame 1: holds no occupied voxel" in capsys.readouterr().out
    keep_scenes(maker, tmp_path, [0, 2])
    assert made == [0, 1, 2]
    with pytest.raises(SequenceError, match="no frame has exact voxels"):
        keep_scenes(maker, tmp_path / "other", [1])
