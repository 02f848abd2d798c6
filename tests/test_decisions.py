"""Every decision has a number of its own, three parts, and at most eight lines."""

from __future__ import annotations

import re
from pathlib import Path

DECISIONS = Path(__file__).resolve().parents[1] / "docs" / "decisions.md"
PARTS = ("*Context:*", "*Decision:*", "*Consequence:*")


def test_decisions_are_short_numbered_and_whole() -> None:
    entries = [entry for entry in DECISIONS.read_text(encoding="utf-8").split("\n\n") if "**" in entry]
    anchors = [number for entry in entries for number in re.findall(r'<a id="d(\d+)"></a>', entry)]
    assert sorted(map(int, anchors)) == list(range(1, len(anchors) + 1))
    for entry in entries:
        assert len(entry.strip().splitlines()) <= 8, entry
        places = [entry.find(part) for part in PARTS]
        assert -1 not in places, entry
        assert places == sorted(places), entry
