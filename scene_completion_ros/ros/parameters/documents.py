"""What is written from the schema of the parameters: `docs/parameters.md` and `config/scene_completion.yaml`.

`python -m scene_completion_ros.ros.parameters.documents`, in the repository's root, writes both.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterable
from pathlib import Path

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.ros.parameters.schema import SCHEMA, ParameterSpec

COMMAND = "python -m scene_completion_ros.ros.parameters.documents"
DOCUMENTATION = Path("docs/parameters.md")
PARAMETER_FILE = Path("config/scene_completion.yaml")
WIDTH = 120
INDENT = "    "

INTRODUCTION = f"""\
<!-- Made by: {COMMAND} -->

# Parameters of the node

[config/scene_completion.yaml](../config/scene_completion.yaml) holds them all, at their defaults. A value that is not
allowed keeps the node from starting. A name that the node does not know is warned about in its log, with the nearest
one that it knows.

A **live** parameter may also be changed while the node runs (`ros2 param set /scene_completion rectified true`). Images
that arrive from then on are completed with it, those that had arrived before as they would have been. The model is
built anew for that, as for a new calibration, and images meanwhile replace each other. What cannot be used is refused
with the reason, and nothing changes: `rectified`, for instance, where the CameraInfo has no projection matrix. A
**read-only** parameter needs a new start of the node.

"""


def documentation(schema: Iterable[ParameterSpec] = SCHEMA) -> str:
    """All parameters as a page in Markdown."""
    lines = ["| parameter | type | default | allowed | change | meaning |", "|---|---|---|---|---|---|"]
    for spec in schema:
        default = "empty" if spec.default == "" else f"`{json.dumps(spec.default)}`".replace('"', "")
        allowed = ", ".join(f"`{choice}`" for choice in spec.choices) or spec.allowed
        cells = (f"`{spec.name}`", spec.type_name, default, allowed, _change(spec), spec.meaning)
        lines.append(f"| {' | '.join(cells)} |")
    return INTRODUCTION + "\n".join(lines) + "\n"


def parameter_file(schema: Iterable[ParameterSpec] = SCHEMA) -> str:
    """All parameters at their defaults as a commented parameter file of ROS 2."""
    lines = ["# Parameters of scene_completion_node, all at their defaults; see also docs/parameters.md."]
    lines += [f"# Made by: {COMMAND}", "/**:", "  ros__parameters:"]
    for spec in schema:
        facts = f"{spec.type_name}, {spec.allowed}; {_change(spec)}"
        comments = textwrap.wrap(spec.meaning, WIDTH - len(INDENT) - 2, break_long_words=False)
        lines += [f"{INDENT}# {comment}" for comment in (*comments, facts)]
        lines.append(f"{INDENT}{spec.name}: {json.dumps(spec.default)}")  # JSON is YAML with everything quoted
    return "\n".join(lines) + "\n"


def write(root: Path) -> None:
    """Write both files into a checkout.

    Args:
        root: The repository's root.

    Raises:
        SceneCompletionError: There are no such folders.
    """
    for path, text in ((DOCUMENTATION, documentation()), (PARAMETER_FILE, parameter_file())):
        if not (root / path).parent.is_dir():
            raise SceneCompletionError(
                f"has no folder {path.parent}", where=str(root), cure="Name the root of a checkout of this repository."
            )
        (root / path).write_text(text, encoding="utf-8")


def _change(spec: ParameterSpec) -> str:
    return "live" if spec.live else "read-only"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", nargs="?", type=Path, default=Path(), help="root of the checkout")
    write(parser.parse_args().root)
