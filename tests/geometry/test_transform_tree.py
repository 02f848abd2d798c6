"""Transforms of a running robot: kept for a while, forgotten when time goes back, never extrapolated unasked."""

import numpy as np
import pytest
from numpy.typing import NDArray

from scene_completion_ros.geometry.extrinsics import rotation_of_angles
from scene_completion_ros.geometry.transform_tree import NoTransformError, TransformTree
from scene_completion_ros.geometry.transforms import RigidTransform

SECOND = 1_000_000_000
KEEP_NS = 2 * SECOND


def at(x: float, yaw: float = 0.0) -> RigidTransform:
    return RigidTransform(rotation_of_angles(0, 0, yaw), np.array([x, 0.0, 0.0]))


def place(tree: TransformTree, stamp_ns: int, **limits: int) -> NDArray[np.float64]:
    return tree.find("odom", "camera", stamp_ns, **limits).translation


@pytest.fixture
def tree() -> TransformTree:
    """A robot that drives one metre a second from 10 s to 11 s, with a camera half a metre before its middle."""
    tree = TransformTree(KEEP_NS)
    tree.add("base", "camera", 0, at(0.5), static=True)
    for tenth in range(11):
        tree.add("odom", "base", 10 * SECOND + tenth * SECOND // 10, at(tenth / 10), static=False)
    return tree


def test_a_chain_of_moving_and_fixed_edges_is_interpolated_both_ways(tree: TransformTree) -> None:
    np.testing.assert_allclose(place(tree, 10_250_000_000), [0.75, 0, 0], atol=1e-9)
    np.testing.assert_allclose(tree.find("camera", "odom", 10_250_000_000).translation, [-0.75, 0, 0], atol=1e-9)


@pytest.mark.parametrize(
    ("stamp_ns", "problem"), [(9_999_999_999, "before"), (11_000_000_001, "after"), (10_050_000_000, "gap")]
)
def test_what_is_missing_is_named(tree: TransformTree, stamp_ns: int, problem: str) -> None:
    with pytest.raises(NoTransformError, match="odom -> base") as caught:
        place(tree, stamp_ns, max_gap_ns=SECOND // 20)
    assert caught.value.problem == problem
    assert caught.value.cure


def test_the_last_transform_holds_for_the_tolerance_and_no_longer(tree: TransformTree) -> None:
    np.testing.assert_allclose(place(tree, 11_020_000_000, tolerance_ns=20_000_000), [1.5, 0, 0])
    with pytest.raises(NoTransformError, match="after the last"):
        place(tree, 11_020_000_001, tolerance_ns=20_000_000)
    with pytest.raises(NoTransformError, match="before the first"):
        place(tree, 9_990_000_000, tolerance_ns=20_000_000)


def test_a_recording_that_begins_anew_is_not_mixed_with_its_end(tree: TransformTree) -> None:
    tree.add("odom", "base", 10 * SECOND - SECOND // 2, at(100), static=False)  # a loop, 1.5 s back
    tree.add("odom", "base", 10 * SECOND, at(101), static=False)
    np.testing.assert_allclose(place(tree, 10 * SECOND), [101.5, 0, 0])
    with pytest.raises(NoTransformError, match="after the last"):
        place(tree, 10 * SECOND + SECOND // 2)


def test_frames_that_do_not_hang_together(tree: TransformTree) -> None:
    with pytest.raises(NoTransformError, match=r"'gps' to 'odom'.*base, camera, odom") as caught:
        tree.find("odom", "gps", 10 * SECOND)
    assert caught.value.problem == "unconnected"
