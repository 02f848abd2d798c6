"""Has the API reference describe fields, constants and parameters by comments next to them, or on the lines above."""

import re
from pathlib import Path
from typing import Any

import griffe

TRAILING = re.compile(r"  # (?!noqa|type: |fmt: )(.*)")
ABOVE = re.compile(r"\s*# (.*)")
PARAMETER = re.compile(r"\s+\*{0,2}(\w+)\b.*,(?:  # .*)?$")


class FieldComments(griffe.Extension):
    """Appends the comments as a section of the docstring, where names have no docstring of their own."""

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Describe the fields of a class, and what makes one of it takes."""
        describe(cls)
        maker = cls.members.get("__init__") or cls.members.get("__new__")
        if isinstance(maker, griffe.Function):
            describe_parameters(cls, maker)

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Describe the parameters of a function."""
        if func.name not in {"__init__", "__new__"}:
            describe_parameters(func, func)

    def on_module_members(self, *, mod: griffe.Module, **_: Any) -> None:
        """Describe the constants of a module."""
        describe(mod)


def describe(owner: griffe.Class | griffe.Module) -> None:
    """Append the section."""
    found = [one for one in owner.members.values() if isinstance(one, griffe.Attribute) and one.docstring is None]
    if owner.docstring is None or not found:
        return
    lines = Path(str(owner.filepath)).read_text(encoding="utf-8").splitlines()
    comments = {one.name: comment(lines, one.lineno or 0, one.endlineno or 0) for one in found}
    entries = [f"    {name}: {text}" for name, text in comments.items() if text and not name.startswith("_")]
    if entries:
        owner.docstring.value += "\n\nAttributes:\n" + "\n".join(entries)


def describe_parameters(owner: griffe.Class | griffe.Function, function: griffe.Function) -> None:
    """Append the section on parameters that have a line of their own."""
    if owner.docstring is None or "Args:" in owner.docstring.value.splitlines():
        return
    lines = Path(str(function.filepath)).read_text(encoding="utf-8").splitlines()
    entries = []
    for number in range((function.lineno or 0) + 1, (function.endlineno or 0) + 1):
        line = lines[number - 1]
        if line.lstrip().startswith(")"):
            break
        if (found := PARAMETER.match(line)) is not None and (text := comment(lines, number, number)):
            entries.append(f"    {found[1]}: {text}")
    if entries:
        owner.docstring.value += "\n\nArgs:\n" + "\n".join(entries)


def comment(lines: list[str], first: int, last: int) -> str:
    """The comment of the lines from the first to the last, counted from 1; empty where there is none."""
    if (trailing := TRAILING.search(lines[last - 1])) is not None:
        return trailing[1]
    above: list[str] = []
    while (found := ABOVE.fullmatch(lines[first - 2 - len(above)])) is not None:
        above.insert(0, found[1])
    return " ".join(above)
