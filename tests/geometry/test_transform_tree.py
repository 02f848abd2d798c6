"""Transforms of a running robot: kept for a while, forgotten when time goes back, never extrapolated unasked."""

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from scene_completion_ros.geometry.extrinsics import read_extrinsics, rotation_of_angles
from scene_completion_ros.geometry.transform_tree import NoTransformError, TransformTree
from scene_completion_ros.geometry.transforms import RigidTransform, TransformError

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


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "extrinsics.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_angles_are_those_of_urdf() -> None:
    quarter = math.pi / 2
    np.testing.assert_allclose(rotation_of_angles(0, 0, quarter) @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(rotation_of_angles(0, quarter, 0) @ [1, 0, 0], [0, 0, -1], atol=1e-12)
    np.testing.assert_allclose(rotation_of_angles(quarter, 0, 0) @ [0, 1, 0], [0, 0, 1], atol=1e-12)
    # About fixed axes, roll first: z turns to -y by the roll, and stays there when the yaw turns about z: to x.
    np.testing.assert_allclose(rotation_of_angles(quarter, 0, quarter) @ [0, 0, 1], [1, 0, 0], atol=1e-12)


def test_an_optical_frame_and_a_quaternion(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "- {parent: base_link, child: /left_optical, translation: [1, 0.5, 1.5], angles: [0, 0, 90], optical: true}\n"
        "- {parent: odom, child: base_link, translation: [0, 0, 0], rotation: [0, 0, 0, 1]}\n",
    )
    left, base = read_extrinsics(path)
    assert (left.parent, left.child) == ("base_link", "left_optical")
    # Two metres before a camera that looks to the left, half a metre to its right and 0.2 m below it.
    np.testing.assert_allclose(left.parent_from_child.apply(np.array([0.5, 0.2, 2.0])), [1.5, 2.5, 1.3], atol=1e-12)
    np.testing.assert_array_equal(base.parent_from_child.matrix, np.eye(4))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "is an empty list"),
        ("- [1, 2]", "entry 1.*no mapping"),
        ("- {parent: a, child: b, translation: [0, 0, 0], angels: [0, 0, 0]}", "entry 1: unknown key angels"),
        ("- {parent: a, child: b, translation: [0, 0, 0]}", "one of rotation and angles"),
        ("- {parent: a, child: a, translation: [0, 0, 0], angles: [0, 0, 0]}", "own parent"),
        ("- {parent: a, child: b, translation: [0, 0], angles: [0, 0, 0]}", "translation must be 3 finite numbers"),
        ("- {parent: a, child: b, translation: [0, 0, 0], rotation: [0, 0, 0, 0]}", "entry 1: the quaternion"),
        ("- {parent: a, child: b, translation: [0, 0, 0], angles: [0, 0, 0], optical: 1}", "true or false"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(TransformError, match=words) as caught:
        read_extrinsics(path)
    assert caught.value.where.startswith(str(path))
