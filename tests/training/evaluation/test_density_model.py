"""Depth and opacity of densities that are known by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest
from scene_completion_training.evaluation.density_model import (
    IDENTITY,
    VOXEL_EDGE,
    Observation,
    RememberedDensity,
    calibrated_cutoffs,
    over_voxel_edge,
)

from scene_completion_ros.geometry import RigidTransform
from scene_completion_ros.sequences.posed_sequence import Frame, PosedSequence
from scene_completion_ros.sequences.rigs import reference_camera
from scene_completion_ros.voxels.occupancy import Calibration, density_of_opacity
from tests.training.evaluation.one_wall import CAMERA, in_wall, make_street


def test_depth_is_along_the_optical_axis() -> None:
    everywhere = Observation(CAMERA, lambda points: np.where(points[:, 2] >= 10.0, 50.0, 0.0).astype(np.float32))
    pixels = np.array([[31.5, 11.5], [0.0, 0.0], [63.0, 23.0], [-40.0, 11.5]])
    depth = everywhere.depth(pixels, samples=2000)
    np.testing.assert_allclose(depth, 10.0, atol=0.05)  # a plane has one z-depth, whatever the distance along the ray
    # 64 samples: the first one behind z = 10 m, for i in 0..63: t = 1 / ((1 - s) / 3 + s / 80), s = (i + 1/2) / 64.
    s = (np.arange(64) + 0.5) / 64
    samples = 1 / ((1 - s) / 3 + s / 80)
    assert everywhere.depth(pixels[:1])[0] == pytest.approx(samples[samples >= 10.0][0], rel=1e-5)


def test_an_empty_field_renders_the_far_end() -> None:
    depth = Observation(CAMERA, lambda points: np.zeros(len(points), np.float32)).depth(np.array([[31.5, 11.5]]))
    assert depth[0] == pytest.approx(1 / (0.5 / 64 / 3 + (63.5 / 64) / 80), rel=1e-5)  # the last of 64 samples, 66.6 m


def test_calibrated_rule_is_the_threshold_on_the_probability() -> None:
    # Probability 0.4 is reached half way to the knot (0.5, 0.8): at opacity 0.25, density -ln 0.75 / 0.2 = 1.4384.
    calibration = Calibration("piecewise_linear", (0.0, 0.5, 1.0), (0.0, 0.8, 1.0))
    cutoffs = calibrated_cutoffs(calibration, 0.4)
    assert cutoffs["calibrated"] == pytest.approx(1.4384, abs=1e-4)
    assert cutoffs["σ > 0.5"] == 0.5
    assert density_of_opacity(np.array(0.25), VOXEL_EDGE) > cutoffs["calibrated"]  # "at least", as deployed
    plain = calibrated_cutoffs(IDENTITY, 0.4)
    assert list(plain) == ["σ > 0.5", "SceneDINO: σ ≥ 0.2", "S4C: σ ≥ 0.25"]
    density = np.float32([0.1999, 0.2, 0.25, 0.5])
    assert [(density > cutoff).tolist() for cutoff in plain.values()] == [
        [False, False, False, False],
        [False, True, True, True],
        [False, False, True, True],
    ]
    assert calibrated_cutoffs(Calibration("piecewise_linear", (0.0, 1.0), (0.0, 0.3)), 0.4)["calibrated"] == math.inf


def test_reference_camera() -> None:
    other = RigidTransform(np.eye(3), np.array([0.5, 0.0, 0.0]))
    street = make_street()

    def named(**places: RigidTransform) -> PosedSequence:
        return replace(
            street,
            cameras=dict.fromkeys(places, CAMERA),
            rig_from_camera=places,
            frames=[Frame(0, {}, RigidTransform.identity())],
        )

    assert reference_camera(named(b=RigidTransform.identity(), a=other)) == "b"  # the left one of the pair
    assert reference_camera(named(image_0=RigidTransform.identity(), image_2=other)) == "image_2"
    assert reference_camera(named(only=other)) == "only"


class CountedDensity:
    """Knows the wall, and counts the frames and points that it was asked about."""

    name = "counted"
    cutoffs: Mapping[str, float] = MappingProxyType({"σ > 0.5": 0.5})
    calibration: Calibration = IDENTITY

    def __init__(self) -> None:
        self.looked: list[int] = []
        self.asked: list[int] = []

    def observe(self, sequence: PosedSequence, index: int) -> Observation:
        self.looked.append(index)

        def density(points: np.ndarray) -> np.ndarray:
            self.asked.append(len(points))
            return in_wall(points).astype(np.float32) + index

        return Observation(CAMERA, density)


def test_a_shared_density_looks_once_a_frame(street: PosedSequence) -> None:
    counted = CountedDensity()
    shared = RememberedDensity(counted)
    points, other = np.zeros((3, 3), np.float32), np.ones((4, 3), np.float32)
    first = shared.observe(street, 0).density(points)
    first += 7.0  # what a caller does to it is not remembered
    assert shared.observe(street, 0).density(points.copy()).tolist() == [0.0, 0.0, 0.0]
    assert (counted.looked, counted.asked) == ([0], [3])
    assert len(shared.observe(street, 0).density(other)) == 4
    assert shared.observe(street, 1).density(points).tolist() == [1.0, 1.0, 1.0]
    assert shared.observe(make_street(), 1).density(points).tolist() == [1.0, 1.0, 1.0]
    assert (counted.looked, counted.asked) == ([0, 1, 1], [3, 4, 3, 3])


def test_a_calibration_over_small_voxels_says_the_same_over_the_usual_ones() -> None:
    """Of a density, whatever the edge that its opacity is taken over."""
    fine = Calibration("piecewise_linear", (0.0, 0.05, 0.2, 0.6, 1.0), (0.0, 0.1, 0.5, 0.9, 1.0))
    usual = over_voxel_edge(fine, 0.05)
    knots = -np.log1p(-np.array(fine.alpha[1:-1])) / 0.05  # densities per metre
    over = -np.expm1(-knots * 0.2).astype(np.float32)
    np.testing.assert_allclose(usual.apply(over), fine.probability[1:-1], atol=1e-5)
    assert over_voxel_edge(fine, 0.2) is fine and over_voxel_edge(IDENTITY, 0.05) is IDENTITY
