"""Bundles exported once more, and what bfloat16 is off."""

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from scene_completion_ros.cli import main
from scene_completion_ros.inference.bundle import MANIFEST, StudentBundle
from scene_completion_ros.inference.gpu.parity import BF16
from scene_completion_training import export
from tests.inference.small_bundle import make_small_bundle


class Transposed(nn.Module):
    """Channels last."""

    def forward(self, given: Tensor) -> Tensor:
        return given.squeeze(-1).transpose(1, 2)


def test_a_field_student_stays_what_it_is(tmp_path: Path) -> None:
    weights: dict[str, NDArray[Any]] = {"any": np.ones(3, np.float16)}
    made = make_small_bundle(tmp_path / "made", classes=3)
    made = made.save(tmp_path / "made", made.read_encoder(), weights)
    again = export.export_again(made, tmp_path / "again")
    assert again.sha256 == made.sha256 and again.class_names == made.class_names


@pytest.mark.parametrize("moment", ["measured_in_bf16", "export_again"])
def test_a_killed_export_leaves_the_former_bundle(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """When nothing of the new one is written yet, and when all of it is; and what is not the bundle's stays."""
    weights: dict[str, NDArray[Any]] = {"any": np.ones(3, np.float16)}
    made = make_small_bundle(tmp_path / "made", name="new")
    made.save(tmp_path / "made", made.read_encoder(), weights)
    former = make_small_bundle(tmp_path / "former", name="former", seed=7)
    (tmp_path / "former" / "README.md").write_text("mine")
    assert main(["export", "strret", str(tmp_path / "new"), "--licence", "none"]) == 2
    assert "(kitti_student, room, street). Did you mean street?" in capsys.readouterr().err
    assert main(["export", "strret", str(tmp_path / "new")]) == 2  # which needs no licence either
    assert "Did you mean street?" in capsys.readouterr().err
    command = ["export", str(tmp_path / "made"), str(tmp_path / "former")]
    assert main(command) == 2
    assert "encoder.onnx, head.safetensors, student.json exist already. Name another" in capsys.readouterr().err
    command.append("--overwrite")
    with monkeypatch.context() as patch:
        patch.setattr(export, moment, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        if not (child := os.fork()):
            main(command)
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert StudentBundle.load(tmp_path / "former").sha256 == former.sha256
    monkeypatch.setattr(export, "measured_in_bf16", lambda bundle: (bundle, "not measured"))
    assert main(command) == 0
    assert StudentBundle.load(tmp_path / "former").name == "new"
    assert (tmp_path / "former" / "README.md").read_text() == "mine"


def test_large_weights_are_int8_with_a_scale_for_each_channel() -> None:
    """Of a convolution and a product; what they compute is what their rounded weights say."""
    torch.manual_seed(0)
    convolution, small, product = nn.Conv2d(3, 96, 9), nn.Linear(8, 8), nn.Linear(96, 256, bias=False)
    module = nn.Sequential(convolution, nn.Flatten(2), small, nn.Unflatten(2, (8, 1)), Transposed(), product)
    image = torch.randn(1, 3, 9, 16)
    graph = onnx.load_from_string(export.graph_of(module, {"image": image}, ["made"], int8=True))
    stored = {one.name: numpy_helper.to_array(one) for one in graph.graph.initializer}
    packed = {name.removesuffix(".int8"): value for name, value in stored.items() if value.dtype == np.int8}
    assert sorted(value.shape for value in packed.values()) == [(96, 3, 9, 9), (96, 256)]
    for weight, transposed in ((convolution.weight, False), (product.weight, True)):
        largest = weight.detach().abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True)
        rounded = torch.round(weight.detach() / (largest / 127.0))
        name = next(name for name, value in packed.items() if value.ndim == weight.ndim)
        expected = rounded.T if transposed else rounded
        np.testing.assert_allclose(packed[name], expected, atol=1)  # one where a quotient ends in a half
        weight.data = rounded * (largest / 127.0)
    run = onnxruntime.InferenceSession(graph.SerializeToString())
    with torch.no_grad():
        np.testing.assert_allclose(run.run(None, {"image": image.numpy()})[0], module(image), rtol=0.01, atol=0.01)


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
