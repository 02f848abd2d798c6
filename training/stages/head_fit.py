"""Fits the head of a density field alone: to where things are on average, and to the features of many images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_ros.inference.point_code import PointCodeSpec
from training.data.view_batches import ViewSamples
from training.losses.fused_occupancy import OccupancyLink, occupancy_cross_entropy
from training.losses.stereo_depth import log_depth_loss
from training.networks.density_field import DensityField
from training.rendering.rays import rays_of_pixels
from training.rendering.volume import composite, inverse_depth_samples

PRIOR_RATE = 2e-2
_NOISE_GRID = (4, 10)  # points of the smooth error field
_FIRST_SAMPLE = 1 << 32  # sample numbers that no training step has


@dataclass
class HeadSettings:
    """How the head is fitted to features.

    The features of training images are better than those of new ones, because the encoder knows them. A head that is
    fitted to them as they are trusts them too much. So features are dropped and the depth in channel 0 is disturbed,
    about as far as it is off in drives that the encoder has not seen.

    Attributes:
        steps: Optimiser steps.
        images: Images whose features are kept in memory.
        batch_size: Images per step.
        points: Voxel centres per image and step.
        rays: Rendered rays per image and step.
        learning_rate: Adam learning rate at the start; it falls to zero linearly.
        feature_dropout: Share of the channels (but channel 0) that a step does without.
        depth_noise: Deviation of the logarithm of the inverse depth in channel 0: a smooth field, and half as much for
            the image as a whole.
        feature_decay: Weight of the squared feature weights (but those of channel 0).
    """

    steps: int = 1200
    images: int = 300
    batch_size: int = 6
    points: int = 3072
    rays: int = 96
    learning_rate: float = 5e-3
    feature_dropout: float = 0.3
    depth_noise: float = 0.1
    feature_decay: float = 3e-3


@dataclass
class RaySettings:
    """Samples along the rays of the head fit."""

    samples: int
    near: float
    far: float


def fit_prior(field: DensityField, samples: ViewSamples, steps: int, *, offset: float, batch_size: int = 4) -> float:
    """Fits mean inverse depth and head to where things are on average, without any image, before the training.

    One hidden layer needs long to find the ground plane by itself, and next to an image it takes the shortcut of
    telling the training drives apart.

    Args:
        field: The field.
        samples: Source of voxel centres.
        steps: Optimiser steps.
        offset: Offset of the `OccupancyLink` at the start.
        batch_size: Samples per step.

    Returns:
        Mean loss of the last tenth of the steps.
    """
    field.encoder.prior.copy_(samples.mean_depth_code(field.spec))
    samples = samples.unmirrored()
    optimiser = torch.optim.Adam([*field.position_layer.parameters(), *field.density_layer.parameters()], PRIOR_RATE)
    features = torch.zeros(1, field.position_layer.out_features, 2, 2)
    history = []
    for step in range(steps):
        _decay(optimiser, PRIOR_RATE, step, steps)
        batch = [samples.occupancy(step * batch_size + i) for i in range(batch_size)]
        points, target, weight = (torch.cat([b[k] for b in batch])[None] for k in ("points", "target", "weight"))
        loss = occupancy_cross_entropy(field.density_logit(features, points) + offset, target, weight)
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
    """Fits the head alone to the features as they are, over many images at once: occupancy and rendered depth.

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
    kept = _features(field, samples.unmirrored(), settings.images, half_resolution)
    layers: tuple[nn.Module, ...] = (field.feature_layer, field.position_layer, field.density_layer, link)
    optimiser = torch.optim.Adam([p for layer in layers for p in layer.parameters()], settings.learning_rate)
    generator = torch.Generator().manual_seed(seed)
    history = []
    for step in range(settings.steps):
        _decay(optimiser, settings.learning_rate, step, settings.steps)
        batch = [kept[i] for i in torch.randint(len(kept), (settings.batch_size,), generator=generator).tolist()]
        raw = disturbed_features(torch.stack([one["raw"] for one in batch]).float(), settings, field.spec, generator)
        features = field.feature_layer(raw)
        loss = settings.feature_decay * field.feature_layer.weight[:, 1:].square().sum()
        if occupancy:
            loss = loss + occupancy * _occupancy(field, link, features, batch, settings.points, generator)
        if stereo_depth:
            loss = loss + stereo_depth * _depth(field, features, batch, settings.rays, rays, generator)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        history.append(loss.item())
    return _tail(history)


def _features(field: DensityField, samples: ViewSamples, images: int, half_resolution: bool) -> list[dict[str, Tensor]]:
    device = field.position_layer.weight.device
    kept = []
    for number in range(images):
        sample = {key: value.to(device) for key, value in samples.labelled(_FIRST_SAMPLE + number).items()}
        image = sample["image"][None]
        with torch.no_grad():
            raw = field.encoder(functional.avg_pool2d(image, 2) if half_resolution else image)[0]
        v, u = torch.nonzero(sample["hint"] > 0, as_tuple=True)
        if len(v):
            hinted = {"pixel": torch.stack([u, v], dim=-1).short(), "depth": sample["hint"][v, u].half()}
            kept.append({"raw": raw.half(), **{k: sample[k] for k in ("points", "target", "weight")}, **hinted})
    return kept


def disturbed_features(raw: Tensor, settings: HeadSettings, spec: PointCodeSpec, generator: torch.Generator) -> Tensor:
    """Drops channels, and multiplies the inverse depth in channel 0 by a smooth random field.

    Args:
        raw: Output of the encoder [B, C, h, w].
        settings: How much.
        spec: Point code.
        generator: Source of randomness.
    """
    batch, channels = raw.shape[:2]
    keep = (torch.rand(batch, channels - 1, 1, 1, generator=generator) >= settings.feature_dropout).to(raw)
    field = torch.randn(batch, 1, *_NOISE_GRID, generator=generator).to(raw)
    error = functional.interpolate(field, raw.shape[2:], mode="bicubic", align_corners=False)
    error = error + 0.5 * torch.randn(batch, 1, 1, 1, generator=generator).to(raw)
    inverse = spec.inverse_depth(raw[:, :1]).clamp_min(1e-3) * torch.exp(settings.depth_noise * error)
    return torch.cat([spec.depth_code_of_inverse(inverse), raw[:, 1:] * keep / (1.0 - settings.feature_dropout)], dim=1)


def _occupancy(
    field: DensityField,
    link: OccupancyLink,
    features: Tensor,
    batch: list[dict[str, Tensor]],
    count: int,
    generator: torch.Generator,
) -> Tensor:
    at = torch.randint(len(batch[0]["points"]), (count,), generator=generator).to(features.device)
    centres, target, weight = (torch.stack([one[k][at] for one in batch]) for k in ("points", "target", "weight"))
    return occupancy_cross_entropy(link(field.density_logit(features, centres)), target, weight)


def _depth(
    field: DensityField,
    features: Tensor,
    batch: list[dict[str, Tensor]],
    count: int,
    settings: RaySettings,
    generator: torch.Generator,
) -> Tensor:
    chosen = [torch.randint(len(one["pixel"]), (count,), generator=generator).to(features.device) for one in batch]
    pixel = torch.stack([one["pixel"][at].long() for one, at in zip(batch, chosen, strict=True)])
    hint = torch.stack([one["depth"][at].float() for one, at in zip(batch, chosen, strict=True)])
    pose = torch.eye(4, device=features.device).expand(len(batch), 1, 4, 4)
    rays = rays_of_pixels(field.camera, pose, torch.zeros_like(pixel[..., 0]), pixel, 1)
    distances = inverse_depth_samples(
        tuple(rays.cosine.shape),
        settings.samples,
        settings.near,
        settings.far,
        generator=generator,
        device=features.device,
    )
    points = rays.origin[..., None, :] + distances[..., None] * rays.direction[..., None, :]
    density = field.density(features, points.flatten(1, 2)).reshape(distances.shape)
    return log_depth_loss(composite(density, distances).distance * rays.cosine, hint)


def _decay(optimiser: torch.optim.Optimizer, rate: float, step: int, steps: int) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate * (1.0 - step / steps)


def _tail(history: list[float]) -> float:
    last = history[-max(1, len(history) // 10) :]
    return sum(last) / len(last)
