"""What a YAML file may say."""

from pathlib import Path

import pytest

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training import CONFIGS
from scene_completion_training.configuration import Configuration, TrainingConfiguration, read_configuration
from scene_completion_training.stages.single_view import SingleViewConfiguration
from scene_completion_training.viewpoint import CameraSettings
from tests.training.small_trainings import small_training, write_configuration

STAGE_FILES = [file for file in sorted(CONFIGS.rglob("*.yaml")) if file.parent.name not in ("data", "vocabularies")]


@pytest.mark.parametrize("file", STAGE_FILES, ids=lambda file: str(file.relative_to(CONFIGS)))
def test_every_shipped_configuration_is_valid(file: Path) -> None:
    configuration = read_configuration(file, [], TrainingConfiguration)
    configuration.check()
    assert file.parent == CONFIGS or configuration.output == f"runs/{file.stem}"


def test_unknown_configuration_keys_are_refused(tmp_path: Path, synthetic_drive: Path) -> None:
    settings = small_training(synthetic_drive, tmp_path)
    configuration = write_configuration(tmp_path / "config.yaml", SingleViewConfiguration(**settings))
    read = read_configuration(configuration, ["steps=7", "losses.occupancy=0"], Configuration)
    assert read.steps == 7 and read.losses.occupancy == 0 and read.data.sources[0].folder == synthetic_drive.name
    assert read_configuration(configuration, [], Configuration) == SingleViewConfiguration(**settings)
    with pytest.raises(Exception, match="learningrate"):
        read_configuration(configuration, ["learningrate=1"], Configuration)


def test_the_camera_may_be_left_to_the_recordings(tmp_path: Path) -> None:
    file = tmp_path / "auto.yaml"
    file.write_text("camera: auto")
    assert read_configuration(file, [], Configuration).camera == "auto"
    given = read_configuration(file, ['camera={"width": 320, "field_of_view": "auto"}'], Configuration).camera
    assert given == CameraSettings(width=320, field_of_view="auto")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_configuration(tmp_path / "none.yaml", [], Configuration)


def test_a_stage_without_a_density_is_refused_where_one_is_needed() -> None:
    file = CONFIGS / "rooms_masked_scene.yaml"
    assert read_configuration(file, [], TrainingConfiguration).stage == "masked_scene"
    with pytest.raises(ConfigurationError, match=r"scene\.yaml: stage masked_scene trains no density field"):
        read_configuration(file, [], Configuration)
