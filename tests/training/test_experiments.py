"""The scripts of `training/experiments` run through, shortened: few rooms and towns, few steps, small models."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.foundation.tiny_models import MINILM, tiny_model

EXPERIMENTS = Path(__file__).resolve().parents[2] / "training" / "experiments"


def scored(name: str, folder: Path, **settings: object) -> dict[str, set[str]]:
    """Rows of each table of results, by folder of the scores."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OUT": str(folder), **{key: str(of) for key, of in settings.items()}}
    done = subprocess.run(
        ["bash", str(EXPERIMENTS / f"{name}.sh")], env=environment, capture_output=True, text=True, check=False
    )
    logs = "".join(file.read_text()[-2000:] for file in sorted((folder / "logs").glob("*.log")))
    assert done.returncode == 0, f"{done.stdout}{done.stderr}{logs}"
    return {
        file.parent.name: {row["method"] for rows in json.loads(file.read_text())["scores"].values() for row in rows}
        for file in folder.glob("scores/*/results.json")
    }


def small_dinov2(folder: Path) -> Path:
    """Three blocks as wide as those of DINOv2 Small."""
    tiny_model("dinov2", hidden_size=384).save_pretrained(folder)
    return folder


@pytest.mark.timeout(3600)
def test_masked_scene_modelling(tmp_path: Path) -> None:
    model = small_dinov2(tmp_path / "dinov2")
    small = {"ROOMS": 3, "TEST_ROOMS": 1, "STEPS": 2, "SHARE": 50, "LANES": 1, "FRAMES": 4, "MODEL": model, "LAYER": 1}
    rows = scored("msm", tmp_path / "out", ENCODER=MINILM, **small)
    assert rows.keys() == {"masked", "seeds", "ablations", "labelled"}
    linear = {name.removesuffix(", linear") for name in rows["masked"] if name.endswith(", linear")}
    assert linear == {"masked", "masked, random weights", "dinov2, lifted", "colour alone"}
    labelled = {name.partition(", ")[0] for name in rows["labelled"]}
    assert labelled == {"supervised", "fine_tuned", "supervised_share"}
    ablated = {name.partition(",")[0] for name in rows["ablations"]}
    assert ablated > {"top_down", "no_masking", "attention_only", "plain"}


@pytest.mark.timeout(3600)
def test_cua_o3d(tmp_path: Path) -> None:
    model = small_dinov2(tmp_path / "dinov2")
    models = {"DINOV2": model, "LAYER": 1, "DEPTH": model, "ENCODER": MINILM}
    rows = scored("cua_o3d", tmp_path / "out", ROOMS=2, LABELLED=2, TEST_ROOMS=1, STEPS=2, FRAMES=4, **models)
    assert {"3D", "2D, lifted", "2D and 3D, raw mean", "probe, concatenation"} <= rows["learned"]
    assert rows.keys() == {
        "learned", "text_alone", "text_and_dinov2", "equal_weights", "slides", "dinov2_alone", "depth_alone",
        "supervised", "supervised_geometry",
    }  # fmt: skip


@pytest.mark.timeout(3600)
def test_scenedino(tmp_path: Path) -> None:
    model = small_dinov2(tmp_path / "dinov2")
    small = {"TRAIN": 101, "TEST": 2001, "FIELD_STEPS": 2, "SEMANTICS_STEPS": 3, "MODEL": model, "LAYER": 1}
    rows = scored("scenedino", tmp_path / "out", **small)
    ablations = ["no_downsampler", "no_smoothness", "no_decomposition", "no_distillation", "no_knn", "no_neighbourhood"]
    assert rows.keys() == {f"{name}_0" for name in ["full", "five_crop", *ablations]}


@pytest.mark.timeout(3600)
def test_knowledge_distillation_on_real_drives(tmp_path: Path, shared_data: Path) -> None:
    drive = "[{folder: kitti_windows/sequences/00}]"
    rows = scored("kdbts", tmp_path / "out", STEPS=2, LOSSES="full", WINDOWS="06", DRIVES=drive, DATA=shared_data)
    assert rows.keys() == {"teacher_full_0", "student_full_0", "baseline_full_0"}
    assert len(rows["teacher_full_0"]) == 2  # of one view, and of four
