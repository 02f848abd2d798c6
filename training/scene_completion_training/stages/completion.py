"""Stage `completion`: what is there, what it is, and where the ground lies, in every voxel before one camera.

The trunk of the encoder never learns: its output for each image is computed once. On it stand a head for pixels, which
predicts depth with its deviation and classes, and a decoder of cells. They learn from exact voxels of rendered towns,
hidden ones included, from voxels of labelled LiDAR, and from stereo.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES, EMPTY, INVALID, ROOM_CLASSES
from scene_completion_ros.geometry import Camera
from scene_completion_ros.inference.cells import (
    FLOOR,
    ROAD,
    STRIDE,
    CellVolume,
    Lookups,
    Measured,
    cell_lookups,
    ground_code,
)
from scene_completion_ros.inference.head import PointCodeSpec
from scene_completion_ros.untrusted_files import read_tensors
from scene_completion_training.checkpoints import TrainedWeights
from scene_completion_training.configuration import TrainingConfiguration
from scene_completion_training.data.completion_samples import (
    MAPS,
    CompletionData,
    CompletionDataSettings,
    FrozenEncoder,
)
from scene_completion_training.data.voxel_evidence import OF_NO_CLASS
from scene_completion_training.losses import class_terms, depth_likelihood, occupancy_cross_entropy, surface_likelihood
from scene_completion_training.networks.density_field import part_of
from scene_completion_training.networks.encoder_decoder import EncoderDecoder, MetricDecoder
from scene_completion_training.networks.scene_decoder import (
    CompletedScene,
    PixelHead,
    PixelView,
    SceneDecoder,
    scaled,
)
from scene_completion_training.networks.trunk import DepthAnythingTrunk, named_as_here
from scene_completion_training.stage import Stage
from scene_completion_training.viewpoint import CameraSettings, Viewpoint, VolumeSettings
from scene_completion_training.workers import accelerator, computes_bfloat16

# Classes of streets and of rooms, and which of them cameras stand on.
GROUNDS = {COMMON_CLASSES[1:]: ROAD, ROOM_CLASSES[1:]: FLOOR}
EXACT_DEVIATION = 0.03  # of the logarithm of true depth, once it is off as `CompletionSamples` draws it
LATER = ("naming.", "trust.")  # branches that a training may add to the weights that it starts from
WHOLE = 0.95  # share of the pixels whose depth a rendered image knows
CERTAIN = 6.0  # logit of a true class
NAMING_RATE, NAMING_BATCH = 1e-3, 16  # highest learning rate, and images a step, where the class branch is fitted
MOST_NAMED = 40_000  # voxels of a sample whose classes are compared


@dataclass
class CompletionLosses:
    """Weights of the losses."""

    occupied: float = 2.0  # cross entropy of voxels
    classes: float = 0.4  # cross entropy of the classes of occupied voxels
    ground: float = 0.2  # likelihood of the height of the ground
    depth: float = 0.1  # likelihood of the depth of pixels
    pixels: float = 0.2  # cross entropy of the classes of pixels


@dataclass
class CompletionConfiguration(TrainingConfiguration):
    """What stage `completion` needs."""

    stage: str = "completion"
    learning_rate: float = 1e-3
    # Checkpoint or bundle whose encoder sees metric depth (training/configs/metric_depth.yaml). Without one, or
    # with some of the trunk's weights, the rest of it is as published, and the head for pixels learns metres from the
    # start.
    encoder_checkpoint: str = ""
    encoder_weights: str = ""  # folder or hub name of the model of its trunk; by default Depth Anything V2 Small
    world: Literal["streets", "rooms"] = "streets"  # whose classes it learns
    # Train the head for pixels alone: no volume is completed, and steps are several times faster.
    only_pixels: bool = False
    # Checkpoint of another training on the same encoder, or its bundle: its head for pixels is taken as it is, and goes
    # on learning with `only_pixels`.
    pixels_from: str = ""
    # Checkpoint of this stage, or a bundle, on the same encoder: its head and its decoder go on learning. With
    # `pixels_from` its head is left out, and that one stays as it is.
    start_from: str = ""
    data: CompletionDataSettings = field(default_factory=CompletionDataSettings)
    losses: CompletionLosses = field(default_factory=CompletionLosses)
    camera: CameraSettings = field(default_factory=CameraSettings)  # the canonical camera
    volume: VolumeSettings = field(default_factory=VolumeSettings)  # the space that is completed
    widths: tuple[int, ...] = (64, 128, 192, 256)  # as `SceneDecoder`, and the next two
    context: int = 16
    reduced: int = 16
    class_branch_channels: int = 0  # as `PixelHead`
    merging: bool = True  # as `PixelHead`
    use_pixel_classes: bool = False  # as `SceneDecoder`
    class_branch_steps: int = 0  # steps in which the class branch is fitted by itself before the first step
    distance: float = 20.0  # metres at which a voxel weighs half as much as one nearby
    rare: float = 0.35  # how much the rarity of a class raises its weight: 0 not at all, 1 in proportion
    rare_pixels: float = 0.0  # the same of the classes of pixels
    ema_decay: float = 0.995  # decay of the weight average that is evaluated and exported; 0 switches it off
    ema_start: int = 200  # step from which the average is kept
    validate_every: int = 500  # steps between validations
    # Samples that give the mean occupancy of hidden places before the first step; 0: none.
    mean_of: int = 0

    @property
    def validation_interval(self) -> int | None:
        """Steps between validations; None without any."""
        return self.validate_every if self.data.validation else None

    def check(self) -> None:
        """Refuses starts that contradict each other, or would leave a branch without weights."""
        super().check()
        if self.start_from and (self.only_pixels or self.mean_of):
            what = "holds a decoder with its mean, which go on learning"
            raise ConfigurationError(what, where="start_from", cure="Leave out only_pixels and mean_of")
        if self.class_branch_steps and not (self.class_branch_channels and self.pixels_learn):
            what = "there is no such branch, or its head for pixels stays as it is"
            raise ConfigurationError(what, where="class_branch_steps", cure="Set class_branch_channels, or set it to 0")
        if not (self.merging or self.class_branch_channels):
            raise ConfigurationError("nothing reads the tokens", where="merging", cure="Set class_branch_channels")

    @property
    def pixels_learn(self) -> bool:
        """Whether the head for pixels learns, rather than the decoder on a head that stays."""
        return self.only_pixels or not self.pixels_from

    def viewpoint(self) -> Viewpoint:
        """The canonical camera, and the volume that is completed."""
        return Viewpoint.of_settings(self.camera, self.volume)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes behind "empty"."""
        return (ROOM_CLASSES if self.world == "rooms" else COMMON_CLASSES)[1:]


class SceneField(nn.Module):
    """Head for pixels and decoder of cells, of the maps of a trunk."""

    def __init__(
        self,
        viewpoint: Viewpoint,  # canonical camera, and the volume
        names: tuple[str, ...],  # classes behind "empty": those of streets, or of rooms
        of_pixels: Mapping[str, Any],  # options of `PixelHead`
        in_space: Mapping[str, Any],  # options of `SceneDecoder`
    ) -> None:
        super().__init__()
        self.viewpoint, self.names = viewpoint, names
        self.ground = GROUNDS[names]
        self.camera: Camera = viewpoint.camera
        self.small = self.camera.resized(self.camera.width // 2, self.camera.height // 2)
        self.spec: PointCodeSpec = viewpoint.volume.point_code
        size, count = (self.small.height, self.small.width), len(names)
        self.pixels = PixelHead(size, self.spec, classes=count, **of_pixels)
        level = -viewpoint.height_above_ground
        self.spatial = SceneDecoder(viewpoint.volume.grid, self.spec, classes=count, ground=level, **in_space)

    @property
    def volume(self) -> CellVolume:
        """What a student that is made of it needs to know of its volume."""
        label, reduced = self.names.index(self.ground.name), self.spatial.reduce.out_channels
        around = self.spatial.context.out_channels // self.spatial.cells[2]
        return CellVolume(self.spatial.grid, self.spatial.level, self.ground, label, len(self.names), reduced, around)

    @classmethod
    def rebuilt(cls, state: Mapping[str, Tensor], viewpoint: Viewpoint, _: object = None) -> SceneField:
        """An untrained field that weights fit, see `TrainedField`."""
        metric, merging = state["pixels.metric.merge.0.0.weight"], "pixels.tokens.0.weight" in state
        tokens = state["pixels.tokens.0.weight" if merging else "pixels.naming.0.weight"]
        reduce, context = state["spatial.reduce.weight"], state["spatial.context.weight"]
        coarser = sorted(name for name in state if name.startswith("spatial.down.") and name.endswith(".0.0.weight"))
        heights = -(-viewpoint.volume.grid.shape[2] // STRIDE)
        classes = len(state["pixels.classes.weight"]) - 1
        naming, shifted = len(state.get("pixels.naming.0.weight", ())), len(state["pixels.factor.2.weight"]) > 1
        of_trunk = {"channels": metric.shape[1] - 4, "tokens": tokens.shape[1]}
        widths = (context.shape[1], *(len(state[name]) for name in coarser))
        of_columns = {"widths": widths, "context": len(context) // heights, "reduced": len(reduce)}
        return cls(
            viewpoint,
            next(names for names in GROUNDS if len(names) == classes),
            {**of_trunk, "shifted": shifted, "class_branch_channels": naming, "merging": merging},
            {**of_columns, "use_pixel_classes": "spatial.trust.weight" in state},
        )

    def stated_ground(self, volume_from_camera: Tensor, known: Tensor, mirrored: Tensor) -> Tensor:
        """Input of `PixelHead` for the ground [B, 2, h, w], from the stated pose of the camera where it is known."""
        plane = ground_code(self.small, self.spec, volume_from_camera, self.spatial.level)
        plane = torch.where(mirrored[:, None, None, None], plane.flip(-1), plane)
        share = known.float()[:, None, None, None].expand_as(plane)
        return torch.cat([plane * share, share], dim=1)

    def look(self, maps: list[Tensor], ground: Tensor) -> PixelView:
        """What the decoder is given of the maps of a trunk."""
        return self.scaled(self.pixels(*maps, ground), ground)

    def scaled(self, view: PixelView, ground: Tensor, measured: Measured | None = None) -> PixelView:
        """The view with depths in metres, scaled by mounting, motion and sensors."""
        return scaled(view, self.spec, ground, self.ground, self.names.index(self.ground.name), measured)

    def forward(self, view: PixelView, volume_from_camera: Tensor, mirrored: Tensor) -> CompletedScene:
        """What the volume holds, see `SceneDecoder`."""
        cells, voxels = (self._lookups(stride, volume_from_camera, mirrored) for stride in (STRIDE, 1))
        scene: CompletedScene = self.spatial(view, cells, voxels)
        return scene

    def hidden_from(self, view: PixelView, volume_from_camera: Tensor, mirrored: Tensor) -> Tensor:
        """Voxels [B, X, Y, Z] that surely lie behind the surface of their pixel, or outside of the image."""
        return self.spatial.hidden_from(view, self._lookups(1, volume_from_camera, mirrored))

    def _lookups(self, stride: int, volume_from_camera: Tensor, mirrored: Tensor) -> Lookups:
        side = torch.where(mirrored, -1.0, 1.0).to(volume_from_camera)
        return cell_lookups(self.spatial.grid, stride, self.camera, self.spec, volume_from_camera, side)


class CompletionStage(Stage):
    """Trains a `SceneField`."""

    configuration_class = CompletionConfiguration
    field_class = SceneField
    next_command = "scene-completion export {checkpoint} BUNDLE --licence ..."
    settings: CompletionConfiguration

    def __init__(self, settings: CompletionConfiguration) -> None:
        super().__init__(settings)
        self.viewpoint = settings.viewpoint()
        encoder, trunk, self.frozen = read_frozen_encoder(
            settings.encoder_checkpoint, settings.encoder_weights, self.viewpoint
        )
        of_trunk = {"shifted": not self.frozen.metric, "channels": trunk.channels[0], "tokens": trunk.token_width}
        of_pixels, in_space = (
            {name: getattr(settings, name) for name in names}
            for names in (("class_branch_channels", "merging"), ("widths", "context", "reduced", "use_pixel_classes"))
        )
        self.field = SceneField(self.viewpoint, settings.class_names, of_trunk | of_pixels, in_space)
        away = torch.from_numpy(self.viewpoint.volume.grid.centres()[..., :1, :2]).norm(dim=-1).float()
        self.near: Tensor
        self.register_buffer("near", 1.0 / (1.0 + (away / settings.distance) ** 2), persistent=False)  # [X, Y, 1]
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros(len(settings.class_names)))  # voxels of each class so far
        self.shown: Tensor
        self.register_buffer("shown", torch.zeros(len(settings.class_names) + 1))  # pixels, those of the sky as well
        self.field.spatial.requires_grad_(not settings.only_pixels)
        self.field.pixels.requires_grad_(settings.pixels_learn)
        self._encoder = [encoder]  # in a list: no module of the stage, no checkpoint needs it
        self.field.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def make_data(self) -> CompletionData:
        """Maps and voxels of the configuration's recordings."""
        settings = self.settings
        options: dict[str, Any] = {"steps": settings.steps, "seed": settings.seed, "voxels": not settings.only_pixels}
        return CompletionData(settings.data, self.viewpoint, self.frozen, **options)

    def start(self, data: Any) -> None:
        """The head for pixels starts with the metric depth of the encoder, or as another training left it."""
        (encoder,) = self._encoder
        if not isinstance(encoder.decoder, MetricDecoder):
            what, cure = f"have the trunk {encoder.trunk_name}", "Name an encoder of Depth Anything"
            raise ConfigurationError(what, where="encoder_checkpoint", cure=cure)
        starts, pixels = bool(self.settings.start_from), bool(self.settings.pixels_from)
        if pixels:
            self._take("pixels_from", self.field.pixels, "pixels.")
        if starts and pixels:
            self._take("start_from", self.field.spatial, "spatial.")
        elif starts:
            self._take("start_from", self.field, "")
        elif self.frozen.metric and not pixels:
            self.field.pixels.take(encoder.decoder, encoder.projection, encoder.prior)
        if self.settings.class_branch_steps:
            self._fit_naming(data)
        if self.settings.mean_of:
            self._match_mean(data)

    def _fit_naming(self, data: CompletionData) -> None:
        """Fits the class branch to the share of each class in the pixels of a token, by tokens alone."""
        branch, count = self.field.pixels.naming, len(self.field.names) + 1
        assert branch is not None
        named = ((tokens, class_shares(classes, count, tokens.shape[1:])) for tokens, classes in data.tokens())
        pairs = [(tokens, shares) for tokens, shares in named if shares.any()]
        if not pairs:
            what, cure = "no pixel of its recordings has a class", "Name recordings with classes, or set it to 0"
            raise ConfigurationError(what, where="class_branch_steps", cure=cure)
        tokens, shares = (torch.stack(each) for each in zip(*pairs, strict=True))
        del pairs
        rarity = self._rarity(shares.sum(dim=(0, 2, 3)), self.settings.rare_pixels)[:, None, None]
        device = accelerator()
        branch.to(device)
        optimiser = torch.optim.AdamW(branch.parameters(), NAMING_RATE, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, NAMING_RATE, self.settings.class_branch_steps)
        generator = torch.Generator().manual_seed(self.settings.seed)
        for _ in range(self.settings.class_branch_steps):
            chosen = torch.randint(len(tokens), (NAMING_BATCH,), generator=generator)
            x, wanted = tokens[chosen].to(device).float(), (rarity * shares[chosen]).to(device)
            if torch.rand((), generator=generator) < 0.5:
                x, wanted = x.flip(-1), wanted.flip(-1)
            for layer in branch:
                x = functional.dropout(layer(x), 0.3) if isinstance(layer, nn.GELU) else layer(x)
            loss = -(wanted * x.log_softmax(dim=1)).sum() / wanted.sum()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        branch.cpu()

    @staticmethod
    def _rarity(seen: Tensor, power: float) -> Tensor:
        share = (seen + 1.0) / (seen + 1.0).sum()
        weight: Tensor = share.clamp_min(1e-4) ** -power
        return weight

    @torch.no_grad()
    def _match_mean(self, data: CompletionData) -> None:
        device = accelerator()
        self.field.to(device)
        sums = torch.zeros(3, *self.viewpoint.volume.grid.shape, device=device)
        batches = iter(data.train_dataloader())
        for batch in itertools.islice(batches, -(-self.settings.mean_of // self.settings.data.batch_size)):
            batch = {name: values.to(device) for name, values in batch.items()}
            pose, mirrored, label = batch["volume_from_camera"], batch["mirrored"], batch["label"]
            ground = self.field.stated_ground(pose, batch["known"], mirrored)
            view = self.field.look([batch[name].float() for name in MAPS], ground)
            scene = self.field(view, pose, mirrored)
            counts = self.field.hidden_from(view, pose, mirrored) & (label != INVALID)
            for total, values in zip(sums, (label != EMPTY, scene.occupied.sigmoid(), counts), strict=True):
                total += (values * counts).sum(dim=0)
        self.field.spatial.match_mean(*sums)
        self.field.cpu()

    def _take(self, where: str, part: nn.Module, prefix: str) -> None:
        """Gives a part of the field the weights of another training, or of its bundle.

        Branches that it did not have stay as they are, which is silent, if they learn.
        """
        weights = TrainedWeights.read(Path(getattr(self.settings, where))).field
        try:
            own = part_of(weights, f"field.{prefix}") or part_of(weights, prefix)
            absent, unknown = part.load_state_dict(own, strict=False)
            learns = {name for name, value in part.named_parameters() if value.requires_grad}
            later = [name for name in absent if name in learns and any(branch in name for branch in LATER)]
            wrong = [*unknown, *sorted({*absent} - {*later})]
            if wrong:
                raise RuntimeError(f"unknown or absent: {wrong[:3]}")
        except RuntimeError as error:
            raise ConfigurationError(
                f"has no head for pixels{'' if prefix else ' and decoder'} of this kind ({str(error)[:200]})",
                where=where,
                cure="Name a checkpoint of stage completion, for the same camera, volume and widths",
            ) from error

    def _computed(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The losses; with mixed precision only convolutions compute in the lower one."""
        kind = self.device.type
        self.field.spatial.mixed = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        return self.terms(batch, generator)

    def terms(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Losses of pixels, voxels and the ground."""
        kind = self.device.type
        pose, mirrored = batch["volume_from_camera"], batch["mirrored"]
        maps = [batch[name].float().contiguous(memory_format=torch.channels_last) for name in MAPS]
        ground = self.field.stated_ground(pose, batch["known"], mirrored)
        view = self.field.pixels(*maps, ground)
        with torch.autocast(kind, enabled=False):
            if self.settings.only_pixels:
                return self._of_pixels(view, batch)
            terms = {} if self.settings.pixels_from else self._of_pixels(view, batch)
            shown = self._shown(view, ground, batch)
            scene = self.field(shown, pose, mirrored)
            return terms | self._of_voxels(scene, batch, generator)

    def _shown(self, view: PixelView, ground: Tensor, batch: dict[str, Tensor]) -> PixelView:
        """The view as the decoder gets it: depths as on other streets, no gradient through them; or the truth."""
        spec, depth = self.field.spec, batch["depth"][:, None]
        off = functional.interpolate(batch["off"], view.code.shape[2:], mode="bilinear", align_corners=True)
        whole = (depth > 0.0).float().mean(dim=(1, 2, 3), keepdim=True) > WHOLE  # not that of LiDAR or stereo
        exact = batch["exact"][:, None, None, None] & whole
        seen = spec.inverse_depth(view.code.detach())
        true = torch.where(depth > 0.0, 1.0 / depth.clamp(spec.minimum_depth, spec.far), seen)  # rims are unknown
        blurred, squared = (functional.avg_pool2d(each, 3, 1, 1, count_include_pad=False) for each in (true, true**2))
        spread = ((squared - blurred**2).clamp_min(0.0) / blurred**2 + EXACT_DEVIATION**2).sqrt()
        inverse = torch.where(exact, blurred, seen)
        inverse = inverse / (off[:, :1] + off[:, 1:] / inverse.clamp_min(1.0 / spec.far)).exp()
        deviation = torch.where(exact, spread, view.deviation.detach())
        classes = batch["classes"].long()
        named = exact & (classes != INVALID)[:, None]
        count = len(self.field.names)
        hot = functional.one_hot((classes - 1).clamp(0, count), count + 1).permute(0, 3, 1, 2)
        shown = view._replace(
            code=spec.depth_code_of_inverse(inverse),
            deviation=deviation,
            classes=torch.where(named, CERTAIN * hot, view.classes),
        )
        return self.field.scaled(shown, ground)

    def _of_pixels(self, view: PixelView, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        inverse = self.field.spec.inverse_depth(view.code)[:, 0].clamp_min(1e-3)
        classes = batch["classes"].long()
        known = classes != INVALID
        named = classes[known] - 1
        if self.training:
            self.shown += torch.bincount(named, minlength=len(self.shown)).float()
        weights = self._rarity(self.shown, self.settings.rare_pixels)
        return {
            "depth": depth_likelihood(-inverse.log(), view.deviation[:, 0], batch["depth"]),
            "pixels": class_terms(view.classes.permute(0, 2, 3, 1)[known], named, weights),
        }

    def _of_voxels(
        self, scene: CompletedScene, batch: dict[str, Tensor], generator: torch.Generator
    ) -> dict[str, Tensor]:
        label = batch["label"]
        one_pair = ~(label == EMPTY).flatten(1).any(dim=1)  # knows what stands close by, but nothing that is free
        known = self.near * ((label != INVALID) & ~one_pair[:, None, None, None])
        occupied = ((label != EMPTY) & (label != INVALID)).float()
        terms = {"occupied": occupancy_cross_entropy(scene.occupied, occupied, known)}
        named = (label != EMPTY) & (label < OF_NO_CLASS)
        terms["classes"] = self._of_classes(scene.classes, label, named, generator)
        return terms | self._of_ground(scene, batch, (self.near * (label != INVALID)).amax(dim=3))

    def _of_classes(self, logits: Tensor, label: Tensor, named: Tensor, generator: torch.Generator) -> Tensor:
        rows = named.nonzero()
        chosen = rows[torch.randperm(len(rows), generator=generator)[: MOST_NAMED * len(label)].to(rows.device)]
        b, x, y, z = chosen.unbind(dim=1)
        classes = label[b, x, y, z].long() - 1
        if self.training:
            self.seen += torch.bincount(classes, minlength=len(self.seen)).float()
        return class_terms(logits[b, :, z // 2, x // 2, y // 2], classes, self._rarity(self.seen, self.settings.rare))

    def _of_ground(self, scene: CompletedScene, batch: dict[str, Tensor], weight: Tensor) -> dict[str, Tensor]:
        height = batch["height"].unfold(1, 2, 2).unfold(2, 2, 2).flatten(3).nanmean(dim=3)
        column = functional.max_pool2d(weight[:, None], 2)[:, 0]
        return {"ground": surface_likelihood(scene.height, scene.deviation, height, column)}

    def validation_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        """The losses of a frame of the validation."""
        terms = self._computed(batch, torch.Generator().manual_seed(batch_index))
        self.log_dict({f"validation/{name}": value for name, value in terms.items()}, sync_dist=True, batch_size=1)
        self.log("validation/total", self._total(terms), sync_dist=True, batch_size=1)

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine."""
        optimiser = torch.optim.AdamW(self.field.parameters(), self.settings.learning_rate, weight_decay=0.01)
        return self.scheduled(optimiser, self.warmed_cosine)


def class_shares(classes: Tensor, count: int, size: torch.Size) -> Tensor:
    """Share [count, rows, columns] of each class in the parts of an image of class numbers from 1 on [h, w]."""
    known = classes != INVALID
    hot = functional.one_hot(torch.where(known, classes - 1, 0).long(), count).permute(2, 0, 1) * known
    return functional.adaptive_avg_pool2d(hot[None].float(), (size[0], size[1]))[0]


def read_frozen_encoder(
    source: str, weights: str, viewpoint: Viewpoint
) -> tuple[EncoderDecoder, DepthAnythingTrunk, FrozenEncoder]:
    """The encoder of a checkpoint of `metric_depth.yaml`, or of the weights of a student, that stays as it is.

    `source`: the checkpoint; a bundle; a file of weights whose names are those of the encoder, all or some of the
    trunk; or nothing. What it does not hold is as it was published. `weights`: folder or hub name of the model that the
    trunk is one of. Raises BundleError where it holds no such encoder.
    """
    file, size = Path(source), (viewpoint.camera.height, viewpoint.camera.width)
    cure = "Name a checkpoint of training/configs/metric_depth.yaml for the same camera"
    if not source:
        state = {}
    elif file.suffix == ".safetensors":
        tensors = read_tensors(file, BundleError, cure=cure)
        state = {name: torch.from_numpy(value.astype(np.float32)) for name, value in tensors.items()}
    else:
        state = part_of(TrainedWeights.read(file).field, "encoder.")
    whole = any(name.startswith("decoder.") for name in state)
    encoder = EncoderDecoder(size, trunk="depth_anything", pretrained=not whole, weights=weights)
    state = named_as_here(state, encoder.state_dict().keys())  # the names that exports use
    try:
        absent, unknown = encoder.load_state_dict(state, strict=whole)
        if unknown or (source and not state):
            raise RuntimeError(f"unknown: {unknown[:3]}, absent: {absent[:3]}")
    except RuntimeError as error:
        what = f"has no encoder on Depth Anything of this size ({str(error)[:200]})"
        raise BundleError(what, where=source, cure=cure) from error
    encoder.requires_grad_(False).eval()
    trunk = encoder.trunk
    assert isinstance(trunk, DepthAnythingTrunk)

    device = accelerator()
    placed = cache(lambda: copy.deepcopy(trunk).to(device) if device.type != "cpu" else trunk)

    def see(image: Tensor) -> list[Tensor]:
        with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=computes_bfloat16(device.type)):
            maps: list[Tensor] = placed().with_tokens(image.to(device))
        return [part.float().cpu() for part in maps]

    digest = hashlib.sha256()
    weights_now = encoder.state_dict()
    for name in sorted(name for name in weights_now if whole or name.startswith("trunk.")):
        digest.update(name.encode())
        digest.update(weights_now[name].half().numpy().tobytes())
    return encoder, trunk, FrozenEncoder(see, digest.hexdigest()[:16], frozenset(state), metric=whole)
