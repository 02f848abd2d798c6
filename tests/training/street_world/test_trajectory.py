"""Streets, and how the rig drives along them."""

from dataclasses import replace

import numpy as np
import pytest

from scene_completion_training.street_world.street_line import (
    FRAME_RATE_HZ,
    drive_poses,
    longest_drive,
    make_street_line,
    stamps_ns,
)
from scene_completion_training.street_world.street_profile import StreetKind
from scene_completion_training.street_world.town import profile_of

RESIDENTIAL = next(profile for seed in range(50) if (profile := profile_of(seed)).kind is StreetKind.RESIDENTIAL)


def positions(seed: int, frames: int, corner_share: float, rate_hz: float = FRAME_RATE_HZ) -> np.ndarray:
    profile = replace(RESIDENTIAL, grade=0.03)
    line = make_street_line(
        np.random.default_rng(seed), -30.0, longest_drive(profile, frames, rate_hz) + 60.0, corner_share=corner_share,
        grade=profile.grade,
    )  # fmt: skip
    poses = drive_poses(line, profile, frames, seed, rate_hz)
    return np.array([pose.matrix for pose in poses])


def test_the_rig_looks_where_it_drives_and_follows_the_slope() -> None:
    poses = positions(1, 300, corner_share=0.5)
    steps = np.diff(poses[:, :3, 3], axis=0)
    moving = np.linalg.norm(steps, axis=-1) > 0.3
    along = np.einsum("ij,ij->i", poses[:-1, :3, 0], steps) / np.maximum(np.linalg.norm(steps, axis=-1), 1e-9)
    assert along[moving].min() > 0.99
    slope = steps[moving, 2] / np.linalg.norm(steps[moving], axis=-1)
    assert np.ptp(slope) > 0.01
    assert np.corrcoef(slope, poses[:-1][moving, 2, 0])[0, 1] > 0.5


def test_a_slower_rate_spreads_the_frames_over_more_street() -> None:
    near = np.linalg.norm(np.diff(positions(0, 20, 0.0)[:, :3, 3], axis=0), axis=-1)
    far = np.linalg.norm(np.diff(positions(0, 4, 0.0, 2.0)[:, :3, 3], axis=0), axis=-1)
    assert far.mean() == pytest.approx(5 * near.mean(), rel=0.1)
    assert np.diff(stamps_ns(3, 2.0)).tolist() == [500_000_000] * 2


@pytest.mark.parametrize("seed", range(3))
def test_streets_turn_corners_and_never_meet_themselves(seed: int) -> None:
    line = make_street_line(np.random.default_rng(seed), -30.0, 600.0, corner_share=0.5, grade=0.03)
    assert np.abs(line.heading).max() < np.pi / 2
    assert 1 / 26.0 < np.abs(line.curvature).max() < 1 / 8.9
    assert line.point(0.0, 0.0) == pytest.approx((0.0, 0.0), abs=1e-6)
    assert np.linalg.norm(line.point(4.0, 3.0) - line.point(4.0, -3.0)) == pytest.approx(6.0)
    assert np.ptp(line.heading) > 1.0
    assert np.abs(np.diff(line.height)).max() / 0.25 < 0.031
    s = np.arange(0.0, 590.0, 7.0)
    for d in (-4.0, 4.0):
        found_s, found_d = line.nearest(line.point(s, d))
        assert found_s == pytest.approx(s, abs=0.4)
        assert found_d == pytest.approx(np.full(len(s), d), abs=0.05)
