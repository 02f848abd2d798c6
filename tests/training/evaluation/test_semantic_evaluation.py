"""Semantics on a street with one wall: clusters, their names, what counts."""

import json

import numpy as np
import pytest

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.evaluation.metric import Scores
from scene_completion_ros.evaluation.semantic_completion import SEMANTICS
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.clustering.clusters import Clusters
from scene_completion_training.evaluation.density_model import IDENTITY, Observation
from scene_completion_training.evaluation.geometry import voxel_frames
from scene_completion_training.evaluation.semantic_evaluation import (
    ClassPrior,
    FittedModel,
    Labels,
    named_by,
    voxel_classes,
)
from scene_completion_training.evaluation.voxel_sampling import Sampling
from tests.training.evaluation.one_wall import CAR, GRID, PaintedWall, make_street, score, true_voxels, voxels


def test_clusters_are_named_and_scored(street: PosedSequence, fitted: FittedModel) -> None:
    """All of the wall is "car": one of two clusters gets the name one to one; both have it in the second case."""
    one_to_one = fitted.names()
    assert one_to_one[0] == 0 and (one_to_one == CAR).sum() == 1
    metric = score([fitted], [street])[0]
    both = metric.compute(np.array([0, CAR, CAR]))[51.2]
    assert both.iou == both.class_iou["car"] == 1.0
    assert both.mean_iou == pytest.approx(1 / 15) and both.mean_iou_of_present == 1.0
    # One to one, the other half is called something else.
    label, _ = voxels()
    truth = true_voxels(street)
    counted = truth.regions["all"] & (label > 0)
    centres = truth.grid_from_camera.inverse().apply(GRID.centres().astype(np.float64))
    left = counted & (centres[..., 0] < 1.0)
    named_left = one_to_one[1 + fitted.clusters.assign(np.array([[1.0, 0.0]], np.float32))[0]] == CAR
    part = left.sum() if named_left else counted.sum() - left.sum()
    assert metric.compute(one_to_one)[51.2].class_iou["car"] == pytest.approx(part / counted.sum())


def test_what_no_sensor_sees_does_not_count(street: PosedSequence) -> None:
    """The wall's back is its interior, and what is below the ground is unknown."""
    truth = true_voxels(street)
    classes = voxel_classes(truth)
    assert set(np.unique(classes)) == {0, CAR, 255}
    assert (classes[~truth.known] == 255).all()
    inside = truth.regions_with_interiors["interiors"]
    assert inside.any() and (classes[inside] == 255).all() and not truth.regions["all"][inside].any()


def test_the_prior_knows_the_class_of_a_place(street: PosedSequence) -> None:
    class Density:
        name, calibration, cutoffs = "wall", IDENTITY, {"σ > 0.5": 0.5}

        def observe(self, sequence: PosedSequence, index: int) -> Observation:
            return PaintedWall().observe(sequence, index).observation

    prior = ClassPrior(Density(), 0.5, [street])
    scores = score([prior], [street])[0].compute(prior.names())[51.2]
    assert scores.class_iou["car"] == 1.0
    with pytest.raises(ConfigurationError, match="no frame has ground truth"):
        ClassPrior(Density(), 0.5, [make_street(assets=("lidar",))])
    with pytest.raises(ConfigurationError, match="no frame has ground truth"):
        named_by([PaintedWall()], Sampling(0.5), [Clusters(np.eye(2, dtype=np.float32))], [])


def test_tables_and_json_say_the_same(street: PosedSequence, fitted: FittedModel) -> None:
    scores = Scores([SEMANTICS])
    scores.run("towns", [Labels(fitted)], voxel_frames([street]))
    text = scores.markdown()
    assert "| painted wall | 1 | " in text
    assert "towns. Classes at 51.2 m." in text
    rows = json.loads(json.dumps(scores.to_json(), allow_nan=False))["semantics"]
    (row,) = [row for row in rows if row["range_m"] == 51.2]
    assert f"/ {100 * row['mean_iou']:.1f} |" in text and row["class_of_label"] == fitted.names().tolist()
    assert row["class_iou"]["road"] is None
