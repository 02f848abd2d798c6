"""Sentences of the README, the documents, the model cards and the docstrings have at most 25 words.

What counts is prose: paragraphs and items of lists. Fenced code, tables, headings, comments and HTML do not count. In a
docstring each entry of `Args:` and the like is an item, and lines that are set in or in columns do not count. A
sentence ends with a full stop, a question mark or an exclamation mark before a space or the end, or with the paragraph.
A colon or a semicolon ends none. A word has a letter or a digit; code in backquotes and a formula are one word, a link
is its text, and a shape in brackets none.
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
MOST_WORDS = 25
DOCUMENTS = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
    *sorted((REPOSITORY / "scene_completion_ros" / "models").glob("*/README.md")),
]
PACKAGES = ("scene_completion_ros", "training", "benchmarks")
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


def docstrings(source: str) -> list[str]:
    """Every string of a module that stands by itself: docstrings, and what is said of constants and fields."""
    return [
        inspect.cleandoc(node.value.value)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]


def prose(docstring: str) -> str:
    """A docstring as Markdown: without what is set in or in columns, and with the entries of its sections as items."""
    lines, section = [], False
    for line in docstring.splitlines():
        section = re.fullmatch(r"[A-Z]\w+:", line) is not None or (section and line[:1] in ("", " "))
        if section:
            line = re.sub(r"^[A-Z]\w+:$", "", re.sub(r"^ {4}[\w*., ]+: ", "- ", line))
        displayed = (re.match(r" {4}", line) and not section) or re.search(r"\S {2,}\S", line)
        lines.append("" if displayed else re.sub(r"\[[^\]`]*\]", "", line))
    return "\n".join(lines)


def sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph, with code and links as single words or as their text."""
    paragraph = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", paragraph)
    paragraph = re.sub(r"(`+)[^`]+\1", "code", paragraph)
    paragraph = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", paragraph)
    paragraph = SHORTENED.sub("", paragraph)
    return [part for part in re.split(r"(?<=[.!?])[*_\")]*\s+", paragraph) if part.strip()]


def long_sentences(text: str) -> list[str]:
    """The sentences of a text in Markdown that are too long, each after its number of words."""
    every = [sentence for paragraph in paragraphs(text) for sentence in sentences(paragraph)]
    return [f"{words(sentence)} words: {sentence}" for sentence in every if words(sentence) > MOST_WORDS]


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


def test_how_words_of_docstrings_are_counted() -> None:
    docstring = """A head.

        x = a b c d      not prose, and
    more of it [N, 3], one ``x y`` two.

    Args:
        one: A text, float32 [N, 3],
            going on. And more.
        two, three: Other.

    Said last, where
    DIR/   has columns
    """
    assert docstrings(f'class A:\n    """{docstring}"""\n    b = "No"\n    "B."')[0].startswith("A head.\n\n    x = ")
    text = prose(inspect.cleandoc(docstring))
    counted = [words(sentence) for paragraph in paragraphs(text) for sentence in sentences(paragraph)]
    assert counted == [2, 6, 5, 2, 1, 3]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_sentences_are_short(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert not long_sentences(text)


@pytest.mark.parametrize("package", PACKAGES)
def test_sentences_of_docstrings_are_short(package: str) -> None:
    paths = sorted((REPOSITORY / package).rglob("*.py"))
    found = [
        (str(path.relative_to(REPOSITORY)), long)
        for path in paths
        for docstring in docstrings(path.read_text(encoding="utf-8"))
        for long in long_sentences(prose(docstring))
    ]
    assert paths
    assert not found
