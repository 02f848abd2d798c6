"""Replays a recording: completes its images in this process or through the node, draws, scores and reports them."""

import argparse
import json
import logging
import math
import re
import resource
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from scene_completion_ros.bags import reader as bags
from scene_completion_ros.bags.reader import CLOUD_TYPE, BagReader, ImageFrame
from scene_completion_ros.bags.writer import BagWriter, cloud_fields, write_image, write_transforms
from scene_completion_ros.commands.arguments import DEMO_WORDS, chosen_words, set_words
from scene_completion_ros.commands.replay import RESULTS
from scene_completion_ros.errors import BagError, ImageError, SceneCompletionError, TransformConflictError
from scene_completion_ros.evaluation.truth import TruthSource
from scene_completion_ros.geometry.camera_files import read_camera
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import read_grid
from scene_completion_ros.geometry.plausible_cameras import Doubt, doubts_about
from scene_completion_ros.inference.bundle import open_student
from scene_completion_ros.inference.completer import Completer, Completion, SequentialCompleter, mounting_warnings
from scene_completion_ros.inference.evidence import WARNING
from scene_completion_ros.jit import COMPILING
from scene_completion_ros.messages.drop_reasons import DropReason, StampOrder
from scene_completion_ros.messages.transform_buffer import stamp_of
from scene_completion_ros.plain_text import markdown
from scene_completion_ros.progress import Progress, print_summary
from scene_completion_ros.report.summaries import Warnings, evidence_summary
from scene_completion_ros.report.writer import ReportWriter
from scene_completion_ros.ros import topics
from scene_completion_ros.ros.parameters import read_parameters
from scene_completion_ros.ros.replay.results import ReplayResult, ReplayStatistics, percentiles
from scene_completion_ros.scoring import LidarOfBag, LidarTruth, PublishedGrid, ReplayScores, SequenceTruth
from scene_completion_ros.sequences.from_bag import RecordedMotion
from scene_completion_ros.voxels.cloud import VOXEL_CLOUD_FIELDS, cloud_array_to_voxels, legend_json
from scene_completion_ros.voxels.cloud_kernel import cloud_of
from scene_completion_ros.voxels.semantic_voxels import PhraseMatches, SemanticVoxels, matches_of_points
from scene_completion_ros.whole_files import write_whole

VOXELS_TOPIC, LEGEND_TOPIC = map(topics.default_name, (topics.VOXELS, topics.LEGEND))
LOWEST_SHARE_OUT = 0.8  # of the frames of the bundled drive
# Parameters that a replay decides about itself: what it starts and plays, and where the camera is.
_OWN = (
    *("bundle", "grid.file", "engine", "autostart", "image.transport", "image.qos", "grid.frame"),
    *("odometry.topics", "odometry.frame", "base_frame"),
)
# How lines of the node's log begin which only a replay causes: it waits between images, and keeps the base frame to
# itself; and while it starts, drops the images of the start, and builds engines.
_BY_REPLAY = ("input: no image for", "calibration: CameraInfo is missing", "the height of the camera is unknown")
_BY_START = (*_BY_REPLAY, "stamps stand still", "dropped (", "building ", "built after ")


def replay(args: argparse.Namespace, progress: Progress) -> int:
    """Replay the recording that the arguments name; the exit code. Raises SceneCompletionError: bad input."""
    if args.every < 1:
        raise SceneCompletionError(f"{args.every} is not positive", where="--every", cure="1 takes every image")
    if args.offline and args.params_file is not None:
        what = "an offline replay has no node to play to: it completes every image in this process"
        raise SceneCompletionError(what, where="--params-file", cure="Leave out --params-file or --offline")
    bundled = args.bag is None
    args.bag = args.bag or bags.DEMO_DRIVE
    with ExitStack() as stack:
        running = _Replay(args, progress, stack, DEMO_WORDS if bundled else ())
        counts = ReplayStatistics(running.topic)
        try:
            (running.offline if args.offline else running.over_dds)(counts)
        except BaseException:
            if counts.frames_in:
                running.write(counts, {"interrupted": True})  # and the page once more, with a note
            raise
        statistics = running.write(counts, {})
        if running.folder != args.output and not went_well(statistics, bundled=bundled):
            what, cure = f"frames that came out: {_headlines(statistics)['frames']}", "See why with another --output"
            raise SceneCompletionError(f"{what}; the former results stay", where=str(args.output), cure=cure)
    files = {"report": args.output / "report" / running.report.index.name, "bag": args.output / "bag"}
    files |= {"scores": args.output / "scores.md"} if "scores" in statistics else {}
    warnings = {f"warning {number}": warning for number, warning in enumerate(statistics["warnings"], 1)}
    print_summary(_headlines(statistics) | files | warnings)
    return 0 if went_well(statistics, bundled=bundled) else 1


class _Replay:
    """A recording, what completes it, and what is made of it; open until the resources end.

    Raises SceneCompletionError: an argument, the recording, the student, the grid or the truth is of no use.
    """

    def __init__(self, args: argparse.Namespace, progress: Progress, stack: ExitStack, words: Sequence[str]) -> None:
        self.args, self.progress = args, progress
        # Of --params-file.
        self.parameters = read_parameters(args.params_file, without=_OWN) if args.params_file else {}
        self.scale_from = str(args.scale_from or self.parameters.get("scale.from", "corners"))
        stack.enter_context(_termination_as_interruption())
        self.folder = args.output  # where what comes out is at once, and stays; former results stay until the end
        if RESULTS.former(args.output, args):
            self.folder = stack.enter_context(RESULTS.writing(args.output, args))
        reader = self.reader = stack.enter_context(BagReader(args.bag, args.every, rectified=args.rectified))
        topic = self.topic = reader.choose_image_topic(args.image_topic)
        doubts: list[Doubt] = []
        # Calibration given instead of the recorded one.
        self.camera: Camera | None = None
        if args.camera:
            self.camera = read_camera(args.camera, rectified=reader.is_rectified(topic))
            doubts += doubts_about(self.camera, args.camera)
        else:
            reader.camera_for(topic, doubts)
        bundle = self.bundle = open_student(args.bundle)
        self.words = chosen_words(args.words, bundle, words)
        # The grid, and the camera's pose in it.
        self.place = read_grid(args.grid) if args.grid else (bundle.grid, bundle.grid_from_camera)
        self.lidar = stack.enter_context(LidarOfBag(args.bag))
        self.scores = ReplayScores(self._truths(), PublishedGrid(*self.place))
        title = f"Completed voxels of {args.bag.resolve().name}"
        classes = (bundle.class_names, bundle.class_colours)
        self.report = stack.enter_context(ReportWriter(self.folder / "report", title, *classes, words=self.words))
        stack.enter_context(progress)
        progress.total = -(-reader.counts[topic] // args.every)
        # What the summary, the statistics and the page say: what `_warn` is given, and what the package logs meanwhile.
        self.warnings = self.report.warnings = Warnings()
        package = logging.getLogger("scene_completion_ros")
        package.addHandler(self.warnings)
        stack.callback(package.removeHandler, self.warnings)
        for loss in reader.losses:
            self._warn(f"the recording {args.bag} is damaged: {loss}")
        for doubt in doubts:
            self._warn(str(doubt))
        self.motion, why = self._motion()
        if why and (bundle.takes_evidence or args.scale_from):
            self.report.notes.append(f"No scale by motion: {why}")
            progress.line(f"note: no scale by motion: {why}")

    def _truths(self) -> list[TruthSource]:
        """Open the truths. Raises SceneCompletionError: an unusable folder, or one of which no frame belongs here."""
        args, reader, topic = self.args, self.reader, self.topic
        sources: list[TruthSource] = []
        if args.ground_truth is not None:
            folder = SequenceTruth(args.ground_truth, offset_ns=round(args.ground_truth_offset * 1e9))
            first = next(iter(reader.readable([topic], lambda message: stamp_of(message.header))), None)
            if first is not None:
                recorded_first, stamp_ns = first
                start = stamp_ns or recorded_first.stamp_ns
                folder.check_times(start, start + reader.end_ns - reader.start_ns)
            sources.append(folder)
        if reader.topics_of_type(CLOUD_TYPE):
            sources.append(LidarTruth(self.lidar, self.camera or reader.camera_for(topic)))
        return sources

    def _motion(self) -> tuple[RecordedMotion | None, str]:
        """How the camera moved, if that gives the student its scale; why it does not, or nothing."""
        try:
            motion = RecordedMotion(self.reader, self.topic)
        except TransformConflictError as error:  # which also misplaces LiDAR, and voxels for others
            self._warn(str(error))
            return None, ""
        except BagError as error:
            return None, str(error)
        doubt = motion.turned_doubt(self.camera or self.reader.camera_for(self.topic))
        for warning in filter(None, [*motion.warnings, doubt]):
            self._warn(warning)
        if self.scale_from == "off":
            return None, ""
        if not self.bundle.takes_evidence:
            return None, f"the student {self.bundle.name} takes only its image"
        return motion, ""

    def offline(self, statistics: ReplayStatistics) -> None:
        """Complete the images in this process; damaged, wrongly sized or late (`StampOrder`) ones are counted."""
        grid, grid_from_camera = self.place
        camera = self.camera or self.reader.camera_for(self.topic)
        completer = Completer(
            self.bundle, camera, grid=grid, grid_from_camera=grid_from_camera, engine=self.args.engine
        )
        if unseen := completer.out_of_view():
            raise unseen
        set_words(completer, self.words)
        for warning in (*completer.warnings, *mounting_warnings(self.bundle, None)):
            self._warn(warning)
        timings: list[dict[str, float]] = []
        try:
            with BagWriter(self.folder / "bag") as output:
                write_transforms(self.reader, self.topic, output)
                for frame, completion in self._completed(completer, statistics):
                    _write(output, completion.voxels, frame, with_legend=not timings)
                    timings.append(completion.timings_ms)
                    result = ReplayResult(
                        stamp_ns=frame.stamp_ns,
                        frame_id=frame.frame_id,
                        image_message=frame.recorded.message,
                        voxels=cloud_of(completion.voxels),
                        depth=completion.shown_depth,
                        depth_camera=completion.depth_camera,
                        latency_ms=completion.timings_ms["total"],
                        stages_ms=completion.timings_ms,
                        evidence=completion.summary(),
                    )
                    result.image_rgb = frame.image_rgb  # not decoded once more
                    self._show(result, completion.voxels, completion.matches)
        finally:
            for stage in dict.fromkeys(stage for times in timings for stage in times):
                statistics.latency_ms[stage] = percentiles([times[stage] for times in timings if stage in times])
            statistics.duration_s = sum(times["total"] for times in timings) / 1e3
            statistics.rate_hz = len(timings) / statistics.duration_s if timings else 0.0
            peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
            statistics.peak_memory_mib = peak_kib / 1024

    def _completed(self, completer: Completer, statistics: ReplayStatistics) -> Iterator[tuple[ImageFrame, Completion]]:
        """Complete image after image; all are counted."""
        order, in_order = StampOrder(), SequentialCompleter(completer, self.scale_from)
        for frame in self.reader.images(self.topic):
            statistics.frames_in += 1
            if order.arrived(frame.stamp_ns) == "late":
                statistics.dropped[DropReason.WENT_BACK] += 1
                self._warn(f"dropped ({DropReason.WENT_BACK}): {order.late(self.topic, frame.stamp_ns)}", 0)
                continue
            try:
                pose = "the camera's motion is unknown" if self.motion is None else self.motion.at(frame.stamp_ns)
                completion = in_order.complete(frame.image_rgb, frame.stamp_ns, pose)
            except ImageError as error:
                statistics.dropped[DropReason.BAD_IMAGE] += 1
                self._warn(f"dropped ({DropReason.BAD_IMAGE}): {self.topic}: {error}", 0)
                continue
            statistics.frames_out += 1
            statistics.frames_empty += len(completion.voxels) == 0
            statistics.occupied.append(len(completion.voxels))
            statistics.evidence.append(completion.summary())
            yield frame, completion
        for reason, count in self.reader.skipped.items():
            if reason.startswith(f"{self.topic}: "):
                statistics.frames_in += count
                statistics.dropped[DropReason.UNDECODABLE] += count
                self._warn(f"dropped ({DropReason.BAD_IMAGE}): {reason}", 0)

    def over_dds(self, statistics: ReplayStatistics) -> None:
        """Play the images to a node of its own."""
        from scene_completion_ros.ros.replay.bag_replay import replay_over_dds  # needs rclpy

        args, bundle = self.args, self.bundle
        parameters = {**self.parameters, "engine": args.engine, "scale.from": self.scale_from}
        if self.motion is not None:
            parameters["scale.wait"] = True  # the scale of an image does not depend on the speed of the machine
        parameters["bundle"] = str(bundle.folder)  # the one that reads the answers of the node
        if args.grid:
            parameters["grid.file"] = str(args.grid.resolve())

        def show(result: ReplayResult) -> None:
            names, colours = bundle.class_names, bundle.class_colours
            voxels = cloud_array_to_voxels(
                result.voxels, *self.place, stamp_ns=result.stamp_ns, class_names=names, class_colours=colours
            )
            found: tuple[PhraseMatches, ...] = ()
            if (cloud := result.matches) is not None:
                points = self.place[1].apply(np.stack([cloud[axis] for axis in "xyz"], axis=-1).astype(np.float64))
                said = cloud["phrase"], cloud["score"], cloud["probability"]
                found = matches_of_points(self.words, voxels, points, *said)
            self._show(result, voxels, found)

        def hear(severity: str, text: str) -> None:
            if severity == "DEBUG":
                self.progress.debug(text)
            elif text.startswith(COMPILING):
                self.progress.line(text)
            elif severity != "INFO" and not text.startswith(_BY_REPLAY if statistics.frames_in else _BY_START):
                said = text.partition(": ")[2]  # by the recording itself, which names file and topic
                if not said or not any(known.endswith(said) for known in self.warnings):
                    self._warn(re.sub(r", \d+ so far", "", text), 0)  # the node logs one of many

        self.progress.line(f"Starting node ({bundle.name}) ...")
        replay_over_dds(
            self.reader,
            self.topic,
            camera=self.camera,
            output_bag=self.folder / "bag",
            on_result=show,
            node_parameters=parameters,
            statistics=statistics,
            words=self.words,
            motion=self.motion,
            on_log=hear,
        )

    def _show(self, result: ReplayResult, voxels: SemanticVoxels, matches: Sequence[PhraseMatches]) -> None:
        """Draw and score what came out of an image, with what the recorded LiDAR measured where the voxels are."""
        if WARNING in result.evidence:
            self._warn(str(result.evidence[WARNING]))
        seen, stamp_ns, frame_id = (result.depth, result.depth_camera), voxels.stamp_ns, result.frame_id
        self.report.add_frame(
            voxels,
            result.image_rgb,
            *seen,
            lidar_grid=self.lidar.points_grid(frame_id, stamp_ns, voxels.grid_from_camera),
            matches=matches,
            evidence=result.evidence,
        )
        self.progress.step(f"{result.latency_ms:.0f} ms")
        self.scores.add(result.voxels, *seen, stamp_ns=stamp_ns, frame_id=frame_id)

    def _warn(self, warning: str, times: int = 1) -> None:
        """Warn of something, on the terminal only the first time."""
        if self.warnings.add(warning, times):
            self.progress.warning(warning)

    def write(self, counts: ReplayStatistics, more: Mapping[str, object]) -> dict[str, Any]:
        """Write scores, where there are any, `statistics.json` and the page; what the statistics hold."""
        values, folder = self.scores.scores.to_json(), self.folder
        if values:
            write_whole(folder / "scores.json", (json.dumps(values, indent=2, allow_nan=False) + "\n").encode())
            page = f"# Scores of {markdown(self.args.bag.resolve().name)}\n\n{self.scores.scores.markdown()}\n"
            write_whole(folder / "scores.md", page.encode())
        known = {"scale_by_motion": evidence_summary(counts.evidence), "scores": self.scores.scores.headlines()}
        known |= {"bodies": self.scores.bodies()}
        statistics = {**counts.to_json(), **{name: values for name, values in known.items() if values}, **more}
        statistics["warnings"] = list(self.warnings)
        statistics["unusable_messages"] = dict(self.reader.skipped)
        write_whole(folder / "statistics.json", (json.dumps(statistics, indent=2) + "\n").encode())
        self.report.close(statistics, _headlines(statistics))
        return statistics


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


@contextmanager
def _termination_as_interruption() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that what was written is closed properly."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _write(output: BagWriter, voxels: SemanticVoxels, frame: ImageFrame, *, with_legend: bool) -> None:
    if with_legend:
        legend = {"data": legend_json(voxels.class_names, voxels.class_colours)}
        kind = topics.topic_spec(topics.LEGEND).type_name
        output.write(LEGEND_TOPIC, kind, legend, frame.recorded.stamp_ns, latched=True)
    write_image(frame.recorded, output)
    cloud = cloud_fields(cloud_of(voxels), VOXEL_CLOUD_FIELDS, voxels.stamp_ns, frame.frame_id)
    output.write(VOXELS_TOPIC, CLOUD_TYPE, cloud, frame.recorded.stamp_ns)
