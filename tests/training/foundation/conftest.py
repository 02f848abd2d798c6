"""Pretrained weights, and tiny models of every type."""

from pathlib import Path

import pytest

from scene_completion_training.foundation.encoded_words import TextEncoder
from tests.training.foundation.tiny_models import KINDS, saved_model, saved_sentence_encoder


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
    """No test asks the model hub."""

    def asked(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"asked the hub for {args}")

    monkeypatch.setattr("huggingface_hub.snapshot_download", asked)
    monkeypatch.setattr("socket.socket.connect", asked)
