"""Every published experiment trains from the data set as its owner lays it out: the configurations, by command line.

Networks, losses and views are those of the configurations. Images are smaller, batches are one sample, rays few.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from scene_completion_ros.cli import main
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_training import CONFIGS
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.clustering import read_class_file
from scene_completion_training.networks.density_field import DistanceCode
from scene_completion_training.networks.feature_field import FeatureField
from tests import official_layouts as layouts
from tests.training.foundation.tiny_models import saved_model
from tests.training.small_trainings import cut_off

FULL_SIZE = CONFIGS / "full_size"
SMALL = (
    "camera.width=128", "camera.height=64", "camera.fx=50.23", "camera.fy=94.05", "camera.cx=61.5",
    "camera.cy=40.2", "pretrained=false",
    "precision=32-true",  # a CPU computes in half precision a hundred times as slowly
    "data.batch_size=1",
    "data.workers=0", "render.patches=2", "render.samples=8", "steps=2", "checkpoint_every=1", "validate_every=2",
    "data.validation_samples=1", "log_every=1",
)  # fmt: skip
POSED = [number for number in range(26) if number != 6]  # the car stood at 6


@pytest.fixture(scope="module")
def kitti_360(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """KITTI-360 as its owners lay it out, and split files as the authors publish them."""
    root = tmp_path_factory.mktemp("kitti_360")
    layouts.kitti_360(root, frames=26, posed=POSED)
    train = [f"{layouts.DRIVE} {number:010d} {side}" for number in POSED[:12] for side in "lr"]
    layouts.write_split(root / "train_files.txt", train, windows=True)
    layouts.write_split(root / "val_files.txt", [f"{layouts.DRIVE} {number:010d} l" for number in (0, 8)])
    return root


@pytest.fixture(scope="module")
def kitti_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """KITTI raw, with poses of a SLAM next to it."""
    root = tmp_path_factory.mktemp("kitti_raw")
    layouts.kitti_raw(root, frames=8, slam=root / "slam")
    layouts.kitti_raw(root, drive="2011_09_26_drive_0002_sync", frames=3)  # which no split names, and no SLAM knows
    drive = f"2011_09_26/{layouts.RAW_DRIVE}"
    layouts.write_split(root / "train_files.txt", [f"{drive} {number} {side}" for number in range(6) for side in "lr"])
    layouts.write_split(root / "val_files.txt", [f"{drive} 6 l"])
    return root


def command(root: Path, name: str, *more: str, run: str = "", without: tuple[str, ...] = ()) -> list[str]:
    """The training of a configuration in two steps; `without`: how values begin that its stage takes from another."""
    poses = f", poses: {root / 'slam'}" if name.endswith("raw") else ""
    sources = f'[{{folder: "{"*/*_sync" if poses else "data_2d_raw/*"}"{poses}}}]'
    overrides = [
        *SMALL,
        f"data.root={root}",
        f"data.sources={sources}",
        f"data.validation={sources}",
        f"data.frames={root / 'train_files.txt'}",
        f"data.validation_frames={root / 'val_files.txt'}",
        f"output={root / (run or name)}",
    ]
    small = [given for given in overrides if not given.startswith(without)]
    return ["train", "--config", str(FULL_SIZE / f"{name}.yaml"), *small, *more]


def train(root: Path, name: str, *more: str, run: str = "", without: tuple[str, ...] = ()) -> Path:
    """The checkpoint of such a training."""
    assert main(command(root, name, *more, run=run, without=without)) == 0
    return root / (run or name) / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def density(kitti_360: Path) -> Path:
    """Behind the Scenes on KITTI-360: a training that was cut off after one step, and went on."""
    with cut_off(1):
        main(command(kitti_360, "bts_kitti_360"))
    return train(kitti_360, "bts_kitti_360")


def exported(checkpoint: Path) -> StudentBundle:
    """The bundle of a checkpoint."""
    folder = checkpoint.parent / "bundle"
    assert main(["export", str(checkpoint), str(folder), "--licence", "CC-BY-NC-SA-3.0"]) == 0
    return StudentBundle.load(folder)


def scores(root: Path, checkpoint: Path, *options: str) -> dict[str, Any]:
    """What `evaluate geometry` writes of a checkpoint."""
    drives = [str(path) for path in (*root.glob("data_2d_raw/*"), *root.glob("2011*/*_sync"))]
    output = checkpoint.parent / "scores"
    given = ["evaluate", "geometry", "--data", *drives, "--checkpoint", str(checkpoint), "--output", str(output)]
    assert main([*given, "--frames", str(root / "val_files.txt"), *options]) == 0
    found: dict[str, Any] = json.loads((output / "results.json").read_text())
    return found


def test_behind_the_scenes_on_kitti_360(kitti_360: Path, density: Path) -> None:
    stored = Checkpoint.read(density)
    assert stored.record["frames"]["training"] == {"list": "train_files.txt", "listed": 24, "used": 24}
    assert stored.record["frames"]["validation"] == {"list": "val_files.txt", "listed": 2, "used": 2}
    assert torch.load(density, weights_only=True)["global_step"] == 2
    assert exported(density).feature_size == (64, 128)
    found = scores(kitti_360, density, "--scans", "20")
    assert found["frames"] == {"list": "val_files.txt", "listed": 2, "used": 2}
    rows = {row["protocol"]: row for row in found["scores"]["lidar"]}
    # Frame 8 has fewer than 20 posed scans ahead: both counts stand for themselves.
    assert {"original@20, 4 to 20 m", "original@18, 4 to 20 m"} <= rows.keys()
    assert {row["pitch"] for row in rows.values()} == {5.0}


@pytest.mark.parametrize("data", ["kitti_360", "kitti_raw"])
def test_knowledge_distillation(data: str, request: pytest.FixtureRequest) -> None:
    """The teacher of several views, and the student that learns from it."""
    root: Path = request.getfixturevalue(data)
    teacher = train(root, f"mvbts_{data}")
    assert main(command(root, f"kdbts_{data}", f"teacher={teacher}")) == 0
    if data == "kitti_360":
        views = ("mono", "stereo-temporal", "fisheyes")
        rows = scores(root, teacher, "--views", *views)["scores"]["lidar"]
        assert {row["method"] for row in rows} == {f"mvbts_kitti_360, {view}" for view in views}


def test_behind_the_scenes_on_kitti_raw(kitti_raw: Path) -> None:
    assert main(command(kitti_raw, "bts_kitti_raw")) == 0


def with_surfaces(checkpoint: Path) -> Path:
    """A checkpoint of a field whose density everywhere is what training makes of surfaces: 2 per metre and more."""
    stored = torch.load(checkpoint, weights_only=True)
    stored["state_dict"]["field.density.density_layer.bias"].fill_(2.0)
    file = checkpoint.parents[2] / "with_surfaces" / "checkpoints" / "last.ckpt"
    file.parent.mkdir(parents=True)
    torch.save(stored, file)
    return file


def test_scenedino(kitti_360: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Features of a published transformer, or of DINOv2 with its larger tokens; then classes of what looks alike.

    After two steps the density has no surfaces, and the second stage says so.
    """
    kinds = {kind: saved_model(kind, tmp_path / kind) for kind in ("vit", "dinov2")}
    name, chosen = "scenedino_kitti_360", [f"{key}={kinds['dinov2']}" for key in ("encoder_weights", "features.model")]
    assert main(command(kitti_360, name, *chosen, "features.cell=16", "features.rays=16", run="dinov2")) == 0
    field = train(kitti_360, name, *(f"{key}={kinds['vit']}" for key in ("encoder_weights", "features.model")))
    assert Checkpoint.read(field).field_of(FeatureField).shared
    assert exported(field).feature_size == (128, 256)
    name, taken = "scenedino_semantics_kitti_360", ("camera", "pretrained", "render", "data.validation", "validate")
    assert main(command(kitti_360, name, f"features_from={field}", "crop_points=4", run="empty", without=taken)) == 2
    what = "0 crops of 4 occupied points in 2 images, at most 0 in a neighbourhood. Train the density of "
    assert f"{what}{field} for more steps: it has no surfaces\n" in capsys.readouterr().err
    dense = with_surfaces(field)
    semantics = train(kitti_360, name, f"features_from={dense}", "crop_points=4", without=taken)
    assert Checkpoint.read(semantics).configuration["data"]["views"]["aside"] == 0.5
    sscbench(kitti_360, dense, semantics)
    drive, student = str(kitti_360 / "data_2d_raw" / layouts.DRIVE), str(field.parent / "bundle")
    made = ["features", "classes", drive, "--model", str(semantics), "--output", str(tmp_path / "classes")]
    assert main(made) == 2
    assert "`features classes` needs a student" in capsys.readouterr().err
    assert main([*made, "--student", student, "--clusters", "3"]) == 0
    assert len(read_class_file(tmp_path / "classes" / "classes.json", 3).class_names) == 3


def sscbench(root: Path, *checkpoints: Path) -> None:
    """Completed semantics of the checkpoints: clusters are named by a frame, and two others are scored."""
    labels = layouts.sscbench_labels(root / "voxels", numbers=(0, 5, 10))  # frames 0, 5 and 11
    listed = [f"{layouts.DRIVE} {number:010d} l" for number in range(5, 12) if number != 6]
    naming = layouts.write_split(root / "naming.txt", [f"{layouts.DRIVE} 0000000000 l"])
    given = ["evaluate", "semantics", "--sscbench", str(labels), "--data", str(root / "data_2d_raw" / layouts.DRIVE)]
    given += ["--frames", str(layouts.write_split(root / "scored.txt", listed)), "--name-frames", str(naming)]
    assert main([*given, "--checkpoint", *map(str, checkpoints), "--output", str(root / "sscbench")]) == 0
    rows = json.loads((root / "sscbench" / "results.json").read_text())["scores"]["sscbench"]
    assert len(rows) == len(checkpoints) * 2 * 3 and {row["frames"] for row in rows} == {2}
    # All in view is occupied; what falls into clusters that are named sky is not.
    assert all(row["recall"] > 0.5 for row in rows if row["naming"] == "direct")


@pytest.fixture(scope="module")
def realestate10k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of RealEstate10K to train on, and one to test on."""
    root = tmp_path_factory.mktemp("realestate10k")
    for name in ("0123456789abcdef", "fedcba9876543210"):
        layouts.realestate10k(root, name=name, cameras="train", pictures="frames/train")
    video = layouts.realestate10k(root)
    layouts.write_split(root / "val_files.txt", [f"{video.name} 5"])
    return root


OWN = ("data.sources", "data.validation", "data.frames")  # of RealEstate10K the configurations' own folders will do


def test_behind_the_scenes_on_realestate10k(realestate10k: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is scored by its views, and not for robots, whose kernels know no such head."""
    watched = (f"data.validation_frames={realestate10k / 'val_files.txt'}", "data.validation_samples=1")
    checkpoint = train(realestate10k, "bts_re10k", *watched, without=OWN)
    field = Checkpoint.read(checkpoint).density_field()
    assert (field.hidden, len(field.blocks), field.encoder.channels, type(field.spec)) == (32, 1, 32, DistanceCode)
    assert (checkpoint.parent / "best.ckpt").is_file()
    assert main(["export", str(checkpoint), str(checkpoint.parent / "bundle"), "--licence", "none"]) == 2
    assert "residual blocks, or a point code by distance" in capsys.readouterr().err
    given = ["--data", str(realestate10k / "frames/test/249fd0890d439aa9"), "--output", str(realestate10k / "scores")]
    listed = ["--frames", str(realestate10k / "val_files.txt"), "--targets", "-5", "5", "--samples", "8"]
    assert main(["evaluate", "views", *given, *listed, "--checkpoint", str(checkpoint)]) == 0


def test_scenedino_on_realestate10k(realestate10k: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = saved_model("vit", tmp_path / "vit")
    chosen = [f"encoder_weights={model}", f"features.model={model}"]
    field = train(realestate10k, "scenedino_re10k", *chosen, "data.views.video_frames=[2,2]", without=OWN)
    assert Checkpoint.read(field).field_of(FeatureField).shared
    assert main(["export", str(field), str(tmp_path / "bundle"), "--licence", "none"]) == 2
    assert "its training knew no metres" in capsys.readouterr().err


def test_a_split_of_missing_frames(kitti_360: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = [f"{layouts.DRIVE} {number:010d} l" for number in (6, 0, 30, 31, 32, 33, 34, 35)]
    split = layouts.write_split(tmp_path / "missing.txt", missing)
    few = command(kitti_360, "bts_kitti_360", run="none")
    assert main([*few, f"data.frames={split}"]) == 2
    error = capsys.readouterr().err
    assert "7 of its 8 frames are not in the recordings" in error
    assert f"{layouts.DRIVE} 6 l, {layouts.DRIVE} 30 l" in error and "34" not in error and "and 2 more" in error
    other = layouts.write_split(tmp_path / "other.txt", ["2011_09_26/2011_09_26_drive_0001_sync 0 l"])
    assert main([*few, f"data.frames={other}"]) == 2
    assert "it lists 2011_09_26_drive_0001_sync" in capsys.readouterr().err
    shutil.copytree(kitti_360, tmp_path / "left_alone", ignore=shutil.ignore_patterns("image_01", "*.ckpt"))
    assert main([*few, f"data.root={tmp_path / 'left_alone'}"]) == 2
    assert f"12 of its 24 frames are not in the recordings, such as {layouts.DRIVE} 0 r" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "left_alone" / "data_2d_raw" / layouts.DRIVE / "image_02")
    assert main([*few, f"data.root={tmp_path / 'left_alone'}"]) == 2
    assert "fewer than two cameras look aside" in capsys.readouterr().err
    assert main([*few, f"data.frames={split}", "data.allow_missing=true"]) == 0
    assert "missing.txt: 1 of 8 listed frames" in capsys.readouterr().out


def test_a_drive_lacks_a_camera_that_another_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, name in enumerate(("train", "val"), 1):
        named = f"2011_09_26_drive_000{number}_sync"
        drive = layouts.kitti_raw(tmp_path, drive=named, frames=3, slam=tmp_path / "slam")
        layouts.write_split(tmp_path / f"{name}_files.txt", [f"2011_09_26/{drive.name} 1 l"])
    shutil.rmtree(drive / "image_03")
    assert main(command(tmp_path, "bts_kitti_raw")) == 2
    error = capsys.readouterr().err
    assert "drive_0002_sync: images of left, but " in error and "drive_0001_sync has left, right" in error
