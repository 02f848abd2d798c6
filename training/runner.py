"""Reads a training configuration and runs its stage on Lightning."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, cast

import jsonargparse
import lightning
import numpy as np
import torch
import yaml
from lightning.pytorch.callbacks import EMAWeightAveraging, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch.nn import functional

from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_training.calibration_link import link_of_calibration
from scene_completion_training.checkpoints import Checkpoint, SafeCheckpoints
from scene_completion_training.configuration import (
    CONFIGURATIONS,
    Configuration,
    FeatureFieldConfiguration,
    SemanticsConfiguration,
    Stage,
    StudentConfiguration,
    SupervisedConfiguration,
    TeacherConfiguration,
)
from scene_completion_training.data.feature_targets import FeatureTargets
from scene_completion_training.data.module import SequencesData
from scene_completion_training.data.view_batches import MOST_ENCODER_VIEWS
from scene_completion_training.field_stage import FieldStage
from scene_completion_training.foundation.backbone import Backbone
from scene_completion_training.foundation.feature_store import FeatureStore
from scene_completion_training.foundation.targets import LiveTargets
from scene_completion_training.networks.feature_field import FeatureField
from scene_completion_training.pictures import TrainingPictures
from scene_completion_training.prior_fit import fit_prior
from scene_completion_training.record import TrainingRecord
from scene_completion_training.settings import FeatureSettings
from scene_completion_training.stages.feature_field import FeatureFieldStage
from scene_completion_training.stages.semantics import SemanticsStage
from scene_completion_training.stages.single_view import SingleViewStage
from scene_completion_training.stages.student import StudentStage
from scene_completion_training.stages.supervised import SupervisedStage
from scene_completion_training.stages.teacher import TeacherStage

MEAN_SAMPLES = 32
"""Samples whose tokens give their mean."""


def read_configuration(path: Path, overrides: list[str]) -> Configuration:
    """Reads a YAML configuration; `KEY=VALUE` overrides replace its values. Unknown keys are refused.

    Raises:
        ConfigurationError: The file names no stage there is.
    """
    stage = _stage_of(path, overrides)
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(CONFIGURATIONS[stage], None, sub_configs=True)
    arguments = [f"--config={path}", *(f"--{override}" for override in overrides)]
    parsed = parser.instantiate_classes(parser.parse_args(arguments))
    values = {name: value for name, value in vars(parsed).items() if name != "config"}
    return CONFIGURATIONS[stage](**values)


def _stage_of(path: Path, overrides: list[str]) -> Stage:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigurationError(f"cannot be read: {error}", where=str(path), cure="Name a YAML file") from error
    named = [override.partition("=")[2] for override in overrides if override.startswith("stage=")]
    stage = named[-1] if named else content.get("stage", "single_view") if isinstance(content, dict) else None
    if stage not in CONFIGURATIONS:
        raise ConfigurationError(
            f"stage {stage!r} does not exist", where=str(path), cure=f"There are {', '.join(CONFIGURATIONS)}"
        )
    return cast(Stage, stage)


def load_weights(stage: FieldStage, source: str) -> None:
    """Starts a stage from what was trained before.

    Args:
        stage: A new stage. A teacher takes the encoder alone; a field with features may take the density alone.
        source: Folder of a student bundle, or a checkpoint of any stage.

    Raises:
        BundleError: The weights are those of another network.
    """
    link: dict[str, torch.Tensor] = {}  # belongs to the head: what its logits mean
    if Path(source).is_dir():
        bundle = StudentBundle.load(source)
        weights = {name: torch.from_numpy(v.astype(np.float32)) for name, v in bundle.load_weights().items()}
        link = link_of_calibration(bundle.calibration, stage.settings.voxel_size)
    else:
        checkpoint = Checkpoint.read(Path(source))
        weights, link = dict(checkpoint.state), dict(checkpoint.link)
    target: torch.nn.Module = stage.field
    featured = stage.field if isinstance(stage, FeatureFieldStage | SupervisedStage) else None
    if featured is not None and not any(name.startswith("density.") for name in weights):
        target = featured.density
    if isinstance(stage, TeacherStage) and not any(name.startswith("fusion.") for name in weights):
        target, weights, link = stage.encoder, _under("encoder.", weights), {}
    try:
        target.load_state_dict(weights)
    except RuntimeError as error:
        raise BundleError(
            f"weights of another network ({str(error)[:200]})", where=source, cure="Name another bundle or checkpoint"
        ) from error
    if featured is not None and target is featured.density:
        # What sees edges for the depth sees them for the features too.
        featured.decoder.load_state_dict(featured.density.encoder.decoder.state_dict())
    if link:
        stage.link.load_state_dict(link)
    stage.start_learning()


def _under(prefix: str, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def train(configuration: Configuration, *, fast_dev_run: bool = False, threads: int | None = None) -> Path:
    """Trains and returns the checkpoint to export; resumes from `checkpoints/last.ckpt` in the output if it exists.

    Args:
        configuration: What to train.
        fast_dev_run: Take two steps of everything and write no checkpoints.
        threads: torch threads; all cores if not given.

    Raises:
        ConfigurationError: Its steps contradict each other.
    """
    configuration = _with_its_field(configuration)
    _check_steps(configuration)
    if fast_dev_run:
        configuration = dataclasses.replace(configuration, prior_steps=2)
    if threads:
        torch.set_num_threads(threads)
    lightning.seed_everything(configuration.seed)
    targets = feature_targets(configuration.features) if isinstance(configuration, FeatureFieldConfiguration) else None
    stage = make_stage(configuration, targets)
    data = SequencesData(
        configuration.data,
        configuration.steps,
        configuration.seed,
        encoder_views=encoder_views(configuration),
        targets=targets,
        label_points=configuration.label_points if isinstance(configuration, SupervisedConfiguration) else 0,
    )
    output = Path(configuration.output)
    record = TrainingRecord(_recorded(configuration), data)
    trainer = _trainer(configuration, record, fast_dev_run)
    last = output / "checkpoints" / "last.ckpt"
    resume = last if last.exists() and not fast_dev_run else None
    if resume is None:
        _start(stage, data, configuration)
    if resume is None and not fast_dev_run and trainer.is_global_zero:
        for file in last.parent.glob("*.ckpt"):  # of another training
            file.unlink()
    trainer.fit(stage, datamodule=data, ckpt_path=resume and str(resume), weights_only=True)
    return last


def encoder_views(configuration: Configuration) -> int:
    """Images that the stage of a configuration encodes."""
    return configuration.encoder_views if isinstance(configuration, TeacherConfiguration | StudentConfiguration) else 1


def feature_targets(settings: FeatureSettings) -> FeatureTargets:
    """The targets that a feature field learns from: precomputed, or computed while training.

    Raises:
        ConfigurationError: Neither targets nor a model are named, or the targets have other cells or no mirrored ones.
    """
    if settings.targets:
        store = FeatureStore.open(Path(settings.targets), cell=settings.cell)
        if store.variants < 2:
            raise ConfigurationError(
                "the targets have one variant an image, but mirrored scenes need their own",
                where="features.targets",
                cure="Make them with --variants 2 or more",
            )
        return store
    if not settings.model:
        raise ConfigurationError(
            "neither precomputed targets nor a model are named",
            where="features",
            cure="Set features.targets to what `scene-completion features` made, or features.model",
        )
    return LiveTargets(Backbone(settings.model, settings.layer), settings.cell, variants=4)


def _with_its_field(configuration: Configuration) -> Configuration:
    """Semantics look through a trained field: its network and the size of its images are what they are there."""
    if not isinstance(configuration, SemanticsConfiguration) or not configuration.features_from:
        return configuration
    stored = Checkpoint.read(Path(configuration.features_from))
    described = stored.record.get("configuration", {})
    return dataclasses.replace(
        configuration,
        encoder=stored.trunk,
        encoder_weights=described.get("encoder_weights", ""),
        hidden=described.get("hidden", configuration.hidden),
        half_resolution_steps=configuration.steps if stored.half_resolution else 0,
    )


def _recorded(configuration: Configuration) -> dict[str, Any]:
    """What a checkpoint remembers of a configuration; of a teacher also which one it was."""
    content = dataclasses.asdict(configuration)
    if isinstance(configuration, StudentConfiguration):
        content["teacher_sha256"] = hashlib.sha256(Path(configuration.teacher).read_bytes()).hexdigest()
    return content


def make_stage(configuration: Configuration, targets: FeatureTargets | None = None) -> FieldStage:
    """The stage that a configuration asks for, untrained.

    Args:
        configuration: The configuration.
        targets: What a feature field learns from.

    Raises:
        ConfigurationError: A student without a teacher, semantics without a feature field.
        BundleError: The teacher's checkpoint holds none.
    """
    if isinstance(configuration, FeatureFieldConfiguration):
        found = targets or feature_targets(configuration.features)
        return FeatureFieldStage(configuration, found.dim)
    if isinstance(configuration, SemanticsConfiguration):
        if not configuration.features_from:
            raise ConfigurationError(
                "no feature field named",
                where="features_from",
                cure="Give the checkpoint of a training with stage `feature_field`",
            )
        stored = Checkpoint.read(Path(configuration.features_from))
        return SemanticsStage(configuration, stored.feature_field(), stored.occupancy_link())
    if isinstance(configuration, StudentConfiguration):
        if not configuration.teacher:
            raise ConfigurationError(
                "no teacher named", where="teacher", cure="Give the checkpoint of a training with stage `teacher`"
            )
        stored = Checkpoint.read(Path(configuration.teacher))
        if stored.trunk != configuration.encoder:
            raise ConfigurationError(
                f"the student's is {configuration.encoder}, the teacher's {stored.trunk}",
                where="encoder",
                cure="The student starts from its teacher's encoder: name the same one",
            )
        return StudentStage(
            configuration,
            stored.multi_view_field(),
            stored.occupancy_link(),
            teacher_half_resolution=stored.half_resolution,
        )
    if isinstance(configuration, TeacherConfiguration):
        return TeacherStage(configuration)
    if isinstance(configuration, SupervisedConfiguration):
        return SupervisedStage(configuration)
    return SingleViewStage(configuration)


def _trainer(configuration: Configuration, record: TrainingRecord, fast_dev_run: bool) -> lightning.Trainer:
    output = Path(configuration.output)
    callbacks: list[lightning.Callback] = [record, LearningRateMonitor("step")]
    if not fast_dev_run:
        callbacks += _checkpoints(configuration)
    if configuration.ema_decay:
        callbacks.append(
            EMAWeightAveraging(decay=configuration.ema_decay, update_starting_at_step=configuration.ema_start)
        )
    if configuration.picture_every:
        callbacks.append(TrainingPictures(configuration.picture_every))
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
        gradient_clip_val=configuration.gradient_clip,
        log_every_n_steps=configuration.log_every,
        val_check_interval=configuration.validate_every if configuration.data.validation else None,
        limit_val_batches=None if configuration.data.validation else 0,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        fast_dev_run=2 if fast_dev_run else False,
        enable_checkpointing=not fast_dev_run,
        enable_model_summary=False,
    )


def _checkpoints(configuration: Configuration) -> list[ModelCheckpoint]:
    """What keeps the last checkpoint, and the best where there is a validation."""
    folder = Path(configuration.output) / "checkpoints"
    kept = [
        ModelCheckpoint(
            dirpath=folder,
            filename="step-{step}",
            auto_insert_metric_name=False,
            every_n_train_steps=configuration.checkpoint_every,
            save_top_k=1,
            save_last=True,
            monitor="step",
            mode="max",
        )
    ]
    if configuration.data.validation:
        kept.append(ModelCheckpoint(dirpath=folder, filename="best", monitor="validation/total", save_top_k=1))
    return kept


def _check_steps(configuration: Configuration) -> None:
    steps, every = configuration.steps, configuration.checkpoint_every
    if steps % every:
        raise ConfigurationError(
            f"{steps} is no multiple of checkpoint_every = {every}: the last steps would be in no checkpoint",
            where="steps",
            cure="Change one of them",
        )
    if isinstance(configuration, StudentConfiguration) and configuration.depth_only_steps:
        raise ConfigurationError(
            f"{configuration.depth_only_steps} steps of depth alone, but a student starts with its teacher's depth",
            where="depth_only_steps",
            cure="Set it to 0",
        )
    if not 1 <= encoder_views(configuration) <= MOST_ENCODER_VIEWS:
        raise ConfigurationError(
            f"{encoder_views(configuration)} of them",
            where="encoder_views",
            cure=f"Encode 1 to {MOST_ENCODER_VIEWS}: the sample's own view, and others from further along",
        )
    frozen = isinstance(configuration, FeatureFieldConfiguration) and configuration.features.freeze_density
    supervised = isinstance(configuration, SupervisedConfiguration)
    if (frozen or supervised) and not configuration.start_from:
        raise ConfigurationError(
            "the density is to stay as it is, but none is named",
            where="start_from",
            cure=f"Name a student{', or let the density learn with features.freeze_density=false' * frozen}",
        )
    if configuration.ema_decay and configuration.ema_start >= steps:
        raise ConfigurationError(
            f"the average would start at step {configuration.ema_start} of {steps}, and hold the weights of the start",
            where="ema_start",
            cure="Start it earlier, or switch it off with ema_decay=0",
        )


def _start(stage: FieldStage, data: SequencesData, configuration: Configuration) -> None:
    """Gives a new training its first weights."""
    if isinstance(stage, FeatureFieldStage):
        data.setup("fit")
        samples = data.samples()
        stage.centre(samples[index] for index in range(min(MEAN_SAMPLES, len(samples))))
    if configuration.start_from:
        load_weights(stage, configuration.start_from)
        return
    if isinstance(configuration, SemanticsConfiguration):  # its field is trained
        return
    losses, encoder = configuration.losses, stage.encoder
    if losses.dense_depth and not isinstance(stage, StudentStage):  # a student has its teacher's
        data.setup("fit")
        mean = data.samples().mean_depth_code(stage.point_code)
        encoder.prior.copy_(functional.interpolate(mean, encoder.prior.shape[2:], mode="bilinear"))
    if losses.occupancy and configuration.prior_steps:
        data.setup("fit")
        field = stage.field.density if isinstance(stage.field, FeatureField) else stage.field
        loss = fit_prior(field, stage.link, data.samples(), configuration.prior_steps)
        print(f"positional prior fitted without images: occupancy loss {loss:.4f}")
