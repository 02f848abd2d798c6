"""A bank of phrases and a feature space in which it lies, for students of `small_bundle` that know classes."""

from typing import Any

import numpy as np

from scene_completion_ros.inference.text_bank import BACKGROUND, BankClass, Contrast, FeatureSpace, TextBank, Vocabulary

PHRASES = ("car", "parked van", "tree", "zebra crossing", "sky", "wall")
ENCODER = {"text_encoder": "tiny-encoder", "text_encoder_sha256": "ab" * 32}


def small_bank(dimension: int = 16, **fields: Any) -> TextBank:
    """Six random phrases, two classes of three of them, two of the background; ``fields`` replace those of a bank."""
    values: dict[str, Any] = {
        "phrases": PHRASES,
        "stored": np.random.default_rng(0).normal(size=(len(PHRASES), dimension)),
        **ENCODER,
        "template": "a photo of a {} on the street",
        "classes": (BankClass("vehicle", ("car", "parked van"), (1, 2, 3)), BankClass("tree", ("tree",), (0, 99, 0))),
        "background": ("sky", "wall"),
        "licence": "CC0-1.0",
    }
    return TextBank(**{**values, **fields})


def small_space(name: str = "clip", dimension: int = 16, units: int = 64, seed: int = 0, **fields: Any) -> FeatureSpace:
    """A random space with a bias; ``fields`` replace those of a space."""
    rng = np.random.default_rng(seed)
    values: dict[str, Any] = {
        "weight": rng.normal(size=(dimension, units)).astype(np.float32),
        "bias": rng.normal(size=dimension).astype(np.float32),
        **ENCODER,
    }
    return FeatureSpace(name, **{**values, **fields})


def random_vocabulary(
    classes: int, rows: int, *, background: int = 1, dimension: int = 16, seed: int = 0, **fields: Any
) -> Vocabulary:
    """Random rows, shared out to classes in turn, and rows of the background between them."""
    rng = np.random.default_rng(seed)
    drawn = rng.normal(size=(rows + background, dimension))
    group = np.concatenate([np.arange(rows) % classes, np.full(background, BACKGROUND)])
    return Vocabulary(
        tuple(f"class {number}" for number in range(classes)),
        ((0, 0, 0),) * classes,
        (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32),
        rng.permutation(group).astype(np.int32),
        **{**ENCODER, **fields},
    )


def random_query(phrases: int, rows: int | None = None, **fields: Any) -> Vocabulary:
    """Random phrases, and a random direction that they have in common."""
    return random_vocabulary(phrases, rows or phrases, contrast=Contrast(0.5, (0.4,) * phrases), **fields)
