"""Words on a street with one wall, whose halves have different features."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from scene_completion_ros.evaluation.semantics import cosines, unit_vectors
from scene_completion_ros.evaluation.truth import VoxelTruth
from scene_completion_ros.geometry import DEFAULT_GRID_FROM_CAMERA, VoxelGrid
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, StudentBundle
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.inference.text_bank import BankClass, TextBank
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.evaluation.deployed import DeployedStudent
from scene_completion_training.evaluation.geometry import voxel_frames
from scene_completion_training.evaluation.open_vocabulary import (
    COMMON,
    METRICS,
    SEMANTIC_KITTI,
    Asked,
    DeployedFeatures,
    ZeroShot,
    label_set_of,
)
from scene_completion_training.evaluation.predictor import Prediction, Predictor
from scene_completion_training.evaluation.semantic_evaluation import FeatureFieldModel
from scene_completion_training.networks.agglomerated_field import AgglomeratedField
from scene_completion_training.networks.density_field import DensityField
from tests.training.evaluation.one_wall import PaintedWall, Wall, make_street, true_voxels
from tests.training.small_trainings import SIZE, VIEW, save_checkpoint

WORDS = {"automobile": (1,), "house": (13,), "hedge": (15,)}
ALL, VISIBLE, OCCLUDED = ((51.2, region) for region in ("all", "visible", "occluded"))


def make_bank(**phrases: tuple[tuple[str, ...], tuple[float, float, float]]) -> TextBank:
    """A bank whose classes have a direction each; words are on those of the classes that they mean."""
    directions = {p: vector for of, vector in phrases.values() for p in of}
    directions |= {"automobile": (1.0, 0.1, 0.0), "house": (0.1, 1.0, 0.0), "hedge": (0.0, 0.0, 1.0)}
    classes = tuple(BankClass(name.replace("_", "-"), of, (0, 0, 0)) for name, (of, _) in phrases.items())
    return TextBank(tuple(directions), np.array(list(directions.values())), "tiny", "0", classes=classes)


BANK = make_bank(
    car=(("car", "sedan"), (1.0, 0.0, 0.0)),
    building=(("building",), (0.0, 1.0, 0.0)),
    trunk=(("log",), (0.0, 0.0, 1.0)),
)


@dataclass
class Painted(Predictor):
    """Left of x = 1 m its features are those of a car, right of it of a building; there are none but where `known`."""

    name: str = "painted"
    known: Callable[[np.ndarray], np.ndarray] = lambda points: points[:, 2] < 100.0

    def complete(self, sequence: PosedSequence, index: int) -> Prediction:
        def features(points: np.ndarray) -> np.ndarray:
            left = points[:, 0] < 1.0
            found = np.stack([3.0 * left, 0.5 * ~left, np.zeros(len(points))], axis=-1)
            return np.where(self.known(points)[:, None], found, 0.0).astype(np.float32)

        return replace(PaintedWall().complete(sequence, index), codes=features)


def wall(street: PosedSequence) -> tuple[np.ndarray, np.ndarray]:
    """Centres of the wall's voxels that count, and whether they are visible."""
    truth = true_voxels(street)
    counted = truth.known & truth.regions["all"] & (truth.label > 0)
    centres = truth.grid_from_camera.inverse().apply(truth.grid.centres().astype(np.float64))[counted]
    return centres, truth.regions["visible"][counted]


def scores_of(model: Predictor, street: PosedSequence) -> SimpleNamespace:
    """Scores of `given` and `completion` by part, and of `words` by word in the part `ALL`."""
    method = Asked(model, ZeroShot(BANK, SEMANTIC_KITTI, WORDS), SEMANTIC_KITTI, 0.5)
    tallies = [metric.tally(method) for metric in METRICS]
    for frame in voxel_frames([street]):
        answer = method.answer(frame)
        for tally in tallies:
            tally.add(answer)
    given, completion, words = ([SimpleNamespace(**row) for row in tally.rows()] for tally in tallies)
    return SimpleNamespace(
        given={(row.range_m, row.region): row for row in given},
        completion={(row.range_m, row.region): row for row in completion},
        words={row.word: row for row in words if (row.range_m, row.region) == ALL},
    )


def test_all_phrases_of_the_vocabulary_give_what_is_common() -> None:
    """Those of classes and of the background; words of queries alone do not count."""
    bank = replace(BANK, background=("hedge",))
    seen = replace(Painted().complete(make_street(), 0), codes=lambda points: points)
    points = np.array([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]], np.float32)
    _, cosine, common = ZeroShot(bank, SEMANTIC_KITTI, {"automobile": (1,)})(seen, points)
    expected = [pytest.approx((1 + 1 + 0 + 0 + 0) / 5), -np.inf]  # car, sedan, building, log, hedge
    assert common.tolist() == expected
    assert cosine[0, 0] == pytest.approx(1.0 / np.hypot(1.0, 0.1), abs=1e-3) and np.isneginf(cosine[1, 0])


def test_labels_given_the_geometry(street: PosedSequence) -> None:
    """All of the wall is "car", and its left half is predicted as such."""
    assert label_set_of(street) is SEMANTIC_KITTI and label_set_of(make_street(("lidar",))) is COMMON
    scores = scores_of(Painted(), street)
    centres, visible = wall(street)
    left = centres[:, 0] < 1.0
    found = scores.given[ALL]
    assert found.voxels == len(centres) == scores.given[VISIBLE].voxels + scores.given[OCCLUDED].voxels
    assert found.mean_iou == found.class_accuracy["car"] == pytest.approx(left.mean())
    assert found.mean_iou_of_all == pytest.approx(left.mean() / 19)
    assert found.without_feature == 0 and found.released_mean_iou == found.mean_iou_of_all
    assert scores.given[VISIBLE].class_iou["car"] == pytest.approx(left[visible].mean())
    assert found.class_iou["building"] == 0.0 and np.isnan(found.class_iou["trunk"])
    assert scores.words["automobile"].average_precision == 1.0  # nothing else is there
    assert scores.words["house"].positives == 0
    assert (12.8, "all") in scores.given and set(scores.given) == set(scores.completion)


def test_voxels_without_a_feature_are_misses(street: PosedSequence) -> None:
    """Its upper half has no features: that is no car, but for the released code it is not there."""
    centres, _ = wall(street)
    middle = float(np.median(centres[:, 1]))
    scores = scores_of(Painted(known=lambda points: points[:, 1] < middle), street)
    left, known = centres[:, 0] < 1.0, centres[:, 1] < middle
    found = scores.given[ALL]
    assert found.without_feature == (~known).sum() > 0
    assert found.mean_iou == pytest.approx((left & known).mean())
    assert found.released_mean_iou == pytest.approx((left & known).sum() / known.sum() / 19)
    completed = scores.completion[ALL]
    assert completed.recall == pytest.approx(known.mean())  # what has no name is empty
    assert completed.precision == 1.0


def test_a_field_is_read_in_the_space_of_a_teacher(street: PosedSequence, tmp_path: Path) -> None:
    torch.manual_seed(0)
    field = AgglomeratedField(DensityField(VIEW.camera()), {"text": 5, "other": 3}, channels=4, units=6)
    file = save_checkpoint(tmp_path / "mine" / "checkpoints" / "last.ckpt", field, "agglomeration", camera=SIZE)
    model = FeatureFieldModel.open(file, Wall(), "text")
    assert model.name == "mine"
    points = np.array([[0.0, 0.0, 10.0], [1.0, 0.5, 20.0]], np.float32)
    seen = model.complete(street, 0)
    units = FeatureFieldModel(field, "mine", density=Wall()).complete(street, 0).units
    assert units is not None and units(points).shape == (2, 6)
    weight, bias = field.space("text")
    features = units(points) @ weight.numpy().T + bias.numpy()
    np.testing.assert_allclose(seen.codes(points), unit_vectors(features), atol=1e-5)
    assert seen.density(np.array([[0.0, 0.0, 11.0]], np.float32)) == 50.0


def test_a_deployed_student_is_read_as_it_answers_on_the_robot(street: PosedSequence) -> None:
    """The labels of its completer, computed from its units and phrases."""
    bundle = StudentBundle.load(DEFAULT_BUNDLE)
    bank = bundle.text_bank()
    (name,) = street.cameras
    camera = street.cameras[name]
    grid = VoxelGrid((0.0, -12.8, -2.2), 0.4, (128, 64, 16))
    completer = Completer(bundle, camera, grid=grid, grid_from_camera=DEFAULT_GRID_FROM_CAMERA)
    vocabulary = bank.vocabulary()
    completer.set_vocabulary(completer.prepare_vocabulary(vocabulary))
    voxels = completer.complete(street.image(0, name)).voxels
    named = voxels.label < len(vocabulary.names)  # not unknown
    assert named.sum() > 100
    model = DeployedFeatures(DeployedStudent(bundle), bank, Wall())
    seen = model.complete(street, 0)
    assert model.name == f"{bundle.name}, deployed"
    wanted = np.zeros(grid.shape, bool)
    wanted[tuple(voxels.index[named].T)] = True
    points = VoxelTruth("", grid, DEFAULT_GRID_FROM_CAMERA, wanted, wanted, wanted).centres(wanted)
    order = np.lexsort(voxels.index[named].T[::-1])
    scores = cosines(seen.codes(points), vocabulary.rows)
    scores[:, vocabulary.group < 0] = -1.0
    found = vocabulary.group[scores.argmax(axis=1)]
    assert (found == voxels.label[named][order]).mean() > 0.999
