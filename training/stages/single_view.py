"""Stage `single_view`: the Behind-the-Scenes density field, self-supervised from posed stereo video.

Depth of every pixel first, then the head; steps of everything together (photometric rendering included) may follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.nn import functional

from scene_completion_ros.geometry import Camera
from training.averaging import WeightAverage
from training.data.prepared import CANONICAL_CAMERA
from training.data.view_batches import ViewSamples
from training.head_fit import HeadSettings, RaySettings, fit_head
from training.losses.dense_depth import block_depth, log_inverse_depth_loss
from training.losses.fused_occupancy import OccupancyLink, occupancy_cross_entropy
from training.losses.photometric import invalid_rays, photometric_loss
from training.losses.smoothness import edge_aware_smoothness
from training.losses.sparsity import mean_opacity, sample_view_volume
from training.losses.stereo_depth import log_depth_loss
from training.networks.density_field import DensityField
from training.rendering.colours import sample_colours
from training.rendering.rays import Rays, sample_patch_rays
from training.rendering.volume import composite, inverse_depth_samples

HEAD_PARAMETERS = ("field.feature_layer.", "field.position_layer.", "field.density_layer.", "link.")
"""How the names of the head's parameters begin."""


@dataclass
class LossWeights:
    """Weights of the losses; zero leaves a loss out.

    Attributes:
        photometric: SSIM + L1 with minimum over source views.
        smoothness: Edge-aware smoothness (1e-3 in BTS).
        stereo_depth: Rendered depth against stereo depth.
        dense_depth: Inverse depth in channel 0 of the feature map against stereo depth.
        occupancy: Density logits at voxel centres against fused stereo occupancy.
        occupancy_offset: Offset of the logit in that loss at the start, see `OccupancyLink`.
        sparsity: Mean opacity at random points of the view: empty where nothing says otherwise.
    """

    photometric: float = 1.0
    smoothness: float = 1e-3
    stereo_depth: float = 1.0
    dense_depth: float = 1.0
    occupancy: float = 1.0
    occupancy_offset: float = 3.0
    sparsity: float = 0.01


@dataclass
class RenderSettings:
    """Rendering at training time.

    Attributes:
        every: Steps between rendered ones; dense depth and occupancy are in every step.
        patches: 8×8 patches per image (32 in BTS on KITTI raw: 2048 rays).
        samples: Samples per ray.
        near: Nearest sample, metres.
        far: Farthest sample, metres.
    """

    every: int = 1
    patches: int = 8
    samples: int = 64
    near: float = 3.0
    far: float = 80.0


class SingleViewStage(lightning.LightningModule):
    """Trains a `DensityField` from batches of `ViewSamples`.

    Args:
        losses: Loss weights.
        render: Rendering settings.
        learning_rate: Adam learning rate at the start.
        trunk_rate: Factor on `learning_rate` for the blocks of the pretrained trunk that learn.
        frozen_blocks: First blocks of the pretrained trunk that keep their weights (it has 16).
        head_rate: Factor on `learning_rate` for the head.
        depth_only_steps: First steps, in which only the dense depth is trained: the losses on the density say little
            while the features hold no depth, and their gradients drown the one that would put it there.
        head: How the head alone is fitted after those.
        half_resolution_steps: First steps, taken with images of half the size: four times as fast (progressive
            resizing). Points are queried in normalised coordinates, so nothing else changes.
        warmup: Steps of linear warm-up.
        steps: Steps of the whole training; the rate decays to zero over them (cosine).
        seed: Seed of ray and sample positions; together with the step it determines them.
        voxel_size: δ of the opacity, metres.
        pretrained: Start the trunk from ImageNet weights.
    """

    def __init__(
        self,
        losses: LossWeights | None = None,
        render: RenderSettings | None = None,
        learning_rate: float = 3e-4,
        trunk_rate: float = 0.5,
        frozen_blocks: int = 16,
        head_rate: float = 1.0,
        depth_only_steps: int = 0,
        head: HeadSettings | None = None,
        half_resolution_steps: int = 0,
        warmup: int = 200,
        steps: int = 10_000,
        seed: int = 0,
        voxel_size: float = 0.2,
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        self.losses = losses or LossWeights()
        self.render = render or RenderSettings()
        self.learning_rate = learning_rate
        self.trunk_rate = trunk_rate
        self.head_rate = head_rate
        self.depth_only_steps = depth_only_steps
        self.head = head or HeadSettings()
        self.half_resolution_steps = half_resolution_steps
        self.warmup = warmup
        self.steps = steps
        self.seed = seed
        self.voxel_size = voxel_size
        self.camera: Camera = CANONICAL_CAMERA
        self.field = DensityField(self.camera, pretrained=pretrained, frozen_blocks=frozen_blocks)
        self.link = OccupancyLink(self.losses.occupancy_offset)

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        """One step: render patches of loss views, query voxel centres, add up the losses."""
        # Everything random in a step derives from seed and step: a resumed training goes on the same.
        generator = torch.Generator().manual_seed(hash((self.seed, self.global_step)) % (1 << 62))
        image = batch["image"]
        if self.global_step < self.half_resolution_steps:
            image = functional.avg_pool2d(image, 2)
        features, inverse_depth = self.field.encode_with_depth(image)
        terms: dict[str, Tensor] = {}
        if self.losses.dense_depth:
            stride = batch["hint"].shape[-1] // inverse_depth.shape[-1]
            hint = block_depth(batch["hint"], stride)
            terms["dense_depth"] = log_inverse_depth_loss(inverse_depth, hint, self.field.spec)
        if self.global_step >= self.depth_only_steps or not terms:
            terms |= self._volume(features, batch, generator)
        total = torch.stack([getattr(self.losses, name) * value for name, value in terms.items()]).sum()
        self.log_dict({f"loss/{name}": value for name, value in terms.items()})
        self.log("loss/total", total, prog_bar=True)
        return total

    def _volume(self, features: Tensor, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Losses on the density: rendered views, occupancy of voxels, sparsity."""
        terms: dict[str, Tensor] = {}
        rendered = self.losses.photometric or self.losses.stereo_depth or self.losses.smoothness
        every = self.render.every if self.losses.dense_depth or self.losses.occupancy else 1
        if rendered and self.global_step % every == 0:
            terms |= self._rendered(features, batch, generator)
        if self.losses.occupancy:
            logit = self.link(self.field.density_logit(features, batch["points"]))
            terms["occupancy"] = occupancy_cross_entropy(logit, batch["target"], batch["weight"])
        if self.losses.sparsity:
            volume = sample_view_volume(
                self.camera,
                len(features),
                2048,
                near=1.0,
                far=52.0,
                heights=(-4.5, 2.5),
                generator=generator,
                device=features.device,
            )
            terms["sparsity"] = mean_opacity(self.field.density(features, volume), self.voxel_size)
        return terms

    def _rendered(self, features: Tensor, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        loss_views, source_views = batch["roles"][:, :2], batch["roles"][:, 2:]
        rays = sample_patch_rays(
            self.camera, batch["encoder_from_view"], loss_views, patches=self.render.patches, generator=generator
        )
        distances = self._distances(rays, generator)
        points = rays.origin[..., None, :] + distances[..., None] * rays.direction[..., None, :]  # [B, R, K, 3]
        flat = points.flatten(1, 2)
        rendered = composite(self.field.density(features, flat).reshape(distances.shape), distances)
        depth = rendered.distance * rays.cosine
        target, hint = _observed(batch, rays)
        terms = {}
        if self.losses.stereo_depth:
            terms["stereo_depth"] = log_depth_loss(depth, hint)
        if self.losses.photometric or self.losses.smoothness:
            patch = rays.patch_size
            patches = target.reshape(-1, patch, patch, 3).permute(0, 3, 1, 2)
            terms["smoothness"] = edge_aware_smoothness(depth.reshape(-1, patch, patch), patches)
            sources = torch.stack([views[index] for views, index in zip(batch["views"], source_views, strict=True)])
            poses = torch.stack(
                [p[index] for p, index in zip(batch["encoder_from_view"], source_views, strict=True)]
            ).inverse()
            colours, outside = sample_colours(sources, self.camera, poses, flat)
            outside = outside | ~self.field.in_view(flat)[:, None]
            shape = (*outside.shape[:2], *distances.shape[1:])  # [B, S, R, K]
            composed = (rendered.weights[:, None, ..., None] * colours.reshape(*shape, 3)).sum(dim=-2)  # [B, S, R, 3]
            invalid = invalid_rays(rendered.weights, outside.reshape(shape))
            batches, views, count = composed.shape[:3]
            composed = composed.reshape(batches, views, count // patch**2, patch, patch, 3)
            composed = composed.permute(0, 2, 1, 5, 3, 4).flatten(0, 1)  # [P, S, 3, h, w]
            terms["photometric"] = photometric_loss(patches, composed, invalid.reshape(-1, patch, patch))
        return terms

    @property
    def fits_head(self) -> bool:
        """Whether there are steps and losses to fit the head alone with."""
        return bool(self.head.steps and (self.losses.occupancy or self.losses.stereo_depth))

    def fit_head(self, samples: ViewSamples, *, half_resolution: bool) -> float:
        """Fits the head alone, in place; see `training.head_fit`."""
        return fit_head(
            self.field,
            self.link,
            samples,
            self.head,
            RaySettings(self.render.samples, self.render.near, self.render.far),
            occupancy=self.losses.occupancy,
            stereo_depth=self.losses.stereo_depth,
            half_resolution=half_resolution,
            seed=self.seed,
        )

    def _distances(self, rays: Rays, generator: torch.Generator) -> Tensor:
        settings = self.render
        return inverse_depth_samples(
            tuple(rays.cosine.shape),
            settings.samples,
            settings.near,
            settings.far,
            generator=generator,
            device=rays.cosine.device,
        )

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_index: int) -> None:
        """Fits the head when the steps of depth alone are over."""
        if self.depth_only_steps and self.global_step == self.depth_only_steps and self.fits_head:
            data = self.trainer.datamodule  # type: ignore[attr-defined]
            half = self.global_step < self.half_resolution_steps
            loss = self.fit_head(data.samples(), half_resolution=half)
            for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, WeightAverage):  # what was averaged before knows nothing of the new head
                    callback.take_over(self, HEAD_PARAMETERS)
            print(f"head fitted to the features: loss {loss:.4f}")

    def configure_optimizers(self) -> Any:
        """Adam, linear warm-up, cosine decay to zero: a constant rate alone left depth behind the mean-depth grid."""
        trunk = [p for p in self.field.encoder.trunk.parameters() if p.requires_grad]
        trained = {id(p) for p in trunk}
        layers = (self.field.feature_layer, self.field.position_layer, self.field.density_layer, self.link)
        head = [p for layer in layers for p in layer.parameters()]
        trained |= {id(p) for p in head}
        rest = [p for p in self.parameters() if p.requires_grad and id(p) not in trained]
        groups = [
            {"params": rest, "lr": self.learning_rate},
            {"params": head, "lr": self.learning_rate * self.head_rate},
            {"params": trunk, "lr": self.learning_rate * self.trunk_rate},
        ]
        optimiser = torch.optim.Adam([group for group in groups if group["params"]])

        def factor(step: int) -> float:
            if step < self.warmup:
                return (step + 1) / self.warmup
            progress = (step - self.warmup) / max(1, self.steps - self.warmup)
            return 0.5 * (1.0 + float(torch.cos(torch.tensor(min(1.0, progress) * torch.pi))))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _observed(batch: dict[str, Tensor], rays: Rays) -> tuple[Tensor, Tensor]:
    """Colours [B, R, 3] and stereo depth [B, R] that the loss views observed at the rays' pixels."""
    u, v = rays.pixel[..., 0], rays.pixel[..., 1]
    index = torch.arange(u.shape[0], device=u.device)[:, None].expand_as(u)
    colours = batch["views"][index, rays.view, :, v, u]
    return colours, batch["hints"][index, rays.view, v, u]
