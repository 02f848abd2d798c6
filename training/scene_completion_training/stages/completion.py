"""Stage `completion`: what is there, what it is, and where the ground lies, in every voxel before one camera.

Pixels do not learn here: what they show was learned by stage `pixels`, whose trunk sees each image once. A decoder of
cells learns from exact voxels of rendered towns, hidden ones included, from voxels of labelled LiDAR, from single
scans, from stereo, and from what a mean of other students says of the rest.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.evaluation.bodies import THINGS
from scene_completion_ros.evaluation.semantic_classes import (
    COMMON_CLASSES,
    EMPTY,
    GROUND_CLASSES,
    INVALID,
    ROOM_CLASSES,
)
from scene_completion_ros.geometry import Camera
from scene_completion_ros.inference.cells import FLOOR, PRIOR_EDGE, ROAD, STRIDE, CellVolume
from scene_completion_ros.inference.ground_pixels import seen_ground
from scene_completion_ros.inference.head import PointCodeSpec
from scene_completion_training.checkpoints import TrainedWeights, trained_viewpoint
from scene_completion_training.configuration import TrainingConfiguration
from scene_completion_training.data.completion_samples import CompletionData, CompletionDataSettings, FrozenEncoder
from scene_completion_training.data.taught_voxels import UNKNOWN
from scene_completion_training.data.voxel_evidence import OF_NO_CLASS
from scene_completion_training.losses import class_terms, occupancy_cross_entropy, surface_likelihood, taught_occupancy
from scene_completion_training.networks.density_field import part_of
from scene_completion_training.networks.pixel_head import PixelHead, PixelView, corrected, no_ground
from scene_completion_training.networks.scene_decoder import CompletedCells, Look, SceneDecoder, look_up, sampled
from scene_completion_training.randomness import drawn
from scene_completion_training.stages import pixels as pixel_stage
from scene_completion_training.stages.pixels import PixelConfiguration, digest
from scene_completion_training.viewpoint import Viewpoint

# Classes of streets and of rooms, and which of them cameras stand on.
GROUNDS = {COMMON_CLASSES[1:]: ROAD, ROOM_CLASSES[1:]: FLOOR}
BODIES = frozenset((*THINGS, "bicycle", "motorcycle", "truck", "other-vehicle", "traffic-sign"))
EXACT_DEVIATION = 0.03  # of the logarithm of true depth, once it is off as `CompletionSamples` draws it
WHOLE = 0.95  # share of the pixels that show anything whose depth a rendered image knows
CERTAIN = 6.0  # logit of a true class
MEAN_RATE = 10.0  # factor on the learning rate of the mean of hidden voxels, which has far to go
Part = TypeVar("Part", PixelConfiguration, CompletionDataSettings)


@dataclass
class CompletionLosses:
    """Weights of the losses."""

    occupied: float = 2.0  # cross entropy of voxels
    taught: float = 2.0  # divergence of cells from what the teachers of `data.teachers` know together
    classes: float = 0.4  # cross entropy of the classes of occupied voxels
    ground: float = 0.2  # likelihood of the height of the ground


@dataclass
class CompletionConfiguration(pixel_stage.SeenConfiguration):
    """What stage `completion` needs."""

    stage: str = "completion"
    # The training before it. Its seed, precision, camera, volume, world, weights and recordings are those of this one.
    pixels: PixelConfiguration = field(default_factory=PixelConfiguration)
    pixels_from: str = ""  # checkpoint of stage `pixels` or of this one, or a bundle, instead of that training
    start_from: str = ""  # checkpoint of this stage, or a bundle: its pixels and its decoder go on learning
    losses: CompletionLosses = field(default_factory=CompletionLosses)
    widths: tuple[int, ...] = (64, 128, 192, 256)  # as `SceneDecoder`, and the next three
    context: int = 16
    reduced: int = 16
    prior: float = 0.5
    cells: int = 40_000  # cells of a sample whose voxels are compared, more of them nearby
    distance: float = 20.0  # metres at which a voxel counts half as much as one nearby
    rare: float = 0.35  # how much the rarity of a class raises its weight: 0 not at all, 1 in proportion

    def check(self) -> None:
        """Adds that a share is one."""
        super().check()
        if not 0.0 <= self.prior <= 1.0:
            what, cure = f"{self.prior} is no share", "Take 0 for the network alone, or up to 1"
            raise ConfigurationError(what, where="prior", cure=cure)

    def parts(self) -> dict[str, TrainingConfiguration]:
        """The training of pixels, unless a checkpoint of that is named, and then that of cells.

        Raises ConfigurationError where `pixels` has other values than it shares with the training of cells.
        """
        if self.pixels_from:
            return {"student": self}
        names = ("seed", "start_from", "encoder_weights", "world", "camera", "volume", "precision")
        places = ("root", "sources", "validation", "cache", "pack", "segmentation")
        given = {name: getattr(self, name) for name in names} | {"output": f"{self.output}/pixels"}
        pixels = _with_shared(self.pixels, given, "")
        pixels.max_minutes = pixels.max_minutes or self.max_minutes
        pixels.data = _with_shared(pixels.data, {name: getattr(self.data, name) for name in places}, "data.")
        student = dataclasses.replace(self, pixels_from=f"{pixels.output}/checkpoints/last.ckpt")
        return {"pixels": pixels, "student": student}


def _with_shared(own: Part, shared: dict[str, Any], within: str) -> Part:
    usual = type(own)()
    for name, value in shared.items():
        if getattr(own, name) not in (getattr(usual, name), value):
            what, cure = "would be ignored: pixels and cells share it", f"Set {within}{name} instead"
            raise ConfigurationError(what, where=f"pixels.{within}{name}", cure=cure)
    return dataclasses.replace(own, **shared)


class SceneField(nn.Module):
    """Head for pixels and decoder of cells, of the maps of a trunk.

    `viewpoint`: canonical camera, and the volume; `names`: classes behind "empty", those of streets, or of rooms;
    `in_space`: options of `SceneDecoder`.
    """

    def __init__(self, viewpoint: Viewpoint, names: tuple[str, ...], pixels: PixelHead, **in_space: Any) -> None:
        super().__init__()
        self.viewpoint, self.names, self.pixels = viewpoint, names, pixels
        self.ground = GROUNDS[names]
        self.camera: Camera = viewpoint.camera
        self.spec: PointCodeSpec = viewpoint.volume.point_code
        level = -viewpoint.height_above_ground
        self.spatial = SceneDecoder(viewpoint.volume.grid, self.spec, classes=len(names), ground=level, **in_space)

    @property
    def volume(self) -> CellVolume:
        """What a student that is made of it needs to know of its volume."""
        label, reduced = self.names.index(self.ground.name), self.spatial.reduce.out_channels
        around = self.spatial.context.out_channels // self.spatial.cells[2]
        grid, level, prior = self.spatial.grid, self.spatial.level, PRIOR_EDGE if self.spatial.prior > 0.0 else 0
        on_ground = self.on_ground if self.spatial.sees_ground else ()
        return CellVolume(grid, level, self.ground, label, len(self.names), reduced, around, prior, on_ground)

    @property
    def on_ground(self) -> tuple[int, ...]:
        """Numbers of the classes of the ground."""
        return tuple(number for number, name in enumerate(self.names) if name in GROUND_CLASSES)

    @classmethod
    def rebuilt(cls, state: Mapping[str, Tensor], viewpoint: Viewpoint, _: object = None) -> SceneField:
        """An untrained field that weights fit, see `TrainedField`."""
        reduce, context = state["spatial.reduce.weight"], state["spatial.context.weight"]
        coarser = sorted(name for name in state if name.startswith("spatial.down.") and name.endswith(".0.0.weight"))
        heights = -(-viewpoint.volume.grid.shape[2] // STRIDE)
        pixels = PixelHead.rebuilt(part_of(state, "pixels."), viewpoint)
        classes = pixels.classes.out_channels - 1
        names = next(names for names in GROUNDS if len(names) == classes)
        widths = (context.shape[1], *(len(state[name]) for name in coarser))
        options = {"context": len(context) // heights, "reduced": len(reduce)}
        return cls(
            viewpoint, names, pixels, widths=widths, **options, sees_ground=len(state["spatial.ground.weight"]) == 2
        )

    def corrected(
        self, view: PixelView, plane: Tensor, known: Tensor, mirrored: Tensor, deviations: Tensor | None = None
    ) -> PixelView:
        """The view with depths corrected by the road, see `corrected`."""
        label = self.names.index(self.ground.name)
        return corrected(view, self.viewpoint, plane, known, mirrored, self.ground, label, deviations)

    def complete(self, view: PixelView, volume_from_camera: Tensor, mirrored: Tensor, cells: Tensor) -> CompletedCells:
        """What cells of these numbers hold, see `SceneDecoder.complete`."""
        seen = self.seen_ground(view, volume_from_camera, mirrored) if self.spatial.sees_ground else None
        return self.spatial.complete(view, self.look(volume_from_camera, mirrored), cells, seen)

    def seen_ground(self, view: PixelView, volume_from_camera: Tensor, mirrored: Tensor) -> Tensor:
        """What pixels show of the ground, as robots compute it: `seen_ground` [B, `SEEN`, x, y], without gradients."""
        inverse = self.spec.inverse_depth(view.code).clamp_min(0.5 / self.spec.far)
        on_ground = view.classes.softmax(dim=1)[:, self.on_ground].sum(dim=1)
        surfaces = torch.cat([-inverse.log(), view.deviation], dim=1).permute(0, 2, 3, 1)
        height, width = view.code.shape[2:]
        camera, volume, found = self.camera.resized(width, height), self.volume, []
        for of_image, ground, pose, turned in zip(
            surfaces, on_ground, volume_from_camera, mirrored.tolist(), strict=True
        ):
            side = -1 if turned else 1  # a mirrored one is that of the image as it is, mirrored
            shown, likely = (part.detach().cpu().numpy()[:, ::side] for part in (of_image, ground))
            seen = seen_ground(shown, likely, camera, volume, pose.double().cpu().numpy())
            found.append(torch.from_numpy(seen.reshape(*volume.cells[:2], -1)[:, ::side].copy()))
        return torch.stack(found).permute(0, 3, 1, 2).to(view.code)

    def behind_bodies(self, view: PixelView, volume_from_camera: Tensor, mirrored: Tensor, cells: Tensor) -> Tensor:
        """Which cells [B, N] of these numbers lie behind what pixels show of a thing that ends, see `BODIES`."""
        where = self.look(volume_from_camera, mirrored)(self.spatial.centres[cells])
        inverse = self.spec.inverse_depth(view.code).clamp_min(0.5 / self.spec.far)
        likely = view.classes.softmax(dim=1)[:, [name in BODIES for name in (*self.names, "sky")]].sum(
            dim=1, keepdim=True
        )
        seen = torch.cat([-inverse.log(), likely], dim=1)
        surface, body = sampled(seen, where.pixels, "nearest").unbind(dim=1)
        edge = STRIDE * self.spatial.grid.voxel_size
        return (where.in_view > 0.0) & (body > 0.5) & (where.depth > surface.exp() + edge)

    def look(self, volume_from_camera: Tensor, mirrored: Tensor) -> Look:
        """Finds how places of the volume look at an image, see `look_up`."""
        side = torch.where(mirrored, -1.0, 1.0).to(volume_from_camera)
        return partial(look_up, camera=self.camera, spec=self.spec, volume_from_camera=volume_from_camera, side=side)


class CompletionStage(pixel_stage.SeenStage):
    """Trains a `SceneField`."""

    configuration_class = CompletionConfiguration
    field_class = SceneField
    next_command = "scene-completion export {checkpoint} BUNDLE --licence ..."
    settings: CompletionConfiguration

    def __init__(self, settings: CompletionConfiguration) -> None:
        super().__init__(settings)
        self.viewpoint = settings.viewpoint()
        seen = pixel_stage.TrainedPixels.read(Path(settings.pixels_from), settings, "pixels_from")
        self.trunk = pixel_stage.trained_trunk(seen, settings.model).requires_grad_(False)
        weights = hashlib.sha256(digest(self.trunk, learned=True).encode())
        for name, value in sorted(seen.head.state_dict().items()):
            weights.update(name.encode() + value.half().numpy().tobytes())
        self.seen_by = {"frozen_blocks": seen.frozen_blocks, "pixels_sha256": weights.hexdigest()}
        self.field = _untrained(settings, seen.head.requires_grad_(False))
        away = self.field.spatial.centres[:, :2].norm(dim=1)
        self.near: Tensor = nn.Buffer(1.0 / (1.0 + (away / settings.distance) ** 2), persistent=False)  # [M]
        self.counted: Tensor = nn.Buffer(torch.zeros(len(settings.class_names)))  # voxels of each class so far
        self.field.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def remembered(self) -> dict[str, Any]:
        """How many blocks of the trunk are as published, and which pixels it completes cells from."""
        return self.seen_by

    def make_data(self) -> CompletionData:
        """Maps and voxels of the configuration's recordings."""
        settings, trunk = self.settings, self.trunk

        def see(image: Tensor) -> dict[str, Tensor]:
            return dict(zip(("fused", "tokens"), trunk(image), strict=True))

        frozen = FrozenEncoder(pixel_stage.on_device(trunk, see), digest(trunk, learned=True))
        return CompletionData(settings.data, self.viewpoint, frozen, steps=settings.steps, seed=settings.seed)

    @classmethod
    def refuse_start(cls, settings: CompletionConfiguration) -> None:
        """Tries `start`, which needs no data; there need be no pixels yet."""
        if settings.start_from:
            _start(_untrained(settings, None), settings)

    def start(self, data: Any) -> None:
        """The decoder goes on from another training where one is named; pixels doubt depth as its validation says.

        `data`: None leaves the doubt as it is.
        """
        if self.settings.start_from:
            _start(self.field, self.settings)
        if data is not None and self.settings.data.validation:
            self.field.pixels.doubt *= self._doubt(data.val_dataloader())

    def _doubt(self, frames: Iterable[dict[str, Tensor]]) -> Tensor:
        """Mean over frames of the mean error of depth in units of its deviation; 1 where no depth is known.

        That is 1 where the deviation of a Laplace distribution is right.
        """
        errors = []
        with torch.no_grad():
            for batch in frames:
                maps = (batch[name].float() for name in ("fused", "tokens"))
                view = self.field.pixels(*maps, no_ground(self.viewpoint, len(batch["depth"])))
                off, known = pixel_stage.log_depth_off(view, batch["depth"], self.field.spec)
                if known.any():
                    errors.append((off.abs() / view.deviation[:, 0])[known].mean())
        return torch.stack(errors).mean() if errors else torch.ones(())

    def _computed(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The losses; with mixed precision only convolutions compute in the lower one."""
        kind = self.device.type
        self.field.spatial.mixed = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        return self.terms(batch, generator)

    def terms(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Losses of voxels, of their classes, and of the ground."""
        pose, mirrored = batch["volume_from_camera"], batch["mirrored"]
        maps = [batch[name].float().contiguous(memory_format=torch.channels_last) for name in ("fused", "tokens")]
        with torch.no_grad():
            view = self.field.pixels(*maps, no_ground(self.viewpoint, len(pose), pose.device))
        with torch.autocast(self.device.type, enabled=False):
            shown = self._shown(view, batch)
            labels = in_cells(batch["label"], INVALID)
            if self.training:
                whole = batch["known"] & (batch["label"] == EMPTY).flatten(1).any(dim=1)  # a pair knows nothing free
                known = (batch["label"] != INVALID) & whole[:, None, None, None]
                self.field.spatial.hold(batch["label"] != EMPTY, known)
            taught, doubt = (batch[name].permute(0, 3, 1, 2).flatten(1) for name in ("taught", "doubt"))
            chosen = self._chosen((labels != INVALID).any(dim=2) | (doubt < UNKNOWN), generator)
            found = self.field.complete(shown, pose, mirrored, chosen)
            taught, doubt = (each.gather(1, chosen) for each in (taught, doubt))
            # What lies behind a thing, students never saw: taught by them, cars and people were walls.
            ends = self.field.behind_bodies(shown, pose, mirrored, chosen)
            soft = taught_occupancy(found.occupied, taught, doubt, (~ends).float())
            return self._of_voxels(found, labels, chosen, batch) | {"taught": soft}

    def _chosen(self, known: Tensor, generator: torch.Generator) -> Tensor:
        """Numbers [B, N] of cells of which something is known [B, M], drawn in proportion to how much they count."""
        keys = drawn(torch.rand, known.shape, generator).to(known.device).clamp_min(1e-9)
        weight = self.near * known
        # The largest of u^(1 / w) are a draw without replacement (Efraimidis and Spirakis 2006).
        keys = torch.where(weight > 0.0, keys.log() / weight, -torch.inf)
        return keys.topk(min(self.settings.cells, keys.shape[1])).indices

    def _shown(self, view: PixelView, batch: dict[str, Tensor]) -> PixelView:
        """The view as the decoder gets it: depths as on other streets, no gradient through them; or the truth."""
        spec, depth = self.field.spec, batch["depth"][:, None]
        off = functional.interpolate(batch["off"], view.code.shape[2:], mode="bilinear", align_corners=True)
        known = ((depth > 0.0) | ~batch["shown"][:, None]).float()
        whole = known.mean(dim=(1, 2, 3), keepdim=True) > WHOLE  # not that of LiDAR or stereo
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
        code, shown = spec.depth_code_of_inverse(inverse), torch.where(named, CERTAIN * hot, view.classes)
        view = view._replace(code=code, deviation=deviation, classes=shown)
        stated = batch["plane"] + batch["plane_off"] * batch["plane"].new_tensor(self.field.ground.doubt.stated)
        return self.field.corrected(view, stated, batch["known"], batch["mirrored"])

    def _of_voxels(
        self, found: CompletedCells, labels: Tensor, chosen: Tensor, batch: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        one_pair = ~(labels == EMPTY).flatten(1).any(dim=1)  # knows what stands close by, but nothing that is free
        label = labels.gather(1, chosen[..., None].expand(-1, -1, STRIDE**3))
        known = (label != INVALID) & ~one_pair[:, None, None]
        occupied = (label != EMPTY) & known
        named = (label != EMPTY) & (label < OF_NO_CLASS)
        return {
            "occupied": occupancy_cross_entropy(found.occupied, occupied.float(), known.float()),
            "classes": self._of_classes(found.classes, label, named),
            "ground": self._of_ground(found, batch["height"], (labels != INVALID).any(dim=2) * self.near),
        }

    def _of_classes(self, logits: Tensor, label: Tensor, named: Tensor) -> Tensor:
        b, n, v = named.nonzero().unbind(dim=1)
        classes = label[b, n, v].long() - 1
        if self.training:
            self.counted += torch.bincount(classes, minlength=len(self.counted)).float()
        return class_terms(logits[b, :, n], classes, pixel_stage.rarity(self.counted, self.settings.rare))

    def _of_ground(self, found: CompletedCells, height: Tensor, weight: Tensor) -> Tensor:
        beyond = [-count % STRIDE for count in height.shape[1:]]
        height = functional.pad(height, (0, beyond[1], 0, beyond[0]), value=torch.nan)
        height = height.unfold(1, STRIDE, STRIDE).unfold(2, STRIDE, STRIDE).flatten(3).nanmean(dim=3)
        column = weight.reshape(len(weight), -1, *found.height.shape[1:]).amax(dim=1)
        return surface_likelihood(found.height, found.deviation, height, column)

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine."""
        rate, mean = self.settings.learning_rate, self.field.spatial.mean
        others = [value for value in self.field.spatial.parameters() if value is not mean]
        groups: list[dict[str, Any]] = [{"params": others}, {"params": [mean], "lr": MEAN_RATE * rate}]
        return self.scheduled(torch.optim.AdamW(groups, rate, weight_decay=0.01), self.warmed_cosine)


def _untrained(settings: CompletionConfiguration, pixels: Any) -> SceneField:
    in_space = {name: getattr(settings, name) for name in ("widths", "context", "reduced", "prior")}
    return SceneField(settings.viewpoint(), settings.class_names, pixels, **in_space)


def _start(field: SceneField, settings: CompletionConfiguration) -> None:
    source = Path(settings.start_from)
    field.viewpoint.refuse_other(trained_viewpoint(source), "start_from")
    weights = TrainedWeights.read(source).field
    state = part_of(weights, "field.spatial.") or part_of(weights, "spatial.")
    if "prior" in state:
        state["prior"] = field.spatial.prior  # that of the configuration
    try:
        field.spatial.load_state_dict(state)
    except RuntimeError as error:
        what = f"has no decoder of this kind ({str(error)[:200]})"
        cure = "Name a checkpoint of stage completion, for the same volume and widths"
        raise ConfigurationError(what, where="start_from", cure=cure) from error


def in_cells(voxels: Tensor, beyond: float) -> Tensor:
    """Values [B, M, S³] of the voxels of each cell, of those of all voxels [B, X, Y, Z]; `beyond`: that of none.

    Cells are in the order (z, x, y), and voxels in them in the order (x, y, z).
    """
    batch, *shape = voxels.shape
    padding = [beyond_axis for count in shape[::-1] for beyond_axis in (0, -count % STRIDE)]
    if any(padding):
        voxels = functional.pad(voxels, padding, value=beyond)
    x, y, z = (-(-count // STRIDE) for count in shape)
    return (
        voxels.reshape(batch, x, STRIDE, y, STRIDE, z, STRIDE)
        .permute(0, 5, 1, 3, 2, 4, 6)
        .reshape(batch, -1, STRIDE**3)
    )
