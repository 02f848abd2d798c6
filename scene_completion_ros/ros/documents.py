"""What is written from the table of topics and from the schema of the parameters.

`python -m scene_completion_ros.ros.documents`, in the repository's root, writes `docs/parameters.md`,
`config/scene_completion.yaml` and the tables of `docs/topics.md`.
"""

import argparse
import json
import textwrap
from pathlib import Path

from scene_completion_ros.ros.parameters import SCHEMA, ParameterSpec
from scene_completion_ros.ros.topics import SERVICES, TOPICS, TopicSpec

COMMAND = "python -m scene_completion_ros.ros.documents"
DOCUMENTATION = Path("docs/parameters.md")
PARAMETER_FILE = Path("config/scene_completion.yaml")
NODE_PAGE = Path("docs/topics.md")
BEGIN = f"<!-- Made by {COMMAND}: begin -->"
END = f"<!-- Made by {COMMAND}: end -->"
WIDTH = 120
INDENT = "    "

INTRODUCTION = f"""\
<!-- Made by: {COMMAND} -->

# Parameters of the node

[config/scene_completion.yaml](../config/scene_completion.yaml) holds them all, at their defaults. A dot separates a
group from the name: `image.qos` is `qos` under `image` in the file, and `-p image.qos:=reliable` on a command line.
The node does not start with a value that is not allowed. If it does not know a name, it warns in its log and names the
nearest one that it knows.

You may also change a **live** parameter while the node runs (`ros2 param set /scene_completion image.rectified true`).
It holds for images that arrive from then on. The node builds its model anew if it must, as for a new calibration. It
refuses a value that it cannot use, such as `image.rectified` if the CameraInfo has no projection matrix, gives the
reason, and changes nothing. A **read-only** parameter needs a new start of the node.

"""


def documentation() -> str:
    """All parameters as a page in Markdown."""
    lines = ["| parameter | type | default | allowed | change | meaning |", "|---|---|---|---|---|---|"]
    for spec in SCHEMA:
        default = "empty" if spec.default == "" else f"`{json.dumps(spec.default)}`".replace('"', "")
        allowed = ", ".join(f"`{choice}`" for choice in spec.choices) or spec.allowed
        cells = (f"`{spec.name}`", spec.type_name, default, allowed, _change(spec), spec.meaning)
        lines.append(f"| {' | '.join(cells)} |")
    return INTRODUCTION + "\n".join(lines) + "\n"


def parameter_file() -> str:
    """All parameters at their defaults as a commented parameter file of ROS 2."""
    lines = ["# Parameters of scene_completion_node, all at their defaults; see also docs/parameters.md."]
    lines += [f"# Made by: {COMMAND}", "/**:", "  ros__parameters:"]
    open_group = ""
    for spec in SCHEMA:
        group, _, name = spec.name.rpartition(".")
        if group and group != open_group:
            lines.append(f"{INDENT}{group}:")
        open_group, indent = group, INDENT + ("  " if group else "")
        facts = f"{spec.type_name}, {spec.allowed}; {_change(spec)}"
        comments = textwrap.wrap(spec.meaning, WIDTH - len(indent) - 2, break_long_words=False)
        lines += [f"{indent}# {comment}" for comment in (*comments, facts)]
        lines.append(f"{indent}{name}: {json.dumps(spec.default)}")  # JSON is YAML with everything quoted
    return "\n".join(lines) + "\n"


def tables() -> str:
    """Topics of the node, in Markdown."""
    topics = ["| topic | type | | |", "|---|---|---|---|"]
    topics += [_topic_row(spec) for spec in TOPICS if spec.meaning]
    common = [*(spec.name for spec in TOPICS if not spec.meaning), *SERVICES]
    managed = ", ".join(f"`{name}`" for name in common)
    has = "The node also has what every managed node of ROS 2 has:"
    return "\n".join((*topics, "", has, "", managed))


def with_tables(page: str) -> str:
    """The node's page with the tables of now, between its two markers."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{rest.partition(END)[2]}"


def write(root: Path) -> None:
    """Write all into a checkout."""
    for path, text in (
        (NODE_PAGE, with_tables((root / NODE_PAGE).read_text(encoding="utf-8"))),
        (DOCUMENTATION, documentation()),
        (PARAMETER_FILE, parameter_file()),
    ):
        (root / path).write_text(text, encoding="utf-8")


def _change(spec: ParameterSpec) -> str:
    return "live" if spec.live else "read-only"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _topic_row(spec: TopicSpec) -> str:
    facts = [f"with `{spec.only_with}`"] if spec.only_with else []
    facts += ["latched"] if spec.latched else []
    return _row(f"`{spec.name}`", _short(spec.type_name), spec.direction, "; ".join((spec.meaning, *facts)))


def _short(type_name: str) -> str:
    package, _, kind = type_name.split("/")
    return f"{package}/{kind}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", nargs="?", type=Path, default=Path(), help="root of the checkout")
    write(parser.parse_args().root)
