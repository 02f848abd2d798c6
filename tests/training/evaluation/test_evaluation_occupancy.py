"""Density models, controls and protocols on a street with one wall, whose truth is known by hand."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from scene_completion_ros.errors import ConfigurationError, SceneCompletionError, SequenceError
from scene_completion_ros.evaluation.lidar_occupancy import LIDAR_ONLY_NEAR, ORIGINAL
from scene_completion_ros.geometry import OPTICAL_FROM_FORWARD, Camera, RigidTransform, VoxelGrid
from scene_completion_ros.geometry.resampling import Resampler
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.query_kernel import density_reference
from scene_completion_ros.sequences.posed_sequence import Frame, PosedSequence
from scene_completion_ros.voxels.occupancy import Calibration, density_of_opacity, opacity
from scene_completion_training.commands import evaluate as command
from scene_completion_training.evaluation import occupancy_run
from scene_completion_training.evaluation.checkpoints import FieldModel, encoded_views, open_checkpoint
from scene_completion_training.evaluation.controls import (
    EmptyControl,
    PriorControl,
    SurfaceControl,
    fit_prior,
    grid_density,
    surface_controls,
    surface_voxels,
    true_depth,
)
from scene_completion_training.evaluation.density_model import (
    IDENTITY,
    VOXEL_EDGE,
    Observation,
    calibrated_cutoffs,
    reference_camera,
)
from scene_completion_training.evaluation.deployed_model import DeployedModel
from scene_completion_training.evaluation.exact_evaluation import CalibrationFit, ExactEvaluation
from scene_completion_training.evaluation.lidar_evaluation import (
    LidarEvaluation,
    camera_pitch,
    level_scans,
    shown_by_depth,
)
from scene_completion_training.evaluation.occupancy_plots import (
    probability_map,
    profile_picture,
    profile_points,
    truth_map,
)
from scene_completion_training.evaluation.occupancy_run import RunSettings, evaluate, lidar_frames, open_recording
from scene_completion_training.evaluation.occupancy_tables import as_json, markdown
from scene_completion_training.evaluation.voxel_truth import street_truth, voxel_truth
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.networks.multi_view_field import MultiViewField
from scene_completion_training.record import KEY
from scene_completion_training.street_world.ground_truth import BELOW_GROUND, IN_VIEW, INTERIOR, VISIBLE
from scene_completion_training.viewpoint import STREET_CAMERA
from tests.inference.small_bundle import make_small_bundle

CAMERA = Camera(fx=40.0, fy=40.0, cx=31.5, cy=11.5, width=64, height=24)
GRID = VoxelGrid((0.0, -25.6, -2.4), 0.8, (64, 64, 8))
SENSOR = RigidTransform(OPTICAL_FROM_FORWARD.rotation, np.zeros(3))  # at the camera, x forward, y left, z up
FRAMES, STEP = 10, 0.25
WALL_LEFT, WALL_RIGHT, WALL_FRONT, WALL_BACK = -1.0, 3.0, 10.0, 12.0
"""A wall without end in height, in the optical frame of the first camera."""


def in_wall(points: np.ndarray, ahead: float = 0.0) -> np.ndarray:
    x, z = points[..., 0], points[..., 2] + ahead
    return (x >= WALL_LEFT) & (x <= WALL_RIGHT) & (z >= WALL_FRONT) & (z <= WALL_BACK)


def shadowed(points: np.ndarray) -> np.ndarray:
    """Behind the wall's front, seen from the first camera."""
    where = points[..., 0] / np.maximum(points[..., 2], 1e-3) * WALL_FRONT
    return (where >= WALL_LEFT) & (where <= WALL_RIGHT) & (points[..., 2] >= WALL_FRONT)


def scan(ahead: float) -> np.ndarray:
    """Returns of the wall's front, and of something 60 m away everywhere else, in the rig frame."""
    angle = np.radians(np.arange(-179.9, 180.0, 0.2))  # to the right of straight ahead
    front = WALL_FRONT - ahead
    x = front * np.tan(angle)
    hit = (np.abs(angle) < np.pi / 2) & (x >= WALL_LEFT) & (x <= WALL_RIGHT)
    distance = np.where(hit, front / np.cos(angle), 60.0)
    return np.stack(
        [distance * np.sin(angle), np.full_like(angle, 0.3), distance * np.cos(angle)], -1, dtype=np.float32
    )


def depth_image(camera: Camera = CAMERA) -> np.ndarray:
    """Depth of the wall's front, the sky everywhere else."""
    x = (np.arange(camera.width) - camera.cx) / camera.fx * WALL_FRONT
    row = np.where((x >= WALL_LEFT) & (x <= WALL_RIGHT), WALL_FRONT, np.inf)
    return np.broadcast_to(row, (camera.height, camera.width)).astype(np.float32)


def voxels() -> tuple[np.ndarray, np.ndarray]:
    """Labels and flags of the first frame; the wall's back is its interior, what is 1.6 m down is below ground."""
    centres = OPTICAL_FROM_FORWARD.apply(GRID.centres().astype(np.float64))
    wall, hidden = in_wall(centres), shadowed(centres)
    front = wall & (centres[..., 2] < 11.0)
    flags = IN_VIEW * CAMERA.project(centres)[1].astype(np.uint8)
    flags |= (VISIBLE * (~hidden | front)).astype(np.uint8) & (flags * VISIBLE)
    flags |= (BELOW_GROUND * (centres[..., 1] > 1.6)).astype(np.uint8)
    flags |= (INTERIOR * (wall & ~front)).astype(np.uint8)
    return wall.astype(np.uint8), flags


def make_street(assets: tuple[str, ...] = ("lidar", "depth", "voxel_label", "voxel_flags")) -> PosedSequence:
    label, flags = voxels()
    image = np.random.default_rng(0).integers(0, 255, (CAMERA.height, CAMERA.width, 3)).astype(np.uint8)
    frames = []
    for index in range(FRAMES):
        loaders = {"lidar": lambda index=index: scan(STEP * index)}
        if index == 0:
            loaders |= {"depth": depth_image, "voxel_label": lambda: label, "voxel_flags": lambda: flags}
        frames.append(
            Frame(
                stamp_ns=index * 100_000_000,
                images={"camera_left": lambda: image},
                world_from_rig=RigidTransform(np.eye(3), np.array([0.0, 0.0, STEP * index])),
                assets={name: loader for name, loader in loaders.items() if name in assets},
            )
        )
    grid = {"origin": list(GRID.origin), "voxel_size": GRID.voxel_size, "shape": list(GRID.shape)}
    return PosedSequence(
        name="one_wall",
        cameras={"camera_left": CAMERA},
        rig_from_camera={"camera_left": RigidTransform.identity()},
        frames=frames,
        provenance={"voxel_grid": grid},
        pose_source="by hand",
        rig_from_sensor={"velodyne": SENSOR},
    )


@pytest.fixture(scope="module")
def street() -> PosedSequence:
    return make_street()


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> StudentBundle:
    return make_small_bundle(tmp_path_factory.mktemp("bundle"))


@dataclass
class Wall:
    """Knows the wall, and how thick it is."""

    name: str = "wall"
    calibration: Calibration = IDENTITY
    cutoffs: dict[str, float] = field(default_factory=lambda: {"σ > 0.5": 0.5})

    def observe(self, sequence: PosedSequence, index: int) -> Observation:
        ahead = float(sequence.frames[index].world_from_rig.translation[2])
        return Observation(CAMERA, lambda points: np.where(in_wall(points, ahead), 50.0, 0.0).astype(np.float32))


def test_depth_is_along_the_optical_axis() -> None:
    everywhere = Observation(CAMERA, lambda points: np.where(points[:, 2] >= 10.0, 50.0, 0.0).astype(np.float32))
    pixels = np.array([[31.5, 11.5], [0.0, 0.0], [63.0, 23.0], [-40.0, 11.5]])
    depth = everywhere.depth(pixels, samples=2000)
    np.testing.assert_allclose(depth, 10.0, atol=0.05)  # a plane has one z-depth, whatever the distance along the ray
    # 64 samples: the first one behind z = 10 m, for i in 0..63: t = 1 / ((1 - s) / 3 + s / 80), s = (i + 1/2) / 64.
    s = (np.arange(64) + 0.5) / 64
    samples = 1 / ((1 - s) / 3 + s / 80)
    assert everywhere.depth(pixels[:1])[0] == pytest.approx(samples[samples >= 10.0][0], rel=1e-5)


def test_an_empty_field_renders_the_far_end() -> None:
    depth = Observation(CAMERA, lambda points: np.zeros(len(points), np.float32)).depth(np.array([[31.5, 11.5]]))
    assert depth[0] == pytest.approx(1 / (0.5 / 64 / 3 + (63.5 / 64) / 80), rel=1e-5)  # the last of 64 samples, 66.6 m


def test_calibrated_rule_is_the_threshold_on_the_probability() -> None:
    # Probability 0.4 is reached half way to the knot (0.5, 0.8): at opacity 0.25, density -ln 0.75 / 0.2 = 1.4384.
    calibration = Calibration("piecewise_linear", (0.0, 0.5, 1.0), (0.0, 0.8, 1.0))
    cutoffs = calibrated_cutoffs(calibration, 0.4)
    assert cutoffs["calibrated"] == pytest.approx(1.4384, abs=1e-4)
    assert cutoffs["σ > 0.5"] == 0.5
    assert density_of_opacity(np.array(0.25), VOXEL_EDGE) > cutoffs["calibrated"]  # "at least", as deployed
    assert calibrated_cutoffs(IDENTITY, 0.4) == {"σ > 0.5": 0.5}
    assert calibrated_cutoffs(Calibration("piecewise_linear", (0.0, 1.0), (0.0, 0.3)), 0.4)["calibrated"] == math.inf


def test_reference_camera() -> None:
    other = RigidTransform(np.eye(3), np.array([0.5, 0.0, 0.0]))
    street = make_street()

    def named(**places: RigidTransform) -> PosedSequence:
        return replace(
            street,
            cameras=dict.fromkeys(places, CAMERA),
            rig_from_camera=places,
            frames=[Frame(0, {}, RigidTransform.identity())],
        )

    assert reference_camera(named(b=RigidTransform.identity(), a=other)) == "b"  # the left one of the pair
    assert reference_camera(named(image_0=RigidTransform.identity(), image_2=other)) == "image_2"
    assert reference_camera(named(only=other)) == "only"


def test_deployed_model_is_the_readable_reference(street: PosedSequence, student: StudentBundle) -> None:
    model = DeployedModel(student, threads=1)
    observation = model.observe(street, 0)
    points = np.random.default_rng(0).uniform([-8, -2, 3], [8, 2, 40], (500, 3)).astype(np.float32)
    features = model._encoder(model._resampler(CAMERA)(street.image(0, "camera_left")))
    expected = density_reference(features, points, student.head, student.point_code, student.canonical)
    np.testing.assert_allclose(observation.density(points), expected, atol=2e-3)
    assert model.cutoffs == {"σ > 0.5": 0.5}
    assert observation.depth_range == student.depth_range


def save_checkpoint(file: Path, field: torch.nn.Module, stage: str, **configuration: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    state = {f"field.{key}": value for key, value in field.state_dict().items()}
    torch.save({"state_dict": state, KEY: {"configuration": {"stage": stage, **configuration}}}, file)
    return file


def test_single_view_checkpoint(street: PosedSequence, tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = DensityField(STREET_CAMERA).eval()
    file = save_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt", trained, "single_view")
    (model,) = open_checkpoint(file)
    assert model.name == "run"
    points = np.random.default_rng(0).uniform([-8, -2, 3], [8, 2, 40], (100, 3)).astype(np.float32)
    density = model.observe(street, 0).density(points)
    image = Resampler(CAMERA, STREET_CAMERA)(street.image(0, "camera_left"))
    with torch.no_grad():
        features = trained.encode(torch.from_numpy(image).permute(2, 0, 1)[None].float())
        expected = trained.density(features, torch.from_numpy(points)[None])[0]
    np.testing.assert_allclose(density, expected.numpy(), rtol=1e-4, atol=1e-6)
    assert model.observe(street, 0).density(points[:0]).shape == (0,)
    with pytest.raises(ConfigurationError, match="encodes 1 to 1"):
        open_checkpoint(file, [1, 2])


def test_teacher_checkpoint_with_one_two_and_four_views(street: PosedSequence, tmp_path: Path) -> None:
    torch.manual_seed(0)
    field = MultiViewField(STREET_CAMERA).eval()
    file = save_checkpoint(tmp_path / "teacher.ckpt" / "checkpoints" / "last.ckpt", field, "teacher")
    sparse = replace(
        street,
        frames=[
            replace(frame, world_from_rig=RigidTransform(np.eye(3), np.array([0.0, 0.0, 1.5 * k])))
            for k, frame in enumerate(street.frames[:10])
        ],
    )
    # 8 m further is 7.5 m, 4 m is 4.5 m, and 12 m is more than the drive has: 10.5 m.
    assert encoded_views(sparse, 2, (0.0, 8.0, 4.0, 12.0)) == [(k, "camera_left") for k in (2, 7, 5, 9)]
    # At the drive's end, what comes before.
    assert encoded_views(sparse, 9, (0.0, 8.0, 4.0)) == [(k, "camera_left") for k in (9, 8, 7)]
    with pytest.raises(SequenceError, match="10 frames cannot give 11 views"):
        encoded_views(sparse, 0, range(11))
    models = open_checkpoint(file, [1, 2, 4])
    assert [model.name for model in models] == [
        "teacher.ckpt, 1 view",
        "teacher.ckpt, 2 views",
        "teacher.ckpt, 4 views",
    ]
    points = np.random.default_rng(0).uniform([-4, -1, 5], [4, 1, 40], (50, 3)).astype(np.float32)
    image = Resampler(CAMERA, STREET_CAMERA)(sparse.image(2, "camera_left"))
    images = torch.from_numpy(image).permute(2, 0, 1).float().expand(1, 4, -1, -1, -1)
    poses = np.stack([np.eye(4)] * 4)
    poses[1:, 2, 3] = 7.5, 4.5, 10.5  # metres ahead
    for model, count in zip(models, (1, 2, 4), strict=True):
        with torch.no_grad():
            seen = field.observe(images[:, :count], torch.from_numpy(poses[None, :count]).float())
            expected = seen.density(torch.from_numpy(points)[None])[0].numpy()
        np.testing.assert_allclose(model.observe(sparse, 2).density(points), expected, rtol=1e-3, atol=1e-5)
    with pytest.raises(ConfigurationError, match="1 to 4"):
        open_checkpoint(file, [5])
    # The published teacher has its further views within a metre: the next frames, not those 12 m away.
    near = {"views": {"encoder_metres": [0.0, 1.0]}}
    published = save_checkpoint(tmp_path / "published.ckpt", field, "teacher", data=near)
    (model,) = open_checkpoint(published, [4])
    assert isinstance(model, FieldModel) and model.along == pytest.approx((0.0, 2 / 3, 1 / 3, 1.0))
    assert encoded_views(sparse, 2, model.along) == [(k, "camera_left") for k in (2, 3, 1, 4)]


def test_surface_fills_the_voxels_of_its_points() -> None:
    camera = Camera(fx=100.0, fy=100.0, cx=0.0, cy=0.0, width=1, height=1)  # one ray, straight ahead
    depth = np.array([[10.05]], dtype=np.float32)
    # x ahead 10.05 m: voxel 50 of 0.2 m; y = 0: voxel 128 of 256 from -25.6 m; z = 0 above -2.2 m: voxel 11.
    assert np.argwhere(surface_voxels(depth, camera)).tolist() == [[50, 128, 11]]
    # 4 m thick: up to 14.05 m, voxel 70.
    thick = np.argwhere(surface_voxels(depth, camera, 4.0))
    assert thick.tolist() == [[i, 128, 11] for i in range(50, 71)]
    assert not surface_voxels(np.array([[np.inf]], np.float32), camera, 4.0).any()
    assert not surface_voxels(np.array([[0.0]], np.float32), camera, 4.0).any()


def test_controls_of_a_town(street: PosedSequence) -> None:
    names = [control.name for control in surface_controls(street, Wall())]
    assert names == [
        "surface (true depth)",
        "surface + 4 m (true depth)",
        "surface (depth of wall)",
        "surface + 4 m (depth of wall)",
    ]
    points = np.array([[0.0, 0.0, 10.05], [0.0, 0.0, 13.0], [0.0, 0.0, 14.5], [0.0, 0.0, 8.0]], dtype=np.float32)
    surface, thick = (
        SurfaceControl(true_depth, "true depth", metres).observe(street, 0).density(points) > 0.5
        for metres in (0.0, 4.0)
    )
    assert surface.tolist() == [True, False, False, False]
    assert thick.tolist() == [True, True, False, False]
    assert not EmptyControl().observe(street, 0).density(points).any()
    with pytest.raises(SequenceError, match="frame 1"):
        true_depth(street, 1)


def test_prior_is_cut_at_its_own_threshold(street: PosedSequence) -> None:
    grid = VoxelGrid((0.0, -1.0, -1.0), 1.0, (3, 2, 2))
    mean = np.zeros(grid.shape, dtype=np.float32)
    mean[:, 0, 0] = 0.2, 0.31, 1.0
    control = PriorControl(mean, 0.3, grid)
    points = np.array(
        [[0.5, 0.5, 0.5], [0.5, 0.5, 1.5], [0.5, 0.5, 2.5], [0.5, -0.5, 0.5], [9.0, 9.0, 9.0]], np.float32
    )
    density = control.observe(street, 0).density(points)
    assert (density > 0.5).tolist() == [False, True, True, False, False]
    # 0.5 * log(1 - 0.2) / log(1 - 0.3) = 0.3128
    assert density[0] == pytest.approx(0.3128, abs=1e-3)
    assert density[3] == density[4] == 0.0


def test_prior_of_frames_finds_their_mean() -> None:
    shape = (256, 256, 32)
    label, flags = np.zeros(shape, np.uint8), np.full(shape, IN_VIEW | VISIBLE, np.uint8)
    label[:128] = 1
    grid = VoxelGrid((0.0, -25.6, -2.2), 0.2, shape)
    second = np.where(np.arange(256)[:, None, None] < 64, label, np.uint8(0))
    truths = [street_truth(each, flags, grid) for each in (label, second)]
    control = fit_prior(truths, sigma=(0.0, 0.0, 0.0))
    # A mean of 1 in the first 64 slices, 0.5 in the next 64, 0 in the rest. The threshold is fitted to both frames:
    # from 0.5 on IoU is (128 + 64) / (2 * 128) = 0.75, from 1 on (64 + 64) / (128 + 64) = 0.67.
    ahead = np.array([[0.0, 0.0, 6.0], [0.0, 0.0, 20.0], [0.0, 0.0, 30.0]], dtype=np.float32)
    assert (control.observe(make_street(), 0).density(ahead) > 0.5).tolist() == [True, True, False]


def test_regions_of_the_street_world_by_hand() -> None:
    #  visible free, visible wall, hidden free, hidden wall, inside of a house, below ground, out of view
    flags = np.array([3, 3, 1, 1, 1 | 8, 1 | 4, 0], dtype=np.uint8)
    label = np.array([0, 5, 0, 5, 5, 0, 5], dtype=np.uint8)
    assert (IN_VIEW, VISIBLE, BELOW_GROUND, INTERIOR) == (1, 2, 4, 8)
    truth = street_truth(label, flags, GRID)
    assert truth.occupied.tolist() == [False, True, False, True, True, False, True]
    assert truth.known.tolist() == [True] * 5 + [False, True]
    counted = {name: np.flatnonzero(mask & truth.known).tolist() for name, mask in truth.regions.items()}
    assert counted == {
        "visible": [0, 1],
        "occluded": [2, 3],
        "all": [0, 1, 2, 3],
        "interiors": [4],
        "occluded + interiors": [2, 3, 4],
        "all + interiors": [0, 1, 2, 3, 4],
    }


def test_the_truth_is_perfect_and_thickness_pays_inside_only(street: PosedSequence) -> None:
    truth = voxel_truth(street, 0)
    assert truth is not None
    assert voxel_truth(street, 1) is None
    evaluation = ExactEvaluation()
    models = [Wall(), EmptyControl(), *surface_controls(street)]
    evaluation.update(truth, [(model, model.observe(street, 0)) for model in models])
    cells = {model: found for (model, _), found in evaluation.compute().voxels.items()}
    assert all(cells["wall"][12.8, region].iou == 1.0 for region in ("visible", "all", "interiors", "all + interiors"))
    assert all(cells["nothing"][51.2, region].recall == 0.0 for region in ("visible", "interiors", "all"))
    assert math.isnan(cells["wall"][51.2, "occluded"].iou)  # nothing is hidden behind the wall: no voxel to be right of
    assert cells["wall"][51.2, "all"].voxels == int((truth.known & truth.regions["all"]).sum())
    assert cells["surface (true depth)"][51.2, "interiors"].recall == 0.0
    # The insides are two metres deep, a thickness of 4 m fills them and two metres of free space behind.
    assert cells["surface + 4 m (true depth)"][51.2, "interiors"].recall > 0.5
    assert cells["surface + 4 m (true depth)"][51.2, "occluded"].precision == 0.0


def test_calibration_is_fitted_to_what_densities_mean() -> None:
    """Voxels of density 0.1 n per metre are occupied with probability n², n even in 0..1: far from their opacity."""
    shape = (64, 64, 8)
    n, chance = np.random.default_rng(0).random((2, *shape))
    flags = np.full(shape, IN_VIEW | VISIBLE, np.uint8)
    truth = street_truth((chance < n**2).astype(np.uint8), flags, GRID)
    density = grid_density((0.1 * n).astype(np.float32), GRID, truth.grid_from_camera)
    observation, fit = Observation(CAMERA, density), CalibrationFit()
    fit.update(truth, observation)
    model = fit.fitted(Wall())
    half = np.array([0.5], dtype=np.float32)
    assert model.calibration.apply(opacity(0.1 * half, VOXEL_EDGE))[0] == pytest.approx(0.25, abs=0.03)
    evaluation = ExactEvaluation()
    evaluation.update(truth, [(model, observation)])
    result = evaluation.compute()
    calibrated = result.voxels["wall", "calibrated"][51.2, "all"]
    assert calibrated.iou == pytest.approx(calibrated.best_iou, abs=0.01)
    assert result.voxels["wall", "σ > 0.5"][51.2, "all"].iou == 0.0
    errors = result.calibration["wall"]
    assert errors["before"].expected_calibration_error == pytest.approx(1 / 3 - 0.01, abs=0.01)  # mean n² and mean α
    assert errors["after"].expected_calibration_error < 0.02
    uncalibrated = ExactEvaluation()
    uncalibrated.update(truth, [(Wall(), observation)])
    assert set(uncalibrated.compute().calibration["wall"]) == {"before"}


def test_scans_of_the_following_frames_in_the_level_frame(street: PosedSequence) -> None:
    scans = list(level_scans(street, 2, 20, math.radians(5.0)))
    assert len(scans) == FRAMES - 2  # fewer near the end
    # The fourth sensor stands 3 * 0.25 m ahead on the optical axis, which points 5 degrees down.
    expected = 0.75 * np.array([0.0, math.sin(math.radians(5.0)), math.cos(math.radians(5.0))])
    np.testing.assert_allclose(scans[3].level_from_sensor.translation, expected, atol=1e-6)
    np.testing.assert_allclose(scans[0].points_sensor[:, 2], -0.3, atol=1e-6)  # 0.3 m below the sensor
    with pytest.raises(SequenceError, match="velodyne"):
        next(level_scans(replace(street, rig_from_sensor={}), 0, 3, 0.0))
    with pytest.raises(SequenceError, match="frame 0"):
        next(level_scans(make_street(assets=()), 0, 3, 0.0))


def test_camera_pitch_is_known_of_kitti_360_only(street: PosedSequence) -> None:
    assert camera_pitch(street) == 0.0
    assert camera_pitch(replace(street, provenance={"dataset": "KITTI-360"})) == pytest.approx(math.radians(5.0))


def test_frames_that_have_all_scans_ahead(street: PosedSequence) -> None:
    assert list(lidar_frames(street, RunSettings(scans=4, every=2))) == [0, 2, 4, 6]  # frame 6 has scans 6..9
    assert list(lidar_frames(street, RunSettings(scans=20, every=2))) == [0]
    assert list(lidar_frames(replace(street, rig_from_sensor={}), RunSettings(scans=4))) == []


def test_points_in_front_of_the_rendered_depth(street: PosedSequence) -> None:
    observation = Wall().observe(street, 0)
    # In front of the wall, behind it, beside it; and beside the image, where the pixel of the border decides: free.
    points = np.array([[0.0, 0.3, 9.0], [0.0, 0.3, 13.0], [-3.0, 0.3, 13.0], [-30.0, 0.3, 13.0]])
    assert shown_by_depth(points, observation).tolist() == [True, False, True, True]


def test_lidar_protocols_on_the_wall(street: PosedSequence) -> None:
    models = [Wall(), EmptyControl(), *surface_controls(street)[:2]]
    evaluation = LidarEvaluation()
    evaluation.update(level_scans(street, 0, 10, 0.0), 0.0, [(model, model.observe(street, 0)) for model in models])
    found = {(setting.protocol, model): result for (setting, model, _), result in evaluation.compute().items()}
    assert {setting.scans for setting, _, _ in evaluation.metrics} == {10}
    fair, wall = found["LiDAR only", "nothing"], found["LiDAR only", "wall"]
    # Every model is scored on the same points, and nothing is not rewarded.
    assert len({found["LiDAR only", model.name].counts.occluded for model in models}) == 1
    assert fair.scores.o_rec == 0.0
    assert fair.scores.o_acc < wall.scores.o_acc < 1.0  # unseen is occupied here: all of the shadow
    # Ten scans from 0 to 2.25 m: the shadow, between |x| <= z / 10 .. about 4 / 10 per metre behind 10 m, is occupied.
    points = LIDAR_ONLY_NEAR.points()
    assert fair.counts.occluded == pytest.approx(shadowed(points).sum(), rel=0.05)
    assert fair.scores.ie_rec == 1.0  # nothing predicted is always right about what is free
    # The original protocol takes the empty field at its word: nothing is hidden, so nothing can be missed.
    empty = found["original", "nothing"]
    assert empty.scores.o_acc == 1.0
    assert math.isnan(empty.scores.ie_acc)
    assert (empty.counts.points, empty.counts.occluded, empty.counts.occupied) == (12_800, 0, 0)
    assert found["original", "wall"].counts.occluded == pytest.approx(fair.counts.occluded, rel=0.1)
    assert found["LiDAR only, far", "wall"].counts.points < 460 * 80 + 1


@pytest.mark.parametrize(("density", "predicted"), [(0.5, 0), (0.501, 12_800)])
def test_occupied_is_more_than_the_published_cutoff(street: PosedSequence, density: float, predicted: int) -> None:
    observation = Observation(CAMERA, lambda points: np.full(len(points), density, dtype=np.float32))
    evaluation = LidarEvaluation()
    evaluation.update(level_scans(street, 0, 10, 0.0), 0.0, [(Wall(), observation)])
    counts = {setting.protocol: found.counts for (setting, _, _), found in evaluation.compute().items()}
    assert (counts["original"].points, counts["original"].predicted) == (12_800, predicted)


def test_tables_flag_an_empty_win(street: PosedSequence) -> None:
    models = [Wall(), EmptyControl()]
    result = evaluate([street], lambda sequence: [*models, *surface_controls(sequence)], RunSettings(scans=10))
    text = markdown(result, ["wall"])
    assert "O_acc@10" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| nothing | σ > 0.5 | 100.0")]
    assert row.split("|")[3:9] == [" 100.0 ", " – ", " – ", " – ", " – ", " – "]
    assert "no occluded point: O_acc says nothing" in row
    assert "| 12800 | 0 | 0 | 0 | 0 |" in row
    content = json.loads(json.dumps(as_json(result, {"scans": 10}), allow_nan=False))
    (entry,) = [e for e in content["lidar"] if e["method"] == "nothing" and e["protocol"] == "original"]
    assert (entry["O_acc@10"], entry["IE_acc@10"], entry["frames_defined"]["IE_acc"]) == (1.0, None, 0)
    assert (entry["points"], entry["occluded"], entry["occluded_free"]) == (12_800, 0, 0)
    assert content["exact"]["frames"] == 1


def test_models_are_compared_with_the_best_control() -> None:
    from scene_completion_ros.evaluation.occupancy import OccupancyScores
    from scene_completion_training.evaluation.exact_evaluation import ExactResult
    from scene_completion_training.evaluation.occupancy_tables import comparison

    def cells(iou: float) -> dict[tuple[float, str], OccupancyScores]:
        return {(51.2, "occluded"): OccupancyScores(9, 0.1, iou, 0.5, 0.5, iou, 0.5, 0.5)}

    rule = "σ > 0.5"
    voxels = {("a", rule): cells(0.3), ("b", rule): cells(0.1), ("thick", rule): cells(0.2), ("none", rule): cells(0.0)}
    lines = comparison(ExactResult(1, voxels, {}), ["a", "b"]).splitlines()
    assert lines[-2:] == [
        "| a | σ > 0.5 | 30.0 ahead of 20.0 (thick) |",
        "| b | σ > 0.5 | 10.0 **behind** 20.0 (thick) |",
    ]


def test_a_recording_without_any_truth_is_refused(street: PosedSequence) -> None:
    with pytest.raises(SequenceError, match="no frame"):
        evaluate([make_street(assets=())], lambda sequence: [Wall()], RunSettings())


def test_view_from_above_is_upright_and_not_mirrored(street: PosedSequence) -> None:
    points = profile_points(replace(ORIGINAL, camera_pitch=0.0))
    assert points.shape == (5, 270, 180, 3)
    np.testing.assert_allclose(points[0, 0, 0], [-8.95, 0.0, 29.95])  # first row far, first column left
    np.testing.assert_allclose(points[-1, -1, -1], [8.95, 1.0, 3.05])
    truth = voxel_truth(street, 0)
    assert truth is not None
    for picture in (truth_map(truth, points), probability_map(Wall(), Wall().observe(street, 0), points)):
        dark = picture.astype(int).sum(axis=-1) < 300
        row, column = (np.flatnonzero(dark.any(axis=axis)) for axis in (1, 0))
        # The wall: z from 10 to 12 m, rows from (30 - 12) to (30 - 10) * 10; x from -1 to 3 m, columns from 80 to 120.
        assert abs(row.min() - 180) <= 8 and abs(row.max() - 199) <= 8
        assert abs(column.min() - 80) <= 8 and abs(column.max() - 119) <= 8
    picture = profile_picture(street, 0, truth, [(Wall(), Wall().observe(street, 0))], ORIGINAL)
    assert picture.dtype == np.uint8 and picture.shape[2] == 3


def run(*options: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(option) for option in options]))


def test_command(street: PosedSequence, student: StudentBundle, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    street.save(tmp_path / "town" / "sequence")
    other = replace(street, name="other").save(tmp_path / "other")
    options = ["--bundle", student.folder, "--controls", "--scans", 10, "--threads", 1, "--calibrate-on", other]
    assert run("occupancy", "--data", tmp_path / "town", *options, "--output", tmp_path / "out") == 0
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"results.json", "results.md", "iou_by_region.png", "profile_one_wall_000000.png"} <= written
    assert any(name.startswith("reliability_") for name in written)
    assert (tmp_path / "out" / "results.md").read_text(encoding="utf-8") in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert content["settings"]["scans"] == "10"
    assert {entry["rule"] for entry in content["lidar"]} == {"σ > 0.5", "calibrated"}
    assert "surface + 4 m (true depth)" in {entry["method"] for entry in content["exact"]["voxels"]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "nothing to score on"),
        (("--data", "town"), "nothing to score"),
        (("--data", "town", "--controls", "--scans", 2), "at least 3"),
        (("--data", "town", "--controls", "--prior", "town"), "is scored as well"),
        (("--data", "town", "--controls"), "no recording"),
    ],
)
def test_command_refuses_what_makes_no_sense(options: tuple, message: str, tmp_path: Path) -> None:
    with pytest.raises(SceneCompletionError, match=message):
        run("occupancy", *options, "--output", tmp_path / "out")


def test_recordings_are_recognised(
    street: PosedSequence, tmp_path: Path, synthetic_drive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    street.save(tmp_path / "town" / "sequence")
    assert open_recording(tmp_path / "town").name == open_recording(tmp_path / "town" / "sequence").name == "one_wall"
    assert set(open_recording(synthetic_drive).cameras) == {"image_2", "image_3"}
    monkeypatch.setattr(occupancy_run, "kitti_360", lambda root, drive: (root, drive))
    found: object = open_recording(tmp_path / "root" / "data_2d_raw" / "some_drive")
    assert found == (tmp_path / "root", "some_drive")


def test_grid_density_outside_of_the_grid_is_nothing() -> None:
    grid = VoxelGrid((0.0, 0.0, 0.0), 1.0, (1, 1, 1))
    lookup = grid_density(np.ones((1, 1, 1), np.float32), grid, RigidTransform.identity())
    assert lookup(np.array([[0.5, 0.5, 0.5], [1.5, 0.5, 0.5], [-0.1, 0.5, 0.5]], np.float32)).tolist() == [1, 0, 0]
