"""Linear probes on a wall of two classes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES, SEMANTIC_KITTI_CLASSES
from scene_completion_ros.geometry import OPTICAL_FROM_FORWARD
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.evaluation.classified_models import ClassifiedModel, fit_probes, labelled_points
from scene_completion_training.evaluation.density_model import Observation
from scene_completion_training.evaluation.semantic_evaluation import score, truths, voxel_classes
from scene_completion_training.evaluation.semantic_models import SemanticObservation
from tests.training.evaluation.one_wall import CAMERA, CAR, GRID, PaintedScene, make_street, voxels


def _street_of_two_classes() -> PosedSequence:
    """The street, the right part of whose wall is a building."""
    street = make_street()
    label, _ = voxels()
    centres = OPTICAL_FROM_FORWARD.apply(GRID.centres().astype(np.float64))
    label = np.where((label > 0) & (centres[..., 0] >= 1.0), SEMANTIC_KITTI_CLASSES.index("building"), label)
    street.frames[0].assets["voxel_label"] = lambda: label.astype(np.uint8)
    return street


def test_a_probe_says_the_classes_that_codes_tell() -> None:
    """All voxels right, by every naming; a car for a building where it has learned from codes that are swapped."""
    street = _street_of_two_classes()
    ((_, _, truth),) = list(truths([street]))
    observed = PaintedScene().observe(street, 0)
    points, classes = labelled_points(observed, 0.5, truth)
    shown = voxel_classes(truth)[truth.regions["all"]]
    assert np.bincount(classes + 1, minlength=16).tolist() == [0, *np.bincount(shown[shown < 16], minlength=16)[1:]]
    assert np.array_equal(COMMON_CLASSES[CAR] == np.array(COMMON_CLASSES)[classes + 1], points[:, 0] < 1.0)
    probe = fit_probes([PaintedScene()], 0.5, [street])[0]
    assert probe.name == "painted scene, linear probe"
    metric = score([probe], [street])[0]
    for naming in probe.namings:
        scores = metric.compute(probe.names(naming))[51.2]
        assert scores.class_iou["car"] == scores.class_iou["building"] == scores.mean_iou_of_present == 1.0
        assert scores.mean_iou == pytest.approx(2 / 15)
    swapped = ClassifiedModel(PaintedScene(), 0.5, "swapped", lambda codes: np.where(codes[:, 0] > 0.7, 8, 0))
    scores = score([swapped], [street])[0].compute(swapped.names("majority"))[51.2]
    assert scores.iou == 1.0 and scores.class_iou["car"] == scores.class_iou["building"] == 0.0


def test_a_probe_learns_from_voxels_that_both_call_occupied() -> None:
    """What the density leaves out, clusters get no names from either; then nothing is left to learn from."""
    street = _street_of_two_classes()

    class Nothing(PaintedScene):
        def observe(self, sequence: PosedSequence, index: int) -> SemanticObservation:
            observed = super().observe(sequence, index)
            empty = Observation(CAMERA, lambda points: np.zeros(len(points), np.float32))
            return dataclasses.replace(observed, observation=empty)

    with pytest.raises(ConfigurationError, match="0 labelled voxels of fewer than two classes for a probe of painted"):
        fit_probes([Nothing()], 0.5, [street])
    with pytest.raises(ConfigurationError, match="fewer than two classes"):
        fit_probes([PaintedScene()], 0.5, [make_street()])  # all of it is a car
    with pytest.raises(ConfigurationError, match="0 labelled voxels"):
        fit_probes([PaintedScene()], 0.5, [make_street(assets=("lidar",))])
