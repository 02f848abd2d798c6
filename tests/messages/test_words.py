"""What vocabularies and queries say, and what they are refused for."""

import base64
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from scene_completion_ros.errors import VocabularyError
from scene_completion_ros.messages.words import LARGEST_TEXT, read_phrases, read_query, read_vocabulary

ENCODER = {"id": "tiny", "sha256": "ab"}


def packed(*numbers: float) -> str:
    return base64.b64encode(np.array(numbers, "<f2").tobytes()).decode()


@pytest.mark.parametrize("read", [read_vocabulary, read_query, lambda text: read_phrases(text, "--words")])
@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (",", "names no phrase. Write phrases with commas between them"),
        (", \n,,", "names no phrase"),
        ("car, tree,car", "'car' comes twice"),
        ("car\0tree", r"'car.x00tree' is no text of 1 to 200 printable characters"),
        ("car\x1b[2J", "is no text of 1 to 200 printable"),
        ("caf\udce9", "is no text of 1 to 200 printable"),
        ("w" * 10_000, "'w{79}… is no text of 1 to 200"),
    ],
)
def test_phrases_are_refused_for_the_same_reasons_wherever_they_come_from(
    read: Callable[[str], object], text: str, complaint: str
) -> None:
    with pytest.raises(VocabularyError, match=complaint) as refused:
        read(text)
    assert len(str(refused.value)) < 300


def test_an_object_may_have_all_fields() -> None:
    content: dict[str, Any] = {
        "classes": {"vehicle": ["car", "bus"], "tree": ["tree"]},
        "margin": 0.1,
        "pooling": "mean",
        "background": ["sky"],
        "encoder": ENCODER,
        "embeddings": {"bus": packed(1.5, -2.0), "sky": packed(0.0, 0.25)},
    }
    asked = read_vocabulary(json.dumps(content))
    assert asked.phrases == {"vehicle": ("car", "bus"), "tree": ("tree",)}
    assert (asked.margin, asked.pooling, asked.background) == (0.1, "mean", ("sky",))
    given = asked.given
    assert (given.text_encoder, given.text_encoder_sha256, given.phrases) == ("tiny", "ab", ("bus", "sky"))
    np.testing.assert_array_equal(given.rows, np.array([[1.5, -2.0], [0.0, 0.25]], np.float16))
    assert given.rows.dtype == np.float16

    del content["classes"]
    embedded = read_vocabulary(json.dumps(content))
    assert embedded is not None and embedded.phrases == ("bus",)  # that of the background is no class
    for name in ("margin", "pooling"):
        del content[name]
    query = read_query(json.dumps(content))
    assert query is not None and query.phrases == ("bus",)
    assert read_query('{"phrases": ["car"]}').phrases == ("car",)  # type: ignore[union-attr]


TWO_SIZES = {"encoder": ENCODER, "embeddings": {"a": packed(1), "b": packed(1, 2)}}
UNSAID = "does not say the id and the sha256 of the encoder"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("x" * (LARGEST_TEXT + 1), "a text of 8388609 characters, where at most 8388608 are read"),
        ('{"classes": ', r"is not valid JSON .*'\{\"classes\":' is read as JSON .*phrases alone need commas"),
        ('{"a": 1, "b": 2, "a": 3}', r"is not valid JSON \(the name 'a' stands twice"),
        ("[]", "~/vocabulary: names no phrase"),
        ('["car", ""]', "'' is no text of 1 to 200"),
        ('{"classes": ["car", "tree", "car"]}', "~/vocabulary: classes: 'car' comes twice"),
        ('{"classes": {"vehicle": []}}', "~/vocabulary: classes: 'vehicle': names no phrase"),
        ('{"xyz": 1}', "'xyz' means nothing: use one of classes, margin"),
        ('{"classes": ["car"], "pooling": "min"}', "pooling: 'min' is unknown. Write max or mean"),
        ('{"classes": ["car"], "encoder": {"id": "a", "sha256": "b"}}', "embeddings: is no object with embeddings"),
        (json.dumps({"embeddings": {"car": packed(1.0)}}), UNSAID),
        (json.dumps({"embeddings": {"car": packed(1.0)}, "encoder": {"id": "a"}}), UNSAID),
        (json.dumps({"embeddings": {"car": "§"}, "encoder": ENCODER}), "embeddings: 'car': '§' is no base64"),
        (json.dumps({"embeddings": {"car": "AAAA"}, "encoder": ENCODER}), "'AAAA' is no base64 of 1 to 8192"),
        (json.dumps(TWO_SIZES), "embeddings: they differ in length, 1 to 2 numbers. Take one encoder"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_cure(text: str, complaint: str) -> None:
    with pytest.raises(VocabularyError, match=complaint) as refused:
        read_vocabulary(text)
    assert len(str(refused.value)) < 500


def test_a_query_has_no_classes() -> None:
    with pytest.raises(VocabularyError, match="'classes' means nothing: use one of phrases, encoder"):
        read_query('{"classes": ["car"]}')
