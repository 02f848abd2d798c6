"""The rolling map as a whole: against a map that never moves, on scenes that stand still and scenes that do not."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from scene_completion_ros.errors import GridError
from scene_completion_ros.geometry.grids import DEFAULT_GRID_FROM_CAMERA, VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.mapping import evidence, evidence_kernel
from scene_completion_ros.mapping.evidence import NEVER, FrameEvidence, Fused
from scene_completion_ros.mapping.temporal_fusion import (
    FusedFrame,
    FusionSettings,
    TemporalFusion,
    compile_fusion,
    empty_memory,
    rules_of,
)
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels
from tests.mapping.small_voxels import COMPLETED, FREE, INFERRED, NAMES, SURFACE, UNOBSERVED, voxels_of

GRID = VoxelGrid((0.0, -1.2, -0.6), 0.2, (14, 12, 6))
THRESHOLD = 0.4
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


def make(**settings: float) -> TemporalFusion:
    return TemporalFusion(GRID, DEFAULT_GRID_FROM_CAMERA, THRESHOLD, FusionSettings(**settings))


def at(x: float = 0.0, y: float = 0.0, z: float = 0.0, yaw: float = 0.0) -> RigidTransform:
    cos, sin = math.cos(yaw), math.sin(yaw)
    return RigidTransform(np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]]), np.array([x, y, z]))


def random_probability(rng: np.random.Generator) -> np.ndarray:
    probability = rng.uniform(0.02, 0.98, GRID.shape)
    probability[rng.random(GRID.shape) < 0.2] = np.nan
    return probability


def test_the_first_frame_comes_back_as_it_was() -> None:
    rng = np.random.default_rng(0)
    probability = random_probability(rng)
    label, hidden = rng.integers(0, 3, GRID.shape), rng.random(GRID.shape) < 0.5
    voxels = frame(probability, 5, hidden=hidden, label=label)
    result = make().fuse(voxels, np.nan_to_num(probability).astype(np.float32), at(3.0, -7.0, 0.3, 0.7))
    for name in ("state", "index", "label", "confidence"):
        np.testing.assert_array_equal(getattr(result.voxels, name), getattr(voxels, name))
    np.testing.assert_allclose(result.voxels.probability, voxels.probability, atol=1e-6)
    assert (result.voxels.grid, result.voxels.stamp_ns, result.voxels.class_names) == (GRID, 5, NAMES)
    assert result.reset == ""


@pytest.mark.parametrize("seed", range(4))
def test_the_same_as_a_map_that_never_moves(seed: int) -> None:
    """Any drive, joined by the readable twin in one array that holds all of it, of which the box is cut out."""
    rng = np.random.default_rng(seed)
    settings = FusionSettings(seen_frames=4.0, reach=1.5, margin=0.4)
    fusion = TemporalFusion(GRID, DEFAULT_GRID_FROM_CAMERA, THRESHOLD, settings, threads=2)
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
        expected = Fused(*(np.empty(GRID.shape, dtype=kind) for kind in (np.float32, np.uint8, np.uint8, np.float32)))
        rules = rules_of(settings, THRESHOLD)
        evidence.recall(whole, *place, said, rules, 100 * step, expected)
        assert evidence.integrate(whole, *place, said, rules, 100 * step) == result.updated
        np.testing.assert_allclose(result.log_odds, expected.log_odds, atol=1e-3)
        certain = np.abs(expected.log_odds - rules.threshold) > 1e-3
        np.testing.assert_array_equal(result.voxels.state[certain], expected.state[certain])
        recalled += int(((voxels.state == UNOBSERVED) & (result.voxels.state != UNOBSERVED)).sum())
    assert recalled > 300  # memory did answer for what was out of view


def test_a_voxel_that_leaves_the_image_is_remembered_where_it_was() -> None:
    fusion = make()
    wall = np.full(GRID.shape, 0.05)
    wall[2, 3, 1] = 0.9
    fuse(fusion, wall, 0, at())
    ahead = np.full(GRID.shape, 0.05)
    ahead[:4] = np.nan  # the blind zone of the next image
    result = fuse(fusion, ahead, TENTH, at(x=0.2))
    assert result.voxels.index.tolist() == [[1, 3, 1]]
    assert result.voxels.label.tolist() == [1]
    assert result.voxels.state[0, 3, 1] == FREE


def test_labels_of_another_meaning_are_forgotten_and_occupancy_stays() -> None:
    rng = np.random.default_rng(3)
    first, second = random_probability(rng), random_probability(rng)
    before, after = rng.integers(0, 2, GRID.shape), np.full(GRID.shape, 1)
    fusion, untouched = make(), make()
    for one in (fusion, untouched):
        fuse(one, first, 0, at(), label=before)
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


def test_another_threshold_holds_for_what_is_remembered_too() -> None:
    """Another student has another one."""
    fusion, probability = make(), np.full(GRID.shape, 0.5 * THRESHOLD)
    assert len(fuse(fusion, probability, 0, at()).voxels.index) == 0
    fusion.decide_by(0.4 * THRESHOLD)
    fused = fuse(fusion, probability, TENTH, at())
    assert not fused.reset
    assert len(fused.voxels.index) == probability.size


def test_a_label_of_no_confidence_is_a_label_too() -> None:
    probability = np.full(GRID.shape, 0.9)
    voxels = frame(probability, label=np.full(GRID.shape, 2))
    voxels = replace(voxels, confidence=np.zeros_like(voxels.confidence))
    fusion, dense = make(), probability.astype(np.float32)
    for number in range(2):
        fused = fusion.fuse(replace(voxels, stamp_ns=number * TENTH), dense, at())
        assert set(fused.voxels.label) == {2}


def test_a_scene_that_stands_still_is_answered_better_than_by_one_frame_and_never_with_more_certainty() -> None:
    rng = np.random.default_rng(3)
    truth = rng.random(GRID.shape) < 0.2
    fusion = make(seen_frames=30.0, largest_log_odds=3.0)
    single, fused = [], []
    for step in range(40):
        value = np.where(truth, 1.0, -1.5) + rng.normal(0.0, 1.5, GRID.shape)
        result = fuse(fusion, 1.0 / (1.0 + np.exp(-value)), step * TENTH, at())
        single.append(float(((1.0 / (1.0 + np.exp(-value)) >= THRESHOLD) != truth).mean()))
        fused.append(float(((result.voxels.state >= SURFACE) != truth).mean()))
    assert min(single) > 0.1
    assert fused[-1] < 0.01
    assert np.abs(result.log_odds).max() <= 3.0
    # The same frame over and over adds nothing: its evidence is not new.
    fusion = make()
    for step in range(20):
        result = fuse(fusion, np.full(GRID.shape, 0.7), step * TENTH, at(0.0, 0.0))
    np.testing.assert_allclose(result.log_odds, math.log(0.7 / 0.3), atol=1e-5)


@pytest.mark.parametrize(("seen_frames", "within"), [(1.0, 1), (3.0, 3), (6.0, 5)])
def test_what_moves_away_and_what_appears_is_believed_within_the_stated_frames(seen_frames: float, within: int) -> None:
    """Equal evidence for and against at a threshold of one half: (n / (n + 1)) ** k falls below a half."""
    assert within == math.floor(math.log(0.5) / math.log(seen_frames / (seen_frames + 1.0))) + (seen_frames != 1.0)
    for before, after in ((0.9, 0.1), (0.1, 0.9)):
        fusion = TemporalFusion(
            GRID, DEFAULT_GRID_FROM_CAMERA, 0.499999, FusionSettings(seen_frames=seen_frames, half_life=600.0)
        )
        for step in range(20):
            fuse(fusion, np.full(GRID.shape, before), step * TENTH, at())
        answers = []
        for step in range(20, 20 + within):
            result = fuse(fusion, np.full(GRID.shape, after), step * TENTH, at())
            answers.append(bool(result.voxels.state[3, 6, 3] >= SURFACE))
        was = before > after
        assert answers[:-1] == [was] * (within - 1)
        if (seen_frames, was) != (1.0, True):  # an exact tie, which counts as occupied
            assert answers[-1] is not was


def test_a_thing_that_was_left_behind_fades_by_half_lives_and_is_forgotten() -> None:
    fusion = make(half_life=0.4, forget_after=1.0, largest_gap=60.0)
    fuse(fusion, np.full(GRID.shape, 0.95), 0, at())
    nothing = np.full(GRID.shape, np.nan)
    prior = math.log(FusionSettings().prior / (1.0 - FusionSettings().prior))
    start = math.log(0.95 / 0.05) - prior
    for tenth in range(1, 11):
        result = fuse(fusion, nothing, tenth * TENTH, at())
        np.testing.assert_allclose(result.log_odds, prior + start * 0.5 ** (tenth / 4), rtol=1e-4)
    assert (result.voxels.state == INFERRED).all()
    assert (fuse(fusion, nothing, 11 * TENTH, at()).voxels.state == UNOBSERVED).all()


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


def test_driving_and_turning_as_robots_do_resets_nothing() -> None:
    fusion = make()
    for step in range(100):
        pose = at(x=0.4 * step, y=0.1 * step, z=0.01 * step, yaw=0.2 * step)
        result = fuse(fusion, np.full(GRID.shape, 0.9), step * TENTH, pose)
        assert result.reset == ""
        assert result.entered < 0.3 * np.prod(fusion.box.shape)


def test_memory_stays_as_it_is_and_work_grows_with_what_is_seen_alone() -> None:
    fusion = make()
    arrays = [id(array) for array in fusion.memory]
    narrow = np.full(GRID.shape, np.nan)
    narrow[:, 5:7] = 0.1
    for step, (probability, count) in enumerate(((narrow, 14 * 2 * 6), (np.full(GRID.shape, 0.1), 14 * 12 * 6)) * 3):
        # On the lattice of the map, so that every voxel of the grid is one of the map.
        result = fuse(fusion, probability, step * TENTH, at(x=0.2 * step))
        assert result.updated == count
        assert result.entered == (fusion.box.shape[1] * fusion.box.shape[2] if step else 0)
    assert [id(array) for array in fusion.memory] == arrays


def test_a_grid_that_is_tilted_is_remembered_as_well() -> None:
    """That of a camera which looks 50 degrees down."""
    cos, sin = math.cos(math.radians(50.0)), math.sin(math.radians(50.0))
    pose = RigidTransform(np.array([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]]), np.array([3.0, 1.0, 2.0]))
    fusion = make(forget_after=2.0)
    level = fusion.box.shape.copy()
    fuse(fusion, np.full(GRID.shape, 0.9), 0, pose)
    assert fusion.box.shape[2] > level[2]
    result = fuse(fusion, np.full(GRID.shape, np.nan), TENTH, pose)
    assert (result.voxels.state == SURFACE).mean() > 0.95  # all but voxels at the border of the grid


def test_what_is_no_number_does_not_stay_in_memory() -> None:
    fusion = make()
    broken = np.full(GRID.shape, np.nan, dtype=np.float32)
    broken[0, 0, 0], broken[0, 0, 1] = 0.0, 1.0  # nor does certainty
    fusion.fuse(frame(np.full(GRID.shape, 0.1)), broken, at())
    result = fuse(fusion, np.full(GRID.shape, 0.9), TENTH, at())
    assert np.isfinite(result.log_odds).all()
    assert (result.voxels.state == SURFACE).mean() > 0.99


def test_what_cannot_be_fused_is_refused() -> None:
    fusion, voxels = make(), frame(np.full(GRID.shape, 0.9))
    with pytest.raises(GridError, match="probability has shape"):
        fusion.fuse(voxels, np.zeros((2, 2, 2), dtype=np.float32), at())
    other = VoxelGrid(GRID.origin, 0.1, GRID.shape)
    with pytest.raises(GridError, match="another grid"):
        TemporalFusion(other, DEFAULT_GRID_FROM_CAMERA, THRESHOLD).fuse(voxels, np.zeros(GRID.shape, np.float32), at())
    with pytest.raises(GridError, match=r"inferred_weight is 2.0"):
        FusionSettings(inferred_weight=2.0)
    with pytest.raises(GridError, match="half_life is nan"):
        FusionSettings(half_life=math.nan)


def test_a_camera_that_moves_in_its_grid_is_followed() -> None:
    """Memory counts by the distance from where the camera is now; a small step is none."""
    rng = np.random.default_rng(3)
    first, second = random_probability(rng), random_probability(rng)
    settings = FusionSettings(seen_frames=4.0, reach=0.5)
    moved = RigidTransform(DEFAULT_GRID_FROM_CAMERA.rotation, np.array([2.0, 0.5, 0.0]))

    def second_frame(start: RigidTransform, camera: RigidTransform) -> np.ndarray:
        fusion = TemporalFusion(GRID, start, THRESHOLD, settings)
        for step, probability in enumerate((first, second)):
            voxels = replace(frame(probability, step * TENTH), grid_from_camera=camera)
            result = fusion.fuse(voxels, np.nan_to_num(probability).astype(np.float32), at())
        return result.log_odds

    np.testing.assert_array_equal(second_frame(DEFAULT_GRID_FROM_CAMERA, moved), second_frame(moved, moved))
    there = second_frame(moved, moved)
    here = second_frame(DEFAULT_GRID_FROM_CAMERA, DEFAULT_GRID_FROM_CAMERA)
    said = np.isfinite(here)
    assert np.abs(there[said] - here[said]).max() > 0.1


def test_without_seen_for_nothing_is_free_that_the_frame_itself_does_not_see_free() -> None:
    rng = np.random.default_rng(4)
    fusion = make(seen_for=0.0)
    remembered = 0
    for step in range(6):
        probability = random_probability(rng) * 0.6
        hidden = rng.random(GRID.shape) < 0.5
        alone = frame(probability, step * TENTH, hidden=hidden)
        state = fusion.fuse(alone, np.nan_to_num(probability).astype(np.float32), at(0.1 * step)).voxels.state
        assert set(alone.state[state == FREE]) == {FREE}
        assert set(alone.state[state == SURFACE]) <= {FREE, SURFACE}
        remembered += int(((alone.state == UNOBSERVED) & (state == COMPLETED)).sum())
    assert remembered > 20


def test_what_the_map_takes_and_how_old_it_is() -> None:
    fusion = make()
    assert fusion.age_s == 0.0
    for stamp_ns in (TENTH, 4 * TENTH):
        fuse(fusion, np.full(GRID.shape, 0.1), stamp_ns, at())
    assert fusion.age_s == pytest.approx(0.3)
    assert fusion.megabytes == pytest.approx(22e-6 * fusion.memory.weight.size)
    fusion.reset()
    assert fusion.age_s == 0.0
    result = fuse(fusion, np.full(GRID.shape, np.nan), 5 * TENTH, at())
    assert (result.voxels.state == UNOBSERVED).all() and result.reset == ""


def test_kernels_are_compiled_by_the_kinds_of_arrays_that_frames_have() -> None:
    compile_fusion()
    kernels = evidence_kernel._recall_kernel(), evidence_kernel._integrate_kernel()
    compiled = [len(kernel.signatures) for kernel in kernels]
    fuse(make(), np.full(GRID.shape, 0.1), 0, at())
    assert [len(kernel.signatures) for kernel in kernels] == compiled
