"""What a student goes on learning with, and the labels that it keeps."""

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch

from scene_completion_ros.errors import ImprovementError
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.encoder import OnnxRuntimeEncoder
from scene_completion_training.gpu_export.parity import density_field
from scene_completion_training.improvement.fine_tuning import check_parity, encoder_with_new_density
from scene_completion_training.networks.agglomerated_field import SURFACE_UNITS
from tests.training.small_students import CAMERA, make_small_student, street_images


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> StudentBundle:
    return make_small_student(tmp_path_factory.mktemp("labelled"))


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudentBundle, StudentBundle]:
    """A student whose labels read its depth, and what became of it when its decoder learned too."""
    student = make_small_student(tmp_path_factory.mktemp("old"), reads_depth=True)
    torch.manual_seed(1)
    return student, learned(student, tmp_path_factory.mktemp("new"), decoder_too=True)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return street_images(tmp_path_factory.mktemp("images") / "pictures", 2)


def learned(
    student: StudentBundle, folder: Path, *, decoder_too: bool = False, trunk_too: bool = False
) -> StudentBundle:
    """The student with labels after its density has learned; with its trunk, which the labels read as well."""
    before, after = density_field(student), density_field(student)
    with torch.no_grad():
        after.feature_layer.weight += 0.1
        if decoder_too:
            for weight in (*after.encoder.decoder.parameters(), *after.encoder.project.parameters()):
                weight.copy_((weight + 0.05 * torch.randn_like(weight)).half())
        if trunk_too:
            next(after.encoder.trunk.parameters()).mul_(1.2)
    encoder = encoder_with_new_density(student.read_encoder(), before, after, CAMERA)
    weights = {name: value.detach().numpy().astype(np.float16) for name, value in after.state_dict().items()}
    return student.save(folder, encoder, weights)


def test_labels_read_the_depth_that_was_learned(reading: tuple[StudentBundle, StudentBundle], pictures: Path) -> None:
    student, new = reading
    image = cv2.imread(str(pictures / "000.png"))
    image = np.ascontiguousarray(cv2.resize(image, (CAMERA.width, CAMERA.height)))
    hidden = student.head.hidden
    before, after = (OnnxRuntimeEncoder(one, threads=1).encode(image).features.copy() for one in (student, new))
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        old_code, code = (density_field(one).observe(pixels).depth_code[0].numpy() for one in (student, new))
    slope = np.array([slope for slope, _ in SURFACE_UNITS], np.float32)
    expected = before[..., hidden : hidden + len(slope)] - (code - old_code)[..., None] * slope
    assert np.abs(code - old_code).mean() > 0.05
    np.testing.assert_allclose(after[..., hidden : hidden + len(slope)], expected, atol=0.02 * np.abs(expected).max())
    np.testing.assert_allclose(after[..., hidden + len(slope) :], before[..., hidden + len(slope) :], atol=1e-4)


def test_labels_of_an_old_depth_are_found(
    reading: tuple[StudentBundle, StudentBundle], pictures: Path, tmp_path: Path
) -> None:
    """A graph whose labels read the new decoder through the old projection."""
    student, new = reading
    assert check_parity(new, student, [pictures], threads=1)["features_relative"] < 2e-3
    graph, stale = onnx.load_from_string(new.read_encoder()), onnx.load_from_string(student.read_encoder())
    (reader,) = (node for node in graph.graph.node if node.name == "/surface/Conv")
    (before,) = (node for node in stale.graph.node if node.name == "/surface/Conv")
    reader.CopyFrom(before)
    wrong = new.save(tmp_path / "wrong", graph.SerializeToString(), new.load_weights())
    with pytest.raises(ImprovementError, match="label units differ by"):
        check_parity(wrong, student, [pictures], threads=1)


def test_parity_finds_other_weights_and_other_labels(labelled: StudentBundle, pictures: Path, tmp_path: Path) -> None:
    taught = learned(labelled, tmp_path / "taught")
    assert check_parity(taught, labelled, [pictures], threads=1)["occupied_iou"] > 0.99
    wrong = labelled.save(tmp_path / "wrong", taught.read_encoder(), labelled.load_weights())
    with pytest.raises(ImprovementError, match="mean difference of the map is"):
        check_parity(wrong, labelled, [pictures], threads=1)
    with pytest.raises(ImprovementError, match="label units differ by"):
        check_parity(learned(labelled, tmp_path / "trunk", trunk_too=True), labelled, [pictures], threads=1)
