from __future__ import annotations

import pytest

from scene_completion_training.street_world import seeds


def test_no_seed_has_two_roles() -> None:
    owners = list(seeds.SEEDS_OF_ROLE.values())
    assert sum(len(owner) for owner in owners) == len(set().union(*map(set, owners)))
    assert [seeds.role_of_seed(seed) for seed in (0, 1999, 2000, 7000)] == ["training", "validation", "test", "demo"]


@pytest.mark.parametrize("seed", [-1, 3000, 8000])
def test_seeds_without_a_role_are_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=str(seed)):
        seeds.role_of_seed(seed)
