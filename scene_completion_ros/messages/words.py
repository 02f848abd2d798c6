"""What phrases are, and what a text message asks for with them: a vocabulary, or a query. Knows no bank and no student.

A text is phrases with commas or line ends between them, a JSON list of phrases, or a JSON object. Messages come from
untrusted sources: sizes are checked before much is made of them. Banks, messages and commands have the same phrases.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import VocabularyError
from scene_completion_ros.untrusted_files import parse_json, shown

LARGEST_TEXT = 8 << 20  # characters: more than 4096 phrases of 768 numbers take
LONGEST_PHRASE = 200
_LARGEST_EMBEDDING = 8192
_EMBEDDED = ("encoder", "embeddings", "background")
_OF_VOCABULARY = ("classes", "margin", "pooling", *_EMBEDDED)
_OF_QUERY = ("phrases", *_EMBEDDED)

Phrases: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class GivenEmbeddings:
    """Phrases that a message brings along."""

    # text_encoder, text_encoder_sha256: The encoder that made them: an id, and the hash of its weights.
    text_encoder: str
    text_encoder_sha256: str
    phrases: Phrases  # P phrases, each another
    rows: NDArray[np.float16]  # float16 [P, D], any numbers


@dataclass(frozen=True, eq=False)
class RequestedWords:
    """What a message asks for."""

    phrases: Phrases | Mapping[str, Phrases]  # what is asked for, or the phrases of each class by its name
    # margin, pooling: See `TextBank.vocabulary`; None where the message does not say.
    margin: float | None = None
    pooling: str | None = None
    background: Phrases | None = None  # phrases instead of those of the bank; None where the message does not say
    given: GivenEmbeddings | None = None  # embeddings that the message brings along; None where it has none


def check_phrase(text: object, where: str) -> None:
    """Raise VocabularyError where something is no phrase."""
    if not (isinstance(text, str) and text == text.strip() and text.isprintable() and 0 < len(text) <= LONGEST_PHRASE):
        what = f"{shown(text)} is no text of 1 to {LONGEST_PHRASE} printable characters without spaces around it"
        raise VocabularyError(what, where=where, cure="Write it again.")


def check_phrases(texts: Sequence[object], where: str, *, forbidden: str | None = None) -> None:
    """Raise VocabularyError where one of several is no phrase, comes twice, or is a forbidden one."""
    seen = {forbidden}
    for text in texts:
        check_phrase(text, where)
        if text in seen:
            what = "has a meaning of its own" if text == forbidden else "comes twice"
            raise VocabularyError(f"{shown(text)} {what}", where=where, cure="Remove or rename it.")
        seen.add(str(text))


def read_phrases(text: str, where: str) -> Phrases:
    """Phrases between commas or line ends. Raises VocabularyError where there is none, or one is bad or twice there."""
    return _checked(tuple(filter(None, (part.strip() for part in text.replace("\n", ",").split(",")))), where)


def text_of(message: bytes, where: str) -> str:
    """The text of a serialised std_msgs/String, zero bytes included. Raises VocabularyError where it is not UTF-8."""
    size = int.from_bytes(message[4:8], "little" if message[1:2] > b"\0" else "big")  # with a zero byte at the end
    try:
        return message[8 : 7 + size].decode()
    except UnicodeDecodeError as error:
        raise VocabularyError(f"is not UTF-8 ({error})", where=where, cure="Publish UTF-8 text") from error


def read_vocabulary(text: str) -> RequestedWords | None:
    """The vocabulary that a text asks for; None for an empty one, which takes it back.

    An object may hold ``classes`` (phrases by name, or a list of phrases), ``margin``, ``pooling`` (``max`` or
    ``mean``) and ``background``. It may hold ``embeddings`` (base64 of little-endian float16 by phrase) with their
    ``encoder`` (``id``, ``sha256``). Without ``classes`` every phrase with an embedding is one, but for those of the
    background. Raises VocabularyError: what is wrong, and the cure.
    """
    return _read(text, "~/vocabulary", _OF_VOCABULARY)


def read_query(text: str) -> RequestedWords | None:
    """The query that a text asks for; None for an empty one, which ends it.

    An object may hold ``phrases``, ``background``, and ``embeddings`` with their ``encoder``, see `read_vocabulary`.
    Raises VocabularyError: what is wrong, and the cure.
    """
    return _read(text, "~/query", _OF_QUERY)


def _read(text: str, where: str, known: Sequence[str]) -> RequestedWords | None:
    """Read what a text asks for; `known`: fields of an object, first that of what is asked for."""
    if len(text) > LARGEST_TEXT:
        what = f"a text of {len(text)} characters, where at most {LARGEST_TEXT} are read"
        raise VocabularyError(what, where=where, cure="Ask for less")
    text = text.strip()
    if not text:
        return None
    if text[0] not in "[{":
        return RequestedWords(read_phrases(text, where))
    cure = f"{shown(text)} is read as JSON because of its first character; phrases alone need commas between them"
    content = parse_json(text, VocabularyError, where=where, cure=cure)
    if isinstance(content, list):
        return RequestedWords(_list(content, where))
    return _requested(content, where, known)


def _requested(content: Mapping[str, Any], where: str, known: Sequence[str]) -> RequestedWords:
    if unknown := sorted(set(content) - set(known)):
        what = f"{shown(unknown[0])} means nothing: use one of {', '.join(known)}"
        raise VocabularyError(what, where=where, cure="Name it right")
    given = _given(content, where)
    background: Phrases | None = None
    if "background" in content:
        background = _list(content["background"], f"{where}: background", some=False)
    phrases: Phrases | dict[str, Phrases]
    wanted = known[0]
    if wanted == "classes" and isinstance(of_class := content.get(wanted), dict):
        phrases = {name: _list(texts, f"{where}: {wanted}: {shown(name)}") for name, texts in of_class.items()}
    elif wanted in content:
        phrases = _list(content[wanted], f"{where}: {wanted}")
    elif given is not None:
        phrases = tuple(phrase for phrase in given.phrases if phrase not in (background or ()))
    else:
        raise VocabularyError(f"has no {wanted!r}", where=where, cure="Say what is asked for")
    margin, pooling = content.get("margin"), content.get("pooling")
    if margin is not None and (isinstance(margin, bool) or not isinstance(margin, (int, float))):
        raise VocabularyError(f"{shown(margin)} is no number", where=f"{where}: margin", cure="Write 0.02, or nothing")
    if pooling not in (None, "max", "mean"):
        raise VocabularyError(f"{shown(pooling)} is unknown", where=f"{where}: pooling", cure="Write max or mean")
    return RequestedWords(phrases, margin, pooling, background, given)


def _list(value: Any, where: str, *, some: bool = True) -> Phrases:
    if not isinstance(value, list) or not all(isinstance(phrase, str) for phrase in value):
        raise VocabularyError(f"{shown(value)} is no list of phrases", where=where, cure='Write ["…", "…"]')
    return _checked(tuple(value), where, some=some)


def _checked(phrases: Phrases, where: str, *, some: bool = True) -> Phrases:
    if some and not phrases:
        raise VocabularyError("names no phrase", where=where, cure="Write phrases with commas between them")
    check_phrases(phrases, where)
    return phrases


def _given(content: Mapping[str, Any], where: str) -> GivenEmbeddings | None:
    embeddings, encoder = content.get("embeddings"), content.get("encoder")
    if embeddings is None and encoder is None:
        return None
    if not isinstance(embeddings, dict) or not embeddings:
        raise VocabularyError("is no object with embeddings by phrase", where=f"{where}: embeddings", cure=_MEANT)
    if not isinstance(encoder, dict) or [type(encoder.get(name)) for name in ("id", "sha256")] != [str, str]:
        what = f"{shown(encoder)} does not say the id and the sha256 of the encoder"
        raise VocabularyError(what, where=f"{where}: encoder", cure=_MEANT)
    rows = [_row(text, f"{where}: embeddings: {shown(phrase)}") for phrase, text in embeddings.items()]
    sizes = sorted({row.size for row in rows})
    if len(sizes) > 1:
        what = f"they differ in length, {sizes[0]} to {sizes[-1]} numbers"
        raise VocabularyError(what, where=f"{where}: embeddings", cure="Take one encoder")
    return GivenEmbeddings(encoder["id"], encoder["sha256"], tuple(embeddings), np.stack(rows))


_MEANT = 'Write {"encoder": {"id": "…", "sha256": "…"}, "embeddings": {"phrase": "base64 of little-endian float16"}}'


def _row(text: object, where: str) -> NDArray[np.float16]:
    try:
        packed = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (ValueError, binascii.Error):
        packed = b""
    if not packed or len(packed) % 2 or len(packed) > 2 * _LARGEST_EMBEDDING:
        what = f"{shown(text)} is no base64 of 1 to {_LARGEST_EMBEDDING} little-endian float16"
        raise VocabularyError(what, where=where, cure=_MEANT)
    return np.frombuffer(packed, dtype="<f2").astype(np.float16)
