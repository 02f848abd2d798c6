"""What a YAML file may say, and what a network is trained for by it: camera, height and volume."""

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.geometry import DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA, Camera
from scene_completion_ros.inference.head import PointCodeSpec
from scene_completion_training import CONFIGS
from scene_completion_training.configuration import Configuration, TrainingConfiguration, read_configuration
from scene_completion_training.viewpoint import STREET_CAMERA, CameraSettings, Viewpoint, Volume, VolumeSettings
from tests.training.small_trainings import small_training, write_configuration

STAGE_FILES = [
    file for file in sorted(CONFIGS.rglob("*.yaml")) if file.parent.name not in ("data", "vocabularies", "ablations")
]
ABLATIONS = {file.stem: yaml.safe_load(file.read_text()) for file in sorted((CONFIGS / "ablations").glob("*.yaml"))}


@pytest.mark.parametrize("file", STAGE_FILES, ids=lambda file: str(file.relative_to(CONFIGS)))
def test_every_shipped_configuration_is_valid(file: Path) -> None:
    configuration = read_configuration(file, [], TrainingConfiguration)
    for part in configuration.parts().values():
        part.check()
    assert file.parent == CONFIGS or configuration.output == f"runs/{file.stem}"


@pytest.mark.parametrize(("stage", "name"), [(stage, name) for stage in ABLATIONS for name in ABLATIONS[stage]])
def test_every_ablation_changes_a_shipped_configuration_of_its_stage(stage: str, name: str) -> None:
    files = [file for file in STAGE_FILES if f"\nstage: {stage}\n" in f"\n{file.read_text()}"]
    different = []
    for file in files:
        plain = read_configuration(file, [], TrainingConfiguration)
        try:
            changed = read_configuration(file, [f"ablation.{name}"], TrainingConfiguration)
        except ConfigurationError as error:
            if "changes nothing" not in str(error):
                raise
            continue
        changed.check()
        assert changed.output == f"{plain.output}_{name}"
        different.append(dataclasses.replace(changed, output=plain.output) != plain)
    assert different and all(different)


def test_an_ablation_that_does_not_exist_or_contradicts_is_refused() -> None:
    file, name = CONFIGS / "full_size" / "rooms_masked_scene.yaml", "ablation.convolution_only"
    published, same = CONFIGS / "full_size" / "kdbts_kitti_360.yaml", "ablation.clipped_densities"
    nothing = r"clipped_densities changes nothing: its values are those of .*k"
    for configuration, given, message in (
        (file, ["ablation.nothing"], r"ablation\.nothing does not exist. Stage masked_scene has convolution"),
        (CONFIGS / "single_view.yaml", [name], "Stage single_view has none"),
        (file, ["network.attending=1", name], r"only sets network\.attending, which network\.attending=1 sets, too"),
        (file, [name, "ablation.attention_only"], r"attention_only sets network\.attending, which ablation\.convol"),
        (published, [same], nothing),
        (published, [same, "ablation.small_weight"], nothing),
    ):
        with pytest.raises(ConfigurationError, match=message):
            read_configuration(configuration, given, TrainingConfiguration)
    assert read_configuration(file, [name, "output=runs/a"], TrainingConfiguration).output == "runs/a"


def test_unknown_configuration_keys_are_refused(tmp_path: Path, synthetic_drive: Path) -> None:
    settings = small_training(synthetic_drive, tmp_path)
    configuration = write_configuration(tmp_path / "config.yaml", Configuration(**settings))
    read = read_configuration(configuration, ["steps=7", "losses.occupancy=0"], Configuration)
    assert read.steps == 7 and read.losses.occupancy == 0 and read.data.sources[0].folder == synthetic_drive.name
    assert read_configuration(configuration, [], Configuration) == Configuration(**settings)
    with pytest.raises(Exception, match="learningrate"):
        read_configuration(configuration, ["learningrate=1"], Configuration)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_configuration(tmp_path / "none.yaml", [], Configuration)


def test_a_stage_without_a_density_is_refused_where_one_is_needed() -> None:
    file = CONFIGS / "rooms_masked_scene.yaml"
    assert read_configuration(file, [], TrainingConfiguration).stage == "masked_scene"
    with pytest.raises(ConfigurationError, match=r"scene\.yaml: stage masked_scene trains no density field"):
        read_configuration(file, [], Configuration)


def of(camera: dict[str, Any] | None = None, volume: dict[str, Any] | None = None) -> Viewpoint:
    return Viewpoint.of_settings(CameraSettings(**(camera or {})), VolumeSettings(**(volume or {})))


def test_a_camera_far_above_the_ground_needs_a_volume_of_its_own() -> None:
    with pytest.raises(ConfigurationError, match="the ground lies at 9 m. Take a volume that holds the ground"):
        of({"height_above_ground": 9.0})
    volume = of({"height_above_ground": 9.0}, {"below": 10.0, "above": 2.0}).volume
    assert (volume.below, volume.above, volume.ahead) == (10.0, 2.0, 51.2)


@pytest.mark.parametrize(
    ("height", "voxel", "below", "above"),
    [(1.65, 0.2, 2.2, 4.2), (3.2, 0.2, 3.8, 2.6), (0.4, 0.05, 0.55, 1.05)],
)
def test_a_volume_made_for_the_camera_holds_the_ground(height: float, voxel: float, below: float, above: float) -> None:
    volume = Volume.to_measure(height)
    assert (volume.voxel_size, volume.below, volume.above) == (voxel, below, above)
    assert volume.grid.shape == DEFAULT_GRID.shape
    assert volume.ahead == pytest.approx(256 * voxel) and volume.far == pytest.approx(400 * voxel)
    assert height < volume.below


def test_a_camera_follows_from_what_is_given() -> None:
    wide = of({"width": 512, "height": 256, "field_of_view": 100.0, "height_above_ground": 0.4})
    assert math.degrees(2.0 * math.atan(256 / wide.camera.fx)) == pytest.approx(100.0)
    assert wide.camera.fy == wide.camera.fx and wide.volume == Volume.to_measure(0.4)
    smaller = of({"width": 320, "height": 96})
    assert smaller.camera == Camera(185.0, 185.0, 159.5, 45.75, 320, 96)


def test_what_is_recorded_is_read_back() -> None:
    chosen = of({"width": 128, "height": 64, "fx": 50.0, "height_above_ground": 0.5}, {"ahead": 9.6, "near": 0.4})
    camera, volume = chosen.settings
    assert Viewpoint.of_record({"camera": vars(camera), "volume": vars(volume)}) == chosen
    assert chosen.volume == dataclasses.replace(Volume.to_measure(0.5), ahead=9.6, near=0.4)
    for broken in ({"camera": {"fz": 1.0}}, {"volume": 3}):
        with pytest.raises(ConfigurationError, match="not a camera and a volume"):
            Viewpoint.of_record(broken)


def test_a_student_of_halved_images_is_trained_on_with_whole_ones() -> None:
    bundle = SimpleNamespace(
        canonical=STREET_CAMERA.resized(320, 96),
        grid=DEFAULT_GRID,
        grid_from_camera=DEFAULT_GRID_FROM_CAMERA,
        point_code=PointCodeSpec(),
        height_above_ground=1.65,
        pitch_range=(-0.05, 0.05),
        provenance={"configuration": {"half_resolution_steps": 10, "steps": 10}},
    )
    assert Viewpoint.of_bundle(bundle) == Viewpoint()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("camera", "volume", "message"),
    [
        ({"width": 630}, {}, "630x192 pixels. Take multiples of 32"),
        ({"field_of_view": 180.0}, {}, "camera.field_of_view: 180.0°, but the canonical camera is a pinhole"),
        ({"field_of_view": 90.0, "fx": 100.0}, {}, "both fx = 100.0 and a field of view"),
        ({"height_above_ground": -0.4}, {}, "-0.4 m: the camera would be below the ground"),
        ({"height_above_ground": math.nan}, {}, "nan m: the camera would be below the ground"),
        ({"pitch_range": (0.2, 0.1)}, {}, r"\[0.2, 0.1\] is no range of pitches"),
        ({}, {"near": 90.0}, "near = 90.0 m is not nearer than far = 80.0 m"),
        ({}, {"ahead": 0.0}, "volume.ahead: 0.0 is no positive length"),
        ({}, {"ahead": 51.3}, "ahead = 51.3 m is no whole number of 0.2 m voxels. Take a multiple, such as 51.2 m"),
        ({}, {"ahead": 80.0}, "its corners are 84.0 m away"),
        ({}, {"below": 1.6, "above": 4.8}, "the volume ends 1.6 m below the camera, the ground lies at 1.65 m"),
    ],
)
def test_what_cannot_be_is_refused(camera: dict[str, Any], volume: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        of(camera, volume)


def test_a_canonical_camera_has_no_lens() -> None:
    with pytest.raises(ConfigurationError, match="Take a pinhole"):
        Viewpoint(dataclasses.replace(STREET_CAMERA, distortion_model="plumb_bob", distortion=(0.1, 0.0, 0.0, 0.0)))
