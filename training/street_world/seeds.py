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


def require_training_seed(seed: int) -> int:
    """Return the seed if a training may see its town.

    Raises:
        ValueError: The town is held out.
    """
    if role_of_seed(seed) != "training":
        raise ValueError(f"seed {seed} is a {role_of_seed(seed)} town and must not be trained on; use 0-999")
    return seed
