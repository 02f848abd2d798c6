"""Pixels of two views that show the same place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.geometry import Camera
from scene_completion_ros.sequences.kitti import kitti_odometry
from scene_completion_training.evaluation.view_pairs import LATER, PARTNER, view_depth, view_pairs
from tests.training.evaluation.along_a_wall import CAMERA, NEXT, SHIFT, along_a_wall
from tests.training.synthetic_scene import BASELINE, ray_cast


def test_pairs_follow_from_depth_and_poses() -> None:
    pairs = list(view_pairs(along_a_wall(), CAMERA, step=1, every=1))
    assert [(pair.kind, pair.first[0], pair.second[0]) for pair in pairs] == [(NEXT, 0, 1), (NEXT, 1, 2)]
    pixels = CAMERA.pixel_centres()
    for pair in pairs:
        np.testing.assert_allclose(pair.warp[pair.valid], pixels[pair.valid] - [SHIFT, 0.0], atol=1e-9)
        assert pair.valid[1:, SHIFT:].all() and not pair.valid[:, :SHIFT].any() and not pair.valid[0].any()
        mixed = pair.unrelated(np.random.default_rng(0))
        assert sorted(map(tuple, mixed[pair.valid])) == sorted(map(tuple, pair.warp[pair.valid]))
        assert (mixed[pair.valid] != pair.warp[pair.valid]).any(axis=-1).mean() > 0.95
    assert len(list(view_pairs(along_a_wall(5), CAMERA, step=2, every=2))) == 2
    with pytest.raises(SequenceError, match="no rectified stereo pair"):
        list(view_pairs(along_a_wall(exact=False), CAMERA, step=1, every=1))


def test_a_depth_is_looked_up_where_its_camera_sees_it() -> None:
    """A camera of half the pixels and twice the view: what the recording does not show is not known."""
    sequence = along_a_wall()
    wide = Camera(fx=5.0, fy=5.0, cx=9.5, cy=4.5, width=20, height=10)
    sequence.frames[0].assets["depth"] = lambda: np.arange(800, dtype=np.float32).reshape(20, 40) + 1.0
    depth = view_depth(sequence, 0, "camera_left", wide)
    # Pixel (12, 6) looks along (0.5, 0.3), which is the recording's pixel (29.5, 15.5).
    assert depth[6, 12] in {1.0 + row * 40 + column for row in (15, 16) for column in (29, 30)}
    assert (depth[:, :4] == 0.0).all() and (depth[:2] == 0.0).all() and (depth[3:7, 5:15] > 0.0).all()
    sequence.frames[0].assets["ego_camera_left"] = lambda: np.ones((20, 40), np.uint8)
    assert not view_depth(sequence, 0, "camera_left", wide).any()


def test_the_partner_of_a_stereo_pair_is_matched(synthetic_drive: Path) -> None:
    """Both views have the depth of the scene; the wall's pixels move by focal length times baseline over depth."""
    sequence = kitti_odometry(synthetic_drive)
    camera = sequence.cameras["image_2"]
    pairs = list(view_pairs(sequence, camera, step=2, every=3))
    assert [(pair.kind, pair.second) for pair in pairs] == [
        (LATER.format(step=2), (2, "image_2")),
        (PARTNER, (0, "image_3")),
        (PARTNER, (3, "image_3")),
    ]
    _, truth = ray_cast(np.zeros(3))
    partner = pairs[1]
    assert partner.valid.mean() > 0.5
    expected = camera.pixel_centres()[..., 0] - camera.fx * BASELINE / truth
    error = np.abs(partner.warp[..., 0] - expected)[partner.valid]
    assert np.median(error) < 0.3 and np.quantile(error, 0.9) < 1.0
