"""Masked scenes of points: samples of two views with a mask, and what a student learns from them (MSM).

The views of a scene are turned, mirrored, recoloured, and partly without features. Points are voxelised anew in each
view. As in the source (MSM), a voxel then has the colour and the normal of one of its points, drawn at random, and no
coordinates.

The network meets the voxels that are visible alone; its decoder fills in the hidden ones from the coarsest level to the
finest. Its teacher, an average of its own weights, sees the other view of the scene with nothing hidden. On every level
the network predicts the features of the teacher at the same places, of either view by the other. The distance and the
normalisation are choices of this project: those of the source are not known.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.arrays import Floats, Ints, Mask, Random, Reals
from scene_completion_training.data.module import DataSource, FileSamples, TrainingData, matching
from scene_completion_training.data.store import Arrays, Entry, damaged, keyed, mapped_arrays
from scene_completion_training.points.opening import open_scenes
from scene_completion_training.points.scene import PointScene, require, say_once
from scene_completion_training.points.voxels import distinct, voxels_of
from scene_completion_training.sparse.hu_net import VoxelHUNet
from scene_completion_training.sparse.voxel_set import Pyramid, VoxelSet

# Columns of features: colours in -1..1, x/127.5 - 1 of bytes as published, and normals; zeros for what is unknown.
POINT_FEATURES = ("red", "green", "blue", "normal_x", "normal_y", "normal_z")
_COLOURS, _NORMALS = slice(0, 3), slice(3, 6)
VERSION = 1  # of kept scenes


@dataclass
class SceneViewSettings:
    """What a view changes of a scene, and which part of it a sample shows."""

    jitter: float = 0.3  # largest change of brightness and contrast of each colour, as a share
    dropped: float = 0.2  # share of the voxels whose features become zero
    points: int = 240_000  # most points of a sample
    scale: float = 0.1  # largest change of the size of a scene, as a share
    # Share of the views that lose all colours, and of those that lose all normals: for clouds that have none.
    blind: float = 0.0

    def check(self) -> None:
        """Refuses what is no view. Raises ConfigurationError where a number that cannot be."""
        shares = (self.jitter, self.dropped, self.scale, self.blind)
        if not (all(0.0 <= share < 1.0 for share in shares) and self.points > 0):
            raise ConfigurationError(f"{self}", where="views", cure="Take shares below 1, and at least one point")


@dataclass(frozen=True, eq=False)
class View:
    """The voxels of one view, and places in it that another view of the sample has in the same order."""

    index: Ints  # [N, 3]
    features: Floats  # [N, F]
    points: Floats  # [P, 3], in edges of voxels: voxel i spans i to i + 1
    voxel: Ints  # [P], row of the voxel that each point lies in


def masked_voxels(index: NDArray[np.integer], edge: int, ratio: float, generator: Random) -> Mask:
    """Voxels of one scene that are hidden, bool [N]: all those of a random share of the patches that hold any (MSM).

    Patches stand on a raster of the grid, as the voxels of coarser levels do. `index`: voxels [N, 3]; `edge`: voxels
    along the edge of a patch; `ratio`: share of the patches; their number is rounded.
    """
    patch = distinct(index.astype(np.int64) // edge)[1]
    count = int(patch.max(initial=-1)) + 1
    hidden = np.zeros(count, np.bool_)
    hidden[generator.permutation(count)[: round(ratio * count)]] = True
    return hidden[patch]


def point_features(count: int, colours: Reals | None, normals: Reals | None) -> Floats:
    """What a network takes of points, [N, 6], of colours [N, 3] in 0..1 and normals [N, 3]; see `POINT_FEATURES`."""
    found = np.zeros((count, len(POINT_FEATURES)), np.float32)
    if colours is not None:
        found[:, _COLOURS] = 2.0 * colours - 1.0
    if normals is not None:
        found[:, _NORMALS] = normals
    return found


def say_what_lacks(scene: PointScene) -> None:
    """Says once of a scene if it has no colours or no normals."""
    if lacking := " and no ".join(name for name in ("colours", "normals") if getattr(scene, name) is None):
        say_once(f"{scene.name} has no {lacking}: zeros stand for them, as in views that a training made blind")


def point_views(
    file: Path, generator: Random, settings: SceneViewSettings, voxel_size: float, shift: int
) -> tuple[View, View]:
    """Two views of the nearest points of a kept scene to one of them: of all, if it has no more than are taken.

    `file`: as `keep_points` wrote it; `voxel_size`: edge of a voxel, metres; `shift`: voxels by which a view is shifted
    against the raster of coarser voxels, at most.
    """
    arrays = mapped_arrays(file)
    try:
        points, features = arrays["points"], arrays["features"].astype(np.float32)
    except KeyError as error:
        raise damaged(file, f"no {error}") from error
    if len(points) > settings.points:
        away = np.square(points - points[generator.integers(len(points))]).sum(axis=1)
        rows = np.sort(np.argpartition(away, settings.points)[: settings.points])
        points, features = points[rows], features[rows]
    place = np.asarray(points / voxel_size, np.float32)
    one, other = (_view(place, features, settings, shift, generator) for _ in range(2))
    return one, other


def _view(place: Floats, given: Floats, settings: SceneViewSettings, shift: int, chance: Random) -> View:
    """Points in edges of voxels, turned by any yaw, half of the time mirrored, scaled, recoloured and voxelised."""
    yaw, mirror = chance.uniform(0.0, 2.0 * np.pi), chance.choice((-1.0, 1.0))
    cosine, sine = np.cos(yaw), np.sin(yaw)
    turn = np.array([[cosine, -sine * mirror, 0.0], [sine, cosine * mirror, 0.0], [0.0, 0.0, 1.0]], np.float32)
    place = place @ turn.T * np.float32(1.0 + settings.scale * chance.uniform(-1.0, 1.0))
    place = place - place.min(axis=0) + chance.uniform(0.0, shift, 3).astype(np.float32)
    index, chosen, voxel = voxels_of(place, chance)
    changed = given[chosen]
    contrast, brightness = 1.0 + settings.jitter * chance.uniform(-1.0, 1.0, (2, 3)).astype(np.float32)
    known = changed[:, _COLOURS].any(axis=1, keepdims=True)
    changed[:, _COLOURS] = known * np.clip(changed[:, _COLOURS] * contrast + brightness - 1.0, -1.0, 1.0)
    changed[:, _NORMALS] = changed[:, _NORMALS] @ turn.T
    for columns in _COLOURS, _NORMALS:
        changed[:, columns] *= chance.random() >= settings.blind
    changed[chance.random(len(changed)) < settings.dropped] = 0.0
    return View(index, changed, place, voxel)


def keep_points(
    scenes: Mapping[str, PointScene], entry: Entry, labels: Callable[[PointScene], Arrays] | None = None
) -> list[Path]:
    """Files of scenes in order, once all are kept in an entry, with `labels` if given; those there are not read again.

    Without labels it is said once of a scene what it lacks.
    """
    names = list(scenes)

    def make(numbers: Sequence[int]) -> Iterator[Arrays]:
        for number in numbers:
            scene = scenes[names[number]]
            require(scene)
            if labels is None:
                say_what_lacks(scene)
            features = point_features(len(scene), scene.colours, scene.normals).astype(np.float16)
            points = scene.points - scene.points.min(axis=0)
            yield {"points": points, "features": features, **(labels(scene) if labels else {})}

    return entry.fill({number: name.replace("/", "-") for number, name in enumerate(names)}, make, "scene")


# Lightning data module: scenes of points, in samples of two views with a mask.


@dataclass
class SceneSource(DataSource):
    """A folder of scenes of points, see `open_scenes`."""

    split: str = ""  # "train", "val" or "test" by the official lists; by default all


@dataclass
class SceneDataSettings:
    """Scenes of a training."""

    root: str = "."  # folder the sources are relative to
    sources: list[SceneSource] = field(default_factory=list)
    voxel_size: float = 0.2  # edge of the voxels that the network is made for, metres
    cache: str = "scenes"  # folder for scenes
    batch_size: int = 2  # scenes a step
    workers: int = 1


@dataclass(frozen=True)
class MaskSettings:
    """What is hidden from a student, and in which views."""

    edge: int  # voxels along the edge of a patch
    ratio: float  # share of the patches; if 0 nothing is hidden, and all places are compared
    both: bool = True  # in both views, or in the first alone


class SceneSamples(FileSamples[Path]):
    """The samples of kept scenes, two views of each; a part of what the student sees is hidden."""

    def __init__(
        self,
        groups: Sequence[Sequence[Path]],  # files of the scenes of each source
        shares: Sequence[float],
        views: SceneViewSettings,
        mask: MaskSettings,
        *,
        voxel_size: float,  # metres
        seed: int,
        length: int,
    ) -> None:
        super().__init__(groups, shares, seed=seed, length=length)
        self.views, self.mask, self.voxel_size = views, mask, voxel_size

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """What two views show, scenes 0 and 1, what is hidden of them, and the P places that are compared.

        `voxel_index` int64 [N, 4] and `features` float32 [N, F] of both, see `View`; `masked` bool [N] are the hidden
        voxels, in which the places `student_points` float32 [P, 4] lie; `teacher_points` are these in the other view.
        """
        file, generator = self.drawn(number)
        mask = self.mask
        views = point_views(file, generator, self.views, self.voxel_size, mask.edge)
        found = []
        for one, other, student in zip(views, views[::-1], (True, mask.both), strict=True):
            masked = masked_voxels(one.index, mask.edge, mask.ratio * student, generator)
            compared = masked[one.voxel] if mask.ratio else np.full(len(one.voxel), student)
            arrays = {"voxel_index": one.index, "features": one.features, "masked": masked}
            arrays |= {"student_points": one.points[compared], "teacher_points": other.points[compared]}
            found.append({name: torch.from_numpy(array) for name, array in arrays.items()})
        sample = in_one(found)
        sample["teacher_points"][:, 0] = 1.0 - sample["student_points"][:, 0]
        return sample


def pairs_in_one(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A batch of pairs of views: view v of sample s is scene 2s + v."""
    for number, sample in enumerate(samples):
        for name in ("voxel_index", "student_points", "teacher_points"):
            sample[name][:, 0] += 2 * number
    return {name: torch.cat([sample[name] for sample in samples]) for name in samples[0]}


def in_one(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A batch: all scenes one behind the other; places become [N, 4] with the number of the scene in front."""
    batch = {}
    for name in samples[0]:
        parts = [sample[name] for sample in samples]
        if name.endswith(("_index", "_points")):
            parts = [torch.nn.functional.pad(part, (1, 0), value=number) for number, part in enumerate(parts)]
        batch[name] = torch.cat(parts)
    return batch


class SceneData(TrainingData):
    """Serves `SceneSamples` of the sources of a configuration."""

    def __init__(
        self, settings: SceneDataSettings, views: SceneViewSettings, mask: MaskSettings, *, steps: int, seed: int
    ) -> None:
        super().__init__(settings, steps=steps, seed=seed)
        self.views, self.mask = views, mask
        self.groups: list[list[Path]] = []

    def record(self) -> dict[str, Any]:
        """How many scenes there were, by source."""
        return {"scenes": {files[0].parent.name: len(files) for files in self.groups}}

    def setup(self, stage: str) -> None:
        """Fills the cache; a ConfigurationError where there is no source."""
        if self.groups:
            return
        self.require_sources("scenes of points")
        root = Path(self.settings.root)
        for source in matching(root, self.settings.sources):
            folder = source.place(root)
            entry = Entry(self.store / keyed(folder.name, [VERSION, str(folder), source.split]))
            self.groups.append(keep_points(open_scenes(folder, split=source.split), entry))
            self.shares.append(source.share)

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Serves the samples from the trainer's current step on."""
        options = {"voxel_size": self.settings.voxel_size, "seed": self.seed, "length": self.length}
        samples = SceneSamples(self.groups, self.shares, self.views, self.mask, **options)
        return self.served(samples, collate_fn=pairs_in_one)


class SceneView:
    """Voxels [N, 4] of a batch of scenes in one view, of which there is one at least, ready for a network."""

    def __init__(self, index: Tensor, features: Tensor, levels: int) -> None:
        x, y, z = (index[:, 1:].amax(dim=0) + 1).tolist()
        voxels, self.order = VoxelSet.of(index, (x, y, z))  # order [N]: which of the given voxels stands in each row
        self.pyramid = Pyramid.of(voxels, levels)  # the voxels and their coarser levels
        self.features = features[self.order]  # [N, F] in the order of the pyramid's finest level
        self.levels = levels


def student_features(network: VoxelHUNet, scene: SceneView, masked: Tensor, *, bottom_up: bool = True) -> list[Tensor]:
    """What the student makes of every level [N_l, D_l] of a view, finest first, from the visible voxels alone.

    Masked [N] are those that are hidden, in the order that they were given in. `bottom_up`: the encoder does not meet
    them, and a token stands for them in the decoder, on every level anew. Otherwise they have a token in the encoder's
    finest level alone, which shows it where they are; it is what the stem makes of zeros.
    """
    if not bottom_up:
        return network(scene.features * ~masked[scene.order, None], scene.pyramid)  # type: ignore[no-any-return]
    hidden, finest = masked[scene.order], scene.pyramid.levels[0]
    shown = VoxelSet(finest.index[~hidden], finest.shape)  # a part of a sorted set is sorted
    made: list[Tensor] = network(scene.features[~hidden], scene.pyramid, Pyramid.of(shown, scene.levels))
    return made


def distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of 1 - cos between features [P, D] and the teacher's [P, D], both with mean 0 and deviation 1 a point.

    The teacher's have their mean over the points taken away: what all voxels have in common is no part of the target
    (DINO, eq. 4, with the mean of a batch). Otherwise a network learns one output for all places: the loss falls, and
    the spread of the features with it. Zero where there is no point.
    """
    if not len(student):
        return student.sum()
    student, teacher = standardised(student), standardised(teacher)
    return (1.0 - functional.cosine_similarity(student, teacher - teacher.mean(dim=0), dim=1)).mean()


def correlation(features: Tensor) -> Tensor:
    """Sum of the squared covariances of features [P, D] with each other, by dimension (VICReg, eq. 4); standardised."""
    centred = standardised(features)
    centred = centred - centred.mean(dim=0)
    covariance = centred.T @ centred / max(len(centred), 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / len(covariance)


def standardised(features: Tensor) -> Tensor:
    """Features [P, D] with mean 0 and deviation 1 over each row: a layer norm without weights."""
    return functional.layer_norm(features, features.shape[-1:])


def spread(features: Tensor) -> float:
    """How far features [P, D] point in different directions: 1 if evenly in all, 0 if all in one.

    It is the standard deviation over the points of the features brought to length 1, mean over the dimensions, times
    √D. Where it falls towards 0, the teacher's features are the same everywhere, and there is nothing left to learn.
    """
    if len(features) < 2:
        return math.nan
    directions = functional.normalize(standardised(features), dim=1)
    return float(directions.std(dim=0, correction=0).mean()) * math.sqrt(features.shape[1])


def momentum(step: int, steps: int, first: float) -> float:
    """Share of itself that the teacher keeps in a step: from `first` to 1 along a cosine over the training."""
    return 1.0 - (1.0 - first) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / steps)))


def effective_rank(features: Tensor) -> float:
    """In how many directions features [P, D] vary: exp of the entropy of the shares of their singular values.

    D at most, 1 where all lie on a line (Roy and Vetterli, 2007); of standardised features, their mean taken away.
    """
    centred = standardised(features.double())
    values = torch.linalg.svdvals(centred - centred.mean(dim=0))
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, kept: float) -> None:
    """Moves the weights of the teacher towards the student's: θ' ← m θ' + (1 - m) θ, with m = `kept`."""
    for average, value in zip(teacher.parameters(), student.parameters(), strict=True):
        average.mul_(kept).add_(value, alpha=1.0 - kept)
