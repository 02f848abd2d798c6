"""Trainings of pixels and cells before their first step: what they start from, and what they refuse."""

from __future__ import annotations

import dataclasses
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE
from scene_completion_training import CONFIGS
from scene_completion_training.checkpoints import KEY, Checkpoint
from scene_completion_training.configuration import read_configuration
from scene_completion_training.data.completion_samples import CompletionDataSettings, PixelClasses
from scene_completion_training.runner import make_stage, train_parts
from scene_completion_training.stage import Stage
from scene_completion_training.stages.completion import CompletionConfiguration, CompletionStage
from scene_completion_training.stages.pixels import trained_trunk
from tests.training.stages.test_completion import CAMERA, VOLUME, Settings, configured


@pytest.fixture
def settings(trunk: Path, tmp_path: Path) -> Settings:
    """Makes trainings with recordings that are not there: what prepares data fails."""
    recording, output = tmp_path / "nothing", tmp_path / "run"
    return partial(configured, recording, output, encoder_weights=str(trunk), camera=CAMERA, volume=VOLUME)


def saved(stage: Stage, file: Path) -> str:
    """A checkpoint as after all steps of a stage, with the weights that it has now."""
    configuration = dataclasses.asdict(stage.settings) | stage.remembered()
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"state_dict": stage.state_dict(), "global_step": stage.settings.steps}
    torch.save(content | {KEY: {"configuration": configuration}}, file)
    return str(file)


@pytest.fixture
def pixels(settings: Settings, tmp_path: Path) -> str:
    """Checkpoint of stage `pixels`, whose trunk is unlike the published one."""
    stage = make_stage(settings().parts()["pixels"])
    with torch.no_grad():
        for value in stage.trunk.neck.parameters():
            value.add_(0.1)
    return saved(stage, tmp_path / "pixels.ckpt")


def test_cells_are_completed_from_the_trunk_that_is_exported(
    settings: Settings, pixels: str, trunk: Path, tmp_path: Path
) -> None:
    """The weights of a checkpoint are whole: of its model there need be the description alone, and no other one."""
    described = shutil.copytree(trunk, tmp_path / "described", ignore=shutil.ignore_patterns("*.safetensors"))
    stage = CompletionStage(settings(pixels_from=pixels, encoder_weights=str(described)))
    exported = trained_trunk(Checkpoint.read(Path(pixels))).state_dict()
    assert all(torch.equal(value, exported[name]) for name, value in stage.trunk.state_dict().items())
    config = transformers.DepthAnythingConfig.from_pretrained(trunk, fusion_hidden_size=20)
    transformers.DepthAnythingForDepthEstimation(config).save_pretrained(tmp_path / "other")
    with pytest.raises(BundleError, match=r"(?s)has no trunk of .*other .*encoder_weights of its training"):
        CompletionStage(settings(pixels_from=pixels, encoder_weights=str(tmp_path / "other")))


@pytest.mark.parametrize(
    ("changes", "of_pixels", "words"),
    [
        ({"start_from": "runs/nothing.ckpt"}, {}, "start_from: runs/nothing.ckpt: is not there"),
        ({"widths": (8, 16)}, {}, "no decoder of this kind .*for the same volume and widths"),
        ({"start_from": None}, {}, "no decoder of this kind"),
        ({"camera": dataclasses.replace(CAMERA, field_of_view=70.0)}, {}, r"80\.0°.*the configuration .*70\.0°"),
        ({"volume": dataclasses.replace(VOLUME, voxel_size=0.2)}, {}, r"voxels of 0\.4 m.*the configuration.*0\.2 m"),
        ({"world": "rooms"}, {}, "other classes than rooms"),
        ({}, {"class_branch_channels": 12}, "a head of another size"),
        ({"pixels_from": "runs/nothing.ckpt"}, {}, "nothing.ckpt: is not there. Train the part `pixels` first"),
        ({"pixels_from": str(DEFAULT_BUNDLE)}, {}, "holds no head for pixels as this version trains it"),
        ({"pixels_from": "runs/nothing.ckpt", "prior": 1.5}, {}, r"prior: 1\.5 is no share"),
        ({"data": CompletionDataSettings()}, {}, "names no recording"),
        ({}, {"frozen_blocks": 3}, "its trunk learned behind block 2, this one 3"),
    ],
)
def test_what_cannot_be_started_from_is_refused_before_data_is_prepared(
    changes: dict[str, Any], of_pixels: dict[str, Any], words: str, settings: Settings, pixels: str, tmp_path: Path
) -> None:
    """Of both parts, before the first one is trained. None stands for pixels alone."""
    start = saved(make_stage(settings(pixels_from=pixels)), tmp_path / "start.ckpt")
    given = settings(**{"start_from": start, **changes})
    given.start_from = given.start_from or pixels
    given.pixels = dataclasses.replace(given.pixels, **of_pixels)
    with pytest.raises((BundleError, ConfigurationError), match=f"(?s){words}"):
        train_parts(given)


def test_what_is_trained_does_not_need_what_it_started_from(settings: Settings) -> None:
    given = settings(start_from="runs/nothing.ckpt")
    for part in given.parts().values():
        last = Path(part.output) / "checkpoints" / "last.ckpt"
        saved(make_stage(part), last)
    assert train_parts(given) == last


@pytest.mark.parametrize(
    ("given", "where", "instead"),
    [
        ("pixels.seed=3", "pixels.seed", "seed"),
        ("pixels.data.cache=runs/mine", "pixels.data.cache", "data.cache"),
    ],
)
def test_what_pixels_share_with_cells_is_not_theirs(given: str, where: str, instead: str) -> None:
    """The same value does no harm."""
    configuration = read_configuration(CONFIGS / "street.yaml", [given], CompletionConfiguration)
    with pytest.raises(ConfigurationError, match=f"^{where}: would be ignored.* Set {instead} instead"):
        configuration.parts()
    both = read_configuration(CONFIGS / "street.yaml", ["seed=3", "pixels.seed=3"], CompletionConfiguration)
    assert both.parts()["pixels"].seed == 3


def test_each_part_ends_by_the_clock() -> None:
    file = CONFIGS / "street.yaml"
    both = read_configuration(file, ["max_minutes=10"], CompletionConfiguration).parts()
    assert [part.max_minutes for part in both.values()] == [10.0, 10.0]
    own = read_configuration(file, ["max_minutes=10", "pixels.max_minutes=4"], CompletionConfiguration).parts()
    assert [part.max_minutes for part in own.values()] == [4.0, 10.0]


def test_classes_of_pixels_come_from_what_there_is(settings: Settings) -> None:
    viewpoint = settings().viewpoint()
    with pytest.raises(ConfigurationError, match=r"^data.segmentation: \.\./espnet: there is neither .*kitti"):
        PixelClasses.of("../espnet", viewpoint)
    with pytest.raises(ConfigurationError, match="names no classes of pixels"):
        PixelClasses.of("kitti_student", viewpoint)
