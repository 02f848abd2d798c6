import pytest

from scene_completion_worlds.room.walk import RoomWalk


@pytest.fixture(scope="session")
def walk() -> RoomWalk:
    """Twelve views apart of the rooms of seed 7, in a hand."""
    return RoomWalk(7, 12, (160, 120), leg=1, carrier="hand", supersampling=1)
