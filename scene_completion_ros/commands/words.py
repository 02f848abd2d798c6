"""Options of several commands: the student, and the words that the voxels are asked for."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scene_completion_ros.inference.bundle import StudentBundle
    from scene_completion_ros.inference.completer import Completer

# What the demo asks for, as far as the student's text bank holds it.
DEMO_WORDS = ("car", "van", "tree", "hedge", "grass", "building", "zebra crossing", "parking lot")


def add_student_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare which student completes, and on what."""
    meaning = "folder or name of a student (default: kitti_student)"
    parser.add_argument("--bundle", type=Path, metavar="DIR", help=meaning)
    meaning = "what runs the encoder: auto, openvino, openvino_bf16, onnxruntime, tensorrt (default: %(default)s)"
    parser.add_argument("--engine", default="auto", help=meaning)


def add_words_argument(parser: argparse.ArgumentParser, answered_by: str, default: str) -> None:
    """Declare the option; the help says what shows the answers, and what happens without it (`default`)."""
    meaning = f"what {answered_by}: phrases of the student's text bank, as in car,zebra crossing (default: {default})"
    parser.add_argument("--words", metavar="WORD,WORD,...", help=meaning)


def chosen_words(text: str | None, bundle: "StudentBundle", default: Sequence[str] = ()) -> tuple[str, ...]:
    """The words to ask for.

    `text`: what the option said; None where it was not given; `bundle`: the student whose text bank holds them;
    `default`: taken without the option, as far as the bank holds them; a student without a bank is asked nothing.
    Raises VocabularyError where the option names no word, or one twice; the student has no bank, it does not hold a
    word, or there are too many words.
    """
    from scene_completion_ros.errors import VocabularyError
    from scene_completion_ros.messages.words import read_phrases

    bank = bundle.text_bank()
    if text is None:
        return tuple(word for word in default if bank is not None and word in bank.phrases)
    words = read_phrases(text, "--words")
    if bank is None:
        what = f"the student {bundle.name} has no text bank, so that it knows no words"
        raise VocabularyError(what, where="--words", cure="Take a student with a bank, or leave out --words")
    bank.query(words)
    return words


def ask_words(completer: "Completer", words: Sequence[str]) -> None:
    """Have a completer say where words are, as `chosen_words` gave them; nothing changes where there are none."""
    bank = completer.bundle.text_bank()
    if words and bank is not None:
        completer.ask(completer.prepare_vocabulary(bank.query(words)))
