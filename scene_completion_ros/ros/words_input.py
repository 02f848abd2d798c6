"""The words that the node is asked for, by its parameter `vocabulary` and its topics of words."""

import functools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
from std_msgs.msg import String

from scene_completion_ros.errors import VocabularyError, in_words
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.label_query import FoldedVocabulary
from scene_completion_ros.inference.text_bank import TextBank, Vocabulary
from scene_completion_ros.messages.words import GivenEmbeddings, RequestedWords, read_query, read_vocabulary, text_of
from scene_completion_ros.ros import dds
from scene_completion_ros.ros.declared_parameters import DeclaredParameters
from scene_completion_ros.ros.health.judgement import FrameCounters
from scene_completion_ros.ros.inference_thread import CLOSE_TIMEOUT_S, InferenceThread
from scene_completion_ros.ros.parameters import SHIPPED, NodeParameters
from scene_completion_ros.ros.topics import QUERY, VOCABULARY
from scene_completion_ros.ros.waiting import NewestWorker
from scene_completion_ros.untrusted_files import shown

_QUOTED = 3  # phrases that a message quotes


class Dictionary:
    """The words that the parameter `vocabulary` names, for a student.

    Raises VocabularyError where the bank cannot be used, or belongs to another student. `name`: value of the parameter:
    a file, `SHIPPED`, or empty.
    """

    def __init__(self, bundle: StudentBundle, name: str) -> None:
        self.name, self._bundle = name, bundle
        # The text bank; without a name that of the bundle, None where it has none.
        self.bank = bundle.text_bank() if name in ("", SHIPPED) else TextBank.load(name)
        if name and self.bank is None:
            what = f"the student {bundle.name} has no text bank"
            cure = "Name a file, made with: scene-completion vocabulary"
            raise VocabularyError(what, where=f"parameter vocabulary: {SHIPPED}", cure=cure)
        # What the parameter asks for; None for the labels of the bundle.
        self.vocabulary = self._folded(self.bank.vocabulary()) if name and self.bank else None

    def vocabulary_of(self, asked: RequestedWords | None) -> FoldedVocabulary | None:
        """The vocabulary asked for; for nothing, that of the parameter. Raises VocabularyError with cause and cure."""
        if asked is None:
            return self.vocabulary
        options: dict[str, Any] = {"margin": asked.margin, "pooling": asked.pooling}
        options = {name: value for name, value in options.items() if value is not None}
        return self._made(self._bank_for(asked, VOCABULARY).vocabulary(asked.phrases, **options), asked)

    def query_of(self, asked: RequestedWords) -> FoldedVocabulary:
        """What is looked for, and what phrases have in common (`TextBank.query`). Raises VocabularyError."""
        return self._made(self._bank_for(asked, QUERY).query(tuple(asked.phrases), asked.background), asked)

    def _made(self, made: Vocabulary, asked: RequestedWords) -> FoldedVocabulary:
        if asked.given is None and self.bank is not None:  # its hash says more than that of one with a background
            made = replace(made, bank_sha256=self.bank.sha256)
        return self._folded(made)

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


DEPTH = 10
LOOK_PERIOD_S = 0.5


class WordsInput:
    """Hands vocabularies and queries to the inference thread, ready for use, as long as the node is configured.

    Each of the two topics has a thread, in which messages are read, checked and folded: neither images nor other
    callbacks wait for that. What cannot be used changes nothing; it is warned about and counted. The parameter
    `vocabulary` is looked at twice a second (by a steady clock), after `check` has seen its change.
    """

    def __init__(
        self,
        node: Any,
        parameters: DeclaredParameters,
        bundle: StudentBundle,
        dictionary: Dictionary,  # that of the parameter's value at first
        thread: InferenceThread,
        counters: FrameCounters,
        resources: ExitStack,
    ) -> None:
        self._parameters, self._bundle = parameters, bundle
        self._dictionary = self._checked = dictionary
        self._thread, self._counters = thread, counters
        self._vocabularies = self._heard(node, VOCABULARY, self._take_vocabulary, resources)
        self._heard(node, QUERY, self._take_query, resources)
        dds.steady_timer(node, LOOK_PERIOD_S, self._look, resources)

    def check(self, parameters: NodeParameters) -> None:
        """Raise SceneCompletionError where the parameter `vocabulary` was changed to what cannot be used."""
        if parameters.vocabulary not in (self._dictionary.name, self._checked.name):
            self._checked = Dictionary(self._bundle, parameters.vocabulary)

    def _heard(self, node: Any, topic: str, take: Callable[[str], None], resources: ExitStack) -> NewestWorker[bytes]:
        """Subscribe to a topic whose newest message is taken in a thread of its own."""
        worker: NewestWorker[bytes] = NewestWorker(
            lambda message: take(text_of(message, topic)),
            on_replaced=lambda _: None,
            on_error=functools.partial(self._refuse, topic),
            name=topic.removeprefix("~/"),
        )
        resources.callback(worker.close, CLOSE_TIMEOUT_S)
        subscription = node.create_subscription(String, topic, worker.submit, DEPTH, raw=True)
        resources.callback(node.destroy_subscription, subscription)
        return worker

    def _look(self) -> None:
        """Take the vocabulary of the parameter where that was changed: after `check`, it may have been refused yet."""
        if self._dictionary.name != self._parameters.snapshot().vocabulary == self._checked.name:
            self._dictionary = self._checked
            self._vocabularies.submit(b"")  # as an empty text

    def _take_vocabulary(self, text: str) -> None:
        folded = self._dictionary.vocabulary_of(read_vocabulary(text))
        self._thread.select(lambda words: words._replace(vocabulary=folded))

    def _take_query(self, text: str) -> None:
        asked = read_query(text)
        folded = None if asked is None else self._dictionary.query_of(asked)
        self._thread.select(lambda words: words._replace(queried=folded))

    def _refuse(self, topic: str, error: Exception) -> None:
        why = in_words(error)
        self._thread.record.words.happened("refused", why)
        what = "the vocabulary stays as it was" if topic == VOCABULARY else "the query stays as it was"
        self._counters.warn(topic, f"{what}: {why}")
