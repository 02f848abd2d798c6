"""Lightning data module: prepares posed stereo sequences and serves samples, resumable at any step."""

import dataclasses
import gc
import glob
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import lightning
import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from scene_completion_ros.errors import ConfigurationError, SequenceError
from scene_completion_ros.progress import print_lines
from scene_completion_ros.sequences import posed_sequence
from scene_completion_ros.sequences.frame_lists import FrameSplit, SplitCount, part_of_recording
from scene_completion_ros.sequences.from_bag import is_bag
from scene_completion_ros.sequences.opening import open_recording
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.arrays import Random
from scene_completion_training.data import prepared
from scene_completion_training.data.prepared import Drive
from scene_completion_training.data.stereo import refuse_lens
from scene_completion_training.data.view_batches import DataNeeds, ViewSamples, ViewSettings
from scene_completion_training.data.voxel_evidence import FusionSettings
from scene_completion_training.viewpoint import Viewpoint

Stored = TypeVar("Stored")
_SIDES = {"l": "left", "r": "right"}


class StepSampler(Sampler[int]):
    """Sample numbers in order, from where the training stands: what a resumed training still has to see.

    `length`: samples of the whole training; `done`: gives how many have been used when the iteration starts.
    """

    def __init__(self, length: int, done: Callable[[], int]) -> None:
        self.length, self.done = length, done

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.done(), self.length))

    def __len__(self) -> int:
        # The whole length, also after a resumption: the trainer counts the batches of the epoch from its beginning.
        return self.length


@dataclass
class DataSource:
    """Where a recording lies that is trained on."""

    # Whatever `open_recording` opens, of a bag one camera or a rectified pair. It is relative to the data root, or to
    # the working directory where it begins with "./". With wildcards (`./towns/*`) it stands for all that match.
    folder: str
    # Name of the poses, where a recording has several; "none" where it has none. With "none" each frame is a drive of
    # its own, and depth and evidence come from its stereo pair alone.
    poses: str | None = None
    # Factor on the share of samples it gets. The share grows with the square root of its length (with the number of
    # frames where they are unrelated).
    share: float = 1.0
    # Of a recording whose `source.txt` names the drive of each frame: the drives that are taken, or left out.
    drives: list[str] = field(default_factory=list)
    without_drives: list[str] = field(default_factory=list)
    # Where the part of it that is taken begins and ends, as shares of its frames. Nothing beyond is ever looked at.
    first: float = 0.0
    last: float = 1.0

    def place(self, root: Path) -> Path:
        """Where it lies, absolute."""
        return (Path() if self.folder.startswith("./") else root).absolute() / self.folder


@dataclass
class SequenceSource(DataSource):
    """A training sequence of a density field."""

    # Take the ground truth voxels of a rendered town instead of evidence from its stereo depth.
    exact: bool = False


Source = TypeVar("Source", bound=DataSource)


def matching(root: Path, sources: Sequence[Source]) -> list[Source]:
    """The sources, each wildcard replaced by the folders that match it, by name; a `SequenceError` if none does."""
    found: list[Source] = []
    for source in sources:
        if not any(sign in source.folder for sign in "*?["):
            found.append(source)
            continue
        base = Path() if source.folder.startswith("./") else root
        paths = [Path(path) for path in glob.glob(str(base / source.folder))]
        folders = sorted(str(path) for path in paths if path.is_dir() or is_bag(path))
        if not folders:
            cure = "Unpack, make or extract the recordings there first"
            raise SequenceError("nothing matches", where=str(base / source.folder), cure=cure)
        found += [dataclasses.replace(source, folder=str(Path(folder).absolute())) for folder in folders]
    return found


def load_sequence(root: Path, source: DataSource, role: str = "training", *, metric: bool = True) -> PosedSequence:
    """Opens a sequence for a role; a `SequenceError` if it is none, held out, bent, or fails `check_for_training`."""
    folder = source.place(root)
    sequence = open_recording(folder, poses=source.poses)
    if sequence.provenance.get("role", role) != role:
        cure = "Take towns of other seeds: what a model has seen cannot test it"
        raise SequenceError(f"a {sequence.provenance['role']} town, wanted for {role}", where=str(folder), cure=cure)
    posed_sequence.check_for_training(sequence, str(folder), metric=metric)
    for name in posed_sequence.cameras_ahead(sequence):
        refuse_lens(sequence, name)
    chosen = {"drives": source.drives, "without_drives": source.without_drives}
    return part_of_recording(sequence, **chosen, first=source.first, last=source.last)


def refuse_overlap(training: Iterable[Path], validation: Iterable[Path]) -> None:
    """Refuses image files of a validation whose content is trained on; a `ConfigurationError` that names one."""
    watched: dict[tuple[int, str], Path] = {}
    for file in validation:
        watched[file.stat().st_size, _digest(file)] = file
    sizes = {size for size, _ in watched}
    for file in training:
        if (size := file.stat().st_size) in sizes and (found := watched.get((size, _digest(file)))):
            what = f"its image {found} is trained on, too, as {file}"
            cure = "Give training and validation other drives, or other parts of one: drives, first, last"
            raise ConfigurationError(what, where="data.validation", cure=cure)


def digest_of(files: Iterable[Path]) -> str:
    """Hash of the content of files, in any order."""
    return hashlib.sha256("\n".join(sorted(map(_digest, files))).encode()).hexdigest()


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@dataclass
class DataSettings:
    """Data of a training."""

    root: str = "."  # folder the sources are relative to
    sources: list[SequenceSource] = field(default_factory=list)
    # Sequences on which the losses are watched; the best checkpoint is kept. Rendered towns with a validation seed, or
    # drives that are used for nothing else.
    validation: list[SequenceSource] = field(default_factory=list)
    validation_samples: int = 64  # samples of a validation, always the same
    # Number of different samples of the training, which come again in another order; 0 for as many as it takes.
    distinct_samples: int = 0
    # File with a published frame list (lines `drive frame side`), from the working directory: each of its frames is a
    # sample, once an epoch. All others serve as further views. Without it all frames are samples.
    frames: str = ""
    # The same for the validation, which takes the first `validation_samples` of a fixed order.
    validation_frames: str = ""
    allow_missing: bool = False  # go on where listed frames are not there
    # Folder for prepared frames. Where the losses need images alone there are none: images are read as they lie.
    cache: str = "prepared"
    fusion: FusionSettings = field(default_factory=FusionSettings)
    views: ViewSettings = field(default_factory=ViewSettings)
    batch_size: int = 1
    workers: int = 1  # processes that load samples, and that prepare frames


class TrainingData(lightning.LightningDataModule):
    """Base of what serves the samples of a training, resumable at any step."""

    def __init__(self, settings: Any, *, steps: int, seed: int) -> None:
        super().__init__()
        self.settings, self.seed = settings, seed
        self.steps = steps  # of the optimiser, in the whole training
        self.shares: list[float] = []

    def record(self) -> dict[str, Any]:
        """What checkpoints remember of the data, once it is set up: plain values."""
        raise NotImplementedError

    def prepare_data(self) -> None:
        """Makes what is missing in the cache, and refuses sources before the training writes anything."""
        self.setup("fit")

    def require_sources(self, what: str) -> None:
        """Raises a `ConfigurationError` where no source is named."""
        if not self.settings.sources:
            raise ConfigurationError(f"names no {what}", where="data.sources", cure=f"Name folders of {what}")

    @property
    def store(self) -> Path:
        """Folder of what samples are made of, see `data.store`."""
        return Path(self.settings.cache)

    @property
    def length(self) -> int:
        """Samples of the whole training."""
        return int(self.steps * self.settings.batch_size)

    def served(self, samples: Any, **options: Any) -> DataLoader[dict[str, Tensor]]:
        """Loads samples of the whole training, from the trainer's current step on."""
        size = self.settings.batch_size

        def done() -> int:
            return self.trainer.global_step * size if self.trainer else 0

        sampler = StepSampler(self.length, done)
        gc.collect()  # engines of teachers end here: in a forked worker, they would wait for threads that it lacks
        return DataLoader(samples, size, sampler=sampler, num_workers=self.settings.workers, **options)


class FileSamples(Dataset[dict[str, Tensor]], Generic[Stored]):
    """Samples of a training by number, each of stored files; everything random in one follows from seed and number.

    `groups`: files of each source; `shares`: factor on the share of samples of each group, which grows with the square
    root of its length.
    """

    def __init__(self, groups: Sequence[Sequence[Stored]], shares: Sequence[float], *, seed: int, length: int) -> None:
        self.groups, self.seed, self.length = groups, seed, length
        weights = np.array([share * len(files) ** 0.5 for share, files in zip(shares, groups, strict=True)])
        self.probability = weights / weights.sum()

    def __len__(self) -> int:
        """Samples of the whole training."""
        return self.length

    def drawn(self, number: int) -> tuple[Stored, Random]:
        """The files of a sample, and what its further chances are drawn from."""
        generator = np.random.default_rng((self.seed, number))
        files = self.groups[int(generator.choice(len(self.groups), p=self.probability))]
        return files[int(generator.integers(len(files)))], generator


class SequencesData(TrainingData):
    """Serves `ViewSamples` from prepared sequences, for so many optimiser steps in all."""

    def __init__(
        self,
        settings: DataSettings,
        steps: int,
        seed: int,
        needs: DataNeeds = DataNeeds(),  # noqa: B008 - it is frozen
        *,
        viewpoint: Viewpoint | None = None,
    ) -> None:
        super().__init__(settings, steps=steps, seed=seed)
        self.needs = needs
        self.viewpoint = viewpoint or Viewpoint()
        self.frames: list[Drive] = []
        self.watched: list[Drive] = []
        self.listed: dict[str, list[tuple[int, int, str]]] = {"training": [], "validation": []}
        self.counts: dict[str, SplitCount] = {}
        self.focal_ratios: list[float] = []
        self.metric = True  # poses of all recordings are in metres
        self._rig: tuple[str, list[str]] | None = None

    def record(self) -> dict[str, Any]:
        """The range of focal lengths per image width, how much of frame lists there was, and whether in metres."""
        counts = {role: dataclasses.asdict(count) for role, count in self.counts.items()}
        focal_range = [min(self.focal_ratios), max(self.focal_ratios)]
        return {"focal_range": focal_range, "frames": counts, "metric": self.metric}

    def setup(self, stage: str) -> None:
        """Prepares what is missing in the cache and opens it."""
        if self.frames:
            return
        self.frames = self._opened("training", self.settings.sources, self.settings.frames)
        self.watched = self._opened("validation", self.settings.validation, self.settings.validation_frames)

    def _opened(self, role: str, sources: list[SequenceSource], frames: str) -> list[Drive]:
        """Drives of all sources; those of the training give the range of focal lengths."""
        split = FrameSplit(frames) if frames and sources else None
        found: list[Drive] = []
        for source in matching(Path(self.settings.root), sources):
            if split is not None and not split.names(Path(source.folder).name):
                continue
            drives, listed = self._prepared(source, role, split)
            if split is not None and drives:
                self._check_cameras(source.folder, sorted(drives[0][0].images))
            self.listed[role] += [(len(found) + drive, frame, side) for drive, frame, side in listed]
            found += drives
            if role == "training":
                self.shares += [source.share] * len(drives)
        if split is not None:
            self.counts[role] = split.counted(allow_missing=self.settings.allow_missing)
            print_lines(f"{role}: {self.counts[role]}")
        return found

    def _check_cameras(self, folder: str, cameras: list[str]) -> None:
        """Drives of one data set, which have a frame list, have the same cameras."""
        first, expected = self._rig = self._rig or (folder, cameras)
        if cameras != expected:
            what = f"images of {', '.join(cameras)}, but {first} has {', '.join(expected)}"
            raise SequenceError(what, where=folder, cure="Unpack the images of all cameras of all listed drives")

    def _prepared(
        self, source: SequenceSource, role: str, split: FrameSplit | None
    ) -> tuple[list[Drive], list[tuple[int, int, str]]]:
        """Drives of a source, and what is listed: number of the drive, frame and side."""
        every: Drive
        # Views that are frames apart need no metres, and losses on images alone need none either.
        metric = self.needs.measured or not self.settings.views.video
        sequence = load_sequence(Path(self.settings.root), source, role, metric=metric)
        self.metric &= sequence.metric_scale
        listed = [] if split is None else split.of(sequence)
        if self.needs.measured:
            fusion = self.settings.fusion
            if sequence.pose_source == posed_sequence.UNKNOWN_POSES:
                fusion = dataclasses.replace(fusion, views=0)
            options: dict[str, Any] = {"settings": fusion, "exact": source.exact, "viewpoint": self.viewpoint}
            files = prepared.prepare_sequence(sequence, self.store, **options, workers=max(2, self.settings.workers))
            every = [prepared.load_prepared(file) for file in files]
            usable = self._usable(every, source, stereo=len(posed_sequence.cameras_ahead(sequence)) > 1)
        else:
            views = self.settings.views
            published = views.near_frames and (views.far_views or views.aside)
            if published and len(prepared.looking_aside(sequence, posed_sequence.cameras_ahead(sequence)[0])) < 2:
                cure = "Unpack the images of the fisheyes, or set data.views.far_views=false data.views.aside=0"
                raise SequenceError("fewer than two cameras look aside", where=source.folder, cure=cure)
            every = prepared.RecordedFrames(sequence, self.viewpoint)
            usable = list(range(len(every)))
        place = {index: number for number, index in enumerate(usable)}
        known = [(place[index], _SIDES[side]) for index, side in listed if index in place]
        if role == "training":
            cameras = [sequence.cameras[name] for name in posed_sequence.cameras_ahead(sequence)]
            self.focal_ratios += [camera.fx / camera.width for camera in cameras]
        if sequence.pose_source == posed_sequence.UNKNOWN_POSES:
            return [[every[index]] for index in usable], [(at, 0, side) for at, side in known]
        frames = every if len(usable) == len(every) else [every[index] for index in usable]
        return [frames], [(0, frame, side) for frame, side in known]

    def _usable(self, every: Drive, source: SequenceSource, *, stereo: bool) -> list[int]:
        usable = [index for index, frame in enumerate(every) if frame.has_evidence or not stereo]
        if not usable:
            cure = "Stereo matching found nothing: check that the images are rectified, textured and not dark"
            raise SequenceError("no frame has occupied and free voxels", where=source.folder, cure=cure)
        if len(usable) < len(every):
            left = len(every) - len(usable)
            print_lines(f"{source.folder}: {left} of {len(every)} frames without evidence left out")
        return usable

    def samples(self) -> ViewSamples:
        """Returns the samples of the whole training."""
        listed, distinct = self.listed["training"], self.settings.distinct_samples
        options = {"length": self.length, "shares": self.shares, "listed": listed, "distinct": distinct}
        return self._samples(self.frames, self.settings.views, **options)

    def _samples(self, frames: list[Drive], views: ViewSettings, **options: Any) -> ViewSamples:
        return ViewSamples(frames, views, self.needs, seed=self.seed, viewpoint=self.viewpoint, **options)

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Serves the samples from the trainer's current step on."""
        return self.served(self.samples())

    def val_dataloader(self) -> list[DataLoader[dict[str, Tensor]]]:
        """Serves the same samples at every validation, as they are: unmirrored, unturned, with their own colours."""
        if not self.watched:
            return []
        views = self.settings.views
        plain = dataclasses.replace(views, yaw=0.0, pitch=0.0, roll=0.0, colour_jitter=False, mirror=False)
        listed = self.listed["validation"]
        samples = self._samples(self.watched, plain, length=self.settings.validation_samples, listed=listed)
        return [DataLoader(samples)]  # one by one: so the mean over all samples is the same for every size of a batch
