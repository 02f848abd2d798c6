"""Stereo depth, fused occupancy and samples on a synthetic drive whose geometry is known."""

from __future__ import annotations

import dataclasses
import io
import resource
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import safetensors.numpy
import torch
from tqdm import tqdm

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.evaluation.semantic_classes import INVALID, SEMANTIC_KITTI_TO_COMMON
from scene_completion_ros.geometry import OPTICAL_FROM_FORWARD, RigidTransform, VoxelGrid
from scene_completion_ros.inference.point_code import PointCodeSpec
from scene_completion_ros.sequences.kitti import kitti_odometry
from scene_completion_ros.sequences.rigs import stereo_pair
from scene_completion_training import workers as workers_module
from scene_completion_training.data import prepared
from scene_completion_training.data.ground_plane import ground_roll
from scene_completion_training.data.module import (
    DataSettings,
    SequencesData,
    SequenceSource,
    load_sequence,
    matching,
)
from scene_completion_training.data.prepared import PreparedFrame, load_prepared, prepare_sequence
from scene_completion_training.data.stereo import depth_deviation, stereo_depth
from scene_completion_training.data.view_batches import ViewSamples, ViewSettings, misread
from scene_completion_training.data.voxel_evidence import POINT_UNIT, DepthView, FusionSettings, fuse_occupancy
from scene_completion_training.viewpoint import STREET_CAMERA, Viewpoint
from tests.training.synthetic_scene import BASELINE, BOX, CAMERA_HEIGHT, CENTRE, FOCAL, WALL_AHEAD, ray_cast

PLAIN = ViewSettings(yaw=0.0, pitch=0.0, roll=0.0, colour_jitter=False, mirror=False, occupancy_points=2000)


@pytest.fixture(scope="module")
def frames(synthetic_drive: Path, tmp_path_factory: pytest.TempPathFactory) -> list[PreparedFrame]:
    files = prepare_sequence(
        kitti_odometry(synthetic_drive),
        tmp_path_factory.mktemp("cache"),
        settings=FusionSettings(free_samples=100_000),
        workers=1,
    )
    return [load_prepared(file) for file in files]


def test_many_prepared_frames_take_neither_memory_nor_descriptors(tmp_path: Path) -> None:
    values = np.zeros(1_000_000, np.uint8)
    pose = {
        f"{kind}_left": value for kind, value in (("camera", np.array([370.0, 370, 5, 5, 10, 10])), ("pose", np.eye(4)))
    }
    image, mask = np.zeros((10, 10, 3), np.uint8), np.ones((10, 10), np.uint8)
    arrays = {**pose, "image_left": image, "mask_left": mask, "points": values, "target": values, "evidence": values}
    safetensors.numpy.save_file(arrays, tmp_path / "frame.safetensors")
    descriptors, resident = _descriptors(), _resident_bytes()
    frames = [load_prepared(tmp_path / "frame.safetensors") for _ in range(200)]
    assert _descriptors() == descriptors
    assert _resident_bytes() - resident < 200 * 3_000_000 / 4
    assert not frames[0].points.flags.writeable
    assert all(frame.masks["left"].all() for frame in frames)


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_damaged_prepared_frames_are_named(synthetic_drive: Path, tmp_path: Path) -> None:
    file, *_ = prepare_sequence(
        kitti_odometry(synthetic_drive), tmp_path, settings=FusionSettings(free_samples=5000), workers=1
    )
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(SequenceError, match="damaged") as caught:
        load_prepared(file)
    assert str(file) in str(caught.value) and "Delete it" in str(caught.value)
    file.write_bytes(b"{}")
    with pytest.raises(SequenceError, match="damaged"):
        load_prepared(file)
    file.write_bytes(b"")
    with pytest.raises(SequenceError, match="damaged"):
        load_prepared(file)


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


def test_stereo_pair_is_found_with_its_baseline(synthetic_drive: Path) -> None:
    assert stereo_pair(kitti_odometry(synthetic_drive)) == ("image_2", "image_3", pytest.approx(BASELINE))
    with pytest.raises(SequenceError, match="no rectified stereo pair"):
        stereo_pair(kitti_odometry(synthetic_drive, cameras=["image_2"]))


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


def test_preparation_is_cached(
    synthetic_drive: Path, frames: list[PreparedFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequence, settings = kitti_odometry(synthetic_drive), FusionSettings(free_samples=1000, views=2)
    first = prepare_sequence(sequence, tmp_path, settings=settings, workers=1)
    stamps = [file.stat().st_mtime_ns for file in first]
    first[1].unlink()
    again = prepare_sequence(sequence, tmp_path, settings=settings, workers=1)
    assert [file.stat().st_mtime_ns for i, file in enumerate(again) if i != 1] == stamps[:1] + stamps[2:]
    assert again[1].exists()
    other = prepare_sequence(sequence, tmp_path, settings=FusionSettings(free_samples=1000, views=3), workers=1)
    assert set(other).isdisjoint(again)


def test_any_number_of_processes_prepares_the_same(
    synthetic_drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "_FRAMES_A_PROCESS", 1)
    started = []
    pool = prepared.ProcessPoolExecutor
    monkeypatch.setattr(
        prepared, "ProcessPoolExecutor", lambda count, **named: started.append(count) or pool(count, **named)
    )
    sequence, settings = kitti_odometry(synthetic_drive), FusionSettings(free_samples=1000, views=2)
    alone, together = (
        prepare_sequence(sequence, tmp_path / str(workers), settings=settings, workers=workers) for workers in (1, 2)
    )
    assert started == [2]
    assert [file.name for file in alone] == [file.name for file in together] and len(alone) == 4
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(alone, together, strict=True))


def test_samples_depend_on_seed_and_number_alone(frames: list[PreparedFrame]) -> None:
    samples = ViewSamples([frames], ViewSettings(occupancy_points=500), seed=1, length=10)
    again = ViewSamples([frames], ViewSettings(occupancy_points=500), seed=1, length=10)
    _ = again[7]
    first, second, other = samples[3], again[3], samples[4]
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["image"], other["image"])
    different = ViewSamples([frames], ViewSettings(occupancy_points=500), seed=2, length=10)[3]
    assert not torch.equal(first["points"], different["points"])


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


def _tilted(frame: PreparedFrame, angle: float) -> PreparedFrame:
    """The frame's voxels with the world turned about the optical axis: y grows with x by `angle`."""
    turn = RigidTransform(np.asarray(cv2.Rodrigues(np.array([0.0, 0.0, angle]))[0]), np.zeros(3))
    points = np.round(np.asarray(turn.apply(frame.points * POINT_UNIT)) / POINT_UNIT).astype(np.int16)
    return dataclasses.replace(frame, points=points)


def test_a_mirrored_road_tilts_as_before(frames: list[PreparedFrame]) -> None:
    """A camera that stands askew sees the road tilted; mirrored left to right it would be tilted the other way."""
    level = np.degrees(ground_roll(frames, Viewpoint()))
    assert abs(level) < 0.3
    askew = [_tilted(frame, np.radians(2.0)) for frame in frames]
    assert np.degrees(ground_roll(askew, Viewpoint())) == pytest.approx(level + 2.0, abs=0.3)
    samples = ViewSamples([askew], dataclasses.replace(PLAIN, mirror=True), seed=0, length=1)
    numbers = range(12)
    mirrored = [samples._draw(number, np.random.default_rng((0, number))).mirror for number in numbers]
    assert 0 < sum(mirrored) < len(mirrored)
    for number in numbers:
        sample = samples.occupancy(number)
        points = np.round(sample["points"].numpy() / POINT_UNIT).astype(np.int16)
        seen = dataclasses.replace(frames[0], points=points, target=(sample["target"].numpy() * 255).astype(np.uint8))
        assert np.degrees(ground_roll([seen], Viewpoint())) == pytest.approx(2.0, abs=0.6), mirrored[number]
    plain = samples.unmirrored()
    for number in numbers:
        draw, unmirrored = (s._draw(number, np.random.default_rng((0, number))) for s in (samples, plain))
        assert not unmirrored.mirror
        assert (draw.index, draw.side) == (unmirrored.index, unmirrored.side)
        assert draw.mirror or np.allclose(draw.turn, unmirrored.turn)


def test_covered_edges_repeat_the_last_row_that_is_shown_and_have_no_depth(frames: list[PreparedFrame]) -> None:
    settings = dataclasses.replace(PLAIN, covered=14)
    covered = [0, 0]
    for number in range(8):
        plain, found = (ViewSamples([frames], s, seed=3, length=8)[number] for s in (PLAIN, settings))
        image, whole = found["image"], plain["image"]
        first, last = (int(part) for part in torch.nonzero((image == whole).all(dim=2).all(dim=0))[[0, -1], 0])
        assert 0 <= first <= 14 and whole.shape[1] - 15 <= last < whole.shape[1]
        assert (image[:, :first] == image[:, first : first + 1]).all()
        assert (image[:, last:] == image[:, last : last + 1]).all()
        assert not found["hint"][:first].any() and not found["hint"][last + 1 :].any()
        assert torch.equal(found["hint"][first : last + 1], plain["hint"][first : last + 1])
        covered = [covered[0] + first, covered[1] + whole.shape[1] - 1 - last]
    assert min(covered) > 0


def test_blind_images_keep_what_the_losses_ask_for(frames: list[PreparedFrame]) -> None:
    settings = dataclasses.replace(PLAIN, blind=1.0)
    spread = []
    for number in range(24):
        plain, found = (ViewSamples([frames], s, seed=3, length=24)[number] for s in (PLAIN, settings))
        assert torch.equal(found["hint"], plain["hint"])
        same = (found["image"] == plain["image"]).float().mean()
        assert same < 0.75  # at most what half a cover leaves
        spread.append(float(found["image"].std()))
    assert min(spread) == 0.0 and max(spread) > 70.0  # black or white, and noise
    some = ViewSamples([frames], dataclasses.replace(PLAIN, blind=0.3), seed=3, length=40)
    plain_samples = ViewSamples([frames], PLAIN, seed=3, length=40)
    blind = sum(not torch.equal(some[n]["image"], plain_samples[n]["image"]) for n in range(40))
    assert 4 <= blind <= 20


def test_without_views_to_render_a_sample_is_the_same(frames: list[PreparedFrame]) -> None:
    settings = dataclasses.replace(PLAIN, colour_jitter=True, yaw=3.0)
    whole, bare = (
        ViewSamples([frames], settings, seed=5, length=3, encoder_views=2, rendered=rendered)[2]
        for rendered in (True, False)
    )
    assert set(whole) - set(bare) == {"views", "masks", "encoder_from_view", "hints", "roles"}
    for name, value in bare.items():
        assert torch.equal(value, whole[name]), name


def test_near_voxels_are_drawn_more_often(frames: list[PreparedFrame]) -> None:
    """In proportion to 1/depth: the mean depth drawn is then the harmonic mean of the voxels' depths."""
    settings = dataclasses.replace(PLAIN, occupancy_points=40_000)
    sample = ViewSamples([frames[:1]], settings, seed=0, length=1).occupancy(0)
    hit = sample["target"].numpy() > 0
    depth = frames[0].points[:, 2] * POINT_UNIT
    for drawn, group in ((hit, frames[0].target > 0), (~hit, frames[0].target == 0)):
        share = np.maximum(depth[group], 4.0) ** -1.0
        expected = np.sum(depth[group] * share) / np.sum(share)
        assert sample["points"].numpy()[drawn, 2].mean() == pytest.approx(expected, rel=0.02)


def test_a_misread_horizon_moves_voxels_along_their_rays(frames: list[PreparedFrame]) -> None:
    """By hand: 1.65 m above the ground, 0.0165 rad are a hundredth of a metre inverse depth; 10 m become 9.09 m."""
    points = torch.tensor([[2.0, 1.65, 10.0], [0.0, 0.0, 0.001], [0.0, -30.0, 500.0]])
    expected = points / torch.tensor([[1.1], [1.0], [2.0]])
    torch.testing.assert_close(misread(points, 0.0165, 1.65), expected, atol=1e-6, rtol=1e-4)
    settings = dataclasses.replace(PLAIN, occupancy_points=2000, colour_jitter=True)
    read, erring = (
        ViewSamples([frames], dataclasses.replace(settings, misread=angle), seed=3, length=40, rendered=False)
        for angle in (0.0, 0.25)
    )
    moved = []
    for number in range(40):
        true, seen = read[number], erring[number]
        assert torch.equal(true["image"], seen["image"]) and torch.equal(true["target"], seen["target"])
        rays = [sample["points"][:, :2] / sample["points"][:, 2:] for sample in (true, seen)]
        torch.testing.assert_close(*rays, atol=1e-4, rtol=1e-4)
        moved.append((1.0 / seen["points"][:, 2] - 1.0 / true["points"][:, 2]).median().item())
    height = read.viewpoint.height_above_ground
    assert np.std(moved) == pytest.approx(np.radians(0.25) / height, rel=0.3)


def test_mean_depth_of_the_drive_is_its_ground_and_wall(frames: list[PreparedFrame]) -> None:
    spec = PointCodeSpec()
    mean = ViewSamples([frames], PLAIN, seed=0, length=1).mean_depth_code(spec)[0, 0].numpy()
    assert mean.shape == (96, 320)
    row, column = 85, 60
    ground = CAMERA_HEIGHT * STREET_CAMERA.fy / (2 * row + 0.5 - STREET_CAMERA.cy)  # the centre of a 2×2 block
    assert mean[row, column] == pytest.approx(spec.depth_code(np.array(ground)), abs=0.012)
    wall = [spec.depth_code(np.array(WALL_AHEAD - 1.5 * index)) for index in range(4)]
    assert mean[20, 100] == pytest.approx(np.mean(wall), abs=0.03)


def test_wildcards_stand_for_all_that_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("towns/2/sequence", "towns/1/sequence", "towns/1/other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "towns" / "2" / "report.json").write_text("{}")
    plain = SequenceSource("somewhere", share=2.0)
    found = matching(tmp_path, [plain, SequenceSource("towns/*/sequence", share=0.5)])
    towns = [SequenceSource(str(tmp_path / f"towns/{n}/sequence"), share=0.5) for n in (1, 2)]
    assert found == [plain, *towns]
    assert matching(tmp_path, [SequenceSource("towns/2/*", share=0.5)]) == towns[1:]  # no report
    assert matching(Path("/elsewhere"), [SequenceSource(f"{tmp_path}/towns/*/sequence", share=0.5)]) == towns
    monkeypatch.chdir(tmp_path)
    assert matching(Path("/"), [SequenceSource("./towns/?/other")])[0].folder == str(tmp_path / "towns/1/other")
    with pytest.raises(SequenceError, match="nothing matches"):
        matching(tmp_path, [SequenceSource("towns/*/bag")])


def test_sequences_that_must_not_be_trained_on_are_refused(synthetic_drive: Path, tmp_path: Path) -> None:
    sequence = kitti_odometry(synthetic_drive)
    sequence.metric_scale = False
    sequence.save(tmp_path / "unscaled")
    with pytest.raises(SequenceError, match="scale: unknown"):
        load_sequence(tmp_path, SequenceSource("unscaled"))
    sequence.provenance["role"] = "demo"
    sequence.save(tmp_path / "held_out")
    with pytest.raises(SequenceError, match="demo town"):
        load_sequence(tmp_path, SequenceSource("held_out"))
    with pytest.raises(SequenceError, match="no such file or folder"):
        load_sequence(tmp_path, SequenceSource("nothing"))


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


def test_a_rendered_town_lends_its_exact_voxels(tmp_path: Path) -> None:
    """The samples say what the town holds; insides and what is below the ground are left out."""
    from scene_completion_training.street_world.camera_rig import make_rig
    from scene_completion_training.street_world.drive import StreetDrive

    grid = VoxelGrid((0.0, -6.4, -2.4), 0.4, (64, 32, 12), "forward")
    drive = StreetDrive(1, 2, make_rig(208, 63), grid, supersampling=1)
    drive.sequence(("voxels", "depth")).save(tmp_path / "town")
    sequence = load_sequence(tmp_path, SequenceSource("town"))
    files = prepare_sequence(sequence, tmp_path, settings=FusionSettings(kept=4000), exact=True, workers=1)
    frame = load_prepared(files[0])
    seen = drive.view(0).depth
    kept = frame.depths["left"]
    assert np.isin(kept[kept > 0], seen[np.isfinite(seen)].astype(np.float16)).all()
    assert (kept == 0).mean() == pytest.approx(np.mean(~np.isfinite(seen)), abs=0.02)  # the sky
    truth = drive.truth(0)
    ahead = OPTICAL_FROM_FORWARD.inverse().apply(frame.points * POINT_UNIT)
    index, inside = grid.index_of(np.asarray(ahead))
    assert np.asarray(inside).all()
    x, y, z = np.asarray(index).T
    assert np.array_equal(frame.target > 0, truth.occupied[x, y, z]) and set(np.unique(frame.target)) == {0, 255}
    assert not truth.interior[x, y, z].any() and truth.known[x, y, z].all()
    assert frame.label is not None
    in_view = truth.in_view[x, y, z]
    classes = SEMANTIC_KITTI_TO_COMMON.apply(truth.label)[x, y, z]
    assert np.array_equal(frame.label, np.where(in_view, classes, INVALID)) and 0.1 < in_view.mean() < 0.9
    assert np.array_equal(frame.labelled, np.flatnonzero(in_view & (frame.target > 0)))  # nobody rides there
    assert 500 < (frame.target > 0).sum() <= 2000 and (frame.target == 0).sum() == 2000
    with pytest.raises(SequenceError, match="ground truth"):
        prepare_sequence(drive.sequence(()), tmp_path, exact=True)


def test_a_cluster_prepares_frames_and_makes_images_small(
    synthetic_drive: Path, cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are those of this process; the drives are named by where they lie from here."""
    monkeypatch.chdir(synthetic_drive.parent)
    settings = DataSettings(
        sources=[SequenceSource(f"./{synthetic_drive.name}")], fusion=FusionSettings(free_samples=5000, views=3)
    )
    for measured, pattern in ((True, "*.safetensors"), (False, "*.png")):
        made = {}
        for name, address in (("here", ""), ("cluster", cluster)):
            cache = tmp_path / name / str(measured)
            own = dataclasses.replace(settings, cache=str(cache), ray_address=address)
            SequencesData(own, 1, 0, measured=measured).setup("fit")
            made[name] = {file.name: file.read_bytes() for file in sorted(cache.rglob(pattern))}
        assert made["here"] == made["cluster"] and len(made["here"]) == (4 if measured else 8)


def test_a_bar_counts_prepared_frames(synthetic_drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one process and in two, and not those that were there before."""
    bars: list[Any] = []

    def bar(total: int, unit: str) -> Any:
        bars.append(tqdm(total=total, unit=unit, file=io.StringIO()))
        return bars[-1]

    for module in (prepared, workers_module):
        monkeypatch.setattr(module, "progress_bar", bar)
    monkeypatch.setattr(prepared, "_FRAMES_A_PROCESS", 1)
    sequence, settings = kitti_odometry(synthetic_drive), FusionSettings(free_samples=1000, views=3)
    for workers in (1, 2):
        files = prepare_sequence(sequence, tmp_path / str(workers), settings=settings, workers=workers)
    files[2].unlink()
    prepare_sequence(sequence, tmp_path / "2", settings=settings, workers=2)
    assert [(bar.n, bar.total, bar.unit) for bar in bars] == [(4, 4, "frame"), (4, 4, "frame"), (1, 1, "frame")]
