"""The tables of topics, services and parameters in `README.md`, written from `topics` and from the schema.

`python -m scene_completion_ros.ros.readme_tables`, in the repository's root, puts them between their markers.
"""

from __future__ import annotations

import argparse
import json
from itertools import groupby
from pathlib import Path

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.ros.parameters.schema import SCHEMA
from scene_completion_ros.ros.topics import SERVICES, STAGES, TOPICS, TopicSpec, stage_topic

COMMAND = "python -m scene_completion_ros.ros.readme_tables"
README = Path("README.md")
BEGIN = f"<!-- Made by {COMMAND}: begin -->"
END = f"<!-- Made by {COMMAND}: end -->"


def tables() -> str:
    """Topics, services and parameters of the node, in Markdown."""
    topics = ["| topic | type | | |", "|---|---|---|---|"]
    for _, group in groupby((spec for spec in TOPICS if spec.meaning), _row_of):
        topics.append(_topic_row(next(group)))
    services = ["| service | type | |", "|---|---|---|"]
    services += [_row(f"`{spec.name}`", _short(spec.type_name), spec.meaning) for spec in SERVICES if spec.meaning]
    parameters = ["| parameter | default | | |", "|---|---|---|---|"]
    for parameter in SCHEMA:
        default = "empty" if parameter.default == "" else f"`{json.dumps(parameter.default)}`".replace('"', "")
        change = "live" if parameter.live else ""
        parameters.append(_row(f"`{parameter.name}`", default, change, _first_sentence(parameter.meaning)))
    common = [spec.name for spec in TOPICS if not spec.meaning] + [spec.name for spec in SERVICES if not spec.meaning]
    managed = ", ".join(f"`{name}`" for name in common)
    return "\n".join(
        (
            *topics,
            "",
            *services,
            "",
            f"And what every managed node of ROS 2 has: {managed}.",
            "",
            "<details>",
            f"<summary>All {len(SCHEMA)} parameters: <em>live</em> ones may be changed while the node runs</summary>",
            "",
            *parameters,
            "",
            "</details>",
        )
    )


def with_tables(readme: str) -> str:
    """The text of the README with the tables of now between their markers.

    Raises:
        SceneCompletionError: It does not have both markers once, in order.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in after:
        raise SceneCompletionError(
            "does not have the markers of the tables once each",
            where=str(README),
            cure=f"Write {BEGIN} and {END} into it",
        )
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


def write(root: Path) -> None:
    """Put the tables into the README of a checkout.

    Args:
        root: The repository's root.

    Raises:
        SceneCompletionError: There is no README, or it has no markers.
    """
    path = root / README
    if not path.is_file():
        cure = "Name the root of a checkout of this repository."
        raise SceneCompletionError(f"has no {README}", where=str(root), cure=cure)
    path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _row_of(spec: TopicSpec) -> str:
    """What the stages share, so that they have one row."""
    return "stages" if spec.name in map(stage_topic, STAGES) else spec.name


def _topic_row(spec: TopicSpec) -> str:
    name, meaning = spec.name, spec.meaning
    if _row_of(spec) == "stages":
        name, meaning = stage_topic("<stage>"), f"milliseconds that a stage took: {', '.join(STAGES)}"
    facts = [f"with `{spec.only_with}`"] if spec.only_with else []
    facts += ["latched"] if spec.latched else []
    return _row(f"`{name}`", _short(spec.type_name), spec.direction, "; ".join((meaning, *facts)))


def _short(type_name: str) -> str:
    return type_name.rpartition("/")[2]


def _first_sentence(text: str) -> str:
    return f"{text.partition('. ')[0].rstrip('.')}."


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", nargs="?", type=Path, default=Path(), help="root of the checkout")
    write(parser.parse_args().root)
