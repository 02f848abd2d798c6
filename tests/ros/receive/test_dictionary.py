"""What words a node knows, and what becomes of those it does not."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.errors import VocabularyError
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.text_bank import BACKGROUND, MOST_ASKED, Vocabulary
from scene_completion_ros.messages.words import GivenEmbeddings, RequestedWords, read_query, read_vocabulary
from scene_completion_ros.ros.receive.dictionary import Dictionary
from tests.inference.small_bundle import make_small_bundle
from tests.inference.small_vocabulary import ENCODER, small_bank, small_space

OTHER = {"text_encoder": "another", "text_encoder_sha256": "cd" * 32}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> StudentBundle:
    """A student that words fit, without a bank."""
    return make_small_bundle(tmp_path_factory.mktemp("plain"), classes=5, feature_spaces=(small_space(),))


@pytest.fixture(scope="module")
def shipping(tmp_path_factory: pytest.TempPathFactory) -> StudentBundle:
    """The same with a bank."""
    folder = tmp_path_factory.mktemp("shipping")
    return make_small_bundle(folder, classes=5).with_vocabulary([small_space()], small_bank())


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., str]:
    def save(**fields: object) -> str:
        small_bank(**fields).save(tmp_path / "bank.safetensors")
        return str(tmp_path / "bank.safetensors")

    return save


def given(phrases: tuple[str, ...], rows: object = None, dimension: int = 16, **encoder: str) -> GivenEmbeddings:
    made = np.random.default_rng(9).normal(size=(len(phrases), dimension)) if rows is None else rows
    return GivenEmbeddings(**{**ENCODER, **encoder}, phrases=phrases, rows=np.asarray(made, np.float16))


def of_background(made: Vocabulary) -> int:
    return int((made.group == BACKGROUND).sum())


def named(dictionary: Dictionary, asked: RequestedWords | None) -> Vocabulary:
    made = dictionary.vocabulary_of(asked)
    assert made is not None
    return made.vocabulary


def looked_for(dictionary: Dictionary, asked: RequestedWords | None) -> Vocabulary:
    assert asked is not None
    return dictionary.query_of(asked).vocabulary


def test_the_parameter_names_a_bank_or_that_of_the_bundle(
    plain: StudentBundle, shipping: StudentBundle, saved: Callable[..., str]
) -> None:
    of_file = Dictionary(plain, saved())
    assert of_file.vocabulary is not None
    assert of_file.vocabulary.vocabulary.names == ("vehicle", "tree")
    assert of_file.vocabulary.vocabulary.bank_sha256 == small_bank().sha256
    shipped = Dictionary(shipping, "shipped")
    assert shipped.vocabulary is not None and shipped.vocabulary.vocabulary.names == ("vehicle", "tree")
    labels = Dictionary(shipping, "")
    assert labels.vocabulary is None and labels.vocabulary_of(None) is None
    asked = named(labels, read_vocabulary("car"))  # with the words of the bundle's bank
    assert asked.names == ("car",)
    assert Dictionary(plain, "").bank is None


def test_what_the_parameter_cannot_name(plain: StudentBundle, saved: Callable[..., str], tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match="parameter vocabulary: shipped: the student small has no text bank"):
        Dictionary(plain, "shipped")
    with pytest.raises(VocabularyError, match="made by the text encoder another cdcd.* spaces of another encoder only"):
        Dictionary(plain, saved(**OTHER))
    with pytest.raises(VocabularyError, match="spaces of another dimension only: clip .*16 numbers"):
        Dictionary(plain, saved(dimension=8))
    (tmp_path / "bank.safetensors").write_bytes(b"spoilt")
    with pytest.raises(VocabularyError, match="bank.safetensors: is no text bank"):
        Dictionary(plain, str(tmp_path / "bank.safetensors"))
    phrases = tuple(f"word {number}" for number in range(10_000))
    many = {"phrases": phrases, "stored": np.ones((10_000, 16)), "classes": (), "background": ()}
    with pytest.raises(VocabularyError, match="has 10000 classes and 10000 phrases, where at most 254 and 4096"):
        Dictionary(plain, saved(**many))


def test_no_space_or_no_labels_know_no_words(tmp_path: Path, saved: Callable[..., str]) -> None:
    for classes in (1, 5):
        student = make_small_bundle(tmp_path / str(classes), classes=classes)
        with pytest.raises(VocabularyError, match="the student small has no feature spaces"):
            Dictionary(student, saved())


def test_vocabularies_of_messages(shipping: StudentBundle) -> None:
    dictionary = Dictionary(shipping, "shipped")
    assert dictionary.vocabulary_of(None) is dictionary.vocabulary
    bank = small_bank()
    asked = named(dictionary, read_vocabulary("zebra crossing, vehicle"))
    assert (asked.names, asked.colours[1], asked.bank_sha256) == (("zebra crossing", "vehicle"), (1, 2, 3), bank.sha256)
    np.testing.assert_array_equal(asked.rows[:3], bank.rows(["zebra crossing", "car", "parked van"]))
    text = '{"classes": {"plants": ["tree", "car"]}, "pooling": "mean", "margin": 0.3, "background": ["wall"]}'
    asked = named(dictionary, read_vocabulary(text))
    assert (asked.names, asked.margin, len(asked.rows), of_background(asked)) == (("plants",), 0.3, 2, 1)
    assert asked.bank_sha256 == bank.sha256

    for wrong, complaint in (
        ("strolller", "does not hold 'strolller'.* make a bank with yours"),
        ("Zebra Crosing", r"near: 'zebra crossing'"),
        ("unknown", "does not hold 'unknown'"),
        ('{"classes": {"unknown": ["car"]}}', "has a meaning of its own"),
        ('{"classes": ["car"], "margin": NaN}', "no difference of cosines"),
        ('{"classes": ["car"], "background": ["fog"]}', "does not hold 'fog'"),
        ('["car", "car"]', "comes twice"),
        ('["car\\ud800"]', "half a character"),
    ):
        with pytest.raises(VocabularyError, match=complaint):
            named(dictionary, read_vocabulary(wrong))


def test_queries_are_classes_with_a_background(shipping: StudentBundle, plain: StudentBundle) -> None:
    dictionary = Dictionary(shipping, "")
    query = looked_for(dictionary, RequestedWords(("zebra crossing", "car")))
    assert (query.names, query.group.tolist(), query.margin) == (("zebra crossing", "car"), [0, 1, -1], 0.0)
    assert query.contrast is not None
    assert query.bank_sha256 == small_bank().sha256
    alone = looked_for(dictionary, RequestedWords(("sky", "vehicle")))
    assert alone.group.tolist() == [0, 1, 1, -1]  # the name of a class stands for its phrases
    np.testing.assert_array_equal(alone.rows[-1], query.rows[-1])  # all phrases of the bank, whatever is asked
    many = tuple(f"word {number}" for number in range(MOST_ASKED + 1))
    with pytest.raises(VocabularyError, match=f"{len(many)} phrases, where at most {MOST_ASKED} can be looked for"):
        looked_for(dictionary, RequestedWords(many))
    with pytest.raises(VocabularyError, match="~/query: 'car' without embeddings, and the student small has no text b"):
        looked_for(Dictionary(plain, ""), RequestedWords(("car",)))
    with pytest.raises(VocabularyError) as refused:
        looked_for(Dictionary(plain, ""), RequestedWords(("w" * 10_000,)))
    assert len(str(refused.value)) < 400


def test_messages_may_bring_embeddings(shipping: StudentBundle, plain: StudentBundle) -> None:
    new = given(("stroller", "car"))
    with_bank = Dictionary(shipping, "shipped")
    query = looked_for(with_bank, RequestedWords(("stroller", "tree", "car"), given=new))
    unit = new.rows.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    np.testing.assert_allclose(query.rows[[0, 2]], unit, atol=1e-3)  # what the message says of a phrase holds
    np.testing.assert_allclose(query.rows[1], small_bank().rows(["tree"])[0], atol=1e-3)
    assert query.bank_sha256 not in ("", small_bank().sha256)
    assert (
        looked_for(with_bank, RequestedWords(("stroller", "tree", "car"), given=new)).bank_sha256 == query.bank_sha256
    )
    elsewhere = given(("stroller", "car"), text_encoder="the same under another name")
    assert looked_for(with_bank, RequestedWords(("stroller", "tree"), given=elsewhere)).text_encoder == "tiny-encoder"

    alone = Dictionary(plain, "")
    own = named(alone, RequestedWords(("stroller",), given=new, background=("car",)))
    assert own.group.tolist() == [0, -1]
    with pytest.raises(VocabularyError, match="~/vocabulary: does not hold 'tree'"):
        named(alone, RequestedWords(("tree",), given=new))
    with pytest.raises(VocabularyError, match="made by the text encoder another"):
        looked_for(
            with_bank, RequestedWords(("stroller",), given=given(("stroller", "car"), **OTHER), background=("car",))
        )
    with pytest.raises(VocabularyError, match="spaces of another dimension only"):
        named(with_bank, RequestedWords(("stroller",), given=given(("stroller",), dimension=4)))
    for number in (0.0, np.nan, np.inf):
        rows = np.full((1, 16), number)
        with pytest.raises(VocabularyError, match="~/query: embeddings: row 0 .'stroller'. is zero or not finite"):
            looked_for(with_bank, RequestedWords(("stroller",), given=given(("stroller",), rows)))
    many = given(tuple(f"word {number}" for number in range(300)))
    with pytest.raises(VocabularyError, match="has 300 classes"):
        named(with_bank, RequestedWords(many.phrases, given=many))


def test_queries_as_they_are_said(shipping: StudentBundle) -> None:
    asked = read_query('{"phrases": ["tree"], "background": ["car"]}')
    assert looked_for(Dictionary(shipping, ""), asked).group.tolist() == [0, -1]


def mutated(text: str, some: random.Random) -> str:
    """A text with up to three places cut, doubled, moved or overwritten."""
    pieces = (
        "[",
        "]",
        "{",
        "}",
        '"',
        ",",
        ":",
        "null",
        "NaN",
        "1e999",
        "-1",
        "true",
        "\\ud800",
        "\0",
        "\ufffd",
        "é",
        '""',
    )
    for _ in range(some.randrange(4)):
        start, end = sorted((some.randrange(len(text) + 1), some.randrange(len(text) + 1)))
        end = min(end, start + some.choice((0, 1, 1, 5, 40)))
        part = some.choice((*pieces, *pieces, "", text[start:end] * 2, text[end:start:-1]))
        text = text[:start] + part + text[end:]
    return text


def test_any_text_is_used_or_refused_with_a_cure(shipping: StudentBundle) -> None:
    dictionary, some = Dictionary(shipping, "shipped"), random.Random(1)
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
