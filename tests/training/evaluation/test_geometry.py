"""Predictors on a street with one wall: voxels, calibration, which frames are scored; priors and mean depth by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.evaluation.bodies import BODIES
from scene_completion_ros.evaluation.metric import Metric, Scores
from scene_completion_ros.evaluation.obstacles import OBSTACLES
from scene_completion_ros.evaluation.occupancy import CALIBRATION, OCCUPANCY
from scene_completion_ros.evaluation.truth import IN_VIEW, SEEN, FrameTruth, exact_truth
from scene_completion_ros.geometry import VoxelGrid
from scene_completion_ros.sequences.frame_lists import FrameSplit
from scene_completion_ros.sequences.opening import open_recording
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.voxels.occupancy import opacity
from scene_completion_training.evaluation import geometry
from scene_completion_training.evaluation.predictor import AFTER, BEFORE, VOXEL_EDGE, Frame, Prediction
from tests import official_layouts as layouts
from tests.training.evaluation.one_wall import CAMERA, GRID, Wall, true_voxels


def rows(metric: Metric, models: list[Any], frames: list[Frame]) -> list[dict[str, Any]]:
    scores = Scores([metric])
    scores.run("street", models, frames)
    return scores.rows(metric.name)


def test_the_truth_is_perfect_and_thickness_pays_inside_only(street: PosedSequence) -> None:
    (frame,) = geometry.voxel_frames([street])  # the others have no voxels
    with pytest.raises(SequenceError, match="frame 1"):
        geometry.true_depth(street, 1)
    models = [Wall(), geometry.EmptyControl(), *geometry.surface_controls(street, Wall())]
    cells = {(row["method"], row["range_m"], row["region"]): row for row in rows(OCCUPANCY, models, [frame])}
    perfect = ("visible", "all", "interiors", "all + interiors")
    assert all(cells["wall", 12.8, region]["iou"] == 1.0 for region in perfect)
    assert all(cells["nothing", 51.2, region]["recall"] == 0.0 for region in ("visible", "interiors", "all"))
    # Nothing is hidden behind the wall: there is no voxel to be right of.
    assert cells["wall", 51.2, "occluded"]["iou"] is None
    assert cells["wall", 51.2, "all"]["voxels"] == int(true_voxels(street).counted.sum())
    for source in ("true depth", "depth of wall"):
        assert cells[f"surface ({source})", 51.2, "interiors"]["recall"] == 0.0
    # The insides are two metres deep, a thickness of 4 m fills them and two metres of free space behind.
    assert cells["surface + 4 m (true depth)", 51.2, "interiors"]["recall"] > 0.5
    assert cells["surface + 4 m (true depth)", 51.2, "occluded"]["precision"] == 0.0
    obstacles = {row["method"]: row for row in rows(OBSTACLES, models, [frame]) if row["tolerance"] == "fixed"}
    assert obstacles["surface + 4 m (true depth)"]["precision"] < obstacles["wall"]["precision"] == 1.0
    # The wall is labelled as a car, and voxels are 0.8 m large: it is 1.6 to 2.4 m thick.
    bodies = rows(BODIES, models, [frame])
    cars = {row["method"]: row for row in bodies if (row["class"], row["range_m"]) == ("car", 12.8)}
    assert (cars["wall"]["overhang_m"], cars["nothing"]["missed"]) == (0.0, 1.0)
    thin, thick = (cars[f"surface{more} (true depth)"]["overhang_m"] for more in ("", " + 4 m"))
    assert -1.7 <= thin < 0.0 < thick < 3.3


def test_calibration_is_fitted_to_what_densities_mean(street: PosedSequence) -> None:
    """Voxels of density 0.1 n per metre are occupied with probability n², n even in 0..1: far from their opacity."""
    shape = (64, 64, 8)
    n, chance = np.random.default_rng(0).random((2, *shape))
    flags = np.full(shape, IN_VIEW | SEEN, np.uint8)
    truth = exact_truth((chance < n**2).astype(np.uint8), flags, GRID)
    density = geometry.grid_density((0.1 * n).astype(np.float32), GRID, truth.grid_from_camera)

    class Dense(Wall):
        def complete(self, sequence: PosedSequence, index: int) -> Prediction:
            return Prediction(CAMERA, density)

    frame = Frame(street, 0, FrameTruth(truth, None))
    model = Dense()
    geometry.calibrate(model, [frame])
    half = np.array([0.5], dtype=np.float32)
    assert model.calibration.apply(opacity(0.1 * half, VOXEL_EDGE))[0] == pytest.approx(0.25, abs=0.03)
    found = {(row["rule"], row["range_m"], row["region"]): row for row in rows(OCCUPANCY, [model], [frame])}
    calibrated = found["calibrated", 51.2, "all"]
    assert calibrated["iou"] == pytest.approx(calibrated["best_iou"], abs=0.01)
    assert found["σ > 0.5", 51.2, "all"]["iou"] == 0.0
    errors = {row["stated"]: row["expected_calibration_error"] for row in rows(CALIBRATION, [model], [frame])}
    assert errors[BEFORE] == pytest.approx(1 / 3 - 0.01, abs=0.01)  # mean n² and mean α
    assert errors[AFTER] < 0.02
    assert [row["stated"] for row in rows(CALIBRATION, [Dense()], [frame])] == [BEFORE]


@pytest.mark.parametrize("images", [range(13), (0, 5, 10), (0, 2, 5, 9, 10)])
def test_every_frame_of_semantic_kitti_that_has_voxels(images: Sequence[int], tmp_path: Path) -> None:
    """Every fifth image has voxels; the others may be there or not."""
    sequence = open_recording(layouts.semantic_kitti(tmp_path, images, (0, 5, 10)))
    assert [images[index] for index in geometry.frames_with_voxels(sequence, 5)] == [0, 5, 10]
    assert [images[index] for index in geometry.frames_with_voxels(sequence, 6)] == [0, 10]
    assert [images[frame.index] for frame in geometry.scored_frames(sequence, 5)] == [0, 5, 10]
    split = FrameSplit(layouts.write_split(tmp_path / "list.txt", [f"08 {number} l" for number in (0, 10)]))
    assert [images[index] for _, index in geometry.voxel_places([sequence], 5, split)] == [0, 10]


def test_the_prior_of_windows_is_what_an_independent_script_found(window: PosedSequence, shared_data: Any) -> None:
    """That script used SciPy's Gaussian and scikit-learn's average precision."""
    prior = geometry.prior_of_windows(shared_data / "kitti_windows" / "sequences")(window)
    frames = list(geometry.voxel_frames([window]))
    found = {(row["range_m"], row["region"]): row for row in rows(OCCUPANCY, [prior], frames)}
    expected = {12.8: (0.653, 0.795, 0.942), 25.6: (0.457, 0.503, 0.724), 51.2: (0.223, 0.243, 0.287)}
    for range_m, figures in expected.items():
        row = found[range_m, "all"]
        assert (row["iou"], row["best_iou"], row["average_precision"]) == pytest.approx(figures, abs=0.002)
    assert found[51.2, "all"]["voxels"] == 399_953
    truth = frames[0].truth.voxels
    voxels = np.load(shared_data / "kitti_windows" / "sequences" / "06" / "voxels_npz" / "000000.npz")
    hit = np.unpackbits(voxels["bin"]).reshape(256, 256, 32).astype(bool)
    assert truth.visible[hit & truth.occupied & truth.counted].mean() > 0.7  # most voxels that the scan hits


def test_prior_is_cut_at_its_own_threshold(street: PosedSequence) -> None:
    grid = VoxelGrid((0.0, -1.0, -1.0), 1.0, (3, 2, 2))
    mean = np.zeros(grid.shape, dtype=np.float32)
    mean[:, 0, 0] = 0.2, 0.31, 1.0
    control = geometry.PriorControl(mean, 0.3, grid)
    points = np.array(
        [[0.5, 0.5, 0.5], [0.5, 0.5, 1.5], [0.5, 0.5, 2.5], [0.5, -0.5, 0.5], [9.0, 9.0, 9.0]], np.float32
    )
    density = control.complete(street, 0).density(points)
    assert (density > 0.5).tolist() == [False, True, True, False, False]
    # 0.5 * log(1 - 0.2) / log(1 - 0.3) = 0.3128
    assert density[0] == pytest.approx(0.3128, abs=1e-3)
    assert density[3] == density[4] == 0.0
