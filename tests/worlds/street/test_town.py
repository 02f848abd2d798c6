"""Towns and their streets, and how the rig drives along them."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from scene_completion_worlds.street.ground import make_ground
from scene_completion_worlds.street.layout import SECTION_M
from scene_completion_worlds.street.scene import RayScene
from scene_completion_worlds.street.street_line import (
    FRAME_RATE_HZ,
    GROUND_CLASSES,
    StreetClass,
    StreetKind,
    drive_poses,
    longest_drive,
    make_street_line,
)
from scene_completion_worlds.street.town import SEEDS_OF_ROLE, TownPlan, profile_of, role_of_seed

SWEPT_SEEDS = (0, 5, 2001)


@cache
def plan_of(seed: int) -> TownPlan:
    return TownPlan(seed, 240.0)


def test_every_seed_has_one_role_or_is_refused() -> None:
    owners = list(SEEDS_OF_ROLE.values())
    assert sum(len(owner) for owner in owners) == len(set().union(*map(set, owners)))
    assert [role_of_seed(seed) for seed in (0, 1999, 2000, 7000)] == ["training", "validation", "test", "demo"]
    for seed in (-1, 3000, 8000):
        with pytest.raises(ValueError, match=str(seed)):
            role_of_seed(seed)


def volume(corners: np.ndarray) -> float:
    return float(np.linalg.det(corners).sum() / 6.0)


@pytest.mark.parametrize("seed", SWEPT_SEEDS)
def test_every_solid_of_a_town_is_convex_and_closed(seed: int) -> None:
    for part in plan_of(seed).section(0):
        if part.solid:
            normals, offsets = part.planes()
            worst = (part.corners.reshape(-1, 3) @ normals.T - offsets).max()
            assert worst < 1e-6, (part.label, worst)
            middle = part.corners.reshape(-1, 3).mean(axis=0)
            inside = volume(part.corners - middle)
            assert inside > 0.0, part.label
            assert inside == pytest.approx(volume(part.corners - middle + 1.0), rel=1e-3, abs=1e-6), part.label


@pytest.mark.parametrize("seed", SWEPT_SEEDS)
def test_nothing_stands_where_the_rig_drives(seed: int) -> None:
    """Rays from pose to pose, all over a car's cross-section, meet nothing but the ground."""
    plan = plan_of(seed)
    poses = drive_poses(plan.line, plan.profile, 120, seed)
    furthest = plan.line.nearest(poses[-1].translation[None, :2])[0][0]
    built = [part for index in range(-1, int(furthest // SECTION_M) + 2) for part in plan.section(index)]
    parts = [part for part in built if part.label not in GROUND_CLASSES]
    rays = RayScene(np.concatenate([part.corners for part in parts]))
    y, z = np.meshgrid(np.linspace(-0.95, 0.95, 49), np.linspace(0.25, 1.9, 12))
    section = np.stack([np.zeros(y.size), y.ravel(), z.ravel()], axis=-1)
    starts = np.concatenate([pose.apply(section) for pose in poses[:-1]])
    ends = np.concatenate([pose.apply(section) for pose in poses[1:]])
    way = ends - starts
    length = np.linalg.norm(way, axis=-1)
    moving = length > 1e-3
    hits = rays.first_hits(starts[moving], way[moving] / length[moving, None])
    owner = np.repeat([part.label.name for part in parts], [len(part.corners) for part in parts])
    met = hits.distance <= length[moving]
    assert not met.any(), set(owner[hits.triangle[met]])


@pytest.mark.parametrize("seed", SWEPT_SEEDS)
def test_the_rig_drives_on_the_road(seed: int) -> None:
    plan = plan_of(seed)
    ground = make_ground(plan.ground, -20.0, 160.0, plan_of(SWEPT_SEEDS[0]).atlas)  # textures change no shape
    rays = RayScene(np.concatenate([part.corners for part in ground]))
    label = np.repeat([part.label for part in ground], [len(part.corners) for part in ground])
    poses = drive_poses(plan.line, plan.profile, 80, seed)
    wheels = np.array([(x, y, 1.0) for x in (-1.0, 1.5) for y in (-0.75, 0.75)])
    start = np.concatenate([pose.apply(wheels) for pose in poses])
    inside = plan.line.nearest(start[:, :2])[0] < 155.0
    hits = rays.first_hits(start[inside], np.broadcast_to((0.0, 0.0, -1.0), start[inside].shape))
    assert (label[hits.triangle] == StreetClass.ROAD).all()
    assert hits.distance == pytest.approx(np.ones(inside.sum()), abs=0.12)


def test_a_longer_town_starts_like_a_shorter_one() -> None:
    short, long = TownPlan(5, 100.0), TownPlan(5, 900.0)
    assert np.allclose(short.line.position, long.line.position[: len(short.line.position)], atol=1e-9)
    first, second = short.section(1), long.section(1)
    assert len(first) == len(second)
    assert all(np.allclose(a.corners, b.corners) for a, b in zip(first, second, strict=True))


def test_the_rig_looks_where_it_drives_and_follows_the_slope() -> None:
    profiles = (profile_of(seed) for seed in range(50))
    profile = replace(next(one for one in profiles if one.kind is StreetKind.RESIDENTIAL), grade=0.03)
    end = longest_drive(profile, 300, FRAME_RATE_HZ) + 60.0
    line = make_street_line(np.random.default_rng(1), -30.0, end, corner_share=0.5, grade=profile.grade)
    poses = np.array([pose.matrix for pose in drive_poses(line, profile, 300, 1, FRAME_RATE_HZ)])
    steps = np.diff(poses[:, :3, 3], axis=0)
    moving = np.linalg.norm(steps, axis=-1) > 0.3
    along = np.einsum("ij,ij->i", poses[:-1, :3, 0], steps) / np.maximum(np.linalg.norm(steps, axis=-1), 1e-9)
    assert along[moving].min() > 0.99
    slope = steps[moving, 2] / np.linalg.norm(steps[moving], axis=-1)
    assert np.ptp(slope) > 0.01
    assert np.corrcoef(slope, poses[:-1][moving, 2, 0])[0, 1] > 0.5


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
