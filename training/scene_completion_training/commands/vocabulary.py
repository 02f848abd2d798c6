"""Make a text bank: phrases with their embeddings, by which a robot names voxels without a text encoder.

The text encoder must be the one that the student's feature space belongs to: a sentence-transformer of the BERT family,
CLIP or SigLIP. Name it as local folder, name on the model hub, or package:NAME/FOLDER of an installed package.

The file is YAML: a list of phrases, or

  template: a photo of a {} on the street
  classes:
    car: {phrases: [car, van], colour: [70, 110, 230]}
    tree: {}
  background: [sky]
  phrases: [parking lot, zebra crossing]

A class without phrases is its own phrase. The phrases under `phrases` are known to the bank beside those of classes:
queries and other vocabularies may use them. No template is put around the phrase "other".
"""

from __future__ import annotations

import argparse
from pathlib import Path

from scene_completion_ros.commands.paths import FILE, place

EXTRA = "text"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion vocabulary``."""
    parser.add_argument("phrases", nargs="*", metavar="PHRASE", help="phrases that the bank should know")
    parser.add_argument("--file", type=Path, metavar="YAML", help="phrases, classes and background")
    parser.add_argument("--encoder", type=place, required=True, metavar="MODEL", help="text encoder")
    parser.add_argument(
        "--template",
        help='sentence that phrases stand in (default: that of the file, or "a photo of a {} on the street")',
    )
    parser.add_argument("--licence", help="licence of the text encoder, to be kept in the bank")
    parser.add_argument("--output", type=FILE, required=True, metavar="FILE", help="text bank, bank.safetensors")
    parser.add_argument("--device", default="cpu", help="where the text encoder runs (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Encode the phrases, write the bank and say what is in it."""
    from dataclasses import replace

    from scene_completion_training.foundation.phrases import PhraseList, make_bank, read_phrases
    from scene_completion_training.foundation.text_encoder import TextEncoder

    given = read_phrases(args.file) if args.file else PhraseList()
    changes = {name: getattr(args, name) for name in ("template", "licence") if getattr(args, name) is not None}
    given = replace(given, phrases=(*given.phrases, *args.phrases), **changes)
    bank = make_bank(TextEncoder(args.encoder, args.device), given)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    bank.save(args.output)
    print(
        f"{args.output}: {len(bank.phrases)} phrases, {len(bank.classes)} classes, {len(bank.background)} of the "
        f"background; {bank.dimension} channels of {bank.text_encoder}; sha256 {bank.sha256}"
    )
    return 0
