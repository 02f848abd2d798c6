"""Stereo depth, fused occupancy and samples on a synthetic drive whose geometry is known."""

import dataclasses
import gc
import os
import shutil
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.geometry import OPTICAL_FROM_FORWARD, Camera, RigidTransform, VoxelGrid
from scene_completion_ros.inference.head import PointCodeSpec
from scene_completion_ros.sequences.kitti import kitti_odometry
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.data import stereo, view_batches
from scene_completion_training.data.module import (
    DataSettings,
    SequencesData,
    SequenceSource,
    TrainingData,
    load_sequence,
)
from scene_completion_training.data.prepared import PreparedFrame, load_prepared, prepare_sequence
from scene_completion_training.data.stereo import depth_deviation, stereo_depth
from scene_completion_training.data.store import Entry
from scene_completion_training.data.view_batches import DataNeeds, ViewSamples, ViewSettings
from scene_completion_training.data.voxel_evidence import POINT_UNIT, DepthView, FusionSettings, fuse_occupancy
from scene_completion_training.viewpoint import STREET_CAMERA
from tests.training.synthetic_scene import BASELINE, BOX, CAMERA_HEIGHT, CENTRE, FOCAL, WALL_AHEAD, ray_cast

PLAIN = ViewSettings(yaw=0.0, pitch=0.0, roll=0.0, colour_jitter=False, mirror=False, occupancy_points=2000)


FISHEYE = Camera(150.0, 150.0, 199.5, 199.5, 400, 400, "equidistant", (0.01, 0.0, 0.0, 0.0))
LAMP = np.array([-6.0, 1.2, 3.0])
"""A bright spot on the left, in the first camera's frame, metres."""
LOOKING_LEFT = RigidTransform(
    np.array([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]), np.array([-0.3, -0.1, -0.5])
)
"""Optical frame that looks along −x of the rig's optical frame, y down."""


def prepared(sequence: PosedSequence, cache: Path, **settings: int) -> list[PreparedFrame]:
    """Its frames, by default with few voxels."""
    fusion = FusionSettings(**{"free_samples": 5000, "views": 2, **settings})
    return [load_prepared(file) for file in prepare_sequence(sequence, cache, settings=fusion, workers=1)]


@pytest.fixture(scope="module")
def frames(synthetic_drive: Path, tmp_path_factory: pytest.TempPathFactory) -> list[PreparedFrame]:
    """Those of the synthetic drive with a fisheye that sees nothing but the lamp."""
    sequence = kitti_odometry(synthetic_drive)
    seen = []
    for frame in sequence.frames:
        pixel, valid = FISHEYE.project((frame.world_from_rig @ LOOKING_LEFT).inverse().apply(LAMP[None]))
        image = np.zeros((400, 400, 3), np.uint8)
        if valid[0]:
            u, v = np.round(pixel[0]).astype(int)
            image[v - 2 : v + 3, u - 2 : u + 3] = 255
        seen.append(dataclasses.replace(frame, images={**frame.images, "fisheye": partial(np.copy, image)}))
    cameras = {**sequence.cameras, "fisheye": FISHEYE}
    mounted = {**sequence.rig_from_camera, "fisheye": LOOKING_LEFT}
    sequence = dataclasses.replace(sequence, cameras=cameras, rig_from_camera=mounted, frames=seen)
    return prepared(sequence, tmp_path_factory.mktemp("cache"), free_samples=100_000, views=14)


@pytest.mark.parametrize(("reference", "x"), [("left", 0.0), ("right", BASELINE)])
def test_stereo_depth_is_right_for_either_image(reference: str, x: float) -> None:
    left, right = (cv2.cvtColor(ray_cast(np.array([at, 0.0, 0.0]))[0], cv2.COLOR_RGB2GRAY) for at in (0.0, BASELINE))
    truth = ray_cast(np.array([x, 0.0, 0.0]))[1]
    depth = stereo_depth(left, right, FOCAL, BASELINE, reference=reference)
    known = (depth > 0) & (truth < 40)
    error = np.abs(depth[known] - truth[known]) / truth[known]
    assert known.mean() > 0.7
    assert np.median(error) < 0.02
    assert np.mean(error > 0.25) < 0.05


def test_the_disparity_of_a_road_does_not_lag_behind() -> None:
    """One matching alone, which sums costs from above, is 0.1 to 0.3 pixels short where disparity grows downwards."""
    generator = np.random.default_rng(0)
    texture = cv2.GaussianBlur(generator.uniform(0, 255, (200, 700)).astype(np.float32), (0, 0), 1.2)
    left = np.clip((texture - texture.mean()) * 4.0 + 128.0, 0, 255).astype(np.float32)
    disparity = np.broadcast_to(10.0 + 0.33 * np.arange(200, dtype=np.float32)[:, None], left.shape)
    u, v = np.meshgrid(np.arange(700, dtype=np.float32), np.arange(200, dtype=np.float32))
    right = cv2.remap(left, u + disparity, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    depth = stereo_depth(left.astype(np.uint8), right.astype(np.uint8), 1.0, 1.0)
    inside = (depth > 0) & (u > 120) & (u < 580) & (v > 20) & (v < 180)
    assert inside.sum() > 20_000
    assert abs(np.median(1.0 / depth[inside] - disparity[inside])) < 0.05


def test_fusion_sees_behind_the_box_once_the_drive_passes_it() -> None:
    """With exact depth: wall and box fronts occupied, the space before them free, behind the box known from ahead."""
    grid = VoxelGrid((0.0, -6.4, -2.4), 0.2, (160, 64, 24), "forward")
    matrix = np.array([[FOCAL, 0, CENTRE[0]], [0, FOCAL, CENTRE[1]], [0, 0, 1.0]])

    def view(forward: float) -> DepthView:
        depth = ray_cast(np.array([0.0, 0.0, forward]))[1].astype(np.float32)
        grid_from_camera = OPTICAL_FROM_FORWARD.inverse() @ RigidTransform(np.eye(3), np.array([0.0, 0.0, forward]))
        return DepthView(depth, matrix, grid_from_camera, depth_deviation(depth, FOCAL * BASELINE))

    def known_near(views: list[DepthView], x: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.default_rng(0)
        centres, target, _ = fuse_occupancy(views, grid, free_samples=400_000, generator=generator)
        inside = (centres[:, 0] > x[0]) & (centres[:, 0] < x[1])
        inside &= (np.abs(centres[:, 1]) < 0.8) & (np.abs(centres[:, 2] + 0.5) < 0.5)
        return centres[inside], target[inside]

    behind = (BOX[1][2] + 1.0, WALL_AHEAD - 1.5)
    _, from_first = known_near([view(0.0)], behind)
    _, passed = known_near([view(0.0), view(16.0)], behind)
    assert len(from_first) < 0.02 * len(passed)
    assert passed.mean() < 0.02
    _, front = known_near([view(0.0)], (BOX[0][2] - 0.05, BOX[0][2] + 0.25))
    assert front.mean() > 0.9
    _, wall = known_near([view(16.0)], (WALL_AHEAD - 0.05, WALL_AHEAD + 0.25))
    assert len(wall) and wall.mean() > 0.9
    _, before = known_near([view(0.0)], (5.0, BOX[0][2] - 1.0))
    assert len(before) and before.max() < 0.05


def test_prepared_voxels_lie_on_the_surfaces(frames: list[PreparedFrame]) -> None:
    """Hit voxels of the first frame are ground, box or wall, within what stereo matching resolves."""
    frame = frames[0]
    points = frame.points.astype(float)[frame.target > 200] * POINT_UNIT
    near = points[(points[:, 2] < 20) & (np.abs(points[:, 0]) < 5)]
    ground = np.abs(near[:, 1] - CAMERA_HEIGHT) < 0.35
    box = (near[:, 2] > BOX[0][2] - 0.7) & (near[:, 2] < BOX[1][2] + 0.7)
    box &= (near[:, 0] > BOX[0][0] - 0.4) & (near[:, 0] < BOX[1][0] + 0.4)
    assert len(near) > 500
    assert np.mean(ground | box) > 0.93


def test_samples_depend_on_seed_and_number_alone(frames: list[PreparedFrame]) -> None:
    settings = ViewSettings(occupancy_points=500)
    samples, again, other = (ViewSamples([frames], settings, seed=seed, length=10) for seed in (1, 1, 2))
    _ = again[7]
    first, second = samples[3], again[3]
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["image"], samples[4]["image"])
    assert not torch.equal(first["points"], other[3]["points"])
    few = ViewSamples([frames], settings, DataNeeds(rendered=False), seed=1, length=12, distinct=4)
    epochs = [[few[number]["points"].sum().item() for number in range(start, start + 4)] for start in (0, 4, 8)]
    assert len(set(epochs[0])) == 4 and sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2])
    assert not epochs[0] == epochs[1] == epochs[2]


@pytest.mark.parametrize("mirror", [False, True])
def test_views_hints_and_poses_belong_together(frames: list[PreparedFrame], mirror: bool) -> None:
    """Colours of the encoder view, warped through depth hints and poses into every other view, agree."""
    settings = ViewSettings(yaw=3.0, pitch=2.0, roll=1.5, colour_jitter=False, mirror=mirror, occupancy_points=100)
    samples = ViewSamples([frames], settings, seed=5, length=40)
    errors = []
    for number in range(8):
        sample = samples[number]
        hint = sample["hints"][0].numpy()
        v, u = np.nonzero((hint > 3) & (hint < 30))
        ray = np.linalg.inv(STREET_CAMERA.matrix) @ np.stack([u, v, np.ones(len(u))])
        points = sample["encoder_from_view"][0].numpy().astype(float) @ np.vstack([ray * hint[v, u], np.ones(len(u))])
        for view in (1, 2, 3):
            local = np.linalg.inv(sample["encoder_from_view"][view].numpy().astype(float)) @ points
            pixel, valid = STREET_CAMERA.project(local[:3].T)
            pixel = np.round(pixel[valid]).astype(int).clip(0, [639, 191])
            here = sample["views"][0].numpy()[:, v[valid], u[valid]]
            there = sample["views"][view].numpy()[:, pixel[:, 1], pixel[:, 0]]
            errors.append(np.median(np.abs(here - there)))
        encoder_pixel, valid = STREET_CAMERA.project(points[:3].T)
        encoder_pixel = np.round(encoder_pixel[valid]).astype(int).clip(0, [639, 191])
        here = sample["views"][0].numpy()[:, v[valid], u[valid]]
        there = sample["image"].numpy()[:, encoder_pixel[:, 1], encoder_pixel[:, 0]] / 255.0
        depth = sample["hint"].numpy()[encoder_pixel[:, 1], encoder_pixel[:, 0]]
        assert np.median(np.abs(depth / points[2, valid] - 1.0)) < 0.005
        errors.append(np.median(np.abs(here - there)))
    # A shift of four pixels in this texture costs 0.24.
    assert np.max(errors) < 0.08 and np.median(errors) < 0.05, errors


def test_what_cannot_be_trained_on_is_refused(synthetic_drive: Path, tmp_path: Path) -> None:
    sequence = kitti_odometry(synthetic_drive)
    lens = {name: dataclasses.replace(of, distortion_model="plumb_bob", distortion=(0.1, 0.0, 0.0, 0.0))
            for name, of in sequence.cameras.items()}  # fmt: skip
    dataclasses.replace(sequence, cameras=lens).save(tmp_path / "bent")
    sequence.metric_scale = False
    sequence.save(tmp_path / "unscaled")
    sequence.provenance["role"] = "demo"
    sequence.save(tmp_path / "held_out")
    for folder, words in (
        ("unscaled", "scale: unknown"), ("held_out", "demo town"), ("nothing", "no such file or folder"),
        ("bent", "those of a lens, not rectified. Extract the drive"),
    ):  # fmt: skip
        with pytest.raises(SequenceError, match=words):
            load_sequence(tmp_path, SequenceSource(folder))
    Entry(tmp_path).write("000000", {"camera_left": np.zeros(5)})
    with pytest.raises(SequenceError, match=r"000000.safetensors: damaged.*Delete it"):
        load_prepared(tmp_path / "000000.safetensors")


def test_unrelated_pairs_are_drives_of_one_frame(synthetic_drive: Path, tmp_path: Path) -> None:
    """Depth and evidence are what each pair alone says; no sample mixes two of them."""
    shutil.copytree(synthetic_drive, tmp_path / "pairs")
    (tmp_path / "pairs" / "poses.txt").unlink()
    settings = DataSettings(
        root=str(tmp_path), cache=str(tmp_path / "cache"), sources=[SequenceSource("pairs", poses="none", share=0.5)],
        fusion=FusionSettings(free_samples=20_000), views=dataclasses.replace(PLAIN, far_views=True),
    )  # fmt: skip
    data = SequencesData(settings, steps=8, seed=0)
    data.setup("fit")
    assert [len(drive) for drive in data.frames] == [1] * 4 and data.shares == [0.5] * 4
    # The pair says nothing of what hides behind the box; the whole drive does, see above.
    (first,) = data.frames[0]
    points = first.points[first.target > 128] * POINT_UNIT
    hidden = (np.abs(points[:, 0]) < 0.4) & (points[:, 2] > BOX[1][2] + 1.0) & (points[:, 1] > 0.8)
    assert len(points) > 1000 and not hidden.any()
    samples = data.samples()
    for number in range(8):
        sample = samples[number]
        assert sample["weight"].max() > 0.0 and (sample["hint"] > 0.0).any()
        shown = sample["masks"].flatten(1).any(dim=1)
        assert shown.sum() == 2  # of the eight views, the pair
        poses = sample["encoder_from_view"][shown]
        assert sorted(poses[:, 0, 3].abs().tolist()) == pytest.approx([0.0, BASELINE], abs=1e-3)
        assert poses[:, 2, 3].abs().max() < 1e-4


def test_a_fisheye_is_rectified_where_its_pose_says(frames: list[PreparedFrame]) -> None:
    """The lamp, through the stored pose and the canonical camera, is where the prepared image is lit."""
    seen = 0
    for frame in frames:
        assert set(frame.images) == {"left", "right", "aside_fisheye"} and set(frame.depths) == {"left", "right"}
        pixel, valid = STREET_CAMERA.project(frame.world_from_camera["aside_fisheye"].inverse().apply(LAMP[None]))
        image = frame.images["aside_fisheye"][..., 0]
        if not valid[0]:
            continue
        seen += 1
        v, u = np.nonzero(image > 100)
        # A pixel of the fisheye, to which the lamp was rounded, covers three to four here.
        assert len(v) and abs(u.mean() - pixel[0, 0]) < 2.0 and abs(v.mean() - pixel[0, 1]) < 2.0
    assert seen >= 2


def steps(poses: torch.Tensor, mounted: float = 0.0) -> list[int]:
    """How many frames, of 1.5 m, poses stand ahead of the own camera, of a camera mounted so far ahead."""
    return [round((float(pose[2, 3]) - mounted) / 1.5) for pose in poses]


def test_further_views_stand_as_far_along_as_asked_for(
    frames: list[PreparedFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No view comes twice while there are others, and the drive's end takes what comes nearest."""
    monkeypatch.setattr(view_batches, "FAR_M", (2.5, 3.5))
    monkeypatch.setattr(view_batches, "ENCODED_M", 3.0)
    settings = dataclasses.replace(PLAIN, far_views=True)
    samples = ViewSamples([frames], settings, DataNeeds(encoder_views=4), seed=0, length=40)
    far, encoded, sides = set(), set(), set()
    for number in range(12):
        sample = samples[number]
        views, others = sample["encoder_from_view"], sample["encoder_poses"]
        assert sample["views"].shape == (8, 3, 192, 640)
        assert len(views.flatten(1).unique(dim=0)) == 8 and len(others.flatten(1).unique(dim=0)) == 4
        # The fisheye, and the pair in place of a second one, which alone has stereo depth.
        assert sample["hints"][4].abs().max() == 0 and sample["hints"][6].max() > 0
        first, second = steps(views[4:6], float(LOOKING_LEFT.translation[2]))
        assert abs(second - first) == 1
        far.add(first)
        encoded.add(steps(others)[1])
        sides |= {round(abs(float(pose[0, 3])), 3) for pose in others}
    assert far == {0, 1, 2} and {1, 2} <= encoded <= {-1, 0, 1, 2} and sides == {0.0, round(BASELINE, 3)}


def _of_one_camera(drive: Path, folder: Path) -> PosedSequence:
    """The drive as its left camera alone recorded it."""
    return kitti_odometry(shutil.copytree(drive, folder / "alone", ignore=shutil.ignore_patterns("image_3")))


def test_the_motion_of_one_camera_says_depth_and_voxels(
    synthetic_drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stereo, "PIXELS", 30_000)
    alone = _of_one_camera(synthetic_drive, tmp_path)
    moved, paired = (prepared(sequence, tmp_path)[1] for sequence in (alone, kitti_odometry(synthetic_drive)))
    assert set(moved.images) == set(moved.depths) == {"left"} and moved.has_evidence
    depths = [frame.depths["left"].astype(np.float32) for frame in (moved, paired)]
    both = (depths[0] > 0.0) & (depths[1] > 0.0)
    assert both.mean() > 0.3
    assert np.median(np.abs(depths[0] / np.where(both, depths[1], 1.0) - 1.0)[both]) < 0.03


def test_one_camera_is_enough_for_views_but_not_for_voxels(synthetic_drive: Path, tmp_path: Path) -> None:
    """Neighbouring frames stand in for the other camera; where all are far away, nothing is claimed about depth."""
    sequence = _of_one_camera(synthetic_drive, tmp_path)
    far = [RigidTransform(np.eye(3), 10.0 * frame.world_from_rig.translation) for frame in sequence.frames]
    spread = [dataclasses.replace(one, world_from_rig=pose) for one, pose in zip(sequence.frames, far, strict=True)]
    sequence = dataclasses.replace(sequence, frames=spread)
    frames = prepared(sequence, tmp_path)
    assert set(frames[0].images) == {"left"} and not frames[0].depths["left"].any() and not frames[0].has_evidence
    settings = dataclasses.replace(PLAIN, far_views=True, mirror=True)
    samples, short = (  # of twelve frames to choose from, and of four
        ViewSamples([frames * times], settings, DataNeeds(encoder_views=3), seed=0, length=20) for times in (3, 1)
    )
    for number in range(6):
        sample = samples[number]
        assert sample["weight"].sum() == 0 and sample["hints"].abs().max() == 0 and len(sample["points"]) == 2000
        assert sample["masks"].flatten(1).any(dim=1).all()
        shown = short[number]["masks"].flatten(1).any(dim=1)
        assert shown.sum() == 4 and shown[:4].all()  # four frames give four views; those that come again show nothing
    assert torch.isfinite(samples.mean_depth_code(PointCodeSpec())).all()


class Engine:
    """It cannot end in a process that was forked from its own: there it would wait for its threads."""

    def __init__(self, ended: Path) -> None:
        self.itself, self.process, self.ended = self, os.getpid(), ended

    def __del__(self) -> None:
        (self.ended / ("here" if os.getpid() == self.process else "in a worker")).touch()


class Collecting:
    """Samples that take so much that garbage is collected."""

    def __getitem__(self, number: int) -> int:
        return gc.collect() * 0 + number


def test_no_worker_ends_what_the_training_left(tmp_path: Path) -> None:
    """A training hung where its worker collected the engines of teachers."""
    data = TrainingData(DataSettings(batch_size=2, workers=1), steps=2, seed=0)
    gc.disable()
    try:
        Engine(tmp_path)
        assert [sorted(batch.tolist()) for batch in data.served(Collecting())] == [[0, 1], [2, 3]]  # type: ignore[attr-defined]
    finally:
        gc.enable()
    assert [file.name for file in tmp_path.iterdir()] == ["here"]
