"""Text that others wrote, shown so that it does nothing: on terminals, in logs, diagnostics and Markdown.

Names of bags, topics, frames, classes and phrases may hold sequences that move a cursor or set a title, line ends that
forge a line of a log, marks that turn the direction of writing, and the signs of Markdown and HTML.
"""

import re
import unicodedata

_SIGNS = re.compile(r"[\\`|<\[\]]")  # of Markdown, also those that begin HTML, a link or a cell


def printable(text: str, *, lines: bool = False) -> str:
    """A text with an escape for each sign that is neither visible nor a space; `lines`: line ends stay."""
    if text.isprintable():
        return text
    return "".join(sign if _is_shown(sign) or (lines and sign == "\n") else _escaped(sign) for sign in text)


def markdown(text: str) -> str:
    """A text as Markdown shows it, without being any."""
    return _SIGNS.sub(r"\\\g<0>", printable(text))


def _is_shown(sign: str) -> bool:
    return sign.isprintable() or unicodedata.category(sign) == "Zs"


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape").decode()
