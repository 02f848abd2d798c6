"""A tiny model, and rooms in the place of recordings."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from scene_completion_training.points.opening import Scenes
from scene_completion_training.sparse.mink_unet import MinkUNet18A
from tests.training.foundation.tiny_models import saved_model
from tests.training.points.rooms import CLASSES, room


@pytest.fixture(scope="session")
def tiny_dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny DINOv2."""
    return saved_model("dinov2", tmp_path_factory.mktemp("models") / "dinov2")


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts rooms of these seeds, with three views, in the place of a folder of this name."""
    known: dict[str, dict[str, Any]] = {}

    def opened(path: Path, **_: Any) -> Scenes:
        return Scenes("rooms", CLASSES, known[Path(path).name])

    def put(name: str, *seeds: int, **changes: float) -> None:
        known[name] = {f"room {seed}": partial(room, seed, views=3, **changes) for seed in seeds}

    monkeypatch.setattr("scene_completion_training.points.data.open_scenes", opened)
    return put


@pytest.fixture
def two_rooms(rooms: Callable[..., None]) -> None:
    rooms("train", 0, 1, step=0.15)
    rooms("test", 2, step=0.15)


@pytest.fixture
def small_trunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the channels, for the patience of those who run the tests."""
    small = partial(MinkUNet18A, stem=8, encoder=(8, 8, 12, 16), decoder=(16, 16, 16, 24))
    for network in ("agglomerated_field", "supervised_points"):
        monkeypatch.setattr(f"scene_completion_training.networks.{network}.MinkUNet18A", small)
