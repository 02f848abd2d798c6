"""What the stages of density fields have in common: data, first weights, losses, rates, and how one resumes."""

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_ros.geometry import Camera
from scene_completion_ros.inference.head import PointCodeSpec
from scene_completion_ros.voxels.occupancy import density_of_logit, opacity
from scene_completion_training import losses, rendering
from scene_completion_training.checkpoints import TrainedWeights
from scene_completion_training.configuration import Configuration
from scene_completion_training.data.module import SequencesData
from scene_completion_training.data.view_batches import DataNeeds, ViewSamples
from scene_completion_training.networks import density_field
from scene_completion_training.networks.density_field import DensityField, MultiViewField, ObservedField, OccupancyLink
from scene_completion_training.networks.encoder_decoder import EncoderDecoder
from scene_completion_training.networks.feature_field import FeatureField
from scene_completion_training.randomness import StepGenerator
from scene_completion_training.stage import Batch, Stage

PRIOR_RATE, PRIOR_BATCH = 2e-2, 4


def fit_prior(field: DensityField | MultiViewField, link: OccupancyLink, samples: ViewSamples, steps: int) -> float:
    """Fits the head to where things are on average, without any image, before the training; the mean loss at its end.

    One hidden layer needs long to find the ground plane by itself. Next to an image it takes the shortcut of telling
    the training drives apart. The link from logit to probability stays as it is.
    """
    samples = samples.unmirrored()
    frozen = copy.deepcopy(link).requires_grad_(False)
    optimiser = torch.optim.Adam(field.prior_parameters(), PRIOR_RATE)
    history = []
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = PRIOR_RATE * (1.0 - step / steps)
        batch = [samples.occupancy(step * PRIOR_BATCH + i) for i in range(PRIOR_BATCH)]
        points, target, weight = (torch.cat([b[k] for b in batch])[None] for k in ("points", "target", "weight"))
        loss = losses.occupancy_cross_entropy(frozen(field.prior_logit(points)), target, weight)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        field.mute_depth_units()
        history.append(loss.item())
    last = history[-max(1, len(history) // 10) :]
    return sum(last) / len(last)


# Random points of the view, for sparsity, emptiness and the agreement of a student with its teacher.
VOLUME_POINTS = 2048


def half_size(images: Tensor) -> Tensor:
    """Images [..., 3, H, W] at half the resolution."""
    halved = functional.avg_pool2d(images.flatten(0, -4), 2)
    return halved.reshape(*images.shape[:-2], *halved.shape[-2:])


def encoded_views(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Images [B, E, 3, H, W], hints [B, E, H, W] and poses [B, E, 4, 4] that are encoded: at least the own image."""
    if "encoder_images" in batch:
        return batch["encoder_images"], batch["encoder_hints"], batch["encoder_poses"]
    image = batch["image"]
    poses = torch.eye(4, dtype=image.dtype, device=image.device).expand(len(image), 1, 4, 4)
    return image[:, None], batch["hint"][:, None], poses


class FieldStage(Stage):
    """Base of the stages of density fields. A stage makes its `field` and defines its losses."""

    configuration_class = Configuration
    field_class: ClassVar[type[density_field.TrainedField]] = DensityField
    next_command: ClassVar[str] = "scene-completion export {checkpoint} BUNDLE --licence ..."
    field: DensityField | MultiViewField | FeatureField

    def __init__(self, settings: Configuration) -> None:
        super().__init__(settings)
        self.viewpoint = settings.viewpoint()
        self.camera = self.viewpoint.camera
        volume = self.viewpoint.volume
        self.voxel_size, self.near, self.far = volume.voxel_size, volume.near, volume.far
        self.link = OccupancyLink()

    def data_needs(self) -> DataNeeds:
        """What it needs of its samples: several views, if its settings encode so many."""
        return DataNeeds(encoder_views=getattr(self.settings, "encoder_views", 1), rendered=self.renders)

    def make_data(self) -> SequencesData:
        """Samples of the configuration's sequences."""
        settings, needs = self.settings, self.data_needs()
        if settings.data.views.aside and (needs.rendered or needs.encoder_views > 1):
            what = "only what a camera sees alone can be seen by one that looks aside"
            raise ConfigurationError(what, where="data.views.aside", cure=f"Set it to 0 for stage {settings.stage}")
        if not settings.measures:
            needs = dataclasses.replace(needs, measured=False)
        return SequencesData(settings.data, settings.steps, settings.seed, needs, viewpoint=settings.viewpoint())

    @classmethod
    def learns_link(cls, configuration: Mapping[str, Any]) -> bool:
        """Whether a training of a configuration (plain values) trained its `link`."""
        return bool(configuration.get("losses", {}).get("occupancy", 0.0))

    def start(self, data: SequencesData) -> None:
        """Gives a new training its first weights: those it starts from, or what can be learned without images."""
        if self.settings.start_from:
            self.load(self.settings.start_from)
        else:
            self.first_weights(data)

    def go_on(self) -> None:
        """Readies it for the weights of a checkpoint of its own training."""
        if self.settings.start_from:
            self.start_learning()

    def first_weights(self, data: SequencesData) -> None:
        """Fits depth and head to where things are on average, where losses need it."""
        wanted, steps = self.settings.losses, self.settings.prior_steps
        if wanted.dense_depth:
            self.first_depth(data)
        if wanted.occupancy and steps:
            data.setup("fit")
            loss = fit_prior(self.density, self.link, data.samples(), steps)
            print(f"positional prior fitted without images: occupancy loss {loss:.4f}")

    def first_depth(self, data: SequencesData) -> None:
        """Starts the depth of every pixel as the mean of the samples."""
        data.setup("fit")
        mean = data.samples().mean_depth_code(self.point_code)
        prior = self.encoder.prior
        prior.copy_(functional.interpolate(mean, prior.shape[2:], mode="bilinear"))

    def load(self, source: str) -> None:
        """Starts from a student bundle, by its folder, or a checkpoint; a `BundleError` for another network."""
        weights = TrainedWeights.read(Path(source)).with_prior_of(self.encoder)
        try:
            self.take(weights)
        except RuntimeError as error:
            cure = "Name another bundle or checkpoint"
            raise BundleError(f"weights of another network ({str(error)[:200]})", where=source, cure=cure) from error
        self.start_learning()

    def take(self, weights: TrainedWeights) -> None:
        """Takes weights that were trained before; a stage whose network is another one takes what fits."""
        self.field.load_state_dict(dict(weights.field))
        self.take_link(weights)

    def take_link(self, weights: TrainedWeights) -> None:
        """Takes the link that belongs to a head's weights: what its logits mean."""
        if weights.link:
            self.link.load_state_dict(dict(weights.link))

    def make_encoder(self) -> EncoderDecoder:
        """The encoder that the settings ask for."""
        settings = self.settings
        return EncoderDecoder(
            (self.camera.height, self.camera.width),
            channels=settings.channels,
            trunk=settings.encoder,
            pretrained=settings.pretrained,
            frozen_blocks=settings.frozen_blocks,
            weights=settings.encoder_weights,
        )

    def start_learning(self) -> None:
        """Chooses which weights learn, after they have been loaded."""
        self.encoder.trunk.freeze(self.settings.frozen_blocks)

    def sized(self, images: Tensor) -> Tensor:
        """Images [..., 3, H, W] at the resolution of the present step."""
        return images if self.global_step >= self.settings.half_resolution_steps else half_size(images)

    def observe(self, batch: Batch) -> ObservedField:
        """The field with the batch's images encoded."""
        raise NotImplementedError

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """The losses of a sample of the validation, with the same rays every time."""
        terms = self._computed(batch, StepGenerator(0, batch_index))
        self.log_dict({f"validation/{name}": value for name, value in terms.items()})
        self.log("validation/total", self._total(terms))

    def _computed(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The losses; with mixed precision only the encoder computes in the lower one."""
        kind = self.device.type
        self.encoder.mixed = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        flips = self.training and self.settings.flip_features
        self.encoder.flipped = flips and bool(torch.rand((), generator=generator) < 0.5)
        with torch.autocast(kind, enabled=False):
            return self.terms(batch, generator)

    @property
    def depth_only(self) -> bool:
        """Whether the present step trains nothing but the depth of every pixel; a validation takes all losses."""
        first = self.settings.depth_only_steps
        begun = self.global_step < first if self.training else self.settings.steps <= first
        return bool(self.settings.losses.dense_depth and begun)

    def dense_depth(self, depth_code: Tensor, hint: Tensor) -> Batch:
        """Loss of inverse depth codes [B, h, w] against stereo depth [B, H, W], where it has a weight."""
        if not self.settings.losses.dense_depth:
            return {}
        if depth_code.shape[-1] > hint.shape[-1]:  # a map finer than the image
            depth_code = functional.avg_pool2d(depth_code[:, None], depth_code.shape[-1] // hint.shape[-1])[:, 0]
        blocks = losses.block_depth(hint, hint.shape[-1] // depth_code.shape[-1])
        return {"dense_depth": losses.log_inverse_depth_loss(depth_code, blocks, self.point_code)}

    @property
    def density(self) -> DensityField | MultiViewField:
        """The part of the field that gives the density."""
        return self.field.density if isinstance(self.field, FeatureField) else self.field

    @property
    def encoder(self) -> EncoderDecoder:
        """Encoder of the field."""
        return self.field.encoder

    @property
    def point_code(self) -> PointCodeSpec:
        """Point code of the field."""
        return self.field.spec

    @property
    def renders(self) -> bool:
        """Whether any loss needs rendered patches."""
        wanted = self.settings.losses
        return bool(wanted.photometric or wanted.stereo_depth or wanted.smoothness)

    @property
    def loss_camera(self) -> Camera:
        """Camera whose pixels the losses compare."""
        return self.camera

    def rendered(self, field: ObservedField, batch: Batch, generator: torch.Generator) -> rendering.Rendered:
        """Patches of the loss views, where a loss needs them."""
        render = self.settings.render
        if not self.renders:
            return None
        views, poses = batch["roles"][:, : batch["roles"].shape[1] // 2], batch["encoder_from_view"]
        rays = rendering.sample_patch_rays(self.loss_camera, poses, views, patches=render.patches, generator=generator)
        return rendering.render_rays(
            field, rays, samples=render.samples, near=self.near, far=self.far, generator=generator
        )

    def volume_terms(
        self, field: ObservedField, rendered: rendering.Rendered, batch: Batch, generator: torch.Generator
    ) -> Batch:
        """Losses on the density: rendered views, occupancy of voxels, emptiness of the rest."""
        wanted = self.settings.losses
        terms: Batch = {}
        if rendered is not None:
            if wanted.stereo_depth:
                terms["stereo_depth"] = losses.stereo_depth_loss(field, rendered, batch)
            if wanted.photometric or wanted.smoothness:
                sources = batch["roles"][:, batch["roles"].shape[1] // 2 :]
                seen = rendering.synthesised_patches(field, self.loss_camera, rendered, batch, sources)
                terms["smoothness"] = losses.edge_aware_smoothness(seen.depth, seen.observed)
                terms["photometric"] = losses.photometric_loss(seen.observed, seen.rendered, seen.invalid)
        if wanted.occupancy:
            logit = self.link(field.density_logit(batch["points"]))
            terms["occupancy"] = losses.occupancy_cross_entropy(logit, batch["target"], batch["weight"])
        if wanted.sparsity or wanted.emptiness:
            logit = field.density_logit(self.volume(batch, generator))
            if wanted.sparsity:  # a weak preference for empty space
                terms["sparsity"] = opacity(density_of_logit(logit), self.voxel_size).mean()
            if wanted.emptiness and wanted.occupancy:
                terms["emptiness"] = losses.free_cross_entropy(self.link(logit), (batch["weight"] > 0).any(dim=1))
        return terms

    def volume(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Random points [B, VOLUME_POINTS, 3] of the view, metres, optical frame."""
        volume = self.viewpoint.volume
        near, far = volume.sampled_depth
        count, device, heights = len(batch["image"]), batch["image"].device, volume.sampled_heights
        return rendering.sample_view_volume(
            self.camera, count, VOLUME_POINTS, near=near, far=far, heights=heights, generator=generator, device=device
        )

    def head_layers(self) -> list[nn.Module]:
        """The parts of the field that learn with the rate of the head."""
        raise NotImplementedError

    def configure_optimizers(self) -> Any:
        """Adam with rates of their own for trunk and head, warm-up, then decay: one rate left depth behind."""
        settings = self.settings
        groups = [
            *((list(part.parameters()), settings.trunk_rate * factor) for part, factor in self.encoder.trunk.rates()),
            ([p for module in (*self.head_layers(), self.link) for p in module.parameters()], 1.0),
        ]
        named = {id(p) for parameters, _ in groups for p in parameters}
        groups.insert(0, ([p for p in self.parameters() if id(p) not in named], 1.0))
        learning = [([p for p in parameters if p.requires_grad], rate) for parameters, rate in groups]
        optimiser = torch.optim.Adam(
            [{"params": parameters, "lr": settings.learning_rate * rate} for parameters, rate in learning if parameters]
        )
        return self.scheduled(optimiser, self._rate)

    def _rate(self, step: int) -> float:
        settings = self.settings
        if settings.schedule == "step" and step >= settings.warmup:
            return float(0.1 ** (step // settings.decay_every))
        return self.warmed_cosine(step)


class SingleImageStage(FieldStage):
    """Base of the stages whose field sees one image."""

    field: DensityField | FeatureField

    def make_density(self, *, depth_channel: bool = True, encoder: EncoderDecoder | None = None) -> DensityField:
        """The density field that the settings ask for, on an encoder that is new unless it is given."""
        settings, code = self.settings, self.viewpoint.volume.point_code
        return DensityField(
            self.camera,
            code,
            encoder=encoder or self.make_encoder(),
            depth_channel=depth_channel,
            hidden=settings.hidden,
            blocks=settings.blocks,
            by_distance=settings.code_mode == "distance",
        )

    @property
    def density(self) -> DensityField:
        """The part of the field that gives the density."""
        return self.field.density if isinstance(self.field, FeatureField) else self.field

    def observe(self, batch: Batch) -> Any:
        """The field with the batch's images encoded."""
        return self.field.observe(self.sized(batch["image"]))

    def head_layers(self) -> list[nn.Module]:
        """The layers of the density behind its encoder."""
        density = self.density
        return [density.feature_layer, density.position_layer, density.blocks, density.density_layer]


class FeatureStage(SingleImageStage):
    """Base of the stages of features on a density, which stays as it is where it is `frozen`."""

    field: FeatureField

    @property
    def frozen(self) -> bool:
        """Whether the density stays as it is."""
        return True

    def take(self, weights: TrainedWeights) -> None:
        """Takes the weights of such a field, or the density alone."""
        self.field.start_from(weights.field)
        self.take_link(weights)

    def start_learning(self) -> None:
        """A frozen density stays so, its trunk included."""
        super().start_learning()
        if self.frozen:
            self.field.density.requires_grad_(False)
            self.encoder.trunk.train()
