"""Frames of which images alone matter, and the samples of the published trainings, from KITTI-360 as it lies."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from scene_completion_ros.geometry import Resampler
from scene_completion_ros.sequences.opening import open_recording
from scene_completion_training.data.prepared import DOWNWARD, RecordedFrames
from scene_completion_training.data.view_batches import DataNeeds, ViewSamples, ViewSettings
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.viewpoint import CameraSettings, Viewpoint, VolumeSettings
from tests import official_layouts as layouts

CAMERA = CameraSettings(128, 64, fx=50.51429, fy=93.05263, cx=62.31143, cy=40.59474, height_above_ground=1.55)
"""All of the tiny KITTI-360 camera, stretched as the published trainings stretch it."""
VIEWPOINT = Viewpoint.of_settings(CAMERA, VolumeSettings())
POSED = [number for number in range(26) if number != 6]
PUBLISHED = ViewSettings(
    near_frames=1, far_views=True, far_frames=(10, 10), yaw=0, pitch=0, roll=0, mirror=False, colour_jitter=False
)


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return layouts.kitti_360(tmp_path_factory.mktemp("data"), frames=26, posed=POSED)


def test_an_image_is_the_recorded_one_made_small(drive: Path) -> None:
    sequence = open_recording(drive)
    lying = RecordedFrames(sequence, VIEWPOINT)
    assert len(lying) == len(POSED) and lying[-1].name == lying[len(lying) - 1].name
    frame = lying[2]
    expected = cv2.resize(sequence.image(2, "image_00"), (128, 64), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(frame.images["left"], expected)
    fisheye = sequence.cameras["image_03"]
    turned = Resampler(fisheye, VIEWPOINT.camera, source_from_target_rotation=DOWNWARD)
    np.testing.assert_array_equal(frame.images["aside_image_03"], turned(sequence.image(2, "image_03")))
    np.testing.assert_array_equal(frame.mask("aside_image_03"), turned.validity)
    assert frame.mask("left").all() and frame.far_cameras == ("aside_image_02", "aside_image_03")
    pose = sequence.world_from_camera(2, "image_03").matrix
    np.testing.assert_allclose(frame.world_from_camera["aside_image_03"].matrix[:3, 3], pose[:3, 3])
    np.testing.assert_allclose(frame.world_from_camera["aside_image_03"].rotation, pose[:3, :3] @ DOWNWARD)


def samples(
    drive: Path, listed: list[tuple[int, int, str]], views: ViewSettings = PUBLISHED, needs: DataNeeds | None = None
) -> ViewSamples:
    frames = RecordedFrames(open_recording(drive), VIEWPOINT)
    return ViewSamples([frames], views, needs or DataNeeds(), seed=3, length=99, listed=listed, viewpoint=VIEWPOINT)


def test_views_are_the_published_ones(drive: Path) -> None:
    """Left, right and the fisheyes ten posed frames later, each with the next frame; the pose list has a gap at 6."""
    sequence = open_recording(drive)
    left, right = samples(drive, [(0, 4, "left")])[0], samples(drive, [(0, 4, "right")])[0]
    for sample, order in ((left, ("left", "right")), (right, ("right", "left"))):
        frames = RecordedFrames(sequence, VIEWPOINT)
        names = [(4 + later, name) for name in order for later in (0, 1)]
        names += [(14 + later, f"aside_image_0{k}") for k in (2, 3) for later in (0, 1)]
        encoder_from_world = frames[4].world_from_camera[order[0]].inverse()
        for k, (index, name) in enumerate(names):
            expected = torch.from_numpy(frames[index].images[name]).permute(2, 0, 1).float() / 255.0
            torch.testing.assert_close(sample["views"][k], expected)
            pose = (encoder_from_world @ frames[index].world_from_camera[name]).matrix
            np.testing.assert_allclose(sample["encoder_from_view"][k], pose, atol=1e-5)
        torch.testing.assert_close(sample["image"] / 255.0, sample["views"][0])
        assert sorted(sample["roles"].tolist()) == list(range(8))
        assert [sorted(pair) for pair in zip(*sample["roles"].reshape(2, 4).tolist(), strict=True)] == [
            [0, 1], [2, 3], [4, 5], [6, 7]
        ]  # fmt: skip
    last = samples(drive, [(0, len(POSED) - 1, "left")])[0]
    assert not last["masks"][1].any()  # the drive ends: its last frame again would teach nothing


@pytest.mark.parametrize(
    ("video", "index", "taken", "split"),
    [
        ("around", 9, (9, 6, 12), [{0}, {1}, {2}]),
        ("around", 1, (1, 0, 4), [{0}, {1}, {2}]),  # the drive begins
        ("ahead", 4, (4, 7, 10, 13), [{0, 2}, {1, 3}]),
    ],
)
def test_views_of_a_video_are_frames_apart(
    drive: Path, video: str, index: int, taken: tuple[int, ...], split: list[set[int]]
) -> None:
    """Which frames they are, and which are rendered from which others."""
    views = dataclasses.replace(PUBLISHED, near_frames=0, far_views=False, video=video, video_frames=(3, 3))
    frames, rendered = RecordedFrames(open_recording(drive), VIEWPOINT), []
    drawn = samples(drive, [(0, index, "left")], views)
    for number in range(12):
        sample = drawn[number]
        for view, frame in zip(sample["views"], taken, strict=True):
            image = torch.from_numpy(frames[frame].images["left"]).permute(2, 0, 1).float() / 255.0
            torch.testing.assert_close(view, image)
        roles = sample["roles"].tolist()
        rendered.append(set(roles[: len(taken) // 2]))
        assert sorted(roles) == list(range(len(taken)))
    assert all(one in rendered for one in split) and all(one in split for one in rendered)


def test_listed_frames_come_once_an_epoch_in_another_order(drive: Path) -> None:
    listed = [(0, index, side) for index in (1, 5, 9) for side in ("left", "right")]
    drawn = samples(drive, listed, dataclasses.replace(PUBLISHED, far_views=False))
    # An image, and on which side the other camera of the pair stands.
    taken = [drawn[number] for number in range(18)]
    found = [(one["image"].numpy().tobytes(), bool(one["encoder_from_view"][2, 0, 3] > 0)) for one in taken]
    epochs = [found[:6], found[6:12], found[12:]]
    assert all(set(epoch) == set(found) and len(set(epoch)) == 6 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_teacher_encodes_others_of_the_views_ahead(drive: Path) -> None:
    drawn = samples(drive, [(0, 4, "left")], needs=DataNeeds(encoder_views=3))
    seen = set()
    for number in range(32):
        sample = drawn[number]
        chosen = [
            next(k for k in range(8) if torch.allclose(pose, sample["encoder_from_view"][k], atol=1e-5))
            for pose in sample["encoder_poses"]
        ]
        assert chosen[0] == 0 and len(set(chosen)) == 3 and set(chosen) <= {0, 1, 2, 3}
        seen.add(tuple(chosen))
    assert len(seen) == 6


def test_flipped_features_belong_to_the_same_places() -> None:
    """The network sees the mirrored image, and its map is mirrored back: a mirrored image gives the mirrored map."""
    field = DensityField(VIEWPOINT.camera, depth_channel=False).eval()
    image = torch.rand(1, 3, 64, 128) * 255.0
    with torch.no_grad():
        plain = field.encoder(image.flip(-1)).flip(-1)
        field.encoder.flipped = True
        torch.testing.assert_close(field.encoder(image), plain)
        assert not torch.allclose(plain, field.encoder(image.flip(-1)))
