"""Make the tables of the shipped students again: `python docs/make_results.py docs/results.yaml --output results`.

The list is YAML: `document`, a Markdown file next to it, and `runs`, name -> what stands behind `scene-completion
evaluate`. The section between the marks `<!-- begin: NAME -->` and `<!-- end: NAME -->` is replaced, or added, as
are the results in DIR.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from scene_completion_ros.commands.arguments import add_overwrite
from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.untrusted_files import read_yaml
from scene_completion_training.commands import evaluate


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate one after the other, and write each section as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, metavar="FILE", help="the list of evaluations")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="make these sections alone")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="takes a folder of results for each")
    args = parser.parse_args(argv)
    document, runs = read_runs(args.runs)
    for name in args.only or runs:
        evaluate.run(parsed(name, f"{runs[name]} --output {shlex.quote(str(args.output / name))} --overwrite"))
        text = (args.output / name / "results.md").read_text(encoding="utf-8")
        write_section(document, name, f"Made by `scene-completion evaluate {runs[name]}`.\n\n{text}")
    return 0


def parsed(name: str, options: str) -> argparse.Namespace:
    """The arguments of a run."""
    parser = argparse.ArgumentParser(prog=f"scene-completion evaluate, run {name}")
    evaluate.add_arguments(parser)
    add_overwrite(parser)
    return parser.parse_args(shlex.split(options))


def read_runs(file: Path) -> tuple[Path, dict[str, str]]:
    """The document, and the arguments of each of its sections by name; a `ConfigurationError` if there are none."""
    cure = "Write `document: FILE` and `runs`, name: arguments"
    content = read_yaml(file, ConfigurationError, cure=cure)
    runs = content.get("runs") if isinstance(content, dict) and "document" in content else None
    if not isinstance(runs, dict) or not all(isinstance(one, str) for one in runs.values()):
        raise ConfigurationError("is no list of evaluations", where=str(file), cure=cure)
    return file.parent / str(content["document"]), {str(name): str(value) for name, value in runs.items()}


def write_section(path: Path, name: str, text: str) -> None:
    """Replace the marked section of a Markdown file, or add it at the end."""
    first, last = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    section = f"{first}\n{text.rstrip()}\n{last}"
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    before, begin, rest = old.partition(first)
    _, end, after = rest.partition(last)
    new = f"{before}{section}{after}" if begin and end else f"{old.rstrip()}\n\n{section}\n".lstrip()
    path.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
