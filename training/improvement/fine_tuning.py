"""A student learns from new drives and old ones: its training, its export with the labels it had, its parity check."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from numpy.typing import NDArray
from onnx import numpy_helper

from scene_completion_ros.errors import BundleError, ConfigurationError, ImprovementError
from scene_completion_ros.inference.bundle import WEIGHTS, StudentBundle
from scene_completion_ros.inference.encoder import Encoder, make_encoder
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.configuration import Configuration, LossWeights, read_configuration
from scene_completion_training.export import encoder_onnx, export_bundle, give_volume_of, labelled_parts_kept
from scene_completion_training.gpu_export.images import canonical_images
from scene_completion_training.gpu_export.parity import GATES, ParityCheck, Reference, density_field
from scene_completion_training.viewpoint import Viewpoint

STEPS, CHECKPOINT_EVERY = 600, 50
LEARNING_RATE = 3e-4
PARITY_IMAGES = 6
_KEPT_SETTINGS = ("encoder", "spatial", "frozen_blocks")
"""What a student's own configuration says of its network."""
_SAME = 0.01
"""Norm of the difference of two constants, as a share of their norm, below which they are the same."""
_LABEL_TOLERANCE = 1e-3
"""Largest difference of label units from those before, as a share of their largest value."""


def write_configuration(
    file: Path,
    bundle: StudentBundle,
    sources: Sequence[Path],
    replay: Sequence[Path],
    *,
    steps: int,
    output: Path,
    cache: Path,
) -> None:
    """Writes the configuration of a training that goes on from a student, for `scene-completion train`.

    The network is that of the student. One with labels keeps its encoder: they read it, and so do words.

    Args:
        sources: Folders of the new drives.
        replay: Folders of old ones, which the student is not to forget.
        steps: Optimiser steps.
        output: Folder for checkpoints.
        cache: Folder for prepared frames.
    """
    trained = bundle.provenance.get("configuration", {})
    frozen = bool(bundle.head.label_hidden)
    halved = Viewpoint.of_bundle(bundle).camera.width > bundle.canonical.width
    losses = {name: value for name, value in trained.get("losses", {}).items() if name in vars(LossWeights())}
    if frozen:  # depth is what the encoder says
        losses |= {"dense_depth": 0.0}
    content = {
        "stage": "single_view",
        "start_from": str(bundle.folder),
        "steps": steps,
        "checkpoint_every": next(every for every in range(min(CHECKPOINT_EVERY, steps), 0, -1) if steps % every == 0),
        "half_resolution_steps": steps if halved else 0,
        "learning_rate": LEARNING_RATE,
        "warmup": max(1, steps // 10),
        "hidden": bundle.head.hidden,
        "freeze_encoder": frozen,
        "output": str(output),
        "picture_every": 0,
        "losses": losses,
        "data": {
            "root": "/",
            "cache": str(cache),
            "workers": 0,
            "sources": [{"folder": str(folder.resolve())} for folder in (*sources, *replay)],
        },
        **{name: trained[name] for name in _KEPT_SETTINGS if trained.get(name) is not None},
    }
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def read_training(file: Path, overrides: Sequence[str]) -> Configuration:
    """The configuration, with the user's `KEY=VALUE` in place of its values.

    Raises:
        ConfigurationError: A key is unknown, or a value cannot be used.
    """
    try:
        return read_configuration(file, list(overrides), Configuration)
    except argparse.ArgumentError as error:
        raise ConfigurationError(
            str(error), where="--set", cure="Give KEY=VALUE as after `scene-completion train`"
        ) from error


def export_improved(
    checkpoint: Path, old: StudentBundle, folder: Path, *, name: str, provenance: Mapping[str, Any]
) -> StudentBundle:
    """Exports a fine-tuned student; labels, words and licence are those of the old one.

    Raises:
        BundleError: The labels of the old student cannot be kept beside the new density.
    """
    history = {**provenance, "improved_from": {"name": old.name, "sha256": dict(old.sha256)}}
    new = export_bundle(checkpoint, folder, name=name, licence=old.licence, provenance=history)
    low, high = zip(old.focal_range, new.focal_range, strict=True)
    changes: dict[str, Any] = {"focal_range": (min(low), max(high))}
    if not old.head.label_hidden:
        return dataclasses.replace(new, **changes).save(folder, new.read_encoder(), new.load_weights())
    before = density_field(old, str(Checkpoint.read(checkpoint).configuration.get("encoder_weights", "")))
    give_volume_of(old, before)
    encoder = encoder_with_new_density(old.read_encoder(), encoder_onnx(before, old.canonical), new.read_encoder())
    provenance = {**new.provenance, "labels": old.provenance.get("labels", {})}
    labelled = dataclasses.replace(
        old,
        name=name,
        head=labelled_parts_kept(new.head, old.head),
        calibration=new.calibration,
        provenance=provenance,
        **changes,
    )
    return labelled.save(folder, encoder, new.load_weights())


def encoder_with_new_density(labelled: bytes, before: bytes, after: bytes) -> bytes:
    """An encoder with labels whose density is another one.

    The graphs of the density before and after have the same names. What differs between them is looked up by its
    values in the graph with labels, and replaced there.

    Args:
        labelled: The encoder with labels.
        before: The encoder of its density alone.
        after: That of the new density alone.

    Raises:
        BundleError: The graph with labels lacks a part of the density.
    """
    graph = onnx.load_from_string(labelled)
    old, new = (_constants(onnx.load_from_string(part)) for part in (before, after))
    places = {tensor.name: number for number, tensor in enumerate(graph.graph.initializer)}
    stored = _constants(graph)
    if old.keys() != new.keys():
        raise BundleError("its network is another one than before", where="export", cure="Keep the student's network")
    for name in old:
        if np.array_equal(old[name], new[name]):
            continue
        same = [place for place, values in stored.items() if _alike(values, old[name])]
        if len(same) != 1:
            raise BundleError(
                f"the part {name} of its density is not in the encoder with labels",
                where="export",
                cure="Name a student whose weights.safetensors and encoder.onnx belong together",
            )
        tensor = numpy_helper.from_array(new[name].astype(stored[same[0]].dtype), same[0])
        graph.graph.initializer[places[same[0]]].CopyFrom(tensor)
    onnx.checker.check_model(graph)
    return bytes(graph.SerializeToString())


def _alike(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two constants are the same but for weights being rounded to float16 before or after they are folded."""
    if one.shape != other.shape or one.dtype.kind != "f":
        return False
    size, off = (float(np.linalg.norm(part.astype(np.float64))) for part in (other, one.astype(np.float64) - other))
    return off <= _SAME * size


def _constants(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def check_parity(
    new: StudentBundle,
    old: StudentBundle,
    images_of: Sequence[Path],
    *,
    engine: str = "auto",
    threads: int | None = None,
    encoder_weights: str = "",
) -> dict[str, float]:
    """Compares the exported student with its weights in torch, and its labels with those before.

    Args:
        images_of: Recordings whose images are looked at.
        engine: What runs the encoder on the robot.
        encoder_weights: See `Reference`.

    Returns:
        What was measured: name -> value.

    Raises:
        ImprovementError: The export is farther off than float32 may be, or says other labels.
    """
    images = canonical_images(images_of, new.canonical, PARITY_IMAGES)
    reference = Reference(new, threads=threads, encoder_weights=encoder_weights)
    encoder = make_encoder(new, engine, threads=threads)

    def exported(batch: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        encoded = [encoder.encode(image).copy() for image in batch]
        parts = zip(*encoded, strict=True)
        return [np.stack(part) for part in parts if part[0] is not None]

    found = ParityCheck(new, images, reference.encode)(exported)
    failures = found.failures(GATES["fp32"])
    hidden = new.head.hidden
    if new.head.label_hidden:
        before = make_encoder(old, engine, threads=threads)
        off = max(_label_difference(encoder, before, image, hidden) for image in images)
        if not off <= _LABEL_TOLERANCE:
            failures.append(f"label units differ by {off:.2g} of their largest value")
    if failures:
        raise ImprovementError(
            "; ".join(failures),
            where=f"parity with {WEIGHTS}",
            cure="The old student stays. Start again with another --output, and report this if it comes again",
        )
    return {name: float(value) for name, value in dataclasses.asdict(found).items()}


def _label_difference(new: Encoder, old: Encoder, image: NDArray[np.uint8], hidden: int) -> float:
    units = [encoder.encode(image).features[..., hidden:].copy() for encoder in (new, old)]
    return float(np.abs(units[0] - units[1]).max() / max(float(np.abs(units[1]).max()), 1e-9))
