"""A refined student is the student but for its candidates, on one scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from scene_completion_ros.errors import BundleError
from scene_completion_ros.geometry import DEFAULT_GRID_FROM_CAMERA, VoxelGrid
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.voxels.occupancy import Calibration, opacity
from scene_completion_training.checkpoints import KEY
from scene_completion_training.evaluation.checkpoints import open_checkpoint
from scene_completion_training.evaluation.deployed_model import DeployedModel
from scene_completion_training.evaluation.refined_model import Candidates, RefinedModel
from scene_completion_training.masked_scene.labels import LabelHead
from scene_completion_training.masked_scene.scenes import FEATURES, SceneMaker, VoxelScene
from scene_completion_training.sparse.hu_net import HUNetSettings, VoxelHUNet
from tests.inference.small_bundle import make_small_bundle
from tests.training.evaluation.one_wall import make_street
from tests.training.saved_checkpoint import save_checkpoint

SIZE = HUNetSettings(len(FEATURES), (8, 12), (8, 12))
FRAME, LEAST = 1, 0.2
GRID = VoxelGrid((0.0, -6.4, -2.2), 0.2, (96, 64, 24))
CURVE = Calibration("piecewise_linear", (0.0, 0.05, 1.0), (0.01, 0.6, 0.95))


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> StudentBundle:
    """A student with a calibration and a threshold."""
    return make_small_bundle(tmp_path_factory.mktemp("calibrated"), calibration=CURVE, threshold=0.5, grid=GRID)


@pytest.fixture(scope="module")
def street() -> PosedSequence:
    """Its frame 1 has no truth, and is completed on the student's grid."""
    return make_street()


@pytest.fixture(autouse=True)
def forgotten() -> None:
    """What refiners of other tests have seen."""
    Candidates.of.cache_clear()


def refiner(student: StudentBundle, folder: Path, correction: float, target: str = "occupancy") -> Path:
    """A checkpoint of a training that corrects all candidates by the same."""
    torch.manual_seed(0)
    head = LabelHead(sum(SIZE.decoder), "occupancy")
    torch.nn.init.constant_(head.bias, correction)
    data = {"voxel_size": 0.2, "student": str(student.folder), "threshold": LEAST}
    remembered = {"columns": list(FEATURES), "network": SIZE.plain(), "data": data, "steps": 7, "target": target}
    file = save_checkpoint(
        folder / "mine" / "checkpoints" / "last.ckpt", VoxelHUNet(SIZE), "supervised_scene", **remembered
    )
    content = torch.load(file, weights_only=True)
    content["state_dict"] |= {f"head.{name}": value for name, value in head.state_dict().items()}
    assert content[KEY]
    torch.save(content, file)
    return file


def asked(count: int = 3000) -> np.ndarray:
    """Points in the grid, in front of it and beside it."""
    return np.random.default_rng(0).uniform([-7, -2, 1], [7, 2.5, 24], (count, 3)).astype(np.float32)


def test_an_untrained_refiner_is_the_student(calibrated: StudentBundle, street: PosedSequence, tmp_path: Path) -> None:
    (model,) = open_checkpoint(refiner(calibrated, tmp_path, 0.0), threads=1)
    student = DeployedModel(calibrated, threads=1)
    points = asked()
    seen, stated = student.observe(street, FRAME), model.observe(street, FRAME)
    probability = student.calibration.apply(opacity(seen.density(points), 0.2))
    refined = opacity(stated.density(points), 0.2)
    np.testing.assert_allclose(refined, probability, atol=1e-5)
    assert model.name == "mine" and set(model.cutoffs) == {"calibrated"}
    occupied = stated.density(points) > model.cutoffs["calibrated"]
    sure = np.abs(probability - calibrated.threshold) > 1e-5
    np.testing.assert_array_equal(occupied[sure], (probability >= calibrated.threshold)[sure])
    np.testing.assert_array_equal(model.calibration.apply(refined), refined)
    pixels = np.array([[3.0, 4.0], [30.0, 11.0]])
    np.testing.assert_allclose(stated.depth(pixels), seen.depth(pixels))


def test_candidates_are_corrected_and_nothing_else(
    calibrated: StudentBundle, street: PosedSequence, tmp_path: Path
) -> None:
    """Points of a candidate voxel take its correction, wherever in it they lie; odds times 3."""
    model = RefinedModel.open(refiner(calibrated, tmp_path, float(np.log(3.0))), "refined", threads=1)
    student = DeployedModel(calibrated, threads=1)
    points = asked()
    stated = student.calibration.apply(opacity(student.observe(street, FRAME).density(points), 0.2))
    refined = opacity(model.observe(street, FRAME).density(points), 0.2)
    scene = SceneMaker(street, "predicted", student=calibrated, threshold=LEAST, threads=1).scene(FRAME)
    taken = set(map(tuple, scene.index.tolist()))
    voxel, inside = GRID.index_of(DEFAULT_GRID_FROM_CAMERA.apply(points.astype(np.float64)))
    candidate = inside & np.array([tuple(place) in taken for place in voxel.tolist()])
    assert 20 < candidate.sum() < 0.9 * len(points) and not inside.all()
    odds = stated[candidate] / (1.0 - stated[candidate])
    np.testing.assert_allclose(refined[candidate], 3 * odds / (1 + 3 * odds), atol=1e-4)
    np.testing.assert_allclose(refined[~candidate], stated[~candidate], atol=1e-5)


def test_a_frame_without_candidates_is_the_students(
    calibrated: StudentBundle, street: PosedSequence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = np.zeros(GRID.shape, np.float32)
    monkeypatch.setattr(SceneMaker, "_completed", lambda *_: (empty > 1.0, empty))
    model = RefinedModel.open(refiner(calibrated, tmp_path, 5.0), "refined", threads=1)
    student = DeployedModel(calibrated, threads=1)
    stated = student.calibration.apply(opacity(student.observe(street, FRAME).density(asked()), 0.2))
    np.testing.assert_allclose(opacity(model.observe(street, FRAME).density(asked()), 0.2), stated, atol=1e-5)


def test_refiners_share_their_student(
    calibrated: StudentBundle, street: PosedSequence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    scene = SceneMaker.scene

    def counted(self: SceneMaker, index: int) -> VoxelScene:
        made.append(index)
        return scene(self, index)

    monkeypatch.setattr(SceneMaker, "scene", counted)
    for number in range(2):
        model = RefinedModel.open(refiner(calibrated, tmp_path / str(number), 1.0), "refined", threads=1)
        model.observe(street, FRAME)
    assert made == [FRAME]


def test_other_checkpoints_are_refused(calibrated: StudentBundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"refines no student\. Name the checkpoint .* `supervised_scene`"):
        open_checkpoint(refiner(calibrated, tmp_path, 0.0, target="classes"))
