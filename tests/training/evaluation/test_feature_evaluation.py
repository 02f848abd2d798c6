"""Features of two views compared, by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scene_completion_training.evaluation.feature_evaluation import (
    LATER,
    PARTNER,
    Compared,
    FieldFeatures,
    TokenFeatures,
    compared_camera,
    token_rows,
    view_depth,
    view_pairs,
)
from scene_completion_training.viewpoint import STREET_CAMERA

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.evaluation.feature_consistency import FEATURES
from scene_completion_ros.evaluation.metric import Scores
from scene_completion_ros.geometry import Camera, RigidTransform
from scene_completion_ros.sequences.kitti import kitti_odometry
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from tests.training.evaluation.along_a_wall import CAMERA, NEXT, SHIFT, SIDEWAYS, along_a_wall
from tests.training.synthetic_scene import BASELINE, ray_cast


def test_pairs_follow_from_depth_and_poses() -> None:
    pairs = list(view_pairs([along_a_wall()], CAMERA, step=1, every=1))
    assert [(pair.kind, pair.first[0], pair.second[0]) for pair in pairs] == [(NEXT, 0, 1), (NEXT, 1, 2)]
    pixels = CAMERA.pixel_centres()
    for pair in pairs:
        np.testing.assert_allclose(pair.warp[pair.valid], pixels[pair.valid] - [SHIFT, 0.0], atol=1e-9)
        assert pair.valid[1:, SHIFT:].all() and not pair.valid[:, :SHIFT].any() and not pair.valid[0].any()
        mixed = pair.unrelated[pair.valid]
        assert sorted(map(tuple, mixed)) == sorted(map(tuple, pair.warp[pair.valid]))
        assert (mixed != pair.warp[pair.valid]).any(axis=-1).mean() > 0.95
    assert len(list(view_pairs([along_a_wall(5)], CAMERA, step=2, every=2))) == 2
    with pytest.raises(SequenceError, match="no rectified stereo pair"):
        list(view_pairs([along_a_wall(exact=False)], CAMERA, step=1, every=1))


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
    pairs = list(view_pairs([sequence], camera, step=2, every=3))
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


@dataclasses.dataclass
class Painted:
    """Features as a function of pixels [H, W, 2] and of the frame."""

    name: str
    paint: object

    def features(self, sequence: PosedSequence, index: int, name: str) -> np.ndarray:
        return np.asarray(self.paint(CAMERA.pixel_centres(), index), np.float32)  # type: ignore[operator]


def of_the_wall(pixels: np.ndarray, index: int) -> np.ndarray:
    """One number a metre of the wall, as it would be painted on it; any length."""
    metre = np.round((pixels[..., 0] + SHIFT * index) / SHIFT).astype(int)
    return 3.0 * np.moveaxis(np.eye(20)[metre], -1, 0)


def of_the_image(pixels: np.ndarray, index: int) -> np.ndarray:
    """One number a column of the image, wherever the camera is."""
    return np.moveaxis(np.eye(40)[pixels[..., 0].astype(int)], -1, 0)


def compare(sequence: PosedSequence, methods: list[Painted]) -> Scores:
    scores = Scores([FEATURES])
    pairs = view_pairs([sequence], CAMERA, step=1, every=1)
    scores.run("recordings", [Compared(method, 1) for method in methods], pairs)
    return scores


def test_features_are_compared_by_hand() -> None:
    """What is painted on the wall agrees; what sticks to the image does not; what is the same everywhere says nothing.

    Of wall-painted features two unrelated pixels agree where both fall on the same of about ten metres.
    """
    methods = [
        Painted("wall", of_the_wall),
        Painted("image", of_the_image),
        Painted("constant", lambda pixels, index: np.ones((3, 20, 40))),
    ]
    scores = compare(along_a_wall(), methods)
    wall, image, constant = scores.rows("features")
    assert {wall["pair"], image["pair"], constant["pair"]} == {NEXT}
    assert wall["pairs"] == image["pairs"] == 2
    assert wall["over_pixels"]["pixels"] == constant["over_pixels"]["pixels"] == 2 * 19 * 36
    assert (wall["l1"], wall["l2"], wall["cosine"]) == pytest.approx((0.0, 0.0, 1.0), abs=1e-6)
    assert wall["unrelated"] == pytest.approx(1 / 9, abs=0.03)
    assert (image["l1"], image["l2"], image["cosine"]) == pytest.approx((2.0, 2**0.5, 0.0))
    assert (constant["cosine"], constant["unrelated"]) == pytest.approx((1.0, 1.0))
    assert f"| image | 2 | {NEXT} | 2 | 2.000 | 1.414 | 0.000 | {image['unrelated']:.3f} |" in scores.markdown()


def test_a_mean_over_pairs_counts_small_pairs_as_much_as_large_ones() -> None:
    """Frames 0 and 1 share 36 columns and agree; from 1 the camera jumps on, 8 columns are left, and they do not."""
    sequence = along_a_wall()
    sequence.frames[2] = dataclasses.replace(
        sequence.frames[2], world_from_rig=RigidTransform(np.eye(3), np.array([SIDEWAYS + 16.0, 0.0, 0.0]))
    )
    method = Painted("once", lambda pixels, index: np.eye(2)[:, [max(0, index - 1)], None] * np.ones((1, 20, 40)))
    (row,) = compare(sequence, [method]).rows("features")
    assert row["cosine"] == pytest.approx(0.5)
    assert row["over_pixels"]["cosine"] == pytest.approx(36 / 44)
    far = along_a_wall(2)
    far.frames[1] = dataclasses.replace(
        far.frames[1], world_from_rig=RigidTransform(np.eye(3), np.array([90.0, 0.0, 0.0]))
    )
    assert not compare(far, [method]).rows("features")  # no two views have a pixel in common


def test_tokens_are_enlarged_around_their_centres() -> None:
    """Four pixels a token: the second lies an eighth of a token before its centre."""
    camera = compared_camera(STREET_CAMERA, 4)
    tokens = torch.zeros(1, 2, 12, 40)
    tokens[0, 0] = torch.arange(40.0)
    tokens[0, 1] = 1.0
    backbone = SimpleNamespace(features=lambda images, cell: tokens if cell == 16 else None)
    method = TokenFeatures(backbone, 16, STREET_CAMERA, camera, "tokens")  # type: ignore[arg-type]
    found = method.features(along_a_wall(), 0, "camera_left")
    assert found.shape == (2, 48, 160)
    assert found[0, 20, 4 * 7 : 4 * 8] == pytest.approx([7 - 0.375, 7 - 0.125, 7 + 0.125, 7 + 0.375])
    assert (found[1] == 1.0).all()
    less = TokenFeatures(backbone, 16, STREET_CAMERA, camera, mean=torch.tensor([5.0, 1.0]))  # type: ignore[arg-type]
    centred = less.features(along_a_wall(), 0, "camera_left")
    np.testing.assert_allclose(centred, found - np.array([5.0, 1.0])[:, None, None], atol=1e-5)


def test_tokens_stand_beside_fields_as_these_have_learned_them() -> None:
    """As they are, and less the mean of each field that knows one, once."""
    means = {"plain": [0.0, 0.0], "centred": [1.0, 2.0], "alike": [1.0, 2.0], "other": [0.0, 3.0]}
    fields = [
        SimpleNamespace(name=name, field=SimpleNamespace(target_mean=torch.tensor(mean)))
        for name, mean in means.items()
    ]
    rows = token_rows(fields, SimpleNamespace(dim=2), 16, STREET_CAMERA, CAMERA)  # type: ignore[arg-type]
    plain = "tokens of the image"
    assert [row.name for row in rows] == [
        plain,
        f"{plain}, less the mean of centred",
        f"{plain}, less the mean of other",
    ]


def test_a_field_sees_each_image_alone(synthetic_drive: Path, feature_field_checkpoint: Path) -> None:
    method = FieldFeatures.open(feature_field_checkpoint, 16)
    sequence = kitti_odometry(synthetic_drive)
    first = method.features(sequence, 0, "image_2")
    assert method.name == "mine" and first.shape == (8, 12, 40) and np.isfinite(first).all()
    assert not np.allclose(first, method.features(sequence, 0, "image_3"))
    assert np.array_equal(first, method.features(sequence, 0, "image_2"))
