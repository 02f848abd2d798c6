"""PLY files, whole and damaged."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from scene_completion_ros.errors import SequenceError
from scene_completion_training.points.ply import colours_of, columns, read_ply, write_ply

HEADER = "ply\nformat {}\ncomment a mesh\nelement vertex 3\nproperty float x\nproperty uchar red\nelement face 1\n"
HEADER += "property list uchar int vertex_indices\nproperty short id\nend_header\n"
VERTICES = np.array([(0.5, 1), (1.5, 2), (-2.5, 255)], [("x", "<f4"), ("red", "u1")])
FACES = np.array([([0, 1, 2], -7)], [("vertex_indices", "<i4", (3,)), ("id", "<i2")])
TEXT = HEADER.format("ascii 1.0") + "0.5 1\n1.5 2\n-2.5 255\n3 0 1 2 -7\n"


def same(found: NDArray[Any], expected: NDArray[Any]) -> None:
    for name in expected.dtype.names or ():
        np.testing.assert_array_equal(found[name], expected[name])


def test_what_is_written_is_read_and_text_says_the_same(tmp_path: Path) -> None:
    write_ply(tmp_path / "a.ply", {"vertex": VERTICES, "face": FACES})
    (tmp_path / "b.ply").write_text(TEXT)
    big = HEADER.format("binary_big_endian 1.0").encode() + VERTICES.astype([("x", ">f4"), ("red", "u1")]).tobytes()
    (tmp_path / "c.ply").write_bytes(big + b"\3" + np.array([0, 1, 2], ">i4").tobytes() + np.array(-7, ">i2").tobytes())
    for name in "abc":
        found = read_ply(tmp_path / f"{name}.ply", ("vertex", "face"))
        same(found["vertex"], VERTICES)
        same(found["face"], FACES)
    assert read_ply(tmp_path / "a.ply", ("face",)).keys() == {"face"}
    features = np.ones(2, [("feature", "<f4", (928,))])
    write_ply(tmp_path / "d.ply", {"vertex": features})
    same(read_ply(tmp_path / "d.ply")["vertex"], features)
    assert columns(VERTICES, ("x", "y")) is None and colours_of(VERTICES) is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ply\n", "obj\n", "no header"),
        ("end_header", "end", "no header"),
        ("float x", "half x", "line 'property half x'"),
        ("list uchar int", "list float int", "property list float"),
        ("vertex 3", "vertex 999999999999", "cannot hold 999,999,999,999 rows"),
        ("vertex 3", "vertex 5", "different lengths|ends within"),
        ("1.5 2\n", "1.5 256\n", "'red' that are no whole numbers"),
        ("1.5 2\n", "1.5 two\n", "cannot be read as PLY"),
        ("3 0 1 2 -7", "3 0 1 2 -7 5", "rows of 6 numbers"),
        ("3 0 1 2 -7", "99999 0 1 2 -7", "different lengths"),
    ],
)
def test_a_damaged_text_is_refused_in_a_sentence(tmp_path: Path, old: str, new: str, message: str) -> None:
    (tmp_path / "a.ply").write_text(TEXT.replace(old, new, 1))
    with pytest.raises(SequenceError, match=message):
        read_ply(tmp_path / "a.ply", ("vertex", "face"))


def test_a_binary_file_promises_no_more_than_it_holds(tmp_path: Path) -> None:
    file = tmp_path / "a.ply"
    write_ply(file, {"vertex": VERTICES, "face": np.repeat(FACES, 2)})
    content = file.read_bytes()
    for damaged, message in (
        (content[:-1], "ends within its 2 rows of 'face'"),
        (content.replace(b"vertex 3", b"vertex 9"), "cannot hold 2 rows"),
        (content[:-15] + b"\4" + content[-14:], "different lengths"),
        (content[: content.index(b"end_header\n") + 11], "ends within its 3 rows of 'vertex'|cannot hold 3 rows"),
    ):
        file.write_bytes(damaged)
        with pytest.raises(SequenceError, match=message):
            read_ply(file, ("vertex", "face"))
    with pytest.raises(SequenceError, match="No such file"):
        read_ply(tmp_path / "b.ply")
