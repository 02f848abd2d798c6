"""Voxels and words against ground truth: zero-shot labels, and how well a word finds its voxels.

Labels are scored twice. Given the geometry, all voxels are labelled that the truth calls occupied: what is left is
semantics. In completion, those that the student calls occupied are labelled: semantic scene completion. Words are
ranked given the geometry. A deployed student is scored as trained fields are, and so are controls to beat.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.evaluation import semantic_classes, semantics
from scene_completion_ros.evaluation.metric import Metric, Row, Tally
from scene_completion_ros.evaluation.occupancy import SSCBENCH_RANGES
from scene_completion_ros.evaluation.truth import ALL, OCCLUDED, VISIBLE, VoxelTruth
from scene_completion_ros.inference.text_bank import TextBank, feature_space_for
from scene_completion_ros.sequences.posed_sequence import PosedSequence, holds_exact_voxels
from scene_completion_ros.untrusted_files import read_yaml
from scene_completion_training.arrays import Floats, Ints, Mask
from scene_completion_training.evaluation.deployed import DeployedStudent
from scene_completion_training.evaluation.geometry import voxel_frames
from scene_completion_training.evaluation.predictor import Frame, Prediction, Predictor, voxel_classes
from scene_completion_training.evaluation.semantic_evaluation import codes_of

REGIONS = (ALL, VISIBLE, OCCLUDED)
_CHUNK = 1 << 14  # points in memory at a time


@dataclass(frozen=True, eq=False)
class LabelSet:
    """Classes that labels are scored in."""

    name: str
    class_names: tuple[str, ...]  # "empty", and the classes
    class_map: semantic_classes.ClassMap  # from SemanticKITTI's ids

    @property
    def names(self) -> tuple[str, ...]:
        """The K classes, without "empty"."""
        return self.class_names[1:]

    def phrases(self, bank: TextBank) -> dict[str, tuple[str, ...]]:
        """Phrases of each class that has some, from a bank whose classes are SemanticKITTI's, or of these.

        Those of classes that are one here come together; those of classes that do not count are left out. Raises
        ConfigurationError where a class of the bank is neither, or it has none.
        """
        found: dict[str, tuple[str, ...]] = {}
        for proposed in bank.classes:
            name: str | None = proposed.name
            if name in semantic_classes.SEMANTIC_KITTI_CLASSES[1:]:
                number = int(self.class_map.table[semantic_classes.SEMANTIC_KITTI_CLASSES.index(name)])
                name = None if number == semantic_classes.INVALID else self.class_names[number]
            elif name not in self.names:
                cure = f"Call its classes {', '.join(semantic_classes.SEMANTIC_KITTI_CLASSES[1:])}"
                raise ConfigurationError(f"class {name!r} is none of {self.name}", where=bank.where, cure=cure)
            if name is not None:
                found[name] = (*found.get(name, ()), *proposed.phrases)
        if not found:
            cure = "Make it of a vocabulary with classes, such as street.yaml"
            raise ConfigurationError("has no classes", where=bank.where, cure=cure)
        return found


COMMON = LabelSet("the 15 classes of S4C", semantic_classes.COMMON_CLASSES, semantic_classes.SEMANTIC_KITTI_TO_COMMON)
SEMANTIC_KITTI = LabelSet(
    "the 19 classes of SemanticKITTI", semantic_classes.SEMANTIC_KITTI_CLASSES, semantic_classes.SEMANTIC_KITTI_OFFICIAL
)


def label_set_of(sequence: PosedSequence) -> LabelSet:
    """What a recording is scored in: a town has exact voxels of SemanticKITTI's classes, windows get those of S4C."""
    return SEMANTIC_KITTI if holds_exact_voxels(sequence) else COMMON


def read_words(file: Path) -> dict[str, tuple[int, ...]]:
    """Reads words and SemanticKITTI's ids of what they mean, from YAML as unseen_words.yaml: `words`, word -> classes.

    Raises ConfigurationError for another file, an unknown class, or a word of its `training_vocabulary`.
    """
    cure = f"Write it as unseen_words.yaml; the classes are {', '.join(semantic_classes.SEMANTIC_KITTI_CLASSES[1:])}"
    content = read_yaml(file, ConfigurationError, cure=cure, kind=dict)
    try:
        number_of = semantic_classes.SEMANTIC_KITTI_CLASSES.index
        words = {str(word): tuple(map(number_of, of)) for word, of in content["words"].items()}
        trained = {str(word).casefold() for word in content["training_vocabulary"]}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = f"cannot be read as words and classes ({error})"
        raise ConfigurationError(what, where=str(file), cure=cure) from error
    if seen := [word for word in words if word.casefold() in trained]:
        what = f"{', '.join(seen)}: of the training vocabulary"
        raise ConfigurationError(what, where=str(file), cure="Ask for words that are not in it")
    return words


class ZeroShot:
    """Labels by the best phrase of all classes, and cosines of words (see `read_words`), all of which are in the bank.

    `rows`: phrases of classes, float32 [R, D], of length one; `group`: the class of each [R]. Raises ConfigurationError
    where the bank has other classes than the label set; VocabularyError where a word is not in it.
    """

    def __init__(self, bank: TextBank, label_set: LabelSet, words: Mapping[str, Sequence[int]]) -> None:
        vocabulary = bank.vocabulary(label_set.phrases(bank))
        self.words = words  # words that it scores, and SemanticKITTI's ids of what they mean
        of_class = vocabulary.group >= 0
        self.rows, self._all_rows = vocabulary.rows[of_class], vocabulary.rows
        self._words = bank.rows(list(words)) if words else self.rows[:0]
        self.group = np.array([label_set.names.index(name) for name in vocabulary.names])[vocabulary.group[of_class]]
        self.classes = len(label_set.names)

    def __call__(self, seen: Prediction, points: Floats) -> tuple[Ints, Floats, Floats]:
        """Classes of points [N, 3], K for none; cosines of words [N, W]; mean cosines of all phrases [N].

        Cosines are minus infinity where there is no feature.
        """
        parts = []
        for start in range(0, max(1, len(points)), _CHUNK):
            features = codes_of(seen, points[start : start + _CHUNK])
            labels = semantics.best_classes(semantics.class_scores(features, self.rows, self.group, self.classes))
            of_words, of_all = (semantics.cosines(features, rows) for rows in (self._words, self._all_rows))
            parts.append((labels, of_words, of_all.mean(axis=1)))
        labels, cosine, common = (np.concatenate(part) for part in zip(*parts, strict=True))
        return labels, cosine, common


class WordAnswer:
    """Classes and words of the voxels of a frame by a model, see `ZERO_SHOT`, `WORDS` and `OPEN_COMPLETION`.

    `ids`, `true`: labels of SemanticKITTI of the labelled voxels that count [L], and their classes in the label set;
    `parts`: part -> which of them lie in it, bool [L]; `predicted`, `cosine`, `common`: of `ZeroShot` there; `classes`:
    true classes [X, Y, Z]; `volume`: labels of what the density calls occupied, 0 empty, class k as k + 1.
    """

    def __init__(
        self, truth: VoxelTruth, seen: Prediction, judge: ZeroShot, label_set: LabelSet, cutoff: float
    ) -> None:
        self.truth, self.classes, counted = truth, voxel_classes(truth, label_set.class_map), truth.counted
        ids, points = truth.labels[counted], truth.centres(counted)
        labelled = (ids != semantic_classes.EMPTY) & (ids != semantic_classes.INVALID)
        number = self.classes[counted][labelled].astype(np.int64)
        self.ids, self.true = ids[labelled], np.where(number == semantic_classes.INVALID, number, number - 1)
        self.parts: dict[semantics.Part, Mask] = {}
        for range_m in SSCBENCH_RANGES:
            near = np.zeros(truth.grid.shape, np.bool_)
            near[truth.grid.cropped(range_m)] = True
            for region in REGIONS:
                self.parts[range_m, region] = (near & truth.regions[region])[counted][labelled]
        dense = seen.density(points) > cutoff
        known = dense | labelled
        labels, cosine, common = judge(seen, points[known])
        there = labelled[known]
        self.predicted, self.cosine, self.common = labels[there], cosine[there], common[there]
        self.volume = np.zeros(truth.grid.shape, np.uint8)
        self.volume.reshape(-1)[np.flatnonzero(counted)[dense]] = 1 + labels[dense[known]]


class Asked:
    """A model with what gives classes to its points, as a method that is scored."""

    def __init__(self, model: Predictor, judge: ZeroShot, label_set: LabelSet, cutoff: float) -> None:
        self.name, self.words, self.label_set, self.class_names = model.name, judge.words, label_set, label_set.names
        self._model, self._judge, self._cutoff = model, judge, cutoff

    def answer(self, frame: Frame) -> WordAnswer:
        """Complete a frame that has voxels."""
        seen = self._model.complete(frame.sequence, frame.index)
        return WordAnswer(frame.voxels, seen, self._judge, self.label_set, self._cutoff)


class OpenCompletionTally(Tally):
    """`SemanticCompletionMetric` of each region; voxels without a label count as empty."""

    def __init__(self, method: Asked) -> None:
        self._label_set = method.label_set
        self._regions: dict[str, semantics.SemanticCompletionMetric] = {}

    def add(self, answer: WordAnswer) -> None:
        """Count a frame."""
        truth, names = answer.truth, self._label_set.class_names
        for region in REGIONS:
            if region not in self._regions:
                self._regions[region] = semantics.SemanticCompletionMetric(truth.grid, len(names) + 1, names)
            self._regions[region].update(answer.volume, answer.classes, truth.regions[region])
        self.frames += 1

    def rows(self) -> Iterator[Row]:
        """By region and range."""
        class_of_label = np.append(np.arange(len(self._label_set.names) + 1), -1)
        for region, metric in self._regions.items():
            for range_m, scores in metric.compute(class_of_label).items():
                yield {"range_m": range_m, "region": region, **scores}


OPEN_COMPLETION = Metric(
    "completion",
    "Semantic scene completion by words, at the student's own threshold, in percent.",
    semantics.COLUMNS,
    OpenCompletionTally,
    by=("region",),
    across="range_m",
)
METRICS = (semantics.ZERO_SHOT, OPEN_COMPLETION, semantics.WORDS)


class DeployedFeatures(Predictor):
    """A student read in the space of a bank's texts, by its own encoder; a `VocabularyError` without one."""

    def __init__(self, student: DeployedStudent, bank: TextBank, density: Predictor) -> None:
        self.name, self._student, self._density = f"{student.name}, deployed", student, density
        self._space = feature_space_for(student.bundle.feature_spaces, bank, student.bundle.name)

    def complete(self, sequence: PosedSequence, index: int) -> Prediction:
        """Encode the reference camera's image of a frame."""
        units = self._student.complete(sequence, index).units
        assert units is not None
        seen = self._density.complete(sequence, index)
        return replace(seen, codes=lambda points: self._space.features(units(points)).astype(np.float32))


class ClassPrior(Predictor):
    """A control: one feature [D] for all points, of a phrase of the `most_frequent` class; words rank them alike."""

    def __init__(self, label: str, row: Floats, density: Predictor) -> None:
        self.name, self._row, self._density = f"class prior: {label}", row, density

    def complete(self, sequence: PosedSequence, index: int) -> Prediction:
        """The same features at every frame."""
        seen = self._density.complete(sequence, index)
        return replace(seen, codes=lambda points: np.tile(self._row, (len(points), 1)))


def most_frequent(recordings: Sequence[PosedSequence], label_set: LabelSet, phrased: Sequence[int]) -> int:
    """The most frequent class of labelled voxels in view that has phrases; a `ConfigurationError` without any."""
    counts = np.zeros(len(label_set.names), np.int64)
    for frame in voxel_frames(recordings):
        classes = voxel_classes(frame.voxels, label_set.class_map)[frame.voxels.counted]
        labelled = (classes != semantic_classes.EMPTY) & (classes != semantic_classes.INVALID)
        counts += np.bincount(classes[labelled] - 1, minlength=len(counts))
    if not counts.any():
        what = "no voxel is labelled"
        cure = "Name recordings with ground truth"
        raise ConfigurationError(what, where=", ".join(sequence.name for sequence in recordings), cure=cure)
    return max(phrased, key=lambda number: int(counts[number]))
