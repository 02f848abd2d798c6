"""Tables and files are made from what a metric registers: a metric as users would add one."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.evaluation.metric import Column, Metric, Row, Scores, Tally


@dataclass
class Guess:
    """A method that says so many."""

    name: str
    says: int

    def answer(self, frame: int) -> tuple[int, int]:
        return self.says, frame


class Hits(Tally):
    """Share of frames whose number was said, near and far."""

    def __init__(self, method: Guess) -> None:
        self.hits: list[bool] = []

    def add(self, answer: tuple[int, int]) -> None:
        self.hits.append(answer[0] == answer[1])
        self.frames += 1

    def rows(self) -> Iterator[Row]:
        share = sum(self.hits) / len(self.hits)
        for range_m, factor in ((12.8, 1.0), (25.6, 0.5)):
            yield {
                "kind": "even",
                "range_m": range_m,
                "share": share * factor,
                "lost": float("nan"),
                "of": {"car": share},
            }


HITS = Metric(
    "hits",
    "Share of hits, in percent.",
    (Column("share", "share"), Column("lost", "lost", percent=False)),
    Hits,
    by=("kind",),
    across="range_m",
    classes="of",
    headline={"kind": "even"},
)


def test_tables_and_values() -> None:
    scores = Scores([HITS])
    assert scores.run("towns", [Guess("good", 1), Guess("poor", 9)], [1, 1, 1, 2]) == 4
    assert scores.run("windows", [Guess("good", 2)], [2]) == 1
    rows = scores.to_json()["hits"]
    assert rows[0] == {
        "recordings": "towns", "method": "good", "frames": 4, "kind": "even", "range_m": 12.8, "share": 0.75,
        "lost": None, "of": {"car": 0.75},
    }  # fmt: skip
    assert [row["method"] for row in rows] == [*["good"] * 2, *["poor"] * 2, *["good"] * 2]
    text = scores.markdown()
    assert "| method | frames | kind | share, 12.8 m / 25.6 m | lost, 12.8 m / 25.6 m |" in text
    assert "| good | 4 | even | 75.0 / 37.5 | – / – |" in text
    assert "| poor | 4 | even | 0.0 / 0.0 | – / – |" in text
    assert "windows. Classes at 25.6 m.\n\n| method | frames | kind | car |" in text
    assert scores.headlines()["hits against windows, 25.6 m"] == {"share": 0.5, "lost": None}


def test_methods_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="two methods have the name good"):
        Scores([HITS]).run("towns", [Guess("good", 1), Guess("good", 9)], [1])
