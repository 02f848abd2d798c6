"""Fixed transforms of files."""

import math
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.geometry.transforms import TransformError, read_extrinsics, rotation_of_angles


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
