"""Trainings run, die, resume as if nothing had happened, and say what stopped them."""

import dataclasses
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from scene_completion_ros import cli
from scene_completion_ros.errors import BundleError, SceneCompletionError, SequenceError, TrainingError
from scene_completion_training import runner
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.configuration import Configuration
from scene_completion_training.data.view_batches import ViewSettings
from scene_completion_training.networks.density_field import MultiViewField
from scene_completion_training.networks.encoder_decoder import EncoderDecoder
from scene_completion_training.runner import train
from scene_completion_training.stage import Stage
from scene_completion_training.stages.density import TeacherConfiguration
from scene_completion_training.viewpoint import VolumeSettings
from tests.training.small_trainings import STEPS, VIEW, curves, small_data, small_training, write_configuration

KILLED_STEPS, KILL_AFTER = 16, 4


def start_command(
    arguments: Sequence[str], before: Callable[[], None] | None = None, log: Path | None = None
) -> ForkServerProcess:
    """Starts `scene-completion` with some arguments; the exit code of the process is that of the command.

    Importing takes as long as some tens of training steps. The server of the forks does it once; it has no threads, of
    which a fork would inherit the locks. `before`: called by the process first; `log`: takes its messages.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"scene_completion_training.{name}" for name in ("runner", "stages.density")])
    process = context.Process(target=_run, args=(list(arguments), before, log))
    process.start()
    return process


def _run(arguments: list[str], before: Callable[[], None] | None, log: Path | None) -> None:
    # As in any process; a loader's worker that the server forked would outlive the training that is killed.
    multiprocessing.set_start_method("fork", force=True)
    if log is not None:
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
    if before is not None:
        before()
    sys.exit(cli.main(arguments))


def _train(arguments: list[str]) -> None:
    process = start_command(arguments)
    process.join(280)
    if process.exitcode is None:
        process.kill()
    assert process.exitcode == 0, "the training failed; what it said is above"


def test_killed_training_resumes_on_the_same_losses(synthetic_drive: Path, tmp_path: Path) -> None:
    """After SIGKILL the next twelve losses agree to 1e-6 with those of a training that was left alone."""
    changes = {"steps": KILLED_STEPS, "warmup": 2, "checkpoint_every": KILL_AFTER, "ema_start": 2}
    changes |= {"seed": 3, "depth_only_steps": 6, "half_resolution_steps": KILLED_STEPS - 1}
    data, views = small_data(synthetic_drive), ViewSettings(occupancy_points=256)
    data = dataclasses.replace(data, workers=1, cache=str(tmp_path / "cache"), views=views)
    settings = Configuration(**small_training(synthetic_drive, tmp_path / "run", data=data, **changes))
    file = write_configuration(tmp_path / "config.yaml", settings)
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
    stopped = max((step for _, step in curves(tmp_path / "killed", "loss/")), default=0)
    _train([*arguments, f"output={tmp_path / 'killed'}"])
    whole, resumed = curves(tmp_path / "whole", "loss/"), curves(tmp_path / "killed", "loss/")
    after = [key for key in whole if key[0] == "loss/total" and key[1] >= KILL_AFTER]
    assert stopped < KILLED_STEPS - 1
    assert len(after) >= 12
    np.testing.assert_allclose([resumed[key] for key in after], [whole[key] for key in after], rtol=0, atol=1e-6)
    averaged = [Checkpoint.read(tmp_path / run / "checkpoints" / "last.ckpt").state for run in ("whole", "killed")]
    for name, value in averaged[0].items():
        torch.testing.assert_close(averaged[1][name], value, rtol=0, atol=1e-6, msg=name)
        if name.endswith("running_mean"):
            assert torch.all(value == 0.0), f"{name} has learned from single images"


def test_a_finished_training_stays_and_a_new_one_takes_nothing_away(synthetic_drive: Path, tmp_path: Path) -> None:
    configuration = Configuration(**small_training(synthetic_drive, tmp_path / "run", steps=3))
    last = train(configuration)
    assert torch.load(last, weights_only=True)["global_step"] == 3  # though checkpoints are made every two steps
    before = {name: value.clone() for name, value in Checkpoint.read(last).state.items()}
    kept = sorted(file.name for file in last.parent.iterdir())
    train(configuration)
    assert sorted(file.name for file in last.parent.iterdir()) == kept
    assert all(torch.equal(value, before[name]) for name, value in Checkpoint.read(last).state.items())
    for changes in ({"hidden": 32}, {"volume": VolumeSettings(near=2.0)}, {"steps": 20_000}):
        with pytest.raises(SequenceError, match=f"trained with other values of .*'{next(iter(changes))}'"):
            train(dataclasses.replace(configuration, **changes))  # type: ignore[arg-type]
    last.unlink()  # nothing to resume: what else lies there belongs to another training
    best = last.with_name("best.ckpt")
    best.write_bytes(b"of another training")
    with pytest.raises(SceneCompletionError, match=r"would overwrite .*best\.ckpt, which is read \(start_from\)"):
        train(dataclasses.replace(configuration, start_from=str(best)))
    with pytest.raises(SceneCompletionError, match=r"best\.ckpt: is of another training.*Name another `output`"):
        train(configuration)
    assert best.read_bytes() == b"of another training"


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
    assert batch["encoder_images"].shape == (1, 3, 3, VIEW.height, VIEW.width) and torch.isfinite(batch["views"]).all()


def _full_after_two_steps() -> None:
    """The disk of this process is full when two steps have been taken."""
    take = Stage.training_step

    def step(self: Stage, batch: dict[str, Tensor], number: int) -> Any:
        if self.global_step == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        return take(self, batch, number)

    Stage.training_step = step  # type: ignore[method-assign]


def test_a_full_disk_leaves_the_checkpoint_before(synthetic_drive: Path, tmp_path: Path) -> None:
    """What step two wrote stays, and goes on."""
    settings = TeacherConfiguration(**small_training(synthetic_drive, tmp_path / "run"))
    file = write_configuration(tmp_path / "teacher.yaml", settings)
    arguments = ["train", "--config", str(file), "--threads", "1"]
    process = start_command(arguments, _full_after_two_steps, tmp_path / "log")
    process.join(280)
    said = (tmp_path / "log").read_text()
    assert process.exitcode != 0 and "checkpoint could not be written" in said, said[-2000:]
    checkpoints = tmp_path / "run" / "checkpoints"
    assert not list(checkpoints.glob("*.part"))
    assert torch.load(checkpoints / "last.ckpt", weights_only=True)["global_step"] == 2
    assert cli.main(arguments) == 0
    assert torch.load(checkpoints / "last.ckpt", weights_only=True)["global_step"] == STEPS


@pytest.mark.parametrize(("has", "used"), [(True, torch.bfloat16), (False, None)])
def test_mixed_precision_is_for_the_encoder_alone(
    has: bool, used: torch.dtype | None, synthetic_drive: Path, teacher: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """With an encoder that ignores it nothing changes: half precision would move points by pixels.

    A device that only imitates bfloat16 does without.
    """
    forward, mixed = EncoderDecoder.forward, set()

    def full(self: EncoderDecoder, image: Tensor) -> Tensor:
        mixed.add(self.mixed)
        self.mixed = None
        return forward(self, image)

    monkeypatch.setattr(EncoderDecoder, "forward", full)
    monkeypatch.setattr(runner, "computes_bfloat16", lambda device: has)
    settings = small_training(synthetic_drive, tmp_path, precision="bf16-mixed")
    found = Checkpoint.read(train(TeacherConfiguration(**settings), threads=1)).state
    assert mixed == {used}
    for name, value in Checkpoint.read(teacher).state.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6, msg=name)
