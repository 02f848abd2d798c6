"""ESPNetv2 gives what the released code gives, and its weights are loaded strictly and as tensors alone."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_training.foundation.espnetv2 import ESPNetv2, load_espnetv2


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
    with pytest.raises(BundleError, match=message):
        load_espnetv2(tmp_path)
    assert not (tmp_path / "trapped").exists()


def test_weights_of_other_classes_are_refused(tmp_path: Path) -> None:
    torch.save(ESPNetv2((16, 32, 64, 128), classes=21).state_dict(), tmp_path / "pascal.pth")
    with pytest.raises(ConfigurationError, match=r"21 classes.*Cityscapes"):
        load_espnetv2(tmp_path)
