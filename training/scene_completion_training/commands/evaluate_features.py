"""`evaluate features`: whether features look the same from two views, beside the tokens they were learned from."""

from __future__ import annotations

import argparse

from scene_completion_ros.commands.paths import RESULTS, place
from scene_completion_ros.errors import ConfigurationError, SequenceError
from scene_completion_training.commands.arguments import (
    add_paths,
    add_windows,
    check_recordings,
    window_folders,
    write_results,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion evaluate features``."""
    add_paths(parser, "--checkpoint", "FILE", "checkpoints of feature_field", required=True)
    parser.add_argument(
        "--foundation",
        type=place,
        required=True,
        metavar="MODEL",
        help="foundation model whose tokens they have learned from",
    )
    parser.add_argument("--layer", type=int, default=-1, help="its hidden layer (default: %(default)s)")
    parser.add_argument(
        "--cell", type=int, default=16, metavar="PIXELS", help="edge that a token covers (default: %(default)s)"
    )
    add_paths(parser, "--data", "FOLDER", "recordings with a stereo pair, or with exact depth")
    add_windows(parser)
    parser.add_argument(
        "--step", type=int, default=3, metavar="N", help="frames to the later view of a pair (default: %(default)s)"
    )
    parser.add_argument("--every", type=int, default=5, metavar="N", help="pairs of every N-th frame (default: 5)")
    parser.add_argument(
        "--stride", type=int, default=4, metavar="PIXELS", help="compare every so many-th pixel (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the unrelated pixels (default: %(default)s)")
    parser.add_argument("--output", type=RESULTS, required=True, metavar="DIR", help="takes results.json and .md")


def run(args: argparse.Namespace) -> int:
    """Render, compare, print and write."""
    from scene_completion_ros.evaluation.feature_consistency import FEATURES
    from scene_completion_ros.evaluation.metric import Scores
    from scene_completion_ros.sequences.opening import open_recording
    from scene_completion_training.evaluation.feature_evaluation import (
        Compared,
        FeatureImages,
        FieldFeatures,
        compared_camera,
        token_rows,
        view_pairs,
    )
    from scene_completion_training.foundation.backbone import Backbone

    check_recordings(args, "features")
    if args.step < 1 or args.every < 1:
        raise ConfigurationError(
            f"{args.step} and {args.every} frames", where="--step, --every", cure="Give positive numbers"
        )
    fields = [FieldFeatures.open(file, args.stride) for file in args.checkpoint]
    full = fields[0].field.camera
    if any(field.field.camera != full for field in fields):
        raise ConfigurationError(
            "trained with different canonical cameras", where="--checkpoint", cure="Compare them one after the other"
        )
    camera = compared_camera(full, args.stride)
    backbone = Backbone(args.foundation, args.layer)
    methods: list[FeatureImages] = [*fields, *token_rows(fields, backbone, args.cell, full, camera)]
    if len({method.name for method in methods}) < len(methods):
        raise ConfigurationError(
            f"equal names {[method.name for method in methods]}", where="--checkpoint", cure="Rename a run's folder"
        )
    scores, names = Scores([FEATURES]), []
    for group, folders in {"recordings": args.data, "windows": window_folders(args)}.items():
        recordings = [open_recording(folder) for folder in folders]
        names += [sequence.name for sequence in recordings]
        pairs = view_pairs(recordings, camera, step=args.step, every=args.every, seed=args.seed)
        if recordings and not scores.run(group, [Compared(images, args.step) for images in methods], pairs):
            raise SequenceError(
                f"no two views {args.step} frames apart, or of a stereo pair, have a pixel in common",
                where=", ".join(sequence.name for sequence in recordings),
                cure="Take a smaller --step, or recordings that are longer",
            )
    write_results(args, scores, names)
    return 0
