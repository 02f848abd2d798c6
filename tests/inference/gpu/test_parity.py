from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.errors import GpuError
from scene_completion_ros.inference.gpu import parity
from scene_completion_ros.inference.gpu.parity import DEPTH_LIMITS, LIMITS, VOLUME_LIMITS, compare, gate_images


@pytest.fixture
def features() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    scales = np.geomspace(20.0, 0.5, 8)
    return [(rng.normal(size=(24, 80, 8)) * scales).astype(np.float32) for _ in range(3)]


@pytest.mark.parametrize("precision", LIMITS)
def test_equal_features_pass(features: list[np.ndarray], precision: str) -> None:
    found = compare(features, [array.copy() for array in features], precision)
    assert (found.map_error, found.channel_error, found.largest_error, found.images) == (0.0, 0.0, 0.0, 3)
    assert found.passed
    found.require()


def test_rounding_to_fp16_passes_as_fp16_and_not_as_fp32(features: list[np.ndarray]) -> None:
    rounded = [array.astype(np.float16) for array in features]
    assert compare(features, rounded, "fp16").passed
    found = compare(features, rounded, "fp32")
    assert found.misses
    assert 1e-5 < found.map_error < 1e-3


def test_the_numbers_are_those_of_the_definition(features: list[np.ndarray]) -> None:
    wrong = [features[0] * 1.01, features[1], features[2]]
    wrong[0] = wrong[0].copy()
    found = compare(features, wrong, "fp16")
    assert found.map_error == pytest.approx(0.01, rel=1e-3)
    assert found.channel_error == pytest.approx(0.01, rel=1e-3)
    scale = float(np.sqrt(np.mean(features[0].astype(np.float64) ** 2)))
    assert found.largest_error == pytest.approx(0.01 * np.abs(features[0]).max() / scale, rel=1e-3)


@pytest.mark.parametrize("precision", LIMITS)
def test_a_wrong_channel_does_not_hide_among_right_ones(features: list[np.ndarray], precision: str) -> None:
    wrong = [array.copy() for array in features]
    wrong[2][..., 7] = -wrong[2][..., 7]  # the quietest one, of one image
    found = compare(features, wrong, precision)
    assert found.map_error < LIMITS["int8"].map_error
    with pytest.raises(GpuError, match=r"channel error is .* where .* is allowed.*discarded"):
        found.require()


def test_one_wrong_value_is_seen(features: list[np.ndarray]) -> None:
    wrong = [array.copy() for array in features]
    wrong[1][3, 4, 0] += 200.0
    with pytest.raises(GpuError, match="largest error is"):
        compare(features, wrong, "fp16").require()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_never_passes(features: list[np.ndarray], value: float) -> None:
    wrong = [array.copy() for array in features]
    wrong[0][0, 0, 7] = value
    found = compare(features, wrong, "int8")
    assert found.not_finite == 1
    with pytest.raises(GpuError, match="1 values are not finite"):
        found.require()


def test_swapped_images_and_channels_miss(features: list[np.ndarray]) -> None:
    assert not compare(features, features[::-1], "int8").passed
    assert not compare(features, [array[..., ::-1] for array in features], "int8").passed
    assert not compare(features, [np.zeros_like(array) for array in features], "int8").passed


@pytest.mark.parametrize("precision", VOLUME_LIMITS)
def test_a_volume_has_limits_of_its_own(precision: str) -> None:
    rng = np.random.default_rng(0)
    volumes = [rng.normal(size=(24, 20, 8)).astype(np.float32) for _ in range(2)]
    limits = VOLUME_LIMITS[precision]
    for factor, passes in ((0.9, True), (1.1, False)):
        noisy = [volume * (1.0 + factor * limits.map_error) for volume in volumes]
        found = compare(volumes, noisy, precision, "volume")
        assert found.passed is passes
        assert found.as_record()["limits"] == vars(limits)
    with pytest.raises(GpuError, match="volume: map error is"):
        found.require()


@pytest.mark.parametrize("precision", VOLUME_LIMITS)
def test_a_wrong_layer_of_a_volume_does_not_hide_among_right_ones(precision: str) -> None:
    volumes = [np.random.default_rng(0).normal(size=(24, 20, 64)).astype(np.float32)]
    wrong = [volumes[0].copy()]
    wrong[0][..., 5] = -wrong[0][..., 6]
    assert "volume: channel error is" in "; ".join(compare(volumes, wrong, precision, "volume").misses)


@pytest.fixture
def depths() -> list[np.ndarray]:
    return [np.random.default_rng(0).uniform(2.0, 120.0, (48, 160)).astype(np.float32) for _ in range(2)]


@pytest.mark.parametrize("precision", DEPTH_LIMITS)
def test_a_depth_is_compared_by_its_share(depths: list[np.ndarray], precision: str) -> None:
    limits = DEPTH_LIMITS[precision]
    for factor, passes in ((0.9, True), (1.1, False)):
        found = compare(depths, [depth * (1.0 + factor * limits.map_error) for depth in depths], precision, "depth")
        assert found.passed is passes
        assert found.map_error == pytest.approx(factor * limits.map_error, rel=1e-2)
        assert found.as_record()["limits"] == vars(limits)
    with pytest.raises(GpuError, match="depth: map error is"):
        found.require()
    broken = [depth.copy() for depth in depths]
    broken[1][3, 4] = np.nan
    assert compare(depths, broken, precision, "depth").not_finite == 1


@pytest.mark.parametrize("precision", DEPTH_LIMITS)
@pytest.mark.parametrize(("place", "said"), [(np.s_[7], "depth: channel error is"), (np.s_[7, 9], "depth: largest")])
def test_a_wrong_row_or_pixel_of_a_depth_does_not_hide(
    depths: list[np.ndarray], precision: str, place: tuple[int, ...], said: str
) -> None:
    wrong = [depth.copy() for depth in depths]
    wrong[0][place] *= 2.1
    assert said in "; ".join(compare(depths, wrong, precision, "depth").misses)


@pytest.mark.parametrize("precision", DEPTH_LIMITS)
def test_depths_of_another_place_or_shape_miss(depths: list[np.ndarray], precision: str) -> None:
    assert not compare(depths, [depth[::-1] for depth in depths], precision, "depth").passed
    with pytest.raises(ValueError, match="cannot be compared"):
        compare(depths, [depth[:, 1:] for depth in depths], precision, "depth")


@pytest.mark.parametrize("count", [0, 2])
def test_other_numbers_of_maps_are_a_mistake(features: list[np.ndarray], count: int) -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        compare(features[:count], features, "fp16")
    with pytest.raises(ValueError, match="cannot be compared"):
        compare(features, [array[1:] for array in features], "fp16")


@pytest.mark.parametrize(("height", "width"), [(96, 320), (192, 640), (480, 640), (64, 64), (32, 400)])
def test_gate_images_are_pictures_of_the_size_that_is_wanted(height: int, width: int) -> None:
    images = gate_images(height, width)
    assert len(images) == 4
    for image in images:
        assert image.shape == (height, width, 3) and image.dtype == np.uint8
        assert image.flags.c_contiguous
        assert image.std() > 20.0
    assert not np.array_equal(images[0], images[1])


def test_an_installation_without_gate_images_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(parity, "GATE_IMAGES", tmp_path)
    with pytest.raises(GpuError, match="no images for the parity gate"):
        gate_images(96, 320)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(GpuError, match="broken.jpg: is neither JPEG nor PNG"):
        gate_images(96, 320)
