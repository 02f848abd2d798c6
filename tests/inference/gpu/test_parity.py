from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from scene_completion_ros.errors import GpuError
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.encoder import cpu_networks
from scene_completion_ros.inference.gpu import parity
from scene_completion_ros.inference.gpu.parity import BF16, DEVICE, Gate, gate_images, measure_voxels


def test_what_voxels_are_off_by_hand(bundle: StudentBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of six occupied voxels one is missing and one is added, of the other five two have another label."""
    right = cpu_networks(bundle, "onnxruntime", threads=1)
    image = gate_images(32, 96)[0]
    monkeypatch.setattr(parity, "gate_images", lambda height, width: [image, image])
    shape, off = bundle.grid.shape, np.zeros(bundle.grid.shape, np.float32)
    seen = parity.prepare_scene(bundle, bundle.grid, bundle.grid_from_camera).query.in_view
    off[seen] = 0.25

    def answering(occupied: list[int], label: list[int], probability: np.ndarray) -> Any:
        answer = SimpleNamespace(
            occupied=np.array(occupied),
            label=np.array(label),
            dense=SimpleNamespace(probability=probability),
            finite=True,
        )
        return SimpleNamespace(name="given", scene=lambda prepared: lambda image: answer)

    wanted = answering([3, 4, 5, 6, 7, 8], [0, 1, 2, 3, 4, 0], np.zeros(shape, np.float32))
    found = answering([2, 4, 5, 6, 7, 8], [0, 1, 2, 3, 0, 4], off)
    numbers = measure_voxels(bundle, cast(Any, found), cast(Any, wanted))
    assert numbers == pytest.approx({"probability_mean": 0.25, "occupied_iou": 5 / 7, "labels_agreement": 3 / 5})
    assert measure_voxels(bundle, right, right) == {
        "probability_mean": 0.0, "occupied_iou": 1.0, "labels_agreement": 1.0
    }  # fmt: skip


@pytest.mark.parametrize("gate", [BF16, DEVICE], ids=lambda gate: gate.what)
def test_each_number_has_its_limit(gate: Gate) -> None:
    assert len(gate.require(gate.limits)) == 3
    for name, limit in gate.limits.items():
        least = name in parity.AT_LEAST
        for wrong in (limit * (0.99 if least else 1.01), float("nan")):
            with pytest.raises(
                GpuError, match=f"{gate.what} does not .*: [^;]*allowed {'at least ' if least else ''}0"
            ):
                gate.require({**gate.limits, name: wrong})


def test_missing_gate_images_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(parity, "GATE_IMAGES", tmp_path)
    with pytest.raises(GpuError, match="no images for the parity gate"):
        gate_images(96, 320)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(GpuError, match="broken.jpg: is neither JPEG nor PNG"):
        gate_images(96, 320)
