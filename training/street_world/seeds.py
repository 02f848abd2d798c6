"""Which seeds are whose: training, validation, test and demo towns never share one."""

from __future__ import annotations

from typing import Literal

Role = Literal["training", "validation", "test", "demo"]

TRAINING_SEEDS = range(1000)
VALIDATION_SEEDS = range(1000, 2000)
TEST_SEEDS = range(2000, 3000)
DEMO_SEEDS = range(7000, 8000)

SEEDS_OF_ROLE: dict[Role, range] = {
    "training": TRAINING_SEEDS,
    "validation": VALIDATION_SEEDS,
    "test": TEST_SEEDS,
    "demo": DEMO_SEEDS,
}


def role_of_seed(seed: int) -> Role:
    """Role of a town's seed.

    Raises:
        ValueError: The seed belongs to no role.
    """
    for role, seeds in SEEDS_OF_ROLE.items():
        if seed in seeds:
            return role
    known = ", ".join(f"{role} {seeds[0]}-{seeds[-1]}" for role, seeds in SEEDS_OF_ROLE.items())
    raise ValueError(f"seed {seed} belongs to no role: towns are {known}")
