"""Zero-shot labels of voxels: scores of phrases, mean IoU and accuracy, average precision.

A voxel has a feature, and phrases have embeddings in the same space. The score of a class is the best cosine of its
phrases. A feature of zeros, or one that is not finite, is none: its scores are minus infinity and its label is the
number of classes. Such voxels count as misses here. In the released code of OpenScene (Peng et al., CVPR 2023) and
CUA-O3D (Li et al., CVPR 2025) they leave the confusion matrix. That figure has a name of its own here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import GridError
from scene_completion_ros.evaluation.class_confusion import class_confusion, class_iou, mean_iou
from scene_completion_ros.evaluation.metric import Column, Metric, Row, Tally

Part: TypeAlias = tuple[float, str]  # range in metres and name of the region that voxels are counted in


def unit_vectors(features: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Features [N, D] of length one, float32; zeros where there is none."""
    largest = np.abs(features).max(axis=1, keepdims=True, initial=0.0)
    found = np.isfinite(largest) & (largest > 0.0)
    scaled = np.where(found, features, 0.0) / np.where(found, largest, 1.0)  # squares neither vanish nor overflow
    return np.asarray(scaled / np.where(found, np.linalg.norm(scaled, axis=1, keepdims=True), 1.0), np.float32)


def cosines(features: NDArray[np.floating[Any]], rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosines [N, R] of features [N, D] with rows [R, D] of length one; minus infinity where there is no feature."""
    units = unit_vectors(features)
    return np.where(units.any(axis=1, keepdims=True), units @ rows.T, np.float32(-np.inf))


def class_scores(
    features: NDArray[np.floating[Any]], rows: NDArray[np.float32], group: NDArray[np.integer[Any]], classes: int
) -> NDArray[np.float32]:
    """Best cosine of the phrases of each class.

    Returns float32 [N, classes]; minus infinity where there is no feature, and for classes without phrases. `features`:
    float [N, D]; `rows`: embeddings of the phrases, float32 [R, D], of length one; `group`: class of each row [R]; rows
    of others than 0 .. classes - 1 are left out.
    """
    found = cosines(features, rows)
    scores = np.full((len(features), classes), -np.inf, np.float32)
    for number in np.unique(group[(group >= 0) & (group < classes)]):
        scores[:, number] = found[:, group == number].max(axis=1)
    return scores


def best_classes(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Class [N] with the largest of scores [N, K]; K where there is no feature."""
    labels = scores.argmax(axis=1)
    labels[np.isneginf(scores).all(axis=1)] = scores.shape[1]
    return np.asarray(labels, np.int64)


@dataclass(frozen=True)
class ZeroShotScores:
    """Scores of labels on voxels whose class is known; NaN where a figure is not defined."""

    voxels: int
    without_feature: int  # voxels without a label among them: they are misses, but for `released_mean_iou`
    accuracy: float  # share of the voxels whose label is right: it says what large classes gain, which the means hide
    mean_iou: float  # mean IoU over the classes in the truth
    mean_iou_of_all: float  # the same sum, divided by the number of all classes
    mean_accuracy: float  # mean recall over the classes in the truth
    mean_accuracy_of_all: float  # the same sum, divided by the number of all classes: the released code's mean accuracy
    # As the released code has it: voxels without a label leave the confusion matrix, and the sum is divided by the
    # number of all classes. A class that is left with no voxel, where that code fails, is 0.
    released_mean_iou: float
    class_iou: dict[str, float]  # class -> IoU; NaN for those that are neither true nor said
    class_accuracy: dict[str, float]  # class -> recall; NaN for those that are not true


def zero_shot_scores(confusion: NDArray[np.int64], names: Sequence[str]) -> ZeroShotScores:
    """Score a confusion matrix. Raises GridError where the matrix has another shape.

    `confusion`: int64 [K + 1, K] of `class_confusion`; the last row holds voxels without a label; `names`: the K
    classes.
    """
    classes = len(names)
    if confusion.shape != (classes + 1, classes):
        what = f"shape {confusion.shape} for {classes} classes"
        raise GridError(what, where="confusion", cure="Give a row for each class and one for voxels without a label")
    true = confusion.sum(axis=0)
    present = true > 0
    iou = class_iou(confusion)
    accuracy = np.divide(np.diagonal(confusion), true, out=np.full(classes, np.nan), where=present)
    share = float(present.mean()) if present.any() else float("nan")
    return ZeroShotScores(
        voxels=int(true.sum()),
        without_feature=int(confusion[classes].sum()),
        accuracy=float(np.trace(confusion[:classes]) / true.sum()) if present.any() else float("nan"),
        mean_iou=mean_iou(iou[present]),
        mean_iou_of_all=mean_iou(iou[present]) * share,
        mean_accuracy=mean_iou(accuracy[present]),
        mean_accuracy_of_all=mean_iou(accuracy[present]) * share,
        released_mean_iou=mean_iou(class_iou(confusion[:classes])[present]) * share,
        class_iou=dict(zip(names, iou.tolist(), strict=True)),
        class_accuracy=dict(zip(names, accuracy.tolist(), strict=True)),
    )


class ZeroShotMetric(Tally):
    """Scores of `names`, K classes, by parts; answers: `predicted`, `true` [N], `parts`; methods: `class_names`."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.confusion: dict[Part, NDArray[np.int64]] = {}  # part -> int64 [K + 1, K]

    def update(
        self, labels: NDArray[np.integer[Any]], truth: NDArray[np.integer[Any]], parts: Mapping[Part, NDArray[np.bool_]]
    ) -> None:
        """Count voxels. Raises GridError: shapes differ, or a class is out of range.

        `labels`: said classes [N], K for none; `truth`: True classes [N]; -1 and 255 do not count; `parts`: part ->
        which voxels are in it, bool [N]. Parts may overlap.
        """
        for part, mask in parts.items():
            counts = class_confusion(labels, truth, len(self.names) + 1, len(self.names), mask)
            self.confusion[part] = self.confusion.get(part, 0) + counts

    def compute(self) -> dict[Part, ZeroShotScores]:
        """Part -> scores."""
        return {part: zero_shot_scores(counts, self.names) for part, counts in self.confusion.items()}

    def add(self, answer: Any) -> None:
        """Count the labelled voxels of a frame."""
        self.update(answer.predicted, answer.true, answer.parts)
        self.frames += 1

    def rows(self) -> Iterator[Row]:
        """By range and region."""
        for (range_m, region), scores in self.compute().items():
            yield {"range_m": range_m, "region": region, **asdict(scores)}


def average_precision(score: NDArray[np.floating[Any]], positive: NDArray[np.bool_]) -> float:
    """Precision summed over the steps of recall, voxels with equal scores taken together; exact.

    Equal scores everywhere give the share of positives, and a random ranking does so but for O(log N / N). Returns
    0..1; NaN without positives. Raises GridError where the shapes differ, or a score is not a number. `score`: float
    [N], larger is more likely; minus infinity is last; `positive`: bool [N].
    """
    if score.shape != positive.shape or np.isnan(score).any():
        what = f"scores {score.shape} of which {int(np.isnan(score).sum())} are not numbers, truth {positive.shape}"
        raise GridError(what, where="score", cure="Give one number a voxel")
    if not positive.any():
        return float("nan")
    order = np.argsort(-score, kind="stable")
    score, positive = score[order], positive[order]
    last = np.flatnonzero(np.append(score[1:] != score[:-1], True))  # of every block of equal scores
    found = np.cumsum(positive)[last]
    return float(np.sum(np.diff(found, prepend=0) * (found / (last + 1))) / found[-1])


@dataclass(frozen=True)
class WordScores:
    """How well a word finds its voxels; NaN where there is no positive.

    A voxel of which little is sure has a mixture of features. That lies near what all sentences have in common, and so
    near any word: by the cosine alone such a voxel comes first. The contrast takes that away.
    """

    voxels: int
    positives: int  # voxels of the classes that it means
    prior: float  # their share: the average precision of a score that says nothing
    # Of the voxels, ranked by the contrast: the word's cosine less the mean of those of all phrases of the vocabulary.
    average_precision: float
    average_precision_of_cosine: float  # the same, ranked by the word's cosine


class WordMetric(Tally):
    """Average precision of words over all voxels of all updates, within each part.

    It keeps every score, 4 bytes for each voxel and word: ranks are exact. A method has `words`; its answers have
    `cosine`, `common`, true `ids`, and `parts`. `words`: word -> the true classes that it means.
    """

    def __init__(self, words: Mapping[str, Sequence[int]]) -> None:
        self.words = {word: np.asarray(classes, np.int64) for word, classes in words.items()}
        self._kept: list[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.integer[Any]]]] = []
        self._parts: dict[Part, list[NDArray[np.bool_]]] = {}

    def update(
        self,
        # Cosine of each word, float32 [N, W], in the order of the words; minus infinity without a feature.
        cosine: NDArray[np.float32],
        common: NDArray[np.float32],  # mean cosine of all phrases of the vocabulary, float32 [N]
        truth: NDArray[np.integer[Any]],  # True classes [N], all of them known
        # Part -> which voxels are in it, bool [N]; the same parts with every update.
        parts: Mapping[Part, NDArray[np.bool_]],
    ) -> None:
        """Keep voxels."""
        self._kept.append((cosine, common, truth))
        for part, mask in parts.items():
            self._parts.setdefault(part, []).append(mask)

    def compute(self) -> dict[str, dict[Part, WordScores]]:
        """Word -> part -> scores; no word where nothing was kept."""
        if not self._kept:
            return {}
        common, truth = (np.concatenate([kept[place] for kept in self._kept]) for place in (1, 2))
        parts = {part: np.concatenate(masks) for part, masks in self._parts.items()}
        none = np.isneginf(common)
        result: dict[str, dict[Part, WordScores]] = {}
        for number, (word, classes) in enumerate(self.words.items()):
            cosine = np.concatenate([kept[0][:, number] for kept in self._kept])
            contrast = np.subtract(cosine, common, out=np.full_like(cosine, -np.inf), where=~none)
            positive = np.isin(truth, classes)
            result[word] = {
                part: WordScores(
                    voxels=int(mask.sum()),
                    positives=int(positive[mask].sum()),
                    prior=float(positive[mask].mean()) if mask.any() else float("nan"),
                    average_precision=average_precision(contrast[mask], positive[mask]),
                    average_precision_of_cosine=average_precision(cosine[mask], positive[mask]),
                )
                for part, mask in parts.items()
            }
        return result

    def add(self, answer: Any) -> None:
        """Keep the labelled voxels of a frame, if the method was asked for words."""
        if self.words:
            self.update(answer.cosine, answer.common, answer.ids, answer.parts)
            self.frames += 1

    def rows(self) -> Iterator[Row]:
        """By word, range and region; the last word is the mean of those that some voxel is meant by."""
        found = self.compute()
        for word, parts in found.items():
            for (range_m, region), scores in parts.items():
                means = self.words[word].tolist()
                yield {"word": word, "means": means, "range_m": range_m, "region": region, **asdict(scores)}
        for range_m, region in next(iter(found.values()), {}):
            meant = [asdict(parts[range_m, region]) for parts in found.values() if parts[range_m, region].positives]
            if meant:
                mean = {key: float(np.mean([scores[key] for scores in meant])) for key in meant[0]}
                yield {"word": "mean", "means": [], "range_m": range_m, "region": region, **mean}


ZERO_SHOT = Metric(
    "zero_shot",
    "Labels of the voxels that the truth calls occupied, in percent. `of all` divides by the number of all classes. As "
    "released, voxels without a feature leave the count.",
    (
        Column("mean_iou", "mIoU"),
        Column("mean_iou_of_all", "mIoU of all"),
        Column("released_mean_iou", "as released"),
        Column("mean_accuracy", "mAcc"),
        Column("mean_accuracy_of_all", "mAcc of all"),
        Column("accuracy", "accuracy"),
        Column("without_feature", "without a feature"),
    ),
    lambda method: ZeroShotMetric(method.class_names),
    by=("region",),
    across="range_m",
    classes="class_iou",
)
WORDS = Metric(
    "words",
    "How well a word finds its voxels among those that the truth calls occupied: average precision by contrast and by "
    "cosine, in percent, beside the prior of a score that says nothing.",
    (
        Column("prior", "prior"),
        Column("average_precision", "average precision"),
        Column("average_precision_of_cosine", "by cosine"),
    ),
    lambda method: WordMetric(method.words),
    by=("word", "region"),
    across="range_m",
)
