"""Bundles exported once more: the outputs of encoders of before, and what bfloat16 is off."""

import dataclasses
import json
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import nn

from scene_completion_ros.inference.bundle import MANIFEST, PIXEL_OUTPUTS, StudentBundle
from scene_completion_ros.inference.gpu.parity import BF16
from scene_completion_training import export
from tests.inference.small_bundle import make_small_bundle, serialised


def test_an_encoder_of_before_gives_what_cells_look_up() -> None:
    """Depth and deviation as they are, probabilities of its logits, and what the convolution makes of these."""
    torch.manual_seed(0)
    reduce, size, count = nn.Conv2d(4, 5, 1), (3, 6), 4
    field: Any = types.SimpleNamespace(
        small=types.SimpleNamespace(height=size[0], width=size[1]),
        names=("road", "car", "wall"),
        spatial=types.SimpleNamespace(reduce=reduce),
    )
    port = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 2 + count, *size])
    view = helper.make_tensor_value_info("view", TensorProto.FLOAT, [1, 2 + count, *size])
    before = serialised([helper.make_node("Identity", ["image"], ["view"])], port, view, {})
    after = export._with_pixel_outputs(before, field)
    given = torch.randn(1, 2 + count, *size)
    session = onnxruntime.InferenceSession(after, providers=["CPUExecutionProvider"])
    surfaces, classes, context = session.run(list(PIXEL_OUTPUTS), {"image": given.numpy()})
    expected = given[:, 2:].softmax(dim=1)
    np.testing.assert_array_equal(surfaces[0], given[0, :2].permute(1, 2, 0))
    np.testing.assert_allclose(classes[0], expected[0].permute(1, 2, 0), atol=1e-6)
    np.testing.assert_allclose(context[0], reduce(expected)[0].permute(1, 2, 0).detach(), atol=1e-5)
    assert export._with_pixel_outputs(after, field) == after


def test_a_field_student_stays_what_it_is(tmp_path: Path) -> None:
    weights: dict[str, NDArray[Any]] = {"any": np.ones(3, np.float16)}
    made = make_small_bundle(tmp_path / "made", classes=3)
    made = made.save(tmp_path / "made", made.read_encoder(), weights)
    again = export.export_again(made, tmp_path / "again")
    assert again.sha256 == made.sha256 and again.class_names == made.class_names


@pytest.mark.parametrize("passes", [True, False])
def test_bfloat16_is_written_down_where_it_passes_alone(
    passes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_small_bundle(tmp_path, classes=3)
    before = (tmp_path / MANIFEST).read_bytes()
    monkeypatch.setattr(export, "cpu_has_bf16", lambda: True)
    limits = BF16.limits if passes else {**BF16.limits, "occupied_iou": 1.1}
    monkeypatch.setattr(export, "BF16", dataclasses.replace(BF16, limits=limits))
    found, in_words = export.measured_in_bf16(made)
    assert "IoU of the occupied voxels" in in_words
    assert found.passed_bf16 == StudentBundle.load(tmp_path).passed_bf16 == passes
    if not passes:
        assert (tmp_path / MANIFEST).read_bytes() == before
        return
    numbers = json.loads((tmp_path / MANIFEST).read_text())["bf16"]["parity"]
    assert numbers.keys() == BF16.limits.keys() and 0.9 < numbers["occupied_iou"] <= 1.0


def test_a_cpu_without_bfloat16_measures_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_small_bundle(tmp_path)
    monkeypatch.setattr(export, "cpu_has_bf16", lambda: False)
    found, in_words = export.measured_in_bf16(made)
    assert found is made and in_words.startswith("not measured")
