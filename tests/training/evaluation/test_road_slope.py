"""Slopes of the road by predictors that follow the picture, do so by half, or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.cli import main
from scene_completion_ros.evaluation.metric import Scores
from scene_completion_ros.geometry import OPTICAL_FROM_FORWARD, Camera, RigidTransform
from scene_completion_ros.geometry.road_plane import RoadPlane
from scene_completion_ros.geometry.transforms import rotation_of_angles
from scene_completion_ros.sequences.posed_sequence import Frame, PosedSequence
from scene_completion_training.arrays import Doubles, Floats
from scene_completion_training.evaluation.predictor import Prediction, Predictor
from scene_completion_training.evaluation.road_slope import SLOPE, road_frames, slopes, turned_sequence
from tests.inference.known_mounting_bundle import make_known_mounting_bundle

CAMERA = Camera(fx=200.0, fy=200.0, cx=191.5, cy=59.5, width=384, height=128)
GRID = {"origin": [0, -8, -2], "voxel_size": 0.2, "shape": [80, 80, 20], "around": "camera"}
HEIGHT, TILT = 1.6, rotation_of_angles(np.radians(1.2), np.radians(0.6), 0.0)


def road(known: str = "labels") -> PosedSequence:
    """A frame of a camera that rolls by 1.2° and looks 0.6° down at a flat road, with LiDAR of that and of walls."""
    random = np.random.default_rng(0)
    places = np.column_stack([random.uniform(2.0, 20.0, 6000), random.uniform(-8.0, 8.0, 6000), np.zeros(6000)])
    places[np.abs(places[:, 1]) > 3.5, 2] = 1.0  # a wall
    pose = RigidTransform(TILT, np.array([0.0, 0.0, HEIGHT])) @ OPTICAL_FROM_FORWARD.inverse()
    assets = {"lidar": lambda: places.astype(np.float32)}
    if known == "labels":
        ids = np.where(places[:, 2] > 0.0, 50, 40).astype(np.uint16)
        assets["lidar_semantic"] = lambda: ids
    if known == "depth":  # exact, as that of rendered towns: a wall stands to each side
        fall = -CAMERA.unproject(CAMERA.pixel_centres()) @ pose.rotation[2]
        aside = np.abs(np.arange(CAMERA.width) - CAMERA.cx) > 150.0
        label = np.where((fall > 0.02) & ~aside, 9, np.where(aside, 13, 0)).astype(np.uint8)
        depth = np.where(label == 9, HEIGHT / np.maximum(fall, 1e-3), np.where(label == 13, 8.0, np.inf))
        assets = {"depth": lambda: depth.astype(np.float32), "label": lambda: label}
    image = random.integers(0, 255, (CAMERA.height, CAMERA.width, 3)).astype(np.uint8)
    frame = Frame(0, {"camera": lambda: image}, RigidTransform.identity(), assets)
    return PosedSequence(
        "road", {"camera": CAMERA}, {"camera": pose}, [frame], "by hand", provenance={"voxel_grid": GRID}
    )


class Follower(Predictor):
    """Sees a level road turned by a share of what the camera is: in pixels, by another in voxels, by 0.75 in all."""

    def __init__(self, name: str, pixels: float, voxels: float | None) -> None:
        self.name, self.shares = name, (pixels, voxels)

    def complete(self, sequence: PosedSequence, index: int) -> Prediction:
        """By the pose of the camera, which a picture tells to those that can see."""
        seen = RoadPlane.of_mounting(sequence.world_from_camera(index, "camera"))
        roll, pitch = seen.roll, seen.pitch
        up = [rotation_of_angles(share * roll, share * pitch, 0.0)[2] for share in self.shares if share is not None]
        pixel_up, *voxel_up = (np.array([-y, -z, x]) for x, y, z in up)

        def depth_at(pixels: Doubles) -> Floats:
            return np.asarray(HEIGHT / -(CAMERA.unproject(pixels) @ pixel_up), np.float32)

        def ground() -> Floats:
            x, z = (part.ravel() for part in np.meshgrid(np.linspace(-6.0, 6.0, 20), np.linspace(1.0, 30.0, 40)))
            right, down, ahead = voxel_up[0]
            points = np.stack([x, -(HEIGHT + right * x + ahead * z) / down, z], axis=-1)
            points[:5] = np.nan
            return points.astype(np.float32)

        density = np.zeros(0, np.float32)
        plane = RoadPlane(0.75 * roll, 0.75 * pitch, HEIGHT, np.eye(3))
        found = {"ground": ground, "plane": lambda: plane} if voxel_up else {}
        return Prediction(CAMERA, lambda points: density, depth_at=depth_at, **found)


@pytest.mark.parametrize("known", ["labels", "scan", "depth"])
def test_gain_is_the_share_by_which_a_plane_follows(known: str) -> None:
    """One of the whole turn is right; one that is always level is off by what the road is."""
    (frame,) = road_frames(road(known), [0])
    assert len(frame.road) > 200 and (frame.road[:, 2] < 12.0).all()
    scores = Scores([SLOPE])
    for model in (Follower("right", 1.0, 0.5), Follower("blind", 0.0, None)):
        scores.add("recordings", model, slopes(model, frame))
    right, half, most, blind = scores.rows("road_slope")
    assert [row["in"] for row in (right, half, most, blind)] == ["pixels", "voxels", "together", "pixels"]
    for row, share in ((right, 1.0), (half, 0.5), (most, 0.75), (blind, 0.0)):
        assert (row["gain_roll"], row["gain_pitch"]) == pytest.approx((share, share), abs=0.02)
        off = (1.0 - share) * 1.2, (1.0 - share) * 0.6
        assert (row["roll_off_deg"], row["pitch_off_deg"]) == pytest.approx(off, abs=0.02)
        assert row["height_off"] == pytest.approx(0.0, abs=0.005)
    assert "gain of roll" in scores.markdown()


def test_a_turned_frame_is_one_of_a_camera_that_stands_so() -> None:
    """Nothing tells how; and a lens is rectified."""
    sequence, _ = turned_sequence(road(), 0, np.radians(2.0), np.radians(-1.0))
    angles = np.degrees(RoadPlane.of_mounting(sequence.world_from_camera(0, "camera")).state[:2])
    assert angles == pytest.approx((3.2, -0.4), abs=0.05)
    assert sequence.image(0, "camera").shape == (128, 384, 3) and not sequence.frames[0].assets
    assert not sequence.provenance
    lens = replace(CAMERA, distortion_model="plumb_bob", distortion=(-0.2, 0.05, 0.0, 0.0, 0.0))
    bent = replace(road(), cameras={"camera": lens})
    assert turned_sequence(bent, 0, 0.0, 0.0)[0].cameras["camera"] == CAMERA


def test_the_command_scores_slopes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And says where there is no road, and what cannot be asked with it."""
    road().save(tmp_path / "road")
    plain = replace(road().frames[0], assets={})
    replace(road(), frames=[plain]).save(tmp_path / "plain")
    make_known_mounting_bundle(tmp_path / "tiny")
    line = ["evaluate", "geometry", "--turned", "--bundle", str(tmp_path / "tiny"), "--output", str(tmp_path / "out")]
    assert main([*line, "--data", str(tmp_path / "road")]) == 0
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["scores"]["road_slope"]
    assert rows[0]["in"] == "pixels" and rows[0]["frames"] == 1 and "gain of pitch" in capsys.readouterr().out
    for extra, words in (
        (["--data", str(tmp_path / "plain")], "no frame has a road that LiDAR or exact depth knows"),
        (["--data", str(tmp_path / "road"), "--depth"], "--turned: scores the road"),
        (["--data", str(tmp_path / "road"), "--at", "3"], "has no frame 3, but 1 frames"),
        (["--data", str(tmp_path / "road"), "--controls"], "Leave out --depth and --turned"),
    ):
        assert main([*line[:-1], str(tmp_path / "other"), *extra]) != 0
        assert words in capsys.readouterr().err
