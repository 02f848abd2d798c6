"""Views that are turned, zoomed and cropped, against planes, points and rays that are cast."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES, INVALID
from scene_completion_ros.geometry import DEFAULT_GRID_FROM_CAMERA, Camera, RigidTransform, VoxelGrid
from scene_completion_ros.geometry.depth_images import sparse_depth
from scene_completion_ros.geometry.road_plane import RoadPlane, fitted_plane
from scene_completion_ros.geometry.transforms import rotation_of_angles
from scene_completion_training import CONFIGS
from scene_completion_training.configuration import read_configuration
from scene_completion_training.data.completion_samples import (
    CompletionDataSettings,
    CompletionSamples,
    FrozenEncoder,
    map_camera,
    resampled_ground,
)
from scene_completion_training.data.store import Entry, mapped_arrays
from scene_completion_training.data.turned_views import TurnedView, Turns, margined, turned, turned_pose
from scene_completion_training.stages.completion import CompletionConfiguration
from scene_completion_training.viewpoint import Viewpoint, Volume

CANONICAL = Camera(fx=92.0, fy=92.0, cx=79.5, cy=29.5, width=160, height=64)
RECORDED = Camera(fx=230.0, fy=230.0, cx=199.5, cy=79.5, width=400, height=160)
LEVEL, HEIGHT = np.array([0.0, -1.0, 0.0]), 1.65
ROAD = COMMON_CLASSES.index("road")


def plane_depth(camera: Camera, up: np.ndarray, height: float) -> np.ndarray:
    """z-depth of the pixels of a camera that far above a plane without an end."""
    fall = -camera.unproject(camera.pixel_centres()) @ up
    return np.where(fall > 1e-4, height / np.maximum(fall, 1e-9), np.inf).astype(np.float32)


@pytest.mark.parametrize(
    ("roll", "pitch", "zoom"), [(4.0, 0.0, 1.0), (0.0, -3.0, 1.0), (-3.0, 2.0, 1.2), (2.0, 1.0, 0.9)]
)
def test_a_plane_stays_one(roll: float, pitch: float, zoom: float) -> None:
    """That of the turned camera; as the canonical one has it, it is as far below, and as steep times the zoom."""
    view = TurnedView(turned(np.radians(roll), np.radians(pitch)), zoom)
    found = view.depth(plane_depth(RECORDED, LEVEL, HEIGHT), RECORDED, CANONICAL)
    pose = turned_pose(RoadPlane(0.0, 0.0, HEIGHT).upright_from_camera, view.camera_from_seen, 0.0)
    expected = plane_depth(CANONICAL, pose.rotation[2], float(pose.translation[2]))
    near = (found > 0.0) & (expected < 40.0)
    assert near.mean() > 0.25
    off = np.abs(found[near] / expected[near] - 1.0)
    assert (off < 1e-4).mean() > 0.96 and off.max() < 0.1  # but where the image ends, and far away where rows are
    assert (np.isinf(found) == np.isinf(expected))[found > 0.0].mean() > 0.99
    assert np.degrees(RoadPlane.of_mounting(pose).state[:2]) == pytest.approx((roll, pitch * zoom), abs=0.03)
    assert pose.translation[2] == pytest.approx(HEIGHT, rel=2e-3)


def test_depth_is_kept_under_roll_alone_and_points_alone_fall_where_they_are_seen() -> None:
    """LiDAR: 60 points, of which the turned image shows some, each at most half a pixel away."""
    points = np.random.default_rng(0).uniform((-4.0, -1.0, 4.0), (4.0, 1.6, 20.0), (60, 3))
    sparse = sparse_depth(points, RECORDED)
    for rotation in (turned(np.radians(4.0), 0.0), turned(np.radians(-2.0), np.radians(3.0))):
        found = TurnedView(rotation).depth(sparse, RECORDED, CANONICAL)
        seen = points @ rotation
        pixels, inside = CANONICAL.project(seen)
        v, u = np.nonzero(found)
        assert inside.sum() >= len(v) > 40
        for row, column in zip(v, u, strict=True):
            away = np.abs(pixels - (column, row)).max(axis=1)
            assert np.isclose(seen[away < 0.8, 2], found[row, column], rtol=2e-3).any()
    np.testing.assert_allclose(points @ turned(0.07, 0.0)[:, 2], points[:, 2])


def cast(camera: Camera, rotation: np.ndarray) -> np.ndarray:
    """z-depth of a turned camera's pixels, by rays at a level road, and at a car of 3 m by 1.5 m that is 6 m away."""
    rays = camera.unproject(camera.pixel_centres()) @ rotation.T
    road = np.where(rays[..., 1] > 1e-3, HEIGHT / np.maximum(rays[..., 1], 1e-9), np.inf)
    car = 6.0 / rays[..., 2]
    x, y = (rays[..., :2] * car[..., None]).transpose(2, 0, 1)
    return np.where((np.abs(x) < 1.5) & (y > 0.15) & (car < road), car, road).astype(np.float32)


def test_what_is_turned_is_what_a_turned_camera_sees() -> None:
    """At each pixel that shows one surface; at edges one of the two."""
    rotation = turned(np.radians(4.0), np.radians(-3.0))
    found, expected = (
        TurnedView(rotation).depth(cast(RECORDED, np.eye(3)), RECORDED, CANONICAL),
        cast(CANONICAL, rotation),
    )
    known = (found > 0.0) & (expected < 30.0)
    off = np.abs(found[known] / expected[known] - 1.0)
    assert known.mean() > 0.3 and (off < 1e-3).mean() > 0.95


def test_what_lies_beyond_the_image_is_not_shown() -> None:
    """Nor what another view would not show: their edges tell nothing of which is which."""
    image, rotation = np.full((160, 400, 3), 200, np.uint8), turned(np.radians(4.0), 0.0)
    image[:, 200:] = 100
    shown = TurnedView(rotation).shown(RECORDED, CANONICAL)
    pixels = RECORDED.project(CANONICAL.unproject(CANONICAL.pixel_centres()) @ rotation.T)[0]
    inside = ((pixels > 0.5) & (pixels < np.array([399, 159]) - 0.5)).all(axis=-1)
    beyond = ((pixels < -1.0) | (pixels > np.array([399, 159]) + 1.0)).any(axis=-1)
    assert beyond.mean() > 0.04 and shown[inside].all() and not shown[beyond].any()
    picture = TurnedView(rotation).picture(image, RECORDED, CANONICAL)
    clear = inside & (np.abs(pixels[..., 0] - 199.5) > 2.0)
    np.testing.assert_array_equal(picture[clear, 0], np.where(pixels[clear, 0] < 199.5, 200, 100))
    both = TurnedView(rotation, edges=(turned(np.radians(-4.0), 0.0),)).shown(RECORDED, CANONICAL)
    np.testing.assert_array_equal(both, shown & shown[:, ::-1])


def test_no_view_is_wider_than_its_image() -> None:
    """Zooms are drawn evenly of their logarithm, and a picture is not made of what no image shows."""
    wide = replace(RECORDED, fx=180.0, fy=180.0)  # shows a quarter more to each side
    for recorded, least in ((RECORDED, 1.0), (wide, 0.85), (replace(wide, fx=210.0, fy=210.0), 0.97)):
        drawn = [Turns().drawn(np.random.default_rng(seed), recorded, CANONICAL) for seed in range(200)]
        zooms = [view.zoom for view in drawn]
        assert least <= min(zooms) < least * 1.02 and 1.17 < max(zooms) <= 1.2
        level = RoadPlane(0.0, 0.0, 1.0).upright_from_camera
        angles = np.degrees(
            [RoadPlane.of_mounting(turned_pose(level, v.camera_from_seen, 0.0)).state[:2] for v in drawn]
        )
        assert (np.abs(angles[:, 0]) < 4.05).all() and (np.abs(angles[:, 1]) < 3.0 * 1.21).all()
        assert (np.abs(angles).max(axis=0) > (3.7, 2.7)).all()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("data.turned.roll=40", "data.turned.roll: 40°. Take 0 for none, or up to 15 degrees"),
        ("data.turned.zooms=[1.2, 0.9]", r"data.turned.zooms: \[1.2, 0.9\] is no range of zooms around 1"),
        ("data.volume_roll=-1", "data.volume_roll: -1°. Take 0 for none, or up to 10 degrees"),
        ("data.volume_pitch=.nan", "data.volume_pitch: nan is not a finite"),
    ],
)
def test_angles_that_no_view_or_volume_has_are_refused(given: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        read_configuration(CONFIGS / "street.yaml", [given], CompletionConfiguration).check()


@pytest.mark.parametrize(("roll", "pitch"), [(5.0, 0.0), (0.0, 4.0), (-8.0, 5.0)])
def test_the_ground_is_found_however_the_volume_is_tilted(roll: float, pitch: float) -> None:
    """A level ground, and one that rises by 5 %; what lies outside of the volume is unknown."""
    grid = VoxelGrid((0.0, -8.0, -2.0), 0.2, (80, 80, 20))
    wide = VoxelGrid((-5.0, -15.0, -4.0), 0.2, (150, 150, 40))
    tilt = rotation_of_angles(np.radians(roll), np.radians(pitch), 0.0)
    x = wide.axis_centres()[0]
    for rise in (0.0, 0.05):
        ground = np.repeat((-1.0 + rise * x)[:, None], 150, axis=1)
        truth_from_volume = RigidTransform(tilt, np.zeros(3)).matrix
        found = resampled_ground(ground, wide, truth_from_volume, grid, -1.0)
        normal = np.array([-rise, 0.0, 1.0]) @ tilt  # normal · place = −1, in the volume
        across, along, _ = grid.axis_centres()
        expected = (-1.0 - normal[0] * across[:, None] - normal[1] * along) / normal[2]
        within = (expected > -1.99) & (expected < 1.99)
        np.testing.assert_allclose(found[within], expected[within], atol=0.1 * rise + 1e-3)
        assert within.mean() > 0.7 and np.isnan(found[(expected < -2.01) | (expected > 2.01)]).all()


def test_the_plane_of_most_points_is_found() -> None:
    """Among a fifth that stand on it."""
    pose = RigidTransform(rotation_of_angles(0.03, -0.02, 0.0), np.zeros(3)) @ DEFAULT_GRID_FROM_CAMERA
    random = np.random.default_rng(0)
    places = np.column_stack([random.uniform(3.0, 12.0, 400), random.uniform(-3.0, 3.0, 400), np.zeros(400)])
    places[:, 2] = -1.5 + np.where(random.random(400) < 0.2, random.uniform(0.3, 1.5, 400), 0.0)
    found = fitted_plane(pose.inverse().apply(places))
    assert found is not None and found.height == pytest.approx(1.5, abs=0.02)
    assert found.state[:2] == pytest.approx((0.03, -0.02), abs=3e-3)
    assert fitted_plane(places[:5]) is None


VIEWPOINT = Viewpoint(
    CANONICAL, HEIGHT, volume=Volume(ahead=12.8, sideways=6.4, below=2.2, above=1.0, voxel_size=0.4, near=1.0, far=40.0)
)


class Stored:
    """A stored frame of a wall of three houses 8 m ahead on a level road, seen as it is and turned."""

    def __init__(self, folder: Path) -> None:
        grid = VIEWPOINT.volume.grid
        truth = VoxelGrid((0.0, -12.8, -2.2), 0.1, (200, 256, 80))
        label = np.zeros(truth.shape, np.uint8)
        label[80:90] = 1 + (np.arange(256) // 20 % 3)[:, None]
        label[..., :5] = INVALID
        wide = margined(map_camera(CANONICAL))
        exact = DEFAULT_GRID_FROM_CAMERA.matrix
        arrays = {
            "label": label,
            "ground": np.full(truth.shape[:2], -HEIGHT, np.float16),
            "truth_from_camera": exact,
            "volume_from_camera": exact,
            "measured": np.array([True]),
            "origin": np.array([*truth.origin, truth.voxel_size]),
            "wide_depth": np.minimum(plane_depth(wide, LEVEL, HEIGHT), 8.0).astype(np.float16),
            "wide_classes": np.full((wide.height, wide.width), ROAD, np.uint8),
        }
        self.entry, self.grid, self.truth, self.label = Entry(folder), grid, truth, label
        self.entry.write("truth", arrays)

    def versions(self, turns: Turns, count: int) -> list[Any]:
        """The files of the frame as it is, and of further looks at it."""
        frozen = FrozenEncoder(lambda image: {"fused": image[:, :1, ::2, ::2]}, "none")
        image, files = np.full((160, 400, 3), 128, np.uint8), []
        for number in range(count):
            see = frozen.seen(
                lambda _: iter([(0, image)]), RECORDED, VIEWPOINT, {0: self.entry.file("truth")}, "wall", number, turns
            )
            self.entry.write(str(number), next(see([0])))
            files.append((self.entry.file(str(number)), self.entry.file("truth")))
        return files


@pytest.mark.parametrize("turns", [Turns(zooms=(1.0, 1.0)), Turns(8.0, 5.0, (0.85, 1.2))])
def test_voxels_of_a_turned_sample_are_those_of_the_same_places(turns: Turns, tmp_path: Path) -> None:
    """Whether the pose is known or not, mirrored or not; and what black pixels hide is unknown."""
    stored = Stored(tmp_path)
    files = stored.versions(turns, 4)
    settings = CompletionDataSettings(unknown_pose=0.5)
    samples = CompletionSamples([files[1:]], [1.0], settings, VIEWPOINT, seed=0, length=16)
    kinds = set()
    for number in range(16):
        sample, (chosen, _) = samples[number], samples.drawn(number)[0]
        seen = mapped_arrays(chosen)
        stated, side = sample["volume_from_camera"].double().numpy(), -1.0 if sample["mirrored"] else 1.0
        kinds.add((bool(sample["known"]), bool(sample["mirrored"])))
        label = sample["label"].numpy()[:, :: int(side)]
        x, y, z = (part.ravel() for part in np.indices(stored.grid.shape))
        centres = np.asarray(stored.grid.origin) + (np.stack([x, y, z], axis=-1) + 0.5) * stored.grid.voxel_size
        optical = RigidTransform.from_matrix(stated).inverse().apply(centres)
        pixels, inside = CANONICAL.project(optical)
        column, row = (np.floor((pixels[:, axis] + 0.5) / 2).astype(int) for axis in (0, 1))
        shown = seen["shown"][np.where(inside, row, 0).clip(0, 31), np.where(inside, column, 0).clip(0, 79)] & inside
        recorded = optical @ seen["camera_from_seen"][:3, :3].T  # where these places are in the frame as it is
        index, known = stored.truth.index_of(DEFAULT_GRID_FROM_CAMERA.apply(recorded))
        expected = np.where(shown & known, stored.label[tuple(np.where(known[:, None], index, 0).T)], INVALID)
        assert (label.ravel() == expected).mean() > 0.998 and (expected == INVALID)[inside].mean() > 0.01
        assert {1, 2, 3} <= set(label.ravel().tolist())
        height = sample["height"].numpy()[:, :: int(side)]
        places = stored.grid.centres()[:, :, 0].astype(np.float64)
        places[..., 2] = height
        known_ground = np.isfinite(height)
        optical = RigidTransform.from_matrix(stated).inverse().apply(places[known_ground])
        above = DEFAULT_GRID_FROM_CAMERA.apply(optical @ seen["camera_from_seen"][:3, :3].T)[:, 2]
        np.testing.assert_allclose(above, -HEIGHT, atol=2e-3)
        assert known_ground.mean() > 0.3
    assert len(kinds) == 4


def test_a_mirrored_sample_is_the_turned_one_from_the_other_side(tmp_path: Path) -> None:
    """Pixels and voxels alike; and what is known of a sample's pixels is known of what they show alone."""
    stored = Stored(tmp_path)
    files = stored.versions(Turns(), 2)
    settings = CompletionDataSettings(unknown_pose=0.0, volume_roll=0.0, volume_pitch=0.0, stated_height=0.0)
    samples = CompletionSamples([files[1:]], [1.0], settings, VIEWPOINT, seed=0, length=12)
    plain, mirrored = (
        next(samples[n] for n in range(12) if bool(samples[n]["mirrored"]) == wanted) for wanted in (False, True)
    )
    for name in ("depth", "classes", "shown"):
        assert torch.equal(plain[name], mirrored[name].flip(-1))
    for name in ("label", "height"):
        torch.testing.assert_close(plain[name], mirrored[name].flip(1), equal_nan=True)
    roll, *others = plain["road"].tolist()
    assert mirrored["road"].tolist() == [-roll, *others]
    hidden = ~plain["shown"]
    assert 0.01 < hidden.float().mean() < 0.4
    assert (plain["fused"][0][hidden] == 0.0).float().mean() > 0.6 and (plain["fused"][0][~hidden] > 0.0).all()  # black
    assert (plain["depth"][hidden] == 0.0).all() and (plain["classes"][hidden] == INVALID).all()
    pose = RigidTransform.from_matrix(plain["volume_from_camera"].double().numpy())
    assert pose.translation[2] == pytest.approx(0.0, abs=0.01)
    assert np.abs(np.degrees(RoadPlane.of_mounting(pose).state[:2])).max() > 0.5
    above = RigidTransform(np.eye(3), np.array([0.0, 0.0, HEIGHT])) @ pose
    np.testing.assert_allclose([roll, *others], RoadPlane.of_mounting(above).state, atol=1e-6)
    fall = plane_depth(map_camera(CANONICAL), pose.rotation[2], HEIGHT + float(pose.translation[2]))
    depth = plain["depth"].numpy()
    road = (depth > 0.0) & (fall < 7.5)
    assert road.mean() > 0.05
    assert (np.abs(depth[road] / fall[road] - 1.0) < 5e-3).mean() > 0.98  # but at the foot of the wall
