"""Stage `completion` on rooms: trained without eyes that know metres, exported with rounded weights, and scored."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from scene_completion_ros.cli import main
from scene_completion_ros.errors import BundleError
from scene_completion_ros.evaluation.semantic_classes import ROOM_CLASSES
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.sequences.opening import open_recording, voxel_truth
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.data.completion_samples import CompletionDataSettings, CompletionSource
from scene_completion_training.evaluation.density_model import DeployedModel
from scene_completion_training.runner import train
from scene_completion_training.stages.completion import CompletionConfiguration, read_eyes
from scene_completion_training.viewpoint import CameraSettings, VolumeSettings
from tests.training.foundation.tiny_models import saved_depth_model


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two views of the rooms of a training seed, in a hand, rendered by the command."""
    folder = tmp_path_factory.mktemp("rooms") / "9"
    command = "room-world --seed 9 --frames 2 --leg 1 --carrier hand --size 128 96 --supersampling 1 --assets"
    assert main([*command.split(), "depth", "label", "voxels", "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def trained(rooms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a few steps."""
    folder = tmp_path_factory.mktemp("trained")
    sources = [CompletionSource(str(rooms))]
    return train(
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
        )
    )


@pytest.fixture(scope="module")
def bundles(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What the command exports of it: as usual, and with weights of eight bits."""
    folder = tmp_path_factory.mktemp("bundles")
    for name, more in (("plain", []), ("rounded", ["--int8-weights"])):
        assert main(["export", str(trained), str(folder / name), "--name", name, "--licence", "none", *more]) == 0
    return folder / "plain", folder / "rounded"


def test_a_student_of_rooms_has_their_classes_and_keeps_no_published_trunk(
    trained: Path, bundles: tuple[Path, Path]
) -> None:
    bundle = StudentBundle.load(bundles[0])
    assert bundle.class_names == ROOM_CLASSES[1:] and len(set(bundle.class_colours)) == len(ROOM_CLASSES) - 1
    assert bundle.takes_pose and bundle.height_range is not None and bundle.height_range[0] > 1.0
    stored = Checkpoint.read(trained)
    assert stored.state["pixels.factor.2.weight"].shape[0] == 2  # a factor and a shift for each image
    weights = safetensors.numpy.load_file(bundles[0] / "weights.safetensors")
    assert weights and not any(name.startswith("encoder.") for name in weights)


def test_a_trunk_that_differs_in_one_weight_takes_that_along(trained: Path, tmp_path: Path) -> None:
    stored = Checkpoint.read(trained)
    published = str(stored.configuration["encoder_weights"])
    encoder, _, before = read_eyes("", published, stored.viewpoint)
    name = "trunk.neck.reassemble_stage.layers.3.resize.weight"
    other = encoder.state_dict()[name].numpy() + 0.5
    safetensors.numpy.save_file({name: other}, tmp_path / "eyes.safetensors")
    changed, _, eyes = read_eyes(str(tmp_path / "eyes.safetensors"), published, stored.viewpoint)
    assert eyes.own == {name} and not eyes.metric and eyes.key != before.key
    np.testing.assert_array_equal(changed.state_dict()[name].numpy(), other)
    kept = next(key for key in encoder.state_dict() if key != name and key.endswith("weight"))
    np.testing.assert_array_equal(changed.state_dict()[kept].numpy(), encoder.state_dict()[kept].numpy())
    safetensors.numpy.save_file({"trunk.nothing": other}, tmp_path / "unknown.safetensors")
    with pytest.raises(BundleError, match="nothing"):
        read_eyes(str(tmp_path / "unknown.safetensors"), published, stored.viewpoint)


def test_rounded_weights_say_nearly_the_same(rooms: Path, bundles: tuple[Path, Path]) -> None:
    sequence = open_recording(rooms)
    truth = voxel_truth(sequence, 1)
    assert truth is not None
    points = truth.centres(truth.counted)
    plain, rounded = (
        DeployedModel(StudentBundle.load(folder)).observe(sequence, 1).density(points) for folder in bundles
    )
    assert np.corrcoef(plain, rounded)[0, 1] > 0.98
    sizes = [(folder / "encoder.onnx").stat().st_size for folder in bundles]
    assert sizes[1] < sizes[0]


def test_rooms_are_scored_in_parts_of_their_own_reach(rooms: Path, bundles: tuple[Path, Path], tmp_path: Path) -> None:
    given = ["--bundle", str(bundles[0]), "--data", str(rooms), "--every", "1"]
    assert main(["evaluate", "geometry", *given, "--controls", "--output", str(tmp_path / "geometry")]) == 0
    found = json.loads((tmp_path / "geometry" / "results.json").read_text())
    text = json.dumps(found)
    assert all(f'"range_m": {reach}' in text for reach in (1.6, 3.2, 6.4)) and "surface (depth of plain)" in text
