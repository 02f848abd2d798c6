"""Tables and files are made from what a metric registers: a metric as users would add one."""

from collections.abc import Iterator
from dataclasses import dataclass

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


def test_tables_and_values_of_several_seeds() -> None:
    scores = Scores([HITS])
    assert scores.run("towns", [Guess("good", 1), Guess("good", 9), Guess("poor", 9)], [1, 1, 1, 2]) == 4
    assert scores.run("windows", [Guess("good", 2)], [2]) == 1
    rows = scores.to_json()["hits"]
    assert rows[0] == {
        "recordings": "towns", "method": "good", "seed": 0, "frames": 4, "kind": "even", "range_m": 12.8, "share": 0.75,
        "lost": None, "of": {"car": 0.75},
    }  # fmt: skip
    assert [(row["method"], row.get("seed")) for row in rows] == [
        *[("good", 0)] * 2, *[("good", 1)] * 2, *[("poor", None)] * 2, *[("good", None)] * 2,
    ]  # fmt: skip
    text = scores.markdown()
    assert "| method | frames | kind | share, 12.8 m / 25.6 m | lost, 12.8 m / 25.6 m |" in text
    # 75 and 0 percent: mean 37.5, sample standard deviation 53.0.
    assert "| good | 4 | even | 37.5 ± 53.0 / 18.8 ± 26.5 | – / – |" in text
    assert "| poor | 4 | even | 0.0 / 0.0 | – / – |" in text
    assert "windows. Classes at 25.6 m.\n\n| method | frames | kind | car |" in text
    assert scores.headlines()["hits against windows, 25.6 m"] == {"share": 0.5, "lost": None}


def test_a_metric_that_counted_nothing_has_no_table() -> None:
    scores = Scores([HITS])
    assert scores.run("towns", [Guess("good", 1)], []) == 0
    assert (scores.to_json(), scores.markdown(), scores.headlines()) == ({}, "", {})
