"""Lightning data module: scenes of points with lifted features, in samples of voxels.

Features of pixels at the points of a scene: the mean over the views that see a point, kept on disk in fp16.

The rules are those of OpenScene and CUA-O3D (section 2D feature fusion): pixels are rounded, a border sees nothing, a
point is visible where the depth of the view is nearly its own, and the mean is plain. All teachers share one mask.
Teachers are foundation models, and files that others wrote.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from scene_completion_ros.errors import ConfigurationError, SequenceError
from scene_completion_ros.untrusted_files import read_array
from scene_completion_training.arrays import Bytes, Floats, Halves, Ints
from scene_completion_training.data.module import TrainingData
from scene_completion_training.data.store import Entry, damaged, keyed
from scene_completion_training.foundation.backbone import DenseExtractor, FeatureLifter, TokenMaps
from scene_completion_training.foundation.encoded_words import BARE
from scene_completion_training.foundation.feature_store import as_half
from scene_completion_training.foundation.teachers import open_teacher
from scene_completion_training.losses import TeacherSpec
from scene_completion_training.masked_scenes import in_one
from scene_completion_training.networks.agglomerated_field import INPUTS
from scene_completion_training.points.opening import Scenes, open_scenes
from scene_completion_training.points.scene import OTHERS, PointScene, RgbdView, require
from scene_completion_training.points.voxels import turned, voxelised
from scene_completion_training.workers import accelerator

_VERSION = 2  # of a cache of lifted scenes; those without one have their points mixed up
FILES = "files:"


@dataclass(frozen=True)
class LiftingSettings:
    """Which views see a point, and which points get features."""

    width: int = 320  # pixels that images and depth are resized to
    # Share of its depth by which a point may miss the surface; OpenScene has 0.02 on Matterport3D.
    tolerance: float = 0.25
    border: int = 10  # pixels of the resized image that see nothing
    points: int = 300_000  # most points of a scene, drawn at random; 0 for all

    def check(self, where: str) -> None:
        """Raises a `ConfigurationError` for numbers that cannot be."""
        if self.width < 1 or min(self.tolerance, self.border, self.points) < 0:
            raise ConfigurationError(f"{self}", where=where, cure="Take positive numbers")


@dataclass(frozen=True, eq=False)
class LiftedScene:
    """A scene with features of teachers at some of its points."""

    points: Floats  # [N, 3], metres
    colours: Floats  # [N, 3] in 0..1; zero where they are not known
    rows: Ints  # of the points that some view sees [M], ascending
    features: Mapping[str, Halves]  # of those, by teacher [M, D]; read from disk on access

    def at(self, teacher: str, rows: Ints) -> Floats:
        """Features [n, D] of points at some rows [n] of the scene; zeros where no view sees them."""
        place = np.searchsorted(self.rows, rows).clip(max=max(len(self.rows) - 1, 0))
        known = np.isin(rows, self.rows)
        found = np.zeros((len(rows), self.features[teacher].shape[1]), np.float32)
        found[known] = self.features[teacher][place[known]]
        return found


def lift(
    scene: PointScene, teachers: Mapping[str, "PixelFeatures"], settings: LiftingSettings
) -> tuple[Ints, dict[str, Halves]]:
    """Rows [M] of points in view, ascending, and their features by teacher [M, D]; a SequenceError for none."""
    chosen, views, totals = _sums(scene, teachers, settings)
    known = views > 0
    if not known.any():
        cure = "Check depth and poses of its views, or leave it out"
        what = f"none of its {len(scene.views)} views sees a point"
        raise SequenceError(what, where=f"scene {scene.name}", cure=cure)
    count = torch.from_numpy(views[known])[:, None]
    halves = {name: as_half(total[torch.from_numpy(known)] / count, scene.name) for name, total in totals.items()}
    return chosen[known], {name: half.numpy() for name, half in halves.items()}


def ambiguity(
    scene: PointScene, teachers: Mapping[str, "PixelFeatures"], settings: LiftingSettings
) -> dict[str, Floats]:
    """How much the features of a point differ from view to view, by teacher [N]; NaN where fewer than two views see it.

    It is their circular variance, 1 - |mean of the features of length one|: 0 where all are alike, at most 1. That
    features differ so is why CUA-O3D weighs teachers (its section 1).
    """
    chosen, views, totals = _sums(scene, teachers, settings, directions=True)
    several, found = views > 1, {}
    for name, total in totals.items():
        found[name] = np.full(len(scene), np.nan, np.float32)
        found[name][chosen[several]] = 1.0 - total.norm(dim=1).numpy()[several] / views[several]
    return found


def _sums(
    scene: PointScene, teachers: Mapping[str, "PixelFeatures"], settings: LiftingSettings, *, directions: bool = False
) -> tuple[Ints, Ints, dict[str, Tensor]]:
    """Rows of points [M], how many views see each [M], and sums of their features, or of their directions, [M, D]."""
    chosen = np.sort(np.random.default_rng(0).permutation(len(scene))[: settings.points or len(scene)])
    points = scene.points[chosen].astype(np.float64)
    totals: dict[str, torch.Tensor] = {}
    views = np.zeros(len(points), np.int64)
    for view in scene.views:
        height = max(1, round(view.camera.height * settings.width / view.camera.width))
        camera = view.camera.resized(settings.width, height)
        lifter = FeatureLifter(camera, float("inf"), tolerance=settings.tolerance, border=settings.border)
        seen = view.world_from_camera.inverse().apply(points)
        projected, shown = camera.project(seen)
        pixels = torch.from_numpy(np.round(projected))
        depth = cv2.resize(view.depth(), (settings.width, height), interpolation=cv2.INTER_NEAREST)
        places = torch.from_numpy(np.where(shown, seen[:, 2], -1.0))[None]
        visible = lifter.visible(pixels[None], places, torch.from_numpy(depth)[None])[0].numpy()
        if not visible.any():
            continue
        views += visible
        image = cv2.resize(view.image(), (settings.width, height), interpolation=cv2.INTER_AREA)
        for name, teacher in teachers.items():
            found = teacher.at(scene, view, np.asarray(image, np.uint8), pixels[visible].float())
            found = functional.normalize(found, dim=1) if directions else found
            total = totals.setdefault(name, torch.zeros(len(points), found.shape[1]))
            if found.shape[1] != total.shape[1]:
                what = f"features of {found.shape[1]} numbers, where views before have {total.shape[1]}"
                where = f"teacher {name}, scene {scene.name}, view {view.name}"
                raise ConfigurationError(what, where=where, cure="Make the features of all views by one model")
            total.index_add_(0, torch.from_numpy(np.flatnonzero(visible)), found)
    return chosen, views, totals


def keep_lifted(
    store: Path,
    source: Mapping[str, Any],  # what names the scenes: where they lie, and how they are read
    name: str,  # of the scene
    read: Callable[[], PointScene],
    teachers: Mapping[str, "PixelFeatures"],
    settings: LiftingSettings,
) -> LiftedScene:
    """A lifted scene; what the store lacks is made first, and then alone the scene is read.

    Raises SequenceError where what lies there is damaged, the scene has too few points or no views; or see `lift`.
    """
    place = keyed(Path(source["folder"]).name, [_VERSION, source, asdict(settings)])
    entry, points = Entry(store / place), f"{name}/points"
    files = {teacher: f"{name}/{keyed('features', one.key(name))}" for teacher, one in teachers.items()}
    missing = {teacher: one for teacher, one in teachers.items() if files[teacher] not in entry}
    if missing or points not in entry:
        scene = read()
        require(scene, "views")
        rows, features = lift(scene, missing, settings)
        for teacher, values in features.items():
            entry.write(files[teacher], {"features": values})
        colours = np.zeros_like(scene.points) if scene.colours is None else scene.colours
        entry.write(points, {"points": scene.points, "colours": colours, "rows": rows})
    found = entry.read(points)
    try:
        features = {teacher: entry.read(file)["features"] for teacher, file in files.items()}
        if any(len(of) != len(found["rows"]) for of in features.values()):
            raise ValueError("features of other points")
        return LiftedScene(found["points"], found["colours"], found["rows"], features)
    except (LookupError, ValueError) as error:
        raise damaged(entry.file(points).parent, error) from error


@dataclass
class PixelTeacher(TeacherSpec):
    """A foundation model whose features of pixels are lifted to points."""

    dim: int = 0  # numbers of one of its features
    model: str = ""  # what `open_teacher` opens, or `files:FOLDER` for `FeatureFiles`
    layer: int = -1  # see `open_teacher`
    cell: int = 14  # pixels of the resized image along the side of a token of a model

    def open(self, device: str = "cpu") -> "PixelFeatures":
        """Opens it; errors as of `open_teacher` and `FeatureFiles`."""
        if self.model.startswith(FILES):
            return FeatureFiles(Path(self.model.removeprefix(FILES)))
        return ExtractedFeatures(open_teacher(self.model, self.layer, device), self.cell)


class PixelFeatures(Protocol):
    """Features of the pixels of views."""

    def key(self, scene: str) -> str:
        """What its features of a scene follow from, besides the images."""

    def at(self, scene: PointScene, view: RgbdView, image: Bytes, pixels: Tensor) -> Tensor:
        """Features [N, D] of pixels.

        `image`: RGB [H, W, 3], that of the view in the size of the training; `pixels`: whole numbers x, y of this
        image, float [N, 2].
        """


class ExtractedFeatures:
    """Features of a foundation model: its tokens, interpolated between their centres."""

    def __init__(self, extractor: DenseExtractor, cell: int) -> None:
        self._extractor, self._cell = extractor, cell

    def key(self, scene: str) -> str:
        """See `PixelFeatures`; reads the weights."""
        identity = dataclasses.replace(self._extractor.identity, name="", text_encoder="")
        return f"{identity} in cells of {self._cell}"

    def at(self, scene: PointScene, view: RgbdView, image: Bytes, pixels: Tensor) -> Tensor:
        """See `PixelFeatures`."""
        shown = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
        tokens = self._extractor.features(shown, self._cell).cpu()
        return FeatureLifter.sampled(TokenMaps(tokens, torch.zeros(1, 2), self._cell), 0, pixels)


class FeatureFiles:
    """Features that another program has computed of each view: FOLDER/SCENE/VIEW.npy.

    An array holds floats [D, h, w] that cover the image evenly, whatever h and w are. Pickles are not read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def key(self, scene: str) -> str:
        """See `PixelFeatures`: the files of the scene, with their sizes and times."""
        found = [(file.name, file.stat()) for file in sorted((self._folder / scene).glob("*"))]
        return f"files of {self._folder.resolve()}: {[(name, of.st_size, of.st_mtime_ns) for name, of in found]}"

    def at(self, scene: PointScene, view: RgbdView, image: Bytes, pixels: Tensor) -> Tensor:
        """See `PixelFeatures`; a `ConfigurationError` where the file is missing or holds nothing such."""
        cure = "Write [D, h, w] features of each view there, see docs/reproduce.md"
        file = self._folder / scene.name / f"{view.name}.npy"
        found = read_array(file, ConfigurationError, cure=cure)
        if found.ndim != 3 or found.dtype.kind != "f" or not found.size:
            raise ConfigurationError(f"holds {found.dtype} {found.shape}", where=str(file), cure=cure)
        cell = torch.tensor([image.shape[1] / found.shape[2], image.shape[0] / found.shape[1]])
        values = torch.from_numpy(np.array(found, np.float32))[None]
        return FeatureLifter.sampled(TokenMaps(values, torch.zeros(1, 2), cell), 0, pixels)


def phrases(classes: Sequence[str]) -> list[str]:
    """Phrases of classes: what is none of the others is "other", wherever it stands."""
    return [BARE if name in OTHERS else name for name in classes]


Input: TypeAlias = Literal["ones", "colour"]


@dataclass
class PointSource:
    """Scenes of a training, see `open_scenes`; the folder is relative to the data root."""

    folder: str
    labels: str = ""
    split: str = ""
    every: int = 1

    def open(self, root: Path) -> Scenes:
        """Its scenes; errors as of `open_scenes`."""
        return open_scenes(root / self.folder, **{name: of for name, of in vars(self).items() if name != "folder"})


@dataclass
class PointDataSettings:
    """Scenes of a training."""

    root: str = "."  # folder the sources are relative to
    sources: list[PointSource] = field(default_factory=list)
    voxel_size: float = 0.02  # edge of the voxels that the network is made for, metres
    # Inputs of a voxel: "ones", so that geometry alone is seen (CUA-O3D), or its colour.
    input: Input = "ones"
    cache: str = "lifted"  # folder for lifted features
    batch_size: int = 4  # scenes a step
    workers: int = 1


def voxel_inputs(colours: Floats, chosen: Ints, kind: Input) -> Floats:
    """What goes into the network for voxels, float32 [V, 3]: ones, or the colours, -1..1, of chosen points."""
    return np.ones((len(chosen), INPUTS), np.float32) if kind == "ones" else 2.0 * colours[chosen] - 1.0


class PointSamples(Dataset[dict[str, Tensor]]):
    """Samples of a training by number, each scene once an epoch; everything random follows from seed and number."""

    def __init__(self, scenes: Sequence[LiftedScene], settings: PointDataSettings, *, seed: int, length: int) -> None:
        self.scenes, self.settings, self.seed, self.length = scenes, settings, seed, length

    def __len__(self) -> int:
        """Samples of the whole training."""
        return self.length

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """Voxels int64 [V, 3], inputs float32 [V, 3], which have targets, bool [V], and of each teacher these [K, D].

        The target of a voxel is that of one of its points.
        """
        epoch, place = divmod(number, len(self.scenes))
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.scenes))
        scene, generator = self.scenes[order[place]], np.random.default_rng((self.seed, epoch, place))
        index, chosen, _ = voxelised(turned(scene.points, generator), self.settings.voxel_size, generator)
        known = np.isin(chosen, scene.rows)
        inputs = voxel_inputs(scene.colours, chosen, self.settings.input)
        arrays = {"voxel_index": index, "inputs": inputs, "known": known}
        sample = {name: torch.from_numpy(array) for name, array in arrays.items()}
        rows = np.searchsorted(scene.rows, chosen[known])
        return sample | {f"target/{name}": torch.from_numpy(of[rows]) for name, of in scene.features.items()}


class PointData(TrainingData):
    """Serves `PointSamples` of the sources of a configuration."""

    def __init__(
        self, given: PointDataSettings, teachers: list[PixelTeacher], lifting: LiftingSettings, *, steps: int, seed: int
    ) -> None:
        super().__init__(given, steps=steps, seed=seed)
        self.teachers, self.lifting = teachers, lifting
        self.scenes: dict[str, LiftedScene] = {}

    def record(self) -> dict[str, Any]:
        """Which scenes there were."""
        return {"scenes": list(self.scenes)}

    def setup(self, stage: str) -> None:
        """Lifts what is missing in the cache.

        Raises ConfigurationError where there is no source, a scene lacks the colours that go in, or a teacher has
        features of another dimension.
        """
        if self.scenes:
            return
        self.require_sources("scenes of points")
        opened = {teacher.name: teacher.open(accelerator().type) for teacher in self.teachers}
        for source in self.settings.sources:
            root = Path(self.settings.root)
            scenes, place = source.open(root), asdict(source) | {"folder": str((root / source.folder).resolve())}
            for name in scenes:
                lifted = keep_lifted(self.store, place, name, partial(scenes.__getitem__, name), opened, self.lifting)
                self.scenes[f"{source.folder}/{name}"] = lifted
                if self.settings.input == "colour" and not lifted.colours.any():
                    cure = "Take data.input=ones, or scenes that have them"
                    raise ConfigurationError("has no colours", where=f"scene {name}", cure=cure)
                for teacher in self.teachers:
                    if (dim := lifted.features[teacher.name].shape[1]) != teacher.dim:
                        what = f"its features have {dim} numbers, not {teacher.dim}"
                        raise ConfigurationError(what, where=f"teachers: {teacher.name}", cure=f"Set dim to {dim}")

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Serves the samples from the trainer's current step on."""
        samples = PointSamples(list(self.scenes.values()), self.settings, seed=self.seed, length=self.length)
        return self.served(samples, collate_fn=in_one)
