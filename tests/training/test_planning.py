"""A plan of a training: what it counts by hand, what the cache then really takes, and what limits the steps."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from scene_completion_ros.cli import main
from scene_completion_training import CONFIGS, planning
from scene_completion_training.configuration import Configuration, read_configuration
from scene_completion_training.data.view_batches import ViewSamples
from scene_completion_training.field_stage import FieldStage
from scene_completion_training.planning import plan
from scene_completion_training.runner import make_stage
from scene_completion_training.stage import Stage
from scene_completion_training.stages.single_view import SingleViewConfiguration
from tests import official_layouts as layouts
from tests.training.small_trainings import small_data, small_training
from tests.training.test_published import SMALL


def cache_bytes(configuration: Configuration) -> int:
    """What the cache of a training takes when all is prepared."""
    stage = make_stage(configuration)
    assert isinstance(stage, FieldStage)
    stage.make_data().setup("fit")
    return sum(file.stat().st_size for file in Path(stage.settings.data.cache).rglob("*") if file.is_file())


def test_plan_of_a_published_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "kitti_360"
    layouts.kitti_360(root, frames=16, posed=range(16))
    listed = [f"{layouts.DRIVE} {number:010d} {side}" for number in range(4) for side in "lr"]
    split = layouts.write_split(root / "train_files.txt", listed)
    output, cache = tmp_path / "output", tmp_path / "cache"
    overrides = [
        *SMALL,
        f"data.root={root}",
        'data.sources=[{folder: "data_2d_raw/*"}]',
        "data.validation=[]",
        f"data.frames={split}",
        "data.validation_frames=",
        f"data.cache={cache}",
        f"output={output}",
        "data.batch_size=2",
        "steps=6",
    ]
    file = CONFIGS / "full_size" / "bts_kitti_360.yaml"
    assert main(["train", "--plan", "--config", str(file), *overrides]) == 0
    printed = capsys.readouterr().out
    assert not output.exists() and not cache.exists()
    assert "frames: 16 in the recordings; train_files.txt: 8 of 8 listed frames" in printed
    assert "samples: 12 in 6 steps, 1.50 epochs" in printed
    configuration = read_configuration(file, overrides, Configuration)
    found = plan(configuration)
    # Frames 0 to 3 and those one later, and ten later: 0 to 4, and 10 to 14.
    assert (found.frames, found.prepared, found.workers, found.gpu) == (16, 10, 0, None)
    assert found.prepared * found.frame_bytes == pytest.approx(cache_bytes(configuration), rel=0.1)
    assert f"GB in {cache} for 10 frames of {found.frame_bytes / 1e3:.0f} kB" in printed


def test_a_plan_that_measures(synthetic_drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of four frames are prepared to see what one takes; steps as slow as a sleep say what limits them."""
    monkeypatch.setattr(planning, "TRIED", 3)
    monkeypatch.setattr(planning, "TIMED", 1)
    data = dataclasses.replace(small_data(synthetic_drive), cache=str(tmp_path / "cache"), batch_size=2, workers=1)
    settings = small_training(synthetic_drive, tmp_path / "output", data=data, steps=10, devices=2)
    configuration = SingleViewConfiguration(**settings)
    take, step = ViewSamples.__getitem__, Stage.training_step

    def slow_sample(self: ViewSamples, number: int) -> dict[str, Tensor]:
        time.sleep(1.0)
        return take(self, number)

    def slow_step(self: Stage, batch: dict[str, Tensor], number: int) -> Any:
        time.sleep(6.0 * (number >= planning.WARM_UP))
        return step(self, batch, number)

    monkeypatch.setattr(Stage, "training_step", slow_step)
    found = plan(configuration)
    assert list(tmp_path.iterdir()) == []
    assert (found.frames, found.prepared, found.listed, found.samples) == (4, 4, None, 40)
    assert found.epochs == 10.0
    assert found.computing_s > 6.0 and not found.loading_limits
    assert found.prepared * found.frame_bytes == pytest.approx(cache_bytes(configuration), rel=0.1)
    monkeypatch.setattr(Stage, "training_step", step)
    monkeypatch.setattr(ViewSamples, "__getitem__", slow_sample)
    slow = plan(configuration)
    assert slow.loading_s > 2.0  # two samples
    assert slow.step_s == max(slow.computing_s, slow.loading_s)
