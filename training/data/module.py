"""Lightning data module: prepares posed stereo sequences and serves samples, resumable at any step."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import lightning
from torch import Tensor
from torch.utils.data import DataLoader

from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.errors import SequenceError
from scene_completion_ros.sequences.from_bag import sequence_from_bag
from scene_completion_ros.sequences.kitti import kitti_odometry
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from training.data.prepared import FusionSettings, PreparedFrame, load_prepared, prepare_sequence
from training.data.view_batches import StepSampler, ViewSamples, ViewSettings


@dataclass
class SequenceSource:
    """Where a training sequence lies.

    Attributes:
        folder: A `PosedSequence` folder, a KITTI folder or a bag (two rectified cameras with CameraInfo, poses in tf
            or odometry), relative to the data root, or to the working directory where it begins with "./".
        poses: Name of the pose file, where a KITTI folder has several.
        share: Factor on the share of samples it gets, which grows with the square root of its length.
    """

    folder: str
    poses: str | None = None
    share: float = 1.0


def load_sequence(root: Path, source: SequenceSource) -> PosedSequence:
    """Opens a training sequence.

    Raises:
        SequenceError: It is none of these, its scale is not metric, or it is held out.
    """
    folder = Path(source.folder) if source.folder.startswith("./") else root / source.folder
    if (folder / "sequence.json").exists():
        sequence = PosedSequence.load(folder)
    elif (folder / "calib.txt").exists():
        sequence = kitti_odometry(folder, poses=source.poses)
    elif (folder / "metadata.yaml").exists() or folder.suffix in (".mcap", ".db3", ".bag"):
        with BagReader(folder) as reader:
            sequence = sequence_from_bag(reader)
    else:
        raise SequenceError(
            "no bag, and neither sequence.json nor calib.txt found", where=str(folder), cure="Check `data.root`"
        )
    if sequence.provenance.get("role", "training") != "training":
        raise SequenceError(
            f"a {sequence.provenance['role']} town",
            where=str(folder),
            cure="Train on towns of other seeds: what a model has seen cannot test it",
        )
    if not sequence.metric_scale:
        raise SequenceError(
            "scale: unknown", where=str(folder), cure="Training needs metric poses: stereo, odometry or camera height"
        )
    return sequence


@dataclass
class DataSettings:
    """Data of a training.

    Attributes:
        root: Folder the sources are relative to.
        sources: Training sequences.
        cache: Folder for prepared frames.
        fusion: How stereo depth is fused into occupancy.
        views: What a sample holds.
        batch_size: Samples per step.
        workers: Loader processes.
    """

    root: str = "."
    sources: list[SequenceSource] = field(default_factory=list)
    cache: str = "prepared"
    fusion: FusionSettings = field(default_factory=FusionSettings)
    views: ViewSettings = field(default_factory=ViewSettings)
    batch_size: int = 1
    workers: int = 1


class SequencesData(lightning.LightningDataModule):
    """Serves `ViewSamples` from prepared sequences.

    Args:
        settings: Data of the training.
        steps: Optimiser steps of the whole training.
        seed: Seed of the samples.
    """

    def __init__(self, settings: DataSettings, steps: int, seed: int) -> None:
        super().__init__()
        self.settings = settings
        self.steps = steps
        self.seed = seed
        self.frames: list[list[PreparedFrame]] = []
        self.focal_ratios: list[float] = []

    def setup(self, stage: str) -> None:
        """Prepares what is missing in the cache and reads everything into memory."""
        if self.frames:
            return
        cache = Path(self.settings.cache)
        for source in self.settings.sources:
            sequence = load_sequence(Path(self.settings.root), source)
            files = prepare_sequence(sequence, cache, settings=self.settings.fusion)
            with ThreadPoolExecutor(4) as pool:
                frames = [frame for frame in pool.map(load_prepared, files) if frame.has_evidence]
            if not frames:
                raise SequenceError(
                    "no frame has occupied and free voxels",
                    where=source.folder,
                    cure="Stereo matching found nothing: check that the images are rectified, textured and not dark",
                )
            if len(frames) < len(files):
                print(f"{source.folder}: {len(files) - len(frames)} of {len(files)} frames without evidence left out")
            self.frames.append(frames)
            self.focal_ratios += [camera.fx / camera.width for camera in sequence.cameras.values()]

    def samples(self) -> ViewSamples:
        """Returns the samples of the whole training."""
        length = self.steps * self.settings.batch_size
        shares = [source.share for source in self.settings.sources]
        return ViewSamples(self.frames, self.settings.views, seed=self.seed, length=length, shares=shares)

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Serves the samples from the trainer's current step on."""
        samples = self.samples()

        def done() -> int:
            return self.trainer.global_step * self.settings.batch_size if self.trainer else 0

        return DataLoader(
            samples,
            batch_size=self.settings.batch_size,
            sampler=StepSampler(len(samples), done),
            num_workers=self.settings.workers,
            persistent_workers=False,
        )
