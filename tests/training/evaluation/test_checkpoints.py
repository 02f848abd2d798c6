"""Checkpoints as predictors, with as many views as they were trained with."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from scene_completion_ros.errors import ConfigurationError, SequenceError
from scene_completion_ros.geometry import Resampler, RigidTransform
from scene_completion_ros.sequences.opening import open_recording
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.evaluation.checkpoints import EncodedView, open_checkpoint, published_views, views_along
from scene_completion_training.networks.density_field import MultiViewField
from tests import official_layouts as layouts
from tests.training.evaluation.one_wall import CAMERA
from tests.training.small_trainings import SIZE, VIEW, save_checkpoint


def test_teacher_checkpoint_with_one_two_and_four_views(street: PosedSequence, tmp_path: Path) -> None:
    torch.manual_seed(0)
    field = MultiViewField(VIEW.camera()).eval()
    file = save_checkpoint(tmp_path / "teacher.ckpt" / "checkpoints" / "last.ckpt", field, "teacher", camera=SIZE)
    apart = [RigidTransform(np.eye(3), np.array([0.0, 0.0, 1.5 * k])) for k in range(10)]
    frames = [replace(frame, world_from_rig=pose) for frame, pose in zip(street.frames, apart, strict=True)]
    sparse = replace(street, frames=frames)
    # 8 m further is 7.5 m, 4 m is 4.5 m, and 12 m is more than the drive has: 10.5 m.
    assert places(views_along(sparse, 2, (0.0, 8.0, 4.0, 12.0))) == [*(2, 7, 5, 9)]
    # At the drive's end, what comes before.
    assert places(views_along(sparse, 9, (0.0, 8.0, 4.0))) == [*(9, 8, 7)]
    with pytest.raises(SequenceError, match="10 frames cannot give 11 views"):
        views_along(sparse, 0, range(11))
    models = open_checkpoint(file, ["1", "2", "4"])
    assert [model.name for model in models] == [f"teacher.ckpt, {views}" for views in ("1 view", "2 views", "4 views")]
    points = np.random.default_rng(0).uniform([-4, -1, 5], [4, 1, 40], (50, 3)).astype(np.float32)
    image = Resampler(CAMERA, VIEW.camera())(sparse.image(2, "camera_left"))
    images = torch.from_numpy(image).permute(2, 0, 1).float().expand(1, 4, -1, -1, -1)
    poses = np.stack([np.eye(4)] * 4)
    poses[1:, 2, 3] = 7.5, 4.5, 10.5  # metres ahead
    for model, count in zip(models, (1, 2, 4), strict=True):
        with torch.no_grad():
            seen = field.observe(images[:, :count], torch.from_numpy(poses[None, :count]).float())
            expected = seen.density(torch.from_numpy(points)[None])[0].numpy()
        np.testing.assert_allclose(model.complete(sparse, 2).density(points), expected, rtol=1e-3, atol=1e-5)
    with pytest.raises(ConfigurationError, match="1 or 2 or 3 or 4 or mono"):
        open_checkpoint(file, ["5"])


def places(views: Sequence[EncodedView]) -> list[int]:
    """Their frames; all are of the camera ahead."""
    assert {(view.camera, view.aside) for view in views} == {("camera_left", False)}
    return [view.index for view in views]


def test_rows_of_mvbts_are_the_published_views(tmp_path: Path) -> None:
    """Of left now and a frame later, right likewise, and the fisheyes ten posed frames later."""
    images = layouts.kitti_360(tmp_path, frames=18, posed=[number for number in range(18) if number != 6])
    drive = open_recording(images)
    left, right, aside = "image_00", "image_01", ("image_02", "image_03")
    expected = {
        "mono": [(2, left)],
        "temporal": [(2, left), (3, left)],
        "stereo": [(2, left), (2, right)],
        "stereo-temporal": [(2, left), (3, left), (2, right), (3, right)],
        "fisheyes": [(2, left), (2, right), (12, aside[0]), (12, aside[1])],
    }
    for choice, views in expected.items():
        found = published_views(drive, 2, choice)
        assert [(view.index, view.camera) for view in found] == views
        assert [view.aside for view in found] == [camera in aside for _, camera in views]
    assert [view.index for view in published_views(drive, 15, "all")] == [15, 16, 15, 16, 16, 16, 16, 16]
