"""Training configurations: keys of YAML files that every stage has, and how they are read."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.untrusted_files import JsonObject, read_yaml
from scene_completion_training import CONFIGS
from scene_completion_training.checkpoints import trained_viewpoint
from scene_completion_training.data.module import DataSettings
from scene_completion_training.networks.encoder_decoder import TrunkName
from scene_completion_training.settings import CURE, made, override, read_settings
from scene_completion_training.stage_registry import DEFAULT_STAGE, stage_class
from scene_completion_training.viewpoint import ENCODER_STEP, CameraSettings, Viewpoint, VolumeSettings

Completed = TypeVar("Completed", bound="TrainingConfiguration")
Chosen = TypeVar("Chosen", bound="Configuration")
MOST_MINUTES = 1_000_000
MOST = (1 << 31) - 1  # of numbers that count, and of seeds
_FROM_ONE = ("checkpoint_every", "log_every", "validate_every", "hidden", "channels", "data.batch_size")
_LEAST = dict.fromkeys(("seed", "steps", "warmup", "data.workers"), 0) | dict.fromkeys(_FROM_ONE, 1)
ABLATION = "ablation."  # begins an override that names a row of an ablation table


@dataclass
class LossWeights:
    """Weights of the losses; zero leaves a loss out."""

    photometric: float = 1.0  # SSIM + L1 with minimum over source views
    smoothness: float = 1e-3  # edge-aware smoothness (1e-3 in BTS)
    stereo_depth: float = 1.0  # rendered depth against stereo depth
    dense_depth: float = 1.0  # inverse depth in channel 0 of the feature map against stereo depth
    occupancy: float = 1.0  # density logits at voxel centres against fused stereo occupancy
    sparsity: float = 0.01  # mean opacity at random points of the view: empty where there is no evidence
    # Occupancy probability at such points against "free". What no view ever saw (behind the last surface, below the
    # road) has no voxels in `occupancy`. A field would take it for solid: the only voxels that are known behind
    # surfaces are. It acts together with `occupancy` alone.
    emptiness: float = 0.0


@dataclass
class RenderSettings:
    """Rendering at training time."""

    patches: int = 8  # 8×8 patches per image (32 in BTS on KITTI raw: 2048 rays)
    samples: int = 64  # samples per ray


@dataclass
class TrainingConfiguration:
    """What every stage needs; a stage adds keys of its own in its file."""

    stage: str = DEFAULT_STAGE  # name of the stage, see `stage_registry`
    seed: int = 0  # seed of samples, rays and initial weights; together with the step it determines everything random
    steps: int = 10_000  # optimiser steps of the whole training
    # Minutes after which it ends where it has not taken all steps by then, without those that prepare its samples. The
    # learning rate goes by what is further, clock or steps. 0: there is no such end, and a training can be repeated.
    max_minutes: float = 0.0
    learning_rate: float = 3e-4  # learning rate after the warm-up
    warmup: int = 200  # steps of linear warm-up
    checkpoint_every: int = 250  # steps between checkpoints, of which the newest is kept; the last step has one
    log_every: int = 20  # steps between points of the curves
    # Arithmetic: "32-true", "bf16-mixed" or "16-mixed".
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    gradient_clip: float = 5.0  # largest norm of the gradient; 0 leaves it as it is
    output: str = "runs/out"  # folder for checkpoints and curves

    def parts(self) -> "dict[str, TrainingConfiguration]":
        """The trainings that it consists of, by name; each may need those before it."""
        return {self.stage: self}

    def completed(self: Completed) -> Completed:
        """The configuration with what follows from other trainings that it names."""
        return self

    def going_on(self: Completed, checkpoint: Path) -> Completed:
        """The configuration of a training that goes on from its own checkpoint."""
        return self

    @property
    def validation_interval(self) -> int | None:
        """Steps between validations; None without any."""
        return None

    def check(self) -> None:
        """Raises a `ConfigurationError` for settings that contradict each other; stages add checks."""
        if not 0.0 <= self.max_minutes <= MOST_MINUTES:
            cure = f"Take 0 for none, or up to {MOST_MINUTES}"
            raise ConfigurationError(f"{self.max_minutes}", where="max_minutes", cure=cure)
        for name, least in _LEAST.items():  # as far as a stage has them
            value: Any = self
            for part in name.split("."):
                value = getattr(value, part, 1)
            if not least <= value <= MOST:
                raise ConfigurationError(f"{value}", where=name, cure=f"Take a whole number from {least} to {MOST}")
        start = getattr(self, "ema_start", 0)
        if getattr(self, "ema_decay", 0.0) and start >= self.steps:
            what = f"the average would start at step {start} of {self.steps}, and hold the weights of the start"
            cure = "Start it earlier, or switch it off with ema_decay=0"
            raise ConfigurationError(what, where="ema_start", cure=cure)


@dataclass
class Configuration(TrainingConfiguration):
    """What every stage that trains a density field needs; a stage adds keys of its own in its file."""

    # The canonical camera. By default that of what the training starts from, and otherwise the street's.
    camera: CameraSettings | None = None
    # The space that is completed; by default as the camera. What is left out is to the measure of its height.
    volume: VolumeSettings | None = None
    losses: LossWeights = field(default_factory=LossWeights)
    render: RenderSettings = field(default_factory=RenderSettings)
    # Trunk of the encoder: "efficientnet_lite0", or "resnet50" and "vision_transformer" as in the papers.
    encoder: TrunkName = "efficientnet_lite0"
    encoder_weights: str = ""  # local folder or hub name of its weights; by default those that the trunk is known by
    # Half of the steps encode mirrored images, and mirror the feature map back (BTS). Unlike `data.views.mirror` that
    # leaves the geometry alone.
    flip_features: bool = False
    # "cosine" to zero over all steps, or "step": a tenth of the rate every `decay_every` of them.
    schedule: Literal["cosine", "step"] = "cosine"
    decay_every: int = 120_000  # steps after which "step" lowers the rate, each time
    # Factor on `learning_rate` for the blocks of the pretrained trunk that learn.
    trunk_rate: float = 0.5
    hidden: int = 64  # width of the head's hidden layer (64 in BTS; of each view 128 in MVBTS)
    blocks: int = 0  # residual blocks in the head of stage `single_view` (1 in BTS on RealEstate10K); not for export
    # What its point code says of how far away a point is: depth, or distance (BTS on RealEstate10K; not for export).
    code_mode: Literal["z", "distance"] = "z"
    channels: int = 64  # of the feature map (64 in BTS, 32 on RealEstate10K); a vision transformer has 256
    # First blocks of the pretrained trunk that keep their weights. EfficientNet-Lite0 has 16, ResNet-50 four.
    frozen_blocks: int = 16
    # First steps, in which only the dense depth is trained. The losses on the density have little effect while
    # the features hold no depth, and their gradients drown the one that would put it there.
    depth_only_steps: int = 0
    # First steps, taken with images of half the size: four times as fast (progressive resizing). Points are queried in
    # normalised coordinates, so nothing else changes.
    half_resolution_steps: int = 0
    pretrained: bool = True  # start the trunk from its ImageNet weights
    data: DataSettings = field(default_factory=DataSettings)
    prior_steps: int = 1000  # steps in which the head is first fitted without images
    ema_decay: float = 0.0  # decay of the weight average that is evaluated and exported; 0 switches it off
    ema_start: int = 200  # step from which the average is kept
    # Steps between validations, where `data.validation` names sequences; the best checkpoint is kept.
    validate_every: int = 500
    # Folder of a student bundle, or a checkpoint, whose weights the training goes on from. A teacher takes the encoder
    # of a student. Then no prior is fitted, and the mean depth stays that of those drives.
    start_from: str | None = None

    @property
    def measures(self) -> bool:
        """Whether a loss compares with stereo depth, or with voxels that evidence was fused in."""
        losses = self.losses
        return bool(losses.stereo_depth or losses.dense_depth or losses.occupancy)

    def viewpoint(self) -> Viewpoint:
        """Canonical camera and volume; a `ConfigurationError` where they contradict each other."""
        return Viewpoint.of_settings(self.camera or CameraSettings(), self.volume or VolumeSettings())

    def looks_through(self) -> str:
        """Checkpoint of a field that stays as it is, and whose viewpoint is therefore this training's; or nothing."""
        return ""

    def completed(self: Chosen) -> Chosen:
        """With what follows from other trainings; a `ConfigurationError` if they contradict it."""
        camera, volume = self._chosen().settings
        return dataclasses.replace(self, camera=camera, volume=volume)

    def going_on(self: Chosen, checkpoint: Path) -> Chosen:
        """The configuration of a training that goes on: the viewpoint that was chosen then is not looked up again."""
        if self.camera is not None:
            return self
        camera, volume = trained_viewpoint(checkpoint).settings
        return dataclasses.replace(self, camera=camera, volume=self._with_own(volume))

    @property
    def validation_interval(self) -> int | None:
        """Steps between validations; None without any."""
        return self.validate_every if self.data.validation else None

    def _with_own(self, volume: VolumeSettings) -> VolumeSettings:
        """A volume with the lengths that these settings name in place of its own."""
        named = {name: value for name, value in vars(self.volume or VolumeSettings()).items() if value is not None}
        return dataclasses.replace(volume, **named)

    def _chosen(self) -> Viewpoint:
        """The viewpoint of a fixed field, or the one of the settings, or that of what it starts from."""
        fixed = self.looks_through()
        if self.camera is None or fixed:
            source = fixed or self.start_from
            known = trained_viewpoint(Path(source)) if source else Viewpoint()
        else:
            known = Viewpoint()
        if self.camera is None and self.volume is None:
            return known
        camera, volume = known.settings if self.camera is None else (self.camera, VolumeSettings())
        viewpoint = Viewpoint.of_settings(camera, self._with_own(volume))
        if fixed and viewpoint != known:
            cure = "Leave them out: they are taken from there"
            raise ConfigurationError(f"others than those of {fixed}", where="camera, volume", cure=cure)
        return viewpoint

    def check(self) -> None:
        """Refuses what cannot be trained, see `TrainingConfiguration.check`; a stage adds checks of its own."""
        super().check()
        views, camera = self.data.views, self.viewpoint().camera
        if not 0.0 <= views.aside <= 1.0:
            raise ConfigurationError(f"aside={views.aside}", where="data.views", cure="Take a share from 0 to 1")
        if self.stage != DEFAULT_STAGE and (self.blocks or self.code_mode != "z"):
            what, cure = f"blocks={self.blocks} code_mode={self.code_mode}", f"Train them with stage {DEFAULT_STAGE}"
            raise ConfigurationError(what, where=f"stage {self.stage}", cure=cure)
        if self.schedule == "step" and self.decay_every < 1:
            raise ConfigurationError(f"{self.decay_every}", where="decay_every", cure="Take a positive number of steps")
        if self.half_resolution_steps and (camera.width % (2 * ENCODER_STEP) or camera.height % (2 * ENCODER_STEP)):
            what = f"{camera.width}x{camera.height} pixels cannot be halved"
            cure = f"Take multiples of {2 * ENCODER_STEP}, or half_resolution_steps=0"
            raise ConfigurationError(what, where="camera.width, camera.height", cure=cure)

    def check_start(self, otherwise: str = "") -> None:
        """Raises a `ConfigurationError` where no density to start from is named; `otherwise` adds to its cure."""
        if not self.start_from:
            what = "the density is to stay as it is, but none is named"
            raise ConfigurationError(what, where="start_from", cure=f"Name a student{otherwise}")


def read_configuration(path: Path, overrides: list[str], kind: type[Completed]) -> Completed:
    """Reads a YAML configuration of some kind; `KEY=VALUE` overrides replace its values. Unknown keys are refused.

    `ablation.NAME` stands for the values that `ablations/STAGE.yaml` of the configurations gives that name, and for an
    output folder with the name behind its own.

    Raises ConfigurationError where the file cannot be read, names no stage there is or one of another kind, a value
    cannot be used, or an ablation changes nothing. `kind`: `TrainingConfiguration` for anything, `Configuration` for a
    density field.
    """
    content = read_yaml(path, ConfigurationError, cure="Name a YAML file", kind=dict)
    named = [override.partition("=")[2] for override in overrides if override.startswith("stage=")]
    stage = named[-1] if named else content.get("stage", DEFAULT_STAGE)
    made_of: type[TrainingConfiguration] = stage_class(stage, where=str(path)).configuration_class
    if not issubclass(made_of, kind):
        cure = "Name the configuration of another stage"
        raise ConfigurationError(f"stage {stage} trains no density field", where=str(path), cure=cure)
    ablations = [given for given in overrides if given.startswith(ABLATION)]
    given = [override for override in overrides if override not in ablations]
    output = content.get("output", made_of.output)
    given += _ablated(str(stage), [name.removeprefix(ABLATION) for name in ablations], given, output)
    settings = read_settings(path, made_of)
    for one in given:
        settings = override(settings, made_of, one)
    found = made(made_of, JsonObject(settings, path, kind=ConfigurationError, cure=CURE))
    for ablation in ablations:
        without = read_configuration(path, [override for override in overrides if override != ablation], kind)
        if dataclasses.replace(found, output="") == dataclasses.replace(without, output=""):
            what = f"{ablation} changes nothing: its values are those of {path}"
            raise ConfigurationError(what, where="ablation", cure="Leave it out")
    return found


def _ablated(stage: str, names: Sequence[str], given: Sequence[str], output: str) -> Iterator[str]:
    """Overrides that ablations of a stage stand for; a ConfigurationError for unknown ones, and for contradictions."""
    if not names:
        return
    file = CONFIGS / "ablations" / f"{stage}.yaml"
    known = read_yaml(file, ConfigurationError, cure="Leave it out") if file.is_file() else {}
    set_by = {override.partition("=")[0]: override for override in given}
    for name in names:
        if name not in known:
            there = f"Stage {stage} has {', '.join(known)}" if known else f"Stage {stage} has none"
            raise ConfigurationError(f"{ABLATION}{name} does not exist", where="ablation", cure=there)
        for key, value in known[name].items():
            for other, source in set_by.items():
                if f"{other}.".startswith(f"{key}.") or f"{key}.".startswith(f"{other}."):
                    what = f"{ABLATION}{name} sets {key}, which {source} sets, too"
                    raise ConfigurationError(what, where="ablation", cure="Leave out one of them")
            yield f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        set_by |= dict.fromkeys(known[name], f"{ABLATION}{name}")
    if "output" not in set_by:
        yield f"output={'_'.join([output, *names])}"
