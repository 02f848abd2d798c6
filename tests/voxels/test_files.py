"""Saved voxels come back as they were, and foreign files are refused without being executed."""

from __future__ import annotations

import pickle
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.voxels.files import npz_bytes, read_npz
from tests.report.scenes import street


class Bomb:
    """Executed where somebody unpickles it."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("exploded"),)  # type: ignore[return-value]


def test_voxels_come_back(tmp_path: Path) -> None:
    voxels = street()
    (tmp_path / "voxels.npz").write_bytes(npz_bytes(voxels, "front_optical"))
    read, frame = read_npz(tmp_path / "voxels.npz")
    assert frame == "front_optical"
    for field in fields(voxels):
        wanted, found = getattr(voxels, field.name), getattr(read, field.name)
        if isinstance(wanted, np.ndarray):
            assert found.dtype == wanted.dtype
            np.testing.assert_array_equal(found, wanted)
        elif field.name == "grid_from_camera":
            np.testing.assert_array_equal(found.matrix, wanted.matrix)
        else:
            assert found == wanted, field.name


def test_foreign_files_are_refused_and_never_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "voxels.npz"
    whole = npz_bytes(street(), "front")
    bomb = np.empty((), dtype=object)
    bomb[()] = Bomb()
    np.savez(tmp_path / "bomb.npz", state=bomb, grid_from_camera=np.eye(4))
    np.savez(tmp_path / "other.npz", state=np.zeros((2, 2, 2), np.uint8))
    for content in (
        b"", whole[: len(whole) // 2], b"no archive at all", pickle.dumps(Bomb()),
        (tmp_path / "bomb.npz").read_bytes(), (tmp_path / "other.npz").read_bytes(),
    ):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(SceneCompletionError, match="cannot be read as saved voxels"):
            read_npz(path)
    assert not (tmp_path / "exploded").exists()
