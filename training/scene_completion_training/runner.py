"""Runs the stage of a configuration on Lightning."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.callbacks import LambdaCallback, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from scene_completion_ros.commands.arguments import Output
from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.progress import Progress
from scene_completion_training.checkpoints import Checkpoint, SafeCheckpoints, TrainingRecord
from scene_completion_training.configuration import TrainingConfiguration
from scene_completion_training.stage import Stage
from scene_completion_training.stage_registry import stage_class
from scene_completion_training.workers import accelerator, computes_bfloat16

BEST = "best.ckpt"


def make_stage(configuration: TrainingConfiguration) -> Stage:
    """The stage that a configuration asks for, untrained; a `ConfigurationError` or `BundleError` if it cannot be."""
    configuration = configuration.completed()
    configuration.check()
    stage: Stage = stage_class(configuration.stage)(configuration)
    return stage


def train(configuration: TrainingConfiguration, *, threads: int | None = None) -> Path:
    """Trains and returns the checkpoint to export; resumes from `checkpoints/last.ckpt` in the output if it exists.

    `threads`: torch threads. Raises SceneCompletionError where it would write over a checkpoint that it starts from, or
    over one of another training; or see `make_stage`.
    """
    if threads:
        torch.set_num_threads(threads)
    lightning.seed_everything(configuration.seed)
    last = _last(configuration)
    resume = last if last.exists() else None
    if resume is None:
        named = [(key, Path(text)) for key, text in vars(configuration).items() if isinstance(text, str)]
        files = [(key, path) for key, path in named if path.is_file()]
        Output((f"checkpoints/{BEST}",)).check(Path(configuration.output), "output", files)
        if (best := last.with_name(BEST)).exists():
            what, cure = "is of another training, whose last.ckpt is gone", "Name another `output`, or move it away"
            raise ConfigurationError(what, where=str(best), cure=cure)
    else:
        configuration = configuration.going_on(resume)
    stage = make_stage(configuration)
    configuration, data = stage.settings, stage.make_data()
    record = TrainingRecord(dataclasses.asdict(configuration) | stage.remembered(), data)
    if resume is not None:
        stored = Checkpoint.read(resume)
        record.refuse_other(stored.record)
        if stored.ended:
            return last
        stage.go_on()
    # A new training gets its first weights once its data is there, and before they are averaged.
    start = [] if resume else [LambdaCallback(setup=lambda *_, **__: stage.start(data))]
    trainer = _trainer(configuration, [record, *start, *stage.callbacks()])
    trainer.fit(stage, datamodule=data, ckpt_path=resume and str(resume), weights_only=True)
    if trainer.global_step % configuration.checkpoint_every:
        trainer.save_checkpoint(last)
    return last


def train_parts(configuration: TrainingConfiguration, only: str = "", *, threads: int | None = None) -> Path:
    """Trains all parts of a configuration in order, or one; the last checkpoint. What is trained already is left alone.

    Raises ConfigurationError where there is no such part; or see `train`.
    """
    parts = configuration.parts()
    if only and only not in parts:
        raise ConfigurationError(f"no part {only!r}", where="--only", cure=f"There are {', '.join(parts)}")
    chosen = [part for name, part in parts.items() if only in ("", name)]
    for part in chosen:
        if not _last(part).exists():
            stage_class(part.stage).refuse_start(part)
    return [train(part, threads=threads) for part in chosen][-1]


def _last(configuration: TrainingConfiguration) -> Path:
    return Path(configuration.output) / "checkpoints" / "last.ckpt"


class StepsLeft(lightning.Callback):
    """Shows how far a training is. Lightning's bar counts epochs, of which a training here may have any number."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """From the step at which it resumes."""
        self._progress = Progress(trainer.max_steps, "step", trainer.global_step)

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        """After each step."""
        self._progress.step()

    def teardown(self, *_: Any, **__: Any) -> None:
        """What follows begins on a line of its own."""
        if progress := getattr(self, "_progress", None):
            progress.__exit__()


def _trainer(settings: TrainingConfiguration, own: list[lightning.Callback]) -> lightning.Trainer:
    output = Path(settings.output)
    # One file, replaced at once: a training that is killed between two files loses one.
    kept: dict[str, Any] = {"dirpath": output / "checkpoints", "enable_version_counter": False}
    newest = ModelCheckpoint(every_n_train_steps=settings.checkpoint_every, save_top_k=0, save_last=True, **kept)
    callbacks = [*own, LearningRateMonitor("step"), StepsLeft(), newest]
    if settings.validation_interval:
        callbacks.append(ModelCheckpoint(filename=Path(BEST).stem, monitor="validation/total", **kept))
    return lightning.Trainer(
        max_steps=settings.steps,
        max_epochs=-1,
        accelerator="auto",
        devices=1,
        precision=_precision(settings),
        callbacks=callbacks,
        plugins=[SafeCheckpoints()],
        logger=TensorBoardLogger(output, name=None, version="curves"),
        default_root_dir=output,
        gradient_clip_val=settings.gradient_clip or None,
        log_every_n_steps=settings.log_every,
        val_check_interval=settings.validation_interval,
        limit_val_batches=None if settings.validation_interval else 0,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=False,
    )


def _precision(configuration: TrainingConfiguration) -> Literal["32-true", "bf16-mixed", "16-mixed"]:
    if configuration.precision == "bf16-mixed" and not computes_bfloat16(accelerator().type):
        print("This CPU only imitates bfloat16, at a quarter of the speed: it computes in single precision")
        return "32-true"
    return configuration.precision
