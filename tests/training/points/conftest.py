"""A tiny model, and rooms in the place of recordings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scene_completion_training.points.opening import Scenes
from tests.training.foundation.tiny_models import saved_model
from tests.training.points.small_rooms import CLASSES, small_rooms


@pytest.fixture(scope="session")
def tiny_dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny DINOv2."""
    return saved_model("dinov2", tmp_path_factory.mktemp("models") / "dinov2")


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts rooms with these seeds in the place of a folder, by its name."""
    known: dict[str, dict[str, Any]] = {}

    def opened(path: Path, **_: Any) -> Scenes:
        return Scenes("rooms", CLASSES, known[Path(path).name])

    def put(name: str, *seeds: int, **changes: float) -> None:
        known[name] = small_rooms(seeds, **changes)

    monkeypatch.setattr("scene_completion_training.points.data.open_scenes", opened)
    return put
