"""Trainings run, die, resume as if nothing had happened, and say what stopped them."""

import dataclasses
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import onnxruntime
import pytest
import safetensors.torch
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from scene_completion_ros import cli
from scene_completion_ros.cli import main
from scene_completion_ros.errors import BundleError, SceneCompletionError, TrainingError
from scene_completion_training import CONFIGS, runner
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.configuration import Configuration
from scene_completion_training.data.view_batches import ViewSamples, ViewSettings
from scene_completion_training.export import export_bundle
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.networks.multi_view_field import MultiViewField
from scene_completion_training.runner import plan, train
from scene_completion_training.stage import Stage
from scene_completion_training.stages.single_view import SingleViewConfiguration
from scene_completion_training.stages.teacher import TeacherConfiguration
from tests import official_layouts as layouts
from tests.training.small_trainings import STEPS, small_data, small_training, write_configuration
from tests.training.synthetic_scene import FOCAL, WIDTH
from tests.training.test_published import SMALL
from tests.training.training_process import start_command

KILLED_STEPS, KILL_AFTER = 16, 4
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}


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
    """After SIGKILL the next twelve losses agree to 1e-6 with those of a training that was left alone."""
    settings = small_training(
        synthetic_drive,
        tmp_path / "run",
        seed=3,
        steps=KILLED_STEPS,
        warmup=2,
        checkpoint_every=4,
        picture_every=12,
        ema_start=2,
        depth_only_steps=6,
        half_resolution_steps=KILLED_STEPS - 1,
    )
    data = dataclasses.replace(
        small_data(synthetic_drive), workers=1, cache=str(tmp_path / "cache"), views=ViewSettings(occupancy_points=256)
    )
    file = write_configuration(tmp_path / "config.yaml", SingleViewConfiguration(**{**settings, "data": data}))
    arguments = ["train", "--config", str(file), "--threads", "1"]
    # Each in a process of its own: a loader's worker is forked, of which a process that ran threads of OpenMP may die.
    _train([*arguments, f"output={tmp_path / 'whole'}"])
    checkpoints = tmp_path / "killed" / "checkpoints"
    process = start_command([*arguments, f"output={tmp_path / 'killed'}"])
    deadline = time.monotonic() + 200
    while not (checkpoints / "last.ckpt").exists() and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "the training ended before it could be killed"
    stopped = max(_losses(tmp_path / "killed"), default=0)
    _train([*arguments, f"output={tmp_path / 'killed'}"])
    whole, resumed = _losses(tmp_path / "whole"), _losses(tmp_path / "killed")
    after = [step for step in whole if step >= KILL_AFTER]
    assert stopped < KILLED_STEPS - 1
    assert len(after) >= 12
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
        expected = field.observe(torch.from_numpy(image)).hidden_map.permute(0, 2, 3, 1).numpy()
    assert np.abs(found - expected).max() < 5e-3 * np.abs(expected).max()
    assert bundle.encoder_path.stat().st_size < 25e6
    assert set(bundle.load_weights()) == set(field.state_dict())
    assert bundle.provenance["configuration"]["seed"] == 3
    assert str(tmp_path) not in json.dumps(bundle.provenance)
    assert bundle.focal_range == pytest.approx((0.99 * FOCAL / WIDTH, 1.01 * FOCAL / WIDTH))


def test_a_finished_training_stays_and_a_new_one_clears_its_folder(synthetic_drive: Path, tmp_path: Path) -> None:
    configuration = SingleViewConfiguration(**small_training(synthetic_drive, tmp_path / "run", steps=3))
    last = train(configuration)
    assert torch.load(last, weights_only=True)["global_step"] == 3  # though checkpoints are made every two steps
    before = {name: value.clone() for name, value in Checkpoint.read(last).state.items()}
    kept = sorted(file.name for file in last.parent.iterdir())
    train(configuration)
    assert sorted(file.name for file in last.parent.iterdir()) == kept
    assert all(torch.equal(value, before[name]) for name, value in Checkpoint.read(last).state.items())
    last.unlink()  # nothing to resume: what else lies there belongs to another training
    best, mine = last.with_name("best.ckpt"), last.with_name("mine.ckpt")
    best.write_bytes(b"of another training")
    mine.write_bytes(b"of nobody")
    with pytest.raises(SceneCompletionError, match=r"would overwrite .*best\.ckpt, which is read \(start_from\)"):
        train(dataclasses.replace(configuration, start_from=str(best)))
    train(configuration)
    assert sorted(file.name for file in last.parent.iterdir()) == sorted([*kept, mine.name])


def test_a_training_goes_on_without_what_it_started_from(synthetic_drive: Path, teacher: Path, tmp_path: Path) -> None:
    started = tmp_path / "started.ckpt"
    shutil.copy(teacher, started)
    settings = small_training(synthetic_drive, tmp_path / "run", steps=2, start_from=str(started))
    train(TeacherConfiguration(**settings))
    started.unlink()
    train(TeacherConfiguration(**settings))
    fresh = {**settings, "output": str(tmp_path / "other")}
    with pytest.raises(BundleError, match=r"started\.ckpt"):
        train(TeacherConfiguration(**fresh))


def test_a_loss_that_is_no_number_stops_with_its_batch(
    synthetic_drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head whose weights have run away: the batch on disk gives the same loss again."""
    forward = MultiViewField.observe

    def poisoned(self: MultiViewField, *arguments: object) -> object:
        with torch.no_grad():
            self.fusion.density_layer.weight.fill_(float("inf"))
        return forward(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(MultiViewField, "observe", poisoned)
    with pytest.raises(TrainingError, match=r"loss is .*nan.*batch_of_step_0\.safetensors"):
        train(TeacherConfiguration(**small_training(synthetic_drive, tmp_path / "nan")))
    batch = safetensors.torch.load_file(tmp_path / "nan" / "batch_of_step_0.safetensors")
    assert batch["encoder_images"].shape == (1, 3, 3, 192, 640) and torch.isfinite(batch["views"]).all()


def test_a_set_up_is_checked_in_two_steps(synthetic_drive: Path, tmp_path: Path) -> None:
    train(TeacherConfiguration(**small_training(synthetic_drive, tmp_path / "dry")), fast_dev_run=True)
    assert not list((tmp_path / "dry").rglob("*.ckpt"))


class FullDisk(lightning.Callback):
    """From the third step on the process may write no file of a megabyte."""

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: object) -> None:
        if trainer.global_step == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))


class CutOff(lightning.Callback):
    """The training is cut off when two steps have been taken."""

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: object) -> None:
        if trainer.global_step == 2:
            raise KeyboardInterrupt


def _watched(callback: lightning.Callback, **environment: str) -> None:
    """Adds a callback to the trainings of this process, and variables to its environment."""
    os.environ.update(environment)
    make = runner._trainer

    def watched(*arguments: Any, **options: Any) -> lightning.Trainer:
        trainer = make(*arguments, **options)
        trainer.callbacks.insert(0, callback)  # type: ignore[attr-defined]
        return trainer

    runner._trainer = watched


def _teacher_command(drive: Path, tmp_path: Path) -> list[str]:
    """The command that trains what the fixture `teacher` is, but for the picture."""
    file = tmp_path / "teacher.yaml"
    write_configuration(file, TeacherConfiguration(**small_training(drive, tmp_path / "run")))
    return ["train", "--config", str(file), "--threads", "1"]


def test_a_full_disk_leaves_the_checkpoint_before(synthetic_drive: Path, teacher: Path, tmp_path: Path) -> None:
    """What step two wrote stays, and goes on."""
    arguments = _teacher_command(synthetic_drive, tmp_path)
    process = start_command(arguments, partial(_watched, FullDisk()), tmp_path / "log")
    process.join(280)
    said = (tmp_path / "log").read_text()
    assert process.exitcode != 0 and "checkpoint could not be written" in said, said[-2000:]
    checkpoints = tmp_path / "run" / "checkpoints"
    assert not list(checkpoints.glob("*.part"))
    assert torch.load(checkpoints / "last.ckpt", weights_only=True)["global_step"] == 2
    assert cli.main(arguments) == 0
    assert torch.load(checkpoints / "last.ckpt", weights_only=True)["global_step"] == STEPS
    whole = Checkpoint.read(teacher).state
    for name, value in Checkpoint.read(checkpoints / "last.ckpt").state.items():  # as if nothing had happened
        torch.testing.assert_close(value, whole[name], rtol=0, atol=1e-6, msg=name)


def _curves(output: Path) -> dict[tuple[str, int], float]:
    """What was logged of losses and validation: name and step -> value; a later file replaces an earlier one."""
    found: dict[tuple[str, int], float] = {}
    for file in sorted((output / "curves").glob("events*")):
        events = EventAccumulator(str(file))
        events.Reload()
        names = [name for name in events.Tags()["scalars"] if name.startswith(("loss/", "validation/"))]
        found |= {(name, event.step): event.value for name in names for event in events.Scalars(name)}
    return found


@pytest.mark.parametrize("stage", [TeacherConfiguration, SingleViewConfiguration])
def test_two_processes_train_what_one_does_with_twice_the_batch(
    stage: type[Configuration], synthetic_drive: Path, tmp_path: Path
) -> None:
    """Samples, rays, dropped views, flips, losses, validation and average; cut off and resumed under torchrun."""
    data = small_data(synthetic_drive)
    data = dataclasses.replace(data, validation=data.sources, validation_samples=4)
    more = {"flip_features": True, "ema_decay": 0.5, "ema_start": 2, "validate_every": 2, "data": data, "seed": 5}
    file = write_configuration(
        tmp_path / "two.yaml", stage(**small_training(synthetic_drive, tmp_path / "two", warmup=0, **more))
    )
    command = ["train", "--config", str(file), "--threads", "1"]
    alone = ["data.batch_size=2", f"output={tmp_path / 'one'}"]
    assert cli.main([*command, *alone]) == 0
    started = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", _free_port()]
    if stage is TeacherConfiguration:
        _cut_off_in_two(command, tmp_path)
        launched = [*started, "-m", "scene_completion_ros.cli", *command]
    else:  # the trainer starts the second process
        launched = [sys.executable, "-m", "scene_completion_ros.cli", *command, "devices=2"]
    done = subprocess.run(launched, capture_output=True, text=True, timeout=280, env={**os.environ, **NO_GPU})
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(re.findall(r"^next ", done.stdout, re.MULTILINE)) == 1
    one, two = ((_curves(tmp_path / name)) for name in ("one", "two"))
    assert {step for name, step in one if name == "loss/total"} == set(range(STEPS))
    assert {step for name, step in one if name == "validation/total"} == {1, 3}
    assert two == pytest.approx(one, rel=1e-4, abs=1e-6)
    weights = [torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("one", "two")]
    for name, value in weights[0]["state_dict"].items():
        torch.testing.assert_close(weights[1]["state_dict"][name], value, rtol=1e-3, atol=2e-5, msg=name)


def _free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def _cut_off_in_two(command: list[str], tmp_path: Path) -> None:
    """Two steps of two processes, as torchrun would start them."""
    shared = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port(), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test", **NO_GPU,
    }  # fmt: skip
    processes = []
    for rank in ("0", "1"):
        before = partial(_watched, CutOff(), RANK=rank, LOCAL_RANK=rank, **shared)
        processes.append(start_command(command, before, tmp_path / f"log-{rank}"))
    for process in processes:
        process.join(280)
    checkpoint = tmp_path / "two" / "checkpoints" / "last.ckpt"
    assert checkpoint.is_file(), "".join(file.read_text()[-1500:] for file in sorted(tmp_path.glob("log-*")))
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 2


def test_plan_of_a_published_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "kitti_360"
    layouts.kitti_360(root, frames=16, posed=range(16))
    listed = [f"{layouts.DRIVE} {number:010d} {side}" for number in range(4) for side in "lr"]
    split = layouts.write_split(root / "train_files.txt", listed)
    overrides = [
        *SMALL,
        f"data.root={root}",
        'data.sources=[{folder: "data_2d_raw/*"}]',
        "data.validation=[]",
        f"data.frames={split}",
        "data.validation_frames=",
        f"data.cache={tmp_path / 'cache'}",
        f"output={tmp_path / 'output'}",
        "data.batch_size=2",
        "steps=6",
    ]
    file = CONFIGS / "full_size" / "bts_kitti_360.yaml"
    assert main(["train", "--plan", "--config", str(file), *overrides]) == 0
    printed = capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["kitti_360"]
    assert "frames: 16; train_files.txt: 8 of 8 listed frames" in printed
    assert "samples: 12 in 6 steps, 1.50 epochs" in printed
    assert "their samples from 0 workers" in printed and "GPU" not in printed


def test_a_plan_that_measures(synthetic_drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps as slow as a sleep say what limits them; frames are prepared where the training finds them."""
    monkeypatch.setattr(runner, "TIMED", 1)
    data = dataclasses.replace(small_data(synthetic_drive), cache=str(tmp_path / "cache"), batch_size=2, workers=1)
    settings = small_training(synthetic_drive, tmp_path / "output", data=data, steps=10, devices=2)
    configuration = SingleViewConfiguration(**settings)
    take, step = ViewSamples.__getitem__, Stage.training_step

    def slow_sample(self: ViewSamples, number: int) -> dict[str, Tensor]:
        time.sleep(1.0)
        return take(self, number)

    def slow_step(self: Stage, batch: dict[str, Tensor], number: int) -> Any:
        time.sleep(6.0 * (number >= runner.WARM_UP))
        return step(self, batch, number)

    def planned() -> tuple[list[str], float, float]:
        lines = plan(configuration)
        computing, loading = map(float, re.findall(r"([\d.]+) s", lines[2]))
        return lines, computing, loading

    monkeypatch.setattr(Stage, "training_step", slow_step)
    lines, computing, _ = planned()
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    assert lines[:2] == ["frames: 4", "samples: 40 in 10 steps, 10.00 epochs"]
    assert computing > 6.0 and lines[-1].startswith("limit: computing")
    monkeypatch.setattr(Stage, "training_step", step)
    monkeypatch.setattr(ViewSamples, "__getitem__", slow_sample)
    lines, computing, loading = planned()
    assert loading > 2.0  # two samples
    (hours,) = re.findall(r"training: (\S+) h", lines[3])
    assert float(hours) == pytest.approx(10 * max(computing, loading) / 3600, rel=0.02)


@pytest.mark.parametrize(("has", "used"), [(True, "bf16-mixed"), (False, "32-true")])
def test_a_device_that_only_imitates_bfloat16_trains_in_single_precision(
    has: bool, used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "computes_bfloat16", lambda device: has)
    assert runner._precision(Configuration(precision="bf16-mixed")) == used
    assert runner._precision(Configuration(precision="32-true")) == "32-true"
