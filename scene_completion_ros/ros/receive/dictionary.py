"""The words that a node knows: those of a text bank, and those that messages bring along. Needs no ROS."""

from dataclasses import replace
from typing import Any

import numpy as np

from scene_completion_ros.errors import VocabularyError
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.phrase_query import FoldedVocabulary
from scene_completion_ros.inference.text_bank import TextBank, Vocabulary
from scene_completion_ros.messages.words import GivenEmbeddings, RequestedWords
from scene_completion_ros.ros.parameters.schema import SHIPPED
from scene_completion_ros.ros.topics import QUERY, VOCABULARY
from scene_completion_ros.untrusted_files import shown

_QUOTED = 3  # phrases that a message quotes


class Dictionary:
    """The words that the parameter `vocabulary` names, for a student.

    Raises VocabularyError where the bank cannot be used, or belongs to another student. `name`: value of the parameter:
    a file, `SHIPPED`, or empty.
    """

    def __init__(self, bundle: StudentBundle, name: str) -> None:
        self.name = name
        self._bundle = bundle
        # The text bank; without a name that of the bundle, None where it has none.
        self.bank = bundle.text_bank() if name in ("", SHIPPED) else TextBank.load(name)
        if name and self.bank is None:
            what = f"the student {bundle.name} has no text bank"
            cure = "Name a file, made with: scene-completion vocabulary"
            raise VocabularyError(what, where=f"parameter vocabulary: {SHIPPED}", cure=cure)
        # What the parameter asks for; None for the labels of the bundle.
        self.vocabulary = self._folded(self.bank.vocabulary()) if name and self.bank else None

    def vocabulary_of(self, asked: RequestedWords | None) -> FoldedVocabulary | None:
        """The vocabulary that is asked for; for nothing that of the parameter.

        Raises VocabularyError where what is wrong, where, and the cure.
        """
        if asked is None:
            return self.vocabulary
        options: dict[str, Any] = {"margin": asked.margin, "pooling": asked.pooling}
        options = {name: value for name, value in options.items() if value is not None}
        return self._made(self._bank_for(asked, VOCABULARY).vocabulary(asked.phrases, **options), asked)

    def query_of(self, asked: RequestedWords) -> FoldedVocabulary:
        """What is looked for, and what phrases have in common, see `TextBank.query`.

        Raises VocabularyError where what is wrong, where, and the cure.
        """
        return self._made(self._bank_for(asked, QUERY).query(tuple(asked.phrases), asked.background), asked)

    def _made(self, made: Vocabulary, asked: RequestedWords) -> FoldedVocabulary:
        own = self.bank if asked.given is None else None  # whose hash says more than that of one with a background
        return self._folded(made if own is None else replace(made, bank_sha256=own.sha256))

    def _folded(self, vocabulary: Vocabulary) -> FoldedVocabulary:
        return FoldedVocabulary.of(vocabulary, self._bundle.feature_space_for(vocabulary))

    def _bank_for(self, asked: RequestedWords, where: str) -> TextBank:
        """What holds the phrases that are asked for, with the background that is."""
        if asked.given is not None:
            bank = _with_given(self.bank, asked.given, where)
        elif self.bank is not None:
            bank = self.bank
        else:
            quoted = ", ".join(map(shown, list(asked.phrases)[:_QUOTED]))
            what = f"{quoted} without embeddings, and the student {self._bundle.name} has no text bank"
            cure = "Name a bank in parameter vocabulary, or run scene-completion vocabulary"
            raise VocabularyError(what, where=where, cure=cure)
        return bank if asked.background is None else replace(bank, background=asked.background)


def _with_given(bank: TextBank | None, given: GivenEmbeddings, where: str) -> TextBank:
    """The phrases of a message, and those of the bank besides where one encoder made both."""
    same = bank is not None and bank.text_encoder_sha256 == given.text_encoder_sha256  # whatever it is called
    if bank is None or not same or bank.dimension != given.rows.shape[1]:
        return TextBank(given.phrases, given.rows, given.text_encoder, given.text_encoder_sha256, where=where)
    known = set(given.phrases)
    new = [phrase for phrase in bank.phrases if phrase not in known]
    return replace(
        bank,
        phrases=(*given.phrases, *new),
        stored=np.concatenate([given.rows.astype(np.float32), bank.rows(new)]),
        where=where,
    )
