"""Drives split by place and time."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.errors import ImprovementError
from scene_completion_ros.geometry import RigidTransform
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.improvement.split import cut_along, split_drives
from tests.training.improvement.conftest import START, STEP_M, make_drive


def straight(count: int) -> np.ndarray:
    return np.stack([np.arange(count, dtype=float), np.zeros(count), np.zeros(count)], axis=-1)


def test_a_straight_drive_by_hand() -> None:
    training, calibration, held_out = cut_along(straight(101), (0.6, 0.2, 0.2), 10.0)
    # 100 m without two gaps of 10 m: 48 m, 16 m and 16 m.
    assert (training[0], training[-1]) == (0, 48)
    assert (calibration[0], calibration[-1]) == (58, 74)
    assert (held_out[0], held_out[-1]) == (84, 100)


def test_a_drive_that_comes_back_does_not_learn_where_it_is_scored() -> None:
    there_and_back = np.concatenate([straight(101), straight(100)[::-1]])
    training, calibration, held_out = cut_along(there_and_back, (0.6, 0.2, 0.2), 10.0)
    scored = there_and_back[held_out, 0]
    assert scored.min() == 0.0  # it ends where it began
    for part in (training, calibration):
        assert np.abs(there_and_back[part, 0][:, None] - scored[None]).min() >= 10.0
    assert training.size


def saved(folder: Path, name: str, day: int, frames: int = 4) -> Path:
    """A drive straight on, whose frames all show the same."""
    drive = make_drive(folder / f"{name}_images", aside=0.0, frames=1)
    first = drive.frames[0]
    later = [
        dataclasses.replace(
            first,
            stamp_ns=first.stamp_ns + day * 10**12 + number * 10**9 // 4,
            world_from_rig=RigidTransform(np.eye(3), np.array([STEP_M * number, 0.0, 0.0])),
        )
        for number in range(frames)
    ]
    return dataclasses.replace(drive, name=name, frames=later).save(folder / name)


def test_the_named_drive_or_else_the_last_in_time_is_held_out_and_the_last_other_one_calibrates(tmp_path: Path) -> None:
    monday, tuesday, friday = (saved(tmp_path, name, day) for name, day in (("m", 1), ("t", 2), ("f", 5)))
    split = split_drives([friday, monday, tuesday], [], 5.0, tmp_path / "split")
    assert (split.training, split.calibration, split.held_out) == ([monday], [tuesday], [friday])
    split = split_drives([friday, tuesday], [monday], 5.0, tmp_path / "split")
    assert (split.training, split.calibration, split.held_out) == ([tuesday], [friday], [monday])


def test_a_single_drive_is_cut_and_written(tmp_path: Path) -> None:
    only = saved(tmp_path, "only", 0, frames=25)
    (tmp_path / "split" / "rest").mkdir(parents=True)  # of an earlier run
    split = split_drives([only], [], 2.0, tmp_path / "split")
    parts = [PosedSequence.load(folders[0]) for folders in vars(split).values()]
    ends = [(part.frames[0].stamp_ns - START, part.frames[-1].stamp_ns - START) for part in parts]
    assert [begin for begin, _ in ends] == sorted(begin for begin, _ in ends)
    for (_, end), (begin, _) in itertools.pairwise(ends):
        assert (begin - end) / 0.25e9 * STEP_M >= 2.0
    assert not (tmp_path / "split" / "rest").exists()


def test_a_short_drive_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(ImprovementError, match=r"too short to be split into 3 parts with gaps of 51 m: only \(4 m\)"):
        split_drives([saved(tmp_path, "only", 0)], [], 51.0, tmp_path / "split")
