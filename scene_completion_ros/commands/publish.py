"""Publish a student bundle on the Hugging Face hub, with a model card made of what was measured.

    scene-completion evaluate geometry --bundle student --data towns/* --output student_results
    hf auth login
    scene-completion publish student hf:owner/name --results student_results/results.json

The command compares each file of the bundle with its hash, and then uploads them all in one commit. It uploads nothing
else of the folder; the README.md of the folder becomes the last part of the card. The token is that of `hf auth login`,
or the one in HF_TOKEN; there is no argument for it. The last line of the output names the bundle with the commit, as
--bundle and the node take it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from scene_completion_ros.commands.paths import FILE
from scene_completion_ros.whole_files import write_whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion publish``."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder or name of the student")
    parser.add_argument("target", metavar="hf:owner/name[@branch]", help="where to; what is missing is made")
    parser.add_argument(
        "--results",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="results.json of `scene-completion evaluate` with this bundle; of another one they are refused",
    )
    parser.add_argument("--private", action="store_true", help="a repository that is made is a private one")
    parser.add_argument(
        "--card-only", type=FILE, metavar="FILE", help="write the model card into this file, and upload nothing"
    )


def run(args: argparse.Namespace) -> int:
    """Make the card, upload, and say what it is called there."""
    from scene_completion_ros.inference.hub import CARD, HubName, publish
    from scene_completion_ros.inference.shipped import open_student
    from scene_completion_ros.report.model_card import Results, model_card

    target = HubName.parse(args.target)
    bundle = open_student(args.bundle)
    beside = bundle.encoder_path.parent / CARD
    notes = beside.read_text(encoding="utf-8") if beside.is_file() else ""
    results = [Results.read(file, bundle) for file in args.results]
    card = model_card(bundle, results, named=str(target), notes=notes)
    if args.card_only:
        write_whole(args.card_only, card.encode())
        print(args.card_only)
        return 0
    print(publish(bundle, target, card, private=args.private))
    return 0
