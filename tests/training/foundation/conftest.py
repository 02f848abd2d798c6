"""Pretrained weights, and tiny models of every type."""

import os
from pathlib import Path

import pytest

from scene_completion_training.foundation.encoded_words import TextEncoder
from tests.training.foundation.tiny_models import KINDS, saved_model, saved_sentence_encoder


def _weights(shared_data: Path, name: str, file: str) -> Path:
    """Folder of pretrained weights; skips where they are missing, fails when `REQUIRE_DATA=1`."""
    folder = shared_data.parent / "weights" / name
    if not (folder / file).is_file():
        reason = f"pretrained weights not found at {folder}"
        if os.environ.get("REQUIRE_DATA") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def espnetv2_cityscapes(shared_data: Path) -> Path:
    """ESPNetv2 of Cityscapes next to the recordings."""
    return _weights(shared_data, "espnetv2_cityscapes", "espnetv2_s_2.0_city_1024x512.pth")


@pytest.fixture(scope="session")
def depth_anything(shared_data: Path) -> Path:
    """Depth Anything V2 Small next to the recordings."""
    return _weights(shared_data, "depth_anything_v2_small", "model.safetensors")


@pytest.fixture(scope="session")
def sentence_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny sentence encoder."""
    return saved_sentence_encoder(tmp_path_factory.mktemp("models") / "sentences")


@pytest.fixture(scope="session")
def encoder(sentence_encoder: Path) -> TextEncoder:
    return TextEncoder(sentence_encoder)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Model type -> folder of a tiny model."""
    return {kind: saved_model(kind, tmp_path_factory.mktemp("models") / kind) for kind in KINDS}


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody asks the model hub."""

    def asked(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"asked the hub for {args}")

    monkeypatch.setattr("huggingface_hub.snapshot_download", asked)
    monkeypatch.setattr("socket.socket.connect", asked)
