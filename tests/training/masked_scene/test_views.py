"""Views of scenes, what is hidden of them, and what student and teacher make of it."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from scene_completion_ros.errors import SequenceError
from scene_completion_training.data.store import Entry
from scene_completion_training.masked_scenes import (
    MaskSettings,
    SceneSamples,
    SceneView,
    SceneViewSettings,
    View,
    correlation,
    distance,
    effective_rank,
    keep_points,
    masked_voxels,
    momentum,
    pairs_in_one,
    point_features,
    point_views,
    spread,
    student_features,
    update_teacher,
)
from scene_completion_training.points.scene import PointScene
from scene_completion_training.sparse.hu_net import HUNetSettings, VoxelHUNet
from tests.training.points.rooms import room

SIZE = 0.1
PLAIN = SceneViewSettings(jitter=0.0, dropped=0.0, scale=0.0)


def random_places(count: int, shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """So many different voxels of a grid, int16 [N, 3]."""
    flat = np.random.default_rng(seed).choice(np.prod(shape), count, replace=False)
    return np.stack(np.unravel_index(flat, shape), axis=-1).astype(np.int16)


def kept(cache: Path, *scenes: PointScene) -> list[Path]:
    return keep_points({scene.name: scene for scene in scenes}, Entry(cache))


def views(file: Path, settings: SceneViewSettings = PLAIN, seed: int = 0) -> tuple[View, View]:
    return point_views(file, np.random.default_rng(seed), settings, SIZE, shift=8)


def test_features_are_those_of_the_release() -> None:
    """Colours x / 127.5 - 1 of bytes, then normals; zeros for what a cloud has not."""
    colours = np.array([[0, 51, 255]], np.float32) / 255
    normals = np.array([[0.0, 0.6, 0.8]], np.float32)
    np.testing.assert_allclose(point_features(1, colours, normals), [[-1, -0.6, 1, 0, 0.6, 0.8]], atol=1e-6)
    np.testing.assert_array_equal(point_features(2, None, None), np.zeros((2, 6)))


def test_both_views_have_the_same_points_turned_about_the_vertical(tmp_path: Path) -> None:
    scene = room(0)
    one, other = views(kept(tmp_path, scene)[0])
    assert len(one.points) == len(other.points) == len(scene) and len(one.index) != len(other.index)
    pairs = np.random.default_rng(0).integers(len(scene), size=(200, 2)).T
    distance = np.linalg.norm(scene.points[pairs[0]] - scene.points[pairs[1]], axis=1) / SIZE
    for view in (one, other):
        np.testing.assert_array_equal(np.floor(view.points), view.index[view.voxel])
        np.testing.assert_allclose(
            np.linalg.norm(view.points[pairs[0]] - view.points[pairs[1]], axis=1), distance, atol=1e-3
        )
        step = (view.points - view.points[0])[:, 2] - (scene.points - scene.points[0])[:, 2] / SIZE
        np.testing.assert_allclose(step, 0.0, atol=1e-3)
        only = np.bincount(view.voxel, weights=scene.normals[:, 2] < 0.9) == 0  # voxels of horizontal points alone
        np.testing.assert_allclose(view.features[only, 5], 1.0, atol=1e-3)
    assert one.index.min() >= 0


def test_colours_change_and_features_are_dropped(tmp_path: Path) -> None:
    file = kept(tmp_path, room(0))[0]
    changed = views(file, dataclasses.replace(PLAIN, jitter=0.5, dropped=0.3))[0].features
    assert np.abs(changed[:, :3]).max() <= 1.0
    assert 0.25 < (changed == 0.0).all(axis=1).mean() < 0.35
    blind = [views(file, dataclasses.replace(PLAIN, blind=0.5), seed)[0].features for seed in range(12)]
    without = {(bool(one[:, :3].any()), bool(one[:, 3:].any())) for one in blind}
    assert without == {(True, True), (True, False), (False, True), (False, False)}


def test_a_sample_is_the_neighbourhood_of_a_point(tmp_path: Path) -> None:
    scene = room(0)
    view = views(kept(tmp_path, scene)[0], dataclasses.replace(PLAIN, points=500))[0]
    assert len(view.points) == 500
    radius = np.linalg.norm(view.points - view.points.mean(axis=0), axis=1).max() * SIZE
    assert radius < 1.5 < np.linalg.norm(scene.points - scene.points.mean(axis=0), axis=1).max()


@pytest.mark.parametrize(("both", "ratio"), [(True, 0.4), (False, 0.4), (True, 0.0), (False, 0.0)])
def test_views_are_masked_and_face_each_other(tmp_path: Path, both: bool, ratio: float) -> None:
    """The places that are compared are those whose voxel is hidden; without masking, all. Each lies in both views."""
    drawn = samples(tmp_path, MaskSettings(8, ratio, both))
    sample = drawn[0]
    index, compared = sample["voxel_index"], sample["masked"] if ratio else both | (sample["voxel_index"][:, 0] == 0)
    assert {tuple(place) for place in sample["student_points"].floor().long().tolist()} == {
        tuple(place) for place in index[compared].tolist()
    }
    assert bool(sample["masked"].any()) == bool(ratio) and set(index[compared, 0].tolist()) == ({0, 1} if both else {0})
    there = {tuple(place) for place in index.tolist()}
    assert {tuple(place) for place in sample["teacher_points"].floor().long().tolist()} <= there
    assert torch.equal(
        sample["student_points"][:, 0] + sample["teacher_points"][:, 0], torch.ones(len(sample["student_points"]))
    )
    batch = pairs_in_one([drawn[0], drawn[1]])
    second = batch["teacher_points"][:, 0] >= 2
    assert torch.equal(batch["teacher_points"][second], drawn[1]["teacher_points"] + torch.tensor([2.0, 0, 0, 0]))
    assert batch["voxel_index"].dtype == torch.int64 and batch["voxel_index"][:, 0].unique().tolist() == [0, 1, 2, 3]


def test_scenes_are_kept_once(tmp_path: Path) -> None:
    (file,) = kept(tmp_path, dataclasses.replace(room(0), name="Area_1/office"))
    assert kept(tmp_path, dataclasses.replace(room(1), name="Area_1/office")) == [file]
    assert len(views(file)[0].points) == len(room(0))
    Entry(tmp_path).write("Area_1-office", {"points": np.zeros((1, 3), np.float32)})
    with pytest.raises(SequenceError, match=r"damaged \(no 'features'\).*Delete it"):
        views(file)


SHAPE = (64, 64, 32)


def patches_of(index: np.ndarray, edge: int = 8) -> set[tuple[int, ...]]:
    return set(map(tuple, (index // edge).tolist()))


@pytest.mark.parametrize("ratio", [0.0, 0.4, 1.0])
def test_the_share_of_hidden_patches_is_the_ratio(ratio: float) -> None:
    index = random_places(3000, SHAPE)
    masked = masked_voxels(index, 8, ratio, np.random.default_rng(0))
    assert abs(len(patches_of(index[masked])) - ratio * len(patches_of(index))) <= 1.0


def test_a_hidden_patch_leaves_no_voxel_at_any_level() -> None:
    """With an edge of 8 on four levels; patches of 4 leave coarse voxels that hold something visible."""
    index = random_places(4000, SHAPE)
    left = {}
    for edge in (8, 4):
        masked = masked_voxels(index, edge, 0.4, np.random.default_rng(0))
        left[edge] = [len(patches_of(index[masked], 2**n) & patches_of(index[~masked], 2**n)) for n in range(4)]
    assert left[8] == [0, 0, 0, 0] and left[4][:3] == [0, 0, 0] and left[4][3] > 0


MASK = MaskSettings(8, 0.4)


def samples(folder: Path, mask: MaskSettings = MASK, seed: int = 0) -> SceneSamples:
    files = keep_points({scene.name: scene for scene in (room(0), room(1), room(2))}, Entry(folder))
    views = SceneViewSettings(points=2000)
    return SceneSamples([files[:2], files[2:]], [1.0, 2.0], views, mask, voxel_size=SIZE, seed=seed, length=8)


def test_samples_follow_from_seed_and_number(tmp_path: Path) -> None:
    drawn = samples(tmp_path)
    again, other = samples(tmp_path), samples(tmp_path, seed=1)
    assert len(drawn) == 8
    for name, value in drawn[3].items():
        assert torch.equal(value, again[3][name])
    assert all(not torch.equal(drawn[3]["voxel_index"], made["voxel_index"]) for made in (drawn[4], other[3]))


# Nothing hidden tells the student anything; the teacher follows it; distances and spreads are those worked by hand.


GRID, LEVELS, INPUTS = (32, 32, 16), 3, 5


@pytest.fixture
def network() -> VoxelHUNet:
    torch.manual_seed(0)
    return VoxelHUNet(HUNetSettings(INPUTS, (8, 12, 16), (8, 12, 16)))


@pytest.mark.parametrize("bottom_up", [True, False])
def test_hidden_features_tell_the_student_nothing(network: VoxelHUNet, bottom_up: bool) -> None:
    """Of two scenes, whose places come in random order."""
    scenes = [random_places(500, GRID, seed=scene) for scene in range(2)]
    hidden = [masked_voxels(index, 4, 0.4, np.random.default_rng(scene)) for scene, index in enumerate(scenes)]
    place = np.concatenate([np.insert(index.astype(np.int64), 0, scene, axis=1) for scene, index in enumerate(scenes)])
    index, masked = torch.from_numpy(place), torch.from_numpy(np.concatenate(hidden))
    features = torch.rand(1000, INPUTS)

    @torch.no_grad()
    def answers(given: Tensor) -> list[Tensor]:
        return student_features(network, SceneView(index, given, LEVELS), masked, bottom_up=bottom_up)

    before = answers(features)
    unseen = answers(torch.where(masked[:, None], 9.0 * torch.rand(1000, INPUTS), features))
    seen = answers(torch.where(masked[:, None], features, features + 1.0))
    for one, same, other in zip(before, unseen, seen, strict=True):
        torch.testing.assert_close(one, same, rtol=0, atol=0)
        assert not torch.allclose(one, other)


def test_distances_worked_by_hand() -> None:
    """What the teacher says of every voxel is no part of the target.

    Targets (1, 1, -1, -1) and (1, -1, 1, -1) have the mean (1, 0, 0, -1), and (0, ±1, ∓1, 0) are left.
    """
    teacher = torch.tensor([[1.0, 1.0, -1.0, -1.0], [1.0, -1.0, 1.0, -1.0]])
    alike = torch.tensor([[1.0, 0.0, 0.0, -1.0]] * 2)
    assert distance(alike, teacher).item() == pytest.approx(1.0, abs=1e-4)
    told_apart = torch.tensor([[0.0, 1.0, -1.0, 0.0], [0.0, -1.0, 1.0, 0.0]])
    assert distance(told_apart, teacher).item() == pytest.approx(0.0, abs=1e-4)
    assert distance(3.0 * told_apart + 7.0, teacher).item() == pytest.approx(0.0, abs=1e-4)  # both are standardised
    assert distance(-told_apart, teacher).item() == pytest.approx(2.0, abs=1e-4)
    assert distance(alike[:1], teacher[:1]).item() == pytest.approx(1.0, abs=1e-4)  # one voxel
    distance(torch.zeros(0, 4, requires_grad=True), torch.zeros(0, 4)).backward()  # type: ignore[no-untyped-call]


def test_spreads_worked_by_hand() -> None:
    """Half the directions are (-1, 1) / √2, half the opposite: each dimension deviates by 1 / √2, times √2."""
    assert spread(torch.tensor([[0.0, 2.0], [3.0, 1.0]] * 5)) == pytest.approx(1.0, abs=1e-4)
    assert spread(torch.tensor([[0.0, 2.0], [1.0, 3.0]] * 5)) == pytest.approx(0.0, abs=1e-4)
    assert spread(torch.randn(4000, 64, generator=torch.Generator().manual_seed(0))) == pytest.approx(1.0, abs=0.02)
    assert math.isnan(spread(torch.zeros(1, 4)))


def test_ranks_worked_by_hand() -> None:
    """Standardised, (2, 0, 0, 0) and its turns are the corners of a tetrahedron: three directions alike.

    Of singular values 3 and 1 the entropy is that of the shares 3/4 and 1/4.
    """
    assert effective_rank(torch.eye(4)) == pytest.approx(3.0, abs=1e-3)
    assert effective_rank(torch.tensor([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]] * 3)) == pytest.approx(1.0, abs=1e-3)
    one, other = (torch.tensor(of) for of in ([1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0]))
    rows = torch.stack([one, -one] * 9 + [other, -other])
    assert effective_rank(rows) == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)), abs=1e-3)


def test_correlations_worked_by_hand() -> None:
    """Standardised (1, -1, 0, 0) is √2 times itself: covariances are -2 of one pair, or -1 of both pairs."""
    one, other = (torch.tensor(of) for of in ([1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0]))
    assert correlation(torch.stack([one, -one])).item() == pytest.approx(2 * 2.0**2 / 4, abs=1e-3)
    assert correlation(torch.stack([one, -one, other, -other])).item() == pytest.approx(4 / 4, abs=1e-3)
    assert correlation(torch.eye(4)).item() == pytest.approx(12 / 9 / 4, abs=1e-3)


def test_the_teacher_follows_the_student(network: VoxelHUNet) -> None:
    torch.manual_seed(1)
    teacher = VoxelHUNet(network.settings).requires_grad_(False)
    before = [value.clone() for value in teacher.parameters()]
    update_teacher(teacher, network, 0.75)
    for value, old, new in zip(teacher.parameters(), before, network.parameters(), strict=True):
        torch.testing.assert_close(value, 0.75 * old + 0.25 * new)
        assert value.grad is None and not value.requires_grad


def test_the_teacher_keeps_more_and_more_of_itself() -> None:
    assert momentum(0, 100, 0.996) == pytest.approx(0.996)
    assert momentum(50, 100, 0.996) == pytest.approx(0.998)
    assert momentum(100, 100, 0.996) == 1.0 == momentum(120, 100, 0.996)
