from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.gpu_export.parity import density_field
from scene_completion_training.improvement.mixing import Mixture, best_share, judge_mixtures, mix_checkpoint
from tests.inference.small_bundle import make_small_bundle, road_head
from tests.training.improvement.conftest import LOWER_M, make_drive
from tests.training.synthetic_scene import CAMERA_HEIGHT


def test_weights_lie_between(current: StudentBundle, tmp_path: Path) -> None:
    """A training that added one to each weight."""
    before = density_field(current).state_dict()
    trained = {f"field.{name}": value + 1.0 if value.is_floating_point() else value for name, value in before.items()}
    torch.save({"state_dict": trained, "step": 7}, tmp_path / "trained.ckpt")
    for share in (0.0, 0.25, 1.0):
        file = mix_checkpoint(tmp_path / "trained.ckpt", current, share, tmp_path / "mixed.ckpt")
        assert torch.load(file, weights_only=True)["step"] == 7
        mixed = Checkpoint.read(file).state
        assert mixed.keys() == before.keys()
        for name, value in before.items():
            expected = value + share if value.is_floating_point() else value
            torch.testing.assert_close(mixed[name], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("tried", "best"),
    [
        ([(0.25, 0.52, 0.60), (0.5, 0.55, 0.595), (1.0, 0.60, 0.50)], 0.5),  # the last one forgot
        ([(0.25, 0.52, 0.60), (0.5, 0.55, 0.60), (1.0, 0.60, 0.60)], 1.0),
        ([(0.25, 0.52, 0.57), (0.5, 0.55, 0.58), (1.0, 0.60, 0.50)], 0.5),  # all forgot
        ([(0.25, 0.52, None), (0.5, 0.51, None), (1.0, 0.40, None)], 0.25),
    ],
)
def test_the_largest_gain_that_forgets_nothing_is_taken(
    tried: list[tuple[float, float, float | None]], best: float
) -> None:
    old = Mixture(0.0, 0.5, None if tried[0][2] is None else 0.6)
    assert best_share([old, *(Mixture(*one) for one in tried)], tolerance=0.01) == best


def test_students_are_judged_on_both_kinds_of_drives(tmp_path: Path) -> None:
    """One student knows the road, the other says the opposite everywhere."""
    drive = make_drive(tmp_path / "drive", aside=0.0, frames=5)
    drive.save(tmp_path / "recording")
    head = road_head(road_below_camera=CAMERA_HEIGHT - LOWER_M)
    opposite = dataclasses.replace(head, density_weight=-head.density_weight, density_bias=-head.density_bias)
    students = {
        0.0: make_small_bundle(tmp_path / "knows", head=head),
        1.0: make_small_bundle(tmp_path / "wrong", head=opposite),
    }
    knows, wrong = judge_mixtures(students, [tmp_path / "recording"], [tmp_path / "recording"], threads=1)
    assert (knows.share, wrong.share) == (0.0, 1.0)
    assert knows.replayed == knows.new > wrong.new == wrong.replayed
