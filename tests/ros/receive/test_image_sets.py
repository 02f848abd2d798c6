"""Which images of several cameras belong together; without ROS and without real time."""

import base64
import json
import random
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.errors import VocabularyError
from scene_completion_ros.messages.words import read_query, read_vocabulary
from scene_completion_ros.ros.receive.image_sets import ImageSets
from scene_completion_ros.ros.words_input import Dictionary
from tests.inference.small_bundle import make_small_bundle
from tests.inference.small_vocabulary import ENCODER, small_bank, small_space

TOLERANCE_NS, TIMEOUT_S = 10, 1.0


class Bench:
    """Items are names with stamps."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.delivered: list[tuple[list[str], list[str]]] = []
        self.unused: list[str] = []
        self.sets: ImageSets[str] = ImageSets(
            ("left", "front", "right"),
            lambda items, missing: self.delivered.append((items, missing)),
            self.unused.append,
            clock=lambda: self.now_s,
        )

    def add(self, name: str, stamp_ns: int) -> None:
        self.sets.add(name, stamp_ns, f"{name} {stamp_ns}", tolerance_ns=TOLERANCE_NS, timeout_s=TIMEOUT_S)

    def look(self, now_s: float) -> None:
        self.now_s = now_s
        self.sets.look()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_set_is_complete_when_the_last_comes_in_whatever_order(bench: Bench) -> None:
    for name, stamp_ns in (("right", 103), ("left", 100), ("front", 98)):
        assert not bench.delivered
        bench.add(name, stamp_ns)
    assert bench.delivered == [(["left 100", "front 98", "right 103"], [])]
    assert (bench.unused, len(bench.sets)) == ([], 0)


def test_images_too_far_apart_do_not_meet(bench: Bench) -> None:
    for name, stamp_ns in (("left", 100), ("front", 106), ("right", 111)):
        bench.add(name, stamp_ns)
    assert not bench.delivered  # 11 apart
    bench.add("left", 107)
    assert bench.delivered == [(["left 107", "front 106", "right 111"], [])]
    assert bench.unused == ["left 100"]


def test_a_missing_camera_is_waited_for_once(bench: Bench) -> None:
    bench.add("left", 100)
    bench.add("front", 100)
    bench.look(0.9)
    assert not bench.delivered
    bench.look(1.0)
    assert bench.delivered == [(["left 100", "front 100"], ["right"])]
    bench.add("left", 200)
    bench.add("front", 205)  # nobody waits for the right one any more
    assert bench.delivered[1] == (["left 200", "front 205"], ["right"])
    bench.add("right", 204)  # of a time that is over
    assert bench.unused == ["right 204"]
    bench.add("left", 300)
    bench.add("front", 300)
    assert len(bench.delivered) == 2  # it is there again, and waited for
    bench.add("right", 300)
    assert bench.delivered[2] == (["left 300", "front 300", "right 300"], [])


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
