"""Motion that can be and that cannot: cases computed by hand."""

import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from scene_completion_ros.geometry import plausible_motion as plausible
from scene_completion_ros.geometry.transforms import RigidTransform

SECOND = 1_000_000_000
STILL = np.zeros((0, 3))


def stamps(count: int, hz: float) -> NDArray[np.int64]:
    return np.asarray(10**18 + np.arange(count) * SECOND / hz, np.int64)


def track(count: int, hz: float, speed: float) -> NDArray[np.float64]:
    """Along x, with a slight bend to the left."""
    seconds = np.arange(count) / hz
    return np.stack([speed * seconds, 0.2 * seconds**2, 0 * seconds], axis=1)


@pytest.mark.parametrize(
    ("up", "step", "body"),
    [
        ((0, 0, 1), (1, 0, 0), True),  # REP 103: x forward, z up
        ((-0.5, 0, 0.87), (0.87, 0, 0.5), True),  # pitched down by 30°
        ((0, 0, 1), (0, 1, 0), True),  # looks to the side
        ((0, -1, 0), (0, 0, 1), False),  # optical, looks ahead
        ((0, -1, 0), (1, 0, 0), False),  # optical, looks to the side
        ((0, 0, -1), (1, 0, 0), False),  # optical, looks down
        ((0, 0, 1), (0, 0, 1), False),  # optical in a world of optical axes, as visual odometry has
        ((0, 1, 0), (0, 0, 1), False),  # upside down
    ],
)
def test_frames_of_bodies(up: Any, step: Any, body: bool) -> None:
    steps = np.array([step] * 5, float)
    assert plausible.body_axes(np.array([up], float), steps) == body
    assert not plausible.body_axes(np.array([up, (0, -1, 0)], float), steps)  # another upright frame says otherwise
    assert not plausible.body_axes(STILL, steps)  # nothing is known to be upright


@pytest.mark.parametrize(
    ("degrees", "down", "hangs"),
    [(0, 0, False), (90, 0, False), (120, 0, True), (180, 0, True), (180, 60, True), (180, 85, False)],
)
def test_cameras_that_hang(degrees: float, down: float, hangs: bool) -> None:
    roll, pitch = np.radians([degrees, down])
    level = np.cos(pitch)
    up = np.array([[level * np.sin(roll), -level * np.cos(roll), -np.sin(pitch)]])
    assert plausible.upside_down(up) == hangs


@pytest.mark.parametrize(
    ("hz", "speed", "words"),
    [
        (10, 30.0, ""),
        (200, 30.0, ""),
        (
            10,
            8000.0,
            "at 8000 m/s, 23200 m in 2.9 s .11 of 11 steps.;.*stay below .* .it would be 8 m/s if .* in millimetres.$",
        ),
        (100, 1500.0, "15 m/s if .* in centimetres, 1.5 m/s if .* in millimetres"),
        (10, 1e6, "below 100 m/s$"),  # no unit explains it
    ],
)
def test_speeds(hz: float, speed: float, words: str) -> None:
    count = int(3 * hz)
    found = plausible.speed_problem(stamps(count, hz), track(count, hz, speed))
    assert re.search(words, found) if words else not found


def test_noise_and_jumps_are_not_speed() -> None:
    moved = track(300, 100, 5.0) + np.random.default_rng(0).normal(0, 0.5, (300, 3))
    moved[150:] += [30.0, 0.0, 0.0]  # map -> odom, once a loop is closed
    assert not plausible.speed_problem(stamps(300, 100), moved)
    assert not plausible.strays(stamps(300, 100), moved)[1]


def test_what_units_do_not_explain_names_none() -> None:
    scattered = track(30, 4, 8.0)
    scattered[[5, 11, 17, 23]] += [0.0, 500.0, 0.0]  # too many to be left out
    assert re.search(
        r"m/s, .* \(8 of 29 steps\); .* stay below 100 m/s$", plausible.speed_problem(stamps(30, 4), scattered)
    )
    found = track(30, 4, 8.0)
    found[3:] += [4e5, 5.5e6, 0.0]  # UTM, once satellites are seen
    assert re.search(r"\(1 of 29 steps\); .* stay below 100 m/s$", plausible.speed_problem(stamps(30, 4), found))


@pytest.mark.parametrize("away", [(12,), (0,), (29,), (5, 6)])
def test_strays_are_told(away: tuple[int, ...]) -> None:
    moved = track(30, 10, 8.0)
    moved[list(away)] += [0.0, 400.0, 0.0]
    assert np.flatnonzero(plausible.strays(stamps(30, 10), moved)[0]).tolist() == list(away)


@pytest.mark.parametrize(
    ("metres", "words"),
    [(18.0, None), (1000.0, "it would be 1 m if"), (120.0, "1.2 m if the poses are in centimetres")],
)
def test_arms(metres: float, words: str | None) -> None:
    found = plausible.arm_problem(RigidTransform(np.eye(3), np.array([0.0, metres, 0.0])), "base_link")
    assert words in found and f"{metres:.0f} m" in found if words else not found


@pytest.mark.parametrize("late", [0.0, 0.3, 0.5])  # of the time between two poses
@pytest.mark.parametrize("offset", [(0.0, 0.1, 0.0), (3.0, 3.0, 0.0), (-200.0, 0.0, 0.0)])
@pytest.mark.parametrize(("hz", "speed"), [(10, 8.0), (50, 1.0), (10, 0.0)])
def test_two_tracks(late: float, offset: Any, hz: float, speed: float) -> None:
    count = int(4 * hz)
    noise = np.random.default_rng(1).normal(0, 0.003, (2, count, 3))
    other = track(count, hz, speed) + np.array([speed * late / hz, 0, 0]) + offset
    moved = np.concatenate([track(count, hz, speed) + noise[0], other + noise[1]])
    when = np.concatenate([stamps(count, hz), stamps(count, hz) + round(late * SECOND / hz)])
    order = np.argsort(when, kind="stable")
    found = plausible.two_tracks(when[order], moved[order])
    assert found is not None
    one, two = moved[order][list(found)]
    assert np.linalg.norm(two - one - np.array(offset)) < 1.0 or np.linalg.norm(one - two - np.array(offset)) < 1.0
    assert plausible.two_tracks(when[:count], moved[:count]) is None


@pytest.mark.parametrize("kind", ["noise", "jumps", "bunched", "repeated", "hand", "rounded"])
@pytest.mark.parametrize(("hz", "speed"), [(10, 8.0), (50, 1.0), (200, 0.5)])
def test_one_track(kind: str, hz: float, speed: float) -> None:
    random, count = np.random.default_rng(2), int(10 * hz)
    when, moved = stamps(count, hz), track(count, hz, speed)
    if kind == "noise":
        moved += random.normal(0, 0.1, moved.shape)
    elif kind == "jumps":
        moved += np.cumsum(random.normal(0, 2.0, moved.shape) * (random.uniform(size=(count, 1)) < 0.02), axis=0)
    elif kind == "bunched":  # two arrive at once, and are stamped then
        when[1::2] = when[::2][: len(when[1::2])] + 1_000_000
    elif kind == "repeated":  # published twice as often as measured
        moved[1::2] = moved[::2][: len(moved[1::2])]
    elif kind == "hand":
        seconds = np.arange(count)[:, None] / hz
        moved += 0.04 * np.sin(2 * np.pi * seconds * [1.9, 3.7, 7.0])
    else:
        moved = np.round(moved + random.normal(0, 0.01, moved.shape), 2)
    assert plausible.two_tracks(when, moved) is None
    assert not plausible.speed_problem(when, moved)


@pytest.mark.parametrize(
    ("images_s", "transforms_s", "words"),
    [
        (-0.1, -0.01, ""),  # an exposure and a network
        (
            36.9,
            -0.01,
            "36.910 s ahead of theirs .TAI.*stamps of images are 36.900 s ahead of bag time, those of /tf 0.010",
        ),
        (-18.0, 0.0, "18.000 s behind theirs .the time of GPS"),
        (0.14, 0.0, "0.140 s ahead of"),  # no message is older than its stamp
        (0.04, 0.0, ""),  # computers of one network
        (0.14, 0.2, ""),  # transforms may be dated ahead, and this computer be late
        (812 - 1.7e9, 0.0, "as if one of them counts from the start"),
        (-1000.0, -1000.0, ""),  # an old recording that is played
    ],
)
def test_clocks(images_s: float, transforms_s: float, words: str) -> None:
    of_images, others = (np.full(9, seconds * 1e9, np.int64) for seconds in (images_s, transforms_s))
    found = plausible.clock_problem("/image", of_images, "/tf", others, "bag time")
    assert re.search(words, found) if words else not found
    assert not plausible.clock_problem("/image", of_images[:0], "/tf", others, "bag time")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("robot1/camera", "camera"),
        ("camera ", "camera"),
        ("Camera", "camera"),
        ("lidra", "lidar"),
        ("", ""),
        ("gps", ""),
    ],
)
def test_names_that_were_meant(name: str, meant: str) -> None:
    assert plausible.nearest_name(name, ["base_link", "camera", "lidar"]) == meant
