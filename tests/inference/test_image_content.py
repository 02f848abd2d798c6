"""Images that show nothing: darkness, glare, a covered lens. No voxel may count as seen in them."""

import numpy as np
import pytest
from numpy.typing import NDArray

from scene_completion_ros.bags.demo_drive import DEMO_DRIVE
from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.geometry import Camera
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.inference.encoded_image import MOSTLY, shown_share
from scene_completion_ros.inference.shipped import open_student, shipped_students
from scene_completion_ros.voxels.semantic_voxels import VoxelState

SEEN = (VoxelState.FREE_SEEN, VoxelState.SURFACE)


@pytest.fixture(scope="module")
def street() -> tuple[Camera, NDArray[np.uint8]]:
    """A real photograph of a street, and its camera."""
    with BagReader(DEMO_DRIVE) as reader:
        topic = reader.choose_image_topic(None)
        return reader.camera_for(topic), next(iter(reader.images(topic))).image_rgb


def test_the_share_of_an_image_that_shows_something() -> None:
    """By hand: 23 rows of windows of 8 pixels, 4 apart; six see the chessboard above, whose deviation is 10."""
    image = np.full((96, 96, 3), 100, np.uint8)
    assert shown_share(image) == 0.0
    rows, columns = np.mgrid[:24, :96]
    image[:24] = np.where((rows + columns)[..., None] % 2, 110, 90)
    assert shown_share(image) == pytest.approx(6 / 23)
    covered = np.zeros((96, 96), np.bool_)
    assert shown_share(image, covered) == 1.0  # nothing to judge by
    covered[:48] = True
    assert shown_share(image, covered) == pytest.approx(6 / 11)
    image[:24] = np.where((rows + columns)[..., None] % 2, 101, 100)  # as noise of a sensor is
    assert shown_share(image) == 0.0


@pytest.mark.parametrize("name", shipped_students())
def test_nothing_is_certain_of_images_that_show_nothing(name: str, street: tuple[Camera, NDArray[np.uint8]]) -> None:
    camera, photograph = street
    student = open_student(name)
    completer = Completer(student, camera, threads=2)
    forward, _, up = np.moveaxis(completer.grid.centres(), -1, 0)
    height = up + student.height_above_ground
    obstacles = completer.in_view & (height > 0.4) & (height < 2.0) & (forward > 12.8) & (forward < 50.0)
    seeing = completer.complete(photograph)
    assert np.isin(seeing.voxels.state, SEEN).any() and seeing.shown > MOSTLY
    noise = np.random.default_rng(0).integers(0, 256, photograph.shape, dtype=np.uint8)
    for image in (np.zeros_like(photograph), noise):
        found = completer.complete(image)
        if image is not noise:
            assert found.shown == 0.0 and not np.isin(found.voxels.state, SEEN).any()
        # Neither student may be sure that all of it is free.
        assert found.probability[obstacles].mean() > 0.02
