"""`evaluate views`: novel views against the pictures of their cameras, or features from view to view."""

import argparse

from scene_completion_ros.errors import ConfigurationError, SequenceError
from scene_completion_training.commands import arguments

STRIDE = "3"  # frames between two that are compared (SceneDINO)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion evaluate views``."""
    meaning = "recordings of any kind with poses, such as frames/test/* of RealEstate10K or drives of KITTI raw"
    arguments.add_paths(parser, "--data", "FOLDER", meaning, required=True)
    arguments.add_checkpoints(parser, required=True)
    arguments.add_frames(parser)
    arguments.add_number(parser, "--every", 1, "every N-th frame without --frames")
    meaning = "other views of a frame: stereo, the other camera of the pair; or so many frames later, as 5, or before, "
    meaning += f"as -5 (default: stereo, with --consistency {STRIDE})"
    parser.add_argument("--targets", nargs="+", default=[], metavar="VIEW", help=meaning)
    arguments.add_number(parser, "--samples", 64, "samples along a ray", least=2)
    meaning = "weights of AlexNet and of LPIPS, in one file or two; without them LPIPS is left out"
    arguments.add_paths(parser, "--lpips", "FILE", meaning)
    meaning = "instead compare features of frames with those of --targets, where optical flow finds the same pixels; "
    meaning += "checkpoints of feature_field or semantics"
    parser.add_argument("--consistency", action="store_true", help=meaning)
    meaning = "with --consistency also the tokens of this foundation model (and hidden layer), a name or a local "
    meaning += "folder, in the images of the first checkpoint, bilinear between tokens, less the mean that it learned "
    meaning += "them without"
    arguments.add_foundation(parser, meaning)
    arguments.add_number(parser, "--cell", 16, "pixels along a side of these tokens (8 for DINO in SceneDINO)")


def run(args: argparse.Namespace) -> int:
    """Open, render, score, print and write."""
    from scene_completion_ros.evaluation.metric import Scores
    from scene_completion_ros.progress import watched
    from scene_completion_ros.sequences.posed_sequence import check_rig
    from scene_completion_training.evaluation.geometry import listed_frames
    from scene_completion_training.evaluation.novel_views import CONSISTENCY, STEREO, VIEWS, check_targets, novel_views

    targets = args.targets or [STRIDE if args.consistency else STEREO]
    check_targets(targets)
    if args.consistency and STEREO in targets:
        cure = "Name frames later, such as 3"
        raise ConfigurationError("compares frames of one camera", where="--consistency", cure=cure)
    if args.foundation and not args.consistency:
        raise ConfigurationError("tokens render no views", where="--foundation", cure="Give --consistency, too")
    recordings, split, found = arguments.open_listed(args)
    for sequence in recordings:
        check_rig(sequence, sequence.name)
    scores = Scores([CONSISTENCY if args.consistency else VIEWS])
    methods, counted = _methods(args), 0
    for sequence in watched(recordings, "recording"):
        indices = range(0, len(sequence), args.every) if split is None else listed_frames(sequence, split)
        counted += scores.run("recordings", methods, novel_views(sequence, indices, targets))
    names = [sequence.name for sequence in recordings]
    if not counted:
        what = "no frame has such another view"
        raise SequenceError(what, where=", ".join(names), cure="Choose other --targets or frames")
    arguments.write_results(args, scores, names, counted=found)
    return 0


def _methods(args: argparse.Namespace) -> list[object]:
    from scene_completion_training.evaluation.checkpoints import open_checkpoint
    from scene_completion_training.evaluation.novel_views import (
        PerceptualDistance,
        TokenConsistency,
        ViewConsistency,
        ViewSynthesis,
    )
    from scene_completion_training.evaluation.semantic_evaluation import FeatureFieldModel
    from scene_completion_training.foundation.backbone import Backbone

    if not args.consistency:
        models = [model for file in args.checkpoint for model in open_checkpoint(file, args.views)]
        distance = PerceptualDistance.open(args.lpips) if args.lpips else None
        return [ViewSynthesis(model, args.samples, distance) for model in models]
    fields = [FeatureFieldModel.open(file) for file in args.checkpoint]
    methods: list[object] = [ViewConsistency(field, args.samples) for field in fields]
    if args.foundation:
        methods.append(TokenConsistency(fields[0], Backbone(*arguments.foundation(args)), args.cell))
    return methods
