"""Folders of posed RGB-D, made of rendered rooms whose truth is known, in a world that hangs askew."""

import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from scene_completion_ros.errors import ImageError, SequenceError
from scene_completion_ros.geometry import RigidTransform
from scene_completion_ros.sequences.opening import depth_truth, open_recording, voxel_truth
from scene_completion_worlds.room.walk import CAMERA, RoomWalk

ASKEW = RigidTransform.from_quaternion([0.4, -0.2, 0.3, 0.85], np.array([1.0, 2.0, -3.0]))


def millimetres(depth: np.ndarray) -> np.ndarray:
    return np.rint(1000.0 * np.where(np.isfinite(depth), depth, 0.0)).astype(np.uint16)


def write_recording(folder: Path, walk: RoomWalk, pose: Callable[[int], np.ndarray]) -> Path:
    """Frames as 7-Scenes has them."""
    folder.mkdir()
    camera = walk.cameras[CAMERA]
    np.savetxt(folder / "camera-intrinsics.txt", camera.matrix)
    for index in range(len(walk.poses)):
        stem = f"{folder}/frame-{index:06d}"
        cv2.imwrite(f"{stem}.color.jpg", walk.image(index, CAMERA)[..., ::-1])
        cv2.imwrite(f"{stem}.depth.png", millimetres(walk.view(index, CAMERA).depth))
        np.savetxt(f"{stem}.pose.txt", pose(index))
    return folder


@pytest.fixture(scope="module")
def tour() -> RoomWalk:
    return RoomWalk(7, 40, (160, 120), leg=4, carrier="hand", supersampling=1)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory, tour: RoomWalk) -> Path:
    folder = tmp_path_factory.mktemp("rgbd") / "room"
    return write_recording(folder, tour, lambda index: (ASKEW @ tour.poses[index]).matrix)


def test_the_world_is_set_upright_on_its_floor(recording: Path, tour: RoomWalk) -> None:
    sequence = open_recording(recording)
    for index in (0, 13, 39):
        found, exact = sequence.world_from_camera(index, CAMERA).levelled(), tour.poses[index].levelled()
        assert found.matrix == pytest.approx(exact.matrix, abs=0.03)


def test_fused_voxels_agree_with_the_exact_ones(recording: Path, tour: RoomWalk) -> None:
    """Where both are known, they agree but for the rim that a surface has; a fused one sees parts of what is hidden."""
    sequence = open_recording(recording)
    truth, exact = voxel_truth(sequence, 13), tour.truth(13)
    assert truth is not None and truth.label is None
    both = truth.known & exact.known & exact.in_view & ~(exact.interior if exact.interior is not None else False)
    assert both.sum() > 20_000
    assert (truth.occupied == exact.occupied)[both].mean() > 0.93
    assert (truth.occupied & both & exact.occupied).sum() > 0.6 * (both & exact.occupied).sum()


def test_frames_that_were_lost_are_left_out(tmp_path: Path, tour: RoomWalk) -> None:
    poses = [np.full((4, 4), np.nan) if index == 3 else pose.matrix for index, pose in enumerate(tour.poses)]
    sequence = open_recording(write_recording(tmp_path / "room", tour, lambda index: poses[index]))
    assert len(sequence) == 39 and sequence.provenance["frames_without_pose"] == [3]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda depth: depth // 1000, "Write millimetres"),
        (lambda depth: depth[:, ::2], "Register depth"),
        (lambda depth: np.random.default_rng(0).uniform(400, 4000, depth.shape), "some floor"),
        (None, "not camera_from_world"),
    ],
)
def test_defects_are_named_in_a_sentence(
    tmp_path: Path, tour: RoomWalk, damage: Callable[[np.ndarray], np.ndarray] | None, words: str
) -> None:
    """Of depth images; None: poses are inverted."""
    poses = [ASKEW @ pose if damage else (ASKEW @ pose).inverse() for pose in tour.poses]
    folder = write_recording(tmp_path / "room", tour, lambda index: poses[index].matrix)
    for file in folder.glob("*.depth.png") if damage else ():
        cv2.imwrite(str(file), damage(cv2.imread(str(file), cv2.IMREAD_UNCHANGED)).astype(np.uint16))
    with pytest.raises(SequenceError, match=re.escape(words)):
        open_recording(folder)


@pytest.fixture(scope="module")
def larger() -> RoomWalk:
    return RoomWalk(7, 12, (320, 240), leg=4, carrier="hand", supersampling=1)


@pytest.fixture
def listed(tmp_path: Path, larger: RoomWalk) -> Path:
    """Every second frame of a tour as DeepVideoMVS has them, depth at half of the size."""
    for name in ("image", "depth"):
        (tmp_path / name).mkdir()
    for index in range(12):
        cv2.imwrite(f"{tmp_path}/image/{2 * index:06d}.jpg", larger.image(index, CAMERA)[..., ::-1])
        cv2.imwrite(f"{tmp_path}/depth/{2 * index:06d}.png", millimetres(larger.view(index, CAMERA).depth[::2, ::2]))
    np.savetxt(tmp_path / "K.txt", larger.cameras[CAMERA].matrix)
    np.savetxt(tmp_path / "poses.txt", [(ASKEW @ pose).matrix.ravel() for pose in larger.poses])
    np.savetxt(tmp_path / "frames.txt", range(0, 24, 2), fmt="%d")
    return tmp_path


def test_rooms_in_lists_are_the_same(listed: Path, larger: RoomWalk) -> None:
    sequence = open_recording(listed)
    assert len(sequence) == 12 and sequence.cameras[CAMERA].fx == pytest.approx(larger.cameras[CAMERA].fx)
    found, exact = sequence.world_from_camera(6, CAMERA).levelled(), larger.poses[6].levelled()
    assert found.matrix == pytest.approx(exact.matrix, abs=0.04)
    depth, true = depth_truth(sequence, 6), larger.view(6, CAMERA).depth
    assert depth is not None and depth.depth.shape == true.shape
    both = (depth.depth > 0.0) & np.isfinite(true)
    assert both.mean() > 0.9 and np.median(np.abs(depth.depth[both] / true[both] - 1.0)) < 0.01
    truth = voxel_truth(sequence, 6)
    assert truth is not None and truth.known.mean() > 0.1


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("K.txt", "400 0 80\n0 400 60\n", "K.txt"),
        ("poses.txt", "1 0 0 0\n", "poses.txt, line 1"),
        ("poses.txt", "1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1\n", "1 poses, but images up to frame 11"),
        ("frames.txt", "0\n2\n", "does not list frame 4"),
        ("depth/000000.png", "", "000000.png"),
    ],
)
def test_defects_of_rooms_in_lists_are_named(listed: Path, name: str, content: str, words: str) -> None:
    (listed / name).write_text(content)
    with pytest.raises((SequenceError, ImageError), match=re.escape(words)):
        open_recording(listed)


def test_colour_of_another_lens_is_found_by_the_edges_that_both_images_share(tmp_path: Path, larger: RoomWalk) -> None:
    """Colour images that show the middle of what depth shows, a tenth larger."""
    folder = write_recording(tmp_path / "room", larger, lambda index: larger.poses[index].matrix)
    same = open_recording(folder)
    assert same.cameras[CAMERA].fx == pytest.approx(larger.cameras[CAMERA].fx) and "colour_lens" not in same.provenance
    zoom = np.array([[1.1, 0.0, -16.0], [0.0, 1.1, -12.0]])
    for file in folder.glob("*.color.jpg"):
        cv2.imwrite(str(file), cv2.warpAffine(cv2.imread(str(file)), zoom, (320, 240)))
    found = open_recording(folder)
    assert found.cameras[CAMERA].fx == pytest.approx(1.1 * larger.cameras[CAMERA].fx, rel=0.015)
    depth, exact = found.asset(5, "depth"), larger.view(5, CAMERA).depth
    zoomed = cv2.warpAffine(exact.astype(np.float32), zoom, (320, 240), flags=cv2.INTER_NEAREST)
    both = (depth > 0.0) & np.isfinite(zoomed)
    assert both.mean() > 0.8 and np.median(np.abs(depth / zoomed - 1.0)[both]) < 0.01


def test_nothing_on_the_floor_is_free_and_nothing_below_it_counts(recording: Path) -> None:
    truth = voxel_truth(open_recording(recording), 13)
    height = truth.grid.centres()[..., 2]
    assert not truth.known[height < -0.03].any()
    assert truth.known[np.abs(height) < 0.01].any() and truth.occupied[truth.known & (np.abs(height) < 0.01)].all()
