"""Masked scene modelling and CUA-O3D on rendered rooms."""

from pathlib import Path

import pytest

from tests.training.experiments.shortened import scored, small_dinov2
from tests.training.foundation.tiny_models import MINILM

pytestmark = pytest.mark.timeout(3600)


def test_masked_scene_modelling(tmp_path: Path) -> None:
    model = small_dinov2(tmp_path / "dinov2")
    models = {"MODEL": model, "LAYER": 1, "ENCODER": MINILM}
    small = {"ROOMS": 2, "TEST_ROOMS": 1, "STEPS": 2, "SHARE": 50, "ABLATIONS": "", "LANES": 1, "FRAMES": 2}
    rows = scored("msm", tmp_path / "out", "masked top_down fine_tuned supervised_share", **models, **small)
    assert rows.keys() == {"masked", "ablations", "labelled"}
    linear = {name.removesuffix(", linear") for name in rows["masked"] if name.endswith(", linear")}
    assert linear == {"masked", "masked, random weights", "dinov2, lifted", "colour alone"}
    assert {name.partition(", ")[0] for name in rows["labelled"]} == {"fine_tuned", "supervised_share"}
    assert "top_down" in {name.partition(",")[0] for name in rows["ablations"]}


def test_cua_o3d(tmp_path: Path) -> None:
    model = small_dinov2(tmp_path / "dinov2")
    models = {"DINOV2": model, "LAYER": 1, "DEPTH": model, "ENCODER": MINILM}
    small = {"ROOMS": 2, "LABELLED": 2, "TEST_ROOMS": 1, "STEPS": 2, "FRAMES": 2}
    rows = scored("cua_o3d", tmp_path / "out", "learned depth_alone supervised", **models, **small)
    assert rows.keys() == {"learned", "depth_alone", "supervised"}
    assert {"3D", "2D, lifted", "2D and 3D, raw mean", "probe, concatenation"} <= rows["learned"]
