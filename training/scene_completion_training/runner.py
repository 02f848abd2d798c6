"""Runs the stage of a configuration on Lightning."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from scene_completion_ros.commands.paths import Output
from scene_completion_training.checkpoints import SafeCheckpoints, TrainingRecord
from scene_completion_training.configuration import TrainingConfiguration
from scene_completion_training.stage import Stage
from scene_completion_training.stages import stage_class

BEST = "best.ckpt"


def make_stage(configuration: TrainingConfiguration) -> Stage:
    """The stage that a configuration asks for, untrained.

    Raises ConfigurationError where it contradicts itself, or names no training that the stage needs; BundleError where
    a checkpoint that it names holds something else.
    """
    configuration = configuration.completed()
    configuration.check()
    return stage_class(configuration.stage)(configuration)


def last_checkpoint(configuration: TrainingConfiguration) -> Path:
    """Where a training keeps the checkpoint that it goes on from, and that is exported in the end."""
    return Path(configuration.output) / "checkpoints" / "last.ckpt"


def train(configuration: TrainingConfiguration, *, fast_dev_run: bool = False, threads: int | None = None) -> Path:
    """Trains and returns the checkpoint to export; resumes from `checkpoints/last.ckpt` in the output if it exists.

    Raises SceneCompletionError where it would write over a checkpoint that it starts from; or see `make_stage`.
    `fast_dev_run`: take two steps of everything and write no checkpoints; `threads`: torch threads; all cores if not
    given.
    """
    if fast_dev_run:
        configuration = configuration.shortened()
    if TorchElasticEnvironment.detect():  # torchrun has started the processes, and knows how many
        local, world = (int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
        configuration = dataclasses.replace(configuration, devices=local, nodes=world // local)
    if threads:
        torch.set_num_threads(threads)
    lightning.seed_everything(configuration.seed)
    last = last_checkpoint(configuration)
    if not last.exists():
        named = [(key, Path(text)) for key, text in vars(configuration).items() if isinstance(text, str)]
        files = [(key, path) for key, path in named if path.is_file()]
        Output((f"checkpoints/{BEST}",)).check(Path(configuration.output), "output", files)
    resume = last if last.exists() and not fast_dev_run else None
    if resume is not None:
        configuration = configuration.going_on(resume)
    stage = make_stage(configuration)
    configuration, data = stage.settings, stage.make_data()
    record = TrainingRecord(dataclasses.asdict(configuration) | stage.remembered(), data)
    if resume is not None:
        stage.go_on()
    start = [] if resume else [FirstWeights()]
    trainer = _trainer(configuration, [record, *start, *stage.callbacks()], fast_dev_run)
    if resume is None and not fast_dev_run and trainer.is_global_zero:
        (last.parent / BEST).unlink(missing_ok=True)  # of another training
    trainer.fit(stage, datamodule=data, ckpt_path=resume and str(resume), weights_only=True)
    return last


class FirstWeights(lightning.Callback):
    """Gives a new training its first weights, once its data is there and before they are averaged."""

    def setup(self, trainer: lightning.Trainer, pl_module: Any, stage: str) -> None:
        """All processes do the same."""
        pl_module.start(trainer.datamodule)  # type: ignore[attr-defined]


def _trainer(
    configuration: TrainingConfiguration, own: list[lightning.Callback], fast_dev_run: bool
) -> lightning.Trainer:
    output = Path(configuration.output)
    callbacks = [*own, LearningRateMonitor("step")]
    if not fast_dev_run:
        callbacks += _checkpoints(configuration)
    parallel = configuration.devices * configuration.nodes > 1
    return lightning.Trainer(
        max_steps=configuration.steps,
        max_epochs=-1,
        accelerator="auto",
        devices=configuration.devices,
        num_nodes=configuration.nodes,
        strategy="ddp_find_unused_parameters_true" if parallel else "auto",
        precision=configuration.precision,
        use_distributed_sampler=False,  # the sampler knows its process
        callbacks=callbacks,
        plugins=[SafeCheckpoints()],
        logger=TensorBoardLogger(output, name=None, version="curves"),
        default_root_dir=output,
        gradient_clip_val=configuration.gradient_clip or None,
        log_every_n_steps=configuration.log_every,
        val_check_interval=configuration.validation_interval,
        limit_val_batches=None if configuration.validation_interval else 0,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        fast_dev_run=2 if fast_dev_run else False,
        enable_checkpointing=not fast_dev_run,
        enable_model_summary=False,
    )


def _checkpoints(configuration: TrainingConfiguration) -> list[ModelCheckpoint]:
    """What keeps the last checkpoint, and the best where there is a validation."""
    folder = Path(configuration.output) / "checkpoints"
    kept = [
        ModelCheckpoint(
            dirpath=folder,
            every_n_train_steps=configuration.checkpoint_every,
            save_top_k=0,  # one file, replaced at once: a training that is killed between two files loses one
            save_last=True,
            enable_version_counter=False,
        )
    ]
    if configuration.validation_interval:
        kept.append(
            ModelCheckpoint(
                dirpath=folder, filename=Path(BEST).stem, monitor="validation/total", enable_version_counter=False
            )
        )
    return kept
