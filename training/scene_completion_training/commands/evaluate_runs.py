"""`evaluate runs`: the tables of a document, made again from a list of evaluations."""

from __future__ import annotations

import argparse
from pathlib import Path

from scene_completion_ros.commands.paths import Output
from scene_completion_ros.errors import ConfigurationError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion evaluate runs``."""
    parser.add_argument(
        "runs",
        type=Path,
        metavar="FILE",
        help="YAML: `document`, a Markdown file beside it, and `runs`, name -> what stands behind `scene-completion "
        "evaluate`. The section between the marks `<!-- begin: NAME -->` and `<!-- end: NAME -->` is replaced",
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="make these sections alone")
    found = Output(("*/results.json", "*/results.md"))
    parser.add_argument("--output", type=found, required=True, metavar="DIR", help="takes a folder of results for each")


def run(args: argparse.Namespace) -> int:
    """Evaluate one after the other, and write each section as soon as it is there."""
    import shlex

    from scene_completion_training.commands import evaluate

    document, runs = read_runs(args.runs)
    if unknown := set(args.only or ()) - runs.keys():
        raise ConfigurationError(f"no run {', '.join(sorted(unknown))}", where="--only", cure=f"Take {', '.join(runs)}")
    for name in args.only or runs:
        parser = argparse.ArgumentParser(prog=f"scene-completion evaluate, run {name}")
        evaluate.add_arguments(parser)
        asked = parser.parse_args([*shlex.split(runs[name]), "--output", str(args.output / name)])
        evaluate.run(asked)
        text = (args.output / name / "results.md").read_text(encoding="utf-8")
        write_section(document, name, f"Made by `scene-completion evaluate {runs[name]}`.\n\n{text}")
    return 0


def read_runs(file: Path) -> tuple[Path, dict[str, str]]:
    """The document, and the arguments of each of its sections by name.

    Raises:
        ConfigurationError: The file cannot be read, or holds something else.
    """
    from scene_completion_ros.untrusted_files import read_yaml

    content = read_yaml(file, ConfigurationError, cure="Write `document: FILE` and `runs`, name: arguments")
    runs = content.get("runs") if isinstance(content, dict) else None
    if (
        not isinstance(runs, dict)
        or "document" not in content
        or not all(isinstance(one, str) for one in runs.values())
    ):
        raise ConfigurationError(
            "is no list of evaluations", where=str(file), cure="Write `document: FILE` and `runs`, name: arguments"
        )
    return file.parent / str(content["document"]), {str(name): str(value) for name, value in runs.items()}


def write_section(path: Path, name: str, text: str) -> None:
    """Replace the marked section of a Markdown file, or add it at the end."""
    first, last = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    section = f"{first}\n{text.rstrip()}\n{last}"
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    before, begin, rest = old.partition(first)
    _, end, after = rest.partition(last)
    if begin and end:
        new = f"{before}{section}{after}"
    else:
        new = f"{old.rstrip()}\n\n{section}\n" if old.strip() else f"{section}\n"
    path.write_text(new, encoding="utf-8")
