"""Reads a training configuration and runs its stage on Lightning."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import jsonargparse
import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_ros.inference.bundle import StudentBundle
from training.averaging import WeightAverage
from training.data.module import DataSettings, SequencesData
from training.head_fit import HeadSettings, fit_prior
from training.networks.density_field import DensityField
from training.pictures import TrainingPictures
from training.record import KEY, TrainingRecord
from training.stages.single_view import LossWeights, RenderSettings, SingleViewStage

FINAL = "final.ckpt"
"""Checkpoint whose head was fitted after the last step."""


@dataclass
class TrainingConfiguration:
    """Everything that determines a training.

    Attributes:
        data: Sequences and samples.
        losses: Loss weights.
        render: Rendering at training time.
        seed: Seed of samples, rays and initial weights.
        steps: Optimiser steps.
        prior_steps: Steps in which the head is first fitted without images.
        learning_rate: Adam learning rate after the warm-up.
        trunk_rate: Factor on `learning_rate` for the blocks of the pretrained trunk that learn.
        frozen_blocks: First blocks of the pretrained trunk that keep their weights (it has 16).
        head_rate: Factor on `learning_rate` for the head.
        depth_only_steps: First steps, in which only the dense depth is trained.
        head: How the head alone is fitted after those (at the end, where no other steps follow).
        half_resolution_steps: First steps, taken with images of half the size.
        warmup: Steps of linear warm-up.
        ema_decay: Decay of the weight average that is evaluated and exported; 0 switches it off.
        ema_start: Step from which the average is kept.
        checkpoint_every: Steps between checkpoints (the last one is kept and resumed from).
        picture_every: Steps between TensorBoard pictures; 0 switches them off.
        log_every: Steps between points of the curves.
        gradient_clip: Largest gradient norm.
        pretrained: Start the trunk from its ImageNet weights.
        start_from: Folder of a student bundle whose weights the training goes on from; then no prior is fitted, and the
            mean depth stays that of the drives the bundle was trained on.
        output: Folder for checkpoints and curves.
    """

    data: DataSettings = field(default_factory=DataSettings)
    losses: LossWeights = field(default_factory=LossWeights)
    render: RenderSettings = field(default_factory=RenderSettings)
    seed: int = 0
    steps: int = 10_000
    prior_steps: int = 1000
    learning_rate: float = 3e-4
    trunk_rate: float = 0.5
    frozen_blocks: int = 16
    head_rate: float = 1.0
    depth_only_steps: int = 0
    head: HeadSettings = field(default_factory=HeadSettings)
    half_resolution_steps: int = 0
    warmup: int = 200
    ema_decay: float = 0.999
    ema_start: int = 200
    checkpoint_every: int = 250
    picture_every: int = 500
    log_every: int = 20
    gradient_clip: float = 5.0
    pretrained: bool = True
    start_from: str | None = None
    output: str = "runs/single_view"


def read_configuration(path: Path, overrides: list[str]) -> TrainingConfiguration:
    """Reads a YAML configuration; `KEY=VALUE` overrides replace its values. Unknown keys are refused."""
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(TrainingConfiguration, None, sub_configs=True)
    arguments = [f"--config={path}", *(f"--{override}" for override in overrides)]
    parsed = parser.instantiate_classes(parser.parse_args(arguments))
    values = {name: value for name, value in vars(parsed).items() if name != "config"}
    return TrainingConfiguration(**values)


def load_weights(field: DensityField, bundle: StudentBundle) -> None:
    """Copies the unfolded weights of a bundle into a field.

    Raises:
        BundleError: The bundle has no weights, or those of another network.
    """
    weights = {name: torch.from_numpy(value.astype(np.float32)) for name, value in bundle.load_weights().items()}
    try:
        field.load_state_dict(weights)
    except RuntimeError as error:
        raise BundleError(
            f"weights of another network ({str(error)[:200]})", where=str(bundle.folder), cure="Name another bundle"
        ) from error


def train(configuration: TrainingConfiguration, *, fast_dev_run: bool = False, threads: int | None = None) -> Path:
    """Trains and returns the checkpoint to export; resumes from `checkpoints/last.ckpt` in the output if it exists.

    Args:
        configuration: What to train.
        fast_dev_run: Take two steps of everything and write no checkpoints.
        threads: torch threads; all cores if not given.

    Raises:
        ConfigurationError: Its steps contradict each other.
    """
    _check_steps(configuration)
    if fast_dev_run:
        head = dataclasses.replace(configuration.head, steps=2, images=2, opacity_steps=2)
        configuration = dataclasses.replace(configuration, prior_steps=2, head=head)
    if threads:
        torch.set_num_threads(threads)
    lightning.seed_everything(configuration.seed)
    stage = SingleViewStage(
        configuration.losses,
        configuration.render,
        configuration.learning_rate,
        configuration.trunk_rate,
        configuration.frozen_blocks,
        configuration.head_rate,
        configuration.depth_only_steps,
        configuration.head,
        configuration.half_resolution_steps,
        configuration.warmup,
        configuration.steps,
        configuration.seed,
        pretrained=configuration.pretrained,
    )
    data = SequencesData(configuration.data, configuration.steps, configuration.seed)
    output = Path(configuration.output)
    checkpoint = ModelCheckpoint(
        dirpath=output / "checkpoints",
        filename="step-{step}",
        auto_insert_metric_name=False,
        every_n_train_steps=configuration.checkpoint_every,
        save_top_k=1,
        save_last=True,
        monitor="step",
        mode="max",
    )
    record = TrainingRecord(dataclasses.asdict(configuration), data)
    callbacks: list[lightning.Callback] = [record, checkpoint, LearningRateMonitor("step")]
    if configuration.ema_decay:
        callbacks.append(WeightAverage(decay=configuration.ema_decay, update_starting_at_step=configuration.ema_start))
    if configuration.picture_every:
        callbacks.append(TrainingPictures(configuration.picture_every))
    trainer = lightning.Trainer(
        max_steps=configuration.steps,
        max_epochs=-1,
        accelerator="auto",
        devices=1,
        callbacks=callbacks,
        logger=TensorBoardLogger(output, name=None, version="curves"),
        gradient_clip_val=configuration.gradient_clip,
        log_every_n_steps=configuration.log_every,
        fast_dev_run=2 if fast_dev_run else False,
        enable_model_summary=False,
    )
    last, final = output / "checkpoints" / "last.ckpt", output / "checkpoints" / FINAL
    resume = last if last.exists() and not fast_dev_run else None
    ended = resume and torch.load(resume, map_location="cpu", weights_only=True)["global_step"] >= configuration.steps
    if resume is None and configuration.start_from:
        load_weights(stage.field, StudentBundle.load(configuration.start_from))
    elif resume is None:
        _fit_priors(stage, data, configuration)
    if resume is None and not fast_dev_run:
        final.unlink(missing_ok=True)  # of another training
    trainer.fit(stage, datamodule=data, ckpt_path=resume and str(resume), weights_only=True)
    if configuration.depth_only_steps < configuration.steps or not stage.fits_head:
        return last
    if fast_dev_run:
        stage.fit_head(data.samples(), half_resolution=True)
    elif not final.exists():
        if ended:  # read with the weights of its last step, not the averaged ones
            stage.load_state_dict(torch.load(last, map_location="cpu", weights_only=True)["state_dict"])
        stage.to(trainer.strategy.root_device)  # Lightning has brought it back to the CPU
        _fit_last_head(stage, data, record, final)
    return final


def _check_steps(configuration: TrainingConfiguration) -> None:
    steps, every = configuration.steps, configuration.checkpoint_every
    if steps % every:
        raise ConfigurationError(
            f"{steps} is no multiple of checkpoint_every = {every}: the last steps would be in no checkpoint",
            where="steps",
            cure="Change one of them",
        )
    if configuration.ema_decay and configuration.ema_start >= steps:
        raise ConfigurationError(
            f"the average would start at step {configuration.ema_start} of {steps}, and hold the weights of the start",
            where="ema_start",
            cure="Start it earlier, or switch it off with ema_decay=0",
        )


def _fit_priors(stage: SingleViewStage, data: SequencesData, configuration: TrainingConfiguration) -> None:
    """Gives the field what does not depend on an image: the mean depth, and where voxels are occupied on average."""
    losses = configuration.losses
    if losses.dense_depth:
        data.setup("fit")
        stage.field.encoder.prior.copy_(data.samples().mean_depth_code(stage.field.spec))
    if losses.occupancy and configuration.prior_steps:
        data.setup("fit")
        loss = fit_prior(stage.field, data.samples(), configuration.prior_steps, offset=losses.occupancy_offset)
        print(f"positional prior fitted without images: occupancy loss {loss:.4f}")


def _fit_last_head(stage: SingleViewStage, data: SequencesData, record: TrainingRecord, file: Path) -> None:
    """Fits the head to the averaged encoder when no step of the training did, and writes a checkpoint of its own."""
    data.setup("fit")
    stage.field.encoder.shrink_depth(stage.head.depth_shrinkage)
    loss = stage.fit_head(data.samples(), half_resolution=stage.steps <= stage.half_resolution_steps)
    print(f"head fitted to the averaged features: loss {loss:.4f}")
    temporary = file.with_suffix(".part")
    content = {"state_dict": stage.cpu().state_dict(), "global_step": stage.steps, KEY: record.content()}
    torch.save(content, temporary)
    temporary.replace(file)
