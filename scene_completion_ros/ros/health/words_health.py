"""What voxels are compared with, as recorded and as judged: the vocabulary, the query, and what was refused."""

import threading
import time
from dataclasses import dataclass, replace
from typing import Any

from scene_completion_ros.inference.text_bank import Vocabulary
from scene_completion_ros.ros.health.judgement import Level, Status

NAME = "vocabulary"


@dataclass(frozen=True)
class WordsReport:
    """All of it at one moment; times are those of `time.perf_counter`."""

    classes: tuple[str, ...] = ()  # names of the vocabulary's classes; empty where labels are those of the bundle
    bank_sha256: str = ""  # hash of its text bank
    changed: int = 0  # how often another vocabulary was taken while the node was configured
    phrases: tuple[str, ...] = ()  # what is looked for
    refused: int = 0  # vocabularies and queries that could not be used
    why_refused: str = ""  # why the last one could not
    refused_s: float | None = None  # when that was


class WordsRecord:
    """Written by the inference thread and by those that hear words, read by others.

    `vocabulary`: the one at first; None for the labels of the bundle.
    """

    def __init__(self, vocabulary: Vocabulary | None = None) -> None:
        self._lock = threading.Lock()
        self._report = replace(WordsReport(), **_meaning(vocabulary))

    @property
    def report(self) -> WordsReport:
        """What is so now."""
        with self._lock:
            return self._report

    def use(self, vocabulary: Vocabulary | None) -> None:
        """Voxels have the labels of a vocabulary from now on; None for those of the bundle."""
        with self._lock:
            self._report = replace(self._report, changed=self._report.changed + 1, **_meaning(vocabulary))

    def look_for(self, query: Vocabulary | None) -> None:
        """Phrases are looked for from now on; None for no more."""
        with self._lock:
            self._report = replace(self._report, phrases=() if query is None else query.names)

    def refused(self, why: str) -> None:
        """A vocabulary or a query could not be used."""
        with self._lock:
            refused = self._report.refused + 1
            self._report = replace(self._report, refused=refused, why_refused=why, refused_s=time.perf_counter())


def _meaning(vocabulary: Vocabulary | None) -> dict[str, Any]:
    if vocabulary is None:
        return {"classes": (), "bank_sha256": ""}
    return {"classes": vocabulary.names, "bank_sha256": vocabulary.bank_sha256}


def words_status(report: WordsReport, now_s: float, recent_s: float) -> Status:
    """What voxels are compared with, and what was refused in the last `recent_s` s; `now_s`: by `time.perf_counter`."""
    values = {
        "classes": ", ".join(report.classes) or "those of the bundle",
        "text bank sha256": report.bank_sha256,
        "times changed": str(report.changed),
        "looked for": ", ".join(report.phrases),
        "refused": str(report.refused),
    }
    if report.refused_s is not None:
        values["last refused"] = f"{now_s - report.refused_s:.1f} s ago: {report.why_refused}"
        if now_s - report.refused_s <= recent_s:
            return Status(
                NAME, Level.WARN, f"refused {now_s - report.refused_s:.1f} s ago: {report.why_refused}", values
            )
    named = f"{len(report.classes)} classes of a vocabulary" if report.classes else "the labels of the bundle"
    return Status(NAME, Level.OK, f"{named}, {len(report.phrases)} phrases looked for", values)
