"""LPIPS with weights that a hand can follow."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from scene_completion_ros.errors import BundleError
from scene_completion_training.evaluation.perceptual_distance import PerceptualDistance

CHANNELS = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}


def weights(features: str = "features.{}") -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """AlexNet whose first two features are red and green as they are, and whose others are nothing; linear weights."""
    network = {}
    for layer, (out, inputs, size) in CHANNELS.items():
        network[f"{features.format(layer)}.weight"] = torch.zeros(out, inputs, size, size)
        network[f"{features.format(layer)}.bias"] = torch.zeros(out)
    for channel in range(2):
        network[f"{features.format(0)}.weight"][channel, channel, 5, 5] = 1.0
    linear = {f"lin{k}.model.1.weight": torch.ones(1, out, 1, 1) for k, (out, *_) in enumerate(CHANNELS.values())}
    linear["lin0.model.1.weight"][0, :2, 0, 0] = torch.tensor([0.3, 0.5])
    return network, linear


def test_red_and_green_are_as_far_apart_as_their_weights_say(tmp_path: Path) -> None:
    """Red has the unit feature (1, 0), green (0, 1): 0.3 x 1 + 0.5 x 1. White has (r, g) / |(r, g)|."""
    network, linear = weights()
    torch.save({**network, "classifier.6.bias": torch.zeros(3)}, tmp_path / "alexnet.pth")
    torch.save(linear, tmp_path / "alex.pth")
    distance = PerceptualDistance.open([tmp_path / "alexnet.pth", tmp_path / "alex.pth"])
    red, green, white = (np.zeros((64, 48, 3), np.float32) for _ in range(3))
    red[..., 0], green[..., 1], white[...] = 1.0, 1.0, 1.0
    assert distance(red, red) == 0.0
    assert distance(red, green) == pytest.approx(0.8, abs=1e-5)
    r, g = (1.0 + 0.030) / 0.458, (1.0 + 0.088) / 0.448
    length = (r * r + g * g) ** 0.5
    assert distance(white, red) == pytest.approx(0.3 * (r / length - 1) ** 2 + 0.5 * (g / length) ** 2, abs=1e-5)


def test_what_holds_no_weights_is_refused(tmp_path: Path) -> None:
    network, linear = weights()
    file = tmp_path / "weights.pth"
    torch.save(network, file)
    with pytest.raises(BundleError, match=r"lin0\.weight.*alexnet-owt"):
        PerceptualDistance.open([file])
    torch.save({**network, **linear, "features.3.weight": torch.zeros(192, 5, 5, 5)}, file)
    with pytest.raises(BundleError, match="no weights of LPIPS with AlexNet"):
        PerceptualDistance.open([file])
    torch.save(Path, file)  # a pickle that would run something
    with pytest.raises(BundleError, match="no weights of LPIPS"):
        PerceptualDistance.open([file])
