"""Semantics on a street with one wall: clusters, their names, controls, tables and the command's refusals."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
import pytest
import torch

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES, SEMANTIC_KITTI_CLASSES
from scene_completion_ros.geometry import OPTICAL_FROM_FORWARD
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, StudentBundle
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.voxels.occupancy import Calibration
from scene_completion_ros.voxels.semantic_voxels import VoxelState
from scene_completion_training.clustering.class_file import read_class_file, write_class_file
from scene_completion_training.clustering.clusters import Clusters, read_clusters, write_clusters
from scene_completion_training.clustering.survey import survey, write_contact_sheets
from scene_completion_training.commands import evaluate as command
from scene_completion_training.evaluation.classified_models import ClassifiedModel, fit_probes, labelled_points
from scene_completion_training.evaluation.density_model import IDENTITY, Observation, RememberedDensity
from scene_completion_training.evaluation.deployed_labels import DeployedLabels
from scene_completion_training.evaluation.semantic_evaluation import (
    ClassPrior,
    FittedModel,
    common_classes,
    field_of_view,
    fit_models,
    label_volume,
    named_by,
    score,
    truths,
)
from scene_completion_training.evaluation.semantic_models import (
    FeatureFieldModel,
    OnSurface,
    SemanticObservation,
    _tokens_at,
    surface_points,
)
from scene_completion_training.evaluation.semantic_tables import as_json, markdown
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.networks.feature_field import FeatureField
from scene_completion_training.networks.semantic_head import DistillationHead
from scene_completion_training.viewpoint import STREET_CAMERA
from tests.training.evaluation.test_evaluation_occupancy import (
    CAMERA,
    GRID,
    WALL_FRONT,
    WALL_LEFT,
    WALL_RIGHT,
    in_wall,
    make_street,
    voxels,
)

CAR = COMMON_CLASSES.index("car")


@dataclass
class PaintedWall:
    """Knows the wall; its left half looks otherwise than its right half."""

    name: str = "painted wall"
    calibration: Calibration = IDENTITY

    @property
    def cutoffs(self) -> dict[str, float]:
        return {"σ > 0.5": 0.5}

    def observe(self, sequence: PosedSequence, index: int) -> SemanticObservation:
        def codes(points: np.ndarray) -> np.ndarray:
            left = points[:, 0] < 1.0
            return np.stack([left, ~left], axis=-1).astype(np.float32)

        density = Observation(CAMERA, lambda points: 20.0 * in_wall(points).astype(np.float32))
        return SemanticObservation(density, codes, units=codes)


@pytest.fixture(scope="module")
def street() -> PosedSequence:
    return make_street()


@pytest.fixture(scope="module")
def fitted(street: PosedSequence) -> FittedModel:
    return fit_models([PaintedWall()], 0.5, [street], [street], clusters=2, points_a_frame=200)[0]


class CountedDensity:
    """Knows the wall, and counts the frames and points that it was asked about."""

    name = "counted"
    cutoffs: Mapping[str, float] = MappingProxyType({"σ > 0.5": 0.5})
    calibration: Calibration = IDENTITY

    def __init__(self) -> None:
        self.looked: list[int] = []
        self.asked: list[int] = []

    def observe(self, sequence: PosedSequence, index: int) -> Observation:
        self.looked.append(index)

        def density(points: np.ndarray) -> np.ndarray:
            self.asked.append(len(points))
            return in_wall(points).astype(np.float32) + index

        return Observation(CAMERA, density)


def test_a_shared_density_looks_once_a_frame(street: PosedSequence) -> None:
    counted = CountedDensity()
    shared = RememberedDensity(counted)
    points, other = np.zeros((3, 3), np.float32), np.ones((4, 3), np.float32)
    first = shared.observe(street, 0).density(points)
    first += 7.0  # what a caller does to it is not remembered
    assert shared.observe(street, 0).density(points.copy()).tolist() == [0.0, 0.0, 0.0]
    assert (counted.looked, counted.asked) == ([0], [3])
    assert len(shared.observe(street, 0).density(other)) == 4
    assert shared.observe(street, 1).density(points).tolist() == [1.0, 1.0, 1.0]
    assert shared.observe(make_street(), 1).density(points).tolist() == [1.0, 1.0, 1.0]
    assert (counted.looked, counted.asked) == ([0, 1, 1], [3, 4, 3, 3])


def test_models_together_score_as_they_do_alone(street: PosedSequence) -> None:
    together = fit_models([PaintedWall(), PaintedScene()], 0.5, [street], [street], clusters=2, points_a_frame=200)
    alone = [
        fit_models([model], 0.5, [street], [street], clusters=2, points_a_frame=200)[0]
        for model in (PaintedWall(), PaintedScene())
    ]
    for first, second in zip(score(together, [street]), score(alone, [street]), strict=True):
        assert (first.confusion[51.2] == second.confusion[51.2]).all()
    assert [model.name for model in together] == ["painted wall", "painted scene"]


def test_clusters_are_named_and_scored(street: PosedSequence, fitted: FittedModel) -> None:
    """All of the wall is "car": one of two clusters gets the name one to one, both get it by majority."""
    one_to_one = fitted.names("hungarian")
    assert one_to_one[0] == 0 and (one_to_one == CAR).sum() == 1
    assert fitted.names("majority").tolist() == [0, CAR, CAR]
    metric = score([fitted], [street])[0]
    by_majority = metric.compute(fitted.names("majority"))[51.2]
    assert by_majority.iou == by_majority.class_iou["car"] == 1.0
    assert by_majority.mean_iou == pytest.approx(1 / 15) and by_majority.mean_iou_of_present == 1.0
    # One to one, the other half is called something else.
    label, _ = voxels()
    ((_, _, truth),) = list(truths([street]))
    counted = field_of_view(truth) & (label > 0)
    centres = truth.grid_from_camera.inverse().apply(GRID.centres().astype(np.float64))
    left = counted & (centres[..., 0] < 1.0)
    named_left = one_to_one[1 + fitted.clusters.assign(np.array([[1.0, 0.0]], np.float32))[0]] == CAR
    part = left.sum() if named_left else counted.sum() - left.sum()
    assert metric.compute(one_to_one)[51.2].class_iou["car"] == pytest.approx(part / counted.sum())


def test_what_no_sensor_sees_does_not_count(street: PosedSequence) -> None:
    """The wall's back is its interior, and what is below the ground is unknown."""
    ((_, _, truth),) = list(truths([street]))
    classes = common_classes(truth)
    assert set(np.unique(classes)) == {0, CAR, 255}
    assert (classes[~truth.known] == 255).all()
    inside = truth.regions["interiors"]
    assert inside.any() and (classes[inside] == 255).all() and not field_of_view(truth)[inside].any()


def test_a_volume_holds_the_clusters_of_what_is_occupied(street: PosedSequence) -> None:
    ((_, _, truth),) = list(truths([street]))
    clusters = Clusters(np.eye(2, dtype=np.float32))
    asked = np.ones(GRID.shape, bool)
    observed, place = PaintedWall().observe(street, 0), (truth.grid, truth.grid_from_camera)
    volume = label_volume(observed, 0.5, clusters.assign, *place, asked)
    centres = truth.grid_from_camera.inverse().apply(GRID.centres().astype(np.float64))
    expected = np.where(in_wall(centres), np.where(centres[..., 0] < 1.0, 1, 2), 0)
    assert np.array_equal(volume, expected)
    half = asked & (centres[..., 0] < 1.0)
    part = label_volume(observed, 0.5, clusters.assign, *place, half)
    assert np.array_equal(part, np.where(half, expected, 0))


def test_points_are_drawn_from_surfaces(street: PosedSequence) -> None:
    """On the wall's front, within the distance of two samples, but for its edges; those that see past it give none."""
    points = surface_points(PaintedWall().observe(street, 0), np.random.default_rng(0), 400)
    assert 50 < len(points) < 300
    assert CAMERA.project(points.astype(np.float64))[1].all()
    right = (points[:, 0] > WALL_LEFT - 0.6) & (points[:, 0] < WALL_RIGHT + 0.6)
    assert (right & (np.abs(points[:, 2] - WALL_FRONT) < 1.0)).mean() > 0.9


def test_the_surface_control_keeps_what_is_seen(street: PosedSequence) -> None:
    """Of the wall only its front is left, within the thickness of the voxels that its depth falls into."""
    shown = OnSurface(PaintedWall(), "surface").observe(street, 0)
    x, y, z = np.meshgrid(np.linspace(-0.5, 2.5, 40), np.linspace(-1.0, 1.0, 30), np.linspace(8.0, 12.0, 41))
    points = np.stack([x, y, z], axis=-1).reshape(-1, 3).astype(np.float32)
    hit = points[shown.observation.density(points) > 0.5, 2]
    assert len(hit) > 100 and hit.min() > 9.5 and hit.max() < 10.8
    assert shown.codes(points[:20]).shape == (20, 2)


def test_the_prior_knows_the_class_of_a_place(street: PosedSequence) -> None:
    class Density:
        name, calibration, cutoffs = "wall", IDENTITY, {"σ > 0.5": 0.5}

        def observe(self, sequence: PosedSequence, index: int) -> Observation:
            return PaintedWall().observe(sequence, index).observation

    prior = ClassPrior(Density(), 0.5, [street])
    scores = score([prior], [street])[0].compute(prior.names("hungarian"))[51.2]
    assert scores.class_iou["car"] == 1.0
    with pytest.raises(ConfigurationError, match="no frame has ground truth"):
        ClassPrior(Density(), 0.5, [make_street(assets=("lidar",))])
    with pytest.raises(ConfigurationError, match="no frame has ground truth"):
        named_by([PaintedWall()], 0.5, [Clusters(np.eye(2, dtype=np.float32))], [make_street(assets=("lidar",))])


class PaintedScene:
    """Knows the wall, of which everything right of x = 1 m is a building, and has two numbers of its place as codes."""

    name = "painted scene"

    def observe(self, sequence: PosedSequence, index: int) -> SemanticObservation:
        def codes(points: np.ndarray) -> np.ndarray:
            angle = np.where(points[:, 0] < 1.0, 0.3, 1.2) + 0.05 * np.sin(50.0 * points[:, 1])
            return np.stack([np.cos(angle), np.sin(angle)], axis=-1).astype(np.float32)

        return SemanticObservation(Observation(CAMERA, lambda points: 20.0 * in_wall(points).astype(np.float32)), codes)


def _street_of_two_classes() -> PosedSequence:
    """The street, the right part of whose wall is a building."""
    street = make_street()
    label, _ = voxels()
    centres = OPTICAL_FROM_FORWARD.apply(GRID.centres().astype(np.float64))
    label = np.where((label > 0) & (centres[..., 0] >= 1.0), SEMANTIC_KITTI_CLASSES.index("building"), label)
    street.frames[0].assets["voxel_label"] = lambda: label.astype(np.uint8)
    return street


def test_a_probe_says_the_classes_that_codes_tell() -> None:
    """All voxels right, by every naming; a car for a building where it has learned from codes that are swapped."""
    street = _street_of_two_classes()
    ((_, _, truth),) = list(truths([street]))
    observed = PaintedScene().observe(street, 0)
    points, classes = labelled_points(observed, 0.5, truth)
    shown = common_classes(truth)[field_of_view(truth)]
    assert np.bincount(classes + 1, minlength=16).tolist() == [0, *np.bincount(shown[shown < 16], minlength=16)[1:]]
    assert np.array_equal(COMMON_CLASSES[CAR] == np.array(COMMON_CLASSES)[classes + 1], points[:, 0] < 1.0)
    probe = fit_probes([PaintedScene()], 0.5, [street])[0]
    assert probe.name == "painted scene, linear probe"
    metric = score([probe], [street])[0]
    for naming in probe.namings:
        scores = metric.compute(probe.names(naming))[51.2]
        assert scores.class_iou["car"] == scores.class_iou["building"] == scores.mean_iou_of_present == 1.0
        assert scores.mean_iou == pytest.approx(2 / 15)
    swapped = ClassifiedModel(PaintedScene(), 0.5, "swapped", lambda codes: np.where(codes[:, 0] > 0.7, 8, 0))
    scores = score([swapped], [street])[0].compute(swapped.names("majority"))[51.2]
    assert scores.iou == 1.0 and scores.class_iou["car"] == scores.class_iou["building"] == 0.0


def test_a_probe_learns_from_voxels_that_both_call_occupied() -> None:
    """What the density leaves out, clusters get no names from either; then nothing is left to learn from."""
    street = _street_of_two_classes()

    class Nothing(PaintedScene):
        def observe(self, sequence: PosedSequence, index: int) -> SemanticObservation:
            observed = super().observe(sequence, index)
            empty = Observation(CAMERA, lambda points: np.zeros(len(points), np.float32))
            return dataclasses.replace(observed, observation=empty)

    with pytest.raises(ConfigurationError, match="0 labelled voxels of fewer than two classes for a probe of painted"):
        fit_probes([Nothing()], 0.5, [street])
    with pytest.raises(ConfigurationError, match="fewer than two classes"):
        fit_probes([PaintedScene()], 0.5, [make_street()])  # all of it is a car
    with pytest.raises(ConfigurationError, match="0 labelled voxels"):
        fit_probes([PaintedScene()], 0.5, [make_street(assets=("lidar",))])


def test_tokens_are_looked_up_where_points_project_to() -> None:
    tokens = torch.zeros(1, 2, 12, 40)
    tokens[0, 0] = 1.0
    tokens[0, :, 5, 7] = torch.tensor([0.0, 1.0])
    u, v = 7 * 16 + 7.5, 5 * 16 + 7.5  # the middle of that cell
    ray = np.array([(u - STREET_CAMERA.cx) / STREET_CAMERA.fx, (v - STREET_CAMERA.cy) / STREET_CAMERA.fy, 1])
    points = torch.tensor(np.stack([ray * 4.0, ray * 40.0, ray * 4.0 + [4.0, 0.0, 0.0]]), dtype=torch.float32)
    found = _tokens_at(tokens, points, STREET_CAMERA)
    assert found.tolist() == pytest.approx(np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]), abs=1e-3)


def test_a_deployed_student_is_scored_by_its_own_names(street: PosedSequence) -> None:
    shipped = StudentBundle.load(DEFAULT_BUNDLE)
    first, others = shipped.class_names[0], shipped.class_names[1:]
    bundle = dataclasses.replace(shipped, class_names=(first, "cluster_07", *others[1:]))
    model = DeployedLabels(bundle, threads=1)
    assert model.labels == 1 + len(bundle.class_names)
    for naming in model.namings:
        assert model.names(naming)[:3].tolist() == [0, COMMON_CLASSES.index(first), -1]
    (_, _, truth), *_ = truths([street])
    volume = model.predict(street, 0, truth)
    completer = Completer(bundle, CAMERA, grid=truth.grid, grid_from_camera=truth.grid_from_camera, threads=1)
    voxels = completer.complete(street.image(0, "camera_left")).voxels
    assert np.array_equal(volume > 0, voxels.state >= VoxelState.SURFACE) and (volume > 0).any()
    assert [volume[tuple(place)] for place in voxels.index] == (1 + voxels.label).tolist()
    (metric,) = score([model], [street])
    assert metric.compute(model.names("hungarian"))[51.2].voxels > 0
    with pytest.raises(ConfigurationError, match="cluster_01"):
        DeployedLabels(dataclasses.replace(shipped, class_names=tuple(f"cluster_0{n}" for n in range(1, 8))))


@pytest.fixture(scope="module")
def field() -> FeatureField:
    torch.manual_seed(0)
    return FeatureField(DensityField(STREET_CAMERA), target_size=8, channels=4, units=6, expansion=5)


def test_a_feature_field_gives_codes_of_length_one(street: PosedSequence, field: FeatureField) -> None:
    points = np.array([[0.0, 0.0, 10.0], [1.0, 0.5, 20.0]], np.float32)
    plain = FeatureFieldModel(field, "plain").observe(street, 0)
    headed = FeatureFieldModel(field, "headed", DistillationHead(8, 3), half_resolution=True).observe(street, 0)
    assert plain.codes(points).shape == (2, 8) and headed.codes(points).shape == (2, 3)
    for observed in (plain, headed):
        assert np.linalg.norm(observed.codes(points), axis=1) == pytest.approx(np.ones(2), abs=1e-5)
        assert observed.units is not None and observed.units(points).shape == (2, 6)
        assert (observed.units(points) >= 0.0).all()


def test_a_survey_is_kept_and_shown(street: PosedSequence, fitted: FittedModel, tmp_path: Path) -> None:
    found = survey(PaintedWall(), [street], every=4, points_a_frame=50)  # type: ignore[arg-type]
    assert set(found.frame) == {0, 4, 8} and (found.recording == 0).all()
    assert (found.pixel[:, 0] >= -0.5).all() and (found.pixel[:, 0] <= CAMERA.width - 0.5).all()
    file = tmp_path / "clusters.safetensors"
    write_clusters(file, fitted.clusters, found.codes, found.units)
    clusters, units, cluster = read_clusters(file)
    assert np.array_equal(clusters.centres, fitted.clusters.centres)
    assert np.array_equal(clusters.assign(units.astype(np.float32)), cluster)  # units are the codes here
    write_class_file(tmp_path / "classes.json", ["car", None], [0.5, 0.5])
    pages = write_contact_sheets(tmp_path, clusters, found, read_class_file(tmp_path / "classes.json", 2))
    assert [page.name for page in pages] == ["cluster_00.png", "cluster_01.png"]
    assert all(cv2.imread(str(page)) is not None for page in pages)
    file.write_bytes(b"nothing")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_clusters(file)


def test_tables_and_json_say_the_same(street: PosedSequence, fitted: FittedModel) -> None:
    results = {("towns", fitted.name): (fitted, score([fitted], [street])[0])}
    text = markdown(results)
    assert (
        "| painted wall | 6.7 / 6.7 / 6.7 | 100.0 / 100.0 / 100.0 | 100.0 / 100.0 / 100.0 | 100.0 / 100.0 / 100.0 |"
        in text
    )
    content = json.loads(json.dumps(as_json(results, {"seed": 0}), allow_nan=False))
    (entry,) = [e for e in content["scores"] if (e["naming"], e["range_m"]) == ("majority", 51.2)]
    assert entry["mean_iou"] == pytest.approx(1 / 15) and entry["class_of_label"] == [0, CAR, CAR]
    assert entry["class_iou"]["road"] is None


def _asked(**changes: object) -> argparse.Namespace:
    values: dict[str, object] = {
        "data": [], "windows": [], "bundle": [], "checkpoint": [], "foundation": None, "prior": False, "probe": False,
        "cluster_on": [], "name_on": [],
        "student": Path("x"), "layer": -1, "clusters": 2, "seed": 0, "every": 1, "output": Path("y"),
    }  # fmt: skip
    return argparse.Namespace(**{**values, **changes})


def test_the_command_refuses_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    run = parser.parse_args(
        ["semantics", "--student", "x", "--cluster-on", "a", "--name-on", "b", "--output", "y"]
    ).run_protocol
    with pytest.raises(ConfigurationError, match="nothing to score on"):
        run(_asked())
    with pytest.raises(ConfigurationError, match="nothing to score"):
        run(_asked(data=[tmp_path]))
    same = [tmp_path / group / "run" / "checkpoints" / "last.ckpt" for group in ("a", "b")]
    with pytest.raises(ConfigurationError, match="several are called run"):
        run(_asked(data=[tmp_path], checkpoint=same))
    with pytest.raises(ConfigurationError, match="several are called run"):
        run(_asked(data=[tmp_path], checkpoint=same[:1], bundle=[tmp_path / "run"]))
    for without in (_asked(data=[tmp_path], prior=True, student=None), _asked(data=[tmp_path], bundle=[tmp_path])):
        with pytest.raises(ConfigurationError, match="--student"):
            run(without)
    monkeypatch.delenv("SCENE_COMPLETION_DATA", raising=False)
    with pytest.raises(ConfigurationError, match="its folder is not known"):
        run(_asked(windows=["06"], prior=True))
    with pytest.raises(ConfigurationError, match="is scored as well"):
        run(_asked(data=[tmp_path], name_on=[tmp_path], prior=True))
