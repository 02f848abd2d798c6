"""Words with embeddings: text banks, and what a node is told for free text. The entry point for text encoders.

`scene-completion vocabulary` loads this module by its name in `setup.py`: the robot side knows no torch.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scene_completion_ros.errors import VocabularyError
from scene_completion_ros.inference.text_bank import MOST_ROWS, TextBank
from scene_completion_ros.messages.words import RequestedWords, read_query, read_vocabulary
from scene_completion_training.foundation.phrases import PhraseList, make_bank, read_phrases
from scene_completion_training.foundation.text_encoder import STREET_TEMPLATE, TextEncoder, check_template, prompt

# What anything may be called: the canonical phrases of LERF (Kerr et al. 2023, section 3.4).
BACKGROUND = ("object", "things", "stuff", "texture")


def make_bank_of(
    model: str, phrases: Sequence[str], file: Path | None, *, template: str | None, licence: str | None
) -> TextBank:
    """The text bank of the phrases of a file and others; template and licence of the file hold where none is given.

    See `read_phrases` and `make_bank` for it and for errors, and `TextEncoder` for the model.
    """
    given = read_phrases(file) if file else PhraseList()
    changes: dict[str, Any] = {
        name: value for name, value in (("template", template), ("licence", licence)) if value is not None
    }
    given = replace(given, phrases=(*given.phrases, *phrases), **changes)
    return make_bank(TextEncoder(model), given)


class EncodedAnswers:
    """What a node is told for what was asked, by the bank's template, background and encoder, if any.

    Raises VocabularyError where the bank was made by another encoder; ConfigurationError: the template, which may be
    given instead of the bank's, has no place for a phrase.
    """

    def __init__(self, encoder: TextEncoder, bank: TextBank | None = None, template: str | None = None) -> None:
        if bank is not None and bank.text_encoder_sha256 != encoder.sha256:
            maker = f"{bank.text_encoder} {bank.text_encoder_sha256[:12]}"
            what = f"was made by the text encoder {maker}, this is {encoder.name} {encoder.sha256[:12]}"
            cure = "Name the encoder of the bank, or make the bank anew with: scene-completion vocabulary"
            raise VocabularyError(what, where=bank.where, cure=cure)
        self._encoder = encoder
        self._name = encoder.name if bank is None else bank.text_encoder  # one model may have two names
        self._background = BACKGROUND if bank is None else bank.background
        # The node tells a query from all phrases of its bank; without one it needs some to tell it from.
        self._general = BACKGROUND if bank is None else None
        self._template = template or (STREET_TEMPLATE if bank is None else bank.template)
        check_template(self._template)

    def query(self, text: str) -> str:
        """The text for `~/query`; an empty one ends the query.

        Raises VocabularyError where the text cannot be read, see `messages.words`; ConfigurationError where a phrase
        cannot be encoded.
        """
        requested = read_query(text)
        if requested is None:
            return ""
        general = self._general if requested.background is None else requested.background
        return json.dumps({"phrases": list(requested.phrases), **self._embedded(requested, general)})

    def vocabulary(self, text: str) -> str:
        """The text for `~/vocabulary`; otherwise see `query`."""
        requested = read_vocabulary(text)
        if requested is None:
            return ""
        if (count := len(_phrases_of(requested))) > MOST_ROWS:
            raise VocabularyError(f"{count} phrases, where at most {MOST_ROWS} are possible", where="text_vocabulary")
        classes = requested.phrases if isinstance(requested.phrases, dict) else list(requested.phrases)
        background = self._background if requested.background is None else requested.background
        rules = {"margin": requested.margin, "pooling": requested.pooling}
        return json.dumps({"classes": classes, **rules, **self._embedded(requested, background)})

    def _embedded(self, requested: RequestedWords, background: Sequence[str] | None) -> dict[str, Any]:
        if requested.given is not None:
            raise VocabularyError("has embeddings already", where="text", cure="Publish it to the node itself")
        phrases = list(dict.fromkeys([*_phrases_of(requested), *(background or ())]))
        # Each by itself, as in a bank: an embedding is to follow from nothing but its phrase.
        rows = [self._encoder.encode([prompt(phrase, self._template)])[0].half().numpy() for phrase in phrases]
        packed = [base64.b64encode(row.astype("<f2").tobytes()).decode("ascii") for row in rows]
        others = None if background is None else [one for one in background if one not in _phrases_of(requested)]
        return {
            **({} if others is None else {"background": others}),
            "encoder": {"id": self._name, "sha256": self._encoder.sha256},
            "embeddings": dict(zip(phrases, packed, strict=True)),
        }


def _phrases_of(requested: RequestedWords) -> list[str]:
    if isinstance(requested.phrases, tuple):
        return list(requested.phrases)
    return [phrase for phrases in requested.phrases.values() for phrase in phrases]
