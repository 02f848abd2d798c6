"""Stage `pixels`: how far each pixel of an image sees, how surely, and of which class that is.

The last blocks of a Depth Anything, its neck and a head on it learn together, from the depth of LiDAR, of stereo and of
rendered towns, and from classes of pixels. The first blocks stay as they are, so what they make of each image is
computed once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES, INVALID, ROOM_CLASSES
from scene_completion_ros.inference.bundle import open_student, shipped_students, student_folder
from scene_completion_ros.inference.head import PointCodeSpec
from scene_completion_training.checkpoints import Checkpoint, TrainedWeights, trained_viewpoint
from scene_completion_training.configuration import TrainingConfiguration
from scene_completion_training.data.completion_samples import (
    PARTS,
    CompletionData,
    CompletionDataSettings,
    FrozenEncoder,
)
from scene_completion_training.data.pack import Pack
from scene_completion_training.losses import class_terms, depth_likelihood, plane_likelihood, weighted_mean
from scene_completion_training.networks.density_field import part_of
from scene_completion_training.networks.pixel_head import PixelHead, PixelView, no_ground
from scene_completion_training.networks.trunk import DEPTH_ANYTHING, DepthAnythingTrunk, named_as_here
from scene_completion_training.stage import Stage
from scene_completion_training.viewpoint import CameraSettings, Viewpoint, VolumeSettings
from scene_completion_training.workers import accelerator, computes_bfloat16

LEAST_KNOWN = 0.02  # share of the pixels of a part whose depth is known for its error to count


@dataclass
class PixelLosses:
    """Weights of the losses."""

    depth: float = 1.0  # likelihood of the depth of pixels
    pixels: float = 0.3  # cross entropy of the classes of pixels
    plane: float = 0.1  # likelihood of the plane of the road


@dataclass
class SeenConfiguration(TrainingConfiguration):
    """What stages `pixels` and `completion` need: images of one camera before one volume."""

    learning_rate: float = 1e-3
    encoder_weights: str = ""  # folder or hub name of the model of its trunk; by default Depth Anything V2 Small
    world: Literal["streets", "rooms"] = "streets"  # whose classes it learns
    data: CompletionDataSettings = field(default_factory=CompletionDataSettings)
    camera: CameraSettings = field(default_factory=CameraSettings)  # the canonical camera
    volume: VolumeSettings = field(default_factory=VolumeSettings)  # the space that is completed
    ema_decay: float = 0.995  # decay of the weight average that is evaluated and exported; 0 switches it off
    ema_start: int = 200  # step from which the average is kept
    validate_every: int = 500  # steps between validations

    def check(self) -> None:
        """Adds checks of the data."""
        super().check()
        self.data.check()

    @property
    def validation_interval(self) -> int | None:
        """Steps between validations; None without any."""
        return self.validate_every if self.data.validation else None

    def viewpoint(self) -> Viewpoint:
        """The canonical camera, and the volume that is completed."""
        return Viewpoint.of_settings(self.camera, self.volume)

    @property
    def model(self) -> str:
        """Folder or hub name of the model of its trunk."""
        if self.data.pack:
            return str(Pack(Path(self.data.pack)).model(Path(self.data.cache)))
        return self.encoder_weights or DEPTH_ANYTHING

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes behind "empty"."""
        return (ROOM_CLASSES if self.world == "rooms" else COMMON_CLASSES)[1:]


@dataclass
class PixelConfiguration(SeenConfiguration):
    """What stage `pixels` needs."""

    stage: str = "pixels"
    # Checkpoint of this stage or of `completion`, or a bundle that completes cells: head and trunk go on from there.
    start_from: str = ""
    losses: PixelLosses = field(default_factory=PixelLosses)
    frozen_blocks: int = 9  # first blocks of it that stay as they are
    trunk_rate: float = 0.2  # factor on `learning_rate` for the neck; the blocks of the transformer take a fifth of it
    class_branch_channels: int = 192  # as `PixelHead`
    merging: bool = True  # as `PixelHead`
    rare: float = 0.35  # how much the rarity of a class raises its weight: 0 not at all, 1 in proportion


class SeenStage(Stage):
    """Base of stages of a `SeenConfiguration`."""

    settings: SeenConfiguration

    def validated(self, batch: dict[str, Tensor], number: int) -> dict[str, Tensor]:
        """The losses of a frame of the validation, and their weighted sum as `total`."""
        terms = self._computed(batch, torch.Generator().manual_seed(number))
        return terms | {"total": self._total(terms)}

    def validation_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        """Logs what `validated` gives."""
        terms = self.validated(batch, batch_index)
        self.log_dict({f"validation/{name}": value for name, value in terms.items()}, batch_size=1)


class PixelStage(SeenStage):
    """Trains a trunk from its last frozen block on, and a `PixelHead`."""

    configuration_class = PixelConfiguration
    field_class = PixelHead
    next_command = "scene-completion train --config ... pixels_from={checkpoint}"
    settings: PixelConfiguration

    def __init__(self, settings: PixelConfiguration) -> None:
        super().__init__(settings)
        self.viewpoint = settings.viewpoint()
        self.trunk = DepthAnythingTrunk(weights=settings.model, frozen_blocks=settings.frozen_blocks)
        self.field = PixelHead(
            self.viewpoint.volume.point_code,
            channels=self.trunk.channels[0],
            tokens=self.trunk.token_width,
            classes=len(settings.class_names),
            class_branch_channels=settings.class_branch_channels,
            merging=settings.merging,
            height=self.viewpoint.height_above_ground,
        )
        self.shown: Tensor = nn.Buffer(torch.zeros(len(settings.class_names) + 1))  # pixels, those of the sky as well
        self.field.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def make_data(self) -> CompletionData:
        """What the frozen blocks see in the configuration's recordings, and what is true of their pixels."""
        settings, trunk = self.settings, self.trunk

        def see(image: Tensor) -> dict[str, Tensor]:
            states = torch.stack(trunk.states(image), dim=1)  # [1, T, 1 + N, D]
            grid = states[:, :, 1:].transpose(2, 3)
            grid = grid.reshape(*grid.shape[:3], *trunk.size_of(image))
            return {"states": grid, "first": states[:, :, 0]}

        frozen = FrozenEncoder(on_device(trunk, see), digest(trunk, learned=False))
        options: dict[str, Any] = {"steps": settings.steps, "seed": settings.seed, "voxels": False}
        return CompletionData(settings.data, self.viewpoint, frozen, **options)

    @classmethod
    def refuse_start(cls, settings: PixelConfiguration) -> None:
        """Tries `start`, which needs no data."""
        if settings.start_from:
            cls(settings).start(None)

    def start(self, data: Any) -> None:
        """The head and what the trunk learned go on from another training where one is named."""
        if self.settings.start_from:
            seen = TrainedPixels.read(Path(self.settings.start_from), self.settings, "start_from")
            seen.load_into(self.field, self.trunk)

    def terms(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Losses of depth, of classes and of the plane of the road."""
        view = self._view(batch)
        with torch.autocast(self.device.type, enabled=False):
            return self._of_pixels(view, batch)

    def _view(self, batch: dict[str, Tensor]) -> PixelView:
        grid, first = batch["states"].float(), batch["first"].float()  # [B, T, D, rows, columns], [B, T, D]
        states = torch.cat([first[:, :, None], grid.flatten(3).transpose(2, 3)], dim=2)
        maps = self.trunk.maps(list(states.unbind(dim=1)), *grid.shape[3:])
        view: PixelView = self.field(*maps, no_ground(self.viewpoint, len(grid), grid.device))
        return view

    def validated(self, batch: dict[str, Tensor], number: int) -> dict[str, Tensor]:
        """Adds how far depth and the plane of the road are off."""
        with torch.no_grad():
            view = self._view(batch)
            found = view.plane[..., 0].float()
            return super().validated(batch, number) | self._off(view, batch["depth"]) | road_off(found, batch["road"])

    def _off(self, view: PixelView, depth: Tensor) -> dict[str, Tensor]:
        """Mean relative error of known depths, of that in units of the deviation, and what is smooth of its logarithm.

        The latter is the root mean square of the means over `PARTS` of an image.
        """
        off, known = log_depth_off(view, depth, self.field.spec)
        if not known.any():
            return {}
        count, total = (functional.adaptive_avg_pool2d(each[:, None].float(), PARTS) for each in (known, off))
        smooth = weighted_mean((total / count.clamp_min(1e-9)) ** 2, count > LEAST_KNOWN, least=1e-9).sqrt()
        relative, of_doubt = off.exp() - 1.0, off.abs() / view.deviation[:, 0].float()
        return {
            "abs_rel": weighted_mean(relative.abs(), known),
            "error over deviation": weighted_mean(of_doubt, known),
            "smooth error": smooth,
        }

    def _of_pixels(self, view: PixelView, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        inverse = self.field.spec.inverse_depth(view.code)[:, 0].clamp_min(1e-3)
        classes = batch["classes"].long()
        known = classes != INVALID
        named = classes[known] - 1
        if self.training:
            self.shown += torch.bincount(named, minlength=len(self.shown)).float()
        weights = rarity(self.shown, self.settings.rare)
        return {
            "depth": depth_likelihood(-inverse.log(), view.deviation[:, 0], batch["depth"]),
            "pixels": class_terms(view.classes.permute(0, 2, 3, 1)[known], named, weights),
            "plane": plane_likelihood(view.plane, batch["road"]),
        }

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine."""
        rate, trunk = self.settings.learning_rate, self.settings.learning_rate * self.settings.trunk_rate
        groups = [{"params": [*self.field.parameters()], "lr": rate}]
        for part, factor in self.trunk.rates():
            groups.append({"params": [p for p in part.parameters() if p.requires_grad], "lr": trunk * factor})
        return self.scheduled(torch.optim.AdamW(groups, rate, weight_decay=0.01), self.warmed_cosine)


def rarity(seen: Tensor, power: float) -> Tensor:
    """Weights [K] of classes of which so many were seen [K]: their share to the power of -`power`."""
    share = (seen + 1.0) / (seen + 1.0).sum()
    weight: Tensor = share.clamp_min(1e-4) ** -power
    return weight


def log_depth_off(view: PixelView, depth: Tensor, spec: PointCodeSpec) -> tuple[Tensor, Tensor]:
    """Errors of the logarithm of depth [B, h, w], 0 where unknown, and where it is known; `depth`: true, metres."""
    known = (depth > 0.0) & (depth < spec.far)
    inverse = spec.inverse_depth(view.code.float())[:, 0]
    return torch.where(known, -(inverse * torch.where(known, depth, torch.ones_like(depth))).log(), 0.0), known


def road_off(found: Tensor, true: Tensor) -> dict[str, Tensor]:
    """Mean error of roll and pitch, degrees, of `RoadPlane.state` [B, 3]; true: NaN where unknown."""
    known = torch.isfinite(true).all(dim=1)
    off = torch.rad2deg((found - true)[known].abs()).mean(dim=0)
    return {"roll off": off[0], "pitch off": off[1]} if known.any() else {}


def on_device(trunk: DepthAnythingTrunk, see: Any) -> Any:
    """A function of an image and a trunk that computes where there is an accelerator, without gradients."""
    device = accelerator()

    def seen(image: Tensor) -> dict[str, Tensor]:
        trunk.to(device)
        with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=computes_bfloat16(device.type)):
            found: Mapping[str, Tensor] = see(image.to(device))
        return {name: values.float().cpu() for name, values in found.items()}

    return seen


def digest(trunk: DepthAnythingTrunk, *, learned: bool) -> str:
    """Hash of what a trunk computes: of all weights, or of those that never learn."""
    hashed = hashlib.sha256(f"{trunk.frozen_blocks} of {len([*trunk.in_order()])}".encode())
    own = learned_weights(trunk)
    for name, values in sorted(trunk.state_dict().items()):
        if learned or name not in own:
            hashed.update(name.encode())
            hashed.update(values.cpu().half().numpy().tobytes())
    return hashed.hexdigest()[:16]


def learned_weights(trunk: DepthAnythingTrunk) -> set[str]:
    """Names of the weights of a trunk that are not as they were published."""
    stays = {id(value) for part in [*trunk.in_order()][: 1 + trunk.frozen_blocks] for value in part.parameters()}
    return {name for name, value in trunk.named_parameters() if id(value) not in stays}


@dataclass(frozen=True, eq=False)
class TrainedPixels:
    """A head for pixels, and the weights of its trunk, of a checkpoint or of a bundle that completes cells."""

    file: Path  # the checkpoint, or the folder of the bundle
    configuration: Mapping[str, Any]  # of its training, plain values
    head: PixelHead
    trunk_weights: Mapping[str, Tensor]  # of a bundle those alone that are not as they were published

    @staticmethod
    def read(source: Path, settings: SeenConfiguration, where: str) -> TrainedPixels:
        """Reads one for a training.

        Raises BundleError where it has none of this version; ConfigurationError where it is for another camera or
        volume, or of other classes.
        """
        source = student_folder(source) if str(source) in shipped_students() else source
        if not source.exists():
            cure = "Train the part `pixels` first" if where == "pixels_from" else "Name a checkpoint, or a bundle"
            raise BundleError("is not there", where=f"{where}: {source}", cure=cure)
        if source.is_dir():
            bundle, weights = open_student(source), TrainedWeights.read(source).field
            configuration = bundle.provenance.get("configuration", {})
            state, trunk = part_of(weights, "field.pixels."), part_of(weights, "trunk.")
        else:
            stored = Checkpoint.read(source)
            configuration, trunk = stored.configuration, dict(stored.trunk_weights)
            if stored.stage == "pixels" and not stored.ended:
                what = f"its training took {stored.steps} of {configuration['steps']} steps"
                raise BundleError(what, where=f"{where}: {source}", cure="Go on with that training first")
            state = part_of(stored.state, "pixels.") or dict(stored.state)
        own = settings.viewpoint()
        try:
            head = PixelHead.rebuilt(state, own)
            head.load_state_dict(state)
        except (KeyError, RuntimeError) as error:
            what = f"holds no head for pixels as this version trains it ({' '.join(str(error).split())[:100]})"
            cure = "Name a student of stage completion of this version, such as training/configs/street.yaml trains"
            raise BundleError(what, where=f"{where}: {source}", cure=cure) from error
        own.refuse_other(trained_viewpoint(source), f"{where}: {source}")
        if head.classes.out_channels != len(settings.class_names) + 1:
            what, cure = f"its pixels have other classes than {settings.world}", "Name one of the same world"
            raise ConfigurationError(what, where=where, cure=cure)
        return TrainedPixels(source, configuration, head, trunk)

    @property
    def frozen_blocks(self) -> int:
        """How many blocks of the trunk are as published."""
        return frozen_blocks(self.configuration)

    def load_into(self, head: PixelHead, trunk: DepthAnythingTrunk) -> None:
        """Gives them these weights; a ConfigurationError where they have others."""
        try:
            head.load_state_dict(self.head.state_dict())
        except RuntimeError as error:
            what = f"has a head of another size ({str(error)[:200]})"
            cure = "Take its class_branch_channels and merging"
            raise ConfigurationError(what, where=str(self.file), cure=cure) from error
        own, learned = trunk.state_dict(), learned_weights(trunk)
        given = named_as_here(self.trunk_weights, own.keys())
        if self.frozen_blocks != trunk.frozen_blocks or not learned <= given.keys() <= own.keys():
            what = f"its trunk learned behind block {self.frozen_blocks}, this one {trunk.frozen_blocks}"
            cure = "Take its pixels.frozen_blocks and encoder_weights"
            raise ConfigurationError(what, where=str(self.file), cure=cure)
        trunk.load_state_dict({name: given[name] for name in learned}, strict=False)
        if other := [name for name, value in given.items() if not torch.equal(own[name].half(), value.half())]:
            what, cure = f"its trunk is of another model ({other[0]})", "Name its encoder_weights"
            raise ConfigurationError(what, where=str(self.file), cure=cure)


def frozen_blocks(configuration: Mapping[str, Any]) -> int:
    """How many blocks of a trunk are as published, by the configuration of its training (plain values)."""
    return int(configuration.get("frozen_blocks", 0))


def trained_trunk(stored: Checkpoint | TrainedPixels, weights: str | None = None) -> DepthAnythingTrunk:
    """The trunk of a training of stage `pixels` or `completion`; a BundleError where it holds none of this model.

    `weights`: the published model, by default the one that the training named. What a bundle leaves out is of that one.
    """
    named = (stored.configuration.get("encoder_weights") if weights is None else weights) or DEPTH_ANYTHING
    whole = not stored.file.is_dir()
    trunk = DepthAnythingTrunk(weights=named, pretrained=not whole, frozen_blocks=frozen_blocks(stored.configuration))
    own, learned = trunk.state_dict(), learned_weights(trunk)
    published = {} if whole else {name: value for name, value in own.items() if name not in learned}
    try:
        trunk.load_state_dict(published | named_as_here(stored.trunk_weights, own.keys()))
    except RuntimeError as error:
        what, cure = f"has no trunk of {named} ({str(error)[:200]})", "Take the encoder_weights of its training"
        raise BundleError(what, where=str(stored.file), cure=cure) from error
    return trunk.eval()
