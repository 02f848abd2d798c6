"""Features of a text-aligned teacher: mixtures of embeddings, by what a layer learned from labels."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scene_completion_training.foundation.encoded_words import PhraseList, TextEncoder, make_bank
from scene_completion_training.points import data, text_teacher
from tests.training.foundation.tiny_models import MINILM
from tests.training.points.rooms import CLASSES, PAINT, room, save_rooms


@pytest.fixture
def command(
    rooms: Callable[..., None], tiny_dinov2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    rooms("labelled", *range(6))
    rooms("views", 6, 7)
    monkeypatch.setattr(text_teacher, "open_scenes", data.open_scenes)
    monkeypatch.setattr(text_teacher, "CELL", 8)
    names = ("labelled", "views", "cache", "output")
    folders = [text for name in names for text in (f"--{name}", str(tmp_path / name))]
    return [*folders, "--model", str(tiny_dinov2), "--text-encoder", str(MINILM)]


def test_a_token_is_a_mixture_of_the_classes_that_it_shows(command: list[str], tmp_path: Path) -> None:
    text_teacher.main(command)
    bank = make_bank(TextEncoder(MINILM), PhraseList(phrases=CLASSES, template=text_teacher.TEMPLATE))
    rows = bank.rows(CLASSES)
    paint = (255 * np.array([*PAINT.values()])).astype(np.uint8)
    right, often = [], []
    for seed in (6, 7):
        for view in room(seed, views=3).views:
            features = np.load(tmp_path / "output" / f"room {seed}" / f"{view.name}.npy").astype(np.float64)
            assert features.shape == (rows.shape[1], 6, 8)
            shares, residual, *_ = np.linalg.lstsq(rows.T, features.reshape(len(features), -1), rcond=None)
            assert residual.max() < 1e-4  # of half precision
            assert shares.min() > -0.02
            np.testing.assert_allclose(shares.sum(axis=0), 1.0, atol=0.02)
            shown = (view.image()[:, :, None] == paint).all(axis=-1).reshape(6, 8, 8, 8, -1).mean(axis=(1, 3))
            pure = shown.reshape(48, -1).max(axis=1) == 1.0
            classes = shown.reshape(48, -1).argmax(axis=1)
            right += list(shares.argmax(axis=0)[pure] == classes[pure])
            often += list(classes[pure])
    most_frequent = np.bincount(often).max() / len(often)
    assert np.mean(right) > most_frequent + 0.1


def test_what_is_there_is_not_made_again(command: list[str], tmp_path: Path) -> None:
    text_teacher.main(command)
    made = {file: file.stat().st_mtime_ns for file in (tmp_path / "output").rglob("*.npy")}
    for file in (tmp_path / "output" / "room 7").iterdir():
        file.unlink()
    (tmp_path / "output" / "room 7").rmdir()
    text_teacher.main(command)
    again = {file: file.stat().st_mtime_ns for file in made}
    assert {file.parent.name for file in made if again[file] != made[file]} == {"room 7"}


def test_rooms_without_views_are_named(command: list[str], tmp_path: Path) -> None:
    command[command.index("--labelled") + 1] = str(save_rooms(tmp_path / "clouds", [0]))
    run = [sys.executable, "-m", text_teacher.__name__, *command]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and "views" in done.stderr
    assert not (tmp_path / "output").exists()
