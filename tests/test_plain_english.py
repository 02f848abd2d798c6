"""Sentences of the README and the documents have at most 25 words.

What counts is prose: paragraphs and items of lists. Fenced code, tables, headings, comments and HTML do not count. A
sentence ends with a full stop, a question mark or an exclamation mark before a space or the end, or with the paragraph.
A colon or a semicolon ends none. A word has a letter or a digit; code in backquotes and a formula are one word, a link
is its text.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
MOST_WORDS = 25
UNCOUNTED = {"results.md"}  # tables and what was run
DOCUMENTS = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md"] + [
    path for path in sorted((REPOSITORY / "docs").glob("*.md")) if path.name not in UNCOUNTED
]
SHORTENED = re.compile(r"\b(?:e\.g|i\.e|et al|cf|vs|Eq|Fig|No)\.|\.\.\.|…")


def paragraphs(text: str) -> list[str]:
    """The prose of a document in Markdown: a paragraph or an item of a list each."""
    text = re.sub(r"^( *)```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"<!--.*?-->|<[^>\n]+>", "", text, flags=re.DOTALL)
    found: list[str] = []
    going_on = False
    for line in text.splitlines():
        item = re.match(r" *(?:[-*+]|\d+\.) +", line)
        if not line.strip() or re.match(r" *(?:\||#|---)", line):
            going_on = False
        elif going_on and not item:
            found[-1] += f" {line.strip()}"
        else:
            found.append(line[item.end() if item else 0 :].strip())
            going_on = True
    return found


def sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph, with code and links as single words or as their text."""
    paragraph = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", paragraph)
    paragraph = re.sub(r"`[^`]+`", "code", paragraph)
    paragraph = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", paragraph)
    paragraph = SHORTENED.sub("", paragraph)
    return [part for part in re.split(r"(?<=[.!?])[*_\")]*\s+", paragraph) if part.strip()]


def words(sentence: str) -> int:
    """How many words a sentence has."""
    return sum(any(character.isalnum() for character in word) for word in sentence.split())


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        ("One two three. Four five!\n\n- Six `a b c`\n- seven [eight nine](x y.md)", [3, 2, 2, 3]),
        ("# A heading\n\n| a | table |\n|---|---|\n\n```\nsome code. more\n```\nThe end of\nit: 0.5 m, e.g. this", [7]),
        ("<a id='d3'></a>**3. A title.** And a sentence (with *this*.) Last", [1, 2, 5, 1]),
    ],
)
def test_how_words_are_counted(text: str, counted: list[int]) -> None:
    assert [words(sentence) for paragraph in paragraphs(text) for sentence in sentences(paragraph)] == counted


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_sentences_are_short(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    everything = [sentence for paragraph in paragraphs(text) for sentence in sentences(paragraph)]
    assert everything
    long = [f"{words(sentence)} words: {sentence}" for sentence in everything if words(sentence) > MOST_WORDS]
    assert not long, "\n".join(long)
