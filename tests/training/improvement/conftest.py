"""Small recordings of a robot that drives past walls, and a student of its camera that has hardly learned."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from scene_completion_ros.geometry import OPTICAL_FROM_FORWARD, Camera, RigidTransform
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.sequences.posed_sequence import Frame, PosedSequence
from scene_completion_training.data.module import SequenceSource
from scene_completion_training.export import export_bundle
from scene_completion_training.runner import train
from scene_completion_training.stages.single_view import SingleViewConfiguration
from scene_completion_training.street_world.camera_rig import LEFT, RIGHT
from scene_completion_training.street_world.drive_bag import write_drive_bag
from scene_completion_training.viewpoint import CameraSettings, VolumeSettings
from tests.training.small_trainings import small_data, small_training
from tests.training.synthetic_scene import BASELINE, CAMERA_HEIGHT, CENTRE, FOCAL, HEIGHT, WIDTH, ray_cast

STEP_M, BEGIN_M = 1.2, 8.0
"""Metres from frame to frame, and before the first one; the wall stands at 24 m."""
LOWER_M = 0.9
"""Below the camera of the scene: so the ground comes into view a few metres ahead."""
SECOND = 10**9
START = 1_700_000_000 * SECOND


def make_drive(
    folder: Path, *, aside: float, frames: int = 12, step: float = STEP_M, shade: float = 1.0
) -> PosedSequence:
    """A stereo drive towards the wall, so many metres to the right of the box; its images darker by a factor."""
    camera = Camera(FOCAL, FOCAL, *CENTRE, WIDTH, HEIGHT)
    rig_from_camera = {}
    for name, x in ((LEFT, 0.0), (RIGHT, BASELINE)):
        optical = RigidTransform(np.eye(3), np.array([x, 0.0, 0.0]))
        rig_from_camera[name] = (
            RigidTransform(np.eye(3), np.array([0.0, 0.0, CAMERA_HEIGHT - LOWER_M]))
            @ OPTICAL_FROM_FORWARD.inverse()
            @ optical
        )
    made = []
    for index in range(frames):
        images = {}
        for name, x in ((LEFT, 0.0), (RIGHT, BASELINE)):
            image, _ = ray_cast(np.array([aside + x, LOWER_M, BEGIN_M + step * index]))
            file = folder / name / f"{index:06d}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), (shade * image).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 98])
            images[name] = file
        place = RigidTransform(np.eye(3), np.array([BEGIN_M + step * index, -aside, 0.0]))
        made.append(Frame(START + index * SECOND // 4, images, place))
    return PosedSequence(
        name=folder.name,
        cameras={LEFT: camera, RIGHT: camera},
        rig_from_camera=rig_from_camera,
        frames=made,
        pose_source="drawn",
        rig_from_sensor={"velodyne": RigidTransform.identity()},
    )


def make_bag(folder: Path, *, cameras: tuple[str, ...] = (LEFT, RIGHT), **drive: float) -> Path:
    """The recording of a drive by some of its cameras."""
    sequence = make_drive(folder.with_name(f"{folder.name}_images"), **drive)  # type: ignore[arg-type]
    write_drive_bag(sequence, folder, cameras=cameras, lidar_every=0)
    return folder


@pytest.fixture(scope="session")
def bags(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three drives, far apart; the wall looks the same every 16 m."""
    folder = tmp_path_factory.mktemp("recordings")
    return [
        make_bag(folder / name, aside=aside)
        for name, aside in (("monday", 0.0), ("tuesday", 37.0), ("wednesday", 74.0))
    ]


@pytest.fixture(scope="session")
def current(synthetic_drive: Path, tmp_path_factory: pytest.TempPathFactory) -> StudentBundle:
    """A student of a small volume after two steps."""
    folder = tmp_path_factory.mktemp("current")
    settings = small_training(
        synthetic_drive,
        folder / "run",
        steps=2,
        half_resolution_steps=0,
        camera=CameraSettings(
            width=256, height=64, fx=148.0, fy=148.0, cx=127.5, cy=31.5, height_above_ground=CAMERA_HEIGHT - LOWER_M
        ),
        volume=VolumeSettings(ahead=6.4, sideways=3.2, below=1.2, above=1.2, voxel_size=0.4, near=1.0, far=20.0),
    )
    settings["data"].sources = [SequenceSource(synthetic_drive.name)]
    assert settings["data"].cache == small_data(synthetic_drive).cache
    checkpoint = train(SingleViewConfiguration(**settings), threads=1)
    return export_bundle(
        checkpoint, folder / "student", name="current", licence="Apache-2.0", provenance={"trained_on": "a wall"}
    )
