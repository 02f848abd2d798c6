"""What two tiny students, one of each kind, know together of the cells before a camera."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.evaluation.semantic_classes import INVALID
from scene_completion_ros.geometry import DEFAULT_GRID_FROM_CAMERA, Camera, RigidTransform, VoxelGrid
from scene_completion_ros.geometry.transforms import rotation_of_angles
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.voxels.occupancy import Calibration
from scene_completion_training.data.completion_samples import (
    MAPS,
    CompletionData,
    CompletionDataSettings,
    CompletionSamples,
    CompletionSource,
    Files,
    FrozenEncoder,
)
from scene_completion_training.data.store import Entry, mapped_arrays
from scene_completion_training.data.taught_voxels import UNKNOWN, TaughtVoxels, cells_of
from scene_completion_training.data.turned_views import TurnedView, turned
from scene_completion_training.foundation import class_probabilities
from scene_completion_training.viewpoint import Viewpoint, Volume
from tests.inference.known_mounting_bundle import CAMERA, GRID, HEIGHT, make_known_mounting_bundle, wall_from
from tests.inference.small_bundle import make_small_bundle

VOLUME = Volume(ahead=12.8, sideways=4.0, below=2.0, above=1.6, voxel_size=0.4)
VIEWPOINT = Viewpoint(camera=CAMERA, height_above_ground=HEIGHT, volume=VOLUME)
CELLS, TURNED = cells_of(VOLUME.grid), TurnedView(turned(0.05, -0.03), 1.1)
Stored = dict[str, NDArray[Any]]


def standing(height: float, pitch: float = 0.0, roll: float = 0.0) -> RigidTransform:
    """Pose in the volume of a camera at a height, metres, that looks down by a pitch, degrees."""
    turn = rotation_of_angles(np.radians(roll), np.radians(pitch), 0.0)
    return RigidTransform(turn @ DEFAULT_GRID_FROM_CAMERA.rotation, np.array([0.0, 0.0, height - HEIGHT]))


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[StudentBundle]:
    """A field student, and one that completes cells and knows cameras of many heights; each has its calibration."""
    folder, values = tmp_path_factory.mktemp("members"), np.random.default_rng(0).normal(size=GRID.shape)
    calibrations = [Calibration("piecewise_linear", (0.0, 0.3, 1.0), (0.1, middle, 0.9)) for middle in (0.4, 0.8)]
    return [
        make_small_bundle(folder / "field", grid=VoxelGrid((0, -4, -2), 0.4, (32, 20, 9)), calibration=calibrations[0]),
        make_known_mounting_bundle(
            folder / "cells", volume=values.astype(np.float32), height_range=(0.5, 2.0), calibration=calibrations[1]
        ),
    ]


def folders(members: list[StudentBundle]) -> list[str]:
    """Where they lie."""
    return [str(member.folder) for member in members]


def test_the_mean_and_the_deviation_are_those_of_what_members_complete(members: list[StudentBundle]) -> None:
    """Of the voxels of a cell that both of them see; the upper cells have four voxels, others are partly seen."""
    pose, image = standing(1.6, pitch=1.0, roll=1.0), wall_from(0.3)
    upright = RigidTransform(np.eye(3), np.array([0.0, 0.0, HEIGHT])) @ pose
    options = {"grid": VOLUME.grid, "grid_from_camera": pose, "engine": "openvino", "upright_from_camera": upright}
    completers = [Completer(member, CAMERA, **options) for member in members]  # type: ignore[arg-type]
    probability = [completer.complete(image).probability for completer in completers]
    seen = completers[0].in_view & completers[1].in_view
    assert VOLUME.grid.shape == (32, 20, 9) and CELLS.shape == (16, 10, 5)
    teachers = TaughtVoxels(folders(members), VIEWPOINT)
    teachers.of(image, standing(1.7))  # a camera that stood elsewhere
    taught, doubt = teachers.of(image, pose)
    assert taught.shape == doubt.shape == CELLS.shape and taught.dtype == doubt.dtype == np.uint8
    known = partly = 0
    for place in np.ndindex(CELLS.shape):
        cell = tuple(slice(2 * first, 2 * first + 2) for first in place)
        if not seen[cell].any():
            assert (taught[place], doubt[place]) == (0, UNKNOWN)
            continue
        one, other = (float(each[cell][seen[cell]].mean()) for each in probability)
        assert taught[place] == pytest.approx(255.0 * (one + other) / 2.0, abs=0.51)
        assert doubt[place] == pytest.approx(255.0 * abs(one - other) / 2.0, abs=0.51)
        known, partly = known + 1, partly + (not seen[cell].all())
    assert known > 300 and partly > 30 and doubt[doubt < UNKNOWN].max() > 30


def test_one_member_is_in_no_doubt_and_without_one_nothing_is_known(members: list[StudentBundle]) -> None:
    """A field student takes a camera at half the height for one at its own: it is not asked."""
    image, low = wall_from(0.0), standing(0.8)
    both = TaughtVoxels(folders(members), VIEWPOINT).of(image, low)
    alone = TaughtVoxels(folders(members[1:]), VIEWPOINT).of(image, low)
    np.testing.assert_array_equal(both, alone)
    assert set(np.unique(alone[1])) == {0, UNKNOWN} and alone[0].max() > 100
    nothing = TaughtVoxels(folders(members[:1]), VIEWPOINT).of(image, low)
    assert (nothing[0] == 0).all() and (nothing[1] == UNKNOWN).all()


@pytest.mark.parametrize(
    ("viewpoint", "words"),
    [
        (Viewpoint(), "field: its voxels are 0.4 m, those of the volume 0.2 m"),
        (Viewpoint(Camera(600.0, 600.0, 255.5, 95.5, 512, 192), volume=VOLUME), "field: .* 3[0-9] % of an image"),
    ],
)
def test_members_of_another_world_are_refused(members: list[StudentBundle], viewpoint: Viewpoint, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as raised:
        TaughtVoxels(folders(members), viewpoint)
    assert raised.value.where.startswith("data.teachers") and "configuration" in raised.value.cure


def test_the_key_follows_from_the_members(members: list[StudentBundle], tmp_path: Path) -> None:
    """A copy of a member is the same one; one with another calibration is not."""
    encoder = members[0].encoder_path.read_bytes()
    assert members[0].folder is not None
    copied = StudentBundle.load(members[0].folder).save(tmp_path / "copy", encoder)
    other = make_small_bundle(tmp_path / "other", grid=members[0].grid)
    keys = [TaughtVoxels([str(one.folder)], VIEWPOINT).key for one in (members[0], copied, other)]
    assert keys[0] == keys[1] != keys[2]


def test_members_are_run_once_for_all_looks_at_an_image(
    members: list[StudentBundle], synthetic_drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later training reads what they know."""
    (tmp_path / "weights").write_bytes(b"none")
    monkeypatch.setattr(class_probabilities, "load_espnetv2", lambda weights: (None, Path(weights)))
    monkeypatch.setattr(class_probabilities, "city_segmentation", lambda _: lambda image: image[..., 0] // 255)
    seen: list[NDArray[np.uint8]] = []
    of = TaughtVoxels.of
    monkeypatch.setattr(TaughtVoxels, "of", lambda self, image, pose: seen.append(image) or of(self, image, pose))
    maps = {"fused": torch.zeros(1, 2, 4, 4)}
    source = [CompletionSource(str(synthetic_drive), poses="none", every=3)]
    places = {"cache": str(tmp_path / "cache"), "segmentation": str(tmp_path / "weights")}

    def prepared(teachers: list[str]) -> list[Stored]:
        settings = CompletionDataSettings(sources=source, augmentations=2, teachers=teachers, **places)  # type: ignore[arg-type]
        data = CompletionData(settings, VIEWPOINT, FrozenEncoder(lambda _: maps, "none"), steps=1, seed=0)
        data.setup("fit")
        (frames,) = data.groups["training"]
        return [{n: v for file in files for n, v in mapped_arrays(file).items()} for files in frames]

    found = prepared(folders(members))
    first, second, first_again, second_again = found
    assert len(seen) == 2 and not np.array_equal(*seen)
    for name in ("taught", "doubt"):
        np.testing.assert_array_equal(first[name], first_again[name])
        np.testing.assert_array_equal(second[name], second_again[name])
    answer = TaughtVoxels(folders(members), VIEWPOINT)
    expected = of(answer, seen[0], RigidTransform.from_matrix(first["volume_from_camera"]))
    np.testing.assert_array_equal([first["taught"], first["doubt"]], expected)
    assert (expected[1] < UNKNOWN).any()
    prepared(folders(members))
    assert len(seen) == 2
    assert "taught" not in prepared([])[0]
    prepared(folders(members[:1]))
    assert len(seen) == 4


def sample_files(folder: Path, exact: RigidTransform, **more: NDArray[np.uint8]) -> list[list[Files]]:
    """A stored sample of a camera that stands there, of which nothing else is known."""
    half = np.zeros((CAMERA.height // 2, CAMERA.width // 2), np.float16)
    arrays: Stored = {
        **dict.fromkeys(MAPS, half[None]),
        "classes": half.astype(np.uint8),
        "depth": half,
        "label": np.full(VOLUME.grid.shape, INVALID, np.uint8),
        "truth_from_camera": exact.matrix,
        "origin": np.array([*VOLUME.grid.origin, VOLUME.voxel_size]),
        "volume_from_camera": exact.matrix,
        "measured": np.array([False]),
        "camera_from_seen": TURNED.camera_from_seen,
        "shown": half == 0.0,
        **more,
    }
    entry = Entry(folder)
    entry.write("0", arrays)
    return [[(entry.file("0"),)]]


def test_it_is_served_where_the_camera_is_stated_to_stand(tmp_path: Path) -> None:
    """In a volume that is a little off, the nearest cell's numbers; mirrored, they are those from the other side."""
    taught, doubt = np.random.default_rng(0).integers(0, 120, (2, *CELLS.shape), dtype=np.uint8)
    doubt[4] = UNKNOWN
    exact, tilted = standing(1.5, pitch=2.0), {"volume_roll": 5.0, "volume_pitch": 5.0}
    settings = CompletionDataSettings(unknown_pose=0.3, **tilted)
    files = sample_files(tmp_path, exact, taught=taught, doubt=doubt)
    samples = CompletionSamples(files, [1.0], settings, VIEWPOINT, seed=0, length=12)
    mirrored = moved = 0
    for sample in (samples[number] for number in range(12)):
        stated = sample["volume_from_camera"].double().numpy()
        centres = CELLS.centres().reshape(-1, 3).astype(np.float64)
        inverse = np.linalg.inv(stated)
        optical = centres @ inverse[:3, :3].T + inverse[:3, 3]
        _, shown = CAMERA.project(optical)
        index, inside = CELLS.index_of(exact.apply(optical @ TURNED.camera_from_seen[:3, :3].T))
        known = (shown & inside).reshape(CELLS.shape)
        flat = np.where(inside[:, None], index, 0).T
        for name, values in (("taught", taught), ("doubt", doubt)):
            expected = np.where(known, values[tuple(flat)].reshape(CELLS.shape), UNKNOWN)
            served = sample[name].numpy()
            served = served[:, ::-1] if sample["mirrored"] else served
            assert (served == expected).mean() > 0.995  # but for roundings at the edges
            moved += int((served != np.where(known, values, UNKNOWN)).sum())
        mirrored += bool(sample["mirrored"])
        assert 0.2 < known.mean() < 0.9
    assert 0 < mirrored < 12 and moved > 1000


def test_a_sample_without_teachers_has_only_doubt(tmp_path: Path) -> None:
    samples = CompletionSamples(
        sample_files(tmp_path, standing(1.5)), [1.0], CompletionDataSettings(), VIEWPOINT, seed=0, length=1
    )
    for name in ("taught", "doubt"):
        assert samples[0][name].dtype == torch.uint8 and samples[0][name].shape == CELLS.shape
    assert (samples[0]["doubt"] == UNKNOWN).all()
    assert samples[0]["road"].isnan().all()  # where the road lies was not measured
