"""Any text that is sent as words is used, or refused with a cure."""

import base64
import json
import random
from pathlib import Path

import numpy as np

from scene_completion_ros.errors import VocabularyError
from scene_completion_ros.messages.words import read_query, read_vocabulary
from scene_completion_ros.ros.services import Dictionary
from tests.inference.small_bundle import ENCODER, make_small_bundle, small_bank, small_space


def mutated(text: str, some: random.Random) -> str:
    """A text with up to three places cut, doubled, moved or overwritten."""
    pieces = [*'[]{}",:', "null", "NaN", "1e999", "-1", "true", "\\ud800", "\0", "\ufffd", "é", '""']
    for _ in range(some.randrange(4)):
        start, end = sorted((some.randrange(len(text) + 1), some.randrange(len(text) + 1)))
        end = min(end, start + some.choice((0, 1, 1, 5, 40)))
        part = some.choice((*pieces, *pieces, "", text[start:end] * 2, text[end:start:-1]))
        text = text[:start] + part + text[end:]
    return text


def test_any_text_is_used_or_refused_with_a_cure(tmp_path: Path) -> None:
    bundle = make_small_bundle(tmp_path, classes=5).with_vocabulary([small_space()], small_bank())
    dictionary, some = Dictionary(bundle, "shipped"), random.Random(1)
    row = base64.b64encode(np.ones(16, "<f2").tobytes()).decode()
    embedded = {"encoder": {"id": ENCODER["text_encoder"], "sha256": ENCODER["text_encoder_sha256"]}}
    embedded = {**embedded, "embeddings": {"pram": row, "car": row}, "background": ["sky"]}
    texts = [
        "car, tree",
        '["zebra crossing", "car"]',
        json.dumps({"classes": {"a": ["car", "wall"], "b": ["tree"]}, "margin": 0.1, "pooling": "mean"}),
        json.dumps({"classes": {"a": ["car"], "b": ["pram"]}, **embedded}),
        json.dumps({"phrases": ["car", "pram"], **embedded}),
    ]
    used, errors = 0, []
    for _ in range(6000):
        text, is_query = mutated(some.choice(texts), some), some.randrange(2)
        try:
            asked = read_query(text) if is_query else read_vocabulary(text)
            if asked is not None:
                (dictionary.query_of if is_query else dictionary.vocabulary_of)(asked)
            used += 1
        except VocabularyError as error:
            errors.append(error)
    assert min(used, len(errors)) > 500
    assert all(error.what and error.where for error in errors)
    assert max(len(str(error)) for error in errors) < 1000
    assert all(str(error).encode() for error in errors)  # can be written to a log
