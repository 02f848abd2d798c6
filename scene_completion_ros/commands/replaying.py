"""Replays a recording: completes its images in this process or through the node, draws, scores and reports them."""

import argparse
import json
import math
import resource
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.bags import reader as bags
from scene_completion_ros.bags.reader import CLOUD_TYPE, BagReader, ImageFrame
from scene_completion_ros.bags.writer import BagWriter, cloud_fields, write_image, write_transforms
from scene_completion_ros.commands.arguments import DEMO_WORDS, chosen_words, set_words
from scene_completion_ros.errors import BagError, ImageError, SceneCompletionError, TransformConflictError
from scene_completion_ros.evaluation.truth import TruthSource
from scene_completion_ros.geometry.camera_files import read_camera
from scene_completion_ros.geometry.camera_info import RECTIFIED_TOPIC
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import read_grid
from scene_completion_ros.inference.bundle import open_student
from scene_completion_ros.inference.completer import Completer, Completion, SequentialCompleter
from scene_completion_ros.messages.drop_reasons import DropReason, StampOrder
from scene_completion_ros.messages.transform_buffer import stamp_of
from scene_completion_ros.progress import Progress, print_summary
from scene_completion_ros.report.summaries import evidence_summary
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
                running.write_scores()
                statistics = running.write_statistics(counts, {"interrupted": True})
                running.report.close(statistics, _headlines(statistics))  # and once more, with a note
            raise
        shown = running.write_scores()
        statistics = running.write_statistics(counts, {"scores": shown} if shown else {})
        page = running.report.close(statistics, _headlines(statistics))
    files = {"report": page, "bag": args.output / "bag", "scores": args.output / "scores.md" if shown else None}
    print_summary(_headlines(statistics) | files)
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
        if (args.output / "bag").exists():
            raise BagError("exists already", where=str(args.output / "bag"), cure="Name a new folder with --output")
        stack.enter_context(_termination_as_interruption())
        reader = self.reader = stack.enter_context(BagReader(args.bag, args.every))
        topic = self.topic = reader.choose_image_topic(args.image_topic)
        # Calibration given instead of the recorded one.
        self.camera = read_camera(args.camera, rectified=RECTIFIED_TOPIC in topic) if args.camera else None
        bundle = self.bundle = open_student(args.bundle)
        self.words = chosen_words(args.words, bundle, words)
        # The grid, and the camera's pose in it.
        self.place = read_grid(args.grid) if args.grid else (bundle.grid, bundle.grid_from_camera)
        self.lidar = stack.enter_context(LidarOfBag(args.bag))
        self.scores = ReplayScores(self._truths(), PublishedGrid(*self.place))
        title = f"Completed voxels of {args.bag.resolve().name}"
        classes = (bundle.class_names, bundle.class_colours)
        self.report = stack.enter_context(ReportWriter(args.output / "report", title, *classes, words=self.words))
        stack.enter_context(progress)
        progress.total = -(-reader.counts[topic] // args.every)
        for loss in reader.losses:
            progress.line(f"warning: {args.bag}: {loss}")
            self.report.notes.append(f"The recording is damaged: {loss}")
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
        for warning in motion.warnings:
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
        for warning in completer.warnings:
            self._warn(warning)
        timings: list[dict[str, float]] = []
        try:
            with BagWriter(self.args.output / "bag") as output:
                write_transforms(self.reader, self.topic, output)
                for frame, completion in self._completed(completer, statistics):
                    if completion.warning and not any(completion.warning in note for note in self.report.notes):
                        self._warn(f"image of {frame.stamp_ns} ns: {completion.warning}")
                    _write(output, completion.voxels, frame, with_legend=not timings)
                    timings.append(completion.timings_ms)
                    self._show(
                        completion.voxels,
                        cloud_of(completion.voxels),
                        frame.image_rgb,
                        completion.shown_depth,
                        completion.depth_camera,
                        frame.frame_id,
                        completion.timings_ms["total"],
                        completion.matches,
                        completion.evidence.summary(),
                    )
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
                continue
            try:
                pose = "the camera's motion is unknown" if self.motion is None else self.motion.at(frame.stamp_ns)
                completion = in_order.complete(frame.image_rgb, frame.stamp_ns, pose)
            except ImageError as error:
                statistics.dropped[f"image {error.what}"] += 1
                continue
            statistics.frames_out += 1
            statistics.frames_empty += len(completion.voxels) == 0
            statistics.occupied.append(len(completion.voxels))
            statistics.evidence.append(completion.evidence.summary())
            yield frame, completion
        skipped = self.reader.skipped.items()
        undecodable = sum(count for reason, count in skipped if reason.startswith(f"{self.topic}: "))
        if undecodable:
            statistics.frames_in += undecodable
            statistics.dropped[DropReason.UNDECODABLE] += undecodable

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
            self._show(
                voxels,
                result.voxels,
                result.image_rgb,
                result.depth,
                result.depth_camera,
                result.frame_id,
                result.latency_ms,
                found,
                result.evidence,
            )

        self.progress.line(f"Starting node ({bundle.name}) ...")
        replay_over_dds(
            self.reader,
            self.topic,
            camera=self.camera,
            output_bag=args.output / "bag",
            on_result=show,
            node_parameters=parameters,
            statistics=statistics,
            words=self.words,
            motion=self.motion,
        )
        if statistics.node_log and statistics.frames_out < statistics.frames_in:
            print(statistics.node_log, file=sys.stderr)

    def _show(
        self,
        voxels: SemanticVoxels,
        published: NDArray[np.void],  # the same as a cloud
        image_rgb: NDArray[np.uint8],
        depth: NDArray[np.float32],
        depth_camera: Camera,
        frame_id: str,  # the optical frame of the image
        total_ms: float,  # from image to voxels
        matches: Sequence[PhraseMatches],
        evidence: Mapping[str, float | str],
    ) -> None:
        """Draw and score what came out of an image, with what the recorded LiDAR measured where the voxels are."""
        self.report.add_frame(
            voxels,
            image_rgb,
            depth,
            depth_camera,
            lidar_grid=self.lidar.points_grid(frame_id, voxels.stamp_ns, voxels.grid_from_camera),
            matches=matches,
            evidence=evidence,
        )
        self.progress.step(f"{total_ms:.0f} ms")
        self.scores.add(published, depth, depth_camera, stamp_ns=voxels.stamp_ns, frame_id=frame_id)

    def _warn(self, warning: str) -> None:
        self.progress.line(f"warning: {warning}")
        self.report.notes.append(warning)

    def write_scores(self) -> dict[str, Any]:
        """Write `scores.json` and `scores.md` where there is something to write; what the report shows of them."""
        values, folder = self.scores.scores.to_json(), self.args.output
        if values:
            write_whole(folder / "scores.json", (json.dumps(values, indent=2, allow_nan=False) + "\n").encode())
            page = f"# Scores of {self.args.bag.resolve().name}\n\n{self.scores.scores.markdown()}\n"
            write_whole(folder / "scores.md", page.encode())
        return self.scores.scores.headlines()

    def write_statistics(self, counts: ReplayStatistics, more: Mapping[str, object]) -> dict[str, Any]:
        """Write `statistics.json`; what it holds."""
        scale = evidence_summary(counts.evidence)
        statistics = {**counts.to_json(), **({"scale_by_motion": scale} if scale else {}), **more}
        statistics.pop("node_log", None)
        statistics["unusable_messages"] = dict(self.reader.skipped)
        write_whole(self.args.output / "statistics.json", (json.dumps(statistics, indent=2) + "\n").encode())
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
        output.write(
            LEGEND_TOPIC, topics.topic_spec(topics.LEGEND).type_name, legend, frame.recorded.stamp_ns, latched=True
        )
    write_image(frame.recorded, output)
    cloud = cloud_fields(cloud_of(voxels), VOXEL_CLOUD_FIELDS, voxels.stamp_ns, frame.frame_id)
    output.write(VOXELS_TOPIC, CLOUD_TYPE, cloud, frame.recorded.stamp_ns)
