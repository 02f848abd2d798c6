"""Lists of phrases as people write them, and the text banks that an encoder makes of them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scene_completion_ros.errors import VocabularyError
from scene_completion_ros.inference.text_bank import BankClass, TextBank
from scene_completion_ros.untrusted_files import read_yaml, shown
from scene_completion_ros.voxels.colours import spread_colour
from scene_completion_training.clustering.clusters import CLASS_COLOURS
from scene_completion_training.foundation.text_encoder import STREET_TEMPLATE, TextEncoder, check_template, prompt

_KEYS = {"template", "classes", "background", "phrases", "licence"}
_CLASS_KEYS = {"phrases", "colour"}


@dataclass(frozen=True)
class PhraseList:
    """What a text bank is made of."""

    classes: tuple[BankClass, ...] = ()  # classes of the vocabulary; may be none
    background: tuple[str, ...] = ()  # phrases that voxels of no class should be nearest to
    phrases: tuple[str, ...] = ()  # further phrases that the bank should know
    template: str = STREET_TEMPLATE  # sentence that each phrase stands in; "other" alone stays bare
    licence: str = ""  # of the text encoder's weights

    @property
    def all_phrases(self) -> tuple[str, ...]:
        """Every phrase once, in the order of classes, background and further phrases."""
        of_classes = [phrase for entry in self.classes for phrase in entry.phrases]
        return tuple(dict.fromkeys([*of_classes, *self.background, *self.phrases]))


def read_phrases(file: Path) -> PhraseList:
    """Reads a list of phrases.

    The file is YAML: a list of phrases, or an object with any of `template`, `classes`, `background`, `phrases` and
    `licence`. `classes` is a list of names, or an object: name -> `{phrases: [...], colour: [r, g, b]}`. A class
    without phrases is its own phrase, and one without colour gets one. Raises VocabularyError where it cannot be read,
    or something in it is not as it should be.
    """
    content = read_yaml(file, VocabularyError, cure="Give a file of YAML")
    if isinstance(content, list):
        content = {"phrases": content}
    fields = _object(content, _KEYS, str(file))
    given = fields.get("classes") or {}
    if isinstance(given, list):
        given = dict.fromkeys(_texts(given, f"{file}: classes"))
    if not isinstance(given, dict):
        raise _not(given, "list or object of classes", f"{file}: classes")
    return PhraseList(
        classes=tuple(_class(name, value, i, f"{file}: classes") for i, (name, value) in enumerate(given.items())),
        background=_texts(fields.get("background") or [], f"{file}: background"),
        phrases=_texts(fields.get("phrases") or [], f"{file}: phrases"),
        template=_text(fields.get("template", STREET_TEMPLATE), f"{file}: template"),
        licence=_text(fields.get("licence", ""), f"{file}: licence"),
    )


def make_bank(encoder: TextEncoder, given: PhraseList) -> TextBank:
    """The text bank of a list of phrases, with a progress bar.

    Every phrase is encoded by itself, so that its embedding follows from nothing else. Raises VocabularyError where
    there are no phrases, or they or the classes cannot be used, see `TextBank`; ConfigurationError where the template
    has no place for a phrase.
    """
    from tqdm import tqdm  # type: ignore[import-untyped]

    check_template(given.template)
    phrases = given.all_phrases
    if not phrases:
        raise VocabularyError("no phrases", where="vocabulary", cure="Name at least one")
    bank = TextBank(  # all but its embeddings, so that mistakes are found before they are computed
        phrases=phrases,
        stored=np.ones((len(phrases), 1), np.float16),
        text_encoder=encoder.name,
        text_encoder_sha256=encoder.sha256,
        template=given.template,
        classes=given.classes,
        background=given.background,
        licence=given.licence,
    )
    if bank.classes:
        bank.vocabulary()  # refuses a phrase of two classes, and too many
    bar = tqdm(phrases, unit="phrase", disable=None)
    rows = [encoder.encode([prompt(phrase, given.template)])[0].numpy() for phrase in bar]
    return replace(bank, stored=np.stack(rows))


def _class(name: object, value: object, number: int, where: str) -> BankClass:
    known = _text(name, where)
    fields = _object(value or {}, _CLASS_KEYS, f"{where}: {known}")
    phrases = _texts(fields.get("phrases") or [known], f"{where}: {known}: phrases")
    colour = fields.get("colour", CLASS_COLOURS.get(known, spread_colour(number)))
    if not (isinstance(colour, (list, tuple)) and len(colour) == 3 and all(type(value) is int for value in colour)):
        raise _not(colour, "list of red, green and blue", f"{where}: {known}: colour")
    red, green, blue = colour
    return BankClass(known, phrases, (red, green, blue))


def _object(value: object, keys: set[str], where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _not(value, f"object with any of {', '.join(sorted(keys))}", where)
    unknown = [key for key in value if key not in keys]
    if unknown:
        what = f"unknown entry {shown(unknown[0])}"
        raise VocabularyError(what, where=where, cure=f"There are {', '.join(sorted(keys))}")
    return value


def _texts(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _not(value, "list of phrases", where)
    return tuple(_text(text, where) for text in value)


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise _not(value, "text", where)
    return value


def _not(value: object, wanted: str, where: str) -> VocabularyError:
    return VocabularyError(
        f"{shown(value)} is no {wanted}", where=where, cure="Correct it; words such as no, on and 1 need quotes"
    )
