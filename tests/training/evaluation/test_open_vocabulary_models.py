"""Controls of words: what is lifted from pixels, where it may be seen, what knows no image, two models together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from scene_completion_ros.errors import ConfigurationError, SequenceError
from scene_completion_ros.evaluation.truth import VoxelTruth
from scene_completion_ros.evaluation.zero_shot import cosines, unit_vectors
from scene_completion_ros.geometry import DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, StudentBundle
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.evaluation.open_vocabulary import SEMANTIC_KITTI, ZeroShot, evaluate_models
from scene_completion_training.evaluation.open_vocabulary_models import (
    ClassPrior,
    DeployedFeatures,
    Ensemble,
    FieldFeatures,
    LiftedPixels,
    OnSurface,
    OracleLift,
    Remembered,
    most_frequent,
)
from scene_completion_training.evaluation.semantic_evaluation import truths
from scene_completion_training.networks.agglomerated_field import AgglomeratedField
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.networks.feature_heads import FeatureHeads
from scene_completion_training.networks.target_normaliser import TargetNormaliser
from scene_completion_training.viewpoint import STREET_CAMERA
from tests.training.evaluation.one_wall import CAMERA, WALL_FRONT, Wall, make_street
from tests.training.evaluation.test_open_vocabulary import ALL, BANK, WORDS, Painted
from tests.training.saved_checkpoint import save_checkpoint

CELL = 4


class LeftAndRight:
    """A teacher: the left half of an image is one thing, the right half another, and every feature has length two."""

    dim = 2

    def features(self, images: Tensor, cell: int) -> Tensor:
        tokens = torch.zeros(len(images), 2, images.shape[2] // cell, images.shape[3] // cell)
        half = tokens.shape[3] // 2
        tokens[:, 0, :, :half] = tokens[:, 1, :, half:] = 2.0
        return tokens


@pytest.fixture(scope="module")
def lifted() -> LiftedPixels:
    return LiftedPixels(LeftAndRight(), Wall(), CELL, CAMERA, "2D")


def test_points_have_the_feature_of_their_pixel(street: PosedSequence, lifted: LiftedPixels) -> None:
    """At any depth, also behind the wall; outside the image and behind the camera there is none."""
    x = np.array([-2.0, 2.0, -8.0, 90.0, 2.0])
    z = np.array([10.0, 10.0, 40.0, 10.0, -10.0])
    points = np.stack([x, np.zeros(5), z], axis=-1).astype(np.float32)
    seen = lifted.observe(street, 0)
    assert seen.features(points).tolist() == [[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    assert seen.observation.density(np.array([[0.0, 0.0, 11.0]], np.float32)) == 50.0


def test_only_the_rendered_surface_has_features(street: PosedSequence, lifted: LiftedPixels) -> None:
    """A column of points through the wall: those near its front, as the student's own depth shows it."""
    z = np.arange(4.0, 20.0, 0.25)
    points = np.stack([np.full_like(z, 0.5), np.zeros_like(z), z], axis=-1).astype(np.float32)
    known = OnSurface(lifted, "2D, visible").observe(street, 0).features(points).any(axis=1)
    assert known.any() and np.abs(z[known] - WALL_FRONT).max() < 1.5  # 0.4 m + 5 %, and the spacing of samples
    assert known[np.abs(z - WALL_FRONT - 0.25) < 0.3].all()
    beside = points + np.array([12.0, 0.0, 0.0], np.float32)  # the ray meets nothing before 80 m
    assert not OnSurface(lifted, "2D, visible").observe(street, 0).features(beside).any()


def test_the_oracle_lifts_to_what_is_truly_visible(street: PosedSequence, lifted: LiftedPixels) -> None:
    ((_, _, truth),) = list(truths([street]))
    centres = truth.grid_from_camera.inverse().apply(truth.grid.centres().astype(np.float64)).reshape(-1, 3)
    oracle = OracleLift(lifted, "oracle").observe(street, 0)
    known = oracle.features(centres.astype(np.float32)).any(axis=1)
    assert np.array_equal(known, truth.regions["visible"].reshape(-1))
    assert 0 < known.sum() < known.size
    outside = np.array([[0.0, 0.0, 500.0]], np.float32)
    assert not oracle.features(outside).any()
    with pytest.raises(SequenceError, match="no ground truth voxels"):
        OracleLift(lifted, "oracle").observe(make_street(("lidar",)), 0)


def test_the_prior_says_the_most_frequent_class_and_ranks_nothing(street: PosedSequence) -> None:
    zero_shot = ZeroShot(BANK, SEMANTIC_KITTI, WORDS)
    building, car = (SEMANTIC_KITTI.names.index(name) for name in ("building", "car"))
    assert most_frequent([street], SEMANTIC_KITTI, [building, car]) == car
    assert most_frequent([street], SEMANTIC_KITTI, [building]) == building
    with pytest.raises(ConfigurationError, match="no voxel is labelled"):
        most_frequent([make_street(("lidar",))], SEMANTIC_KITTI, [car])
    prior = ClassPrior(zero_shot.rows[zero_shot.group == building][0], Wall())
    scores = evaluate_models([(prior, zero_shot)], [street], SEMANTIC_KITTI, 0.5)[0]
    assert scores.given[ALL].class_accuracy["car"] == 0.0
    assert scores.given[ALL].without_feature == 0
    for word in WORDS:
        found = scores.words[word][ALL]
        assert found.average_precision == found.prior or (found.positives == 0 and np.isnan(found.average_precision))


def test_two_models_together(street: PosedSequence) -> None:
    """The one that is surer wins, or both are heard; where one knows nothing the other is asked."""
    rows = unit_vectors(np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))

    class Sure(Painted):
        def observe(self, sequence: PosedSequence, index: int):  # type: ignore[no-untyped-def]
            seen = super().observe(sequence, index)
            vector = np.array([0.1, 9.0, 9.0], np.float32)
            return type(seen)(seen.observation, lambda points: np.tile(vector, (len(points), 1)))

    half_blind = Painted(knows=lambda points: points[:, 1] > 0.0)
    points = np.array([[0.0, 1.0, 10.0], [2.0, 1.0, 10.0], [0.0, -1.0, 10.0]], np.float32)
    sure = unit_vectors(np.array([[0.1, 9.0, 9.0]]))[0]
    best = Ensemble(half_blind, Sure(), "max", rows).observe(street, 0)
    np.testing.assert_allclose(best.features(points), [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], sure], atol=1e-6)
    mean = Ensemble(half_blind, Sure(), "mean", None).observe(street, 0).features(points)
    np.testing.assert_allclose(mean[0], (np.array([1.0, 0.0, 0.0]) + sure) / 2.0, atol=1e-6)
    np.testing.assert_allclose(unit_vectors(mean)[2], sure, atol=1e-6)
    assert best.units is None and cosines(mean, rows).max() < 1.0


def test_a_field_is_read_in_the_space_of_a_teacher(street: PosedSequence, tmp_path: Path) -> None:
    torch.manual_seed(0)
    heads = FeatureHeads(4, {"text": 5, "other": 3})
    field = AgglomeratedField(
        DensityField(STREET_CAMERA),
        heads,
        {"text": TargetNormaliser(5, "standard"), "other": TargetNormaliser(3)},
        channels=4,
        units=6,
    )
    field.normalisers["text"].fit(torch.randn(50, 5) * torch.arange(1.0, 6.0) + 3.0)
    file = save_checkpoint(tmp_path / "mine" / "checkpoints" / "last.ckpt", field, "agglomeration")
    model = FieldFeatures.open(file, Wall(), "text")
    assert model.name == "mine"
    points = np.array([[0.0, 0.0, 10.0], [1.0, 0.5, 20.0]], np.float32)
    seen = model.observe(street, 0)
    assert seen.units is not None and seen.units(points).shape == (2, 6)
    space = field.space("text")
    features = seen.units(points) @ space.weight.numpy().T + space.bias.numpy()
    np.testing.assert_allclose(seen.features(points), unit_vectors(features), atol=1e-5)
    assert seen.observation.density(np.array([[0.0, 0.0, 11.0]], np.float32)) == 50.0
    with pytest.raises(ConfigurationError, match=r"no teacher third. There are text, other"):
        FieldFeatures.open(file, Wall(), "third")


def test_a_deployed_student_is_read_as_it_answers_on_the_robot(street: PosedSequence) -> None:
    """The labels of its completer, from its units and phrases as anybody would compute them."""
    bundle = StudentBundle.load(DEFAULT_BUNDLE)
    bank = bundle.text_bank()
    assert bank is not None
    (name,) = street.cameras
    camera = street.cameras[name]
    completer = Completer(bundle, camera, grid=DEFAULT_GRID, grid_from_camera=DEFAULT_GRID_FROM_CAMERA)
    vocabulary = bank.vocabulary()
    completer.use(completer.prepare_vocabulary(vocabulary))
    voxels = completer.complete(street.image(0, name)).voxels
    named = voxels.label < len(vocabulary.names)  # not unknown
    assert named.sum() > 100
    model = Remembered(DeployedFeatures(bundle, bank, Wall(), "mine"))
    seen = model.observe(street, 0)
    assert model.observe(street, 0) is seen and model.name == "mine"
    asked = np.zeros(DEFAULT_GRID.shape, bool)
    asked[tuple(voxels.index[named].T)] = True
    points = VoxelTruth("", DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA, asked, asked, asked).centres(asked)
    order = np.lexsort(voxels.index[named].T[::-1])
    scores = cosines(seen.features(points), vocabulary.rows)
    scores[:, vocabulary.group < 0] = -1.0
    found = vocabulary.group[scores.argmax(axis=1)]
    assert (found == voxels.label[named][order]).mean() > 0.999
    assert seen.units is not None and seen.units(points[:2]).shape == (2, bundle.head.label_hidden)
