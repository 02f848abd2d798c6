"""How much the memory of `TemporalFusion` counts, and for how long."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from scene_completion_ros.errors import GridError
from scene_completion_ros.mapping.evidence import Rules


@dataclass(frozen=True)
class FusionSettings:
    """How much memory counts, and for how long. Chosen on validation towns of the street world.

    Attributes:
        seen_frames: Largest weight n of memory against a frame that sees a voxel, in such frames, within reach. After a
            change, what was before has the part (n / (n + 1)) ** k of the log odds after k frames: with 1, a half after
            one frame and an eighth after three.
        inferred_weight: Weight w of a frame where it infers a voxel, relative to one that sees it.
        inferred_frames: Largest weight n of memory against a frame that infers a voxel, in frames that see it. What was
            before has the part (n / (n + w)) ** k after k such frames: with 2 and 0.3, a half after five.
        reach: Distance from the camera up to which memory counts fully, metres. Beyond it the two largest weights fall
            with the third power of the distance.
        largest_log_odds: Evidence of one frame is cut here: no frame is certain.
        prior: Probability of being occupied of what is unknown; what lies out of view fades to it.
        half_life: Seconds out of view in which memory loses half its weight, and half of its log odds.
        forget_after: Seconds after which a voxel that is out of view is unobserved again.
        seen_for: Seconds for which a voxel that was seen, and is hidden or out of view now, still counts as seen.
            Seen free space may clear a costmap: keep this short where things move.
        margin: Metres around the grid, ahead, behind and to the sides, that the map holds besides: what a robot that
            turns back finds again.
        largest_speed: Metres a second; a camera that is farther from its last place is a jump of the odometry.
        largest_turn: Radians a second; one that has turned more since the last frame is one, too.
        largest_gap: Seconds between two frames after which the map starts anew.

    Raises:
        GridError: A value is out of its range.
    """

    seen_frames: float = 1.0
    inferred_weight: float = 0.3
    inferred_frames: float = 2.0
    reach: float = 20.0
    largest_log_odds: float = 4.0
    prior: float = 0.08
    half_life: float = 2.0
    forget_after: float = 5.0
    seen_for: float = 0.5
    margin: float = 0.0
    largest_speed: float = 60.0
    largest_turn: float = 6.0
    largest_gap: float = 2.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            lowest, highest = _RANGES.get(name, (1e-3, 1e3))
            if not lowest <= value <= highest:
                raise GridError(
                    f"{name} is {value}", where="temporal fusion", cure=f"Give a number from {lowest:g} to {highest:g}"
                )


_RANGES = {
    "seen_frames": (0.0, 1e3),
    "inferred_frames": (0.0, 1e3),
    "inferred_weight": (1e-3, 1.0),
    "prior": (1e-3, 0.5),
    "seen_for": (0.0, 60.0),
    "margin": (0.0, 100.0),
    "half_life": (1e-2, 600.0),
    "forget_after": (0.0, 60.0),
}


def rules_of(settings: FusionSettings, threshold: float) -> Rules:
    """Settings as kernels take them."""
    ages = np.arange(round(1e3 * settings.forget_after) + 1)
    return Rules(
        threshold=_log_odds(threshold),
        prior=_log_odds(settings.prior),
        inferred_weight=settings.inferred_weight,
        seen_limit=settings.seen_frames,
        inferred_limit=settings.inferred_frames,
        seen_for=round(1e3 * settings.seen_for),
        fades=(0.5 ** (ages / (1e3 * settings.half_life))).astype(np.float32),
    )


def _log_odds(probability: float) -> float:
    if probability >= 1.0 or probability <= 0.0:
        return math.copysign(math.inf, probability - 0.5)
    return math.log(probability / (1.0 - probability))
