"""The token of a cell is the mean over its pixels of the classes' embeddings, weighed by their probabilities."""

from pathlib import Path
from typing import Any

import pytest
import torch

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.sequences.kitti import kitti_odometry
from scene_completion_training.data.drawn_views import canonical_image
from scene_completion_training.foundation.class_probabilities import ClassProbabilityTeacher, read_class_texts
from scene_completion_training.foundation.espnetv2 import CITYSCAPES_CLASSES, ESPNetv2
from scene_completion_training.foundation.text_encoder import TextEncoder
from scene_completion_training.viewpoint import STREET_CAMERA

ROAD, BUILDING, VEGETATION, SKY, CAR = (
    CITYSCAPES_CLASSES.index(name) for name in ("road", "building", "vegetation", "sky", "car")
)


@pytest.fixture(scope="module")
def encoder(sentence_encoder: Path) -> TextEncoder:
    return TextEncoder(sentence_encoder)


def test_a_real_street_is_read_aright(shared_data: Path, espnetv2_cityscapes: Path, encoder: TextEncoder) -> None:
    """What is where was looked at; half of the shares that were found are asked for."""
    sequence = kitti_odometry(shared_data / "kitti_windows" / "sequences" / "06")
    name = next(iter(sequence.cameras))
    image: Any = torch.from_numpy(canonical_image(sequence.image(0, name), sequence.cameras[name], STREET_CAMERA))
    teacher = ClassProbabilityTeacher(espnetv2_cityscapes, encoder)
    with torch.no_grad():
        pixels = teacher._normalised(image.permute(2, 0, 1)[None].float())
        classes = teacher._probabilities(pixels)[0].argmax(dim=0)
    assert (classes[150:, 250:350] == ROAD).float().mean() > 0.9  # ahead of the car
    assert (classes[:20, 300:340] == SKY).float().mean() > 0.9
    shares = {c: (classes == c).float().mean().item() for c in (ROAD, BUILDING, VEGETATION, SKY, CAR)}
    assert shares[ROAD] > 0.06 and shares[BUILDING] > 0.12 and shares[VEGETATION] > 0.09
    assert shares[SKY] > 0.04 and shares[CAR] > 0.025


def test_a_class_lies_between_the_phrases_describing_it(encoder: TextEncoder, tmp_path: Path) -> None:
    torch.save(ESPNetv2((16, 32, 64, 128)).state_dict(), tmp_path / "narrow.pth")
    described = {"road": ("road", "asphalt")}
    plain, found = (
        ClassProbabilityTeacher(tmp_path / "narrow.pth", encoder, "a picture of a {}", described=one).embeddings
        for one in ({}, described)
    )
    both = encoder.encode(["a picture of a road", "a picture of a asphalt"]).sum(dim=0)
    torch.testing.assert_close(found[ROAD], both / both.norm())
    others = [number for number in range(len(CITYSCAPES_CLASSES)) if number != ROAD]
    torch.testing.assert_close(found[others], plain[others])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("road: [road]\nlake: [lake]", "lake: no class, or no list of phrases.*The classes are .*, terrain"),
        ("road: asphalt", "road: no class, or no list"),
        ("road: []", "road: no class, or no list"),
        ("road: 3", "road: no class, or no list"),
    ],
)
def test_class_texts_that_make_no_sense_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (file := tmp_path / "texts.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        read_class_texts(file)
