"""Which thing a sentence means, by off-the-shelf features: as ScanRefer asks it (Chen et al., ECCV 2020).

Things are proposed, true or found ones. A layer on the features of each (its own, its box, and those of the things near
it: what relations are about) and a layer on the embedding of the sentence meet in a product; the largest one answers.
"""

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
from scene_completion_training.evaluation.instances import InstanceHead, Thing, true_things
from scene_completion_training.evaluation.point_probe import Levels, side_by_side
from scene_completion_training.points.scene import PointScene

OVERLAPS = (0.25, 0.5)
NEAR = 1.0  # metres over which the features of other things fade
# Channels in which both meet, which is a choice of this project; AdamW and epochs as published (MSM, T17).
WIDTH, LEARNING_RATE, WEIGHT_DECAY, EPOCHS = 128, 5e-4, 1e-5, 10
_MOST_BYTES = 1 << 28
_CURE = "Name a file in the layout of ScanRefer: a list of objects with scene_id, object_id and description"

Encoder = Callable[[Sequence[str]], Tensor]


def read_phrases(file: Path) -> dict[str, list[tuple[str, int]]]:
    """Sentences of a JSON file in ScanRefer's layout, by the name of their scene, each with the number of its thing.

    Raises SequenceError where it is none.
    """
    found: dict[str, list[tuple[str, int]]] = {}
    for number, entry in enumerate(read_json(file, SequenceError, cure=_CURE, kind=list, most_bytes=_MOST_BYTES)):
        match entry:
            case {"scene_id": str(scene), "object_id": str() | int() as thing, "description": str(text)} if (
                str(thing).isdecimal() and text.strip()
            ):
                found.setdefault(scene, []).append((text, int(thing)))
            case _:
                raise SequenceError(f"entry {number} is no sentence about a thing", where=str(file), cure=_CURE)
    return found


def box_overlap(one: NDArray[np.floating], other: NDArray[np.floating]) -> NDArray[np.float64]:
    """Intersection over union of boxes [..., 6], lower corner and upper; 0 where a box has no volume."""
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


def asked(
    scene: PointScene, levels: Levels, phrases: Sequence[tuple[str, int]], finder: InstanceHead | None = None
) -> Asked:
    """Questions about a scene, of sentences of `read_phrases`.

    Raises SequenceError where the scene has not all things that the sentences are about.

    `levels`: features of all points; `finder`: finds the things on offer; by default the true ones are.
    """
    true, whole = true_things(scene), side_by_side(levels, range(len(levels)))
    if missing := sorted({thing for _, thing in phrases} - true.keys()):
        what, cure = f"has no thing {missing[0]}, which a sentence is about", "Name the scenes of the sentences"
        raise SequenceError(what, where=scene.name, cure=cure)
    offered = list(true.values()) if finder is None else finder.things(scene.points, levels)
    boxes = _boxes(scene.points, offered)
    true_boxes = _boxes(scene.points, [true[thing] for _, thing in phrases])
    features = np.array([whole[thing.rows].mean(axis=0) for thing in offered], np.float32)
    labels = [thing.label for thing in true.values()]
    unique = np.array([labels.count(true[thing].label) == 1 for _, thing in phrases], np.bool_)
    about = described(boxes, features) if offered else features
    return Asked(boxes, about, tuple(text for text, _ in phrases), true_boxes, unique)


def _boxes(points: NDArray[np.float32], things: Sequence[Thing]) -> NDArray[np.float32]:
    corners = [(points[thing.rows].min(axis=0), points[thing.rows].max(axis=0)) for thing in things]
    return np.array(corners, np.float32).reshape(-1, 6)


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

    def __init__(self, name: str, things: Tensor, text_size: int) -> None:
        super().__init__()
        self.name = name
        self.mean, self.scale = things.mean(dim=0), things.std(dim=0, correction=0) + 1e-6
        self.thing, self.text = nn.Linear(things.shape[1], WIDTH), nn.Linear(text_size, WIDTH)

    def forward(self, things: Tensor, texts: Tensor) -> Tensor:
        """Logits [Q, P] of things on offer [P, F] for embeddings of sentences [Q, T]."""
        answer: Tensor = self.text(texts) @ self.thing((things - self.mean) / self.scale).T / WIDTH**0.5
        return answer

    def answers(self, scene: Asked, encode: Encoder) -> "Grounded":
        """What it takes the sentences about a scene to mean; nothing is on offer where nothing was found."""
        if not len(scene.boxes):
            return Grounded(np.zeros(len(scene.texts)), scene.unique)
        with torch.no_grad():
            logits: Tensor = self(torch.from_numpy(scene.described), encode(scene.texts))
        return Grounded(box_overlap(scene.boxes[logits.argmax(dim=1).numpy()], scene.true_boxes), scene.unique)


def fit_grounding(name: str, scenes: Sequence[Asked], encode: Encoder, *, seed: int) -> GroundingHead:
    """Fits a head to sentences about scenes: cross-entropy with the offered thing whose box overlaps the true one most.

    Raises ConfigurationError where there is no sentence.
    """
    samples = []
    for scene in scenes:
        overlap = box_overlap(scene.true_boxes[:, None], scene.boxes) if len(scene.boxes) else np.zeros((1, 1))
        if (there := overlap.max(axis=1) >= OVERLAPS[0]).any():  # what was not found teaches nothing
            meant = torch.from_numpy(overlap.argmax(axis=1)[there])
            samples.append((torch.from_numpy(scene.described), encode(scene.texts)[torch.from_numpy(there)], meant))
    if not samples:
        cure = "Name the sentences of these scenes, by their names and the numbers of their instances"
        raise ConfigurationError("no sentence is about a thing of --train", where="--phrases", cure=cure)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = GroundingHead(name, torch.cat([things for things, _, _ in samples]), samples[0][1].shape[1])
    optimiser = torch.optim.AdamW(head.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    order = np.random.default_rng(seed)
    for _ in range(EPOCHS):
        for number in order.permutation(len(samples)).tolist():
            things, texts, meant = samples[number]
            optimiser.zero_grad()
            torch.autograd.backward(functional.cross_entropy(head(things, texts), meant))
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
