"""Evidence by motion: a scale, a plane of the road, and corners of the image; and how a camera stands by all of it."""

import math

import numpy as np
import pytest

from scene_completion_ros.geometry import RigidTransform
from scene_completion_ros.geometry.road_plane import RoadPlane
from scene_completion_ros.inference.bundle import StudentBundle, open_student
from scene_completion_ros.inference.cell_query import Pixels
from scene_completion_ros.inference.evidence import (
    CORNERS,
    HEIGHT,
    NO_EVIDENCE,
    NO_PLANE,
    PITCH,
    ROLL,
    SEEN_DOUBT,
    Evidence,
    EvidenceEstimator,
    OwnView,
    Standing,
)
from scene_completion_ros.inference.motion_scale import Scale

SURE = np.eye(3) * 1e-6
SIZE = (96, 320)


@pytest.fixture(scope="module")
def bundle() -> StudentBundle:
    return open_student("street")


def road_seen(bundle: StudentBundle, plane: RoadPlane) -> OwnView:
    """A road that lies in a plane, and nothing else."""
    camera = bundle.canonical.resized(*SIZE[::-1])
    inverse = np.clip(camera.unproject(camera.pixel_centres()) @ plane.down / plane.height, 0.02, 1.0)
    return OwnView((1.0 / inverse).astype(np.float32), (inverse > 0.03).astype(np.float32))


def test_evidence_gives_measurements_and_a_summary_as_far_as_it_is_known(bundle: StudentBundle) -> None:
    """Of 30720 pixels one has a depth."""
    assert NO_EVIDENCE.measured(SIZE) is None and Evidence(Scale()).measured(SIZE) is None
    sensed = np.zeros((2, *SIZE), np.float32)
    sensed[:, 8, 24] = np.log(5.0), 400.0
    evidence = Evidence(Scale(1.25, 0.1, why=""), sensed)
    measured = evidence.measured(SIZE)
    assert measured is not None
    np.testing.assert_allclose(measured.scale, [np.log(1.25), 100.0], rtol=1e-6)
    np.testing.assert_array_equal(measured.depth, sensed)
    found = Standing.of(bundle, None, evidence, None)
    assert found.summary() == {"scale": 1.25, "scale deviation": 0.1, CORNERS: 1}
    plane = RoadPlane(math.radians(-1.0), math.radians(0.5), 1.5, SURE)
    found = Standing.of(bundle, None, Evidence(plane=plane, why="the camera has not moved"), None)
    expected = {HEIGHT: 1.5, PITCH: 0.5, ROLL: -1.0, NO_PLANE: "the camera has not moved"}
    assert found.summary() == expected


def test_a_volume_is_levelled_by_what_is_known_well(bundle: StudentBundle) -> None:
    plane = RoadPlane(0.03, 0.02, 1.5, SURE)
    own = road_seen(bundle, plane)
    by_motion = Standing.of(bundle, own, Evidence(plane=plane), None)
    assert by_motion.upright_from_camera is not None
    np.testing.assert_allclose(by_motion.upright_from_camera.matrix, plane.upright_from_camera.matrix, atol=1e-3)
    assert Standing.of(bundle, None, NO_EVIDENCE, None).upright_from_camera is None  # nothing is known
    doubtful = RoadPlane(0.03, 0.02, 1.5, np.eye(3))
    assert Standing.of(bundle, None, Evidence(plane=doubtful), None).upright_from_camera is None
    assert by_motion.warning == ""


def test_what_is_stated_is_moved_by_what_pixels_show(bundle: StudentBundle) -> None:
    """Stated level at 1.65 m, while the road pitches by 2 degrees: it lies between, but levels no volume."""
    own = road_seen(bundle, RoadPlane(0.0, math.radians(2.0), 1.65, SURE))
    stated = RoadPlane(0.0, 0.0, 1.65, SURE).upright_from_camera
    found = Standing.of(bundle, own, NO_EVIDENCE, stated)
    assert 0.3 < math.degrees(found.plane.pitch) < 2.0
    assert np.abs(found.numbers).max() < 0.1
    assert found.warning == "" and found.upright_from_camera is not None
    np.testing.assert_allclose(found.upright_from_camera.matrix, stated.matrix, atol=1e-9)
    unknown = Standing.of(bundle, own, NO_EVIDENCE, None)
    assert not unknown.numbers.any() and unknown.upright_from_camera is None


def test_the_plane_that_an_image_shows_levels_its_volume(bundle: StudentBundle) -> None:
    """Joined with what is stated, by the doubts of both; it adds nothing to that of motion, which knew it before."""
    seen = RoadPlane(0.05, -0.02, 1.4, np.diag(np.square([0.01, 0.01, 0.05])))
    own = road_seen(bundle, seen)._replace(plane=seen)
    alone = Standing.of(bundle, own, NO_EVIDENCE, None)
    assert alone.upright_from_camera is not None and alone.plane.roll == pytest.approx(0.05, abs=5e-3)
    np.testing.assert_allclose(alone.upright_from_camera.matrix, seen.upright_from_camera.matrix, atol=1e-9)
    stated = RoadPlane.of_mounting(RoadPlane(0.0, 0.0, 1.65).upright_from_camera)
    both = Standing.of(bundle, own, NO_EVIDENCE, stated.upright_from_camera)
    assert both.level is not None
    share = stated.covariance[0, 0] / (stated.covariance[0, 0] + 0.01**2)
    assert both.level.roll == pytest.approx(0.05 * share)
    assert both.level.height == pytest.approx(math.sqrt(1.4 * 1.65))  # both are known to 5 %
    motion = RoadPlane(0.02, 0.01, 1.5, SURE)
    assert Standing.of(bundle, own, Evidence(plane=motion), None).level is motion


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])
def test_a_plane_of_no_numbers_counts_as_unknown(bundle: StudentBundle, value: float) -> None:
    pixels = Pixels(
        np.full((*SIZE, 2), 0.1, np.float32),
        np.full((*SIZE, 16), 1.0 / 16.0, np.float32),
        np.zeros((*SIZE, 1), np.float32),
        np.float32([[value, value], [0.0, 0.01], [0.5, 0.1]]),
    )
    plane = OwnView.of(bundle, pixels).plane
    assert plane is not None and np.isfinite(plane.state).all() and plane.deviations[0] >= 10.0
    assert plane.deviations[1] == pytest.approx(0.01 * SEEN_DOUBT) and plane.height == pytest.approx(math.exp(0.5))
    assert np.isfinite(Standing.of(bundle, road_seen(bundle, plane), NO_EVIDENCE, None).numbers).all()


@pytest.mark.parametrize(("roll", "pitch"), [(0.0, 8.0), (7.0, 0.0)])
def test_a_mounting_that_contradicts_the_picture_is_named_with_both(
    bundle: StudentBundle, roll: float, pitch: float
) -> None:
    stated = RoadPlane(math.radians(roll), math.radians(pitch), 1.65, SURE)
    plane = RoadPlane(0.0, 0.0, 1.65, SURE)
    own = road_seen(bundle, plane)
    found = Standing.of(bundle, own, Evidence(plane=plane), stated.upright_from_camera)
    said = f"stated to pitch by {pitch:.1f}° and to roll by {roll:.1f}°, while the road that it sees says "
    assert said in found.warning and "check tf, or camera height, pitch and roll" in found.warning
    assert found.upright_from_camera is not None


@pytest.mark.parametrize("roll", [50.0, 180.0])
def test_an_odd_mounting_breaks_nothing(bundle: StudentBundle, roll: float) -> None:
    plane = RoadPlane(math.radians(roll), 0.1, 1.65, SURE)
    found = Standing.of(
        bundle, road_seen(bundle, RoadPlane(0.0, 0.0, 1.65, SURE)), NO_EVIDENCE, plane.upright_from_camera
    )
    assert np.isfinite(found.numbers).all() and np.isfinite(found.plane.state).all()


def test_corners_have_a_depth_where_they_are_wanted_and_can_be_followed(
    bundle: StudentBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    corners = np.zeros((2, *SIZE), np.float32)
    corners[:, 0, :2] = [[2.0, 2.0], [50.0, 50.0]]
    image, own = np.zeros((192, 640, 3), np.uint8), OwnView(np.ones(SIZE, np.float32), np.zeros(SIZE, np.float32))
    estimator = EvidenceEstimator(bundle, np.ones((192, 640), np.bool_), corners=True)
    monkeypatch.setattr(estimator, "depths", lambda *_: corners)
    found = estimator.evidence(image, own, RigidTransform.identity(), 0, None)
    np.testing.assert_array_equal(found.sensed, corners)
    assert found.plane is None  # nothing was measured
    assert estimator.evidence(image, own, "unknown", 0, None).sensed is None
    monkeypatch.setattr(estimator, "depths", lambda *_: None)
    assert estimator.evidence(image, own, RigidTransform.identity(), 0, None).sensed is None
