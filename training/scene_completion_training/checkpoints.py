"""Checkpoints of trainings: what they remember of it, what was trained, and the field in them."""

import dataclasses
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import lightning
import numpy as np
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor
from torch.nn import functional

import scene_completion_ros
from scene_completion_ros.errors import BundleError, ConfigurationError, SequenceError, TrainingError
from scene_completion_ros.geometry import Camera
from scene_completion_ros.inference.bundle import open_student
from scene_completion_ros.untrusted_files import opened
from scene_completion_ros.whole_files import whole_file
from scene_completion_training.data.module import TrainingData
from scene_completion_training.networks import density_field
from scene_completion_training.networks.density_field import DensityField, OccupancyLink, TrainedField, part_of
from scene_completion_training.networks.encoder_decoder import EncoderDecoder, TrunkName
from scene_completion_training.networks.feature_field import DistillationHead, FeatureField
from scene_completion_training.stage_registry import DEFAULT_STAGE, STAGES, stage_class
from scene_completion_training.viewpoint import Viewpoint

KEY = "scene_completion_training"
FORMAT = 1  # version of what a checkpoint holds; those written before it was counted are 0, and hold the same
# Which pixels a training completes cells from is in its record by their weights.
_MAY_CHANGE = ("output", "pixels_from", "checkpoint_every", "validate_every", "log_every")
_DATA_MAY_CHANGE = ("cache", "pack", "workers")
Field = TypeVar("Field", bound=TrainedField)


class TrainingRecord(lightning.Callback):
    """Writes the configuration into every checkpoint, and refuses those of a training of another one."""

    def __init__(self, configuration: dict[str, Any], data: TrainingData) -> None:
        self.configuration, self.data = configuration, data

    def on_save_checkpoint(self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Adds the record: the configuration, what the data knows, who wrote it."""
        about = {"format": FORMAT, "version": scene_completion_ros.__version__, "configuration": self.configuration}
        checkpoint[KEY] = {**about, "commit": source_commit(), **self.data.record()}

    def refuse_other(self, record: Mapping[str, Any]) -> None:
        """Raises a `SequenceError` for the record of a checkpoint of another configuration."""
        before = record.get("configuration", {})
        kept = {name: value for name, value in self.configuration.items() if name in before and name not in _MAY_CHANGE}
        changed = [name for name, value in kept.items() if _differ(before[name], value)]
        if changed:
            what = f"the checkpoint there was trained with other values of {changed}"
            cure = "Name another `output` for a new training, or restore the configuration to go on with this one"
            raise SequenceError(what, where=str(self.configuration["output"]), cure=cure)


def source_commit() -> str:
    """Commit of the checkout that this package lies in; empty where there is none, or no git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def written_by(record: Mapping[str, Any]) -> str:
    """Which version wrote a checkpoint, from its record."""
    return f"scene_completion_ros {record.get('version')}"


def refuse_later(record: Mapping[str, Any], where: str) -> None:
    """Raises a `BundleError` for the record of a checkpoint whose format this version does not know."""
    if record.get("format", 0) > FORMAT:
        known = f"{scene_completion_ros.__version__} reads up to {FORMAT}"
        what = f"{written_by(record)} wrote this checkpoint in format {record['format']}, and {known}"
        raise BundleError(what, where=where, cure="Use that version or a later one, or train anew with this one")


def _differ(before: Any, now: Any) -> bool:
    """Whether values of a configuration differ in what changes a result; new keys do not count."""
    if isinstance(before, dict) and isinstance(now, dict):
        may_change = (*_MAY_CHANGE, *_DATA_MAY_CHANGE)
        return any(_differ(before[name], now[name]) for name in now if name in before and name not in may_change)
    if isinstance(before, list | tuple) and isinstance(now, list | tuple) and len(before) == len(now):
        return any(_differ(one, other) for one, other in zip(before, now, strict=True))
    return bool(before != now)


def run_name(path: Path) -> str:
    """Name of a checkpoint in tables: that of its run, which keeps all as RUN/checkpoints/NAME.ckpt, or its own."""
    path = path.resolve()
    return path.parent.parent.name if path.parent.name == "checkpoints" else path.stem


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint of `train`, of any stage."""

    file: Path  # where it lies
    state: Mapping[str, Tensor]  # name -> weights of the (averaged) field
    record: Mapping[str, Any]  # what `TrainingRecord` wrote: the configuration, the range of focal lengths
    # Weights of the `OccupancyLink`, empty where none was trained.
    link: Mapping[str, Tensor] = field(default_factory=dict)
    # Weights of a head that codes of points come from, empty where there is none.
    head: Mapping[str, Tensor] = field(default_factory=dict)
    # Weights of the trunk of stages `pixels` and `completion`, empty for others.
    trunk_weights: Mapping[str, Tensor] = field(default_factory=dict)
    steps: int = 0  # that its training took so far
    minutes: float = 0.0  # that these took, where its configuration limits them

    @staticmethod
    def read(file: Path) -> "Checkpoint":
        """Reads a file without executing any of it; a `BundleError` if it is none, or of a later version."""
        # Tensors and plain containers are all we accept.
        try:
            with opened(file) as source:
                content = torch.load(source, map_location="cpu", weights_only=True)
            parts = ("field.", "link.", "head.", "trunk.")
            state, link, head, trunk = (part_of(content["state_dict"], part) for part in parts)
            record = content.get(KEY, {})
            if not isinstance(record.get("configuration", {}), dict):
                raise TypeError("its configuration is no mapping")
            seconds = content.get("callbacks", {}).get("Timer", {}).get("time_elapsed", {}).get("train", 0.0)
        except Exception as error:
            what = f"not a checkpoint of a density field ({error})"
            raise BundleError(what, where=str(file), cure="Name a checkpoint of `train`") from error
        refuse_later(record, str(file))
        taken = int(content.get("global_step", 0)), float(seconds) / 60.0
        stored = Checkpoint(file, state, record, link, head, trunk, *taken)
        return stored if stored.stage_class.learns_link(stored.configuration) else dataclasses.replace(stored, link={})

    @property
    def configuration(self) -> Mapping[str, Any]:
        """The configuration of its training, plain values."""
        return self.record.get("configuration", {})  # type: ignore[no-any-return]

    @property
    def ended(self) -> bool:
        """Whether its training has taken all its steps, or all its minutes."""
        most = self.configuration.get("max_minutes", 0.0)
        return bool(self.steps >= self.configuration.get("steps", 1) or 0.0 < most <= self.minutes)

    @property
    def stage(self) -> str:
        """Name of the stage it comes from."""
        return str(self.configuration.get("stage", DEFAULT_STAGE))

    @property
    def stage_class(self) -> Any:
        """Class of the stage it comes from, a `Stage`; a `BundleError` for an unknown name."""
        try:
            return stage_class(self.stage)
        except ConfigurationError as error:
            what = f"{error.what}; {written_by(self.record)} wrote it"
            raise BundleError(what, where=str(self.file), cure="Use that version") from error

    @property
    def half_resolution(self) -> bool:
        """Whether the last step of the training still saw images of half the size."""
        configuration = self.configuration
        return bool(configuration.get("half_resolution_steps", 0) >= configuration.get("steps", 1))

    @property
    def viewpoint(self) -> Viewpoint:
        """Camera and volume that it was trained for."""
        return Viewpoint.of_record(self.configuration)

    @property
    def camera(self) -> Camera:
        """Canonical camera at the resolution that the last step of the training saw."""
        full = self.viewpoint.camera
        return full.resized(full.width // 2, full.height // 2) if self.half_resolution else full

    def field_of(self, kind: type[Field]) -> Field:
        """The trained field, of one kind; a `BundleError` for another kind, or other weights than its stage has."""
        found = self.stage_class.field_class
        if kind not in (found, *getattr(found, "stands_for", ())):
            stages = [f"`{name}`" for name in STAGES if stage_class(name).field_class is kind]
            what = f"no {kind.__name__} in it: its stage is {self.stage}, which trains a {found.__name__}"
            cure = f"Name the checkpoint of a training with stage {' or '.join(stages)}"
            raise BundleError(what, where=str(self.file), cure=cure)
        camera, weights = self.viewpoint.camera, str(self.configuration.get("encoder_weights", ""))
        size = (camera.height, camera.width)
        try:
            channels = int(self.configuration.get("channels", 64))
            encoder = EncoderDecoder(size, channels=channels, trunk=self.trunk, pretrained=False, weights=weights)
            made = found.rebuilt(self.state, self.viewpoint, encoder)
            made.load_state_dict(dict(self.state))
        except (KeyError, RuntimeError) as error:
            what = f"no weights of a {kind.__name__}, though its stage is {self.stage} ({str(error)[:200]})"
            cure = f"{written_by(self.record)} wrote it: use that version, or train anew with this one"
            raise BundleError(what, where=str(self.file), cure=cure) from error
        return made.eval()  # type: ignore[no-any-return]

    def density_field(self) -> DensityField:
        """The trained density of one view, also that of a feature field; a `BundleError` if it holds none."""
        kind = self.stage_class.field_class
        return self.field_of(kind).density if issubclass(kind, FeatureField) else self.field_of(DensityField)

    def distillation_head(self) -> DistillationHead | None:
        """The head that codes of points come from; None where they are the expanded features themselves."""
        linear = self.head.get("linear.weight")
        if linear is None:
            return None
        head = DistillationHead(linear.shape[1], linear.shape[0])
        head.load_state_dict(dict(self.head))
        return head.eval()

    def occupancy_link(self) -> OccupancyLink | None:
        """From the field's logit to an occupancy probability; None where none was trained."""
        if not self.link:
            return None
        link = OccupancyLink()
        link.load_state_dict(dict(self.link))
        return link

    @property
    def trunk(self) -> TrunkName:
        """Name of the trunk of its encoder."""
        return self.configuration.get("encoder", "efficientnet_lite0")  # type: ignore[no-any-return]


def is_student(source: Path) -> bool:
    """Tells if a path names a bundle, or a student of the package, and no checkpoint, which is a file with a suffix."""
    return source.is_dir() or not (source.suffix or source.exists())


def trained_viewpoint(source: Path) -> Viewpoint:
    """The viewpoint of a student bundle (see `open_student` and `Viewpoint.of_bundle`) or a checkpoint."""
    return Viewpoint.of_bundle(open_student(source)) if is_student(source) else Checkpoint.read(source).viewpoint


@dataclass(frozen=True, eq=False)
class TrainedWeights:
    """What a training starts from."""

    field: Mapping[str, Tensor]  # name -> weights of the field
    # Weights of the `OccupancyLink`; they belong to the head: what its logits mean. Empty where there are none.
    link: Mapping[str, Tensor]

    @staticmethod
    def read(source: Path) -> "TrainedWeights":
        """Reads a student bundle (a folder), or a checkpoint; a `BundleError` if it is neither."""
        if is_student(source):
            bundle = open_student(source)
            weights = {name: torch.from_numpy(v.astype(np.float32)) for name, v in bundle.load_weights().items()}
            return TrainedWeights(
                weights, density_field.link_of_calibration(bundle.calibration, bundle.grid.voxel_size)
            )
        stored = Checkpoint.read(source)
        return TrainedWeights(stored.state, stored.link)

    def with_prior_of(self, encoder: EncoderDecoder) -> "TrainedWeights":
        """The weights with their mean depth at the resolution of an encoder, whose camera may be another one."""
        name = next((name for name in self.field if name.endswith("encoder.prior")), None)
        if name is None or self.field[name].shape == encoder.prior.shape or self.field[name].ndim != 4:
            return self
        prior = functional.interpolate(self.field[name], encoder.prior.shape[2:], mode="bilinear")
        return dataclasses.replace(self, field={**self.field, name: prior})


class SafeCheckpoints(TorchCheckpointIO):
    """Moves a checkpoint to its place when it is whole: with a full disk, or if killed, the one before stays."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes a checkpoint; a `TrainingError` if it cannot be written."""
        target = Path(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(target) as part:
                super().save_checkpoint(checkpoint, part, storage_options)
        except (OSError, RuntimeError) as error:  # torch turns a failed write into a RuntimeError
            cure = "If the disk is full, make room and start the same command again: it goes on from the one before"
            raise TrainingError(f"checkpoint could not be written ({error})", where=str(target), cure=cure) from error
