"""Frames joined over time."""

import math
from dataclasses import replace

import numpy as np
import pytest

from scene_completion_ros.geometry.grids import DEFAULT_GRID_FROM_CAMERA, VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform, rotation_of_angles
from scene_completion_ros.mapping.evidence import NEVER, FrameEvidence
from scene_completion_ros.mapping.temporal_fusion import (
    FusedFrame,
    FusionSettings,
    TemporalFusion,
    empty_memory,
    rules_of,
)
from scene_completion_ros.voxels.occupancy import Thresholds
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels, VoxelState
from tests.mapping import twins
from tests.mapping.test_evidence import blank
from tests.voxels.samples import COMPLETED, FREE, INFERRED, SURFACE, UNOBSERVED, voxels_of

GRID = VoxelGrid((0.0, -1.2, -0.6), 0.2, (14, 12, 6))
THRESHOLD = 0.4
THRESHOLDS = Thresholds(THRESHOLD, THRESHOLD)
TENTH = 100_000_000  # nanoseconds


def frame(
    probability: np.ndarray, stamp_ns: int = 0, *, hidden: np.ndarray | None = None, label: np.ndarray | None = None
) -> SemanticVoxels:
    """Voxels of a probability; NaN is out of view, what is hidden was inferred."""
    hidden = np.zeros(probability.shape, dtype=bool) if hidden is None else hidden
    with np.errstate(invalid="ignore"):
        occupied = probability >= THRESHOLD
    state = np.where(occupied, np.where(hidden, COMPLETED, SURFACE), np.where(hidden, INFERRED, FREE))
    state = np.where(np.isnan(probability), UNOBSERVED, state)
    given = {"labels": label, "probabilities": probability, "confidence": 0.75, "stamp_ns": stamp_ns}
    return voxels_of(state, GRID.origin, GRID.voxel_size, **given)


def fuse(fusion: TemporalFusion, probability: np.ndarray, stamp_ns: int, pose: RigidTransform, **kinds) -> FusedFrame:
    dense = np.nan_to_num(probability).astype(np.float32)
    return fusion.fuse(frame(probability, stamp_ns, **kinds), dense, pose)


def make(thresholds: Thresholds = THRESHOLDS, **settings: float) -> TemporalFusion:
    """An empty map, in which cars count like all else unless settings say otherwise."""
    chosen = FusionSettings(**{"movable_frames": math.inf, **settings})
    return TemporalFusion(GRID, DEFAULT_GRID_FROM_CAMERA, thresholds, chosen)


def at(x: float = 0.0, y: float = 0.0, z: float = 0.0, yaw: float = 0.0) -> RigidTransform:
    return RigidTransform(rotation_of_angles(0.0, 0.0, yaw), np.array([x, y, z]))


def random_probability(rng: np.random.Generator) -> np.ndarray:
    probability = rng.uniform(0.02, 0.98, GRID.shape)
    probability[rng.random(GRID.shape) < 0.2] = np.nan
    return probability


@pytest.mark.parametrize("seed", range(4))
def test_the_same_as_a_map_that_never_moves(seed: int) -> None:
    """Any drive, joined by the readable twin in one array that holds all of it, of which the box is cut out."""
    rng = np.random.default_rng(seed)
    settings = FusionSettings(seen_frames=4.0, reach=1.5)
    fusion = TemporalFusion(GRID, DEFAULT_GRID_FROM_CAMERA, THRESHOLDS, settings, threads=2)
    size = np.array([90, 90, 24])
    low = -size // 2
    whole = empty_memory(tuple(size))
    nearness = np.minimum(1.0, settings.reach / np.linalg.norm(GRID.centres(), axis=-1)).astype(np.float32) ** 3
    x = y = z = yaw = 0.0
    recalled = 0
    for step in range(15):
        x, y, z, yaw = x + rng.uniform(-0.7, 1.0), y + rng.uniform(-0.7, 0.7), z + rng.uniform(-0.1, 0.1), yaw + 0.3
        pose, probability = at(x, y, z, yaw), random_probability(rng)
        hidden, label = rng.random(GRID.shape) < 0.5, rng.integers(0, 3, GRID.shape)
        result = fuse(fusion, probability, step * TENTH, pose, hidden=hidden, label=label)
        assert result.reset == ""

        local = np.moveaxis(np.indices(tuple(size)), 0, -1) + low - fusion.box.lower
        assert (fusion.box.lower >= low).all() and (fusion.box.lower + fusion.box.shape <= low + size).all()
        left = ((local < 0) | (local >= fusion.box.shape)).any(axis=-1)
        for array in whole:
            array[left] = 0
        whole.observed[left] = whole.seen[left] = NEVER
        voxels = frame(probability, hidden=hidden, label=label)
        dense = np.nan_to_num(probability, nan=0.5).astype(np.float32)
        said = FrameEvidence(
            np.clip(np.log(dense / (1 - dense)), -settings.largest_log_odds, settings.largest_log_odds),
            voxels.state,
            label.astype(np.uint8),
            np.full(GRID.shape, 0.75, dtype=np.float32),
            nearness,
        )
        # The array's slot 0 is voxel `low`: as a ring it begins at a multiple of its size.
        shift = pose.apply(np.asarray(GRID.origin)) / GRID.voxel_size - low
        place = np.zeros(3, dtype=np.int64), pose.rotation, shift
        expected = blank(GRID.shape)
        rules = rules_of(settings, THRESHOLDS, np.arange(256) == 1)  # of road, car and wall
        twins.recall(whole, *place, said, rules, 100 * step, expected)
        twins.integrate(whole, *place, said, rules, 100 * step)
        np.testing.assert_allclose(result.log_odds, expected.log_odds, atol=1e-3)
        certain = np.abs(expected.log_odds - rules.least) > 1e-3
        np.testing.assert_array_equal(result.voxels.state[certain], expected.state[certain])
        recalled += int(((voxels.state == UNOBSERVED) & (result.voxels.state != UNOBSERVED)).sum())
    assert recalled > 300  # memory did answer for what was out of view


def test_labels_of_another_meaning_are_forgotten_and_occupancy_stays() -> None:
    rng = np.random.default_rng(3)
    first, second = random_probability(rng), random_probability(rng)
    before, after = rng.integers(0, 2, GRID.shape), np.full(GRID.shape, 1)
    fusion, untouched = make(), make()
    for one in (fusion, untouched):
        fuse(one, first, 0, at(), label=before)
    empty = make(Thresholds(THRESHOLD, 0.01))
    empty.relabel(2)  # labels that no frame gave are no reason to call anything an obstacle
    lowly = np.full(GRID.shape, 0.5 * THRESHOLD, np.float32)
    assert (fuse(empty, lowly, 0, at(), label=after).voxels.state < VoxelState.SURFACE).all()
    assert (fuse(empty, lowly, TENTH, at(), label=after).voxels.state < VoxelState.SURFACE).all()
    fusion.relabel(2)
    found, same = (fuse(one, second, TENTH, at(0.2), label=after) for one in (fusion, untouched))
    np.testing.assert_array_equal(found.voxels.state, same.voxels.state)
    np.testing.assert_array_equal(found.log_odds, same.log_odds)
    at_places = tuple(found.voxels.index.T)
    said = second[at_places] >= THRESHOLD  # by the second frame
    assert 50 < said.sum() < len(said) - 50
    assert set(found.voxels.label[said]) == {1}
    assert (found.voxels.confidence[said] > 0.1).all()
    assert set(found.voxels.label[~said]) == {2}
    assert (found.voxels.confidence[~said] < 1e-5).all()
    assert set(same.voxels.label[~said]) == {0, 1}


@pytest.mark.parametrize(("label", "images"), [(1, 1), (2, 2)], ids=["car", "wall"])
def test_a_body_that_was_there_for_long_is_gone_once_images_see_its_space_free(label: int, images: int) -> None:
    """From a robot that drives by in a bend: with weights of the node, whatever the number of images before."""
    fusion = TemporalFusion(GRID, DEFAULT_GRID_FROM_CAMERA, THRESHOLDS, FusionSettings(seen_for=0.0))

    def seen(step: int, body: bool) -> tuple[np.ndarray, FusedFrame]:
        pose = at(0.01 * step, yaw=0.005 * step)
        centres = pose.apply(GRID.centres().reshape(-1, 3)).reshape(*GRID.shape, 3)
        inside = (np.abs(centres - (1.6, 0.3, 0.0)) < (0.4, 0.4, 0.5)).all(axis=-1)
        named = np.full(GRID.shape, label)
        return inside, fuse(fusion, np.where(inside & body, 0.97, 0.04), step * TENTH, pose, label=named)

    for step in range(40):
        inside, result = seen(step, True)
        assert (result.voxels.state[inside] == SURFACE).all() and inside.sum() > 40
    inside, result = seen(40, False)
    left = [int((result.voxels.state[inside] >= SURFACE).sum())]
    for step in (41, 42):
        inside, result = seen(step, False)
        left.append(int((result.voxels.state >= SURFACE).sum()))
    assert (left[0] > 40) is (images > 1) and left[images - 1 :] == [0] * (4 - images)
    assert (result.voxels.state == FREE).all()


@pytest.mark.parametrize(
    ("stamp_ns", "pose", "reason"),
    [
        (-TENTH, at(), "the clock went back by 0.100 s"),
        (30 * TENTH, at(), "no frame for 3.0 s, more than 2 s"),
        (TENTH, at(x=7.0), "the pose jumped by 7.00 m in 0.100 s"),
        (TENTH, at(yaw=1.5), "the pose turned by 1.50 rad"),
        (10 * TENTH, at(x=20.0), "the pose lies outside of the map, 20.0 m"),
    ],
)
def test_what_has_nothing_to_do_with_the_map_starts_it_anew(stamp_ns: int, pose: RigidTransform, reason: str) -> None:
    fusion = make()
    for step in range(5):
        fuse(fusion, np.full(GRID.shape, 0.9), step * TENTH, at())
    empty = np.full(GRID.shape, 0.1)
    result = fuse(fusion, empty, 4 * TENTH + stamp_ns, pose)
    assert result.reset.startswith(reason)
    np.testing.assert_array_equal(result.voxels.state, frame(empty).state)
    following = fuse(fusion, empty, 5 * TENTH + stamp_ns, pose)
    assert following.reset == "" and not len(following.voxels)


def test_a_camera_that_moves_in_its_grid_is_followed() -> None:
    """Memory counts by the distance from where the camera is now; a small step is none."""
    rng = np.random.default_rng(3)
    first, second = random_probability(rng), random_probability(rng)
    settings = FusionSettings(seen_frames=4.0, reach=0.5)
    moved = RigidTransform(DEFAULT_GRID_FROM_CAMERA.rotation, np.array([2.0, 0.5, 0.0]))

    def second_frame(start: RigidTransform, camera: RigidTransform) -> np.ndarray:
        fusion = TemporalFusion(GRID, start, THRESHOLDS, settings)
        for step, probability in enumerate((first, second)):
            voxels = replace(frame(probability, step * TENTH), grid_from_camera=camera)
            result = fusion.fuse(voxels, np.nan_to_num(probability).astype(np.float32), at())
        return result.log_odds

    np.testing.assert_array_equal(second_frame(DEFAULT_GRID_FROM_CAMERA, moved), second_frame(moved, moved))
    there = second_frame(moved, moved)
    here = second_frame(DEFAULT_GRID_FROM_CAMERA, DEFAULT_GRID_FROM_CAMERA)
    said = np.isfinite(here)
    assert np.abs(there[said] - here[said]).max() > 0.1
