"""Trainings of a few steps, which tests share."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_training.checkpoints import KEY
from scene_completion_training.configuration import RenderSettings, TrainingConfiguration
from scene_completion_training.data.module import DataSettings, SequencesData, SequenceSource
from scene_completion_training.data.view_batches import DataNeeds, ViewSettings
from scene_completion_training.data.voxel_evidence import FusionSettings
from scene_completion_training.export import export_bundle
from scene_completion_training.field_stage import FieldStage
from scene_completion_training.runner import train
from scene_completion_training.stage import Stage
from scene_completion_training.stage_registry import stage_class
from scene_completion_training.stages.agglomeration import AgglomerationSettings, StoredTeacher
from scene_completion_training.stages.feature_field import FeatureSettings
from scene_completion_training.viewpoint import CameraSettings, Viewpoint, VolumeSettings

STEPS = 4
FEW: dict[str, Any] = {"steps": STEPS, "warmup": 1, "checkpoint_every": 2, "log_every": 1}
"""Of the configuration of any stage."""
HIDDEN = 48
"""Hidden units of the density; not the default, which no stage after may assume."""
SIZE = {"width": 128, "height": 64}
"""Of a canonical camera with a fifteenth of the street's pixels."""
VIEW = CameraSettings(**SIZE)
VIEWPOINT = Viewpoint.of_settings(VIEW, VolumeSettings())


def small_data(drive: Path) -> DataSettings:
    """A drive as training data; what is prepared of it lies next to it, and serves all tests."""
    return DataSettings(
        root=str(drive.parent),
        cache=str(drive.parent / "stage_cache"),
        workers=0,
        sources=[SequenceSource(drive.name)],
        fusion=FusionSettings(free_samples=20_000, views=3),
        views=ViewSettings(occupancy_points=256, far_views=True),
    )


def small_training(drive: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """Values of the configuration of a stage that learns from a drive."""
    return {
        **FEW,
        "data": small_data(drive),
        "camera": VIEW,
        "render": RenderSettings(patches=1, samples=8),
        "seed": 1,
        "half_resolution_steps": changes.get("steps", STEPS),
        "prior_steps": 2,
        "pretrained": False,
        "output": str(output),
        **changes,
    }


class Trainings:
    """Trainings of the stages that learn from a drive, each of them done once."""

    def __init__(self, drive: Path, folder: Path, teacher: Path, targets: Path, text_targets: Path) -> None:
        self.drive, self.folder, self.teacher = drive, folder, teacher
        self.features = FeatureSettings(targets=str(targets))
        text = StoredTeacher("text", targets=str(text_targets))
        dino = StoredTeacher("dino", targets=str(targets), centre="targets")
        self.agglomeration = AgglomerationSettings([text, dino], points=256, regulariser="log1p")

    def configuration(self, stage: str, output: Path | None = None, **changes: Any) -> Any:
        """That of a few steps of a stage, on what the stages before it learned."""
        own: dict[str, Any] = {"hidden": HIDDEN}
        if stage in ("teacher", "student"):
            own = {"teacher": str(self.teacher)} if stage == "student" else {}
        elif stage == "feature_field":
            own |= {"features": self.features, "render": RenderSettings(patches=4, samples=8)}
            own |= {"start_from": str(self.bundle().folder)}
        elif stage == "agglomeration":
            own |= {"agglomeration": self.agglomeration, "start_from": str(self.bundle().folder)}
        elif stage == "semantics":
            own = {"features_from": str(self.checkpoint("feature_field")), "crop_points": 16}
            own |= {"steps": 6, "half_resolution_steps": 0}
        values = small_training(self.drive, output or self.folder / stage, **own | changes)
        return stage_class(stage).configuration_class(**values)

    @cache  # noqa: B019 - it lives as long as the session
    def checkpoint(self, stage: str) -> Path:
        """Checkpoint of the whole training of a stage."""
        return self.teacher if stage == "teacher" else train(self.configuration(stage))

    @cache  # noqa: B019
    def bundle(self) -> StudentBundle:
        """That of the stage `single_view`, with a calibration of its own."""
        checkpoint = self.checkpoint("single_view")
        return export_bundle(checkpoint, self.folder / "bundle", name="t", licence="none", provenance={})


class CutOffError(Exception):
    """The training is cut off."""


@contextmanager
def cut_off(step: int) -> Iterator[None]:
    """The training that runs in it ends, against its will, when so many steps have been taken."""
    take = Stage.training_step

    def cut(self: Stage, batch: dict[str, Tensor], number: int) -> Tensor:
        if self.global_step == step:
            raise CutOffError
        return take(self, batch, number)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Stage, "training_step", cut)
        with pytest.raises(CutOffError):
            yield


def write_configuration(file: Path, configuration: TrainingConfiguration) -> Path:
    """Writes a configuration as a file for `scene-completion train`: JSON is YAML."""
    file.write_text(json.dumps(dataclasses.asdict(configuration)))
    return file


def curves(output: Path, *beginnings: str) -> dict[tuple[str, int], float]:
    """What was logged under names that begin so: name and step -> value; a later file replaces an earlier one."""
    found: dict[tuple[str, int], float] = {}
    for file in sorted((output / "curves").glob("events*")):
        events = EventAccumulator(str(file))
        events.Reload()
        names = [name for name in events.Tags()["scalars"] if name.startswith(beginnings)]
        found |= {(name, event.step): event.value for name in names for event in events.Scalars(name)}
    return found


def batches(data: DataSettings, count: int, *, views: int = 1, **needs: Any) -> list[dict[str, Tensor]]:
    """The first batches of a training, of one sample each."""
    served = SequencesData(data, 64, 1, DataNeeds(encoder_views=views, **needs), viewpoint=VIEWPOINT)
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


def save_checkpoint(file: Path, field: torch.nn.Module, stage: str, **configuration: object) -> Path:
    """Saves a checkpoint of a network that was never trained."""
    file.parent.mkdir(parents=True, exist_ok=True)
    state = {f"field.{key}": value for key, value in field.state_dict().items()}
    torch.save({"state_dict": state, KEY: {"configuration": {"stage": stage, **configuration}}}, file)
    return file
