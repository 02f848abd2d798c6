"""The command trains, dies, resumes as if nothing had happened, and exports what it trained."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from scene_completion_ros import cli
from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_ros.inference.bundle import load_default_bundle
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.commands.train import CONFIGS
from scene_completion_training.configuration import read_configuration
from scene_completion_training.export import export_bundle, fold, head_weights
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.runner import make_stage, train
from scene_completion_training.stages.single_view import SingleViewConfiguration
from scene_completion_training.stages.teacher import TeacherConfiguration
from tests.training.synthetic_scene import FOCAL, WIDTH
from tests.training.training_process import start_command

STEPS = 24
KILL_AFTER = 4

CONFIGURATION = """
seed: 3
steps: {steps}
warmup: 2
checkpoint_every: 4
picture_every: 20
log_every: 1
data:
  root: {root}
  cache: {cache}
  workers: 1
  sources: [{{folder: {folder}}}]
  fusion: {{free_samples: 20000, views: 3}}
  views: {{occupancy_points: 256}}
render: {{patches: 1, samples: 8}}
pretrained: false
ema_start: 2
depth_only_steps: 6
half_resolution_steps: 21
prior_steps: 2
"""


def _write(path: Path, drive: Path, cache: Path) -> Path:
    path.write_text(CONFIGURATION.format(steps=STEPS, root=drive.parent, cache=cache, folder=drive.name))
    return path


def _train(arguments: list[str]) -> None:
    process = start_command(arguments)
    process.join(280)
    if process.exitcode is None:
        process.kill()
    assert process.exitcode == 0, "the training failed; what it said is above"


def _losses(output: Path) -> dict[int, float]:
    found: dict[int, float] = {}
    for file in sorted((output / "curves").glob("events*")):
        events = EventAccumulator(str(file))
        events.Reload()
        found |= {event.step: event.value for event in events.Scalars("loss/total")}
    return found


def test_killed_training_resumes_on_the_same_losses(
    synthetic_drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After SIGKILL the next twenty losses agree to 1e-6 with those of a training that was left alone."""
    configuration = _write(tmp_path / "config.yaml", synthetic_drive, tmp_path / "cache")
    arguments = ["train", "--config", str(configuration), "--threads", "1"]
    # Each in a process of its own: a loader's worker is forked, of which a process that ran threads of OpenMP may die.
    _train([*arguments, f"output={tmp_path / 'whole'}"])
    checkpoints = tmp_path / "killed" / "checkpoints"
    process = start_command([*arguments, f"output={tmp_path / 'killed'}"])
    deadline = time.monotonic() + 200
    while not list(checkpoints.glob(f"step-{KILL_AFTER}*")) and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "the training ended before it could be killed"
    assert not (checkpoints / f"step-{STEPS}.ckpt").exists()
    stopped = max(_losses(tmp_path / "killed"), default=0)
    _train([*arguments, f"output={tmp_path / 'killed'}"])
    whole, resumed = _losses(tmp_path / "whole"), _losses(tmp_path / "killed")
    after = [step for step in whole if step >= KILL_AFTER]
    assert stopped < STEPS - 1
    assert len(after) >= 20
    np.testing.assert_allclose([resumed[step] for step in after], [whole[step] for step in after], rtol=0, atol=1e-6)

    averaged = [Checkpoint.read(tmp_path / run / "checkpoints" / "last.ckpt").state for run in ("whole", "killed")]
    for name, value in averaged[0].items():
        torch.testing.assert_close(averaged[1][name], value, rtol=0, atol=1e-6, msg=name)
        if name.endswith("running_mean"):
            assert torch.all(value == 0.0), f"{name} has learned from single images"

    assert cli.main([*arguments, f"output={tmp_path / 'whole'}", "learning_rate=0.5"]) != 0
    assert "learning_rate" in capsys.readouterr().err

    bundle = export_bundle(
        tmp_path / "whole" / "checkpoints" / "last.ckpt", tmp_path / "bundle", name="t", licence="none", provenance={}
    )
    link = torch.load(tmp_path / "whole" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    scale, offset = link["link.log_scale"].exp().item(), link["link.offset"].item()
    for logit in (-6.0, -2.5, 0.5):  # knots
        alpha = np.float32(1.0 - np.exp(-0.2 * np.log1p(np.exp(logit))))
        expected = 1.0 / (1.0 + np.exp(-(scale * logit + offset)))
        assert bundle.calibration.apply(np.array([alpha]))[0] == pytest.approx(expected, abs=1e-3)
    field = Checkpoint.read(tmp_path / "whole" / "checkpoints" / "last.ckpt").field_of(DensityField)
    session = onnxruntime.InferenceSession(str(bundle.encoder_path), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).uniform(0, 255, (1, 3, 192, 640)).astype(np.float32)
    (found,) = session.run(None, {"image": image})
    with torch.no_grad():
        expected = field.encode(torch.from_numpy(image)).permute(0, 2, 3, 1).numpy()
    assert np.abs(found - expected).max() < 5e-3 * np.abs(expected).max()
    assert bundle.encoder_path.stat().st_size < 25e6
    assert set(bundle.load_weights()) == set(field.state_dict())
    assert bundle.provenance["configuration"]["seed"] == 3
    assert str(tmp_path) not in json.dumps(bundle.provenance)
    assert bundle.focal_range == pytest.approx((0.99 * FOCAL / WIDTH, 1.01 * FOCAL / WIDTH))


@pytest.mark.parametrize(
    ("overrides", "field"), [({"steps": 7}, "steps"), ({"ema_decay": 0.9, "ema_start": 24}, "ema_start")]
)
def test_steps_that_contradict_each_other_are_refused(overrides: dict[str, float], field: str) -> None:
    settings = {"steps": 24, "checkpoint_every": 2, "ema_start": 2, **overrides}
    with pytest.raises(ConfigurationError, match=field):
        train(SingleViewConfiguration(**settings))


def test_training_can_go_on_from_the_shipped_student(tmp_path: Path) -> None:
    bundle = load_default_bundle()
    stage = make_stage(read_configuration(CONFIGS / "single_view.yaml", ["pretrained=false"]))
    assert isinstance(stage.field, DensityField) and bundle.folder is not None
    stage.load(str(bundle.folder))
    np.testing.assert_allclose(
        head_weights(stage.field).positional_weight, bundle.head.positional_weight, rtol=1e-3, atol=1e-4
    )
    teacher = make_stage(TeacherConfiguration(pretrained=False))
    teacher.load(str(bundle.folder))
    for name, value in teacher.encoder.state_dict().items():
        torch.testing.assert_close(value, stage.encoder.state_dict()[name], msg=name)
    torch.save({"state_dict": {"field.encoder.prior": torch.zeros(1)}}, tmp_path / "other.ckpt")
    with pytest.raises(BundleError, match="another network"):
        teacher.load(str(tmp_path / "other.ckpt"))


def test_folding_two_convolutions_is_exact() -> None:
    torch.manual_seed(0)
    first, second = torch.nn.Conv2d(5, 7, 1).double(), torch.nn.Conv2d(7, 3, 1, bias=False).double()
    x = torch.rand(2, 5, 4, 4, dtype=torch.float64)
    folded = fold(first, second).double()
    assert torch.allclose(folded(x), second(first(x)), atol=1e-6)


def test_unknown_configuration_keys_are_refused(tmp_path: Path, synthetic_drive: Path) -> None:
    configuration = _write(tmp_path / "config.yaml", synthetic_drive, tmp_path / "cache")
    read = read_configuration(configuration, ["steps=7", "losses.occupancy=0"])
    assert read.steps == 7 and read.losses.occupancy == 0 and read.data.sources[0].folder == synthetic_drive.name
    with pytest.raises(Exception, match="learningrate"):
        read_configuration(configuration, ["learningrate=1"])


def test_a_foreign_checkpoint_is_refused_without_running_it(tmp_path: Path) -> None:
    """A pickle that would write a file when loaded is refused and writes nothing."""
    marker = tmp_path / "executed"

    class Malicious:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (os.mkdir, (str(marker),))

    torch.save({"state_dict": Malicious()}, tmp_path / "foreign.ckpt")
    with pytest.raises(BundleError, match="not a checkpoint"):
        Checkpoint.read(tmp_path / "foreign.ckpt")
    assert not marker.exists()
