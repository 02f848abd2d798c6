"""`evaluate fusion`: single images and the fused map on drives with exact voxels, ghosts of what moved included."""

import argparse

from scene_completion_ros.errors import SequenceError
from scene_completion_training.commands import arguments

FIRST = 4  # frames of a drive before the map's occupancy is scored: memory needs some


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion evaluate fusion``."""
    meaning = "towns with their voxels, best of world street-busy"
    arguments.add_paths(parser, "--data", "FOLDER", meaning, required=True)
    meaning = "student bundles (default: the truth of each image alone, which shows what the map itself adds)"
    arguments.add_paths(parser, "--bundle", "BUNDLE", meaning)
    meaning = "score occupancy and calibration of every N-th frame; ghosts are scored of all"
    arguments.add_number(parser, "--every", 5, meaning)
    arguments.add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Drive, score, print and write."""
    from scene_completion_ros.evaluation.metric import Scores
    from scene_completion_ros.evaluation.obstacles import OBSTACLES
    from scene_completion_ros.evaluation.occupancy import CALIBRATION, OCCUPANCY
    from scene_completion_training.evaluation.fusion import GHOSTS, FusedMap, OneImage, Oracle
    from scene_completion_training.evaluation.geometry import voxel_frames

    recordings = arguments.open_recordings(args.data)
    scores, counted = Scores([OCCUPANCY, OBSTACLES, CALIBRATION, GHOSTS]), 0
    for source in (*arguments.open_students(args), Oracle()):
        methods = OneImage(source), FusedMap(source)
        for sequence in recordings:
            for number, frame in enumerate(voxel_frames([sequence])):
                timely = number >= FIRST and (number - FIRST) % args.every == 0
                metrics = scores.metrics if timely else [GHOSTS]
                for method in methods:
                    scores.add(source.name, method, method.answer(frame), metrics=metrics)
                counted += 1
    names = [sequence.name for sequence in recordings]
    if not counted:
        cure = "Render towns with world street-busy"
        raise SequenceError("no frame has ground truth voxels", where=", ".join(names), cure=cure)
    arguments.write_results(args, scores, names)
    return 0
