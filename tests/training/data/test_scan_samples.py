"""Samples of frames that LiDAR knows: voxels with classes, of one scan and of several, and parts of drives."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES, EMPTY, INVALID
from scene_completion_ros.geometry import DEFAULT_GRID_FROM_CAMERA, Camera, RigidTransform, VoxelGrid
from scene_completion_ros.sequences.opening import depth_truth, open_recording, voxel_truth
from scene_completion_training.data.completion_samples import (
    CompletionData,
    CompletionDataSettings,
    CompletionSamples,
    CompletionSource,
    FrozenEncoder,
    PixelClasses,
    prepare_samples,
)
from scene_completion_training.data.module import SequenceSource, load_sequence
from scene_completion_training.data.store import mapped_arrays
from scene_completion_training.data.voxel_evidence import OF_NO_CLASS, SKY, scans_around, voxels_of_scans
from scene_completion_training.viewpoint import Viewpoint, Volume

CAMERA = Camera(fx=100.0, fy=100.0, cx=95.5, cy=31.5, width=192, height=96)
GRID = VoxelGrid((0.0, -6.4, -2.1), 0.2, (100, 64, 20))
ROAD, CAR, BUILDING = (COMMON_CLASSES.index(name) for name in ("road", "car", "building"))
HEIGHT, AWAY = 1.45, 6.05  # metres: of the camera above the road, and to the back of a car 1 m high and 2 m wide
POSE = RigidTransform(DEFAULT_GRID_FROM_CAMERA.rotation, np.zeros(3))
SENSOR = np.array([-0.3, 0.0, 0.1])


def scene(*, car: bool = True, moved: float = 0.0) -> np.ndarray:
    """Returns [N, 3] of a road that ends at a wall 15 m ahead, and of the back of a car 1 m high on it."""
    x, y = (part.ravel() for part in np.meshgrid(np.arange(2.5, 15.0, 0.1), np.arange(-3.0, 3.0, 0.1)))
    road = np.stack([x, y, np.full(len(x), -HEIGHT)], axis=-1)
    y, z = (part.ravel() for part in np.meshgrid(np.arange(-3.0, 3.0, 0.1), np.arange(-HEIGHT, 1.0, 0.1)))
    wall = np.stack([np.full(len(y), 15.1), y, z], axis=-1)
    y, z = (
        part.ravel() for part in np.meshgrid(np.arange(-0.95, 1.0, 0.1), np.arange(-HEIGHT + 0.2, -HEIGHT + 1, 0.1))
    )
    back = np.stack([np.full(len(y), AWAY), y + moved, z], axis=-1)
    behind = np.concatenate([road, wall])
    rays = (behind - SENSOR) * ((AWAY - SENSOR[0]) / (behind[:, :1] - SENSOR[0])) + SENSOR
    hidden = (behind[:, 0] > AWAY) & (np.abs(rays[:, 1] - moved) < 1.0) & (rays[:, 2] < 1.0 - HEIGHT) & car
    return np.concatenate([behind[~hidden], *([back] if car else [])])


@pytest.fixture(scope="module")
def pixels() -> tuple[np.ndarray, np.ndarray]:
    """Depth and classes of the image: the car's pixels spread a little beyond it, as those of networks do."""
    v, u = np.mgrid[: CAMERA.height, : CAMERA.width]
    fall, aside = (v - CAMERA.cy) / CAMERA.fy, (u - CAMERA.cx) / CAMERA.fx
    road = np.where(fall > HEIGHT / 15.1, HEIGHT / np.maximum(fall, 1e-9), 15.1)
    on_car = (np.abs(aside * AWAY) < 1.0) & (fall * AWAY > HEIGHT - 1.0) & (fall * AWAY < HEIGHT)
    around = (np.abs(aside * AWAY) < 1.3) & (fall * AWAY > HEIGHT - 1.2) & (fall * AWAY < HEIGHT)
    classes = np.where(around, CAR, np.where(road < 15.1, ROAD, np.where(v > 10, BUILDING, SKY)))
    return np.where(on_car, AWAY, road).astype(np.float32), classes.astype(np.uint8)


def label_at(label: np.ndarray, x: float, y: float, z: float) -> int:
    index, inside = GRID.index_of(np.array([[x, y, z]]))
    assert inside.all()
    return int(label[tuple(index[0])])


def test_one_scan_knows_free_space_surfaces_and_the_ground(pixels: tuple[np.ndarray, np.ndarray]) -> None:
    label, ground = voxels_of_scans([(scene(), SENSOR)], *pixels, CAMERA, GRID, POSE)
    assert label_at(label, AWAY, 0.05, -0.8) == CAR and label_at(label, 15.1, 0.05, 0.0) == BUILDING
    assert label_at(label, 4.0, 0.05, -HEIGHT) == ROAD and label_at(label, 12.0, 2.85, -HEIGHT) == ROAD
    assert label_at(label, 15.1, 0.05, -1.15) == OF_NO_CLASS  # its pixel shows the car before it
    assert label_at(label, AWAY + 2.0, 0.05, -0.9) == INVALID  # behind the car
    assert (label[20:28, 30:34, 7:10] == EMPTY).mean() > 0.5 and not (label[..., :4] == EMPTY).any()
    assert ground[20:28, 30:34] == pytest.approx(np.full((8, 4), -HEIGHT), abs=0.02)
    assert np.isnan(ground[80:]).all() and np.isnan(ground[:, :8]).all()


def test_most_scans_say_what_the_own_one_does_not_know(pixels: tuple[np.ndarray, np.ndarray]) -> None:
    """Of a car that drives away to the left, the own scan holds the right one of its two places."""
    own, gone = scene(), scene(car=False)
    own = own[own[:, 1] < 1.0]
    later = [(scene(moved=1.2), SENSOR)]
    for count, expected in (0, OF_NO_CLASS), (6, EMPTY):
        empty = [(gone, SENSOR + (0.05 * number, 0.0, 0.0)) for number in range(count)]
        label, _ = voxels_of_scans([(own, SENSOR), *later, *empty], *pixels, CAMERA, GRID, POSE)
        assert label_at(label, AWAY, 0.05, -0.8) == CAR and label_at(label, AWAY, 1.15, -0.6) == expected
    alone, _ = voxels_of_scans([(own, SENSOR)], *pixels, CAMERA, GRID, POSE)
    assert label_at(alone, 8.0, 0.05, -HEIGHT) == INVALID and label_at(label, 8.0, 0.05, -HEIGHT) == OF_NO_CLASS
    assert (label != INVALID).sum() > (alone != INVALID).sum()


@pytest.mark.parametrize(("scans", "iou", "known"), [(1, 0.7, 0.5), (10, 0.83, 0.9)])
def test_scans_agree_with_labelled_voxels(shared_data: Path, scans: int, iou: float, known: float) -> None:
    """Before the car of window 00; the labels fuse ten scans, without what moves."""
    sequence = open_recording(shared_data / "kitti_windows" / "sequences" / "00")
    truth, depth = voxel_truth(sequence, 0), depth_truth(sequence, 0)
    assert truth is not None and depth is not None
    around = scans_around(sequence, 0, "image_2", truth.grid_from_camera, Volume())[:scans]
    classes = np.full(depth.depth.shape, INVALID, np.uint8)
    label, _ = voxels_of_scans(around, depth.depth, classes, depth.camera, truth.grid, truth.grid_from_camera)
    wanted = truth.known & truth.in_view
    both = wanted & (label != INVALID)
    found, true = label[both] != EMPTY, truth.occupied[both]
    assert both.sum() > known * wanted.sum()
    assert (found & true).sum() > iou * (found | true).sum() and true[~found].mean() < 0.02


def sees_nothing(image: torch.Tensor) -> dict[str, torch.Tensor]:
    _, _, height, width = image.shape
    return {"fused": torch.zeros(1, 1, height // 2, width // 2)}


FROZEN = FrozenEncoder(sees_nothing, "nothing")
ALL_ROAD = PixelClasses(lambda image: np.full(image.shape[:2], ROAD, np.uint8), "road")


@pytest.mark.parametrize("folder", ["kitti_more/kitti_2015_pairs", "kitti_more/kitti_raw_0005"])
def test_samples_of_scans_are_marked(shared_data: Path, tmp_path: Path, folder: str) -> None:
    sequence, viewpoint = open_recording(shared_data / folder), Viewpoint()
    files = prepare_samples(sequence, [5], tmp_path, FROZEN, viewpoint, classes_of=ALL_ROAD)
    _, truth = files[0]
    stored = mapped_arrays(truth)
    assert stored["scan"].tolist() == [1] and np.isfinite(stored["ground"]).mean() > 0.1
    sample = CompletionSamples([files], [1.0], CompletionDataSettings(), viewpoint, seed=0, length=1, plain=True)[0]
    label, depth = sample["label"].numpy(), sample["depth"].numpy()
    assert (label == EMPTY).mean() > 0.04 and ((label == ROAD).any(axis=2)).mean() > 0.02
    assert (depth > 0.0).mean() > (0.8 if "pairs" in folder else 0.3)  # stereo fills what LiDAR does not know


def test_frames_without_a_scan_are_those_of_stereo(shared_data: Path, tmp_path: Path) -> None:
    sequence = open_recording(shared_data / "kitti_raw" / "2011_09_26_0013")
    files = prepare_samples(sequence, [11], tmp_path, FROZEN, Viewpoint(), classes_of=ALL_ROAD)
    assert "scan" not in mapped_arrays(files[0][1])


def test_a_validation_on_images_of_the_training_is_refused(synthetic_drive: Path, tmp_path: Path) -> None:
    """By their content, whatever they are called; other frames of the drive are none of them."""
    copy = shutil.copytree(synthetic_drive, tmp_path / "copy")

    def data(**of_validation: Any) -> CompletionData:
        sources = [CompletionSource(str(synthetic_drive), last=0.5)]
        validation = [CompletionSource(str(copy), **of_validation)]
        settings = CompletionDataSettings(sources=sources, validation=validation, cache=str(tmp_path / "cache"))
        return CompletionData(settings, Viewpoint(), FROZEN, steps=1, seed=0)

    with pytest.raises(ConfigurationError, match=r"copy/image_2/\d+\....* is trained on, too.*drives, first, last"):
        data().setup("fit")
    with pytest.raises(Exception, match="has no voxels with classes"):  # what comes next
        data(first=0.5).setup("fit")


def test_drives_are_prepared_with_the_network_of_a_folder(
    shared_data: Path, espnetv2_cityscapes: Path, tmp_path: Path
) -> None:
    """Four pairs of two drives; the road before the car is one."""
    folder, weights = str(shared_data / "kitti_more" / "kitti_2015_pairs"), str(espnetv2_cityscapes)
    sources, validation = (
        [CompletionSource(folder, drives=[f"2011_09_26_drive_{number}_sync"])] for number in ("0027", "0036")
    )
    settings = CompletionDataSettings(
        sources=sources, validation=validation, cache=str(tmp_path), segmentation=weights, workers=0
    )
    data = CompletionData(settings, Viewpoint(), FROZEN, steps=1, seed=0)
    data.setup("fit")
    assert data.record()["frames"] == {"training": 2, "validation": 2}
    label = next(iter(data.val_dataloader()))["label"][0].numpy()
    assert ((label == ROAD).sum(), (label == BUILDING).sum()) > (500, 0)


def test_field_stages_take_parts_of_drives(shared_data: Path) -> None:
    source = SequenceSource("kitti_2015_pairs", drives=["2011_09_26_drive_0028_sync"])
    assert len(load_sequence(shared_data / "kitti_more", source)) == 8
    assert len(load_sequence(shared_data / "kitti_more", SequenceSource("kitti_raw_0005", first=0.5))) == 39
