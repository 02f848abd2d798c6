"""Predictions of densities that are known by hand, and deployed students: as the node completes, and calibrated."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.evaluation.metric import Scores
from scene_completion_ros.evaluation.obstacles import FIXED, OBSTACLES
from scene_completion_ros.evaluation.occupancy import CALIBRATION, OCCUPANCY
from scene_completion_ros.evaluation.truth import VoxelTruth
from scene_completion_ros.geometry import RigidTransform
from scene_completion_ros.geometry.road_plane import RoadPlane
from scene_completion_ros.geometry.transforms import rotation_of_angles
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, StudentBundle
from scene_completion_ros.inference.completer import Completer, SequentialCompleter
from scene_completion_ros.inference.depth_correction import corrected_depth
from scene_completion_ros.inference.evidence import NO_EVIDENCE, Evidence
from scene_completion_ros.sequences.frame_lists import part_of_recording
from scene_completion_ros.sequences.opening import open_recording
from scene_completion_ros.sequences.posed_sequence import Frame, PosedSequence
from scene_completion_ros.voxels.occupancy import Calibration, density_of_opacity, opacity
from scene_completion_training.evaluation.deployed import OBSTACLE_THRESHOLDS, DeployedStudent, calibrate_on_truth
from scene_completion_training.evaluation.geometry import scan_frames, voxel_frames
from scene_completion_training.evaluation.predictor import (
    AFTER,
    BEFORE,
    CALIBRATED_RULE,
    IDENTITY,
    VOXEL_EDGE,
    Prediction,
    calibrated_cutoffs,
)
from tests.inference.known_mounting_bundle import CAMERA as WALL_CAMERA
from tests.inference.known_mounting_bundle import FACTOR, GRID, HEIGHT, WALL_M, make_known_mounting_bundle, wall_from
from tests.training.evaluation.one_wall import CAMERA


def test_depth_is_along_the_optical_axis() -> None:
    everywhere = Prediction(CAMERA, lambda points: np.where(points[:, 2] >= 10.0, 50.0, 0.0).astype(np.float32))
    pixels = np.array([[31.5, 11.5], [0.0, 0.0], [63.0, 23.0], [-40.0, 11.5]])
    depth = everywhere.depth(pixels, samples=2000)
    np.testing.assert_allclose(depth, 10.0, atol=0.05)  # a plane has one z-depth, whatever the distance along the ray
    # 64 samples: the first one behind z = 10 m, for i in 0..63: t = 1 / ((1 - s) / 3 + s / 80), s = (i + 1/2) / 64.
    s = (np.arange(64) + 0.5) / 64
    samples = 1 / ((1 - s) / 3 + s / 80)
    assert everywhere.depth(pixels[:1])[0] == pytest.approx(samples[samples >= 10.0][0], rel=1e-5)
    empty = Prediction(CAMERA, lambda points: np.zeros(len(points), np.float32)).depth(np.array([[31.5, 11.5]]))
    assert empty[0] == pytest.approx(1 / (0.5 / 64 / 3 + (63.5 / 64) / 80), rel=1e-5)  # the last of 64 samples, 66.6 m


def test_calibrated_rule_is_the_threshold_on_the_probability() -> None:
    # Probability 0.4 is reached half way to the knot (0.5, 0.8): at opacity 0.25, density -ln 0.75 / 0.2 = 1.4384.
    calibration = Calibration("piecewise_linear", (0.0, 0.5, 1.0), (0.0, 0.8, 1.0))
    cutoffs = calibrated_cutoffs(calibration, 0.4)
    assert cutoffs["calibrated"] == pytest.approx(1.4384, abs=1e-4)
    assert cutoffs["σ > 0.5"] == 0.5
    assert density_of_opacity(np.array(0.25), VOXEL_EDGE) > cutoffs["calibrated"]  # "at least", as deployed
    plain = calibrated_cutoffs(IDENTITY, 0.4)
    assert list(plain) == ["σ > 0.5", "SceneDINO: σ ≥ 0.2", "S4C: σ ≥ 0.25"]
    density = np.float32([0.1999, 0.2, 0.25, 0.5])
    assert [(density > cutoff).tolist() for cutoff in plain.values()] == [
        [False, False, False, False],
        [False, True, True, True],
        [False, False, True, True],
    ]
    assert calibrated_cutoffs(Calibration("piecewise_linear", (0.0, 1.0), (0.0, 0.3)), 0.4)["calibrated"] == math.inf


def test_student_is_scored_as_it_is_deployed(window: PosedSequence, student: StudentBundle) -> None:
    """Voxels are those of the node's completer; points have the density of the same field, also outside of its view."""
    model, frame = DeployedStudent(student, threads=1), next(voxel_frames([window]))
    answer, truth = model.answer(frame), frame.voxels
    placed = {"grid": truth.grid, "grid_from_camera": truth.grid_from_camera, "threads": 1}
    completer = Completer(student, window.cameras["image_2"], **placed)
    completion = completer.complete(window.image(0, "image_2"))
    seen = truth.counted & completer.in_view
    np.testing.assert_allclose(answer.voxels.score[seen], completion.alpha[seen], atol=1e-4)
    stated = answer.voxels.stated.get(AFTER, answer.voxels.stated[BEFORE])
    np.testing.assert_allclose(stated[seen], completion.probability[seen], atol=1e-4)
    at_points = opacity(answer.prediction.density(truth.centres(truth.counted)), VOXEL_EDGE)
    np.testing.assert_allclose(answer.voxels.score[truth.counted], at_points, atol=1e-4)
    assert (answer.labels > 0).sum() == len(completion.voxels.index)
    assert model.complete(window, 0) is answer.prediction  # several methods share what it made of a frame


def test_calibration_is_fitted_and_kept_in_a_bundle(shared_data: Path, student: StudentBundle, tmp_path: Path) -> None:
    weights = {"some": np.arange(3, dtype=np.float16)}
    student = student.save(tmp_path / "copy", student.encoder_path.read_bytes(), weights)
    whole = open_recording(shared_data / "kitti_windows" / "sequences" / "04")
    window = replace(whole, frames=whole.frames[:1])
    with pytest.raises(SequenceError, match="sequences/06 is used for training or testing.*sequences/04"):
        calibrate_on_truth(student, [open_recording(shared_data / "kitti_windows" / "sequences" / "06")])
    calibrated = calibrate_on_truth(student, [window])
    loaded = calibrated.save(tmp_path / "new", calibrated.read_encoder(), calibrated.load_weights())
    assert loaded.calibration == calibrated.calibration
    assert loaded.calibration.kind == "piecewise_linear"
    assert loaded.threshold == calibrated.threshold != student.threshold
    assert "04" in loaded.provenance["calibration"]["fitted_on"]
    np.testing.assert_array_equal(loaded.load_weights()["some"], weights["some"])
    scores = Scores([OCCUPANCY, CALIBRATION])
    scores.run("04", [DeployedStudent(loaded, threads=1)], voxel_frames([window]))
    (stated,) = [row for row in scores.rows("calibration") if row["stated"] == AFTER]
    assert stated["expected_calibration_error"] < 0.01
    rows = {(row["rule"], row["region"], row["range_m"]): row for row in scores.rows("voxels")}
    found = rows["calibrated", "all", 51.2]
    assert found["iou"] == pytest.approx(found["best_iou"], rel=0.01)  # no threshold on the opacity does better


def test_ground_and_obstacles_get_thresholds_of_their_own(shared_data: Path, tmp_path: Path) -> None:
    """On single scans; what a calibrated student is scored by is what its calibration found."""
    student = StudentBundle.load(copytree(DEFAULT_BUNDLE.with_name("street"), tmp_path / "copy"))
    pairs = open_recording(shared_data / "kitti_more" / "kitti_2015_pairs")
    drive = part_of_recording(pairs, drives=["2011_09_26_drive_0015_sync"])
    drive = replace(drive, frames=drive.frames[:2])
    calibrated = calibrate_on_truth(student, [drive])
    record = calibrated.provenance["calibration"]
    assert calibrated.obstacle_threshold in OBSTACLE_THRESHOLDS and record["frames"] == 2
    assert StudentBundle.load(tmp_path / "copy").thresholds == student.thresholds != calibrated.thresholds
    scores = Scores([OBSTACLES, OCCUPANCY])
    scores.run("scans", [DeployedStudent(calibrated, threads=1)], scan_frames(drive, 1))
    rows = [row for row in scores.rows("obstacles") if (row["rule"], row["tolerance"]) == (CALIBRATED_RULE, FIXED)]
    found = np.mean([row["f_score"] or 0.0 for row in rows])  # none where nothing is called an obstacle
    assert found == pytest.approx(record["obstacle_f_there"], abs=5e-3)
    assert found > 0.0  # few stand along these fields
    labelled = open_recording(shared_data / "kitti_windows" / "sequences" / "04")
    labelled = replace(labelled, frames=labelled.frames[:1])
    alone, both = (calibrate_on_truth(student, [labelled, *more]) for more in ([], [drive]))
    assert both.threshold == alone.threshold != calibrated.threshold  # of the whole voxels


def test_evaluation_and_replay_have_one_factor(tmp_path: Path) -> None:
    """Of a camera that drives along a wall."""
    student, frames, expected = make_known_mounting_bundle(tmp_path), [], []
    in_order = SequentialCompleter(Completer(student, WALL_CAMERA, engine="onnxruntime"), "odometry")
    for number in range(8):
        stamp_ns, pose = (1 + number) * 100_000_000, RigidTransform(np.eye(3), np.array([0.4 * number, 0.0, 0.0]))
        frames.append(Frame(stamp_ns, {"camera": partial(wall_from, 0.4 * number)}, pose))
        expected.append(in_order.complete(wall_from(0.4 * number), stamp_ns, pose).standing)
    identity = {"camera": RigidTransform.identity()}
    drive = PosedSequence("along the wall", {"camera": WALL_CAMERA}, identity, frames, "by hand")
    assert expected[-1].evidence.scale.factor == pytest.approx(FACTOR, rel=0.02)
    pixels = np.array([[100.0, 60.0], [400.0, 120.0]])
    alone, scaled = (DeployedStudent(student, engine="onnxruntime", scale_from=one) for one in ("off", "odometry"))
    for index in (2, 5, 7, 4):  # one out of order begins anew
        np.testing.assert_allclose(alone.complete(drive, index).depth(pixels), WALL_M / FACTOR, rtol=1e-5)
        depth = scaled.complete(drive, index).depth(pixels)
        numbers, before = expected[index].numbers, np.full((96, 256), FACTOR / WALL_M)
        inverse, _ = corrected_depth(before, 0.0, numbers, np.zeros((4, 4)), student.point_code, 1.0)
        column, row = (pixels / 2).astype(int).T
        np.testing.assert_allclose(depth, 1.0 / inverse[row, column], rtol=1e-3)
    assert expected[-1].numbers[0] > 0.05


def test_a_student_is_scored_with_the_pose_that_its_evidence_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Voxels, densities and classes at points, of a volume that rolls by 8°; without it, others."""
    rng = np.random.default_rng(0)
    student = make_known_mounting_bundle(tmp_path, volume=rng.normal(-1.0, 2.0, GRID.shape).astype(np.float32))
    frames = [Frame(100_000_000, {"camera": partial(wall_from, 0.0)}, RigidTransform.identity())]
    identity = {"camera": RigidTransform.identity()}
    drive = PosedSequence("along the wall", {"camera": WALL_CAMERA}, identity, frames, "by hand")
    every = np.ones(GRID.shape, np.bool_)
    truth = VoxelTruth("exact", GRID, student.grid_from_camera, occupied=~every, known=every, in_view=every)
    turn = RigidTransform(rotation_of_angles(math.radians(8.0), 0.0, 0.0), np.array([0.0, 0.0, HEIGHT]))
    evidence = Evidence(plane=RoadPlane.of_mounting(turn @ student.grid_from_camera))
    completer, found = Completer(student, WALL_CAMERA, engine="onnxruntime"), []
    for known in (NO_EVIDENCE, evidence):
        monkeypatch.setattr(DeployedStudent, "_evidence", lambda *_, known=known: known)
        prediction = DeployedStudent(student, engine="onnxruntime").complete(drive, 0)
        voxels, _, alpha = prediction.completed(truth)
        inside, points = completer.in_view, truth.centres(every)
        at_points = opacity(prediction.density(points), GRID.voxel_size).reshape(GRID.shape)
        np.testing.assert_allclose(at_points[inside], alpha[inside], atol=1e-4)
        named = prediction.units(points).argmax(axis=1).reshape(GRID.shape)[tuple(voxels.index.T)]
        np.testing.assert_array_equal(named, voxels.label)
        np.testing.assert_array_equal(alpha, completer.complete(wall_from(0.0), evidence=known).alpha)
        found.append(alpha)
    assert np.abs(found[0] - found[1]).max() > 0.1
