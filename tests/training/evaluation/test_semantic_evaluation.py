"""Semantics on a street with one wall: clusters, their names, what counts; and scores of pixels by hand."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.evaluation.metric import Scores
from scene_completion_ros.evaluation.truth import VoxelTruth
from scene_completion_ros.geometry import Camera, RigidTransform, VoxelGrid
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.clustering import Clusters, read_clusters, write_clusters
from scene_completion_training.evaluation.predictor import Prediction, voxel_classes
from scene_completion_training.evaluation.segmentation import (
    CLASSES,
    LEARNED,
    NAMED_BEFORE,
    NAMED_BY_SCORED,
    SEGMENTATION,
    SegmentationAnswer,
    SegmentationTally,
)
from scene_completion_training.evaluation.semantic_evaluation import (
    SCENEDINO,
    ClassPrior,
    FittedModel,
    Sampling,
    named_by,
    survey,
)
from tests.training.evaluation.one_wall import CAR, GRID, PaintedWall, fit, make_street, score, true_voxels, voxels


def test_clusters_are_named_and_scored(street: PosedSequence, fitted: FittedModel) -> None:
    """All of the wall is "car": one of two clusters gets the name one to one; both have it in the second case."""
    one_to_one = fitted.names()
    assert one_to_one[0] == 0 and (one_to_one == CAR).sum() == 1
    metric = score([fitted], [street])[0]
    both = metric.compute(np.array([0, CAR, CAR]))[51.2]
    assert both["iou"] == both["class_iou"]["car"] == both["mean_iou_of_present"] == 1.0
    assert both["mean_iou"] == pytest.approx(1 / 15)
    # One to one, the other half is named something else.
    label, _ = voxels()
    truth = true_voxels(street)
    counted = truth.regions["all"] & (label > 0)
    centres = truth.grid_from_camera.inverse().apply(GRID.centres().astype(np.float64))
    left = counted & (centres[..., 0] < 1.0)
    named_left = one_to_one[1 + fitted.clusters.assign(np.array([[1.0, 0.0]], np.float32))[0]] == CAR
    part = left.sum() if named_left else counted.sum() - left.sum()
    assert metric.compute(one_to_one)[51.2]["class_iou"]["car"] == pytest.approx(part / counted.sum())


def test_what_no_sensor_sees_does_not_count(street: PosedSequence) -> None:
    """The wall's back is its interior, and what is below the ground is unknown."""
    truth = true_voxels(street)
    classes = voxel_classes(truth)
    assert set(np.unique(classes)) == {0, CAR, 255}
    assert (classes[~truth.known] == 255).all()
    inside = truth.regions_with_interiors["interiors"]
    assert inside.any() and (classes[inside] == 255).all() and not truth.regions["all"][inside].any()


def test_the_prior_knows_the_class_of_a_place(street: PosedSequence) -> None:
    prior = ClassPrior(PaintedWall(), 0.5, [street])
    scores = score([prior], [street])[0].compute(prior.names())[51.2]
    assert scores["class_iou"]["car"] == 1.0
    with pytest.raises(ConfigurationError, match="no frame has ground truth"):
        ClassPrior(PaintedWall(), 0.5, [make_street(assets=("lidar",))])
    with pytest.raises(ConfigurationError, match="no frame has ground truth"):
        named_by([PaintedWall()], Sampling(0.5), [Clusters(np.eye(2, dtype=np.float32))], [])


class NothingThere(PaintedWall):
    """Sees through the wall, to the end of its rays."""

    name = "empty field"

    def complete(self, sequence: PosedSequence, index: int) -> Prediction:
        seen = super().complete(sequence, index)
        return replace(seen, density=lambda points: np.zeros(len(points), np.float32), depth_range=(3.0, 200.0))


def test_where_no_pixel_shows_a_surface_nothing_is_clustered(street: PosedSequence) -> None:
    what = (
        f"empty field: its density has no surfaces: no pixel of {len(street)} frames shows one within 51.2 m. Train it"
    )
    with pytest.raises(ConfigurationError, match=what):
        fit([PaintedWall(), NothingThere()], street)
    with pytest.raises(ConfigurationError, match=what):
        survey(NothingThere(), [street], every=1, points_a_frame=50)


SMALL_GRID = VoxelGrid((0.0, 0.0, 0.0), 0.2, (5, 3, 3))
SMALL_CAMERA = Camera(10.0, 10.0, 5.0, 5.0, 11, 11)
EVERYWHERE = np.ones(SMALL_GRID.shape, bool)
TRUTH = VoxelTruth("made up", SMALL_GRID, RigidTransform.identity(), ~EVERYWHERE, EVERYWHERE, EVERYWHERE)


def field(density: np.ndarray, label: np.ndarray) -> Prediction:
    """A field whose density and label are those of cells of 0.1 m, [10, 6, 6]."""

    def cell(points: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(np.floor(points / 0.1).astype(int).T)

    return Prediction(
        SMALL_CAMERA,
        lambda points: density[cell(points)].astype(np.float32),
        codes=lambda points: np.eye(3, dtype=np.float32)[label[cell(points)]],
    )


def test_a_voxel_is_as_dense_as_the_densest_around_it() -> None:
    """The densest of 27 decides whether it is occupied, and its class is its own."""
    density, label = np.zeros((10, 6, 6)), np.full((10, 6, 6), 2)
    density[:2, 2:4, 2:4], label[:2, 2:4, 2:4] = 0.2, 1
    volume = SCENEDINO.labels(field(density, label), lambda codes: codes.argmax(axis=1), TRUTH)
    expected = np.zeros(SMALL_GRID.shape, np.uint8)
    expected[:2] = 3
    expected[0, 1, 1] = 2
    np.testing.assert_array_equal(volume, expected)
    density[:2, 2:4, 2:4] = 0.199
    assert not SCENEDINO.labels(field(density, label), lambda codes: codes.argmax(axis=1), TRUTH).any()


def test_a_survey_is_kept(street: PosedSequence, fitted: FittedModel, tmp_path: Path) -> None:
    codes, units = survey(PaintedWall(), [street], every=4, points_a_frame=50)
    assert len(codes) == len(units) <= 3 * 50 and {*codes.argmax(axis=1)} == {0, 1}
    file = tmp_path / "clusters.safetensors"
    write_clusters(file, fitted.clusters, codes, units)
    clusters, units, cluster = read_clusters(file)
    assert np.array_equal(clusters.centres, fitted.clusters.centres)
    assert np.array_equal(clusters.assign(units.astype(np.float32)), cluster)  # units are the codes here
    file.write_bytes(b"nothing")
    with pytest.raises(ConfigurationError, match="is not a valid safetensors file"):
        read_clusters(file)


# Pixels, by hand.

ROAD, BUILDING, SKY, CITYSCAPES_CAR = 0, 2, 10, 13


def labels_of(labels: list[int], truth: list[int]) -> SegmentationAnswer:
    return SegmentationAnswer(np.array(labels), np.array(truth, np.uint8))


def test_classes_of_two_images_by_hand() -> None:
    """Road 2 of 4 (two right, one missed, one too many), sky 1 of 2, car 0 of 1; 16 classes are nowhere."""
    tally = SegmentationTally(CLASSES, None)
    tally.add(labels_of([ROAD, ROAD, SKY, 7], [ROAD, ROAD, SKY, 255]))
    tally.add(labels_of([SKY, ROAD], [ROAD, CITYSCAPES_CAR]))
    tally.add(labels_of([ROAD], [255]))  # does not count
    (row,) = tally.rows()
    assert tally.frames == 2 and row["pixels"] == 5 and row["named_by"] == LEARNED
    iou = row["class_iou"]
    assert (iou["road"], iou["sky"], iou["car"]) == (2 / 4, 1 / 2, 0.0)
    assert np.isnan(iou["traffic sign"])  # predicted where nothing counts
    assert row["mean_iou"] == pytest.approx((1 / 2 + 1 / 2) / 19)
    assert row["mean_iou_of_true"] == pytest.approx((1 / 2 + 1 / 2) / 3)
    assert row["accuracy"] == pytest.approx(3 / 5)


def test_names_of_validation_images_stay_next_to_those_of_the_scored() -> None:
    """Clusters 0 and 1 were named road and building; in the scored images they have changed places."""
    naming = np.arange(3, CLASSES + 3) % CLASSES
    naming[:2] = ROAD, BUILDING
    scores = Scores([SEGMENTATION])
    method = SimpleNamespace(name="mine", labels=CLASSES, naming=naming)
    scores.add("KITTI-360", method, labels_of([0, 0, 0, 1], [BUILDING, BUILDING, ROAD, ROAD]))
    before, bound = scores.rows("segmentation")
    assert (before["named_by"], bound["named_by"]) == (NAMED_BEFORE, NAMED_BY_SCORED)
    assert before["accuracy"] == 1 / 4 and bound["accuracy"] == 3 / 4
    assert before["class_iou"]["road"] == 1 / 4 and before["class_iou"]["building"] == 0.0
    assert bound["class_iou"]["road"] == 1 / 2 and bound["class_iou"]["building"] == 2 / 3
    assert before["class_iou"]["car"] is None
    assert "upper bound" in scores.markdown()
