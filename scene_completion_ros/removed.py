"""Names that earlier versions had and that files and habits still hold; they are refused with what to use instead."""

from collections.abc import Mapping
from typing import Final, Literal

Kind = Literal[
    "configuration key",  # of a training, such as "losses.retention"
    "bundle",  # a form of naming one, or a part of one
]

# Each entry ends the sentence "<kind> <name> was removed: ".
REMOVED: Final[Mapping[Kind, Mapping[str, str]]] = {
    "configuration key": {
        "eyes": "use encoder_checkpoint",
    },
    "bundle": {
        "hf:": "fetch it with hf download owner/name --local-dir FOLDER, and name the folder (docs/packages.md)",
    },
}


def removed(kind: Kind, name: str) -> str | None:
    """The sentence that refuses a name of this kind; None for one that was never removed."""
    instead = REMOVED[kind].get(name)
    return None if instead is None else f"{kind} {name} was removed: {instead}"
