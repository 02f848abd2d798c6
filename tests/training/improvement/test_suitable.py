"""Drives that are of no use, and drives that show the same."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scene_completion_ros.errors import ImprovementError
from scene_completion_ros.geometry import Camera, RigidTransform
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.data import motion_stereo
from scene_completion_training.improvement.suitable import DriveLook, alike, check_suitable, refuse_overlap
from scene_completion_training.street_world.camera_rig import LEFT, RIGHT
from tests.inference.small_bundle import make_small_bundle
from tests.training.improvement.conftest import LOWER_M, make_drive
from tests.training.synthetic_scene import CAMERA_HEIGHT, HEIGHT, WIDTH


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> StudentBundle:
    return make_small_bundle(tmp_path_factory.mktemp("student"), height_above_ground=CAMERA_HEIGHT - LOWER_M)


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> PosedSequence:
    return make_drive(tmp_path_factory.mktemp("drive"), aside=0.0, frames=5)


def test_one_camera_on_a_robot_that_turns_on_the_spot(
    student: StudentBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows its height, travels more than two metres to and fro, and never gets far from where it was."""
    monkeypatch.setattr(motion_stereo, "PIXELS", 30_000)  # small images measure its depth
    drive = make_drive(tmp_path, aside=18.0, frames=5)  # past the box
    frames = [
        dataclasses.replace(
            frame,
            images={LEFT: frame.images[LEFT]},
            world_from_rig=RigidTransform(np.eye(3), np.array([0.6 * (number % 2), 0.0, 0.0])),
        )
        for number, frame in enumerate(drive.frames)
    ]
    alone = dataclasses.replace(
        drive,
        cameras={LEFT: drive.cameras[LEFT]},
        rig_from_camera={LEFT: drive.rig_from_camera[LEFT]},
        frames=frames,
        provenance={"settings": {"camera_height": 0.75}},
    )
    with pytest.raises(ImprovementError, match=f"camera {LEFT}: the motion stereo measures the depth of 0 % of"):
        check_suitable(alone, student)


def shown(drive: PosedSequence, image: np.ndarray) -> dict[str, Any]:
    """What changes where all cameras show one image; the height is given, since they measure none."""
    images = {name: lambda: image for name in drive.cameras}
    frames = [dataclasses.replace(frame, images=images) for frame in drive.frames]
    return {"frames": frames, "provenance": {"settings": {"camera_height": 0.75}}}


def through_a_tele_lens(drive: PosedSequence) -> dict[str, Any]:
    camera = drive.cameras[LEFT]
    tele = Camera(3.0 * camera.fx, 3.0 * camera.fy, camera.cx, camera.cy, camera.width, camera.height)
    return {"cameras": {LEFT: tele, RIGHT: tele}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (lambda drive: {"metric_scale": False}, "scale: unknown"),
        (through_a_tele_lens, r"not the camera of the student: focal length / image width is 1\.7"),
        (
            lambda drive: {"provenance": {"settings": {"camera_height": 0.4}}},
            r"0\.40 m above the ground \(as given .*, the student's 0\.75",
        ),
        (
            lambda drive: shown(drive, np.full((HEIGHT, WIDTH, 3), 90, np.uint8)),
            "the lens is covered: 0 % of the image",
        ),
        (
            lambda drive: shown(drive, np.random.default_rng(0).integers(0, 30, (HEIGHT, WIDTH, 3), np.uint8)),
            "it is night: the images have a mean grey value of 1",
        ),
    ],
)
def test_a_drive_of_no_use_is_refused(
    drive: PosedSequence, student: StudentBundle, changes: Callable[[PosedSequence], dict[str, Any]], message: str
) -> None:
    with pytest.raises(ImprovementError, match=message):
        check_suitable(dataclasses.replace(drive, **changes(drive)), student)


def look(pictures: np.ndarray, places: np.ndarray, world: str = "/tf map", name: str = "a") -> DriveLook:
    centred = pictures - pictures.mean(axis=1, keepdims=True)
    return DriveLook(name, (centred / np.linalg.norm(centred, axis=1, keepdims=True)).astype(np.float32), places, world)


def test_the_same_place_under_the_same_light_is_refused() -> None:
    generator = np.random.default_rng(2)
    one = look(generator.normal(size=(20, 96)), generator.uniform(0.0, 500.0, (20, 3)))
    again = look(one.pictures + 0.03 * generator.normal(size=one.pictures.shape), one.places + 1.0, name="again")
    same, place = alike(again, one)
    assert (same, place) == (0.0, 1.0)
    with pytest.raises(ImprovementError, match="overlaps in place with a"):
        refuse_overlap([again], [one])
    refuse_overlap([dataclasses.replace(again, world="/odom odom")], [one])  # another map: places cannot be compared
    refuse_overlap([dataclasses.replace(again, places=one.places + 50.0)], [one])  # it looks alike, but elsewhere
