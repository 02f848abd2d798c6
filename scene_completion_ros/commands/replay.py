"""Replay a recording: completed voxels as a new recording, and a report to look at.

The images go through the running node over DDS, or with --offline through the same code without ROS. DIR gets
  bag/                the voxels and the legend of their labels (and, through the node, the depth) as rosbag2
  report/index.html   camera image, depth, and voxels as the camera sees them and in 3D, of every frame; opens offline
  statistics.json     frames, rate, latencies, memory
  scores.json, .md    where there is ground truth: IoU, precision, recall and average precision by range; depth errors
LiDAR of the recording is drawn into the 3D view, and depth is compared with it. What was written stays when the
replay is interrupted. Through the node, a replay is in lock step unless --rate is given. Then the node drops no image
because the machine is slow, and two replays write the same recording.

Without BAG it is the bundled drive through a rendered town. A student that has a text bank is then asked for words,
which can be clicked in the report.

The exit code is 1 if no frame came out; of the bundled drive also if fewer than 80 % came out, or one came out empty.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scene_completion_ros.commands.arguments import (
    DEMO_WORDS,
    Output,
    add_scale_argument,
    add_student_arguments,
    add_words_argument,
    ask_words,
    chosen_words,
    place,
)
from scene_completion_ros.whole_files import write_whole

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from scene_completion_ros.bags.reader import BagReader, ImageFrame
    from scene_completion_ros.commands.offline_replay import OfflineStatistics
    from scene_completion_ros.geometry.cameras import Camera
    from scene_completion_ros.geometry.grids import VoxelGrid
    from scene_completion_ros.geometry.transforms import RigidTransform
    from scene_completion_ros.inference.bundle import StudentBundle
    from scene_completion_ros.inference.completer import Completion
    from scene_completion_ros.inference.evidence import Sources
    from scene_completion_ros.progress import Progress
    from scene_completion_ros.report.writer import ReportWriter
    from scene_completion_ros.ros.replay.results import Playback, ReplayResult, ReplayStatistics
    from scene_completion_ros.scoring import LidarOfBag, PublishedGrid, ReplayScores
    from scene_completion_ros.sequences.from_bag import RecordedMotion
    from scene_completion_ros.voxels.semantic_voxels import PhraseMatches, SemanticVoxels

_NODE_STAGES = ("decode", "resample", "encode", "query", "march", "assemble", "label", "fuse", "publish")
_ONLY_THROUGH_THE_NODE = ("rate", "timeout", "also", "params_file")
LOWEST_SHARE_OUT = 0.8  # of the frames of the bundled drive
# Parameters that a replay decides about itself.
_OWN = ("bundle", "grid.file", "engine", "autostart", "image.transport", "image.qos", "grid.frame", "cameras")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion replay``."""
    meaning = "rosbag2 folder, .mcap, .db3, or ROS 1 .bag (default: the bundled drive)"
    parser.add_argument("bag", type=Path, nargs="?", metavar="BAG", help=meaning)
    parser.add_argument("--offline", action="store_true", help="without ROS, in this process")
    parser.add_argument("--image-topic", metavar="TOPIC", help="which images, where the recording has several topics")
    parser.add_argument("--camera-info-topic", metavar="TOPIC", help="which CameraInfo (default: by the image's name)")
    meaning = "calibration instead of the recorded CameraInfo: a file as of complete --camera"
    parser.add_argument("--camera", type=place, metavar="FILE", help=meaning)
    results = Output(("bag", "report", "statistics.json", "scores.json", "scores.md"))
    parser.add_argument("--output", type=results, default=Path("replay"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="use every N-th image (default: %(default)s)")
    add_student_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print statistics.json instead of a summary")
    meaning = "voxels wanted, as in the node's parameter grid.file (default: the grid of the bundle)"
    parser.add_argument("--grid", type=Path, metavar="FILE", help=meaning)
    add_scale_argument(parser, "the odometry or the tf of the recording", None, "corners, or what --params-file says")
    add_words_argument(parser, "can be clicked in the report", "none; of the bundled drive " + ", ".join(DEMO_WORDS))
    add_playback_arguments(parser)
    add_score_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Replay the recording, and say in the exit code whether it went well."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is imported, as in the node
    from scene_completion_ros.progress import Progress, print_summary

    progress = Progress()
    progress.line(f"Opening {args.bag or 'the bundled drive'} ...")
    from scene_completion_ros.bags.reader import DEMO_DRIVE, BagReader
    from scene_completion_ros.errors import BagError, SceneCompletionError
    from scene_completion_ros.geometry.camera_files import RECTIFIED_TOPIC, read_camera
    from scene_completion_ros.geometry.grids import read_grid
    from scene_completion_ros.inference.bundle import open_student
    from scene_completion_ros.inference.evidence import Sources
    from scene_completion_ros.report.writer import ReportWriter
    from scene_completion_ros.ros.parameters import read_parameters
    from scene_completion_ros.ros.replay.results import ANSWER_TIMEOUT_S, Playback, ReplayStatistics
    from scene_completion_ros.scoring import LidarOfBag, PublishedGrid

    if args.every < 1:
        raise SceneCompletionError(f"{args.every} is not positive", where="--every", cure="1 takes every image")
    for name in _ONLY_THROUGH_THE_NODE:
        if args.offline and getattr(args, name) is not None:
            option = f"--{name.replace('_', '-')}"
            what = "an offline replay has no node to play to: it completes every image in this process"
            raise SceneCompletionError(what, where=option, cure=f"Leave out {option} or --offline")
    timeout_s = ANSWER_TIMEOUT_S if args.timeout is None else args.timeout
    playback = Playback(rate=args.rate, timeout_s=timeout_s, also=tuple(args.also or ()))
    parameters = read_parameters(args.params_file, without=_OWN) if args.params_file else {}
    sources = Sources(str(args.scale_from or parameters.get("scale.from", "corners")))
    bundled = args.bag is None
    args.bag = args.bag or DEMO_DRIVE
    if (args.output / "bag").exists():  # before an older report beside it is replaced
        raise BagError("exists already", where=str(args.output / "bag"), cure="Name a new folder with --output")
    with ExitStack() as stack:
        stack.enter_context(termination_as_interruption())
        reader = stack.enter_context(BagReader(args.bag, args.every, camera_info_topic=args.camera_info_topic))
        topic = reader.choose_image_topic(args.image_topic)
        camera = read_camera(args.camera, rectified=RECTIFIED_TOPIC in topic) if args.camera else None
        bundle = open_student(args.bundle)
        words = chosen_words(args.words, bundle, DEMO_WORDS if bundled else ())
        place = read_grid(args.grid) if args.grid else (bundle.grid, bundle.grid_from_camera)
        scores = open_scores(args, reader, topic, camera, PublishedGrid(*place), stack)
        title = f"Completed voxels of {args.bag.resolve().name}"
        classes = (bundle.class_names, bundle.class_colours)
        lidar = stack.enter_context(LidarOfBag(args.bag, topic))
        report = stack.enter_context(ReportWriter(args.output / "report", title, *classes, words=words))
        stack.enter_context(progress)
        progress.total = -(-reader.counts[topic] // args.every)
        for loss in reader.losses:
            progress.line(f"warning: {args.bag}: {loss}")
            report.notes.append(f"The recording is damaged: {loss}")
        motion, why = _motion(reader, topic, bundle, sources, parameters)
        if why and (bundle.takes_evidence or args.scale_from):
            report.notes.append(f"No scale by motion: {why}")
            progress.line(f"note: no scale by motion: {why}")
        setup = _Setup(
            args,
            reader,
            topic,
            camera,
            bundle,
            place,
            report,
            lidar,
            scores,
            words,
            sources,
            motion,
            parameters,
            progress,
        )
        counts: OfflineStatistics | ReplayStatistics
        try:
            if args.offline:
                from scene_completion_ros.commands.offline_replay import OfflineStatistics

                counts = OfflineStatistics(topic)
                _replay_offline(setup, counts)
            else:
                counts = ReplayStatistics(topic)
                _replay_over_dds(setup, playback, counts)
        except BaseException:
            if counts.frames_in:
                write_scores(args.output, scores, args.bag.resolve().name)
                _write_statistics(args.output, counts, {"interrupted": True}, reader)
            raise
        shown = write_scores(args.output, scores, args.bag.resolve().name)
        statistics = _write_statistics(args.output, counts, {"scores": shown} if shown else {}, reader)
        for doubt in dict.fromkeys([*reader.warnings, *lidar.warnings]):
            progress.line(f"warning: {args.bag}: {doubt}")
            report.notes.append(f"The transforms of the recording are doubtful: {doubt}")
        page = report.close(statistics, _headlines(statistics))
    if args.json:
        print(json.dumps(statistics))
    else:
        files = {"report": page, "bag": args.output / "bag", "scores": args.output / "scores.md" if shown else None}
        print_summary(_headlines(statistics) | files)
    return 0 if went_well(statistics, bundled=bundled) else 1


def _headlines(statistics: Mapping[str, Any]) -> dict[str, str]:
    """The figures that people look for first."""
    came, lost = statistics["frames_out"], [f"{count} {reason}" for reason, count in statistics["dropped"].items()]
    rows = {"frames": ", ".join([f"{came} of {statistics['frames_in']}", *lost])}
    times = statistics["latency_ms"].get("end_to_end") or statistics["latency_ms"].get("total")
    if times and came:
        rows["median time"] = f"{times['p50']:.0f} ms from image to voxels"
        rows["rate"] = f"{statistics['rate_hz']:.1f} Hz"
    for name, row in statistics.get("scores", {}).items():
        if math.isfinite(row.get("abs_rel", math.nan)):
            rows[name.replace("depth", "depth error")] = f"{100 * row['abs_rel']:.0f} % of the distance"
    return rows


def went_well(statistics: dict[str, Any], *, bundled: bool) -> bool:
    """Whether frames came out; most of those of the bundled drive should, and show something."""
    came, given = int(statistics["frames_out"]), int(statistics["frames_in"])
    return came > 0 and (not bundled or (came >= LOWEST_SHARE_OUT * given and not statistics["frames_empty"]))


@dataclass(frozen=True, eq=False)
class _Setup:
    """What both kinds of replay need; `place` is the grid and the camera's pose in it."""

    args: argparse.Namespace
    reader: BagReader
    topic: str
    camera: Camera | None
    bundle: StudentBundle
    place: tuple[VoxelGrid, RigidTransform]
    report: ReportWriter
    lidar: LidarOfBag
    scores: ReplayScores
    words: tuple[str, ...]
    sources: Sources  # what the student is told beside an image
    motion: RecordedMotion | None  # how the camera moved, if that is asked for, and known
    parameters: dict[str, object]  # of --params-file
    progress: Progress

    def lidar_grid(self, voxels: SemanticVoxels, frame_id: str) -> NDArray[np.float32] | None:
        """What the recorded LiDAR measured where the voxels are; `frame_id` is the optical frame of their image."""
        return self.lidar.points_grid(frame_id, voxels.stamp_ns, voxels.grid_from_camera)


def _motion(
    reader: BagReader,
    topic: str,
    bundle: StudentBundle,
    sources: Sources,
    parameters: Mapping[str, object],
) -> tuple[RecordedMotion | None, str]:
    """How the camera moved, if the student is to be told its scale by that; why it cannot be, or nothing."""
    from scene_completion_ros.bags.reader import CLOUD_TYPE
    from scene_completion_ros.errors import BagError
    from scene_completion_ros.ros.replay.results import OF_TRANSFORMS
    from scene_completion_ros.sequences.from_bag import RecordedMotion

    cloud = parameters.get("depth.from") == "topic" and reader.topics.get(str(parameters.get("depth.topic")))
    # What says where the camera is has to say where the sensor is, too; the node hears what was named there.
    if sources.scale == "off" or cloud == CLOUD_TYPE or not parameters.keys().isdisjoint(OF_TRANSFORMS):
        return None, ""
    if not bundle.takes_evidence:
        return None, f"the student {bundle.name} takes nothing beside its image"
    try:
        return RecordedMotion(reader, topic), ""
    except BagError as error:
        return None, str(error)


def _write_statistics(
    folder: Path, counts: OfflineStatistics | ReplayStatistics, more: Mapping[str, object], reader: BagReader
) -> dict[str, Any]:
    from scene_completion_ros.report.plots import evidence_summary

    scale = evidence_summary(counts.evidence)
    statistics = {**counts.to_json(), **({"scale_by_motion": scale} if scale else {}), **more}
    statistics.pop("node_log", None)
    statistics["unusable_messages"] = dict(reader.skipped)
    write_whole(folder / "statistics.json", (json.dumps(statistics, indent=2) + "\n").encode())
    return statistics


def _replay_offline(setup: _Setup, statistics: OfflineStatistics) -> None:
    from scene_completion_ros.bags.writer import BagWriter
    from scene_completion_ros.commands.offline_replay import replay_offline
    from scene_completion_ros.inference.completer import Completer
    from scene_completion_ros.voxels.cloud import voxels_to_cloud_array

    reader, topic = setup.reader, setup.topic
    grid, grid_from_camera = setup.place
    completer = Completer(
        setup.bundle,
        setup.camera or reader.camera_for(topic),
        grid=grid,
        grid_from_camera=grid_from_camera,
        engine=setup.args.engine,
    )
    if unseen := completer.unseen():
        raise unseen
    ask_words(completer, setup.words)

    def warn(warning: str) -> None:
        setup.progress.line(f"warning: {warning}")
        setup.report.notes.append(warning)

    for warning in completer.warnings:
        warn(warning)

    def draw(frame: ImageFrame, completion: Completion) -> None:
        if completion.warning and statistics.frames_doubtful == 1:  # further ones are counted
            warn(f"image of {frame.stamp_ns} ns: {completion.warning}")
        setup.report.add_frame(
            completion.voxels,
            frame.image_rgb,
            completion.shown_depth,
            camera=completion.depth_camera,
            lidar_grid=setup.lidar_grid(completion.voxels, frame.frame_id),
            timings_ms=completion.timings_ms,
            matches=completion.matches,
            evidence=completion.evidence.summary(),
        )
        setup.progress.step(f"{completion.timings_ms['total']:.0f} ms")
        setup.scores.add(
            voxels_to_cloud_array(completion.voxels),
            completion.shown_depth,
            completion.depth_camera,
            stamp_ns=frame.stamp_ns,
            frame_id=frame.frame_id,
        )

    options: dict[str, Any] = {"sources": setup.sources, "motion": setup.motion, "statistics": statistics}
    with BagWriter(setup.args.output / "bag") as output:
        replay_offline(reader, topic, completer, output=output, on_result=draw, **options)


def _replay_over_dds(setup: _Setup, playback: Playback, statistics: ReplayStatistics) -> None:
    from scene_completion_ros.geometry.camera_files import RECTIFIED_TOPIC
    from scene_completion_ros.ros.replay.bag_replay import replay_over_dds
    from scene_completion_ros.ros.replay.results import OF_TRANSFORMS

    args = setup.args
    moves = setup.motion is not None or not setup.parameters.keys().isdisjoint(OF_TRANSFORMS)
    told: dict[str, object] = {"scale.from": setup.sources.scale}
    if moves and playback.rate is None and setup.bundle.takes_evidence:
        told["scale.wait"] = True  # what is said of an image does not depend on the speed of the machine
    parameters = {**setup.parameters, "engine": args.engine, **told}
    parameters["bundle"] = str(setup.bundle.folder)  # the very one that reads what the node says
    if args.grid:
        parameters["grid.file"] = str(args.grid.resolve())
    if setup.camera is None:  # the recorded CameraInfo is passed on, and its P holds for rectified images
        parameters["image.rectified"] = RECTIFIED_TOPIC in setup.topic

    def draw_and_score(result: ReplayResult) -> None:
        voxels, found = answer_of(result, setup.bundle, setup.place, setup.words)
        timings = {stage: result.stages_ms[stage] for stage in _NODE_STAGES if stage in result.stages_ms}
        timings["total"] = result.latency_ms
        setup.report.add_frame(
            voxels,
            result.image_rgb,
            result.depth,
            camera=result.depth_camera,
            lidar_grid=setup.lidar_grid(voxels, result.frame_id),
            timings_ms=timings,
            matches=found,
            evidence=result.evidence,
        )
        setup.progress.step(f"{result.latency_ms:.0f} ms")
        setup.scores.add(
            result.voxels, result.depth, result.depth_camera, stamp_ns=result.stamp_ns, frame_id=result.frame_id
        )

    setup.progress.line(f"Starting node ({setup.bundle.name}) ...")
    replay_over_dds(
        setup.reader,
        setup.topic,
        camera=setup.camera,
        output_bag=args.output / "bag",
        on_result=draw_and_score,
        playback=playback,
        node_parameters=parameters,
        statistics=statistics,
        words=setup.words,
        motion=setup.motion,
    )
    if statistics.node_log and statistics.frames_out < statistics.frames_in:
        print(statistics.node_log, file=sys.stderr)


def answer_of(
    result: ReplayResult, bundle: StudentBundle, place: tuple[VoxelGrid, RigidTransform], words: Sequence[str]
) -> tuple[SemanticVoxels, tuple[PhraseMatches, ...]]:
    """The voxels that a node published of an image, and where it found the words; nothing where it was asked none.

    `bundle`: bundle that the node uses, for its classes; `place`: grid of the node and the camera's pose in it;
    `words`: what the node was asked for.
    """
    import numpy as np

    from scene_completion_ros.voxels.cloud import cloud_array_to_voxels
    from scene_completion_ros.voxels.semantic_voxels import matches_of_points

    voxels = cloud_array_to_voxels(
        result.voxels,
        *place,
        stamp_ns=result.stamp_ns,
        class_names=bundle.class_names,
        class_colours=bundle.class_colours,
    )
    cloud = result.matches
    if cloud is None:
        return voxels, ()
    points = place[1].apply(np.stack([cloud[axis] for axis in "xyz"], axis=-1).astype(np.float64))
    return voxels, matches_of_points(words, voxels, points, cloud["phrase"], cloud["score"], cloud["probability"])


@contextmanager
def termination_as_interruption() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that what was written is closed properly."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def add_playback_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; none of them goes with ``--offline``."""
    group = parser.add_argument_group("playing through the node (not with --offline)")
    group.add_argument(
        "--rate",
        type=float,
        metavar="FACTOR",
        help="play in real time, this many times as fast as recorded, and let the node drop what it cannot keep up "
        "with (default: in lock step, where the next image waits until the node has completed or dropped the last one)",
    )
    meaning = "longest wait for the result of an image (default: 60)"
    group.add_argument("--timeout", type=float, metavar="SECONDS", help=meaning)
    group.add_argument(
        "--params-file",
        type=Path,
        metavar="FILE",
        help="parameters of the node that is started, as a robot has them (/** and scene_completion of any namespace). "
        "The replay leaves out bundle, engine, grid and what it needs itself",
    )
    meaning = "publish this recorded topic as well; may be repeated"
    group.add_argument("--also", action="append", metavar="TOPIC", help=meaning)


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
    from scene_completion_ros.scoring import (
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
            sources.append(stack.enter_context(RecordedTruth(args.ground_truth, published, offset_ns=offset_ns)))
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
        sources.append(stack.enter_context(LidarTruth(reader.path, camera or reader.camera_for(topic), pose, topic)))
    return ReplayScores(sources, published)


def write_scores(folder: Path, scores: ReplayScores, recording: str) -> dict[str, Any]:
    """Write `scores.json` and `scores.md` where there is something to write; what the report's page shows of them."""
    values = scores.scores.to_json()
    if values:
        write_whole(folder / "scores.json", (json.dumps(values, indent=2, allow_nan=False) + "\n").encode())
        page = f"# Scores of {recording}\n\n{scores.scores.markdown()}\n"
        write_whole(folder / "scores.md", page.encode())
    return scores.scores.headlines()
