"""Cost of training on the CPU, as Markdown tables with ratios measured in one run.

``python -m benchmarks.training_step`` renders rays forward and backward through the single-view field and through a
plain implementation of the same equations. The latter samples features point by point, joins them with the point code,
and has one layer on all of it. The command times a step of each stage with 96×320 images and 512 rays. It also compares
what a distilled student costs at inference with what a field of stage `single_view` does.
"""

from __future__ import annotations

import argparse
import functools
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.completion import hardware, quantiles, table
from scene_completion_ros.voxels.occupancy import composite
from scene_completion_training.configuration import RenderSettings
from scene_completion_training.field_stage import FieldStage
from scene_completion_training.networks.density_field import DensityField, SingleViewObservation, sample_map
from scene_completion_training.networks.multi_view_field import MultiViewField
from scene_completion_training.rendering.rays import sample_patch_rays
from scene_completion_training.rendering.sampling import inverse_depth_samples
from scene_completion_training.stages.single_view import SingleViewConfiguration, SingleViewStage
from scene_completion_training.stages.student import StudentConfiguration, StudentStage, Teacher
from scene_completion_training.stages.teacher import TeacherConfiguration, TeacherStage
from scene_completion_training.viewpoint import STREET_CAMERA

RAYS, SAMPLES = 2048, 64
VIEWS = 8


def main() -> None:
    """Prints all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--repeats", type=int, default=5, help="runs a row")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(hardware(arguments.threads), flush=True)
    print("\n" + stage_table(arguments.repeats), flush=True)
    print("\n" + inference_table(arguments.repeats), flush=True)
    print("\n" + rendering_table(arguments.repeats), flush=True)


def rendering_table(repeats: int) -> str:
    """Rendering of 2048 rays of 64 samples, forward and backward, given the encoder's map."""
    field = DensityField(STREET_CAMERA)
    raw = torch.randn(1, 64, STREET_CAMERA.height // 2, STREET_CAMERA.width // 2)
    poses, views = torch.eye(4)[None, None], torch.zeros(1, 1, dtype=torch.long)
    rays = sample_patch_rays(STREET_CAMERA, poses, views, patches=RAYS // 64)
    distances = inverse_depth_samples((1, RAYS), SAMPLES, 3.0, 80.0)
    points = (rays.origin[..., None, :] + distances[..., None] * rays.direction[..., None, :]).flatten(1, 2)
    gradients: dict[str, Tensor] = {}

    def run(name: str, density: Callable[[Tensor], Tensor]) -> None:
        features = raw.clone().requires_grad_(True)
        composite(density(features).reshape(distances.shape), distances).distance.mean().backward()  # type: ignore[no-untyped-call]
        assert features.grad is not None
        gradients[name] = features.grad

    def seen(maps: Tensor) -> Tensor:
        return SingleViewObservation(field, field.feature_layer(maps), maps[:, 0]).density(points)

    folded = functools.partial(run, "folded", seen)
    plain = functools.partial(run, "plain", lambda f: plain_density(field, f, points))
    house, naive = quantiles(folded, repeats), quantiles(plain, repeats)
    difference = (gradients["folded"] - gradients["plain"]).abs().max() / gradients["plain"].abs().max()
    rows = [
        ("plain: 103 inputs a point, one layer", *naive, f"{float(naive[0]) / float(house[0]):.2f}", "–"),
        ("folded into the map, three-part code", *house, "1.00", f"{difference:.1e}"),
    ]
    head = (
        f"{RAYS} rays × {SAMPLES} samples, forward and backward",
        "p50 ms",
        "p95 ms",
        "times",
        "gradient differs by",
    )
    return table(head, rows)


def plain_density(field: DensityField, features: Tensor, points: Tensor) -> Tensor:
    """σ = softplus(w · ReLU(W [f, γ] + b) + c) as it is written in Behind the Scenes, on features [1, C, h, w]."""
    coordinates = field.spec.coordinates(points, field.camera)
    joined = torch.cat([sample_map(features, coordinates).transpose(1, 2), field.spec.encode(coordinates)], dim=-1)
    weight = torch.cat([field.feature_layer.weight[:, :, 0, 0], field.position_layer.weight], dim=1)
    hidden = functional.relu(functional.linear(joined, weight, field.position_layer.bias))
    return functional.softplus(field.density_layer(hidden))[..., 0]


def stage_table(repeats: int) -> str:
    """A step of each stage: losses, backward, optimiser."""
    render = RenderSettings(patches=8, samples=SAMPLES)
    common: dict[str, Any] = {"pretrained": True, "half_resolution_steps": 1, "render": render}
    teacher = TeacherStage(TeacherConfiguration(**common))
    student = StudentStage(StudentConfiguration(**common), Teacher(MultiViewField(STREET_CAMERA)))
    stages: dict[str, FieldStage] = {
        "single view": SingleViewStage(SingleViewConfiguration(**common)),
        "teacher, 3 views": teacher,
        "student, teacher of 3 views": student,
    }
    batch = synthetic_batch()
    rows: list[tuple[str, ...]] = []
    first = 0.0
    for name, stage in stages.items():
        optimiser = torch.optim.Adam([p for p in stage.parameters() if p.requires_grad], 1e-5)
        timing = quantiles(functools.partial(_step, stage, optimiser, batch), repeats)
        first = first or float(timing[0])
        rows.append((name, *timing, f"{float(timing[0]) / first:.2f}"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    head = ("step of 512 rays × 64 samples, 96×320", "p50 ms", "p95 ms", "times single view")
    return table(head, rows) + f"\n\npeak resident memory {peak:.0f} MiB, all stages together"


def _step(stage: FieldStage, optimiser: torch.optim.Optimizer, batch: dict[str, Tensor]) -> None:
    terms = stage.terms(batch, torch.Generator().manual_seed(0))
    optimiser.zero_grad()
    torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
    optimiser.step()


def synthetic_batch() -> dict[str, Tensor]:
    """A batch of the size that samples of sequences have, of random content."""
    generator = torch.Generator().manual_seed(0)
    size = (STREET_CAMERA.height, STREET_CAMERA.width)
    poses = torch.eye(4).repeat(1, VIEWS, 1, 1)
    poses[0, :, 2, 3] = torch.arange(VIEWS) * 0.7
    points = torch.rand(1, 12_288, 3, generator=generator) * torch.tensor([30.0, 4.0, 45.0])
    return {
        "image": torch.rand(1, 3, *size, generator=generator) * 255,
        "hint": torch.rand(1, *size, generator=generator) * 60,
        "views": torch.rand(1, VIEWS, 3, *size, generator=generator),
        "masks": torch.ones(1, VIEWS, *size, dtype=torch.bool),
        "encoder_from_view": poses,
        "hints": torch.rand(1, VIEWS, *size, generator=generator) * 60,
        "roles": torch.arange(VIEWS).reshape(1, 2, VIEWS // 2).transpose(1, 2).flatten(1),
        "encoder_images": torch.rand(1, 3, 3, *size, generator=generator) * 255,
        "encoder_hints": torch.rand(1, 3, *size, generator=generator) * 60,
        "encoder_poses": poses[:, :3],
        "points": points - torch.tensor([15.0, 2.0, -3.0]),
        "target": torch.rand(1, 12_288, generator=generator),
        "weight": torch.ones(1, 12_288),
    }


def inference_table(repeats: int) -> str:
    """Encoding and querying a quarter of a million points: a distilled student beside the single-view baseline."""
    image = torch.rand(1, 3, STREET_CAMERA.height, STREET_CAMERA.width) * 255
    generator = np.random.default_rng(0)
    points = torch.from_numpy(generator.uniform((-20, -3, 2), (20, 2, 50), (1, 1 << 18, 3))).float()
    baseline = SingleViewStage(SingleViewConfiguration(pretrained=False)).field.eval()
    student = StudentStage(StudentConfiguration(pretrained=False), Teacher(MultiViewField(STREET_CAMERA))).field.eval()

    @torch.inference_mode()
    def complete(field: DensityField) -> None:
        field.observe(image).density(points)

    ratios, rows = [], []
    for _ in range(repeats):  # alternating, so that both meet the same load
        one, other = (_seconds(functools.partial(complete, field)) for field in (baseline, student))
        ratios.append(other / one)
        rows.append((one, other))
    one, other = np.median(rows, axis=0)
    body = [
        ("single view", f"{one * 1e3:.0f}", "1.00"),
        ("distilled", f"{other * 1e3:.0f}", f"{np.median(ratios):.2f}"),
    ]
    return table(("inference, 192×640 and 262 144 points", "p50 ms", "times single view"), body)


def _seconds(action: Callable[[], None]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
