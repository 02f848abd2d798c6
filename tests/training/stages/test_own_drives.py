"""Training that goes on from a student with drives of one's own, on tiny students and tiny synthetic drives."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scene_completion_ros.cli import main
from scene_completion_ros.errors import SequenceError
from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES, INVALID, ROOM_CLASSES
from scene_completion_ros.geometry import DEFAULT_GRID_FROM_CAMERA, Camera, RigidTransform
from scene_completion_ros.inference.bundle import StudentBundle, open_student
from scene_completion_ros.inference.encoder import CellGraphs, cpu_engine, cpu_networks
from scene_completion_ros.sequences.opening import open_recording
from scene_completion_ros.sequences.posed_sequence import Frame, PosedSequence
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.data.completion_samples import FrozenEncoder, PixelClasses, prepare_samples
from scene_completion_training.data.store import mapped_arrays
from scene_completion_training.data.voxel_evidence import OF_NO_CLASS
from scene_completion_training.own_drives import configuration_from, in_words
from scene_completion_training.runner import make_stage, train_parts
from scene_completion_training.stages.pixels import PixelStage
from scene_completion_training.viewpoint import CameraSettings, Viewpoint, VolumeSettings
from scene_completion_worlds.street.drive_bag import write_drive_bag
from tests.training.stages.test_completion import CAMERA, VOLUME, configured
from tests.training.synthetic_scene import BASELINE, CENTRE, FOCAL, HEIGHT, WIDTH, ray_cast

FEW = ["steps=3", "warmup=1", "ema_decay=0", "cells=200", "precision=32-true", "log_every=1", "data.workers=0"]
FEW += ["pixels.steps=3", "pixels.warmup=1", "pixels.ema_decay=0", "pixels.data.batch_size=2", "pixels.data.workers=0"]


@pytest.fixture(scope="module")
def student(trunk: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundle of a student that saw two frames of a town, by the commands."""
    folder = tmp_path_factory.mktemp("student")
    command = "world street --seed 5 --frames 2 --rate 2 --size 256 96 --supersampling 1"
    assert main([*command.split(), "--output", str(folder / "town")]) == 0
    settings = configured(folder / "town", folder / "run", encoder_weights=str(trunk), camera=CAMERA, volume=VOLUME)
    checkpoint = train_parts(settings)
    assert main(["export", str(checkpoint), str(folder / "tiny"), "--licence", "none"]) == 0
    return folder / "tiny"


def drive_of(tmp: Path, cameras: tuple[str, ...], step: float = 0.8) -> Path:
    """A folder of ten frames, so many metres ahead each, of a camera or of a pair."""
    seen = Camera(FOCAL, FOCAL, *CENTRE, WIDTH, HEIGHT)
    offsets = {"left": 0.0, "right": BASELINE}
    places = {name: RigidTransform(np.eye(3), np.array([offsets[name], 0.0, 0.0])) for name in cameras}
    frames = []
    for number in range(10):
        z = step * number
        images: dict[str, Any] = {
            name: (lambda x=offsets[name], z=z: ray_cast(np.array([x, 0.0, z]))[0]) for name in cameras
        }
        frames.append(Frame(number * 10**8, images, RigidTransform(np.eye(3), np.array([0.0, 0.0, z]))))
    PosedSequence(tmp.name, dict.fromkeys(cameras, seen), places, frames, "odometry").save(tmp)
    return tmp


def extracted_of(tmp: Path) -> Path:
    """The same drive of a single camera, of a bag with tf, by the command."""
    write_drive_bag(open_recording(drive_of(tmp / "single", ("left",))), tmp / "mine")
    assert main(["extract", str(tmp / "mine"), "--output", str(tmp / "sequences")]) == 0
    (folder,) = (tmp / "sequences" / "mine").glob("*/")
    return folder


@pytest.fixture(scope="module", params=["single", "pair"])
def drive(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drive of a single camera with poses, extracted, and one of a pair."""
    folder = tmp_path_factory.mktemp("drives")
    return extracted_of(folder) if request.param == "single" else drive_of(folder / "pair", ("left", "right"))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drive_of(tmp_path_factory.mktemp("drives") / "pair", ("left", "right"))


def command(student: Path, drives: list[Path], output: Path, trunk: Path) -> list[str]:
    places = ["--from", str(student), "--data", *map(str, drives), "--output", str(output)]
    return ["train", *places, *FEW, f"encoder_weights={trunk}"]


def test_three_commands_lead_to_the_same_kind_of_student(
    student: Path, drive: Path, trunk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the last ones write knows what it began with, and says whether it got better; the frames teach something."""
    output = tmp_path / "runs" / "mine"
    assert main(command(student, [drive], output, trunk)) == 0
    shown = capsys.readouterr().out
    assert shown.count("validation") == 2
    assert in_words((2.0, 1.0), "tiny").endswith(": better") and "no better than tiny: keep that" in in_words(
        (1.0, 1.0), "tiny"
    )
    last = output / "checkpoints" / "last.ckpt"
    record = Checkpoint.read(last).record
    before = record["validation"]
    assert before.keys() == {"pixels", "student"}
    for losses in before.values():
        assert all(np.isfinite(losses)) and in_words(tuple(losses), "tiny") in shown
    assert main(["export", str(last), str(tmp_path / "bundle"), "--licence", "none"]) == 0
    made, start = StudentBundle.load(tmp_path / "bundle"), open_student(student)
    assert made.class_names == start.class_names and made.volume == start.volume and made.height_range is not None
    assert made.focal_range[0] <= start.focal_range[0] and made.focal_range[1] >= start.focal_range[1]
    assert any(not np.array_equal(value, made.load_weights()[name]) for name, value in start.load_weights().items())
    written = last.stat().st_mtime_ns
    assert main(command(student, [drive], output, trunk)) == 0  # again: nothing is left to do
    assert last.stat().st_mtime_ns == written and capsys.readouterr().out.count("validation") == 2


def test_without_a_model_hub_the_folder_of_the_trunk_is_asked_for(
    student: Path, pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bundle holds of the trunk what was trained; the rest is as published."""

    def offline(name: str, **_: object) -> str:
        raise OSError(f"no route to {name}")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    assert main(["train", "--from", str(student), "--data", str(pair), "--output", str(tmp_path / "out"), *FEW]) == 2
    said = capsys.readouterr().err
    assert "Depth-Anything-V2-Small-hf: neither a folder here, nor to be had from the hub (no route to" in said
    assert "in a training with encoder_weights=FOLDER; or check name, network and access" in said


def test_it_keeps_frames_or_drives_for_the_validation(student: Path, pair: Path, tmp_path: Path) -> None:
    """The last fifth of one drive, every fifth of five; and what it takes from the student."""
    one = configuration_from(student, [pair], tmp_path / "out")
    assert [(source.first, source.last) for source in (*one.data.sources, *one.data.validation)] == [(0, 0.8), (0.8, 1)]
    assert one.data.segmentation == one.data.teachers[0] == one.start_from == str(student)
    assert one.data.cache == str(tmp_path / "out") + "_samples" and one.widths == (8, 12)
    assert one.pixels.frozen_blocks == 2 and one.camera.width == 128 and one.data.sources[0].every == 1
    assert {part.start_from for part in one.parts().values()} == {str(student)}  # type: ignore[attr-defined]
    for number in range(5):
        shutil.copytree(pair, tmp_path / "sequences" / "bag" / str(number))
    five = configuration_from(student, [tmp_path / "sequences"], tmp_path / "out", ["seed=3"])
    assert [Path(source.folder).name for source in five.data.sources] == ["0", "1", "2", "3"] and five.seed == 3
    assert [Path(source.folder).name for source in five.data.validation] == ["4"]


def test_head_and_trunk_go_on_where_they_were(student: Path, pair: Path, trunk: Path, tmp_path: Path) -> None:
    configuration = configuration_from(student, [pair], tmp_path, [f"encoder_weights={trunk}", "precision=32-true"])
    stage = make_stage(configuration.parts()["pixels"])
    assert isinstance(stage, PixelStage)
    stage.start(None)
    kept = StudentBundle.load(student).load_weights()
    for name, value in stage.field.state_dict().items():
        np.testing.assert_array_equal(value.numpy().astype(np.float16), kept[f"field.pixels.{name}"])
    learned = {name.removeprefix("trunk."): value for name, value in kept.items() if name.startswith("trunk.")}
    assert learned
    for name, value in learned.items():
        np.testing.assert_array_equal(stage.trunk.state_dict()[name].numpy().astype(np.float16), value)


def test_classes_are_what_the_student_is_sure_of(student: Path, pair: Path) -> None:
    """Those of its pixels, twice as large; 255 where none is as likely as all others together."""
    bundle = StudentBundle.load(student)
    sequence, viewpoint = open_recording(pair), Viewpoint.of_bundle(bundle)
    image = sequence.image(0, "left")[:64, :128]
    classes = PixelClasses.of(str(student), viewpoint)
    found = classes(np.ascontiguousarray(image))
    networks = cpu_networks(bundle, cpu_engine())
    assert isinstance(networks, CellGraphs) and bundle.volume is not None
    share = networks.see(np.ascontiguousarray(image)).classes
    expected = np.where(share.max(axis=2) >= 0.5, share.argmax(axis=2) + 1, INVALID)
    assert found.shape == (64, 128) and classes.names == COMMON_CLASSES
    np.testing.assert_array_equal(found[::2, ::2], expected)
    np.testing.assert_array_equal(found[1::2, 1::2], expected)


@pytest.mark.parametrize("names", [COMMON_CLASSES, ROOM_CLASSES])
def test_one_camera_knows_the_voxels_that_a_pair_knows(names: tuple[str, ...], pair: Path, tmp_path: Path) -> None:
    """By its motion: the ground at its height, and the front of the box; in the classes of streets and of rooms."""
    ground = names.index("road" if names is COMMON_CLASSES else "floor")
    viewpoint = Viewpoint.of_settings(CameraSettings(width=320, height=96, field_of_view=80.0), VolumeSettings())

    def segment(image: np.ndarray) -> np.ndarray:
        return np.where(np.arange(len(image))[:, None] > 60, ground, INVALID).repeat(image.shape[1], 1).astype(np.uint8)

    def see(image: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"fused": image[:, :, ::2, ::2]}

    both, one = open_recording(pair), open_recording(drive_of(tmp_path / "one", ("left",)))
    encoder, classes, found = FrozenEncoder(see, "none"), PixelClasses(segment, "rows", names), []
    for sequence in (both, one):
        ((seen, truth),) = prepare_samples(sequence, [3], tmp_path, encoder, viewpoint, classes_of=classes)
        found.append(mapped_arrays(truth) | mapped_arrays(seen))
    for arrays in found:
        known = np.isfinite(arrays["ground"])
        assert known.mean() > 0.02
        assert float(np.median(arrays["ground"][known])) == pytest.approx(-1.65, abs=0.1)
        assert (arrays["label"] == ground).sum() > 500 and (arrays["label"] == OF_NO_CLASS).sum() > 500
        assert (arrays["label"] == 0).sum() > 10_000
    both_known = (found[0]["depth"] > 0) & (found[1]["depth"] > 0)
    ratio = found[1]["depth"][both_known].astype(float) / found[0]["depth"][both_known]
    assert both_known.mean() > 0.2 and abs(float(np.median(ratio)) - 1.0) < 0.03
    unrelated = dataclasses.replace(one, pose_source="none")
    with pytest.raises(SequenceError, match="no rectified stereo pair"):
        prepare_samples(unrelated, [3], tmp_path, encoder, viewpoint, classes_of=classes)


def test_samples_follow_from_the_height_of_the_ground(pair: Path, tmp_path: Path) -> None:
    """Which `extract --ground-height` corrects, of the same images."""
    sequence, up = open_recording(pair), DEFAULT_GRID_FROM_CAMERA
    frames = [dataclasses.replace(frame, world_from_rig=up @ frame.world_from_rig) for frame in sequence.frames]
    viewpoint = Viewpoint.of_settings(CameraSettings(width=320, height=96, field_of_view=80.0), VolumeSettings())
    classes, heights = PixelClasses(lambda image: np.full(image.shape[:2], INVALID, np.uint8), "none"), []
    for floor in (-1.65, -1.25):
        known = dataclasses.replace(sequence, frames=frames, provenance={"floor": floor})
        ((truth,),) = prepare_samples(known, [3], tmp_path, None, viewpoint, classes_of=classes)
        heights.append(float(mapped_arrays(truth)["volume_from_camera"][2, 3]))
    assert heights[0] - heights[1] == pytest.approx(0.4)


def test_what_cannot_go_on_is_refused(
    student: Path, pair: Path, trunk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is prepared, where the command knows."""

    def refused(*arguments: str) -> str:
        assert main(["train", *arguments]) == 2
        return capsys.readouterr().err

    output = ["--output", str(tmp_path / "out")]
    assert "belong together" in refused("--from", str(student), *output)
    still = str(drive_of(tmp_path / "still", ("left",), step=0.0))
    assert "one camera that moves 0.00 m" in refused("--from", str(student), "--data", still, *output)
    for name in ("kitti_student", "room"):  # which an earlier version exported
        said = refused("--from", name, "--data", str(pair), *output)
        assert re.search(rf"{name}.*: holds no head for pixels as this version trains it .*street\.yaml", said)
    assert not (tmp_path / "out").exists()
