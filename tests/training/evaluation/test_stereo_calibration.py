"""A student's prior, depth and probabilities from stereo drives alone."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.cli import main
from scene_completion_ros.errors import SequenceError
from scene_completion_ros.evaluation.baselines import PriorGrid
from scene_completion_ros.geometry.grids import DEFAULT_GRID
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.head import PlacePrior
from scene_completion_ros.sequences.kitti import kitti_odometry
from scene_completion_ros.voxels.occupancy import logit_of_density, opacity, probability_of_log_odds
from scene_completion_training.evaluation.density_model import VOXEL_EDGE, DeployedModel
from scene_completion_training.evaluation.stereo_calibration import (
    FrameEvidence,
    fit_certainty,
    fit_place_prior,
    mean_average_precision,
    mean_prior,
    prior_choices,
)
from scene_completion_training.viewpoint import Volume
from tests.inference.small_bundle import make_small_bundle
from tests.training.synthetic_scene import CAMERA_HEIGHT


def counted(voxels: list[tuple[np.ndarray, np.ndarray]]) -> PriorGrid:
    """Frames, occupied and known voxels of each."""
    counts = PriorGrid(voxels[0][0].shape)
    for frame in voxels:
        counts.update(*frame)
    return counts


def flat_prior(logit: float = 0.0) -> PlacePrior:
    counts = np.full(DEFAULT_GRID.shape, True)
    prior = mean_prior(counted([(counts, counts), (~counts, counts)]), DEFAULT_GRID)
    return dataclasses.replace(prior, logit=np.full_like(prior.logit, logit))


def evidence(gain: float, prior_logit: float, count: int = 40_000) -> FrameEvidence:
    """Voxels that are occupied as often as gain · x + prior says, up to 50 m ahead."""
    generator = np.random.default_rng(0)
    points = generator.uniform((-5.0, -1.0, 3.0), (5.0, 1.0, 50.0), (count, 3)).astype(np.float32)
    logit = generator.normal(0.0, 2.0, count)
    probability = 1.0 / (1.0 + np.exp(-(gain * logit + prior_logit)))
    return FrameEvidence(points, logit, (generator.uniform(size=count) < probability).astype(np.float32))


def test_mean_prior_has_the_log_odds_of_the_mean() -> None:
    everywhere = np.full(DEFAULT_GRID.shape, True)
    upper = np.zeros(DEFAULT_GRID.shape, dtype=np.bool_)
    upper[:, :, 16:] = True
    prior = mean_prior(
        counted([(upper, everywhere), (everywhere, everywhere), (upper, everywhere), (upper, everywhere)]), DEFAULT_GRID
    )
    # A quarter of the frames below the middle of the grid; all above, of which a thousandth is left for doubt.
    z = (np.array([2, 30]) + 0.5) * 0.2 - 2.2
    points = np.array([[0.0, -z[0], 20.0], [3.0, -z[1], 7.0]])
    gain, logit = prior.at(points).T
    np.testing.assert_array_equal(gain, 1.0)
    np.testing.assert_allclose(logit, [np.log(1.0 / 3.0), np.log(999.0)], rtol=1e-4)
    known = np.zeros(DEFAULT_GRID.shape, dtype=np.bool_)  # unknown voxels say nothing
    with pytest.raises(SequenceError, match="no frame says anything"):
        mean_prior(counted([(known, known)]), DEFAULT_GRID)


def test_fit_finds_what_the_student_is_worth_and_how_certain_the_drives_are() -> None:
    prior = fit_place_prior([[evidence(0.6, -1.0)]], flat_prior(-2.0))
    points = np.array([[0.0, 0.0, z] for z in (5.0, 12.8, 25.6, 45.0)])
    gain, logit = prior.at(points).T
    np.testing.assert_allclose(gain, 0.6, atol=0.08)
    np.testing.assert_allclose(logit, -1.0, atol=0.15)
    gain, shift = fit_certainty([[evidence(0.6, -1.0)], [evidence(0.6, -1.0, count=2_000)]])
    assert gain == pytest.approx(0.6, abs=0.03)
    assert shift == pytest.approx(-1.0, abs=0.05)
    opposite = fit_place_prior([[evidence(-0.8, 0.0)]], flat_prior())  # a student who says it is not heard
    assert opposite.gain.max() < 1e-3


@pytest.mark.parametrize(("new_drives_say", "best"), [(0.0, "the earlier one"), (4.0, "of the training drives")])
def test_an_earlier_prior_stays_where_few_new_drives_say_less(new_drives_say: float, best: str) -> None:
    """Only in the left half of the volume is there anything; the earlier prior knows it, or the new mean does."""
    frame = evidence(0.0, 0.0)
    left = frame.points[:, 0] < 0.0
    frame = dataclasses.replace(frame, target=left.astype(np.float32))
    x = flat_prior()
    sides = np.sign(x.lattice[0, 1] + x.lattice[1, 1] * np.arange(x.logit.shape[1]))[None, :, None]  # + is the left
    knowing = dataclasses.replace(x, logit=np.broadcast_to(4.0 * sides, x.logit.shape).astype(np.float32))
    mean = dataclasses.replace(x, logit=(knowing.logit * new_drives_say / 4.0).astype(np.float32))
    earlier = knowing if not new_drives_say else x
    choices = prior_choices([[frame]], mean, earlier, Volume())
    assert len(choices) == 4
    ranked = {name: mean_average_precision([[frame]], choice) for name, choice in choices.items()}
    assert ranked[best] > 0.85
    assert min(ranked.values()) < 0.7


def test_a_student_gets_the_ground(synthetic_drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A student that knows nothing of this drive: after it, the road is where the stereo pair has it."""
    held_out = tmp_path / "held_out"
    shutil.copytree(synthetic_drive, held_out)
    bundle = make_small_bundle(tmp_path / "bundle")
    arguments = ["calibrate", str(bundle.folder), "--prior-from", str(synthetic_drive), "--held-out", str(held_out)]
    assert main([*arguments, "--every", "3"]) == 0
    assert "place prior of 32×32×32 knots" in capsys.readouterr().out
    calibrated = StudentBundle.load(tmp_path / "bundle")
    record = calibrated.provenance["calibration"]
    assert "stereo" in record["fitted_on"]
    points = np.array([[2.5, CAMERA_HEIGHT, 9.0], [0.0, 0.0, 7.0]], dtype=np.float32)

    def density_and_probability(bundle: StudentBundle) -> tuple[np.ndarray, np.ndarray]:
        density = DeployedModel(bundle, threads=1).observe(kitti_odometry(held_out), 0).density(points)
        return density, bundle.calibration.apply(opacity(density, VOXEL_EDGE))

    density, (road, air) = density_and_probability(calibrated)
    assert road > calibrated.threshold > air
    # The probability is that of the regression: what the stretch did to the density, the calibration undoes.
    stretch = record["density_stretch"]
    logit = (logit_of_density(density.astype(np.float64)) - stretch["offset"]) / stretch["scale"]
    np.testing.assert_allclose([road, air], probability_of_log_odds(logit), atol=0.03)
    # Once more: the prior is replaced, not added to.
    assert main([*arguments, "--every", "3"]) == 0
    _, again = density_and_probability(StudentBundle.load(tmp_path / "bundle"))
    np.testing.assert_allclose(again, [road, air], atol=0.05)
