"""The options of ``scene-completion replay`` about ground truth, and what is written of the scores."""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scene_completion_ros.whole_files import write_whole

if TYPE_CHECKING:
    from scene_completion_ros.bags.reader import BagReader
    from scene_completion_ros.geometry.cameras import Camera
    from scene_completion_ros.scoring.scores import PublishedGrid, ReplayScores


def add_score_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    group = parser.add_argument_group("ground truth (the LiDAR of the recording is used by itself)")
    group.add_argument(
        "--ground-truth",
        type=Path,
        metavar="PATH",
        help="score voxels and depth against this folder: a drive of scene-completion street-world, KITTI or "
        "KITTI-360. Or score against the voxels of another bag, such as bag/ of an earlier replay. Stamps "
        "say which frames belong together",
    )
    meaning = "YAML with camera_from_lidar, 16 numbers, where the recording has no transforms between the two"
    group.add_argument("--camera-from-lidar", type=Path, metavar="FILE", help=meaning)
    group.add_argument("--ground-truth-camera", metavar="NAME", help="which camera of the folder took the images")
    meaning = "added to the stamps of the folder (default: %(default)s)"
    group.add_argument("--ground-truth-offset", type=float, default=0.0, metavar="SECONDS", help=meaning)


def open_scores(
    args: argparse.Namespace,
    reader: BagReader,
    topic: str,
    camera: Camera | None,  # calibration given instead of the recorded one
    published: PublishedGrid,  # grid of the node
    stack: ExitStack,
) -> ReplayScores:
    """Open the truths. Raises SceneCompletionError: an unusable folder, or one of which no frame belongs here."""
    from scene_completion_ros.bags.reader import CLOUD_TYPE
    from scene_completion_ros.evaluation.truth import TruthSource
    from scene_completion_ros.messages.transform_buffer import stamp_of
    from scene_completion_ros.scoring.scores import (
        LidarTruth,
        RecordedTruth,
        ReplayScores,
        SequenceTruth,
        read_camera_from_lidar,
    )
    from scene_completion_ros.sequences.from_bag import is_bag

    sources: list[TruthSource] = []
    if args.ground_truth is not None:
        offset_ns = round(args.ground_truth_offset * 1e9)
        if is_bag(args.ground_truth):
            recorded = RecordedTruth(args.ground_truth, published, offset_ns=offset_ns)
            sources.append(stack.enter_context(recorded))
        else:
            folder = SequenceTruth(args.ground_truth, camera=args.ground_truth_camera, offset_ns=offset_ns)
            first = next(iter(reader.readable([topic], lambda message: stamp_of(message.header))), None)
            if first is not None:
                recorded_first, stamp_ns = first
                start = stamp_ns or recorded_first.stamp_ns
                folder.check_times(start, start + reader.end_ns - reader.start_ns)
            sources.append(folder)
    if reader.topics_of_type(CLOUD_TYPE):
        pose = read_camera_from_lidar(args.camera_from_lidar) if args.camera_from_lidar else None
        sources.append(stack.enter_context(LidarTruth(reader.path, camera or reader.camera_for(topic), pose)))
    return ReplayScores(sources, published)


def write_scores(folder: Path, scores: ReplayScores, recording: str) -> dict[str, Any]:
    """Write `scores.json` and `scores.md` where there is something to write; what the report's page shows of them."""
    values = scores.scores.to_json()
    if values:
        write_whole(folder / "scores.json", (json.dumps(values, indent=2, allow_nan=False) + "\n").encode())
        page = f"# Scores of {recording}\n\n{scores.scores.markdown()}\n"
        write_whole(folder / "scores.md", page.encode())
    return scores.scores.headlines()
