"""Lists of phrases become banks whose embeddings follow from phrase, template and encoder alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from scene_completion_ros.errors import ConfigurationError, VocabularyError
from scene_completion_ros.inference.text_bank import BankClass
from scene_completion_training.foundation.phrases import PhraseList, make_bank, read_phrases
from scene_completion_training.foundation.text_encoder import TextEncoder


class Recording:
    """An encoder that keeps what it is asked, and gives each sentence a vector of its own."""

    name, sha256 = "recording", "0" * 64

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: list[str]) -> Tensor:
        self.asked += texts
        seeds = [sum((i + 1) * ord(letter) for i, letter in enumerate(text)) for text in texts]
        drawn = [torch.randn(6, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.nn.functional.normalize(torch.stack(drawn), dim=1)


def written(folder: Path, text: str) -> Path:
    file = folder / "phrases.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_file_says_classes_background_and_further_phrases(tmp_path: Path) -> None:
    found = read_phrases(
        written(
            tmp_path,
            "template: the {} there\nlicence: Apache-2.0\nbackground: [sky]\nphrases: [parking lot, van]\n"
            "classes:\n  car: {phrases: [car, van]}\n  tree: {colour: [1, 2, 3]}\n  Straße:\n",
        )
    )
    car, tree, street = found.classes
    assert car == BankClass("car", ("car", "van"), (70, 110, 230))  # as clusters of that name are drawn
    assert tree == BankClass("tree", ("tree",), (1, 2, 3))
    assert (street.name, street.phrases) == ("Straße", ("Straße",))
    assert (found.template, found.licence) == ("the {} there", "Apache-2.0")
    assert found.all_phrases == ("car", "van", "tree", "Straße", "sky", "parking lot")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes: {car: [van]}", r"classes: car: .*is no object with any of colour, phrases"),
        ("classes: {car: {phrase: [van]}}", "unknown entry 'phrase'.*There are colour, phrases"),
        ("classes: {car: {colour: [1, 2]}}", "car: colour: .*is no list of red, green and blue"),
        ("classes: {car: {colour: [red, 1, 2]}}", "is no list of red, green and blue"),
        ("classes: {no: {}}", r"False is no text.*need quotes"),
        ("phrases: [on, car]", r"phrases: True is no text.*need quotes"),
        ("background: sky", "background: 'sky' is no list of phrases"),
        ("classes: car", "is no list or object of classes"),
        ("words: [car]", r"unknown entry 'words'.*There are background, classes"),
        ("car", "'car' is no object"),
    ],
)
def test_files_that_cannot_be_used_are_refused(text: str, message: str, tmp_path: Path) -> None:
    file = written(tmp_path, text)
    with pytest.raises(VocabularyError, match=message) as caught:
        read_phrases(file)
    assert str(file) in str(caught.value)


def test_a_real_encoders_embeddings_do_not_depend_on_company(sentence_encoder: Path) -> None:
    encoder = TextEncoder(sentence_encoder)
    phrases = ("car", "a very long phrase of letters", "x")
    together = make_bank(encoder, PhraseList(phrases=phrases))
    for phrase in phrases:
        alone = make_bank(encoder, PhraseList(phrases=(phrase,)))
        np.testing.assert_array_equal(alone.rows([phrase]), together.rows([phrase]))
    assert (together.text_encoder, together.text_encoder_sha256) == (encoder.name, encoder.sha256)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (PhraseList(), VocabularyError, "no phrases"),
        (PhraseList(phrases=("car",), template="street"), ConfigurationError, "0 places for a phrase"),
        (PhraseList(phrases=("",)), VocabularyError, "is no text of 1 to"),
        (
            PhraseList(tuple(BankClass(n, ("x",), (0, 0, 0)) for n in "ab")),
            VocabularyError,
            "stands for 'a' and for 'b'",
        ),
        (PhraseList((BankClass("unknown", ("x",), (0, 0, 0)),)), VocabularyError, "'unknown' has a meaning of its own"),
        (PhraseList((BankClass("a", ("x",), (0, 0, 256)),)), VocabularyError, "no RGB colour"),
        (
            PhraseList(tuple(BankClass(f"c{i}", (f"p{i}",), (0, 0, 0)) for i in range(255))),
            VocabularyError,
            "has 255 classes.*at most 254",
        ),
    ],
)
def test_lists_that_make_no_bank_are_refused(given: PhraseList, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_bank(Recording(), given)
