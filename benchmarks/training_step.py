"""Cost of a training step of each stage on the CPU, as a Markdown table with ratios measured in one run.

``python -m benchmarks.training_step`` takes steps with 96×320 images and 512 rays of 64 samples: losses, backward,
optimiser.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.measuring import hardware, in_turn, ratio_table
from scene_completion_training.configuration import Configuration, RenderSettings
from scene_completion_training.field_stage import FieldStage
from scene_completion_training.networks.density_field import MultiViewField
from scene_completion_training.stages.density import (
    SingleViewStage,
    StudentConfiguration,
    StudentStage,
    Teacher,
    TeacherConfiguration,
    TeacherStage,
)
from scene_completion_training.viewpoint import STREET_CAMERA

VIEWS = 8


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--repeats", type=int, default=5, help="runs a row")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(hardware(arguments.threads), flush=True)
    render = RenderSettings(patches=8, samples=64)
    common: dict[str, Any] = {"pretrained": True, "half_resolution_steps": 1, "render": render}
    teacher = TeacherStage(TeacherConfiguration(**common))
    student = StudentStage(StudentConfiguration(**common), Teacher(MultiViewField(STREET_CAMERA)))
    stages: dict[str, FieldStage] = {
        "single view": SingleViewStage(Configuration(**common)),
        "teacher, 3 views": teacher,
        "student, teacher of 3 views": student,
    }
    runs = in_turn({name: training_step(stage) for name, stage in stages.items()}, arguments.repeats)
    print("\n" + ratio_table("step of 512 rays × 64 samples, 96×320", runs))


def training_step(stage: FieldStage) -> Callable[[], None]:
    """What takes a step of a stage, always on the same batch."""
    optimiser = torch.optim.Adam([p for p in stage.parameters() if p.requires_grad], 1e-5)
    batch = synthetic_batch()

    def step() -> None:
        terms = stage.terms(batch, torch.Generator().manual_seed(0))
        optimiser.zero_grad()
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return step


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


if __name__ == "__main__":
    main()
