"""Voxels of points, and features of pixels at points: visibility, means, the cache, and kinds of teachers."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor

from scene_completion_ros.errors import ConfigurationError, SequenceError
from scene_completion_ros.inference.text_bank import TextBank
from scene_completion_training.points import voxels
from scene_completion_training.points.data import (
    FeatureFiles,
    LiftedScene,
    LiftingSettings,
    PixelTeacher,
    ambiguity,
    keep_lifted,
    lift,
)
from scene_completion_training.points.scene import PointScene, RgbdView
from scene_completion_training.points.voxels import VoxelMeans, turned, voxelised
from tests.training.points.rooms import CAMERA, CLASSES, room


def test_every_point_has_its_voxel_and_every_voxel_one_of_its_points() -> None:
    points = room(0, step=0.07).points
    index, chosen, voxel = voxelised(points, 0.2, np.random.default_rng(0))
    assert len(np.unique(index, axis=0)) == len(index) < len(points)
    assert index.min() >= 0
    np.testing.assert_array_equal(voxel[chosen], np.arange(len(index)))
    others = voxelised(points, 0.2, np.random.default_rng(1))[1]
    assert len(np.union1d(chosen, others)) > 1.2 * len(others)  # which one is drawn
    low = points / 0.2 - index[voxel]  # one offset for all: voxels are cubes of a grid
    assert (low.max(axis=0) - low.min(axis=0) < 1.0 + 1e-4).all()


def test_training_scenes_are_turned_and_scaled_alike_in_all_directions() -> None:
    points = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    scales, tilts = [], []
    for seed in range(30):
        matrix = np.linalg.lstsq(points, turned(points, np.random.default_rng(seed)), rcond=None)[0].T
        scale = np.cbrt(np.linalg.det(matrix))
        np.testing.assert_allclose(matrix @ matrix.T, scale**2 * np.eye(3), atol=1e-4)
        scales.append(scale)
        tilts.append(np.arccos(matrix[2, 2] / scale))
    assert 0.9 <= min(scales) < max(scales) <= 1.1
    assert 0.0 < max(tilts) <= np.sqrt(2.0) * np.pi / 64 + 1e-3


@pytest.mark.parametrize("pending", [0, 1000])
def test_means_and_votes_of_a_voxel_are_those_of_all_its_points(monkeypatch: pytest.MonkeyPatch, pending: int) -> None:
    monkeypatch.setattr(voxels, "_PENDING", pending)
    sums = VoxelMeans(0.5, "cloud")
    sums.add(np.array([[0.1, 0.2, 0.3], [-0.3, 0, 0]]), np.array([[1.0], [4.0]]), {"label": np.array([7, 1])})
    sums.add(np.array([[0.3, 0.3, 0.1], [0.2, 0.0, 0.2]]), np.array([[3.0], [5.0]]), {"label": np.array([2, 2])})
    points, means, votes = sums.result()
    np.testing.assert_allclose(points, [[-0.3, 0, 0], [0.2, 0.5 / 3, 0.2]], atol=1e-6)
    assert means.tolist() == [[4.0], [3.0]] and votes["label"].tolist() == [1, 2]
    with pytest.raises(SequenceError, match="cloud: has points beyond 524 km"):
        sums.add(np.array([[0.0, 2e6, 0.0]]), np.zeros((1, 1)), {"label": np.zeros(1, np.int64)})
    monkeypatch.setattr(voxels, "MOST_POINTS", 1)
    with pytest.raises(SequenceError, match="more than 1 voxels of 0.5 m. Crop it"):
        sums.result()


# Features of pixels at points.


SCENE = room(0, step=0.1, views=3)
SETTINGS = LiftingSettings(width=CAMERA.width, tolerance=0.05, border=2, points=0)


class Constant:
    """The same features at every pixel of a view: its number, and one."""

    def key(self, scene: str) -> str:
        return "constant"

    def at(self, scene: PointScene, view: RgbdView, image: NDArray[np.uint8], pixels: Tensor) -> Tensor:
        return torch.tensor([float(view.name[-1]), 1.0]).expand(len(pixels), 2)


class Other(Constant):
    def key(self, scene: str) -> str:
        return "other"


def bank(dim: int = 8) -> TextBank:
    rows = np.random.default_rng(0).normal(size=(len(CLASSES), dim))
    return TextBank(CLASSES, rows.astype(np.float16), "tiny", "0" * 64, "a {} in a scene")


def views_that_see(scene: PointScene, row: int) -> list[int]:
    """The readable twin: the pixel of the point shows its depth, and lies not in the border of the image."""
    found = []
    for number, view in enumerate(scene.views):
        x, y, z = np.asarray(view.world_from_camera.inverse().apply(scene.points[row].astype(np.float64)))
        if z <= 0.0:
            continue
        u, v = round(CAMERA.fx * x / z + CAMERA.cx), round(CAMERA.fy * y / z + CAMERA.cy)
        if not (2 <= u < CAMERA.width - 2 and 2 <= v < CAMERA.height - 2):
            continue
        depth = float(view.depth()[v, u])
        if abs(depth - z) <= 0.05 * depth:
            found.append(number)
    return found


def test_a_point_gets_the_plain_mean_of_the_views_that_see_it() -> None:
    rows, features = lift(SCENE, {"constant": Constant()}, SETTINGS)
    seen = {row: views_that_see(SCENE, row) for row in range(0, len(SCENE), 9)}
    assert [row for row in rows.tolist() if row in seen] == [row for row, views in seen.items() if views]
    assert 0.2 < len(rows) / len(SCENE) < 0.9 and max(map(len, seen.values())) == 3
    for row, found in zip(rows.tolist(), features["constant"], strict=True):
        assert row not in seen or found.tolist() == pytest.approx([np.mean(seen[row]), 1.0], abs=1e-3)
    assert features["constant"].dtype == np.float16


def test_ambiguity_is_how_far_directions_are_from_their_mean() -> None:
    """Views give (0, 1), (1, 1) and (2, 1): the first two differ by 45°, so that their mean is cos 22.5° long."""
    found = ambiguity(SCENE, {"constant": Constant()}, SETTINGS)["constant"]
    pairs = 0
    for row in range(0, len(SCENE), 9):
        seen = views_that_see(SCENE, row)
        directions = np.array([[number, 1.0] for number in seen]) / np.sqrt([[1.0 + number**2] for number in seen])
        expected = 1.0 - np.linalg.norm(directions.mean(axis=0)) if len(seen) > 1 else np.nan
        assert found[row] == pytest.approx(expected, abs=1e-5, nan_ok=True)
        if seen == [0, 1]:
            pairs += 1
            assert expected == pytest.approx(1.0 - np.cos(np.pi / 8))
    assert pairs


def test_views_with_features_of_another_width_are_refused() -> None:
    class Changing(Constant):
        def at(self, scene: PointScene, view: RgbdView, image: NDArray[np.uint8], pixels: Tensor) -> Tensor:
            return torch.ones(len(pixels), 2 + int(view.name[-1]))

    with pytest.raises(ConfigurationError, match="teacher a, scene room 0, view view_1: features of 3 numbers, where"):
        lift(SCENE, {"a": Changing()}, SETTINGS)


def test_some_points_are_drawn_where_there_are_too_many_and_none_where_nothing_is_seen() -> None:
    rows, _ = lift(SCENE, {"constant": Constant()}, dataclasses.replace(SETTINGS, points=500))
    assert 100 < len(rows) < 500 and (np.diff(rows) > 0).all()
    with pytest.raises(SequenceError, match="scene room 0: none of its 0 views sees a point"):
        lift(room(0, step=0.1), {"constant": Constant()}, SETTINGS)


def test_lifted_features_are_made_once_and_by_teacher(tmp_path: Path) -> None:
    asked: list[int] = []

    def read() -> PointScene:
        asked.append(1)
        return SCENE

    def kept(settings: LiftingSettings = SETTINGS, **teachers: Any) -> LiftedScene:
        return keep_lifted(tmp_path, {"folder": "rooms"}, "a", read, teachers, settings)

    first, again = kept(constant=Constant()), kept(other_name=Constant())
    assert len(asked) == 1
    both = kept(constant=Constant(), other=Other())
    assert len(asked) == 2 and len(list(tmp_path.glob("rooms-*/a/features-*"))) == 2
    np.testing.assert_array_equal(first.points, SCENE.points)
    np.testing.assert_array_equal(again.features["other_name"], both.features["constant"])
    hidden = np.setdiff1d(np.arange(len(SCENE)), both.rows)[:1]
    found = both.at("constant", np.array([both.rows[5], hidden[0]]))
    assert found[0].tolist() == both.features["constant"][5].tolist() and not found[1].any()
    kept(dataclasses.replace(SETTINGS, border=3), constant=Constant())
    assert len(asked) == 3
    for file in tmp_path.glob("*/a/features-*"):
        save_file({"features": np.zeros((7, 2), np.float16)}, file)
    with pytest.raises(SequenceError, match=r"damaged \(features of other points\).*Delete it"):
        kept(constant=Constant())


def test_files_of_views_cover_their_images_evenly(tmp_path: Path) -> None:
    """Two columns of features over 64 pixels: their centres are the pixels 15.5 and 47.5."""
    folder = tmp_path / SCENE.name
    folder.mkdir()
    np.save(folder / "view_0.npy", np.array([[[1.0, 3.0]], [[5.0, 5.0]]], np.float16))
    pixels = torch.tensor([[15.5, 20.0], [31.5, 3.0], [63.0, 47.0]])
    view = SCENE.views[0]
    found = PixelTeacher("lseg", model=f"files:{tmp_path}").open().at(SCENE, view, view.image(), pixels)
    torch.testing.assert_close(found, torch.tensor([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]]))


def test_files_that_hold_no_features_are_refused(tmp_path: Path) -> None:
    (tmp_path / SCENE.name).mkdir()
    for content, message in (
        (None, r"view_0.npy: cannot be read.*docs/reproduce.md"),
        (np.zeros((4, 4)), r"holds float64 \(4, 4\)"),
        (np.array([{}]), "cannot be read as arrays"),
    ):
        if content is not None:
            np.save(tmp_path / SCENE.name / "view_0.npy", content, allow_pickle=True)
        with pytest.raises(ConfigurationError, match=message):
            FeatureFiles(tmp_path).at(SCENE, SCENE.views[0], SCENE.views[0].image(), torch.zeros(1, 2))


def test_features_of_files_are_lifted_again_once_a_file_of_the_scene_has_changed(tmp_path: Path) -> None:
    files, other = FeatureFiles(tmp_path), tmp_path / "other"
    for folder in (tmp_path / "a", other):
        folder.mkdir()
    np.save(tmp_path / "a" / "view_0.npy", np.zeros((2, 3, 3), np.float32))
    first = files.key("a")
    np.save(other / "view_0.npy", np.zeros((2, 3, 3), np.float32))
    assert files.key("a") == first
    os.utime(tmp_path / "a" / "view_0.npy", ns=(1, 1))
    second = files.key("a")
    np.save(tmp_path / "a" / "view_1.npy", np.zeros((2, 3, 3), np.float32))
    assert len({first, second, files.key("a"), files.key("none")}) == 4


def test_tokens_of_a_model_are_read_where_they_lie(tiny_dinov2: Path) -> None:
    teacher = PixelTeacher("dino", model=str(tiny_dinov2), cell=16)
    opened, image = teacher.open(), SCENE.views[0].image()
    tokens = opened._extractor.features(torch.from_numpy(image).permute(2, 0, 1)[None], 16)
    found = opened.at(SCENE, SCENE.views[0], image, torch.tensor([[7.5, 7.5], [23.5, 39.5]]))
    torch.testing.assert_close(found, torch.stack([tokens[0, :, 0, 0], tokens[0, :, 2, 1]]), rtol=1e-4, atol=1e-4)
    smaller = PixelTeacher("dino", model=str(tiny_dinov2), cell=8).open()
    assert "cells of 16" in opened.key("a") and opened.key("a") == teacher.open().key("a") != smaller.key("a")
