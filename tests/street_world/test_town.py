from __future__ import annotations

import numpy as np
import pytest

from training.street_world import seeds
from training.street_world.camera_rig import FRAME_RATE_HZ, drive_length, drive_poses, stamps_ns
from training.street_world.classes import StreetClass
from training.street_world.drive import StreetDrive
from training.street_world.parts import box, cylinder, ellipsoid, extrusion, frustum, upright
from training.street_world.street_line import make_street_line
from training.street_world.texture_atlas import Texture, TextureAtlas

SOME = StreetClass.BUILDING


def test_no_seed_has_two_roles() -> None:
    owners = [seeds.TRAINING_SEEDS, seeds.VALIDATION_SEEDS, seeds.DEMO_SEEDS]
    assert sum(len(owner) for owner in owners) == len(set().union(*map(set, owners)))
    assert (seeds.role_of_seed(0), seeds.role_of_seed(1999), seeds.role_of_seed(7000)) == (
        "training",
        "validation",
        "demo",
    )


@pytest.mark.parametrize("seed", [-1, 2000, 8000])
def test_seeds_without_a_role_are_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=str(seed)):
        seeds.role_of_seed(seed)


PROFILE = np.array([(0.0, 0.0), (2.0, 0.0), (2.0, 1.0), (1.0, 1.5)])
BODIES = {
    "box": box((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), "a", SOME),
    "frustum": frustum((0, 4, 0, 2), (1, 3, 0.5, 1.5), (0, 1), ("a", "b", "c"), SOME),
    "extrusion": extrusion(PROFILE, (-1.0, 1.5), ("a", "b"), SOME),
    "cylinder": upright(cylinder(0.5, 2.0, ("a", "b"), SOME), (1.0, 2.0, 0.0), 2.0),
    "ellipsoid": ellipsoid((1.0, 2.0, 3.0), (0.0, 0.0, 1.0), "a", SOME),
    "moved": box((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), "a", SOME).moved((1.0, 2.0, 3.0), yaw=0.7),
}


def volume(corners: np.ndarray) -> float:
    return float(np.linalg.det(corners).sum() / 6.0)


@pytest.mark.parametrize("name", BODIES)
def test_bodies_are_closed_convex_and_face_outwards(name: str) -> None:
    part = BODIES[name]
    normals, offsets = part.planes()
    points = part.corners.reshape(-1, 3)
    assert (points @ normals.T <= offsets + 1e-9).all()
    assert (points.mean(axis=0) @ normals.T < offsets).all()
    # Closed: the oriented faces cancel, so the volume does not depend on the origin.
    assert volume(part.corners) == pytest.approx(volume(part.corners + 10.0), rel=1e-6)


def test_volumes() -> None:
    assert volume(BODIES["box"].corners) == pytest.approx(6.0)
    assert volume(BODIES["extrusion"].corners) == pytest.approx(2.5 * 2.0)
    assert volume(BODIES["cylinder"].corners) == pytest.approx(np.pi * 0.5, rel=0.06)


def test_every_solid_of_a_town_is_convex(drive: StreetDrive) -> None:
    for part in drive.scene.parts:
        if part.solid:
            normals, offsets = part.planes()
            worst = (part.corners.reshape(-1, 3) @ normals.T - offsets).max()
            assert worst < 1e-6, (part.label, worst)


def test_a_town_holds_what_a_street_has(drive: StreetDrive) -> None:
    kinds = {part.label for part in drive.scene.parts}
    expected = {"ROAD", "PARKING", "SIDEWALK", "TERRAIN", "CAR", "BUILDING", "VEGETATION", "TRUNK", "POLE"}
    assert expected <= {kind.name for kind in kinds}


def test_the_drive_keeps_its_lane_clear(drive: StreetDrive) -> None:
    for pose in drive.poses:
        x, y, _ = pose.translation
        for part in drive.scene.parts:
            if part.solid:
                low, high = part.corners.min(axis=(0, 1)), part.corners.max(axis=(0, 1))
                inside = (low[:2] < (x + 0.7, y + 0.7)) & (high[:2] > (x - 0.7, y - 0.7))
                assert not (inside.all() and low[2] < 1.9), part.label


@pytest.mark.parametrize("seed", range(8))
def test_streets_bend_gently_and_never_turn_back(seed: int) -> None:
    line = make_street_line(np.random.default_rng(seed), -30.0, 500.0)
    assert np.abs(line.heading).max() < np.pi / 2
    assert np.abs(np.diff(line.heading)).max() / 0.25 < 1 / 50.0  # curvature
    assert line.point(0.0, 0.0) == pytest.approx((0.0, 0.0), abs=1e-6)
    assert np.linalg.norm(line.point(100.0, 3.0) - line.point(100.0, -3.0)) == pytest.approx(6.0)
    assert np.ptp(line.heading) > 0.2


def test_speed_is_about_eight_metres_a_second() -> None:
    line = make_street_line(np.random.default_rng(0), -30.0, 100.0)
    poses = drive_poses(line, 50, 0)
    steps = np.diff([pose.translation for pose in poses], axis=0)
    speed = np.linalg.norm(steps, axis=-1) * FRAME_RATE_HZ
    assert speed.min() > 6.5
    assert speed.max() < 9.5
    forward = np.array([pose.rotation[:, 0] for pose in poses[:-1]])
    along = np.einsum("ij,ij->i", forward, steps / np.linalg.norm(steps, axis=-1, keepdims=True))
    assert along.min() > 0.999  # the rig looks where it drives


def test_a_slower_rate_spreads_the_frames_over_more_street() -> None:
    line = make_street_line(np.random.default_rng(0), -30.0, 100.0)
    steps = np.diff([pose.translation for pose in drive_poses(line, 5, 0, rate_hz=2.0)], axis=0)
    assert np.linalg.norm(steps, axis=-1) == pytest.approx(np.full(4, 4.0), rel=0.15)
    assert np.diff(stamps_ns(3, 2.0)).tolist() == [500_000_000] * 2
    assert drive_length(20, 2.0) > np.linalg.norm(steps.sum(axis=0)) * 20 / 4


def test_textures_are_sampled_at_the_level_of_the_footprint() -> None:
    image = np.zeros((4, 4, 4), np.float32)
    image[0, 1] = 1.0  # second texel of the top row
    atlas = TextureAtlas({"grey": Texture(np.full((2, 2, 4), 0.5, np.float32), (1, 1)), "dot": Texture(image, (1, 1))})
    dot = np.array([1, 1, 1])
    uv = np.array([(0.375, 0.875), (2.375, -0.125), (0.1, 0.2)], np.float32)
    value = atlas.sample(dot, uv, np.array([1.0, 1.0, 4.0], np.float32))
    assert value[:2] == pytest.approx(np.ones((2, 4)))
    assert value[2] == pytest.approx(np.full(4, 1 / 16), abs=1e-3)
    assert atlas.tile_m["dot"] == (1, 1)
