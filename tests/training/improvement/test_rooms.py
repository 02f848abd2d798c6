"""A student of rooms, with a decoder in space, learns from one walk with a camera in a hand."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.cli import main
from scene_completion_ros.errors import ImprovementError
from scene_completion_ros.evaluation.semantic_classes import EMPTY, INVALID
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.sequences.opening import open_recording, voxel_truth
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.sequences.rigs import mounting
from scene_completion_training.data.stereo_voxels import OF_NO_CLASS
from scene_completion_training.extraction.settings import ExtractionSettings
from scene_completion_training.improvement import pipeline
from scene_completion_training.improvement.fine_tuning import check_parity
from scene_completion_training.improvement.pipeline import Improvement, improve
from scene_completion_training.improvement.split import cut_along, metres_of_a_turn, places_of
from scene_completion_training.improvement.steps import STATE
from scene_completion_training.runner import train
from tests.training.small_trainings import small_rooms

UPRIGHT = ExtractionSettings(ground_frame="map")


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A walk through the rooms of a training seed, and the bag of it: images, poses, and where the floor is."""
    folder = tmp_path_factory.mktemp("walk") / "9"
    command = "room-world --seed 9 --frames 36 --leg 12 --carrier hand --size 128 96 --supersampling 1 --bag --assets"
    assert main([*command.split(), "label", "voxels", "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tiny network of the trunk will lie."""
    return tmp_path_factory.mktemp("current") / "tiny"


@pytest.fixture(scope="module")
def current(walk: Path, trunk: Path) -> StudentBundle:
    """A student that hardly learned, with weights of eight bits in its graph."""
    folder = trunk.parent
    branches = {"naming": 8, "trusting": True}
    checkpoint = train(small_rooms(walk / "sequence", folder, every=9, **branches), threads=1)
    exported = ["export", str(checkpoint), str(folder / "student"), "--licence", "none", "--int8-weights"]
    assert main([*exported, "--name", "tiny"]) == 0
    return StudentBundle.load(folder / "student")


@pytest.fixture(scope="module")
def improved(walk: Path, trunk: Path, current: StudentBundle, tmp_path_factory: pytest.TempPathFactory) -> Improvement:
    """A whole improvement."""
    folder = tmp_path_factory.mktemp("improved")
    assert current.folder is not None
    asked = Improvement(
        bags=(walk / "bag",),
        current=current.folder,
        output=folder / "new",
        work=folder / "work",
        extraction=UPRIGHT,
        steps=2,
        overrides=(f"encoder_weights={trunk}",),
        calibrate_every=4,
        threads=1,
        margin=-1.0,
        tolerance=1.0,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "SHARES", (1.0,))
        improve(asked)
    return asked


def test_a_walk_teaches_a_student_of_rooms(improved: Improvement, current: StudentBundle) -> None:
    state = {name: step["result"] for name, step in json.loads((improved.work / STATE).read_text()).items()}
    (scored,) = state["judging"]["drives"].values()
    known = scored["scores"]["new"]["all, 6.4 m"]
    assert known["voxels"] > 1000 and 0.0 < known["occupied_share"] < 1.0
    assert state["checking parity"]["volume_relative"] > 0.0  # eight bits
    assert state["splitting"]["gap"] in (6.4, 0.8)
    assert "motion stereo" in state["exporting and calibrating"]["depth"]
    new = StudentBundle.load(improved.work / "candidate")
    assert (new.class_names, new.takes_pose) == (current.class_names, True)
    assert new.provenance["improved_from"]["name"] == "tiny"
    assert str(improved.current) not in json.dumps(dict(new.provenance))
    assert new.height_range is not None and current.height_range is not None
    assert new.height_range[0] <= current.height_range[0] <= current.height_range[1] <= new.height_range[1]
    assert len(new.read_encoder()) < 1.01 * len(current.read_encoder())
    learned = new.load_weights()
    assert any((learned[name] != before).any() for name, before in current.load_weights().items())


def test_where_up_is_comes_from_the_bag(walk: Path, improved: Improvement) -> None:
    extracted = PosedSequence.load(next((improved.work / "sequences").glob("*/00")))
    rendered = open_recording(walk / "sequence")
    assert extracted.floor == 0.0
    stamps = [frame.stamp_ns for frame in rendered.frames]
    for index in (0, len(extracted) - 1):
        stands = mounting(extracted, "camera", index)
        wanted = mounting(rendered, "camera", stamps.index(extracted.frames[index].stamp_ns))
        assert stands is not None and wanted is not None
        np.testing.assert_allclose(stands.matrix, wanted.matrix, atol=1e-6)


def test_what_motion_stereo_teaches_has_no_class_and_is_mostly_right(walk: Path, improved: Improvement) -> None:
    import safetensors.numpy

    part = PosedSequence.load(next((improved.work / "split").glob("*_training")))
    rendered = open_recording(walk / "sequence")
    stamps = [frame.stamp_ns for frame in rendered.frames]
    right, counted = np.zeros(2), np.zeros(2)
    for index in range(0, len(part), 4):
        (file,) = (improved.work / "prepared").glob(f"*training*/{index:06d}.safetensors")
        label = safetensors.numpy.load_file(file)["label"]
        assert set(np.unique(label)) <= {EMPTY, OF_NO_CLASS, INVALID}
        truth = voxel_truth(rendered, stamps.index(part.frames[index].stamp_ns))
        assert truth is not None
        taught = np.moveaxis(np.stack(np.nonzero(label != INVALID)), 0, -1)
        places = np.array((0.0, -3.2, -0.8 + 0.575)) + (taught + 0.5) * 0.1  # heights above the floor
        found, inside = truth.grid.index_of(places)
        for number, wanted in enumerate((EMPTY, OF_NO_CLASS)):
            cells = tuple(found[inside & (label[tuple(taught.T)] == wanted)].T)
            known = truth.known[cells]
            counted[number] += known.sum()
            right[number] += (truth.occupied[cells] == (wanted != EMPTY))[known].sum()
    assert (right / counted > (0.95, 0.3)).all() and counted.min() > 100


def test_a_bag_that_does_not_say_where_up_is_is_refused(improved: Improvement, tmp_path: Path) -> None:
    blind = dataclasses.replace(
        improved, work=tmp_path / "work", output=tmp_path / "new", extraction=ExtractionSettings()
    )
    with pytest.raises(ImprovementError, match=r"nothing says where up is.*extraction\.ground_frame"):
        improve(blind)


def test_parity_finds_other_weights(improved: Improvement, current: StudentBundle, trunk: Path, tmp_path: Path) -> None:
    weights = {name: 1.5 * value for name, value in current.load_weights().items()}
    wrong = current.save(tmp_path / "wrong", current.read_encoder(), weights)
    held_out = list((improved.work / "split").glob("*_held_out"))
    with pytest.raises(ImprovementError, match="parity with"):
        check_parity(wrong, current, held_out, threads=1, encoder_weights=str(trunk))


def test_a_turn_counts_as_way_by_the_field_of_view(walk: Path, current: StudentBundle) -> None:
    metres = metres_of_a_turn(current)
    assert metres == pytest.approx(6.4 / np.radians(70.0))
    angle = 0.01 * np.arange(101)
    turning = np.stack([*np.zeros((3, 101)), metres * np.cos(angle), metres * np.sin(angle), np.zeros(101)], axis=-1)
    training, _, held_out = cut_along(turning, (0.5, 0.25, 0.25), 0.5)
    # One radian is 5.2 m; without two gaps of 0.5 m 4.2 m are left, of which 2.1 m are 0.40 radians.
    assert training[-1] == 40 and held_out[0] == 80
    assert places_of(open_recording(walk / "sequence"), metres).shape == (36, 6)
