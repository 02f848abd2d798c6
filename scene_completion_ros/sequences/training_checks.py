"""What a posed sequence must fulfil before a network is trained on it."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.sequences.posed_sequence import PosedSequence

SMALLEST_BASELINE_M = 0.01
SMALLEST_PATH_M = 0.5


def check_for_training(sequence: PosedSequence, where: str) -> None:
    """Refuse a sequence from which a network would learn something wrong, or break on the way.

    Poses with NaN never get this far: a transform cannot hold them, and opening the sequence names the frame.

    Raises:
        SequenceError: Unknown scale, a missing image file, a frame without one of the cameras, two cameras at one
            place, or a rig that does not move.
    """
    if not sequence.metric_scale:
        raise SequenceError(
            "scale: unknown",
            where=where,
            cure="Training needs metres: extract it again with --camera-height, odometry or a stereo pair",
        )
    for index, frame in enumerate(sequence.frames):
        if absent := sorted(set(sequence.cameras) - set(frame.images)):
            raise SequenceError(
                f"no image of {', '.join(absent)}",
                where=f"{where}, frame {index}",
                cure="Leave out frames that not all cameras have, or extract the sequence again",
            )
        for camera, source in frame.images.items():
            if isinstance(source, Path) and not source.is_file():
                raise SequenceError(
                    f"image file {source} is missing",
                    where=f"{where}, frame {index}, camera {camera!r}",
                    cure="Restore the file or extract the sequence again",
                )
    _check_baselines(sequence, where)


def _check_baselines(sequence: PosedSequence, where: str) -> None:
    for one, other in combinations(sorted(sequence.cameras), 2):
        offset = sequence.rig_from_camera[one].inverse() @ sequence.rig_from_camera[other]
        same_view = np.trace(offset.rotation) > 2.9  # cameras that look elsewhere may well share a centre
        if same_view and np.linalg.norm(offset.translation) < SMALLEST_BASELINE_M:
            raise SequenceError(
                f"zero baseline: {one} and {other} stand at one place",
                where=where,
                cure="Correct the static transforms or P of the stereo calibration, then extract it again",
            )
    if len(sequence) > 1 and sequence.travelled_distance() < SMALLEST_PATH_M and len(sequence.cameras) == 1:
        raise SequenceError(
            f"zero baseline: one camera that moves {sequence.travelled_distance():.2f} m in {len(sequence)} frames",
            where=where,
            cure="Check the poses: other views of the same place are what training learns from",
        )
