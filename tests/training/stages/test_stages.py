"""Teacher, then student: what each learns from, what is kept of them, and how they stop."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lightning
import numpy as np
import onnxruntime
import pytest
import safetensors.torch
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.training_step import synthetic_batch
from scene_completion_ros import cli
from scene_completion_ros.errors import BundleError, ConfigurationError, TrainingError
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.commands.train import CONFIGS
from scene_completion_training.configuration import LossWeights, RenderSettings, read_configuration
from scene_completion_training.data.module import DataSettings, SequencesData, SequenceSource
from scene_completion_training.data.view_batches import ViewSettings
from scene_completion_training.data.voxel_evidence import FusionSettings
from scene_completion_training.export import export_bundle
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.networks.multi_view_field import MultiViewField
from scene_completion_training.runner import make_stage, train
from scene_completion_training.stages.single_view import SingleViewConfiguration, SingleViewStage
from scene_completion_training.stages.student import DistillationSettings, StudentConfiguration, StudentStage, Teacher
from scene_completion_training.stages.teacher import TeacherConfiguration

STEPS = 4
PICTURES = ("image", "inverse_depth")


def _common(drive: Path, tmp_path: Path, name: str, **changes: object) -> dict[str, object]:
    return {
        "data": DataSettings(
            root=str(drive.parent),
            cache=str(drive.parent / "stage_cache"),
            workers=0,
            sources=[SequenceSource(drive.name)],
            fusion=FusionSettings(free_samples=20_000, views=3),
            views=ViewSettings(occupancy_points=256, far_views=True),
        ),
        "render": RenderSettings(patches=1, samples=8),
        "seed": 1,
        "steps": STEPS,
        "warmup": 1,
        "half_resolution_steps": STEPS,
        "checkpoint_every": 2,
        "picture_every": 0,
        "log_every": 1,
        "prior_steps": 2,
        "pretrained": False,
        "output": str(tmp_path / name),
        **changes,
    }


@pytest.fixture(scope="module")
def teacher(synthetic_drive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a teacher of a few steps, which drew one picture."""
    settings = _common(synthetic_drive, tmp_path_factory.mktemp("runs"), "teacher", picture_every=STEPS)
    return train(TeacherConfiguration(**settings))


def test_a_picture_is_drawn_of_an_image_and_its_depth(teacher: Path) -> None:
    (file,) = (teacher.parents[1] / "curves").glob("events*")
    events = EventAccumulator(str(file))
    events.Reload()
    drawn = {name: [(event.step, event.height, event.width) for event in events.Images(name)] for name in PICTURES}
    assert drawn == {"image": [(STEPS, 192, 640)], "inverse_depth": [(STEPS, 48, 160)]}


@pytest.mark.parametrize(
    "distillation",
    [
        DistillationSettings(),
        DistillationSettings(space="opacity"),
        DistillationSettings(space="occupancy", weight=1.0),
        DistillationSettings(freeze_encoder=True, weight=1.0),
    ],
    ids=["published", "opacity", "occupancy", "frozen"],
)
def test_a_student_is_distilled_and_deployed(
    synthetic_drive: Path, teacher: Path, tmp_path: Path, distillation: DistillationSettings
) -> None:
    alone = LossWeights(0.0, 0.0, 0.0, 0.0, 0.0, 3.0, 0.0) if distillation.freeze_encoder else LossWeights()
    settings = _common(synthetic_drive, tmp_path, "student", distillation=distillation, losses=alone)
    checkpoint = train(StudentConfiguration(teacher=str(teacher), **settings))
    stored, before = Checkpoint.read(checkpoint), Checkpoint.read(teacher)
    assert stored.stage == "student" and before.stage == "teacher" and stored.half_resolution
    assert all("teacher" not in name for name in torch.load(checkpoint, weights_only=True)["state_dict"])
    encoder = stored.field_of(DensityField).encoder.state_dict()
    same = {n: torch.equal(v, before.state[f"encoder.{n}"]) for n, v in encoder.items()}
    assert all(same.values()) if distillation.freeze_encoder else not same["project.weight"]
    bundle = export_bundle(checkpoint, tmp_path / "bundle", name="t", licence="none", provenance={})
    loaded = StudentBundle.load(bundle.folder)
    assert loaded.head.positional_weight.shape == (64, 39)
    # Trained on images of half the size, it is deployed on such: the same view, half the focal length.
    assert (loaded.canonical.width, loaded.canonical.height, loaded.feature_size) == (320, 96, (48, 160))
    assert (loaded.canonical.fx, loaded.canonical.cx, loaded.canonical.cy) == (185.0, 159.5, 45.75)
    image = 255.0 * torch.rand(1, 3, 96, 320, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(str(loaded.encoder_path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": image.numpy()})
    with torch.no_grad():
        expected = stored.field_of(DensityField).encode(image).permute(0, 2, 3, 1).numpy()
    assert np.abs(found - expected).max() < 5e-3 * np.abs(expected).max()


@pytest.mark.parametrize(
    "distillation",
    [
        DistillationSettings(weight=1.0, freeze_encoder=True),
        DistillationSettings(weight=1.0, freeze_encoder=True, space="occupancy", along_rays=False),
    ],
    ids=["density", "occupancy"],
)
def test_the_student_goes_towards_its_teacher(
    synthetic_drive: Path, teacher: Path, tmp_path: Path, distillation: DistillationSettings
) -> None:
    """Distillation alone, head only: the loss on the same samples falls, and the teacher stays as it was."""
    losses = LossWeights(0.0, 0.0, 0.0, 0.0, 0.0, 3.0, 0.0)
    settings = _common(synthetic_drive, tmp_path, "s", losses=losses, distillation=distillation, learning_rate=1e-2)
    configuration = StudentConfiguration(teacher=str(teacher), **{**settings, "steps": 24, "checkpoint_every": 24})
    before = make_stage(configuration)
    assert before.renders == distillation.along_rays  # nothing else asks for rays
    checkpoint = train(dataclasses.replace(configuration, half_resolution_steps=24))
    after = make_stage(configuration)
    assert isinstance(before, StudentStage) and isinstance(after, StudentStage)
    after.load(str(checkpoint))
    data = SequencesData(configuration.data, 8, 1, encoder_views=3)
    data.setup("fit")
    samples = data.samples()
    batches = [{name: value[None] for name, value in samples[k].items()} for k in range(4)]

    def loss(stage: StudentStage) -> float:
        stage.eval()
        with torch.no_grad():
            terms = [stage.terms(batch, torch.Generator().manual_seed(k)) for k, batch in enumerate(batches)]
        return sum(term["distillation"].item() for term in terms)

    assert loss(after) < 0.6 * loss(before)
    for name, value in after.teacher.state_dict().items():
        assert torch.equal(value, before.teacher.state_dict()[name]), name


def test_a_teacher_keeps_the_resolution_it_was_trained_at(
    synthetic_drive: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The student goes on to whole images; its teacher, which never saw any, is shown halves."""
    observe, seen = MultiViewField.observe, []

    def watched(self: MultiViewField, images: torch.Tensor, *arguments: object) -> object:
        seen.append(tuple(images.shape))
        return observe(self, images, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(MultiViewField, "observe", watched)
    settings = {**_common(synthetic_drive, tmp_path, "s"), "half_resolution_steps": 2, "hidden": 32}
    checkpoint = Checkpoint.read(train(StudentConfiguration(teacher=str(teacher), **settings)))
    assert seen == [(1, 3, 3, 96, 320)] * STEPS
    assert not checkpoint.half_resolution and checkpoint.field_of(DensityField).hidden == 32


def test_a_training_goes_on_with_what_its_logits_meant(synthetic_drive: Path, teacher: Path, tmp_path: Path) -> None:
    """Head and link together make a probability; a teacher that starts from a student has a new head."""
    settings = _common(synthetic_drive, tmp_path, "s", learning_rate=0.01)
    student = train(StudentConfiguration(teacher=str(teacher), **settings))
    learned, taught = Checkpoint.read(student).link, Checkpoint.read(teacher).link
    assert not torch.equal(learned["offset"], taught["offset"])
    further = make_stage(StudentConfiguration(teacher=str(teacher), **settings))
    further.load(str(student))
    torch.testing.assert_close(further.link.state_dict(), dict(learned))
    again, fresh = (make_stage(TeacherConfiguration(**settings)) for _ in range(2))
    again.load(str(teacher))
    torch.testing.assert_close(again.link.state_dict(), dict(taught))
    fresh.load(str(student))
    assert fresh.link.offset.item() == LossWeights().occupancy_offset


def test_emptiness_acts_beside_occupancy_alone(synthetic_drive: Path, tmp_path: Path) -> None:
    """Photometry alone has nothing to hold against it: the field would become empty."""
    for occupancy in (0.0, 1.0):
        losses = LossWeights(occupancy=occupancy, emptiness=0.1)
        configuration = TeacherConfiguration(**_common(synthetic_drive, tmp_path, "run", losses=losses))
        data = SequencesData(configuration.data, 1, 1, encoder_views=3)
        data.setup("fit")
        batch = {name: value[None] for name, value in data.samples()[0].items()}
        with torch.no_grad():
            terms = make_stage(configuration).terms(batch, torch.Generator().manual_seed(0))
        assert ("emptiness" in terms) == bool(occupancy)


def test_a_finished_training_stays_as_it_is_and_a_new_one_clears_its_folder(
    synthetic_drive: Path, tmp_path: Path
) -> None:
    settings = _common(synthetic_drive, tmp_path, "run", steps=2, half_resolution_steps=2, prior_steps=1)
    last = train(TeacherConfiguration(**settings))
    before = {name: value.clone() for name, value in Checkpoint.read(last).state.items()}
    kept = sorted(file.name for file in last.parent.iterdir())
    train(TeacherConfiguration(**settings))
    assert sorted(file.name for file in last.parent.iterdir()) == kept
    assert all(torch.equal(value, before[name]) for name, value in Checkpoint.read(last).state.items())
    last.unlink()  # nothing to resume: what else lies there belongs to another training
    (last.parent / "step-99.ckpt").write_bytes(b"of another training")
    train(TeacherConfiguration(**settings))
    assert sorted(file.name for file in last.parent.iterdir()) == kept


def test_a_teacher_of_one_view_needs_no_others(synthetic_drive: Path, tmp_path: Path) -> None:
    settings = _common(synthetic_drive, tmp_path, "one", hidden=48)
    field = Checkpoint.read(train(TeacherConfiguration(encoder_views=1, **settings))).field_of(MultiViewField)
    assert field.fusion.feature_layer.out_channels == 48


def test_a_teacher_is_no_student(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="stage is teacher"):
        export_bundle(teacher, tmp_path / "bundle", name="t", licence="none", provenance={})
    with pytest.raises(ConfigurationError, match="no teacher"):
        make_stage(StudentConfiguration(pretrained=False))
    silent = StudentConfiguration(distillation=DistillationSettings(space="occupancy"), pretrained=False)
    with pytest.raises(ConfigurationError, match="says nothing about occupancy"):
        StudentStage(silent, Teacher(Checkpoint.read(teacher).field_of(MultiViewField)))


def test_a_validated_training_keeps_its_best_checkpoint(synthetic_drive: Path, tmp_path: Path) -> None:
    settings = _common(synthetic_drive, tmp_path, "validated", validate_every=2)
    data = settings["data"]
    assert isinstance(data, DataSettings)
    settings["data"] = dataclasses.replace(data, validation=data.sources, validation_samples=2)
    last = train(TeacherConfiguration(**settings))
    best = torch.load(last.with_name("best.ckpt"), weights_only=True)
    events = EventAccumulator(str(next((tmp_path / "validated" / "curves").glob("events*"))))
    events.Reload()
    totals = {event.step + 1: event.value for event in events.Scalars("validation/total")}
    assert sorted(totals) == [2, 4]
    assert totals[best["global_step"]] == min(totals.values())


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
        train(TeacherConfiguration(**_common(synthetic_drive, tmp_path, "nan")))
    batch = safetensors.torch.load_file(tmp_path / "nan" / "batch_of_step_0.safetensors")
    assert batch["encoder_images"].shape == (1, 3, 3, 192, 640) and torch.isfinite(batch["views"]).all()


COMMAND = "from scene_completion_ros.cli import main; import sys; sys.exit(main())"


def _yaml(drive: Path, path: Path, extra: str = "") -> Path:
    path.write_text(
        f"""
stage: teacher
steps: {STEPS}
warmup: 1
half_resolution_steps: {STEPS}
checkpoint_every: 2
picture_every: 0
log_every: 1
prior_steps: 2
pretrained: false
render: {{patches: 1, samples: 8}}
data:
  root: {drive.parent}
  cache: {drive.parent}/stage_cache
  workers: 0
  sources: [{{folder: {drive.name}}}]
  fusion: {{free_samples: 20000, views: 3}}
  views: {{occupancy_points: 256, far_views: true}}
{extra}"""
    )
    return path


def test_a_full_disk_leaves_the_checkpoint_before(synthetic_drive: Path, teacher: Path, tmp_path: Path) -> None:
    """From the third step on the process may write no file of a megabyte: what step two wrote stays, and goes on."""
    configuration = _yaml(synthetic_drive, tmp_path / "teacher.yaml")
    code = (
        "import resource, lightning\n"
        "class Full(lightning.Callback):\n"
        "    def on_train_batch_start(self, trainer, *_):\n"
        "        if trainer.global_step == 2:\n"
        "            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "import scene_completion_training.runner as runner\n"
        "make = runner._trainer\n"
        "def limited(*arguments):\n"
        "    trainer = make(*arguments)\n"
        "    trainer.callbacks.insert(0, Full())\n"
        "    return trainer\n"
        "runner._trainer = limited\n" + COMMAND
    )
    arguments = ["train", "--config", str(configuration), "--threads", "1", f"output={tmp_path / 'run'}"]
    command = [sys.executable, "-c", code, *arguments]
    answer = subprocess.run(command, timeout=300, capture_output=True, text=True, check=False)
    assert answer.returncode != 0 and "checkpoint could not be written" in answer.stderr, answer.stderr[-2000:]
    checkpoints = tmp_path / "run" / "checkpoints"
    assert not list(checkpoints.glob("*.part"))
    assert torch.load(checkpoints / "last.ckpt", weights_only=True)["global_step"] == 2
    assert cli.main(arguments) == 0
    assert torch.load(checkpoints / "last.ckpt", weights_only=True)["global_step"] == STEPS
    arguments[-1] = f"output={tmp_path / 'whole'}"
    assert cli.main(arguments) == 0
    whole = Checkpoint.read(tmp_path / "whole" / "checkpoints" / "last.ckpt").state
    for name, value in Checkpoint.read(checkpoints / "last.ckpt").state.items():  # as if nothing had happened
        torch.testing.assert_close(value, whole[name], rtol=0, atol=1e-6, msg=name)


PRINT_WEIGHTS = """
import lightning
import scene_completion_training.runner as runner


class Printed(lightning.Callback):
    def on_train_end(self, trainer, stage):
        total = sum(value.double().abs().sum() for value in stage.parameters())
        print(f"rank {trainer.global_rank} of {trainer.world_size}: {total:.9f}", flush=True)


make = runner._trainer


def printing(*arguments):
    trainer = make(*arguments)
    trainer.callbacks.append(Printed())
    return trainer


runner._trainer = printing
"""


def test_two_processes_train_one_teacher(synthetic_drive: Path, teacher: Path, tmp_path: Path) -> None:
    """Under torchrun each process has its own samples; their gradients are averaged, so their weights are the same."""
    configuration = _yaml(synthetic_drive, tmp_path / "teacher.yaml")
    (tmp_path / "run.py").write_text(f"{PRINT_WEIGHTS}\nif __name__ == '__main__':\n    {COMMAND}")
    arguments = ["train", "--config", str(configuration), "--threads", "1", f"output={tmp_path / 'run'}", "devices=2"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""}
    command = [*launcher, str(tmp_path / "run.py"), *arguments]
    answer = subprocess.run(command, env=environment, timeout=280, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr[-3000:]
    printed = dict(re.findall(r"rank (\d) of 2: ([\d.]+)", answer.stdout))
    assert set(printed) == {"0", "1"} and printed["0"] == printed["1"]
    together = Checkpoint.read(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert torch.isfinite(together.state["fusion.position_layer.weight"]).all()


def test_mixed_precision_trains(synthetic_drive: Path, tmp_path: Path) -> None:
    short = {"steps": 2, "half_resolution_steps": 2, "prior_steps": 1}
    settings = _common(synthetic_drive, tmp_path, "mixed", precision="bf16-mixed", **short)
    state = Checkpoint.read(train(TeacherConfiguration(**settings))).state
    assert all(torch.isfinite(value).all() for value in state.values())
    assert state["fusion.position_layer.weight"].dtype == torch.float32


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_mixed_precision_is_for_the_encoder_alone(precision: torch.dtype) -> None:
    """With an encoder that ignores it, nothing changes at all: half precision would move points by pixels."""
    stage = make_stage(TeacherConfiguration(pretrained=False, render=RenderSettings(patches=1, samples=8)))
    batch = synthetic_batch()
    plain = stage._computed(batch, torch.Generator().manual_seed(0))
    assert stage.encoder.mixed is None
    forward = stage.encoder.forward

    def full(image: torch.Tensor) -> torch.Tensor:
        assert stage.encoder.mixed is precision
        stage.encoder.mixed = None
        return forward(image)

    stage.encoder.forward = full  # type: ignore[method-assign]
    with torch.autocast("cpu", dtype=precision):
        mixed = stage._computed(batch, torch.Generator().manual_seed(0))
    assert set(mixed) == set(plain)
    for name, value in plain.items():
        torch.testing.assert_close(mixed[name], value, rtol=1e-6, atol=0)


def test_a_student_resumes_with_averaged_weights(synthetic_drive: Path, teacher: Path, tmp_path: Path) -> None:
    """The teacher is in no checkpoint, averaged or not; resumed, the training ends as one that was left alone."""
    settings = _common(synthetic_drive, tmp_path, "whole", ema_decay=0.5, ema_start=1)
    whole = train(StudentConfiguration(teacher=str(teacher), **settings))
    content = torch.load(whole, weights_only=True)
    assert not any("teacher." in name for part in ("state_dict", "current_model_state") for name in content[part])
    halved = tmp_path / "resumed" / "checkpoints"
    stopped = StudentConfiguration(teacher=str(teacher), **{**settings, "output": str(tmp_path / "resumed")})
    limited = pytest.MonkeyPatch()
    limited.setattr("lightning.Trainer.__init__", _ending_at(2))
    train(stopped)
    limited.undo()
    assert torch.load(halved / "last.ckpt", weights_only=True)["global_step"] == 2
    resumed = Checkpoint.read(train(stopped)).state
    for name, value in Checkpoint.read(whole).state.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=1e-6, msg=name)


def _ending_at(step: int) -> Callable[..., None]:
    begin = lightning.Trainer.__init__

    def ending(self: lightning.Trainer, *arguments: object, **settings: object) -> None:
        begin(self, *arguments, **{**settings, "max_steps": step})  # type: ignore[arg-type]

    return ending


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"encoder_views": 5}, "encoder_views"),
        ({"depth_only_steps": 2}, "depth_only_steps"),
        ({"encoder": "resnet50"}, "encoder"),
    ],
)
def test_students_that_cannot_be_are_refused(
    synthetic_drive: Path, teacher: Path, tmp_path: Path, change: dict[str, object], where: str
) -> None:
    settings = {**_common(synthetic_drive, tmp_path, "refused"), **change}
    with pytest.raises(ConfigurationError, match=f"^{where}:"):
        train(StudentConfiguration(teacher=str(teacher), **settings))


def test_the_rate_falls_as_the_schedule_says() -> None:
    step = SingleViewStage(
        SingleViewConfiguration(pretrained=False, schedule="step", decay_at=0.6, steps=100, warmup=10)
    )
    assert [round(step._rate(n), 3) for n in (0, 9, 10, 59, 60, 99)] == [0.1, 1.0, 1.0, 1.0, 0.1, 0.1]
    cosine = SingleViewStage(SingleViewConfiguration(pretrained=False, steps=110, warmup=10))
    assert [round(cosine._rate(n), 3) for n in (10, 60, 110)] == [1.0, 0.5, 0.0]


STAGE_FILES = [file for file in sorted(CONFIGS.rglob("*.yaml")) if file.parent.name != "data"]


@pytest.mark.parametrize("file", STAGE_FILES, ids=lambda file: str(file.relative_to(CONFIGS)))
def test_every_shipped_configuration_is_valid(file: Path) -> None:
    configuration = read_configuration(file, [])
    configuration.check()
    assert configuration.stage == ("single_view" if file.stem == "comparison" else file.stem)


def test_a_set_up_is_checked_in_two_steps(synthetic_drive: Path, tmp_path: Path) -> None:
    train(TeacherConfiguration(**_common(synthetic_drive, tmp_path, "dry")), fast_dev_run=True)
    assert not list((tmp_path / "dry").rglob("*.ckpt"))
