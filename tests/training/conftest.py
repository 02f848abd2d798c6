"""A small synthetic stereo drive in KITTI's folder layout, a street with one wall, and models that look at them."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.runner import train
from scene_completion_training.stages.density import TeacherConfiguration
from tests.checkout import there
from tests.inference.small_bundle import make_small_bundle
from tests.training.evaluation.one_wall import make_street
from tests.training.small_trainings import small_training
from tests.training.synthetic_scene import BASELINE, CENTRE, FOCAL, ray_cast


@pytest.fixture(scope="session")
def synthetic_drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a four-frame stereo drive, 1.5 m forward a frame."""
    folder = tmp_path_factory.mktemp("drives") / "synthetic"
    calibration = ""
    for camera, x in ((2, 0.0), (3, BASELINE)):
        calibration += f"P{camera}: {FOCAL} 0 {CENTRE[0]} {-FOCAL * x} 0 {FOCAL} {CENTRE[1]} 0 0 0 1 0\n"
        (folder / f"image_{camera}").mkdir(parents=True)
        for index in range(4):
            image, _ = ray_cast(np.array([x, 0.0, 1.5 * index]))
            cv2.imwrite(str(folder / f"image_{camera}" / f"{index:06d}.png"), image)
    (folder / "calib.txt").write_text(calibration)
    (folder / "poses.txt").write_text("".join(f"1 0 0 0 0 1 0 0 0 0 1 {1.5 * index}\n" for index in range(4)))
    (folder / "times.txt").write_text("".join(f"{0.1 * index:.6f}\n" for index in range(4)))
    return folder


@pytest.fixture(scope="module")
def street() -> PosedSequence:
    """The street with one wall."""
    return make_street()


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> StudentBundle:
    """A small student with random weights."""
    return make_small_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="session")
def teacher(synthetic_drive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a teacher of a few steps in one thread, as the command trains it in tests."""
    output = tmp_path_factory.mktemp("runs") / "teacher"
    return train(TeacherConfiguration(**small_training(synthetic_drive, output)), threads=1)


@pytest.fixture(scope="session")
def espnetv2_cityscapes(shared_data: Path) -> Path:
    """ESPNetv2 of Cityscapes next to the recordings."""
    folder = shared_data.parent / "weights" / "espnetv2_cityscapes"
    return there(folder / "espnetv2_s_2.0_city_1024x512.pth", f"pretrained weights not found at {folder}").parent
