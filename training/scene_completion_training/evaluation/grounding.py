"""Which thing a sentence means, by off-the-shelf features: as ScanRefer asks it (Chen et al., ECCV 2020).

Things are proposed, true or found ones. A layer on the features of each (its own, its box, and those of the things near
it: what relations are about) and a layer on the embedding of the sentence meet in a product; the largest one answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_ros.errors import ConfigurationError, SequenceError
from scene_completion_ros.evaluation.metric import Column, Metric, Row, Tally
from scene_completion_ros.untrusted_files import read_json
from scene_completion_training.evaluation.instances import InstanceHead, true_things
from scene_completion_training.evaluation.point_probe import Levels, side_by_side
from scene_completion_training.points.scene import PointScene

OVERLAPS = (0.25, 0.5)
NEAR = 1.0
"""Metres over which the features of other things fade."""
WIDTH, LEARNING_RATE, WEIGHT_DECAY, EPOCHS = 128, 5e-4, 1e-5, 10
"""Channels in which both meet, which is a choice of this project; AdamW and epochs as published (MSM, T17)."""
_MOST_BYTES = 1 << 28
_CURE = "Name a file in the layout of ScanRefer: a list of objects with scene_id, object_id and description"

Encoder = Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True)
class Phrase:
    """A sentence that means one thing of a scene."""

    text: str
    thing: int  # number of the true thing, as `PointScene.instance` has it


def read_phrases(file: Path) -> dict[str, list[Phrase]]:
    """Sentences of a JSON file in ScanRefer's layout, by the name of their scene.

    Raises:
        SequenceError: It is none.
    """
    found: dict[str, list[Phrase]] = {}
    for place, entry in enumerate(read_json(file, SequenceError, cure=_CURE, kind=list, most_bytes=_MOST_BYTES)):
        match entry:
            case {"scene_id": str(scene), "object_id": str() | int() as thing, "description": str(text)} if (
                str(thing).isdecimal() and text.strip()
            ):
                found.setdefault(scene, []).append(Phrase(text, int(thing)))
            case _:
                raise SequenceError(f"entry {place} is no sentence about a thing", where=str(file), cure=_CURE)
    return found


def box_of(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Lower and upper corner of the box around points [N, 3], along the axes, [6]."""
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def box_overlap(one: NDArray[np.floating], other: NDArray[np.floating]) -> NDArray[np.float64]:
    """Intersection over union of boxes [..., 6], see `box_of`; 0 where a box has no volume."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    shared = np.minimum(one[..., 3:], other[..., 3:]) - np.maximum(one[..., :3], other[..., :3])
    inside = np.clip(shared, 0.0, None).prod(axis=-1)
    union = (one[..., 3:] - one[..., :3]).prod(axis=-1) + (other[..., 3:] - other[..., :3]).prod(axis=-1) - inside
    return np.asarray(np.divide(inside, union, out=np.zeros_like(inside), where=union > 0.0))


@dataclass(frozen=True, eq=False)
class Asked:
    """Sentences about a scene, and the things that it offers."""

    boxes: NDArray[np.float32]  # [P, 6] of the things on offer
    described: NDArray[np.float32]  # [P, F], see `described`
    texts: tuple[str, ...]  # Q sentences
    true_boxes: NDArray[np.float32]  # [Q, 6]
    unique: NDArray[np.bool_]  # [Q], whether the scene has one thing of the class that is meant


class Questions:
    """What the sentences of a file ask about scenes.

    Args:
        file: See `read_phrases`.
        finder: Finds the things on offer; by default the true ones are.
    """

    def __init__(self, file: Path, finder: InstanceHead | None = None) -> None:
        self.phrases, self.finder = read_phrases(file), finder

    def about(self, scene: PointScene, levels: Levels) -> Asked | None:
        """What is asked about a scene, by the features of all its points; None if nothing, or nothing is on offer."""
        true = true_things(scene)
        offered = list(true.values()) if self.finder is None else self.finder.things(scene.points, levels)
        known = [phrase for phrase in self.phrases.get(scene.name, []) if phrase.thing in true]
        if not known or not offered:
            return None
        labels = [thing.label for thing in true.values()]
        boxes = np.stack([box_of(scene.points[thing.rows]) for thing in offered])
        whole = side_by_side(levels, range(len(levels)))
        features = [whole[thing.rows].mean(axis=0) for thing in offered]
        return Asked(
            boxes,
            described(boxes, np.stack(features)),
            tuple(phrase.text for phrase in known),
            np.stack([box_of(scene.points[true[phrase.thing].rows]) for phrase in known]),
            np.array([labels.count(true[phrase.thing].label) == 1 for phrase in known]),
        )


def described(boxes: NDArray[np.float32], features: NDArray[np.float32]) -> NDArray[np.float32]:
    """What is known of things with boxes [P, 6] and features [P, E]: [P, 2 E + 6].

    Their features, those of the others by nearness, exp(-distance / `NEAR`), the middle of the box from that of all
    boxes and its size, metres.
    """
    middle, size = (boxes[:, :3] + boxes[:, 3:]) / 2.0, boxes[:, 3:] - boxes[:, :3]
    near = np.exp(-np.linalg.norm(middle[:, None] - middle, axis=-1) / NEAR) * (1.0 - np.eye(len(boxes)))
    around = near @ features / np.maximum(near.sum(axis=1, keepdims=True), 1e-6)
    return np.concatenate([features, around, middle - middle.mean(axis=0), size], axis=1).astype(np.float32)


class GroundingHead(nn.Module):
    """Says which of the things on offer a sentence means."""

    def __init__(self, name: str, things: NDArray[np.float32], text_size: int) -> None:
        super().__init__()
        self.name = name
        self.mean, self.scale = torch.from_numpy(things.mean(axis=0)), torch.from_numpy(things.std(axis=0) + 1e-6)
        self.thing, self.text = nn.Linear(things.shape[1], WIDTH), nn.Linear(text_size, WIDTH)

    def forward(self, things: Tensor, texts: Tensor) -> Tensor:
        """Logits [Q, P] of things on offer [P, F] for embeddings of sentences [Q, T]."""
        answer: Tensor = self.text(texts) @ self.thing((things - self.mean) / self.scale).T / WIDTH**0.5
        return answer

    def answers(self, scene: Asked, encode: Encoder) -> Grounded:
        """What it takes the sentences about a scene to mean."""
        with torch.no_grad():
            chosen: NDArray[np.int64] = (
                self(torch.from_numpy(scene.described), encode(scene.texts)).argmax(dim=1).numpy()
            )
        return Grounded(box_overlap(scene.boxes[chosen], scene.true_boxes), scene.unique)


def fit_grounding(name: str, scenes: Sequence[Asked], encode: Encoder, *, seed: int) -> GroundingHead:
    """Fits a head to sentences about scenes: cross-entropy with the offered thing whose box overlaps the true one most.

    Raises:
        ConfigurationError: There is no sentence.
    """
    if not scenes:
        cure = "Name the sentences of these scenes, by their names and the numbers of their instances"
        raise ConfigurationError("no sentence is about a thing of --train", where="--phrases", cure=cure)
    texts = [encode(scene.texts) for scene in scenes]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = GroundingHead(name, np.concatenate([scene.described for scene in scenes]), texts[0].shape[1])
    optimiser = torch.optim.AdamW(head.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    order = np.random.default_rng(seed)
    for _ in range(EPOCHS):
        for number in order.permutation(len(scenes)).tolist():
            scene = scenes[number]
            meant = box_overlap(scene.true_boxes[:, None], scene.boxes).argmax(axis=1)
            loss = functional.cross_entropy(
                head(torch.from_numpy(scene.described), texts[number]), torch.from_numpy(meant)
            )
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
    return head.eval()


@dataclass(frozen=True, eq=False)
class Grounded:
    """Boxes that sentences were taken to mean, for `GROUNDING`."""

    overlap: NDArray[np.float64]  # [Q], with the true boxes
    unique: NDArray[np.bool_]  # [Q]


class GroundingTally(Tally):
    """Share of the sentences whose box overlaps the true one enough."""

    def __init__(self) -> None:
        self.answers: list[Grounded] = []

    def add(self, answer: Grounded) -> None:
        """Count the sentences about a scene."""
        self.answers.append(answer)
        self.frames += 1

    def rows(self) -> Iterator[Row]:
        """Of sentences about the only thing of its class, about one of several, and of all."""
        overlap = np.concatenate([answer.overlap for answer in self.answers])
        unique = np.concatenate([answer.unique for answer in self.answers])
        for what, part in (("unique", unique), ("multiple", ~unique), ("overall", np.ones_like(unique))):
            shares = {
                f"accuracy{100 * least:g}": float((overlap[part] >= least).mean()) if part.any() else float("nan")
                for least in OVERLAPS
            }
            yield {"things": what, "sentences": int(part.sum()), **shares}


GROUNDING = Metric(
    "grounding",
    "Share of sentences whose box overlaps the true one by at least 25 and 50 % (protocol of ScanRefer), in percent.",
    (Column("accuracy25", "at 25 %"), Column("accuracy50", "at 50 %")),
    lambda _: GroundingTally(),
    by=("things", "sentences"),
)
