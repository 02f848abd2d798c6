"""What a check finds, and how a check is kept from harming the others."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from scene_completion_ros.errors import SceneCompletionError


class Status(Enum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    status: Status
    found: str  # what was found, one sentence
    cure: str = ""  # what to do about it; empty where nothing is to be done
    details: Mapping[str, Any] = field(default_factory=dict)  # the same for programs; plain values for ``json.dumps``


@dataclass(frozen=True)
class Check:
    """A named check."""

    name: str  # its name, which stays the same between versions
    examine: Callable[[], Finding]  # looks; may raise anything
    cure: str  # what to do where it raises something that brings no cure of its own

    def run(self) -> Finding:
        """The finding; a check that raises has failed, with the text of the exception."""
        try:
            return self.examine()
        except SceneCompletionError as error:
            where = f"{error.where}: " if error.where else ""
            return Finding(Status.FAILED, f"{where}{error.what}", error.cure or self.cure)
        except Exception as error:  # whatever is broken, the other checks are still to be run
            return Finding(Status.FAILED, f"{type(error).__name__}: {error}", self.cure)
