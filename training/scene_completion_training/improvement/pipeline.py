"""From bags and a student to a better student and its report card, in steps that an interrupted run does not repeat."""

import dataclasses
import errno
import itertools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scene_completion_ros.errors import ConfigurationError, ImprovementError
from scene_completion_ros.evaluation.student_comparison import MARGIN
from scene_completion_ros.inference.bundle import WEIGHTS, StudentBundle
from scene_completion_ros.inference.evidence import Sources
from scene_completion_ros.sequences.opening import open_recording
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.whole_files import whole_folder
from scene_completion_training import CONFIGS
from scene_completion_training.configuration import TrainingConfiguration, read_configuration
from scene_completion_training.data.module import SequenceSource, matching, prepare_source
from scene_completion_training.data.motion_stereo import FARTHEST, depth_summaries
from scene_completion_training.evaluation.stereo_calibration import calibrate_on_stereo
from scene_completion_training.extraction.bag import Job, extract_bags, fingerprint, output_folders
from scene_completion_training.extraction.reports import BagReport
from scene_completion_training.extraction.settings import ExtractionSettings
from scene_completion_training.improvement.fine_tuning import (
    check_parity,
    export_improved,
    mix_checkpoint,
    write_configuration,
)
from scene_completion_training.improvement.judging import (
    OLD,
    SHARES,
    TOLERANCE,
    Judgement,
    best_share,
    best_threshold,
    judge_mixtures,
    reasons_against,
    score_students,
)
from scene_completion_training.improvement.report_card import ShownFrames, write_card
from scene_completion_training.improvement.split import Split, metres_of_a_turn, reach_of, split_drives, split_replay
from scene_completion_training.improvement.steps import FULL_TEXT, UNFINISHED, Steps, disk_watched
from scene_completion_training.improvement.suitable import NEAR_M, DriveLook, check_suitable, refuse_overlap
from scene_completion_training.runner import make_stage, train
from scene_completion_training.viewpoint import STREET_AHEAD_M
from scene_completion_training.workers import Progress, Workers

CARD = "report_card.html"
MIXED = "mixed"
STEPS_IN_ALL = 10


@dataclass(frozen=True)
class Improvement:
    """What is asked for."""

    bags: tuple[Path, ...]
    current: Path  # folder of the student that is deployed
    output: Path  # folder of the new one, which does not exist yet
    work: Path  # folder for all that lies between; an interrupted run goes on there
    extraction: ExtractionSettings
    # Recordings to score on; where none is named, the last drives or the last part of them.
    held_out: tuple[Path, ...] = ()
    replay: tuple[Path, ...] = ()  # posed sequences of earlier drives that are learned from again
    keep: tuple[Path, ...] = ()  # recordings of earlier drives on which the new student must not be worse
    steps: int = 600
    overrides: tuple[str, ...] = ()  # `KEY=VALUE` of the training's configuration
    margin: float = MARGIN  # gain in average precision that is wanted
    tolerance: float = TOLERANCE  # loss in average precision and IoU that is allowed
    scale_from: str = "corners"  # what says the scale to students that are scored, if they take it; see `Sources`
    views: int = 1  # images that they complete a scene of, if they can
    calibrate_every: int = 3  # frames of which one is calibrated on
    # Threads of torch, of the encoder and of structure from motion; all cores where it is None.
    threads: int | None = None
    workers: int = 1  # bags and drives at once on this machine
    # A Ray cluster that takes bags and drives instead. Neither this nor the former two are inputs of a step: a run may
    # go on elsewhere.
    ray_address: str | None = None


@dataclass(frozen=True)
class Outcome:
    """How it ended."""

    card: Path
    reasons: tuple[str, ...]  # why the old student stays; empty where the new one is accepted, and lies in the output


def improve(improvement: Improvement) -> Outcome:
    """Does all steps, or those that an earlier run has left.

    Raises ImprovementError where the recordings are of no use, or the held-out drive was learned from. The disk is
    full, the training failed, or the new student is not what was trained; SceneCompletionError: anything else that is
    wrong with what was named, or with the cluster.
    """
    improvement = _absolute(improvement)
    old = _checked(improvement)
    if old.takes_pose and improvement.extraction.keyframe_metres == ExtractionSettings.keyframe_metres:
        metres = ExtractionSettings.keyframe_metres * reach_of(old) / STREET_AHEAD_M
        extraction = dataclasses.replace(improvement.extraction, keyframe_metres=metres)
        improvement = dataclasses.replace(improvement, extraction=extraction)
    with Workers(improvement.workers, improvement.ray_address, improvement.threads or 1) as workers:
        return _Run(improvement, old, workers).outcome()


def _absolute(improvement: Improvement) -> Improvement:
    """The same with paths that other processes understand."""
    made: dict[str, Any] = {name: getattr(improvement, name).absolute() for name in ("current", "output", "work")}
    for name in ("bags", "held_out", "replay", "keep"):
        made[name] = tuple(path.absolute() for path in getattr(improvement, name))
    return dataclasses.replace(improvement, **made)


def _checked(improvement: Improvement) -> StudentBundle:
    """The current student; refuses at once what would fail hours later."""
    old = StudentBundle.load(improvement.current)
    if WEIGHTS not in old.sha256:
        what = f"has no {WEIGHTS}, so nothing can be trained on from it"
        cure = "Export it without --without-weights, or name another student"
        raise ImprovementError(what, where=f"student {improvement.current}", cure=cure)
    if old.head.volume is not None and not old.takes_pose:
        what = "reads a volume, and is not told how its camera stands: no training goes on from such a student"
        raise ImprovementError(what, where=f"student {improvement.current}", cure="Name another student")
    accepted_before = (improvement.output / "student.json").is_file() and (improvement.work / CARD).is_file()
    if improvement.output.exists() and not accepted_before:
        what = "exists already"
        raise ImprovementError(what, where=str(improvement.output), cure="Name a new folder: no student is overwritten")
    if improvement.output.resolve() == improvement.current.resolve():
        what = "is the current student"
        raise ImprovementError(what, where=str(improvement.output), cure="Name a new folder: the old student stays")
    again = {bag.resolve() for bag in improvement.bags} & {bag.resolve() for bag in improvement.held_out}
    if again:
        what = f"{', '.join(sorted(map(str, again)))} is learned from as well"
        cure = "Name other recordings: what a student has seen cannot test it"
        raise ImprovementError(what, where="--held-out", cure=cure)
    for bag in (*improvement.bags, *improvement.held_out):
        if not bag.exists():
            raise ImprovementError("is not there", where=str(bag), cure="Name rosbag2 folders, .mcap, .db3 or .bag")
    stage = "room.yaml" if old.takes_pose else "single_view.yaml"
    configuration = read_configuration(CONFIGS / stage, list(improvement.overrides), TrainingConfiguration)
    if configuration.devices * configuration.nodes > 1:
        what = "the trainer would start this whole command again in each process"
        cure = "Leave them out: an improvement trains in one process"
        raise ConfigurationError(what, where="--set devices, nodes", cure=cure)
    return old


@dataclass
class _Run:
    """An improvement under way; what a step needs of those before it, it is given."""

    plan: Improvement
    old: StudentBundle
    workers: Workers
    split: Split = field(init=False)

    @property
    def candidate(self) -> Path:
        """Folder of the new student until it is accepted."""
        return self.plan.work / "candidate"

    def outcome(self) -> Outcome:
        """Does all steps, or those that an earlier run has left."""
        plan = self.plan
        step = Steps(plan.work, STEPS_IN_ALL).run
        bags = [[str(bag.resolve()), fingerprint(bag)] for bag in (*plan.bags, *plan.held_out)]
        extracted = step("extracting", {"bags": bags, "settings": plan.extraction.digest()}, self._extracted)
        of_student = {"student": dict(self.old.sha256)}
        known = {"replay": _prints(plan.replay), "keep": _prints(plan.keep)}
        usable = step("looking at the drives", of_student | known, lambda: self._usable(extracted))
        reach = reach_of(self.old)
        parts = step("splitting", {"gap": reach}, lambda: self._split(usable, reach))
        self.split = Split(**{name: [Path(folder) for folder in folders] for name, folders in parts["parts"].items()})
        step("preparing", {"steps": plan.steps, "overrides": list(plan.overrides)}, self._prepared)
        checkpoint = Path(step("training", {}, self._trained)["checkpoint"])
        told: dict[str, Any] = {"scale_from": plan.scale_from} if self.old.takes_evidence else {}
        told |= {"views": plan.views} if self.old.takes_views else {}
        mixed = step("choosing weights", {"tolerance": plan.tolerance, **told}, lambda: self._mixed(checkpoint))
        chosen = plan.work / mixed["checkpoint"]
        calibrated = step("exporting and calibrating", {"every": plan.calibrate_every}, lambda: self._exported(chosen))
        parity = step("checking parity", {}, self._parity)
        judged = step("judging", {"margin": plan.margin, "tolerance": plan.tolerance}, self._judged)
        facts = {
            "recordings": extracted["summary"],
            "split": {name.replace("_", " "): ", ".join(_names(folders)) for name, folders in vars(self.split).items()}
            | {"least gap of a drive that is cut": f"{parts['gap']:.2g} m"},
            "replay": {
                name: ", ".join(_names(folders)) or "none"
                for name, folders in zip(("learned again", "calibrating"), split_replay(plan.replay), strict=True)
            },
            "weights": mixed["summary"],
            "depth that judges": depth_summaries(map(open_recording, (*self.split.held_out, *plan.keep)), reach),
            "calibration": calibrated,
            "parity": parity,
        }
        output = {"output": str(plan.output.resolve())}
        step("deciding", output, lambda: self._decided(judged, facts, usable))
        return Outcome(plan.work / CARD, tuple(judged["reasons"]))

    def _extracted(self) -> dict[str, Any]:
        """Folders of the sequences of all bags, by whether they are to be held out, and what was said of each bag."""
        bags = [bag.resolve() for bag in (*self.plan.bags, *self.plan.held_out)]
        folders = output_folders(bags, self.plan.work.resolve() / "sequences")
        settings, threads = self.plan.extraction, self.workers.threads
        jobs = [Job(bag, folder, settings, threads) for bag, folder in zip(bags, folders, strict=True)]
        reports = extract_bags(jobs, self.workers)
        for report in reports:
            if FULL_TEXT in " ".join([*report.problems, report.defect]):
                raise OSError(errno.ENOSPC, FULL_TEXT)
            if report.lost:  # without it, what follows would learn from less, and say nothing
                cure = "Look at that machine's memory, and start the same command again: it goes on from here"
                raise ImprovementError("; ".join(report.problems), where=report.bag, cure=cure)
        pairs = zip(folders, reports, strict=True)
        found = [[str(folder / one.folder) for one in report.sequences] for folder, report in pairs]
        notes = dict(zip(_names([Path(report.bag) for report in reports]), map(_notes, reports), strict=True))
        learned, scored = found[: len(self.plan.bags)], found[len(self.plan.bags) :]
        for name, group in (("recordings", learned), ("--held-out", scored)):
            if group and not any(group):
                what = f"nothing could be extracted: {'; '.join(f'{bag}: {text}' for bag, text in notes.items())}"
                cure = "`scene-completion extract` names the options for poses, scale and calibration"
                raise ImprovementError(what, where=name, cure=cure)
        flat = [list(itertools.chain.from_iterable(group)) for group in (learned, scored)]
        return {"training": flat[0], "held_out": flat[1], "summary": notes}

    def _usable(self, extracted: dict[str, Any]) -> dict[str, Any]:
        """Drives that a student can learn from, and what was wrong with the others; refuses copies and overlaps."""
        notes: list[str] = []
        near = NEAR_M * (reach_of(self.old) / STREET_AHEAD_M if self.old.takes_pose else 1.0)
        found: dict[str, list[str]] = {"training": [], "held_out": []}
        looks: dict[str, list[DriveLook]] = {"training": [], "held_out": []}
        for part in found:
            for folder in extracted[part]:
                sequence = PosedSequence.load(folder)
                try:
                    check_suitable(sequence, self.old)
                except ImprovementError as error:
                    notes.append(str(error))
                    continue
                found[part].append(folder)
                looks[part].append(DriveLook.of(sequence, near))
            if extracted[part] and not found[part]:
                what = f"no drive is of use. {' '.join(notes)}"
                cure = "Record the robot's own camera by day while it drives"
                raise ImprovementError(what, where="recordings" if part == "training" else "--held-out", cure=cure)
        replayed = [DriveLook.of(open_recording(folder), near) for folder in self.plan.replay]
        kept = [DriveLook.of(open_recording(folder), near) for folder in self.plan.keep]
        for number, look in enumerate(looks["training"]):
            refuse_overlap([look], looks["training"][:number], role="drive")
        refuse_overlap(looks["held_out"], [*looks["training"], *replayed])
        refuse_overlap(kept, [*looks["training"], *replayed])
        refuse_overlap(looks["training"], replayed, role="drive")
        if not self.plan.keep:
            notes.append("No earlier drive was named with --keep: whether anything was forgotten was not looked at.")
        return {**found, "notes": notes}

    def _split(self, usable: dict[str, Any], reach: float) -> dict[str, Any]:
        """Parts of the drives. A camera in a hand may stay in one room: then gaps end where views have little alike."""
        folder = self.plan.work.resolve() / "split"
        drives = ([Path(one) for one in usable["training"]], [Path(one) for one in usable["held_out"]])
        turning = metres_of_a_turn(self.old)
        gaps = [reach, FARTHEST * reach] if turning else [reach]
        with disk_watched("splitting", folder):
            while True:
                try:
                    split = split_drives(*drives, gaps[0], folder, turning=turning)
                    break
                except ImprovementError:
                    if len(gaps) == 1:
                        raise
                gaps.pop(0)
        parts = {name: [str(one) for one in folders] for name, folders in vars(split).items()}
        return {"parts": parts, "gap": gaps[0]}

    def _configuration(self) -> Any:
        return read_configuration(self.plan.work / "training.yaml", list(self.plan.overrides), TrainingConfiguration)

    def _written(self) -> Any:
        """The configuration of a training that goes on from the student, which is written for all who train."""
        file, work = self.plan.work / "training.yaml", self.plan.work.resolve()
        again, _ = split_replay(self.plan.replay)
        folders = {"output": work / "training", "cache": work / "prepared"}
        write_configuration(file, self.old, self.split.training, again, steps=self.plan.steps, **folders)
        return self._configuration()

    def _prepared(self) -> dict[str, Any]:
        """Prepares the frames of the training's drives."""
        configuration = self._written().completed()
        if self.old.takes_pose:  # its eyes do not travel
            samples = make_stage(configuration).make_data()
            samples.setup("fit")
            return {"frames": samples.record()["frames"]["training"]}
        data, viewpoint, processes = configuration.data, configuration.viewpoint(), 2 if self.workers.alone else 1

        def prepared(source: SequenceSource, _: Progress) -> int:
            return len(prepare_source(data, source, viewpoint, workers=processes)[1])

        frames = self.workers.in_order(
            prepared,
            matching(Path(data.root), data.sources),
            unit="drive",
            name=lambda source: Path(source.folder).name,
            needs=lambda source: [Path(data.root, source.folder)],
            written=Path(data.cache),
        )
        return {"frames": sum(frames)}

    def _trained(self) -> dict[str, Any]:
        """The checkpoint of the training; one of an earlier run goes on where it stopped."""
        self.workers.close()  # a training takes the machines for itself
        return {"checkpoint": str(train(self._written(), threads=self.plan.threads))}

    def _scoring(self) -> dict[str, Any]:
        """How drives are scored: by one encoder with all cores, or one drive beside the other."""
        threads = self.plan.threads if self.workers.alone else self.workers.threads
        return {"threads": threads, "workers": self.workers}

    @property
    def _sources(self) -> Sources:
        return Sources(self.plan.scale_from, views=self.plan.views)

    def _mixed(self, checkpoint: Path) -> dict[str, Any]:
        """The checkpoint between the old weights and the trained ones that the calibrating drives are for."""
        folder = self.plan.work / MIXED
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        students, files = {OLD: self.old}, {share: f"{MIXED}/{share:.3f}.ckpt" for share in SHARES}
        for share, name in files.items():
            file = mix_checkpoint(checkpoint, self.old, share, self.plan.work / name, self._encoder_weights())
            students[share] = export_improved(
                file, self.old, folder / f"{share:.3f}", name=f"{share:.1%}", provenance={}
            )
        calibrating = (self.split.calibration, split_replay(self.plan.replay)[1])
        mixtures = judge_mixtures(students, *calibrating, sources=self._sources, **self._scoring())
        chosen = best_share(mixtures, self.plan.tolerance)
        notes = {
            f"{one.share:.1%} of the trained weights": f"average precision {one.new:.3f} on new drives"
            + (f", {one.replayed:.3f} on replayed ones" if one.replayed is not None else "")
            for one in mixtures
        }
        return {"checkpoint": files[chosen], "share": chosen, "summary": {**notes, "chosen": f"{chosen:.1%}"}}

    def _encoder_weights(self) -> str:
        return str(getattr(self._configuration(), "encoder_weights", ""))

    def _exported(self, checkpoint: Path) -> dict[str, Any]:
        unfinished = self.candidate.with_name(self.candidate.name + UNFINISHED)
        for folder in (unfinished, self.candidate):
            if folder.exists():
                shutil.rmtree(folder)
        replayed, calibrating = split_replay(self.plan.replay)
        learned = [open_recording(folder) for folder in (*self.split.training, *replayed)]
        about = {"trained_on": ", ".join(sequence.name for sequence in learned), "checkpoint": checkpoint.name}
        bundle = export_improved(checkpoint, self.old, unfinished, name=self.plan.output.name, provenance=about)
        folders = [group for group in (self.split.calibration, calibrating) if group]
        groups = [[open_recording(folder) for folder in group] for group in folders]
        options, every = self._scoring(), self.plan.calibrate_every
        bundle = calibrate_on_stereo(bundle, learned, groups, earlier=self.old, every=every, **options)
        options |= {"sources": self._sources}
        threshold = best_threshold([score_students([bundle], group, **options).scores[0] for group in folders])
        bundle = dataclasses.replace(bundle, threshold=threshold)
        bundle = bundle.save(unfinished, bundle.read_encoder(), bundle.load_weights())
        unfinished.rename(self.candidate)
        record: dict[str, Any] = bundle.provenance["calibration"]
        return {"threshold": bundle.threshold, **{name: str(value) for name, value in record.items()}}

    def _parity(self) -> dict[str, float]:
        new, threads, weights = StudentBundle.load(self.candidate), self.plan.threads, self._encoder_weights()
        return check_parity(new, self.old, self.split.held_out, threads=threads, encoder_weights=weights)

    def _judged(self) -> dict[str, Any]:
        new, shown = StudentBundle.load(self.candidate), ShownFrames(self.plan.work / "pictures")
        options = self._scoring() | {"sources": self._sources}
        on_new = Judgement.of(score_students((self.old, new), self.split.held_out, seen=shown, **options))
        on_old = Judgement.of(score_students((self.old, new), self.plan.keep, **options)) if self.plan.keep else None
        reasons = reasons_against(on_new, on_old, margin=self.plan.margin, tolerance=self.plan.tolerance)
        drives = {"held-out drive": on_new.content()} | ({"old drives": on_old.content()} if on_old else {})
        return {"reasons": reasons, "drives": drives, "frames": shown.chosen(on_new.seen)}

    def _decided(self, judged: dict[str, Any], facts: dict[str, Any], usable: dict[str, Any]) -> dict[str, Any]:
        """Writes the card, and the new student where it is accepted: whole, by renaming it at the end."""
        write_card(
            self.plan.work / CARD,
            title=f"Report card of {self.plan.output.name}",
            reasons=judged["reasons"],
            judged=judged["drives"],
            frames=judged["frames"],
            pictures=self.plan.work / "pictures",
            facts=facts,
            notes=usable["notes"],
        )
        if not judged["reasons"]:
            with (
                disk_watched("writing the new student", self.plan.output.parent, shared=True),
                whole_folder(self.plan.output, frozenset()) as unfinished,
            ):
                shutil.copytree(self.candidate, unfinished, dirs_exist_ok=True)
                StudentBundle.load(unfinished)  # hashes of all files
        return {"accepted": not judged["reasons"]}


def _notes(report: BagReport) -> str:
    sequences = ", ".join(f"{one.frames} frames over {one.metres:.0f} m, scale {one.scale}" for one in report.sequences)
    return "; ".join([sequences or "nothing extracted", *report.problems, *report.losses])


def _names(folders: Sequence[Path]) -> list[str]:
    return [str(Path(*Path(folder).parts[-2:])) for folder in folders]


def _prints(folders: Sequence[Path]) -> list[list[str]]:
    """Folders with the fingerprints of what they say of their frames."""
    return [[str(folder.resolve()), fingerprint(folder)] for folder in folders]
