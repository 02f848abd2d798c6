"""What a YAML file may say, and what a network is trained for by it: camera, height and volume."""

import dataclasses
import itertools
import math
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_ros.geometry import DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA, Camera
from scene_completion_ros.inference.head import PointCodeSpec
from scene_completion_training import CONFIGS
from scene_completion_training.checkpoints import KEY, Checkpoint
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


@pytest.mark.parametrize("stage", ["single_view", "street", "rooms_masked_scene"])
@pytest.mark.parametrize(
    ("given", "least"),
    [("steps=-1", 0), (f"steps={10**22}", 0), ("seed=-1", 0), (f"seed={2**31}", 0), ("checkpoint_every=0", 1)]
    + [("log_every=0", 1), ("data.batch_size=0", 1), ("data.workers=-1", 0)],
)
def test_numbers_that_count_are_refused_before_a_training_fails_on_them(stage: str, given: str, least: int) -> None:
    file, (name, value) = CONFIGS / f"{stage}.yaml", given.split("=")
    read_configuration(file, [], TrainingConfiguration).check()
    with pytest.raises(ConfigurationError) as refused:
        read_configuration(file, [given], TrainingConfiguration).check()
    assert str(refused.value) == f"{name}: {value}. Take a whole number from {least} to 2147483647"


# ---- files of an adversary

LAUGHS = "\n".join(
    f"{name}: &{name} [{', '.join(10 * [f'*{before}'])}]" for before, name in itertools.pairwise("abcdefghi")
)
BOMB = f"a: &a [1, 1]\n{LAUGHS}\n"  # 10^8 values in some hundred bytes
INLINE = f"{{{', '.join(BOMB.splitlines())}}}"


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that importing the module `evil_module`, or running a part of it, would write."""
    marker = tmp_path / "executed"
    (tmp_path / "evil_module.py").write_text(f"open({str(marker)!r}, 'w')\nclass Thing: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return marker


SPEC = "{class_path: evil_module.Thing, init_args: {}}"


@pytest.mark.parametrize(
    ("content", "overrides", "words"),
    [
        (SPEC, [], "unknown key 'class_path', 'init_args'"),
        ("class_path: evil_module.Thing", [], "unknown key 'class_path'"),
        (f"data: {SPEC}", [], "field data: unknown key 'class_path'"),
        (f"camera: {SPEC}", [], "field camera: unknown key 'class_path'"),
        (f"data: {{sources: [{SPEC}]}}", [], "field data.sources.0: unknown key 'class_path'"),
        ("data: {sources: [evil_module.Thing]}", [], "field data.sources.0: 'evil_module.Thing' is not an object"),
        ("data: evil_module.Thing", [], "evil_module.Thing: cannot be read: No such file"),
        ("camera: evil_module.Thing", [], "evil_module.Thing: cannot be read: No such file"),
        ("encoder: evil_module.Thing", [], "field encoder: 'evil_module.Thing' is none of 'efficientnet_lite0'"),
        (f"start_from: {SPEC}", [], "field start_from: .* is not a string"),
        ("stage: evil_module.Thing", [], "stage 'evil_module.Thing' does not exist"),
        ("output: !!python/object/apply:evil_module.Thing []", [], "is not valid YAML .*could not determine"),
        ("data: !include evil_module.py", [], "is not valid YAML .*could not determine"),
        ("config: evil_module.py", [], "unknown key 'config'"),
        ("steps: ${oc.env:HOME}", [], "field steps: '\\${oc.env:HOME}' is not a whole number"),
        ("seed: 0", [f"data={SPEC}"], "field data: unknown key 'class_path'"),
        ("seed: 0", ["camera=evil_module.Thing"], "evil_module.Thing: cannot be read: No such file"),
        ("seed: 0", ["data.sources=[evil_module.Thing]"], "field data.sources.0: 'evil_module.Thing' is not an object"),
        ("seed: 0", ["camera.class_path=evil_module.Thing"], "field camera: unknown key 'class_path'"),
        ("seed: 0", ["config=evil_module.py"], "unknown key 'config'"),
        ("seed: 0", ["print_config="], "unknown key 'print_config'"),
    ],
)
def test_no_configuration_names_code(
    tmp_path: Path, evil: Path, content: str, overrides: list[str], words: str
) -> None:
    (tmp_path / "file.yaml").write_text(content)
    with pytest.raises(ConfigurationError, match=words):
        read_configuration(tmp_path / "file.yaml", overrides, Configuration)
    assert not evil.exists() and "evil_module" not in sys.modules


def test_what_a_configuration_names_is_read_within_limits(tmp_path: Path, evil: Path) -> None:
    (tmp_path / "bomb.yaml").write_text(BOMB)
    (tmp_path / "names_it.yaml").write_text("views: bomb.yaml")
    with (tmp_path / "sparse.yaml").open("wb") as sparse:
        sparse.truncate(2 << 30)
    os.mkfifo(tmp_path / "pipe.yaml")
    plain = tmp_path / "file.yaml"
    plain.write_text("seed: 0")
    many, large = "more than 2,000,000 values", "sparse.yaml: is larger than 1 MB"
    for content, words in (
        (BOMB, many),
        (f"losses: {INLINE}", many),
        ("data: bomb.yaml", f"bomb.yaml: holds {many}"),
        ("data: names_it.yaml", f"bomb.yaml: holds {many}"),
        ("data: {views: bomb.yaml}", f"bomb.yaml: holds {many}"),
        ("camera: sparse.yaml", large),
        ("camera: pipe.yaml", "pipe.yaml: cannot be read: it is a pipe or a device"),
        ("camera: /dev/zero", "/dev/zero: cannot be read: it is a pipe or a device"),
        ("camera: .", "cannot be read: Is a directory"),
        ("data: file.yaml", "field data: unknown key 'data'"),  # itself
    ):
        (tmp_path / "other.yaml").write_text(content)
        key, _, name = content.partition(": ")
        routes = [(tmp_path / "other.yaml", [])]
        routes += [(plain, [f"{key}={name}"])] if content != BOMB and name[0] != "{" else []
        if content == "data: file.yaml":
            plain.write_text(content)
        for file, overrides in routes:
            with pytest.raises(ConfigurationError, match=words):
                read_configuration(file, overrides, Configuration)
    plain.write_text("seed: 0")
    for given in (f"losses={INLINE}", f"data.sources={INLINE}", f"steps={INLINE}", f"unknown={INLINE}"):
        with pytest.raises(ConfigurationError, match=many):
            read_configuration(plain, [given], Configuration)
    with pytest.raises(BundleError, match="not a checkpoint .*it is a pipe or a device"):
        Checkpoint.read(tmp_path / "pipe.yaml")


@pytest.mark.parametrize("record", [{"camera": SPEC}, {"volume": {"class_path": "evil_module.Thing"}}, ["evil_module"]])
def test_the_record_of_a_checkpoint_names_no_code(tmp_path: Path, evil: Path, record: Any) -> None:
    torch.save({"state_dict": {}, KEY: {"configuration": record}}, tmp_path / "some.ckpt")
    words = "its configuration: field |its configuration is no mapping"
    with pytest.raises((ConfigurationError, BundleError), match=words):
        _ = Checkpoint.read(tmp_path / "some.ckpt").viewpoint
    assert not evil.exists() and "evil_module" not in sys.modules


def test_values_have_the_types_of_their_fields(tmp_path: Path) -> None:
    (tmp_path / "views.yaml").write_text("{aside: 0.25}")
    (tmp_path / "data.yaml").write_text("{cache: there, views: views.yaml, sources: [{folder: a}]}")
    (tmp_path / "file.yaml").write_text(
        "data: data.yaml\noutput: 2026-01-01\nlearning_rate: 1e-4\ncamera: {width: 320}"
    )

    def given(*overrides: str) -> Configuration:
        return read_configuration(tmp_path / "file.yaml", list(overrides), Configuration)

    found = given("output=7", "losses.sparsity=1", "data.cache=here", "camera.height=96", "camera={fx: 100}")
    assert (found.output, found.losses.sparsity, found.learning_rate) == ("7", 1.0, 1e-4)
    assert found.data.cache == "here" and found.data.views.aside == 0.25 and found.data.sources[0].folder == "a"
    assert found.camera == CameraSettings(width=320, height=96, fx=100.0)
    assert given().output == "2026-01-01" and given("camera=null").camera is None
    assert given("start_from=null").start_from is None and given("start_from=3").start_from == "3"
    for override, words in (
        ("steps=1e3", "field steps: 1000.0 is not a whole number"),
        ("pretrained=3", "field pretrained: must be true or false, not 3"),
        ("learning_rate=fast", "field learning_rate: 'fast' is not a finite number"),
        ("camera.pitch_range=[1]", r"field camera.pitch_range: \[1\] is not a list of 2 values"),
        ("losses.sparse=1", "field losses: unknown key 'sparse'. Use photometric"),
        ("data.sources=[{}]", "field data.sources.0.folder: is missing"),
        ("steps", "'steps' is no KEY=VALUE"),
        ("losses=", "field losses: None is not an object"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            given(override)


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
        with pytest.raises(ConfigurationError, match="its configuration: field .* Name a checkpoint|unknown key 'fz'"):
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
