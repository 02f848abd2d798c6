"""The configuration of trainings of a few steps, which tests share."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scene_completion_training.configuration import Configuration, RenderSettings
from scene_completion_training.data.completion_samples import CompletionDataSettings, CompletionSource
from scene_completion_training.data.module import DataSettings, SequencesData, SequenceSource
from scene_completion_training.data.view_batches import DataNeeds, ViewSettings
from scene_completion_training.data.voxel_evidence import FusionSettings
from scene_completion_training.field_stage import FieldStage
from scene_completion_training.stages.completion import CompletionConfiguration
from scene_completion_training.stages.feature_field import FeatureFieldConfiguration, FeatureSettings
from scene_completion_training.viewpoint import CameraSettings, VolumeSettings
from tests.training.foundation.tiny_models import saved_depth_model

STEPS = 4
DIMENSION = 12
"""Of the tokens of the tiny foundation model."""
HIDDEN = 48
"""Hidden units of the density; not the default, which no stage after may assume."""


def small_data(drive: Path) -> DataSettings:
    """A drive as training data; what is prepared of it lies beside it, and serves all tests."""
    return DataSettings(
        root=str(drive.parent),
        cache=str(drive.parent / "stage_cache"),
        workers=0,
        sources=[SequenceSource(drive.name)],
        fusion=FusionSettings(free_samples=20_000, views=3),
        views=ViewSettings(occupancy_points=256, far_views=True),
    )


def small_training(drive: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """Values of the configuration of any stage."""
    steps = changes.get("steps", STEPS)
    return {
        "data": small_data(drive),
        "render": RenderSettings(patches=1, samples=8),
        "seed": 1,
        "steps": steps,
        "warmup": 1,
        "half_resolution_steps": steps,
        "checkpoint_every": 2,
        "picture_every": 0,
        "log_every": 1,
        "prior_steps": 2,
        "pretrained": False,
        "output": str(output),
        **changes,
    }


def feature_training(drive: Path, output: Path, features: FeatureSettings, **changes: Any) -> FeatureFieldConfiguration:
    """A training of a feature field, of a few steps."""
    render = RenderSettings(patches=2, samples=8)
    changes = {"hidden": HIDDEN, "render": render, "features": features, **changes}
    return FeatureFieldConfiguration(**small_training(drive, output, **changes))


def write_configuration(file: Path, configuration: Configuration) -> Path:
    """Writes a configuration as a file for `scene-completion train`: JSON is YAML."""
    file.write_text(json.dumps(dataclasses.asdict(configuration)))
    return file


def batches(data: DataSettings, count: int, *, views: int = 1, **needs: Any) -> list[dict[str, Tensor]]:
    """The first batches of a training, of one sample each."""
    served = SequencesData(data, 64, 1, DataNeeds(encoder_views=views, **needs))
    served.setup("fit")
    samples = served.samples()
    return [{name: value[None] for name, value in samples[index].items()} for index in range(count)]


def learn(stage: FieldStage, batch: dict[str, Tensor], loss: str, *, steps: int, rate: float) -> list[dict[str, float]]:
    """The losses of a stage that learns one of them from the same samples and draws again and again, step by step."""
    optimiser = torch.optim.Adam([parameter for parameter in stage.parameters() if parameter.requires_grad], rate)
    found = []
    for _ in range(steps):
        terms = stage.terms(batch, torch.Generator().manual_seed(5))
        optimiser.zero_grad()
        terms[loss].backward()
        optimiser.step()
        found.append({name: value.item() for name, value in terms.items()})
    return found


def small_rooms(rooms: Path, folder: Path, every: int = 1, **changes: Any) -> CompletionConfiguration:
    """A training of a few steps in rendered rooms; the network of its trunk lies in the folder, as "tiny"."""
    sources = [CompletionSource(str(rooms), every=every)]
    return dataclasses.replace(
        CompletionConfiguration(
            world="rooms",
            encoder_weights=str(saved_depth_model(folder / "tiny")),
            data=CompletionDataSettings(sources=sources, cache=str(folder / "cache"), batch_size=2, workers=0),
            camera=CameraSettings(
                width=96, height=64, field_of_view=70.0, height_above_ground=0.575, pitch_range=(-0.1, 0.65)
            ),
            volume=VolumeSettings(near=0.5, far=12.0, ahead=6.4, sideways=3.2, below=0.8, above=2.4, voxel_size=0.1),
            widths=(8, 12),
            context=4,
            reduced=4,
            steps=4,
            warmup=1,
            checkpoint_every=4,
            log_every=1,
            ema_decay=0.0,
            output=str(folder / "run"),
        ),
        **changes,
    )
