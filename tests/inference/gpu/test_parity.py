from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray

from scene_completion_ros.errors import GpuError
from scene_completion_ros.inference.gpu import parity
from scene_completion_ros.inference.gpu.parity import ENGINE, GRAPH, gate_images, map_errors

Features: TypeAlias = NDArray[np.float32]


@pytest.fixture
def encoded() -> list[Features]:
    rng = np.random.default_rng(0)
    scales = np.geomspace(20.0, 0.5, 8)
    return [(rng.normal(size=(24, 80, 8)) * scales).astype(np.float32) for _ in range(2)]


def changed(encoded: list[Features], factor: float, place: Any = ...) -> list[Features]:
    """The same with a part of the second image's multiplied."""
    other = encoded[1].copy()
    other[place] *= factor
    return [encoded[0], other]


def check_parity(right: list[Features], found: list[Features]) -> list[str]:
    return ENGINE.require(map_errors(right, found))


def test_an_engine_has_its_limit(encoded: list[Features]) -> None:
    limit = next(iter(ENGINE.limits.values()))
    lines = check_parity(encoded, changed(encoded, 1.0 + 0.9 * limit))
    assert [line.split(" ")[0] for line in lines] == ["map", "channel", "largest"]
    assert float(lines[0].split(" ")[5]) == pytest.approx(0.9 * limit, rel=0.01)
    expected = rf"the engine does not compute .*: map error of the features .* \(allowed {limit:g}\)"
    for factor in (1.0 + 1.1 * limit, float("nan"), float("inf")):
        with pytest.raises(GpuError, match=expected):
            check_parity(encoded, changed(encoded, factor))


def test_what_is_wrong_alone_is_shown_and_rounding_to_fp16_is_not(encoded: list[Features]) -> None:
    """The quietest channel, one value, and images that are swapped."""
    for wrong in (changed(encoded, -1.0, np.s_[..., 7]), changed(encoded, 50.0, np.s_[3, 4, 0]), encoded[::-1]):
        with pytest.raises(GpuError, match="(channel|largest) error of the features"):
            check_parity(encoded, wrong)
    rounded = [one.astype(np.float16).astype(np.float32) for one in encoded]
    assert len(check_parity(encoded, rounded)) == 3


def test_errors_by_hand() -> None:
    """Channels of 3 and 4 everywhere, whose map has a root mean square of √12.5; one value of the first is 2 off."""
    right = np.broadcast_to(np.float32([3.0, 4.0]), (2, 2, 2))
    other = right.copy()
    other[1, 0, 0] += 2.0
    whole = np.sqrt(12.5)
    found = list(map_errors([right], [other]).values())
    np.testing.assert_allclose(found, [np.sqrt(0.5) / whole, 1.0 / 3.0, 2.0 / whole])


@pytest.mark.parametrize("name", list(GRAPH.limits))
def test_each_number_of_a_graph_has_its_limit(name: str) -> None:
    gate, least = GRAPH, name in ("occupied_iou", "labels_agreement")
    assert len(gate.require(gate.limits)) == 4
    for wrong in (gate.limits[name] * (0.99 if least else 1.01), float("nan")):
        with pytest.raises(GpuError, match=f"the fp16 graph does not .*: [^;]*allowed {'at least ' if least else ''}0"):
            gate.require({**gate.limits, name: wrong})


def test_missing_gate_images_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(parity, "GATE_IMAGES", tmp_path)
    with pytest.raises(GpuError, match="no images for the parity gate"):
        gate_images(96, 320)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(GpuError, match="broken.jpg: is neither JPEG nor PNG"):
        gate_images(96, 320)
