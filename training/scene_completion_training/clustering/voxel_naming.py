"""From a few named voxels to a student that knows their classes.

A linear layer is fitted to the few on features that were learned without labels. Those are the student's own label
units, or what a network of masked scene modelling says of the voxel and what is around it. In the first case that layer
is the label head of the student already. In the second it names many voxels, and the head is fitted to what these are
called.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.inference.bundle import WEIGHTS, StudentBundle
from scene_completion_training.clustering.clusters import LabelHead, fit_label_head, logistic_head
from scene_completion_training.clustering.named_voxels import NamedVoxels
from scene_completion_training.masked_scene.scenes import FEATURES, VoxelScene

SOME_VOXELS = 2000
"""Voxels of a frame that say how features spread, and that the head is fitted to, drawn at random."""
TRUST = 0.1
"""Weight of a named voxel against small weights of the classes: ten a class lie apart in many directions by chance."""
FOLDS = 5

FeaturesOfRows = Callable[[VoxelScene, NDArray[np.int64]], NDArray[np.float32]]
"""Features [n, D] of the voxels at rows [n] of a scene."""


def label_units(scene: VoxelScene, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """The student's label units [n, E] of the voxels at rows [n] of a scene that has them."""
    return scene.features[rows, len(FEATURES) :]


@dataclass(eq=False)
class VoxelNamer:
    """Collects named voxels and others of frames, and makes the label head of a student of them.

    Args:
        named: The names.
        features: What voxels are told apart by; None for the student's units.
        seed: Of the voxels that are drawn.
    """

    named: NamedVoxels
    features: FeaturesOfRows | None = None
    seed: int = 0
    _of_named: list[NDArray[np.float32]] = field(init=False, default_factory=list)
    _classes: list[NDArray[np.int64]] = field(init=False, default_factory=list)
    _units: list[NDArray[np.float32]] = field(init=False, default_factory=list)
    _of_some: list[NDArray[np.float32]] = field(init=False, default_factory=list)

    def look(self, recording: str, frame: int, scene: VoxelScene) -> None:
        """Takes a frame in.

        Raises:
            ConfigurationError: A named voxel of it is not occupied.
        """
        rows, classes = self.named.rows((recording, frame), scene.index, scene.shape)
        generator = np.random.default_rng([self.seed, frame])
        some = generator.permutation(len(scene))[:SOME_VOXELS]
        requested = np.concatenate([rows, some])
        units = label_units(scene, requested)
        features = units if self.features is None else self.features(scene, requested)
        self._of_named.append(features[: len(rows)])
        self._classes.append(classes)
        self._units.append(units)
        self._of_some.append(features[len(rows) :])

    def head(self) -> NamedHead:
        """The label head of all frames that were taken in.

        Raises:
            ConfigurationError: The named voxels of these frames are of fewer than two classes.
        """
        features, some = np.concatenate(self._of_named), np.concatenate(self._of_some)
        classes = np.concatenate(self._classes)
        count = len(self.named.class_names)
        if len(np.unique(classes)) < 2:
            raise ConfigurationError(
                f"{len(classes)} named voxels of fewer than two classes", where=self.named.where, cure="Name more"
            )

        def fitted(chosen: NDArray[np.bool_]) -> LabelHead:
            of = features[chosen], classes[chosen]
            return logistic_head(*of, count, around=some, weight=TRUST, balanced=True)

        few = fitted(np.ones(len(classes), np.bool_))
        right = np.zeros(len(classes), np.bool_)
        fold = np.random.default_rng(self.seed).permutation(len(classes)) % FOLDS
        for number in range(FOLDS):
            out = fold == number
            if out.any() and len(np.unique(classes[~out])) > 1:
                right[out] = fitted(~out).assign(features[out]) == classes[out]
        if self.features is None:
            return NamedHead(few, float(right.mean()), 1.0, len(classes))
        units = np.concatenate(self._units)
        called = np.concatenate(
            [part for named, of in zip(self._classes, self._of_some, strict=True) for part in (named, few.assign(of))]
        )
        order = np.random.default_rng(self.seed).permutation(len(units))
        head = fit_label_head(units[order], called[order], count)
        return NamedHead(head, float(right.mean()), head.agreement, len(classes))


@dataclass(frozen=True, eq=False)
class NamedHead:
    """A label head, and how far it is to be believed.

    Attributes:
        found_again: Share of the named voxels that get their name where a fifth of them is left out of the fit.
        agreement: Share of other voxels to which the head gives the class that the features give them.
        voxels: Named voxels.
    """

    head: LabelHead
    found_again: float
    agreement: float
    voxels: int


def check_student(bundle: StudentBundle, folder: Path | None) -> None:
    """Refuses what would fail after the work.

    Args:
        bundle: A saved student.
        folder: Where the student with the named classes goes.

    Raises:
        ConfigurationError: The student has no label units, or the folder is its own.
    """
    if not bundle.head.label_hidden:
        raise ConfigurationError(
            "has no label units, which classes follow from",
            where=f"student {bundle.name}",
            cure="Take a student with classes: kitti_student, or one of scene-completion export --classes",
        )
    if folder is not None and bundle.encoder_path.parent.resolve() == folder.resolve():
        raise ConfigurationError("is the student itself", where=str(folder), cure="Name another folder")


def write_named(
    bundle: StudentBundle, found: NamedHead, named: NamedVoxels, folder: Path, *, features: str
) -> StudentBundle:
    """Writes a student with the named classes in place of those it has; returns it as loaded from there.

    Args:
        bundle: A saved student with label units.
        features: What told the voxels apart, for the record.

    Raises:
        ConfigurationError: See `check_student`.
    """
    check_student(bundle, folder)
    has_weights = WEIGHTS in bundle.sha256 and (bundle.encoder_path.parent / WEIGHTS).is_file()
    record: dict[str, Any] = {
        "named_voxels": found.voxels,
        "features": features,
        "found_again": round(found.found_again, 4),
        "agreement_with_features": round(found.agreement, 4),
    }
    changed = dataclasses.replace(
        bundle,
        name=folder.resolve().name,
        head=dataclasses.replace(bundle.head, label_weight=found.head.weight, label_bias=found.head.bias),
        class_names=named.class_names,
        class_colours=named.class_colours,
        provenance={**bundle.provenance, "labels": record},
    )
    return changed.save(folder, bundle.read_encoder(), bundle.load_weights() if has_weights else None)
