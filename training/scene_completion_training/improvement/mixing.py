"""How far a student goes from the old weights to the fine-tuned ones: calibrating drives choose.

Fine-tuning on few drives gains there and forgets elsewhere. Weights in between keep most of both (Wortsman et al.,
"Robust fine-tuning of zero-shot models", CVPR 2022).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_training.gpu_export.parity import density_field
from scene_completion_training.improvement.judging import score_students

OLD, SHARES = 0.0, (0.125, 0.25, 0.375, 0.5, 0.75, 1.0)
"""Share of the fine-tuned weights in the old student, and those that are tried: closer where forgetting begins."""


@dataclass(frozen=True)
class Mixture:
    """What calibrating drives say of weights in between.

    Attributes:
        share: Of the fine-tuned weights.
        new: Average precision on the new drives.
        replayed: The same on the replayed ones; None where there are none.
    """

    share: float
    new: float
    replayed: float | None


def mix_checkpoint(checkpoint: Path, old: StudentBundle, share: float, file: Path, encoder_weights: str = "") -> Path:
    """Writes a checkpoint whose field lies between that of a student and the one that was trained on from it.

    Weights are rounded as a bundle rounds them, so that its encoder and its weights are the same network.

    Args:
        checkpoint: Of the training.
        old: The student that it started from.
        share: Of the trained weights, 0..1.
        file: Where to.
        encoder_weights: See `density_field`.
    """
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    state = content["state_dict"]
    for name, before in density_field(old, encoder_weights).state_dict().items():
        after = state[f"field.{name}"]
        if after.is_floating_point():
            state[f"field.{name}"] = torch.lerp(before.to(after.dtype), after, share).half().to(after.dtype)
    torch.save(content, file)
    return file


def judge_mixtures(
    students: Mapping[float, StudentBundle], new: Sequence[Path], replayed: Sequence[Path], **options: Any
) -> list[Mixture]:
    """Average precision of students on drives that none was trained on, as later frames judge them.

    Args:
        students: Share of the fine-tuned weights -> student. All have one grid and one camera.
        new: Calibrating drives among the new recordings, at least one.
        replayed: Those among the replayed ones.
        options: See `score_students`.
    """

    def precision(drives: Sequence[Path]) -> list[float | None]:
        if not drives:
            return [None] * len(students)
        scores = score_students(list(students.values()), drives, **options).scores
        return [one.compute()["all", max(one.ranges)].average_precision for one in scores]

    found = zip(students, precision(new), precision(replayed), strict=True)
    return [Mixture(share, math.nan if one is None else one, other) for share, one, other in found]


def best_share(mixtures: Sequence[Mixture], tolerance: float) -> float:
    """The share with the largest gain on the new drives among those that lose no more on the replayed ones.

    Where all lose more, the one that loses least.

    Args:
        mixtures: One of them the old student.
        tolerance: Loss in average precision that is allowed.
    """
    (old,) = (mixture for mixture in mixtures if mixture.share == OLD)
    tried = [mixture for mixture in mixtures if mixture.share != OLD]
    losses = {mixture.share: (old.replayed or 0.0) - (mixture.replayed or 0.0) for mixture in tried}
    allowed = [mixture for mixture in tried if losses[mixture.share] <= tolerance]
    if not allowed:
        return min(losses, key=losses.__getitem__)
    return max(allowed, key=lambda mixture: mixture.new).share
