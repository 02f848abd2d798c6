"""The one door for JSON and YAML that others wrote: limits of size, depth and number, and a sentence for what is wrong.

A document of some kilobytes can nest thousands of lists, or name one list so often that it unfolds to gigabytes. What
comes out of here is neither: it can be walked, compared and printed. YAML is read by the safe loader, which executes
nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from scene_completion_ros.errors import SceneCompletionError

DEEPEST = 64
"""Lists and mappings within each other."""
MOST_BYTES = 4_000_000
MOST_VALUES = 2_000_000
"""Values of a document, those of a YAML alias counted wherever it stands."""


def read_bytes(path: Path | str, error: type[SceneCompletionError], *, cure: str, most_bytes: int) -> bytes:
    """Reads a file.

    Args:
        path: The file.
        error: What is raised where it cannot be used.
        cure: What the user can do then.
        most_bytes: A larger file is refused before it is read whole.

    Raises:
        error: It is missing, too large or cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size  # 0 of a pipe
            content = file.read(1 + (size or most_bytes)) if size <= most_bytes else b""
    except (OSError, ValueError) as problem:  # ValueError: a name with a zero byte
        what = getattr(problem, "strerror", None) or problem
        raise error(f"cannot be read: {what}", where=str(path), cure=cure) from problem
    if max(size, len(content)) > most_bytes:
        raise error(f"is larger than {most_bytes / 1e6:g} MB", where=str(path), cure=cure)
    return content


def read_text(path: Path | str, error: type[SceneCompletionError], *, cure: str, most_bytes: int = MOST_BYTES) -> str:
    """Reads a text in UTF-8; arguments and errors as of `read_bytes`."""
    try:
        return read_bytes(path, error, cure=cure, most_bytes=most_bytes).decode("utf-8")
    except UnicodeDecodeError as problem:
        raise error(f"is no text in UTF-8 ({problem})", where=str(path), cure=cure) from problem


def read_json(path: Path | str, error: type[SceneCompletionError], *, cure: str, most_bytes: int = MOST_BYTES) -> Any:
    """Reads a JSON document; arguments and errors as of `read_text`, and those of `parse_json`."""
    text = read_text(path, error, cure=cure, most_bytes=most_bytes)
    return parse_json(text, error, where=str(path), cure=cure)


def read_yaml(path: Path | str, error: type[SceneCompletionError], *, cure: str, most_bytes: int = MOST_BYTES) -> Any:
    """Reads a YAML document; arguments and errors as of `read_text`, and those of `parse_yaml`."""
    text = read_text(path, error, cure=cure, most_bytes=most_bytes)
    return parse_yaml(text, error, where=str(path), cure=cure)


def parse_json(text: str | bytes, error: type[SceneCompletionError], *, where: str, cure: str) -> Any:
    """What a JSON document holds.

    Raises:
        error: It is no JSON, a name stands twice in an object, or it is nested deeper than `DEEPEST`.
    """
    try:
        document = json.loads(text, object_pairs_hook=_distinct)
    except RecursionError as problem:
        raise _too_deep(error, where, cure) from problem
    except ValueError as problem:
        raise error(f"is not valid JSON ({problem})", where=where, cure=cure) from problem
    return _within_limits(document, error, where, cure)


def parse_yaml(text: str, error: type[SceneCompletionError], *, where: str, cure: str) -> Any:
    """What a YAML document holds.

    Raises:
        error: It is no YAML, nested deeper than `DEEPEST`, or its aliases unfold to more than `MOST_VALUES`.
    """
    try:
        document = yaml.safe_load(text)
    except RecursionError as problem:
        raise _too_deep(error, where, cure) from problem
    except (ValueError, TypeError, LookupError, AttributeError, yaml.YAMLError) as problem:
        line = " ".join(str(problem).split())
        raise error(f"is not valid YAML ({line[:300]})", where=where, cure=cure) from problem
    return _within_limits(document, error, where, cure)


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in values if names.count(name) > 1)
        raise ValueError(f"the name {twice[:80]!r} stands twice in an object")
    return values


def _within_limits(document: Any, error: type[SceneCompletionError], where: str, cure: str) -> Any:
    level: list[Iterable[Any]] = [[document]]
    count = 0
    for _ in range(DEEPEST + 1):
        deeper: list[Iterable[Any]] = []
        for values in level:
            for value in values:
                count += 1
                if isinstance(value, dict):
                    deeper += [value.keys(), value.values()]
                elif isinstance(value, (list, tuple, set)):
                    deeper.append(value)
            if count + len(deeper) > MOST_VALUES:
                raise error(f"holds more than {MOST_VALUES:,} values", where=where, cure=cure)
        if not deeper:
            return document
        level = deeper
    raise _too_deep(error, where, cure)


def _too_deep(error: type[SceneCompletionError], where: str, cure: str) -> SceneCompletionError:
    return error(f"is nested deeper than {DEEPEST} levels", where=where, cure=cure)
