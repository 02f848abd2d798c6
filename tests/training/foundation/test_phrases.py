"""Lists of phrases become banks whose embeddings follow from phrase, template and encoder alone."""

from pathlib import Path

import pytest

from scene_completion_ros.errors import VocabularyError
from scene_completion_ros.inference.text_bank import BankClass
from scene_completion_training.foundation.phrases import read_phrases


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
