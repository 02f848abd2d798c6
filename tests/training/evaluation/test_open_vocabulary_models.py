"""Models that are asked for words, and their controls: what is lifted from pixels, what knows no image."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.evaluation.truth import VoxelTruth
from scene_completion_ros.evaluation.zero_shot import cosines, unit_vectors
from scene_completion_ros.geometry import DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, StudentBundle
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.evaluation.open_vocabulary_models import DeployedFeatures, LiftedPixels
from scene_completion_training.evaluation.semantic_models import FeatureFieldModel
from scene_completion_training.networks.agglomerated_field import AgglomeratedField
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.viewpoint import STREET_CAMERA
from tests.training.evaluation.one_wall import CAMERA, Wall
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


def test_a_field_is_read_in_the_space_of_a_teacher(street: PosedSequence, tmp_path: Path) -> None:
    torch.manual_seed(0)
    field = AgglomeratedField(DensityField(STREET_CAMERA), {"text": 5, "other": 3}, channels=4, units=6)
    file = save_checkpoint(tmp_path / "mine" / "checkpoints" / "last.ckpt", field, "agglomeration")
    model = FeatureFieldModel.open(file, None, Wall(), AgglomeratedField, "text")
    assert model.name == "mine"
    points = np.array([[0.0, 0.0, 10.0], [1.0, 0.5, 20.0]], np.float32)
    seen = model.observe(street, 0)
    units = FeatureFieldModel(field, "mine", density=Wall()).observe(street, 0).units
    assert units is not None and units(points).shape == (2, 6)
    weight, bias = field.space("text")
    features = units(points) @ weight.numpy().T + bias.numpy()
    np.testing.assert_allclose(seen.codes(points), unit_vectors(features), atol=1e-5)
    assert seen.observation.density(np.array([[0.0, 0.0, 11.0]], np.float32)) == 50.0
    with pytest.raises(ConfigurationError, match=r"no teacher third. There are text, other"):
        FeatureFieldModel.open(file, None, Wall(), AgglomeratedField, "third")


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
    model = DeployedFeatures(bundle, bank, Wall(), "mine")
    seen = model.observe(street, 0)
    assert model.name == "mine"
    asked = np.zeros(DEFAULT_GRID.shape, bool)
    asked[tuple(voxels.index[named].T)] = True
    points = VoxelTruth("", DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA, asked, asked, asked).centres(asked)
    order = np.lexsort(voxels.index[named].T[::-1])
    scores = cosines(seen.codes(points), vocabulary.rows)
    scores[:, vocabulary.group < 0] = -1.0
    found = vocabulary.group[scores.argmax(axis=1)]
    assert (found == voxels.label[named][order]).mean() > 0.999
