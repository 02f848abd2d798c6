"""How much of the classes the features of voxels hold: linear and nearest-neighbour probes of each level and of all.

Features of several levels are probed side by side, each level alone, and all levels but one. Curves say how few labels
are enough: a share of the labelled scenes, or a few labelled voxels of each. These are the protocols of masked scene
modelling (its layer and limited-annotation tables). What is probed stays as it is: a probe sees arrays.

Features of zeros are none. Such voxels count as misses, and no probe learns from them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.evaluation.class_confusion import class_confusion
from scene_completion_ros.evaluation.zero_shot import ZeroShotScores, zero_shot_scores
from scene_completion_training.evaluation.linear_probe import LinearProbe, fit_linear_probe
from scene_completion_training.evaluation.nearest_neighbour import FeatureBank

Reading: TypeAlias = Literal["linear", "nearest", "neighbours"]
"""Ways to read classes off features: a linear layer, the nearest labelled feature, a vote of the nearest 20."""
READINGS: tuple[Reading, ...] = get_args(Reading)


@dataclass(frozen=True, eq=False)
class LabelledFeatures:
    """Labelled voxels of one scene, in random order.

    Attributes:
        levels: Features of each level, float32 [N, D_l].
        classes: int64 [N], in 0 .. K - 1.

    Raises:
        ConfigurationError: A level has other voxels than the classes.
    """

    levels: tuple[NDArray[np.float32], ...]
    classes: NDArray[np.int64]

    def __post_init__(self) -> None:
        shapes = [level.shape for level in self.levels]
        if not shapes or any(len(shape) != 2 or shape[0] != len(self.classes) for shape in shapes):
            raise ConfigurationError(
                f"features {shapes} of {len(self.classes)} labelled voxels",
                where="probe",
                cure="Give a row of features of each level to each labelled voxel",
            )

    def seen(self, levels: Sequence[int], voxels: int | None = None) -> NDArray[np.float32]:
        """Features [n, D] of some levels side by side, of the first voxels, or of all."""
        return np.concatenate([self.levels[level][:voxels] for level in levels], axis=1)


@dataclass(frozen=True)
class Variant:
    """What a probe may see.

    Attributes:
        kind: What is varied: "all" (nothing), "alone", "without", "scenes" or "voxels".
        value: The level, the share of the scenes or the labelled voxels of a scene, as a word.
        levels: Numbers of the levels.
        share: Part of the training scenes, of which at least one stays.
        voxels: Labelled voxels of a scene, at most; None for all.
    """

    kind: str
    value: str
    levels: tuple[int, ...]
    share: float = 1.0
    voxels: int | None = None


@dataclass(frozen=True)
class ProbeSettings:
    """How probes are fitted.

    Attributes:
        steps: Of the linear probe; None for its own.
        bank: Features of a class among which neighbours are looked for, at most.
        shares: Parts of the training scenes that a curve has beside all.
        voxels: Labelled voxels of a scene that a curve has beside all.
        each_level: Also probe each level alone, and all levels but one.

    Raises:
        ConfigurationError: A figure is out of range.
    """

    steps: int | None = None
    bank: int = 200
    shares: tuple[float, ...] = (0.01, 0.05, 0.1, 0.2)
    voxels: tuple[int, ...] = (20, 50, 100, 200)
    each_level: bool = True

    def __post_init__(self) -> None:
        counts = [self.bank, *self.voxels, *([] if self.steps is None else [self.steps])]
        if min(counts) < 1 or any(not 0.0 < share < 1.0 for share in self.shares):
            raise ConfigurationError(
                f"steps {self.steps}, bank {self.bank}, voxels {self.voxels}, shares {self.shares}",
                where="probe",
                cure="Counts are at least 1, shares lie between 0 and 1",
            )

    def variants(self, levels: Sequence[str]) -> tuple[Variant, ...]:
        """All that is probed of features with levels of these names."""
        every = tuple(range(len(levels)))
        found = [Variant("all", "all", every)]
        if self.each_level and len(levels) > 1:
            found += [Variant("alone", name, (number,)) for number, name in enumerate(levels)]
            found += [
                Variant("without", name, tuple(other for other in every if other != number))
                for number, name in enumerate(levels)
            ]
        found += [Variant("scenes", f"{share:g}", every, share=share) for share in self.shares]
        return (*found, *(Variant("voxels", f"{voxels}", every, voxels=voxels) for voxels in self.voxels))


@dataclass(frozen=True, eq=False)
class Probe:
    """Both probes of one variant.

    Attributes:
        scenes, voxels: What they were fitted to.
    """

    variant: Variant
    linear: LinearProbe
    bank: FeatureBank
    scenes: int
    voxels: int

    def labels(self, features: LabelledFeatures) -> dict[Reading, NDArray[np.int64]]:
        """What each reading says of voxels: int64 [N], K where there is no feature."""
        values = features.seen(self.variant.levels)
        nearest, voted = self.bank.labels(values)
        linear = self.linear.labels(values)
        linear[~values.any(axis=1)] = self.bank.count
        return {"linear": linear, "nearest": nearest, "neighbours": voted}


def fit_probes(
    scenes: Sequence[LabelledFeatures],
    levels: Sequence[str],
    count: int,
    settings: ProbeSettings,
    *,
    seed: int = 0,
) -> list[Probe]:
    """Fits the probes of all variants.

    Scenes and voxels of a smaller part are also in every larger one: curves compare numbers of labels, not draws.

    Args:
        scenes: Training scenes, their labelled voxels in random order.
        levels: Names of the levels.
        count: Number of classes K.

    Raises:
        ConfigurationError: There is no labelled voxel, or all are of one class.
    """
    filled = [scene for scene in scenes if len(scene.classes)]
    if not filled:
        raise ConfigurationError(
            f"none of {len(scenes)} scenes has a labelled voxel", where="probe", cure="Name recordings that have"
        )
    order = np.random.default_rng(seed).permutation(len(filled))
    probes = []
    for variant in settings.variants(levels):
        taken = [filled[number] for number in order[: max(1, math.ceil(variant.share * len(filled) - 1e-9))]]
        values = np.concatenate([scene.seen(variant.levels, variant.voxels) for scene in taken])
        classes = np.concatenate([scene.classes[: variant.voxels] for scene in taken])
        known = values.any(axis=1)
        values, classes = values[known], classes[known]
        probes.append(
            Probe(
                variant,
                fit_linear_probe(values, classes, count, seed=seed, steps=settings.steps),
                FeatureBank.balanced(values, classes, count, most=settings.bank, seed=seed),
                len(taken),
                len(classes),
            )
        )
    return probes


@dataclass(frozen=True, eq=False)
class ProbeScores:
    """What the probes of one variant score.

    Attributes:
        scenes, voxels: What they were fitted to.
        readings: Reading -> scores; `mean_iou` is over the classes in the truth, `mean_iou_of_all` divides their sum
            by the number of all classes.
    """

    variant: Variant
    scenes: int
    voxels: int
    readings: Mapping[Reading, ZeroShotScores]


def score_probes(
    probes: Sequence[Probe], scenes: Iterable[LabelledFeatures], names: Sequence[str]
) -> list[ProbeScores]:
    """Scores probes on test scenes, all of which count into one confusion matrix.

    Args:
        names: The K classes.

    Raises:
        ConfigurationError: No test scene has a labelled voxel.
    """
    counts = [{reading: np.zeros((len(names) + 1, len(names)), np.int64) for reading in READINGS} for _ in probes]
    for scene in scenes:
        for probe, of_probe in zip(probes, counts, strict=True):
            for reading, labels in probe.labels(scene).items():
                of_probe[reading] += class_confusion(labels, scene.classes, len(names) + 1, len(names))
    if not probes or not counts[0]["linear"].any():
        raise ConfigurationError(
            "no test scene has a labelled voxel", where="probe", cure="Name recordings with ground truth voxels"
        )
    return [
        ProbeScores(
            probe.variant,
            probe.scenes,
            probe.voxels,
            {reading: zero_shot_scores(of_reading, names) for reading, of_reading in of_probe.items()},
        )
        for probe, of_probe in zip(probes, counts, strict=True)
    ]
