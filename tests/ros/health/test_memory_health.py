"""What is said of the process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scene_completion_ros.ros.health.judgement import Level
from scene_completion_ros.ros.health.memory_health import ProcessFacts, memory_status, process_facts


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_facts_of_this_process() -> None:
    before = process_facts()
    assert before.resident_mb is not None and before.peak_mb is not None
    assert 0 < before.resident_mb <= before.peak_mb
    assert before.own_mb is not None and before.shared_mb is not None
    assert 0 < before.own_mb <= before.own_mb + before.shared_mb < before.resident_mb  # pages of files are the rest
    descriptor = os.open("/", os.O_RDONLY)
    try:
        after = process_facts()
    finally:
        os.close(descriptor)
    assert before.open_files is not None and after.open_files == before.open_files + 1
    assert memory_status(before).level == Level.OK


def test_where_there_is_no_proc_nothing_is_said_of_it(tmp_path: Path) -> None:
    facts = process_facts(tmp_path)
    assert (facts.resident_mb, facts.threads, facts.open_files) == (None, None, None)
    assert memory_status(facts).message == "this system does not tell"


def test_running_out_of_open_files_is_warned_about() -> None:
    assert memory_status(ProcessFacts(open_files=90, open_files_limit=100)).level == Level.OK
    status = memory_status(ProcessFacts(open_files=91, open_files_limit=100))
    assert status.level == Level.WARN
    assert "ulimit -n" in status.message
