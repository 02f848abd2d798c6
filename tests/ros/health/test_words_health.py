"""What is said of vocabularies and queries."""

from __future__ import annotations

import time

from scene_completion_ros.ros.health.judgement import Level, Status
from scene_completion_ros.ros.health.words_health import WordsRecord, WordsReport, words_status
from tests.inference.small_vocabulary import small_bank

RECENT_S = 10.0


def told(record: WordsRecord, later_s: float = 0.0) -> Status:
    return words_status(record.report, time.perf_counter() + later_s, RECENT_S)


def test_what_is_in_use_is_named() -> None:
    bank = small_bank()
    record = WordsRecord()
    assert record.report == WordsReport()
    assert told(record).message == "the labels of the bundle, 0 phrases looked for"
    record.use(bank.vocabulary())
    record.look_for(bank.query(["car", "tree"]))
    status = told(record)
    assert (status.level, status.message) == (Level.OK, "2 classes of a vocabulary, 2 phrases looked for")
    assert status.values["classes"] == "vehicle, tree"
    assert status.values["looked for"] == "car, tree"
    assert status.values["text bank sha256"] == bank.sha256
    assert status.values["times changed"] == "1"
    assert WordsRecord(bank.vocabulary()).report.changed == 0
    record.use(None)
    record.look_for(None)
    assert told(record).values["classes"] == "those of the bundle"
    assert told(record).values["looked for"] == ""


def test_what_was_refused_is_a_warning_for_a_while() -> None:
    record = WordsRecord()
    record.refused("it is empty")
    status = told(record, 2.0)
    assert (status.level, status.message) == (Level.WARN, "refused 2.0 s ago: it is empty")
    later = told(record, RECENT_S + 1.0)
    assert later.level == Level.OK
    assert later.values["refused"] == "1"
    assert later.values["last refused"] == "11.0 s ago: it is empty"
