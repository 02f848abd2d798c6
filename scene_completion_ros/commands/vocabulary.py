"""Encode words: into a text bank, or for a running node, which needs no text encoder and no torch.

The text encoder must be the one that the student's feature space belongs to: a sentence-transformer of the BERT family,
or CLIP. Name it as local folder, or by its name on the model hub.

With --output, phrases and their embeddings become a bank. The file is YAML: a list of phrases, or

  template: a photo of a {} on the street   # the default
  licence: Apache-2.0                       # of the text encoder
  classes:
    car: {phrases: [car, van], colour: [70, 110, 230]}
    tree: {}
  background: [sky]
  phrases: [parking lot, zebra crossing]

A class without phrases is its own phrase. Queries and other vocabularies may use the further phrases under `phrases`.
No template is put around the phrase "other".

Without --output, the process takes phrases from the topics text_query and text_vocabulary (std_msgs/String: with commas
between them, or JSON as the node takes it, without embeddings). It publishes them with their embeddings on
scene_completion/query and scene_completion/vocabulary. All four can be remapped: whatever follows --ros-args is for
ROS. Give the bank that the node uses with --bank: its template and its background hold for free text as well.
"""

import argparse
from importlib import import_module
from pathlib import Path

from scene_completion_ros.commands.arguments import FILE, place
from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.progress import print_lines

EXTRA = "text"
ENCODERS = "scene_completion_training.foundation.encoded_words"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion vocabulary``."""
    parser.add_argument("phrases", nargs="*", metavar="PHRASE", help="phrases that the bank should know")
    parser.add_argument("--file", type=Path, metavar="YAML", help="phrases, classes and background of the bank")
    parser.add_argument("--encoder", type=place, required=True, metavar="MODEL", help="text encoder")
    parser.add_argument("--output", type=FILE, metavar="FILE", help="text bank, bank.safetensors")
    parser.add_argument("--bank", type=Path, metavar="FILE", help="text bank of the node, made by the same encoder")
    parser.add_argument("--ros-args", nargs=argparse.REMAINDER, default=[], help="arguments of ROS, to the end")


def run(args: argparse.Namespace) -> int:
    """Make a bank; or load the encoder, and answer until SIGINT or SIGTERM."""
    of_banks, of_nodes = (args.phrases or args.file), (args.bank or args.ros_args)
    if of_nodes if args.output else of_banks:
        cure = "Give phrases and --file with --output, or --bank and --ros-args without it"
        raise ConfigurationError("a bank is made, or a node is answered", where="--output", cure=cure)
    encoders = import_module(ENCODERS)  # it needs torch
    if args.output is None:
        from scene_completion_ros.inference.text_bank import TextBank

        bank = TextBank.load(args.bank) if args.bank else None
        answers = encoders.EncodedAnswers(encoders.TextEncoder(args.encoder), bank)
        from scene_completion_ros.ros.text_encoder_node import serve

        return serve(answers.query, answers.vocabulary, ["--ros-args", *args.ros_args] if args.ros_args else [])
    bank = encoders.make_bank_of(args.encoder, args.phrases, args.file)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with FILE.writing(args.output, args) as file:
        bank.save(file)
    print_lines(
        f"{args.output}: {len(bank.phrases)} phrases, {len(bank.classes)} classes, {len(bank.background)} of the "
        f"background; {bank.dimension} channels of {bank.text_encoder}; sha256 {bank.sha256}"
    )
    return 0
