"""Fits the head of a density field alone: to where things are on average, and to the features of many images."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.inference.point_code import PointCodeSpec
from training.data.view_batches import ViewSamples
from training.losses.fused_occupancy import OccupancyLink, occupancy_cross_entropy
from training.losses.stereo_depth import log_depth_loss
from training.networks.density_field import DensityField, sample_map
from training.networks.observed_field import PriorField
from training.rendering.rays import rays_of_pixels
from training.rendering.volume import composite, inverse_depth_samples

PRIOR_RATE = 2e-2
OPACITY_RATE = 5e-2
_NOISE_GRID = (4, 10)  # points of the smooth error field
_FIRST_SAMPLE = 1 << 32  # sample numbers that no training step has


@dataclass
class HeadSettings:
    """How the head is fitted to features.

    The features of training images are better than those of new ones, because the encoder knows them. A head that is
    fitted to them as they are trusts them too much. So features are dropped and the depth in channel 0 is disturbed,
    about as far as it is off in drives that the encoder has not seen.

    Attributes:
        steps: Optimiser steps; 0 leaves the head as it is.
        images: Images whose features are kept in memory, 4 MB each at full size.
        batch_size: Images per step.
        points: Voxel centres per image and step.
        rays: Rendered rays per image and step.
        learning_rate: Adam learning rate at the start; it falls to zero linearly.
        feature_dropout: Share of the channels (but channel 0) that a step does without.
        depth_noise: Deviation of the logarithm of the inverse depth in channel 0: a smooth field, and half as much for
            the image as a whole.
        feature_decay: Weight of the squared feature weights (but those of channel 0).
        depth_shrinkage: Factor on what channel 0 differs from the mean depth, where the head is fitted last: a network
            that has seen few drives is too sure of what it sees in new ones.
        opacity_steps: Further steps, which only scale and shift the density's logit, for the rendered depth (of twice
            as many rays): the order of the voxels, which the occupancy asks for, stays as it is.
    """

    steps: int = 2000
    images: int = 320
    batch_size: int = 6
    points: int = 3072
    rays: int = 96
    learning_rate: float = 5e-3
    feature_dropout: float = 0.3
    depth_noise: float = 0.1
    feature_decay: float = 3e-3
    depth_shrinkage: float = 0.85
    opacity_steps: int = 150


@dataclass
class RaySettings:
    """Samples along the rays of the head fit.

    Attributes:
        samples: Samples per ray.
        near: Nearest sample, metres.
        far: Farthest sample, metres.
    """

    samples: int
    near: float
    far: float


def fit_prior(
    field: PriorField, link: OccupancyLink, samples: ViewSamples, steps: int, *, batch_size: int = 4
) -> float:
    """Fits the head to where things are on average, without any image, before the training.

    One hidden layer needs long to find the ground plane by itself, and next to an image it takes the shortcut of
    telling the training drives apart.

    Args:
        field: The field.
        link: From density logit to probability, as the training starts with it; it stays as it is.
        samples: Source of voxel centres.
        steps: Optimiser steps.
        batch_size: Samples per step.

    Returns:
        Mean loss of the last tenth of the steps.
    """
    samples = samples.unmirrored()
    frozen = copy.deepcopy(link).requires_grad_(False)
    optimiser = torch.optim.Adam(field.prior_parameters(), PRIOR_RATE)
    history = []
    for step in range(steps):
        _decay(optimiser, PRIOR_RATE, step, steps)
        batch = [samples.occupancy(step * batch_size + i) for i in range(batch_size)]
        points, target, weight = (torch.cat([b[k] for b in batch])[None] for k in ("points", "target", "weight"))
        loss = occupancy_cross_entropy(frozen(field.prior_logit(points)), target, weight)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        field.mute_depth_units()
        history.append(loss.item())
    return _tail(history)


def fit_head(
    field: DensityField,
    link: OccupancyLink,
    samples: ViewSamples,
    settings: HeadSettings,
    rays: RaySettings,
    *,
    occupancy: float,
    stereo_depth: float,
    half_resolution: bool,
    seed: int,
) -> float:
    """Fits the head alone to fixed, disturbed features of many images at once: occupancy and rendered depth.

    When the features have learned depth, the head does not use it yet. Single images would teach it slowly, and
    drag the positional prior towards each of them.

    Args:
        field: The field.
        link: From density logit to probability; fitted too.
        samples: Source of images, voxel centres and stereo depth.
        settings: How it is fitted.
        rays: Samples along rays.
        occupancy: Weight of the cross-entropy at voxel centres.
        stereo_depth: Weight of rendered against stereo depth.
        half_resolution: Take the features of images of half the size.
        seed: Seed of the images, points and rays.

    Returns:
        Mean loss of the last tenth of the steps.
    """
    images = _Images(field, samples.unmirrored(), settings, half_resolution, seed)
    layers: tuple[nn.Module, ...] = (field.feature_layer, field.position_layer, field.density_layer, link)
    optimiser = torch.optim.Adam([p for layer in layers for p in layer.parameters()], settings.learning_rate)
    history = []
    for step in range(settings.steps):
        _decay(optimiser, settings.learning_rate, step, settings.steps)
        images.draw()
        loss = settings.feature_decay * field.feature_layer.weight[:, 1:].square().sum()
        if occupancy:
            centres, target, weight = images.voxels(settings.points)
            loss = loss + occupancy * occupancy_cross_entropy(link(images.logit(centres)), target, weight)
        if stereo_depth:
            loss = loss + stereo_depth * images.depth_loss(settings.rays, rays)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        history.append(loss.item())
    if stereo_depth and settings.opacity_steps:
        _fit_opacity(images, link, rays)
    return _tail(history)


def _fit_opacity(images: _Images, link: OccupancyLink, rays: RaySettings) -> None:
    """Replaces the logit x by e^k · x + b with the k and b that render depth best, and keeps the link's probability."""
    settings, layer = images.settings, images.field.density_layer
    stretch = torch.zeros(2, device=layer.weight.device, requires_grad=True)  # k, b
    optimiser = torch.optim.Adam([stretch], OPACITY_RATE)
    for step in range(settings.opacity_steps):
        _decay(optimiser, OPACITY_RATE, step, settings.opacity_steps)
        images.draw()
        loss = images.depth_loss(2 * settings.rays, rays, (stretch[0].exp(), stretch[1]))
        (stretch.grad,) = torch.autograd.grad(loss, stretch)
        optimiser.step()
    with torch.no_grad():
        k, b = stretch.detach()
        layer.weight.mul_(k.exp())
        layer.bias.mul_(k.exp()).add_(b)
        link.log_scale.sub_(k)
        link.offset.sub_(link.log_scale.exp() * b)


class _Images:
    """Encoded images in memory, and a random batch of them: their voxels, rays and disturbed features.

    Args:
        field: The field.
        samples: Source of the images.
        settings: How many, and how far features are disturbed.
        half_resolution: Encode images of half the size.
        seed: Seed of everything random.
    """

    def __init__(
        self, field: DensityField, samples: ViewSamples, settings: HeadSettings, half_resolution: bool, seed: int
    ) -> None:
        self.field = field
        self.settings = settings
        self.generator = torch.Generator().manual_seed(seed)
        self.device = field.position_layer.weight.device
        self._kept = [
            one for one in map(partial(self._encode, samples, half_resolution), range(settings.images)) if one
        ]
        if not self._kept:
            raise SequenceError(
                "no image has stereo depth",
                where="training images",
                cure="Check stereo matching, or train photometrically (head.steps=0) with one camera",
            )
        self._batch: list[dict[str, Tensor]] = []
        self._raw = self._keep = self._error = torch.empty(0)

    def _encode(self, samples: ViewSamples, half_resolution: bool, number: int) -> dict[str, Tensor]:
        sample = {key: value.to(self.device) for key, value in samples.labelled(_FIRST_SAMPLE + number).items()}
        image = sample["image"][None]
        with torch.no_grad():
            raw = self.field.encoder(functional.avg_pool2d(image, 2) if half_resolution else image)[0]
        v, u = torch.nonzero(sample["hint"] > 0, as_tuple=True)
        if not len(v):
            return {}
        hinted = {"pixel": torch.stack([u, v], dim=-1).short(), "depth": sample["hint"][v, u].half()}
        return {"raw": raw.half(), **{key: sample[key] for key in ("points", "target", "weight")}, **hinted}

    def draw(self) -> None:
        """Takes another batch, and another disturbance of its features."""
        settings, generator = self.settings, self.generator
        chosen = torch.randint(len(self._kept), (settings.batch_size,), generator=generator).tolist()
        self._batch = [self._kept[index] for index in chosen]
        self._raw = torch.stack([one["raw"] for one in self._batch]).float()
        self._keep, self._error = (
            part.to(self.device) for part in disturbance(settings, len(self._raw), self._raw.shape[1], generator)
        )

    def logit(self, points: Tensor) -> Tensor:
        """Density logits [B, N] at points [B, N, 3] of the batch's images, with disturbed features."""
        field = self.field
        coordinates: Tensor = field.spec.coordinates(points, field.camera)
        with torch.no_grad():
            raw = disturbed_features(self._raw, coordinates, self._keep, self._error, field.spec)
        image_part = torch.einsum("hc,bcn->bhn", field.feature_layer.weight[:, :, 0, 0], raw)
        return field.head_logit(image_part, coordinates)

    def voxels(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Voxel centres [B, N, 3] of the batch's images, their targets and weights [B, N]."""
        at = torch.randint(len(self._batch[0]["points"]), (count,), generator=self.generator).to(self.device)
        points, target, weight = (
            torch.stack([o[key][at] for o in self._batch]) for key in ("points", "target", "weight")
        )
        return points, target, weight

    def depth_loss(self, count: int, settings: RaySettings, stretch: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Rendered against stereo depth along rays of the batch's images; `stretch` scales and shifts the logit."""
        generator, device = self.generator, self.device
        chosen = [torch.randint(len(one["pixel"]), (count,), generator=generator).to(device) for one in self._batch]
        pixel = torch.stack([one["pixel"][at].long() for one, at in zip(self._batch, chosen, strict=True)])
        hint = torch.stack([one["depth"][at].float() for one, at in zip(self._batch, chosen, strict=True)])
        pose = torch.eye(4, device=device).expand(len(pixel), 1, 4, 4)
        rays = rays_of_pixels(self.field.camera, pose, torch.zeros_like(pixel[..., 0]), pixel, 1)
        shape = tuple(rays.cosine.shape)
        distances = inverse_depth_samples(
            shape, settings.samples, settings.near, settings.far, generator=generator, device=device
        )
        points = rays.origin[..., None, :] + distances[..., None] * rays.direction[..., None, :]
        logit = self.logit(points.flatten(1, 2)).reshape(distances.shape)
        density = functional.softplus(logit if stretch is None else stretch[0] * logit + stretch[1])
        return log_depth_loss(composite(density, distances).distance * rays.cosine, hint)


def disturbance(settings: HeadSettings, batch: int, channels: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draws what `disturbed_features` takes: channel factors [B, C, 1] and log errors of inverse depth [B, 1, h, w]."""
    keep = (torch.rand(batch, channels, 1, generator=generator) >= settings.feature_dropout).float()
    keep[:, 0] = 1.0 - settings.feature_dropout
    error = torch.randn(batch, 1, *_NOISE_GRID, generator=generator)
    error = settings.depth_noise * (error + 0.5 * torch.randn(batch, 1, 1, 1, generator=generator))
    return keep / (1.0 - settings.feature_dropout), error


def disturbed_features(raw: Tensor, coordinates: Tensor, keep: Tensor, error: Tensor, spec: PointCodeSpec) -> Tensor:
    """Samples features with channels dropped and the inverse depth in channel 0 off by a smooth random factor.

    Args:
        raw: Output of the encoder [B, C, h, w].
        coordinates: Where, normalised [B, N, 2 or more].
        keep: Factors of the channels [B, C, 1].
        error: Logarithm of the factor of inverse depth, a small map [B, 1, h', w'] over the image.
        spec: Point code.

    Returns:
        [B, C, N].
    """
    sampled = sample_map(raw, coordinates) * keep
    factor = torch.exp(sample_map(error, coordinates, mode="bicubic"))
    inverse = spec.inverse_depth(sampled[:, :1]) * factor
    return torch.cat([spec.depth_code_of_inverse(inverse), sampled[:, 1:]], dim=1)


def _decay(optimiser: torch.optim.Optimizer, rate: float, step: int, steps: int) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate * (1.0 - step / steps)


def _tail(history: list[float]) -> float:
    last = history[-max(1, len(history) // 10) :]
    return sum(last) / len(last)
