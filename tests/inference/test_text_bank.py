"""Banks of phrases, vocabularies and queries made of them, and the feature spaces in which they lie."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from scene_completion_ros.errors import VocabularyError
from scene_completion_ros.inference import text_bank
from scene_completion_ros.inference.text_bank import BACKGROUND, METADATA, BankClass, FeatureSpace, TextBank, Vocabulary
from tests.inference.small_bundle import PHRASES, small_bank, small_space


def test_a_bank_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    saved = small_bank()
    saved.save(tmp_path / "bank.safetensors")
    loaded = TextBank.load(tmp_path / "bank.safetensors")
    for name in ("phrases", "text_encoder", "text_encoder_sha256", "template", "classes", "background", "licence"):
        assert getattr(loaded, name) == getattr(saved, name)
    assert loaded.sha256 == saved.sha256
    assert np.array_equal(loaded.stored, saved.stored)
    assert np.array_equal(loaded.embeddings, saved.embeddings)
    assert loaded.embeddings.dtype == np.float32
    assert np.allclose(np.linalg.norm(loaded.embeddings, axis=1), 1.0, atol=1e-6)
    assert [file.name for file in tmp_path.iterdir()] == ["bank.safetensors"]


def test_an_unknown_phrase_is_refused_with_near_ones() -> None:
    sentence = r"'Zebra crosing' \(near: 'zebra crossing'\); 'q1'; 'q2'; and 1 more"
    with pytest.raises(VocabularyError, match=sentence) as caught:
        small_bank().rows(("car", "Zebra crosing", "q1", "q2", "q3"))
    assert "scene-completion vocabulary" in caught.value.cure


def test_the_banks_own_classes_make_a_vocabulary() -> None:
    vocabulary = small_bank().vocabulary()
    assert vocabulary.names == ("vehicle", "tree")
    assert vocabulary.legend_names == ("vehicle", "tree", "unknown")
    assert vocabulary.legend_colours == ((1, 2, 3), (0, 99, 0), (128, 128, 128))
    assert np.array_equal(vocabulary.rows, small_bank().rows(("car", "parked van", "tree", "sky", "wall")))
    assert vocabulary.group.tolist() == [0, 0, 1, BACKGROUND, BACKGROUND]
    assert (vocabulary.text_encoder, vocabulary.bank_sha256) == ("tiny-encoder", small_bank().sha256)


def test_a_query_is_a_contrast_with_all_phrases() -> None:
    query = small_bank().query(["zebra crossing", "wall"])
    assert (query.names, query.margin) == (("zebra crossing", "wall"), 0.0)
    assert np.array_equal(query.rows[query.group >= 0], small_bank().rows(("zebra crossing", "wall")))
    mean = small_bank().rows(small_bank().phrases).astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(query.rows[query.group == BACKGROUND][0] * query.contrast.common, mean, atol=1e-6)


def test_the_reach_of_a_phrase_by_hand() -> None:
    """Classes x and y seen from their centre lie at ±(1, −1)/√2; "z" is sentence from the mean of x, y and itself."""
    stored = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    classes = tuple(BankClass(name, (name,), (0, 0, 0)) for name in "xy")
    own = small_bank(phrases=("x", "y", "z"), stored=stored, classes=classes, background=())
    query = own.query(["x", "z"])
    # x less the mean (1/3, 0) is (2/3, 0), z less it (−1/3, −1).
    root = 2.0**-0.5
    np.testing.assert_allclose(query.contrast.reach, [2.0 / 3.0 * root, (-1.0 / 3.0 + 1.0) * root], atol=1e-6)
    assert query.contrast.common == pytest.approx(1.0 / 3.0, abs=1e-6)
    against = own.query(["x"], background=["x", "y"])
    assert against.contrast is not None and against.contrast.common == pytest.approx(root, abs=1e-6)


def test_ten_thousand_phrases_load_but_are_too_many_classes() -> None:
    phrases = tuple(f"phrase {i}" for i in range(10_000))
    rows = np.random.default_rng(1).normal(size=(10_000, 8))
    large = TextBank.from_bytes(small_bank(phrases=phrases, stored=rows, classes=(), background=()).to_bytes())
    with pytest.raises(VocabularyError, match="10000 classes and 10000 phrases, where at most 254 and 4096"):
        large.vocabulary()
    with pytest.raises(VocabularyError, match="1 classes and 5000 phrases"):
        large.vocabulary({"all": phrases[:5000]})
    assert len(large.vocabulary(phrases[:254]).names) == 254


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"names": ("a", "a")}, "'a' comes twice"),
        ({"margin": float("nan")}, "no difference of cosines"),
        ({"margin": -0.1}, "no difference of cosines"),
    ],
)
def test_vocabularies_that_cannot_be_are_refused(fields: dict[str, Any], sentence: str) -> None:
    plain = Vocabulary(("a", "b"), ((0, 0, 0),) * 2, np.eye(2, dtype=np.float32), np.array([0, 1], np.int32))
    with pytest.raises(VocabularyError, match=sentence):
        replace(plain, **fields)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"stored": np.zeros((6, 8), np.float16)}, r"row 0 \('car'\) is zero or not finite"),
        ({"stored": np.ones((5, 8))}, r"shape \(5, 8\)"),
        ({"stored": np.ones((6, 9000))}, "1..8192"),
        ({"phrases": ("car", "car", *PHRASES[2:])}, "'car' comes twice"),
        ({"phrases": ("", *PHRASES[1:])}, "printable"),
        ({"phrases": ("a\x1b[2J", *PHRASES[1:])}, "printable"),
        ({"phrases": (), "stored": np.ones((0, 8))}, "at least 1"),
        ({"template": "a photo"}, "does not hold one {}"),
        ({"text_encoder": ""}, "encoder.id"),
        ({"background": ("moon",)}, "does not hold 'moon'"),
        ({"background": ("sky", "sky")}, "'sky' comes twice"),
        ({"classes": (BankClass("a", ("moon",), (0, 0, 0)),)}, "does not hold 'moon'"),
        ({"classes": (BankClass("a", (), (0, 0, 0)),)}, "no list of phrases"),
        ({"classes": (BankClass("a", ("car",), (0, 0, 256)),)}, "no RGB colour"),
        ({"classes": (BankClass("unknown", ("car",), (0, 0, 0)),)}, "meaning of its own"),
        ({"classes": (BankClass("a", ("car",), (0, 0, 0)), BankClass("a", ("tree",), (0, 0, 0)))}, "'a' comes twice"),
    ],
)
def test_banks_that_contradict_themselves_are_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(VocabularyError, match=sentence):
        small_bank(**fields)


CONTENT, ROWS = small_bank().to_bytes(), small_bank().embeddings


def changed(change: Callable[[dict[str, Any]], Any]) -> bytes:
    """The bank with its JSON changed, or another text in place of it."""
    header = json.loads(CONTENT[8 : 8 + int.from_bytes(CONTENT[:8], "little")])
    values = json.loads(header["__metadata__"][METADATA])
    made = change(values)
    text = made if isinstance(made, str) else json.dumps(values)
    return safetensors.numpy.save({"embeddings": safetensors.numpy.load(CONTENT)["embeddings"]}, {METADATA: text})


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is no text bank"),
        (b"\x80\x04pickle", "is no text bank"),
        (CONTENT[:-1], "is no text bank"),
        ((1 << 60).to_bytes(8, "little") + CONTENT[8:], "is no text bank"),
        (safetensors.numpy.save({"embeddings": ROWS.astype(np.float16)}), "text_bank: is not valid JSON"),
        (safetensors.numpy.save({"embeddings": ROWS}, {METADATA: "{}"}), "F32"),
        (safetensors.numpy.save({"embeddings": ROWS, "more": ROWS}, {METADATA: "{}"}), "is no text bank"),
        (changed(lambda v: v.update(sha256="0" * 64)), "the file has '000000000000'.*damaged or was changed"),
        (changed(lambda v: v["phrases"].__setitem__(0, "cab")), "does not hold 'car'"),
        (changed(lambda v: v.update(schema_version=2)), "is 2, this version reads 1"),
        (changed(lambda v: v.pop("encoder")), "encoder: is missing"),
        (changed(lambda v: v.update(phrases="car")), "not a list of strings"),
        (changed(lambda v: v.update(classes={})), "classes: {} is not a list"),
        (changed(lambda v: v.update(classes=[3])), "not an object"),
        (changed(lambda v: v["classes"][0].update(colour=[1, 2])), "2 numbers where 3"),
        (changed(lambda v: v["classes"][0].update(colour=[1, 2, 10**400])), "a whole number of"),
        (changed(lambda v: "[" * 100_000), "text_bank: is nested deeper"),
        (changed(lambda v: "NaN"), "text_bank: is no JSON object"),
    ],
    ids=lambda value: value if isinstance(value, str) else "content",
)
def test_contents_that_are_no_banks_are_refused(content: bytes, sentence: str) -> None:
    with pytest.raises(VocabularyError, match=sentence) as caught:
        TextBank.from_bytes(content, "bank.safetensors")
    assert "bank.safetensors" in caught.value.where
    assert caught.value.cure
    assert len(str(caught.value)) < 1000


def test_files_that_are_too_large_are_refused(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(text_bank.LARGEST_FILE + 1)  # sparse, and not read into memory
    with pytest.raises(VocabularyError, match="is larger than"):
        TextBank.load(tmp_path / "large")


RANK_3 = np.random.default_rng(0).normal(size=(512, 3)) @ np.random.default_rng(1).normal(size=(3, 64))


@pytest.mark.parametrize(
    "of",
    [
        small_space(dimension=384),
        small_space(dimension=512, weight=RANK_3.astype(np.float32)),
        small_space(dimension=16),
        small_space(dimension=1),
        small_space(dimension=8, units=4),
        small_space(dimension=384, weight=np.zeros((384, 64), np.float32)),
    ],
)
def test_the_folded_cosine_is_the_explicit_one(of: FeatureSpace) -> None:
    rng = np.random.default_rng(2)
    hidden = np.maximum(rng.normal(size=(500, of.weight.shape[1])), 0.0)
    rows = np.random.default_rng(1).normal(size=(20, of.dimension))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    features = of.features(hidden)
    explicit = features @ rows.T / np.linalg.norm(features, axis=1, keepdims=True)
    weight, bias, root = of.folded(rows)
    norm = np.linalg.norm(np.column_stack([hidden, np.ones(len(hidden))]) @ root.T, axis=1, keepdims=True)
    assert np.abs((hidden @ weight.T + bias) / norm - explicit).max() < 1e-10
    assert np.array_equal(root, np.triu(root))
