from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from scene_completion_ros.cli import main
from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.commands import evaluate as command
from scene_completion_training.evaluation.feature_evaluation import PARTNER
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.networks.feature_field import FeatureField
from scene_completion_training.viewpoint import STREET_CAMERA
from tests.training.evaluation.along_a_wall import NEXT
from tests.training.saved_checkpoint import save_checkpoint


@pytest.fixture(scope="module")
def foundation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "tiny"
    config = Dinov2Config(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, mlp_ratio=2, image_size=28, patch_size=14
    )
    Dinov2Model(config).save_pretrained(folder)
    return folder


def test_the_command_writes_what_it_prints(
    synthetic_drive: Path,
    feature_field_checkpoint: Path,
    foundation: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command_line = [
        "evaluate", "features", "--checkpoint", str(feature_field_checkpoint), "--foundation", str(foundation),
        "--data", str(synthetic_drive), "--step", "1", "--every", "2", "--stride", "16",
        "--output", str(tmp_path / "scores"),
    ]  # fmt: skip
    assert main(command_line) == 0
    text = (tmp_path / "scores" / "results.md").read_text()
    assert text in capsys.readouterr().out
    assert "recordings, 1 frames later" in text and "recordings, stereo partner" in text
    entries = json.loads((tmp_path / "scores" / "results.json").read_text())["scores"]
    assert {(entry["pair"], entry["method"]) for entry in entries} == {
        (pair, method) for pair in (NEXT, PARTNER) for method in ("mine", "tokens of the image")
    }
    for pair in (NEXT, PARTNER):
        mine, tokens = (entry for entry in entries if entry["pair"] == pair)
        assert mine["over_pixels"]["pixels"] == tokens["over_pixels"]["pixels"] > 0
        assert mine["pairs"] == tokens["pairs"] == 2


def test_the_command_refuses_what_it_cannot_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, feature_field_checkpoint: Path, foundation: Path
) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)

    def run(*arguments: str) -> None:
        asked = parser.parse_args(["features", "--foundation", str(foundation), "--output", "y", *arguments])
        asked.run_protocol(asked)

    data = ["--data", str(tmp_path)]
    with pytest.raises(ConfigurationError, match="nothing to score on"):
        run("--checkpoint", str(feature_field_checkpoint))
    with pytest.raises(ConfigurationError, match="0 and 5 frames"):
        run("--checkpoint", str(feature_field_checkpoint), "--step", "0", *data)
    with pytest.raises(ConfigurationError, match="stride: 5 pixels"):
        run("--checkpoint", str(feature_field_checkpoint), "--stride", "5", *data)
    with pytest.raises(ConfigurationError, match="equal names"):
        run("--checkpoint", str(feature_field_checkpoint), str(feature_field_checkpoint), *data)
    monkeypatch.delenv("SCENE_COMPLETION_DATA", raising=False)
    with pytest.raises(ConfigurationError, match="its folder is not known"):
        run("--checkpoint", str(feature_field_checkpoint), "--windows", "06")
    torch.manual_seed(0)
    field = FeatureField(DensityField(STREET_CAMERA), target_size=5, channels=4, units=6, expansion=5)
    other = save_checkpoint(tmp_path / "other" / "checkpoints" / "last.ckpt", field, "feature_field")
    with pytest.raises(ConfigurationError, match="other has features of 5 numbers, the tokens have 8"):
        run("--checkpoint", str(other), *data)
