from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.errors import GpuError
from scene_completion_ros.inference.encoded_image import EncodedImage
from scene_completion_ros.inference.gpu import parity
from scene_completion_ros.inference.gpu.parity import KINDS, LIMITS, check_parity, errors, gate_images


@pytest.fixture
def encoded() -> list[EncodedImage]:
    rng = np.random.default_rng(0)
    scales = np.geomspace(20.0, 0.5, 8)
    return [
        EncodedImage(
            (rng.normal(size=(24, 80, 8)) * scales).astype(np.float32),
            rng.normal(size=(24, 20, 8)).astype(np.float32),
            rng.uniform(2.0, 120.0, (48, 160)).astype(np.float32),
        )
        for _ in range(2)
    ]


def changed(encoded: list[EncodedImage], output: str, factor: float, place: object = ...) -> list[EncodedImage]:
    """The same with a part of one output of the second image multiplied."""
    other = encoded[1].copy()
    getattr(other, output)[place] *= factor
    return [encoded[0], other]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("output", LIMITS)
def test_each_output_has_its_limit(encoded: list[EncodedImage], output: str, precision: str) -> None:
    limit = LIMITS[output][precision][0]
    lines = check_parity(encoded, changed(encoded, output, 1.0 + 0.9 * limit), precision)
    assert [line.split(" ")[:5:4] for line in lines] == [[kind, of] for of in LIMITS for kind in KINDS]
    (line,) = (line for line in lines if line.startswith(f"map error of the {output} "))
    assert float(line.split(" ")[5]) == pytest.approx(0.9 * limit, rel=0.01)
    expected = rf"the {precision} engine does not compute .*: map error of the {output} .* \(allowed {limit:g}\)"
    for factor in (1.0 + 1.1 * limit, float("nan"), float("inf")):
        with pytest.raises(GpuError, match=expected):
            check_parity(encoded, changed(encoded, output, factor), precision)


@pytest.mark.parametrize(
    ("output", "place", "factor"),
    [
        ("features", np.s_[..., 7], -1.0),  # the quietest channel
        ("features", np.s_[3, 4, 0], 50.0),  # one value
        ("depth", np.s_[7, 3], 2.1),
        ("volume", np.s_[..., 5], -1.0),  # a layer of one height
        ("depth", np.s_[7], 2.1),  # a row
    ],
)
def test_what_is_wrong_alone_is_shown(encoded: list[EncodedImage], output: str, place: object, factor: float) -> None:
    with pytest.raises(GpuError, match=f"(channel|largest) error of the {output}"):
        check_parity(encoded, changed(encoded, output, factor, place), "fp16")


def test_swapped_images_miss_and_rounding_to_fp16_does_not(encoded: list[EncodedImage]) -> None:
    with pytest.raises(GpuError, match="features .*volume .*depth"):
        check_parity(encoded, encoded[::-1], "fp16")
    plain = [EncodedImage(one.features) for one in encoded]
    rounded = [EncodedImage(one.features.astype(np.float16).astype(np.float32)) for one in encoded]
    assert len(check_parity(plain, rounded, "fp16")) == 3


def test_errors_by_hand() -> None:
    """Channels of 3 and 4 everywhere, whose map has a root mean square of √12.5; one value of the first is 2 off."""
    right = np.broadcast_to(np.float32([3.0, 4.0]), (2, 2, 2))
    other = right.copy()
    other[1, 0, 0] += 2.0
    whole = np.sqrt(12.5)
    np.testing.assert_allclose(errors([(right, other)], "features"), [np.sqrt(0.5) / whole, 1.0 / 3.0, 2.0 / whole])
    depth = np.full((2, 4), 10.0, np.float32)
    deeper = depth.copy()
    deeper[1, 2] = 15.0  # half of the right depth, in a row of four
    np.testing.assert_allclose(errors([(depth, deeper)], "depth"), [np.sqrt(0.25 / 8), 0.25, 0.5])
    with pytest.raises(ValueError, match="instead of"):
        errors([(depth, deeper[:1])], "depth")


def test_an_installation_without_gate_images_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(parity, "GATE_IMAGES", tmp_path)
    with pytest.raises(GpuError, match="no images for the parity gate"):
        gate_images(96, 320)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(GpuError, match="broken.jpg: is neither JPEG nor PNG"):
        gate_images(96, 320)
