"""Joining frames with memory: cases by hand, and the kernel against its readable twin."""

import math

import numpy as np
import pytest

from scene_completion_ros.mapping import evidence
from scene_completion_ros.mapping.evidence import FrameEvidence, Fused, Rules, VoxelMemory
from scene_completion_ros.mapping.temporal_fusion import FusionSettings, empty_memory, rules_of
from scene_completion_ros.voxels.occupancy import Thresholds
from tests.mapping import twins
from tests.voxels.samples import COMPLETED, FREE, INFERRED, SURFACE, UNOBSERVED

TWINS = pytest.mark.parametrize("twin", [twins, evidence], ids=["reference", "kernel"])
RULES = rules_of(
    FusionSettings(seen_frames=2.0, inferred_weight=0.25, inferred_frames=0.5, half_life=1.0, forget_after=4.0),
    Thresholds(0.5, 0.5),
)


def one_voxel(log_odds: float, state: int, label: int = 0, confidence: float = 1.0, near: float = 1.0) -> FrameEvidence:
    return FrameEvidence(
        np.full((1, 1, 1), log_odds, dtype=np.float32),
        np.full((1, 1, 1), state, dtype=np.uint8),
        np.full((1, 1, 1), label, dtype=np.uint8),
        np.full((1, 1, 1), confidence, dtype=np.float32),
        np.full((1, 1, 1), near, dtype=np.float32),
    )


class OneVoxel:
    """A map of one voxel under a frame of one voxel."""

    def __init__(self, twin, rules: Rules = RULES) -> None:
        self.twin, self.rules, self.memory = twin, rules, empty_memory((1, 1, 1))

    def __call__(self, frame: FrameEvidence, now: int) -> tuple[float, int, int, float]:
        fused = blank((1, 1, 1))
        place = (np.zeros(3, dtype=np.int64), np.eye(3), np.zeros(3))
        self.twin.recall(self.memory, *place, frame, self.rules, now, fused)
        self.twin.integrate(self.memory, *place, frame, self.rules, now)
        return tuple(array.item() for array in fused)  # type: ignore[return-value]


def blank(shape: tuple[int, ...]) -> Fused:
    return Fused(*(np.empty(shape, kind) for kind in (np.float32, np.uint8, np.uint8, np.float32)))


@TWINS
def test_means_by_hand(twin) -> None:
    voxel = OneVoxel(twin)
    voxel(one_voxel(2.0, SURFACE, 1), 0)  # memory: 2 of weight 1
    assert voxel(one_voxel(-1.0, FREE), 0)[0] == pytest.approx((2.0 - 1.0) / 2)  # memory: 0.5 of weight 2
    assert voxel(one_voxel(-1.0, FREE), 0)[0] == pytest.approx((2 * 0.5 - 1.0) / 3)
    # memory: 0 of weight 3, limited to 2
    assert voxel(one_voxel(-1.0, FREE), 0)[0] == pytest.approx(-1.0 / 3)
    # An inferring frame weighs 0.25 and lets memory count 0.5.
    assert voxel(one_voxel(3.0, COMPLETED), 0)[0] == pytest.approx((0.5 * -1.0 / 3 + 0.25 * 3.0) / 0.75)


@TWINS
def test_memory_fades_with_time_and_counts_less_far_away(twin) -> None:
    voxel = OneVoxel(twin)
    voxel(one_voxel(2.0, SURFACE), 0)
    assert voxel(one_voxel(-1.0, FREE), 1000)[0] == pytest.approx((0.5 * 2.0 - 1.0) / 1.5)  # half-life of 1 s
    voxel = OneVoxel(twin)
    voxel(one_voxel(2.0, SURFACE), 0)
    found = voxel(one_voxel(-1.0, FREE, near=0.125), 0)[0]  # the limit of 2 frames is 0.25 there
    assert found == pytest.approx((0.25 * 2.0 - 1.0) / 1.25)


@TWINS
def test_what_may_move_is_where_the_newest_frame_says(twin) -> None:
    settings = FusionSettings(seen_frames=2.0, inferred_weight=0.25, inferred_frames=1.0, movable_frames=0.5)
    rules = rules_of(settings, Thresholds(0.5, 0.5), np.arange(256) == 1)  # label 1 may move
    for label, left in ((1, 0.5), (2, 1.0)):
        voxel = OneVoxel(twin, rules)
        voxel(one_voxel(2.0, SURFACE, label), 0)
        expected = (left * 2.0 - 0.25 * 3.0) / (left + 0.25)
        assert voxel(one_voxel(-3.0, INFERRED), 0)[0] == pytest.approx(expected)
        again = (left * expected - 0.25 * 3.0) / (left + 0.25)
        assert voxel(one_voxel(-3.0, INFERRED), 0)[0] == pytest.approx(again)
    for label, left in ((1, 0.5), (2, 1.0)):
        gone, came = OneVoxel(twin, rules), OneVoxel(twin, rules)
        gone(one_voxel(2.0, SURFACE, label), 0)
        assert gone(one_voxel(-1.0, FREE), 0)[0] == pytest.approx((left * 2.0 - 1.0) / (left + 1.0))
        came(one_voxel(-2.0, FREE), 0)
        assert came(one_voxel(1.0, SURFACE, label), 0)[0] == pytest.approx((left * -2.0 + 1.0) / (left + 1.0))


@TWINS
def test_obstacles_and_ground_are_occupied_from_thresholds_of_their_own(twin) -> None:
    rules = rules_of(FusionSettings(), Thresholds(0.5, 0.25), class_names=("car", "road"))
    for label, expected in ((1, FREE), (0, SURFACE)):
        voxel = OneVoxel(twin, rules)
        voxel(one_voxel(1.0, SURFACE, label), 0)
        log_odds, state, named, _ = voxel(one_voxel(-2.0, FREE), 0)  # probability 0.38
        assert log_odds == pytest.approx(-0.5) and (state, named) == (expected, label if expected == SURFACE else 0)
    voxel = OneVoxel(twin, rules)
    voxel(one_voxel(-0.3, FREE), 0)  # and nothing is known of what has no label
    assert voxel(one_voxel(-0.3, FREE), 0)[1] == FREE


@TWINS
def test_out_of_view_a_voxel_fades_to_the_prior_and_is_forgotten(twin) -> None:
    voxel = OneVoxel(twin)
    voxel(one_voxel(2.0, SURFACE, 1, 0.5), 0)
    nothing = one_voxel(9.0, UNOBSERVED)
    prior = math.log(FusionSettings().prior / (1.0 - FusionSettings().prior))
    log_odds, state, label, confidence = voxel(nothing, 400)
    assert log_odds == pytest.approx(prior + (2.0 - prior) * 0.5**0.4)
    assert (state, label, confidence) == (SURFACE, 1, 0.5)
    assert voxel(nothing, 600)[1] == COMPLETED  # seen_for is 0.5 s
    log_odds, state, *_ = voxel(nothing, 4000)
    assert log_odds == pytest.approx(prior + (2.0 - prior) / 16)
    assert state == INFERRED  # the log odds are below 0 by now; never "seen free", as it was seen occupied
    assert voxel(nothing, 4001)[:2] == (-math.inf, UNOBSERVED)


@TWINS
def test_seen_free_lasts_only_for_as_long_as_stated(twin) -> None:
    voxel = OneVoxel(twin)
    voxel(one_voxel(-2.0, FREE), 0)
    hidden = one_voxel(-1.0, INFERRED)
    assert voxel(hidden, 500)[1] == FREE
    assert voxel(hidden, 501)[1] == INFERRED
    assert voxel(one_voxel(-2.0, FREE), 600)[1] == FREE
    assert voxel(one_voxel(0.1, COMPLETED), 700)[1] == INFERRED  # memory outvotes the frame, but clears nothing
    assert voxel(hidden, 750)[1] == INFERRED  # nor does it later on


@pytest.mark.parametrize("seed", range(40))
def test_twins_agree(seed: int) -> None:
    rng, now = np.random.default_rng(seed), 1000
    size, shape = tuple(rng.integers(3, 14, 3)), tuple(rng.integers(2, 12, 3))
    memory = VoxelMemory(
        rng.normal(0.0, 2.0, size).astype(np.float32),
        (rng.uniform(0.0, 4.0, size) * (rng.random(size) < 0.8)).astype(np.float32),
        rng.integers(-2000, 1000, size).astype(np.int32),
        rng.integers(-2000, 1000, size).astype(np.int32),
        rng.integers(0, 2, size).astype(np.uint8),
        rng.integers(0, 4, size).astype(np.uint8),
        rng.random(size).astype(np.float32),
    )
    frame = FrameEvidence(
        rng.normal(0.0, 2.0, shape).astype(np.float32),
        rng.choice([UNOBSERVED, FREE, INFERRED, SURFACE, COMPLETED], shape).astype(np.uint8),
        rng.integers(0, 4, shape).astype(np.uint8),
        rng.random(shape).astype(np.float32),
        rng.random(shape).astype(np.float32),
    )
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    place = (rng.integers(-50, 50, 3), turn, rng.uniform(-3.0, 8.0, 3))
    settings = FusionSettings(
        seen_frames=rng.uniform(0.5, 6.0), half_life=rng.uniform(0.2, 2.0), forget_after=rng.uniform(0.5, 3.0)
    )
    rules = rules_of(
        settings, Thresholds(*rng.uniform(0.2, 0.7, 2)), rng.random(256) < 0.5, ("road", "wall", "sidewalk")
    )
    fused = [blank(frame.state.shape) for _ in range(2)]
    memories = [VoxelMemory(*(array.copy() for array in memory)) for _ in range(2)]
    for twin, out, kept in zip((twins, evidence), fused, memories, strict=True):
        twin.recall(kept, *place, frame, rules, now, out)
        twin.integrate(kept, *place, frame, rules, now)
    for expected, found in zip((*fused[0], *memories[0]), (*fused[1], *memories[1]), strict=True):
        if expected.dtype == np.float32:
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
        else:
            np.testing.assert_array_equal(found, expected)
