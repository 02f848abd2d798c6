"""The token of a cell is the mean over its pixels of the classes' embeddings, weighed by their probabilities."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_ros.sequences.kitti import kitti_odometry
from scene_completion_training.data.drawn_views import canonical_image
from scene_completion_training.foundation.class_probabilities import (
    CITYSCAPES_CLASSES,
    ClassProbabilityTeacher,
    ESPNetv2,
    _probabilities,
    load_espnetv2,
    read_class_texts,
)
from scene_completion_training.foundation.encoded_words import TextEncoder
from scene_completion_training.viewpoint import STREET_CAMERA

ROAD, BUILDING, VEGETATION, SKY, CAR = (
    CITYSCAPES_CLASSES.index(name) for name in ("road", "building", "vegetation", "sky", "car")
)


def test_a_real_street_is_read_aright(shared_data: Path, espnetv2_cityscapes: Path, encoder: TextEncoder) -> None:
    """What is where was looked at; half of the shares that were found are asked for."""
    sequence = kitti_odometry(shared_data / "kitti_windows" / "sequences" / "06")
    name = next(iter(sequence.cameras))
    image: Any = torch.from_numpy(canonical_image(sequence.image(0, name), sequence.cameras[name], STREET_CAMERA))
    teacher = ClassProbabilityTeacher(espnetv2_cityscapes, encoder)
    with torch.no_grad():
        pixels = (image.permute(2, 0, 1)[None].float() - teacher._mean) / teacher._deviation
        classes = _probabilities(teacher._network, pixels)[0].argmax(dim=0)
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
    ],
)
def test_class_texts_that_make_no_sense_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (file := tmp_path / "texts.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        read_class_texts(file)


def waves() -> Tensor:
    """Some image [1, 3, 64, 96] that can be written down."""
    red, green, blue = torch.linspace(-2, 2, 3 * 64 * 96).reshape(3, 64, 96)
    return torch.stack([torch.sin(7 * red), torch.cos(11 * green), torch.sin(13 * blue)])[None]


def test_scores_are_those_of_the_released_code(espnetv2_cityscapes: Path) -> None:
    """The numbers are from sacmehta/EdgeNets at 2b232d3 with the same weights."""
    network, file = load_espnetv2(espnetv2_cityscapes)
    assert file.suffix == ".pth"
    assert len(network.state_dict()) == 526
    scores = torch.nn.functional.interpolate(network(waves()), (64, 96), mode="bilinear", align_corners=True)
    found = scores[0, [0, 8, 10, 13], 32, 48].tolist()
    assert found == pytest.approx([-10.567636, 9.278087, -12.941771, 5.311815], abs=1e-3)
    assert scores[0, :4, 0, 0].tolist() == pytest.approx([-1.219530, -1.381813, 2.635502, 1.556442], abs=1e-3)
    assert (scores.mean().item(), scores.std().item()) == pytest.approx((0.031092, 4.278017), abs=1e-4)


class _Trap:
    """An object that runs something when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("trapped"),))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights | {"bu_br_l2.0.weight": torch.zeros(3)}, "size mismatch"),
        (lambda weights: {name: value for name, value in weights.items() if "level4.6" not in name}, "Missing key"),
        (lambda weights: weights | {"another": torch.zeros(1)}, "Unexpected key"),
        (lambda weights: [1.0], "no weights of ESPNetv2"),
        (lambda weights: weights | {"trap": _Trap()}, "no weights of ESPNetv2"),
        (lambda weights: pickle.dumps(_Trap()), "no weights of ESPNetv2"),
        (lambda weights: ESPNetv2((16, 32, 64, 128), classes=21).state_dict(), r"21 classes.*Cityscapes"),
    ],
)
def test_other_weights_are_refused(
    change: Callable[[Any], Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    changed = change(ESPNetv2((16, 32, 64, 128)).state_dict())  # a narrow network of the same layout
    if isinstance(changed, bytes):
        (tmp_path / "changed.pth").write_bytes(changed)
    else:
        torch.save(changed, tmp_path / "changed.pth")
    with pytest.raises((BundleError, ConfigurationError), match=message):
        load_espnetv2(tmp_path)
    assert not (tmp_path / "trapped").exists()
