"""Density from above, by hand: which way round it lies, and what it sums."""

from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.geometry import RigidTransform
from scene_completion_ros.geometry.transforms import about
from scene_completion_ros.picture_files import read_rgb
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.evaluation import profiles
from tests.training.commands.test_evaluate import run
from tests.training.evaluation.one_wall import Wall, make_street


def slab(points: np.ndarray) -> np.ndarray:
    """A density of 3 per metre from 4 to 6 m on the right, 10 to 12 m ahead, 0.2 to 0.7 m down and farther below."""
    x, y, z = points.T
    inside = (x > 4) & (x < 6) & (z > 10) & (z < 12) & (((y > 0.2) & (y < 0.7)) | (y > 1.0))
    return (3.0 * inside).astype(np.float32)


def test_a_slab_lies_where_it_is_and_is_summed_over_its_height() -> None:
    found = profiles.profile(slab)
    expected = np.zeros((200, 180))
    expected[110:130, 130:150] = 1.5  # rows from 23 m down, columns from -9 m on: 3 per metre over half a metre
    np.testing.assert_allclose(found, expected, atol=1e-5)
    down = RigidTransform(about(0, -0.3), np.zeros(3))
    turned = profiles.profile(lambda points: slab(down.inverse().apply(points.astype(np.float64))), down)
    np.testing.assert_allclose(turned, expected, atol=1e-5)


@pytest.mark.parametrize("assets", [("lidar", "voxel_label", "voxel_flags"), ("lidar",), ()])
def test_the_truth_lies_where_the_wall_is(assets: tuple[str, ...]) -> None:
    """Voxels of 0.8 m hold all of the wall, a scan its front, and without both there is no truth."""
    truth = profiles.true_profile(make_street(assets), 0, RigidTransform.identity())
    if not assets:
        assert truth is None
        return
    assert truth is not None and truth[0] == ("exact voxels" if len(assets) > 1 else "LiDAR")
    row, column = np.nonzero(truth[1])
    x, z = -9.0 + 0.1 * column, 23.0 - 0.1 * row
    assert (x.min(), x.max()) == pytest.approx((-1.0, 3.0), abs=0.9) and z.min() == pytest.approx(10.0, abs=0.9)
    assert z.max() == pytest.approx(12.0 if len(assets) > 1 else 10.0, abs=0.9)


def test_a_command_draws_them(street: PosedSequence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image, then a profile of each model and of the truth, of each chosen frame."""
    street.save(tmp_path / "town")
    wall = Wall()
    monkeypatch.setattr("scene_completion_training.commands.arguments.open_models", lambda _: [wall, wall])
    options = ("--data", tmp_path / "town", "--bundle", tmp_path, "--every", 5, "--output", tmp_path / "out")
    assert run("geometry", "--profiles", *options) == 0
    drawn = [read_rgb(file) for file in sorted((tmp_path / "out").glob("profile_*_*.png"))]
    assert len(drawn) == 2
    below = drawn[0][-(400 + 34) : -34, 34:]
    for left in (0, 406, 812):  # bright where the wall is, black left of it
        assert below[230, left + 200].min() > 150 and below[230, left + 20].max() < 10
