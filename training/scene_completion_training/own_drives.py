"""Trainings that go on from a student with drives of one's own, and whether that helped.

The student names what pixels of these drives show and what it knows of their voxels, so that it forgets neither. What
is new comes from their depth. A part of the drives is left out, on which both students are compared.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from scene_completion_ros.evaluation.semantic_classes import ROOM_CLASSES
from scene_completion_ros.inference.bundle import open_student, student_folder
from scene_completion_ros.sequences.posed_sequence import INDEX_NAME
from scene_completion_training import CONFIGS
from scene_completion_training.checkpoints import KEY, Checkpoint, SafeCheckpoints
from scene_completion_training.configuration import read_configuration
from scene_completion_training.data.completion_samples import CompletionSource
from scene_completion_training.data.module import load_sequence, matching
from scene_completion_training.runner import make_stage
from scene_completion_training.stages.completion import CompletionConfiguration
from scene_completion_training.stages.pixels import SeenStage, TrainedPixels
from scene_completion_training.viewpoint import Viewpoint
from scene_completion_training.workers import accelerator

FIFTH = 5  # one of so many drives, or frames of few drives, is kept for the validation
FRAMES = 200  # frames that are prepared for the training at most, and a quarter of that for the validation
# Steps, warm-up, and average of the weights of both parts: with so many frames meant for an hour on two cores.
_PIXELS = {"steps": 150, "warmup": 15, "ema_start": 50, "ema_decay": 0.97, "learning_rate": 0.00033}
_CELLS = {"steps": 600, "warmup": 60, "ema_start": 200, "ema_decay": 0.99, "learning_rate": 0.00033}


def configuration_from(
    student: Path, folders: Sequence[Path], output: Path, overrides: Sequence[str] = ()
) -> CompletionConfiguration:
    """The training that goes on from a student, a folder or a shipped name, with recordings.

    `folders`: recordings, or what `extract` wrote. `overrides`: KEY=VALUE that replace its values. Raises SequenceError
    for recordings that nothing can be learned from; BundleError or ConfigurationError where it cannot go on from the
    student.
    """
    bundle = open_student(student)
    folder = str(student_folder(student).resolve())
    rooms = bundle.class_names == ROOM_CLASSES[1:]
    file = CONFIGS / ("room.yaml" if rooms else "street.yaml")
    camera, volume = Viewpoint.of_bundle(bundle).settings
    usual = read_configuration(file, [], CompletionConfiguration)
    seen = TrainedPixels.read(Path(folder), replace(usual, camera=camera, volume=volume), "--from")
    trained = seen.configuration
    naming, tokens = seen.head.naming[0], seen.head.tokens
    training, validation = _sources(folders)
    values: dict[str, Any] = {
        **{name: trained[name] for name in ("widths", "context", "reduced", "prior") if name in trained},
        **{f"pixels.{name}": value for name, value in _PIXELS.items()},
        **_CELLS,
        "camera": asdict(camera),
        "volume": asdict(volume),
        "start_from": folder,
        "output": str(output),
        "pixels.frozen_blocks": seen.frozen_blocks,
        "pixels.class_branch_channels": naming.out_channels,
        "pixels.merging": tokens is not None,
        "data.batch_size": max(2, usual.data.batch_size),  # single samples are for long trainings
        "data.cache": f"{output}_samples",
        "data.segmentation": folder,
        "data.teachers": [folder],
        "data.sources": [asdict(source) for source in training],
        "data.validation": [asdict(source) for source in validation],
    }
    made = [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in values.items()]
    return read_configuration(file, [*made, *overrides], CompletionConfiguration)


def _sources(folders: Sequence[Path]) -> tuple[list[CompletionSource], list[CompletionSource]]:
    """For training and validation: every fifth drive; of fewer than five drives the last fifth of each."""
    inside = [sorted(folder.glob(f"*/*/{INDEX_NAME}")) or [folder / INDEX_NAME] for folder in folders]
    found = matching(Path(), [CompletionSource(str(file.parent.absolute())) for files in inside for file in files])
    frames = [len(load_sequence(Path(), source)) for source in found]
    every = max(1, -(-sum(frames) * (FIFTH - 1) // (FIFTH * FRAMES)))
    thinned = [replace(source, every=every) for source in found]
    if len(found) >= FIFTH:
        kept = thinned[FIFTH - 1 :: FIFTH]
        return [source for source in thinned if source not in kept], kept
    share = 1.0 - 1.0 / FIFTH
    return [replace(source, last=share) for source in thinned], [replace(source, first=share) for source in thinned]


def compared(configuration: CompletionConfiguration, checkpoint: Path) -> dict[str, tuple[float, float]]:
    """Validation losses, of each part, of the student that a training started from and of the trained one.

    The last checkpoint remembers them, and what that student knew of heights, pitches and lenses besides.
    """
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    record, start = content[KEY], configuration.start_from
    if "validation" not in record:
        found = {}
        for name, part in configuration.parts().items():
            own = replace(part, pixels_from=start) if isinstance(part, CompletionConfiguration) else part
            before: Any = make_stage(own)
            before.start(None)
            trained = Checkpoint.read(Path(part.output) / "checkpoints" / checkpoint.name)
            after: Any = make_stage(part)
            after.field.load_state_dict(dict(trained.state))
            after.trunk.load_state_dict(dict(trained.trunk_weights))
            found[name] = [_validation_loss(stage) for stage in (before, after)]
        record["validation"] = found
        bundle = open_student(start)
        low, high = bundle.focal_range
        known = {"focal_range": (low / 0.99, high / 1.01), "pitch_range": bundle.pitch_range}  # as exports widen it
        for name, range_ in (known | {"height_range": bundle.height_range}).items():
            ends = [*record.get(name, ()), *(range_ or ())]
            if ends:
                record[name] = [min(ends), max(ends)]
        SafeCheckpoints().save_checkpoint(content, checkpoint)
    return {name: (before, after) for name, (before, after) in record["validation"].items()}


def _validation_loss(stage: Any) -> float:
    """Mean of `validation/total` over the frames of the validation."""
    assert isinstance(stage, SeenStage)
    data = stage.make_data()
    data.setup("validate")
    stage.eval().to(accelerator())
    with torch.no_grad():
        totals = [
            stage.validated({name: value.to(stage.device) for name, value in batch.items()}, number)["total"].item()
            for number, batch in enumerate(data.val_dataloader())
        ]
    return sum(totals) / max(1, len(totals))


def in_words(losses: tuple[float, float], start: str) -> str:
    """What validation losses before and after a training say of it."""
    before, after = losses
    verdict = "better" if after < before else f"no better than {start}: keep that"
    return f"validation {before:.3g} -> {after:.3g}: {verdict}"
