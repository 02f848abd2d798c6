"""Saved voxels come back as they were; other files are refused, none is executed."""

import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.voxels.files import FORMAT, ImageDetails, SavedVoxels, npz_bytes, read_npz
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels
from tests.checkout import ROOT
from tests.voxels.samples import STREET, street

Arrays = dict[str, Any]


class Bomb:
    """Executed where it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("exploded"),)  # type: ignore[return-value]


def details(voxels: SemanticVoxels) -> ImageDetails:
    random = np.random.default_rng(1)
    return ImageDetails(
        probability_grid=random.random(voxels.grid.shape).astype(np.float16),
        alpha_grid=random.random(voxels.grid.shape).astype(np.float16),
        depth=random.random((5, 7), dtype=np.float32),
        transmittance=random.random((5, 7)).astype(np.float16),
        depth_intrinsics=np.diag([3.0, 4.0, 1.0]),
    )


def assert_same(found: SemanticVoxels, wanted: SemanticVoxels) -> None:
    for field in fields(wanted):
        this, that = getattr(found, field.name), getattr(wanted, field.name)
        if isinstance(that, np.ndarray):
            assert this.dtype == that.dtype
            np.testing.assert_array_equal(this, that)
        elif field.name == "grid_from_camera":
            np.testing.assert_allclose(this.matrix, that.matrix, atol=1e-12)
        else:
            assert this == that, field.name


@pytest.mark.parametrize("with_details", [False, True])
def test_voxels_come_back(with_details: bool, tmp_path: Path) -> None:
    voxels = street()
    more = details(voxels) if with_details else None
    path = tmp_path / "voxels.npz"
    path.write_bytes(npz_bytes(SavedVoxels(voxels, "front_optical", more)))
    read = read_npz(path)
    assert read.camera_frame == "front_optical"
    assert_same(read.voxels, voxels)
    assert (read.details is not None) == with_details
    for field in fields(ImageDetails) if with_details else ():
        found, wanted = getattr(read.details, field.name), getattr(more, field.name)
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)


def test_the_documented_example_reads_them_with_numpy_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    voxels = street()
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    Path("out/voxels.npz").write_bytes(npz_bytes(SavedVoxels(voxels)))
    (example,) = (
        block
        for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "voxels.md").read_text(), re.DOTALL)
        if "voxels.npz" in block
    )
    names: Arrays = {}
    exec(example, names)  # noqa: S102 # the example of our own documents
    np.testing.assert_array_equal(names["state"], voxels.state)
    np.testing.assert_allclose(names["points"], voxels.points_grid(), atol=1e-5)
    assert names["names"].tolist() == [STREET[label] for label in voxels.label]
    assert len(names["sure"]) == np.count_nonzero(voxels.probability > 0.8)


def changed(name: str, change: Callable[[Any], Any]) -> Callable[[Arrays], Arrays]:
    return lambda arrays: arrays | {name: change(arrays[name])}


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda arrays: {"state": arrays["state"]}, "has no array 'format'"),
        (lambda arrays: {name: value for name, value in arrays.items() if name != "label"}, "has no array 'label'"),
        (changed("state", lambda state: state[1:]), "index: names voxels outside of the grid"),
        (changed("state", lambda state: state + 5), "state: holds .* no state"),
        (changed("state", lambda state: state.astype(np.int64)), "state: is of type int64, not uint8"),
        (changed("index", lambda index: index + 100), "index: names voxels outside of the grid"),
        (changed("index", lambda index: np.int32(3)), "cannot be read as saved voxels"),
        (changed("label", lambda label: label + 3), "label: holds 5, but there are 3 classes"),
        (changed("probability", lambda probability: probability[1:]), "probability: shape"),
        (changed("class_colours", lambda colours: colours[:, :2]), "cannot be read as saved voxels"),
        (changed("class_colours", lambda colours: colours[:1]), "3 class names but 1 colours"),
        (changed("grid_from_camera", lambda pose: 2.0 * pose), "4x4|last row|orthonormal"),
        (changed("voxel_size", lambda size: -size), "voxel_size: -0.2 is not a length"),
        (changed("format", lambda _: np.str_("photographs")), "'photographs'"),
        (changed("version", lambda version: version + 1), rf"is version 2 of '{FORMAT}'.*up to 1\. Update"),
    ],
)
def test_contradicting_arrays_are_named(damage: Callable[[Arrays], Arrays], what: str, tmp_path: Path) -> None:
    path = tmp_path / "voxels.npz"
    path.write_bytes(npz_bytes(SavedVoxels(street())))
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive)
    np.savez(path, **damage(arrays))
    with pytest.raises(SceneCompletionError, match=what) as caught:
        read_npz(path)
    assert caught.value.where == str(path)


def test_pickles_are_refused_and_never_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bomb = np.array(None, dtype=object)
    bomb[()] = Bomb()
    np.savez("bomb.npz", state=bomb, grid_from_camera=np.eye(4))
    with pytest.raises(SceneCompletionError, match="cannot be read as arrays of NumPy"):
        read_npz("bomb.npz")
    assert not Path("exploded").exists()


def test_damaged_bytes_are_read_or_refused_with_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "voxels.npz"
    whole = npz_bytes(SavedVoxels(street()))
    random = np.random.default_rng(2)
    refused_at = []
    for _ in range(200):
        content = bytearray(whole)
        for position in random.integers(0, len(whole), 3):
            content[position] = random.integers(0, 256)
        path.write_bytes(content)
        try:
            read_npz(path)
        except SceneCompletionError as error:
            refused_at.append(error.where)
    assert len(refused_at) > 100
    assert set(refused_at) == {str(path)}
