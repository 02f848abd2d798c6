"""Which seeds are whose: training, validation and demo towns never share one."""

from __future__ import annotations

from typing import Literal

Role = Literal["training", "validation", "demo"]

TRAINING_SEEDS = range(1000)
VALIDATION_SEEDS = range(1000, 2000)
DEMO_SEEDS = range(7000, 8000)


def role_of_seed(seed: int) -> Role:
    """Role of a town's seed.

    Raises:
        ValueError: The seed belongs to no role.
    """
    if seed in TRAINING_SEEDS:
        return "training"
    if seed in VALIDATION_SEEDS:
        return "validation"
    if seed in DEMO_SEEDS:
        return "demo"
    raise ValueError(f"seed {seed} belongs to no role: training towns have 0-999, validation 1000-1999, demo 7000-7999")
