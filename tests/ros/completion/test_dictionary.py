"""What words a node knows, and what becomes of those it does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.errors import VocabularyError
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.text_bank import BACKGROUND, Vocabulary
from scene_completion_ros.messages.words import AskedWords, GivenEmbeddings, read_query, read_vocabulary
from scene_completion_ros.ros.completion.dictionary import Dictionary
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


def test_the_parameter_names_a_bank_or_that_of_the_bundle(
    plain: StudentBundle, shipping: StudentBundle, saved: Callable[..., str]
) -> None:
    of_file = Dictionary(plain, saved())
    assert of_file.vocabulary is not None
    assert of_file.vocabulary.names == ("vehicle", "tree")
    assert of_file.vocabulary.bank_sha256 == small_bank().sha256
    shipped = Dictionary(shipping, "shipped")
    assert shipped.vocabulary is not None and shipped.vocabulary.names == ("vehicle", "tree")
    labels = Dictionary(shipping, "")
    assert labels.vocabulary is None and labels.vocabulary_of(None) is None
    asked = labels.vocabulary_of(read_vocabulary("car"))  # with the words of the bundle's bank
    assert asked is not None and asked.names == ("car",)
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
    asked = dictionary.vocabulary_of(read_vocabulary("zebra crossing, vehicle"))
    assert asked is not None
    assert (asked.names, asked.colours[1], asked.bank_sha256) == (("zebra crossing", "vehicle"), (1, 2, 3), bank.sha256)
    np.testing.assert_array_equal(asked.rows[:3], bank.rows(["zebra crossing", "car", "parked van"]))
    text = '{"classes": {"plants": ["tree", "car"]}, "pooling": "mean", "margin": 0.3, "background": ["wall"]}'
    asked = dictionary.vocabulary_of(read_vocabulary(text))
    assert asked is not None
    assert (asked.names, asked.margin, len(asked.rows), of_background(asked)) == (("plants",), 0.3, 2, 1)
    assert asked.bank_sha256 == bank.sha256

    for wrong, complaint in (
        (",", "vocabulary: is empty"),
        ("strolller", "does not hold 'strolller'.* make a bank with yours"),
        ("Zebra Crosing", r"near: 'zebra crossing'"),
        ("unknown", "does not hold 'unknown'"),
        ('{"classes": {"unknown": ["car"]}}', "has a meaning of its own"),
        ('{"classes": ["car"], "margin": NaN}', "no difference of cosines"),
        ('{"classes": ["car"], "background": ["fog"]}', "does not hold 'fog'"),
        ('["car", "car"]', "comes twice"),
        ('["car\\ud800"]', "does not hold|no text of 1 to 200"),
    ):
        with pytest.raises(VocabularyError, match=complaint):
            dictionary.vocabulary_of(read_vocabulary(wrong))


def test_queries_are_classes_with_a_background(shipping: StudentBundle, plain: StudentBundle) -> None:
    dictionary = Dictionary(shipping, "")
    query = dictionary.query_of(AskedWords(("zebra crossing", "car")))
    assert (query.names, query.group.tolist(), query.margin) == (("zebra crossing", "car"), [0, 1, -1, -1], 0.0)
    assert query.bank_sha256 == small_bank().sha256
    assert dictionary.query_of(AskedWords(("sky",))).group.tolist() == [0, -1]  # what is asked for is no background
    # Where that leaves none, it is the other classes of the bank.
    alone = dictionary.query_of(AskedWords(("sky", "wall", "vehicle")))
    assert alone.group.tolist() == [0, 1, 2, 2, -1]
    np.testing.assert_array_equal(alone.rows[-1], small_bank().rows(["tree"])[0])
    with pytest.raises(VocabularyError, match="nothing that voxels without it could be nearer to"):
        dictionary.query_of(AskedWords(("sky", "wall", "vehicle", "tree")))
    with pytest.raises(VocabularyError, match="~/query: 'car' without embeddings, and the student small has no text b"):
        Dictionary(plain, "").query_of(AskedWords(("car",)))


def test_messages_may_bring_embeddings(shipping: StudentBundle, plain: StudentBundle) -> None:
    new = given(("stroller", "car"))
    with_bank = Dictionary(shipping, "shipped")
    query = with_bank.query_of(AskedWords(("stroller", "tree", "car"), given=new))
    unit = new.rows.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    np.testing.assert_allclose(query.rows[[0, 2]], unit, atol=1e-3)  # what the message says of a phrase holds
    np.testing.assert_allclose(query.rows[[1, 3, 4]], small_bank().rows(["tree", "sky", "wall"]), atol=1e-3)
    assert query.bank_sha256 not in ("", small_bank().sha256)
    assert with_bank.query_of(AskedWords(("stroller", "tree", "car"), given=new)).bank_sha256 == query.bank_sha256

    alone = Dictionary(plain, "")
    own = alone.vocabulary_of(AskedWords(("stroller",), given=new, background=("car",)))
    assert own is not None and own.group.tolist() == [0, -1]
    with pytest.raises(VocabularyError, match="~/vocabulary: does not hold 'tree'"):
        alone.vocabulary_of(AskedWords(("tree",), given=new))
    with pytest.raises(VocabularyError, match="made by the text encoder another"):
        with_bank.query_of(AskedWords(("stroller",), given=given(("stroller", "car"), **OTHER), background=("car",)))
    with pytest.raises(VocabularyError, match="spaces of another dimension only"):
        with_bank.vocabulary_of(AskedWords(("stroller",), given=given(("stroller",), dimension=4)))
    for number in (0.0, np.nan, np.inf):
        rows = np.full((1, 16), number)
        with pytest.raises(VocabularyError, match="~/query: embeddings: row 0 .'stroller'. is zero or not finite"):
            with_bank.query_of(AskedWords(("stroller",), given=given(("stroller",), rows)))
    many = given(tuple(f"word {number}" for number in range(300)))
    with pytest.raises(VocabularyError, match="has 300 classes"):
        with_bank.vocabulary_of(AskedWords(many.phrases, given=many))


def test_queries_as_they_are_said(shipping: StudentBundle) -> None:
    asked = read_query('{"phrases": ["tree"], "background": ["car"]}')
    assert asked is not None
    assert Dictionary(shipping, "").query_of(asked).group.tolist() == [0, -1]
