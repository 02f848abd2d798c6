"""Optical flow between views, what it hides, and scores of shared pixels, by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from scene_completion_ros.errors import BundleError
from scene_completion_training.evaluation.novel_views import (
    PerceptualDistance,
    agreement,
    not_hidden,
    warped,
)

H, W = 6, 10


def flow(right: float, down: float = 0.0) -> np.ndarray:
    return np.broadcast_to(np.float32([right, down]), (H, W, 2)).copy()


def test_warping_reads_where_pixels_went() -> None:
    values = np.arange(W, dtype=np.float32)[None, :, None] + np.zeros((H, 1, 2), np.float32)
    found = warped(values, flow(1.5))
    np.testing.assert_allclose(found[:, :8, 1], np.broadcast_to(np.arange(8) + 1.5, (H, 8)))
    assert (found[:, 9:] == 0.0).all()


def test_forward_and_backward_have_to_agree() -> None:
    """2 pixels to the right and back: hidden are the two columns that leave the picture."""
    shown = not_hidden(flow(2.0), flow(-2.0))
    assert shown[:, :8].all() and not shown[:, 8:].any()
    # Off by e, e^2 < 0.01 (4 + (2 - e)^2) + 0.5: 0.7^2 = 0.49 < 0.5569, and 0.8^2 = 0.64 > 0.5544.
    assert not_hidden(flow(2.0), flow(-1.3))[:, :8].all()
    assert not not_hidden(flow(2.0), flow(-1.2)).any()
    # Downwards likewise, and of one pixel alone.
    assert not_hidden(flow(0.0, 1.0), flow(0.0, -1.0)).sum() == (H - 1) * W
    back = flow(0.0)
    back[2, 3] = 5.0
    assert np.argwhere(~not_hidden(flow(0.0), back)).tolist() == [[2, 3]]


def test_agreement_of_shared_pixels() -> None:
    """One pixel is equal, one has (3, 0) and (0, 4): L1 7, L2 5, cosine 0, and another class."""
    first, second = np.float32([[1, 2], [3, 0]]), np.float32([[1, 2], [0, 4]])
    found = agreement(first, second, lambda codes: codes.argmax(axis=1))
    assert found == pytest.approx({"l1": 3.5, "l2": 2.5, "cosine": 0.5, "same_class": 0.5})
    assert np.isnan(agreement(first, second)["same_class"]) and agreement(first[:0], second[:0]) == {}


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
