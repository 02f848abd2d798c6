"""Runs the stage of a configuration on Lightning, or tries a few steps of it to say what the training will take."""

import dataclasses
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import lightning
import numpy as np
import torch
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info

from scene_completion_ros.commands.paths import Output
from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.sequences.frame_lists import FrameSplit, SplitCount
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.arrays import Bytes, Mask
from scene_completion_training.checkpoints import SafeCheckpoints, TrainingRecord
from scene_completion_training.configuration import Configuration, TrainingConfiguration
from scene_completion_training.data import module
from scene_completion_training.data.recorded_frames import RecordedFrames
from scene_completion_training.field_stage import FieldStage
from scene_completion_training.stage import Stage
from scene_completion_training.stages import stage_class
from scene_completion_training.workers import Progress, accelerator, computes_bfloat16

BEST = "best.ckpt"


def make_stage(configuration: TrainingConfiguration) -> Stage:
    """The stage that a configuration asks for, untrained; a `ConfigurationError` or `BundleError` if it cannot be."""
    configuration = configuration.completed()
    configuration.check()
    return stage_class(configuration.stage)(configuration)


def train(configuration: TrainingConfiguration, *, fast_dev_run: bool = False, threads: int | None = None) -> Path:
    """Trains and returns the checkpoint to export; resumes from `checkpoints/last.ckpt` in the output if it exists.

    `fast_dev_run`: take two steps of everything and write no checkpoints; `threads`: torch threads. Raises
    SceneCompletionError where it would write over a checkpoint that it starts from; or see `make_stage`.
    """
    if fast_dev_run:
        configuration = configuration.shortened()
    if TorchElasticEnvironment.detect():  # torchrun has started the processes, and knows how many
        local, world = (int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
        configuration = dataclasses.replace(configuration, devices=local, nodes=world // local)
    if threads:
        torch.set_num_threads(threads)
    lightning.seed_everything(configuration.seed)
    last = Path(configuration.output) / "checkpoints" / "last.ckpt"
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


def _trainer(settings: TrainingConfiguration, own: list[lightning.Callback], fast_dev_run: bool) -> lightning.Trainer:
    output = Path(settings.output)
    callbacks = [*own, LearningRateMonitor("step")]
    if not fast_dev_run:
        callbacks += _checkpoints(settings)
    parallel = settings.devices * settings.nodes > 1
    return lightning.Trainer(
        max_steps=settings.steps,
        max_epochs=-1,
        accelerator="auto",
        devices=settings.devices,
        num_nodes=settings.nodes,
        strategy="ddp_find_unused_parameters_true" if parallel else "auto",
        precision=_precision(settings),
        callbacks=callbacks,
        use_distributed_sampler=False,  # the sampler knows its process
        plugins=[SafeCheckpoints()],
        logger=TensorBoardLogger(output, name=None, version="curves"),
        default_root_dir=output,
        gradient_clip_val=settings.gradient_clip or None,
        log_every_n_steps=settings.log_every,
        val_check_interval=settings.validation_interval,
        limit_val_batches=None if settings.validation_interval else 0,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        fast_dev_run=2 if fast_dev_run else False,
        enable_checkpointing=not fast_dev_run,
        enable_model_summary=False,
    )


def _precision(configuration: TrainingConfiguration) -> Literal["32-true", "bf16-mixed", "16-mixed"]:
    if configuration.precision == "bf16-mixed" and not computes_bfloat16(accelerator().type):
        rank_zero_info("This CPU only imitates bfloat16, at a quarter of the speed: it computes in single precision")
        return "32-true"
    return configuration.precision


def _checkpoints(configuration: TrainingConfiguration) -> list[ModelCheckpoint]:
    folder = Path(configuration.output) / "checkpoints"
    # One file, replaced at once: a training that is killed between two files loses one.
    options: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False}
    every = configuration.checkpoint_every
    kept = [ModelCheckpoint(every_n_train_steps=every, save_top_k=0, save_last=True, **options)]
    if configuration.validation_interval:
        kept.append(ModelCheckpoint(filename=Path(BEST).stem, monitor="validation/total", **options))
    return kept


WARM_UP, TIMED = 2, 3  # steps that are taken, and those of them that count
TRIED = 6  # frames that are prepared, to see what one takes


@dataclass(frozen=True)
class Plan:
    """What a training will take."""

    steps: int
    frames: int
    listed: SplitCount | None  # what of the frame list of the training is there, where it has one
    samples: int
    epochs: float  # how often that is every listed frame, every distinct sample, or every frame of the training
    cache: str  # folder of the cache; "" where images are read as they lie
    prepared: int
    frame_bytes: float  # of the cache, a frame
    frame_s: float  # seconds to prepare a frame, in one process
    processors: int
    loading_s: float  # seconds to load the samples of a step, in one process
    computing_s: float  # seconds to compute a step
    workers: int  # processes that load samples beside the training, as far as there are cores for them; 0 for none
    # Name of the GPU, its memory and the most that was used of it, bytes; None on a CPU.
    gpu: tuple[str, int, int] | None

    @property
    def step_s(self) -> float:
        """Seconds that a step takes: its samples are loaded while the one before is computed, if there are workers."""
        if not self.workers:
            return self.loading_s + self.computing_s
        return max(self.computing_s, self.loading_s / self.workers)

    @property
    def loading_limits(self) -> bool:
        """Whether the training waits for samples longer than it computes."""
        return self.step_s > (1.0 if self.workers else 2.0) * self.computing_s

    def lines(self) -> list[str]:
        """The plan for people."""
        found = f"{self.frames} in the recordings" + (f"; {self.listed}" if self.listed else "")
        lines = [f"frames: {found}", f"samples: {self.samples} in {self.steps} steps, {self.epochs:.2f} epochs"]
        if self.cache:
            folder = Path(self.cache).absolute()
            free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
            lines.append(
                f"cache: {self.prepared * self.frame_bytes / 1e9:.3g} GB in {self.cache} for {self.prepared} frames of "
                f"{self.frame_bytes / 1e3:.0f} kB ({free / 1e9:.3g} GB are free); to prepare all of them takes about "
                f"{self.prepared * self.frame_s / self.processors / 3600:.2g} h in {self.processors} processes"
            )
        else:
            lines.append("cache: none, images are read as they lie")
        with_workers = f", {self.loading_s / self.workers:.3g} s in {self.workers} processes" if self.workers else ""
        loading = f"{self.loading_s:.3g} s{with_workers}"
        lines.append(f"step: {self.computing_s:.3g} s of computing; its samples take {loading}")
        lines.append(f"training: {self.steps * self.step_s / 3600:.3g} h for all steps; validations come on top")
        if self.gpu:
            name, size, peak = self.gpu
            lines.append(f"GPU memory: {peak / 2**30:.1f} of {size / 2**30:.1f} GiB at most ({name})")
        if self.loading_limits:
            lines.append(
                "limit: loading the samples, not computing. Raise data.workers up to the number of cores, keep resized "
                "images in data.cache, or use a faster disk"
            )
        else:
            lines.append("limit: computing, not loading the samples")
        return lines


class _TriedFrames(RecordedFrames):
    """Frames whose small images are made when they are first read, in a temporary cache."""

    def _read(self, index: int, name: str) -> Bytes:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.write([index], Progress())
        return super()._read(index, name)

    def forget(self) -> None:
        """Reads images from disk again."""
        self._image.cache_clear()


class _PlannedData(module.SequencesData):
    """Looks at all recordings, and prepares a few frames."""

    def __init__(self, *arguments: Any, **needs: Any) -> None:
        super().__init__(*arguments, **needs)
        self.wanted: dict[str, Mask] = {}
        self.recordings: list[_TriedFrames] = []
        self.frame_s = 0.0
        self.trained = 0
        self._tried = False

    def _recorded(self, sequence: PosedSequence, cache: Path | None, classes: Path | None) -> RecordedFrames:
        self.recordings.append(_TriedFrames(sequence, self.viewpoint, cache, classes))
        return self.recordings[-1]

    def _resize(self, recorded: RecordedFrames, wanted: Mask) -> None:
        self._want(recorded.name, wanted)
        if recorded.folder is not None and wanted.any() and not self._tried:
            self._tried = True
            recorded.folder.mkdir(parents=True, exist_ok=True)
            some = np.flatnonzero(wanted)[:TRIED].tolist()
            started = time.perf_counter()
            recorded.write(some, Progress())
            self.frame_s = (time.perf_counter() - started) / len(some)

    def _prepared(self, source: module.SequenceSource, role: str, split: FrameSplit | None) -> module.OpenedSource:
        if not self.needs.measured:
            return super()._prepared(source, role, split)
        sequence = module.load_sequence(Path(self.settings.root), source, role)
        self._want(sequence.name, np.ones(len(sequence), np.bool_))
        self.trained += len(sequence) if role == "training" else 0
        if split is not None:
            split.of(sequence)
        if self._tried or role != "training":
            return module.OpenedSource([], [], [])
        self._tried = True
        return super()._prepared(source, role, None)

    def _files(self, source: module.SequenceSource, role: str) -> tuple[PosedSequence, list[Path]]:
        started = time.perf_counter()
        found = module.prepare_source(self.settings, source, self.viewpoint, role, workers=1, most=TRIED)
        self.frame_s = (time.perf_counter() - started) / len(found[1])
        return found

    def _want(self, name: str, wanted: Mask) -> None:
        self.wanted[name] = wanted | self.wanted.get(name, np.zeros_like(wanted))

    def frame_bytes(self) -> float:
        """Mean size on disk of the frames that were prepared."""
        if not self.settings.cache:
            return 0.0
        sizes = [file.stat().st_size for file in Path(self.settings.cache).rglob("*") if file.is_file()]
        files = 1 if self.needs.measured else len(self.recordings[0].cameras)
        return float(np.mean(sizes)) * files


class _Clock(lightning.Callback):
    """Times how long each step waits for its samples, and how long it takes, in seconds."""

    def __init__(self) -> None:
        self.loading: list[float] = []
        self.computing: list[float] = []
        self._since = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """The first samples are loaded."""
        self._lap()

    def on_train_batch_start(self, *_: Any) -> None:
        """Samples are there."""
        self.loading.append(self._lap())

    def on_train_batch_end(self, *_: Any) -> None:
        """The step has been taken."""
        self.computing.append(self._lap())

    def _lap(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        before, self._since = self._since, time.perf_counter()
        return self._since - before


def plan(configuration: TrainingConfiguration, threads: int | None = None) -> Plan:
    """Tries a few steps of a training in a temporary folder, on this machine; nothing else is written.

    Half of the size, and depth alone, are left out where they are not for all steps: the other steps take longer.
    Raises ConfigurationError: its stage trains no density field; or see `make_stage`; SequenceError: recordings are
    missing.
    """
    if not isinstance(configuration, Configuration):
        what = f"stage {configuration.stage} trains none"
        raise ConfigurationError(what, where="--plan", cure="Plan trainings of density fields")
    if threads:
        torch.set_num_threads(threads)
    lightning.seed_everything(configuration.seed)
    half = configuration.half_resolution_steps
    with TemporaryDirectory() as folder:
        cache = f"{folder}/cache" if configuration.data.cache else ""
        loaded = dataclasses.replace(configuration.data, cache=cache, workers=0)
        tried = dataclasses.replace(configuration, output=f"{folder}/output", data=loaded, picture_every=0)
        tried.depth_only_steps, tried.half_resolution_steps = 0, half if half >= configuration.steps else 0
        stage = make_stage(tried)
        assert isinstance(stage, FieldStage)
        data = stage.make_data(_PlannedData)
        assert isinstance(data, _PlannedData)
        stage.go_on()
        return _tried(configuration, stage, data)


def _tried(configuration: Configuration, stage: FieldStage, data: _PlannedData) -> Plan:
    settings, steps = configuration.data, min(WARM_UP + TIMED, configuration.steps)
    data.setup("fit")
    samples = data.samples()
    for number in range(steps * settings.batch_size):
        samples[number]  # what they read is in the cache from now on
    for recorded in data.recordings:
        recorded.forget()
    clock = _Clock()
    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="auto",
        devices=1,
        precision=_precision(configuration),
        callbacks=[*stage.callbacks(), clock],
        logger=False,
        default_root_dir=stage.settings.output,
        gradient_clip_val=configuration.gradient_clip or None,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(stage, datamodule=data)
    loading, computing = (float(np.mean(found[WARM_UP:] or found)) for found in (clock.loading, clock.computing))
    device, gpu = trainer.strategy.root_device, None
    if device.type == "cuda":
        whole = torch.cuda.get_device_properties(device)
        gpu = (whole.name, whole.total_memory, torch.cuda.max_memory_reserved(device))
    counted = data.counts.get("training")
    trained = counted.used if counted else data.trained or sum(len(drive) for drive in data.frames)
    taken = configuration.steps * settings.batch_size * configuration.devices * configuration.nodes
    cores = len(os.sched_getaffinity(0)) // configuration.devices
    return Plan(
        steps=configuration.steps,
        frames=sum(len(wanted) for wanted in data.wanted.values()),
        listed=counted,
        samples=taken,
        epochs=taken / (settings.distinct_samples or trained),
        cache=settings.cache,
        prepared=sum(int(wanted.sum()) for wanted in data.wanted.values()),
        frame_bytes=data.frame_bytes(),
        frame_s=data.frame_s,
        processors=max(2, settings.workers),
        loading_s=loading,
        computing_s=computing,
        workers=min(settings.workers, max(1, cores)),
        gpu=gpu,
    )
