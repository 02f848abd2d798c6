"""Views from further along: where they stand, whose they are, and what a fisheye that looks aside shows."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from scene_completion_ros.geometry import Camera, RigidTransform
from scene_completion_ros.inference.head import PointCodeSpec
from scene_completion_ros.sequences.kitti import kitti_odometry
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.data import motion_stereo
from scene_completion_training.data.drawn_views import metres_travelled, nearest_along, unused_frame
from scene_completion_training.data.module import StepSampler
from scene_completion_training.data.prepared import PreparedFrame, load_prepared, prepare_sequence
from scene_completion_training.data.store import Store
from scene_completion_training.data.view_batches import DataNeeds, ViewSamples, ViewSettings
from scene_completion_training.data.voxel_evidence import FusionSettings
from scene_completion_training.viewpoint import STREET_CAMERA

SETTINGS = ViewSettings(yaw=0.0, pitch=0.0, roll=0.0, colour_jitter=False, mirror=False, occupancy_points=50)
FISHEYE = Camera(150.0, 150.0, 199.5, 199.5, 400, 400, "equidistant", (0.01, 0.0, 0.0, 0.0))
FUSION = FusionSettings(free_samples=5000, views=2)
LAMP = np.array([-6.0, 1.2, 3.0])
"""A bright spot on the left, in the first camera's frame, metres."""


def _looking_left() -> RigidTransform:
    """Optical frame that looks along −x of the rig's optical frame, y down."""
    return RigidTransform(np.array([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]), np.array([-0.3, -0.1, -0.5]))


def _with_fisheye(drive: Path) -> PosedSequence:
    """The synthetic drive with a camera that sees nothing but the lamp."""
    sequence = kitti_odometry(drive)
    mounted = _looking_left()
    frames = []
    for frame in sequence.frames:
        pixel, valid = FISHEYE.project((frame.world_from_rig @ mounted).inverse().apply(LAMP[None]))
        image = np.zeros((400, 400, 3), np.uint8)
        if valid[0]:
            u, v = np.round(pixel[0]).astype(int)
            image[v - 2 : v + 3, u - 2 : u + 3] = 255
        frames.append(dataclasses.replace(frame, images={**frame.images, "fisheye": _Picture(image)}))
    return PosedSequence(
        "aside",
        {**sequence.cameras, "fisheye": FISHEYE},
        {**sequence.rig_from_camera, "fisheye": mounted},
        frames,
        "made up",
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Picture:
    pixels: np.ndarray

    def __call__(self) -> np.ndarray:
        return self.pixels


@pytest.fixture(scope="module")
def frames(synthetic_drive: Path, tmp_path_factory: pytest.TempPathFactory) -> list[PreparedFrame]:
    return prepared(_with_fisheye(synthetic_drive), tmp_path_factory.mktemp("aside"))


def prepared(sequence: PosedSequence, cache: Path) -> list[PreparedFrame]:
    """Its frames, with few voxels."""
    return [load_prepared(file) for file in prepare_sequence(sequence, Store(cache), settings=FUSION, workers=1)]


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


def test_far_views_stand_further_along(frames: list[PreparedFrame]) -> None:
    """1.5 m a frame: 2.5 to 3.5 m further is two frames, or the last one; the pair stands in for the missing camera."""
    settings = dataclasses.replace(SETTINGS, far_views=True, far_metres=(2.5, 3.5))
    samples = ViewSamples([frames], settings, seed=0, length=40)
    firsts = set()
    for number in range(12):
        draw = samples._draw(number, np.random.default_rng((0, number)))
        names = samples._names(draw, np.random.default_rng(number))
        assert [name for _, name in names[4:]] == ["aside_fisheye"] * 2 + ["left"] * 2
        assert len(set(names)) == 8
        assert names[4][0] == min(draw.index + 2, 3)
        assert abs(names[5][0] - names[4][0]) == 1
        firsts.add(draw.index)
    assert firsts == {0, 1, 2, 3}
    sample = samples[0]
    assert sample["views"].shape == (8, 3, 192, 640) and sample["encoder_from_view"].shape == (8, 4, 4)
    assert sample["hints"][4].abs().max() == 0 and sample["hints"][6].max() > 0


def test_encoder_views_stand_as_far_along_as_asked_for(frames: list[PreparedFrame]) -> None:
    """1.5 m a frame; no view comes twice while there are others, and the drive's end takes what comes nearest."""
    settings = dataclasses.replace(SETTINGS, encoder_metres=(3.0, 3.0))
    samples = ViewSamples([frames], settings, DataNeeds(encoder_views=4), seed=0, length=9)
    sides = set()
    for number in range(20):
        draw = samples._draw(number, np.random.default_rng((0, number)))
        names = samples._encoder_names(draw, [], np.random.default_rng(number))
        assert len({(draw.index, draw.side), *names}) == 4
        assert names[0][0] == min(draw.index + 2, 3) or (draw.index, names[0][1]) == (3, draw.side)
        sides |= {side for _, side in names}
    assert sides == {"left", "right"}
    travelled = metres_travelled([np.array(place) for place in ([0.0, 0, 0], [1, 0, 0], [1, 0, 2], [1, 3, 2])])
    assert travelled.tolist() == [0.0, 1.0, 3.0, 6.0]
    assert [nearest_along(travelled, 1, metres) for metres in (0.4, 2.2, -3, 9)] == [1, 2, 0, 3]
    assert unused_frame(frames, 1, "left", [(1, "left")]) == (2, "left")  # of two as near, the one further along


def _of_one_camera(drive: Path, folder: Path) -> PosedSequence:
    """The drive as its left camera alone recorded it."""
    return kitti_odometry(shutil.copytree(drive, folder / "alone", ignore=shutil.ignore_patterns("image_3")))


def test_the_motion_of_one_camera_says_depth_and_voxels(
    synthetic_drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(motion_stereo, "PIXELS", 30_000)
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
    settings = dataclasses.replace(SETTINGS, far_views=True, mirror=True)
    samples = ViewSamples(
        [frames * 3], settings, DataNeeds(encoder_views=3), seed=0, length=20
    )  # twelve frames to choose from
    short = ViewSamples([frames], settings, DataNeeds(encoder_views=3), seed=0, length=20)
    for number in range(6):
        draw = samples._draw(number, np.random.default_rng((0, number)))
        names = samples._names(draw, np.random.default_rng(number))
        assert {name for _, name in names} == {"left"} and len(set(names)) == len(names) == 8
        sample = samples[number]
        assert sample["weight"].sum() == 0 and sample["hints"].abs().max() == 0 and len(sample["points"]) == 50
        assert sample["masks"].flatten(1).any(dim=1).all()
        shown = short[number]["masks"].flatten(1).any(dim=1)
        assert shown.sum() == 4 and shown[:4].all()  # four frames give four views; those that come again show nothing
    assert torch.isfinite(samples.mean_depth_code(PointCodeSpec())).all()


def test_processes_share_the_batches_between_them() -> None:
    samplers = [StepSampler(12, lambda: 4, batch_size=2, rank=rank, processes=2) for rank in (0, 1)]
    assert [list(sampler) for sampler in samplers] == [[4, 5, 8, 9], [6, 7, 10, 11]]
    assert all(len(sampler) == 6 for sampler in samplers)
