"""A training under the real torchrun: it goes on where it stopped, says why it fails, and never outlives its parent."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.improvement.torchrun import Torchrun, _last_words, train_together
from scene_completion_training.runner import last_checkpoint, train
from scene_completion_training.stages.single_view import SingleViewConfiguration, SingleViewStage

from scene_completion_ros.errors import ConfigurationError, ImprovementError
from tests.training.killed_training import Killed
from tests.training.small_trainings import STEPS, small_training, write_configuration

PARENT = """
import signal, sys
from pathlib import Path
from scene_completion_training.improvement.torchrun import Torchrun, train_together

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell in the background takes away
train_together(Torchrun(*map(int, sys.argv[2:4]), *sys.argv[4:]), Path(sys.argv[1]), [], 1)
"""


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes want two GPUs, where there is one."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def step_of(checkpoint: Path) -> int:
    return int(torch.load(checkpoint, weights_only=True)["global_step"])


def test_a_training_begun_alone_goes_on_in_two_processes_and_the_other_way(
    synthetic_drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = SingleViewConfiguration(**small_training(synthetic_drive, tmp_path / "run"))
    file, last = write_configuration(tmp_path / "training.yaml", configuration), last_checkpoint(configuration)
    step = SingleViewStage.training_step

    def killed(self: SingleViewStage, batch: Any, index: int) -> Any:
        if self.global_step == 3:
            raise Killed
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(SingleViewStage, "training_step", killed)
        with pytest.raises(Killed):
            train(configuration, threads=1)
    assert step_of(last) == 2
    train_together(Torchrun(2), file, [], 1)
    assert step_of(last) == STEPS
    assert Checkpoint.read(last).configuration["devices"] == 2
    before = last.read_bytes()
    train(configuration, threads=1)  # alone again: there is nothing left to do, and the checkpoint is its own
    assert last.read_bytes() == before


def test_two_machines_train(synthetic_drive: Path, tmp_path: Path) -> None:
    """Both are this one; each starts what the other prints."""
    configuration = SingleViewConfiguration(**small_training(synthetic_drive, tmp_path / "run"))
    file = write_configuration(tmp_path / "training.yaml", configuration)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-c", PARENT, str(file), "1", "2", endpoint]
    logs = [tmp_path / "log-0", tmp_path / "log-1"]
    machines = [subprocess.Popen(command, stderr=log.open("w")) for log in logs]
    codes = [machine.wait(600) for machine in machines]
    said = logs[0].read_text()
    assert codes == [0, 0], said[-3000:]
    assert "on the other 1 of 2 machines, start now: torchrun --nnodes=2" in said
    checkpoint = Checkpoint.read(last_checkpoint(configuration))
    assert (checkpoint.configuration["devices"], checkpoint.configuration["nodes"]) == (1, 2)


def test_a_training_that_fails_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "training.yaml"
    file.write_text("stage: single_view\nsteps: 3\ncheckpoint_every: 2\n")
    with pytest.raises(ImprovementError, match=r"(?s)exit code 1: .*3 is no multiple of checkpoint_every.*old student"):
        train_together(Torchrun(2), file, ["data.root=/"], 1)
    assert "3 is no multiple" in capsys.readouterr().err


def test_last_words_are_those_of_the_training() -> None:
    said = [
        "W1123 15:34:36.100000 12 torch/distributed/run.py:852] setting\n",
        "Epoch 0:  10%\r",
        "first\n",
        "\n",
        *(f"line {number}\n" for number in range(8)),
        "E1123 15:34:36.200000 12 torch/distributed/elastic/multiprocessing/api.py:882] failed (exitcode: -9)\n",
        "Root Cause (first observed failure):\n",
        "  exitcode  : -9 (pid: 14)\n",
    ]
    assert _last_words(said).splitlines() == [*(f"line {number}" for number in range(8)), "exit code -9 (pid: 14)"]


def processes_of(file: Path) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if str(file) in (folder / "cmdline").read_text() and "Z" not in (folder / "stat").read_text().split()[2]:
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_one_that_started_it(
    synthetic_drive: Path, tmp_path: Path, ending: signal.Signals
) -> None:
    settings = small_training(synthetic_drive, tmp_path / "run", steps=10_000)
    file = write_configuration(tmp_path / "training.yaml", SingleViewConfiguration(**settings))
    with (tmp_path / "log").open("w") as log:
        parent = subprocess.Popen([sys.executable, "-c", PARENT, str(file), "2", "1"], stdout=log, stderr=log)
    deadline = time.monotonic() + 300
    try:
        while len(processes_of(file)) < 4 and parent.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)  # the parent, torchrun and two that train
        assert len(processes_of(file)) == 4, (tmp_path / "log").read_text()
        parent.send_signal(ending)
        parent.wait(120)
    finally:
        parent.kill()
        parent.wait()
    while processes_of(file) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_of(file) == []


@pytest.mark.parametrize(
    ("options", "said"), [((0,), "at least 1"), ((1, 2), "Give both"), ((1, 1, "here:1"), "Give both")]
)
def test_impossible_launches(options: tuple[int, int, str], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Torchrun(*options)


def test_all_machines_start_the_same(tmp_path: Path) -> None:
    arguments = Torchrun(4, 2, "head:29400").arguments(tmp_path / "training.yaml", ["learning_rate=1e-4"], 2)
    assert arguments[:4] == [
        "--nnodes=2",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=head:29400",
        f"--rdzv-id={tmp_path.name}",
    ]
    assert arguments[-3:] == ["learning_rate=1e-4", "devices=4", "nodes=2"]
