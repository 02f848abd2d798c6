"""Fits the head of a density field to where things are on average, before it sees an image."""

import copy

import torch
from torch.nn import functional

from scene_completion_training.data.view_batches import ViewSamples
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.networks.multi_view_field import MultiViewField
from scene_completion_training.networks.occupancy_link import OccupancyLink

PRIOR_RATE, PRIOR_BATCH = 2e-2, 4


def fit_prior(field: DensityField | MultiViewField, link: OccupancyLink, samples: ViewSamples, steps: int) -> float:
    """Fits the head to where things are on average, without any image, before the training.

    One hidden layer needs long to find the ground plane by itself. Next to an image it takes the shortcut of telling
    the training drives apart. The link from logit to probability stays as it is. Returns the mean loss of the last
    tenth of the steps.
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
        logit = frozen(field.prior_logit(points))
        loss = functional.binary_cross_entropy_with_logits(logit, target, weight=weight, reduction="sum")
        loss = loss / weight.sum().clamp_min(1.0)  # every process of a training fits the same samples
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        field.mute_depth_units()
        history.append(loss.item())
    last = history[-max(1, len(history) // 10) :]
    return sum(last) / len(last)
