"""Zero-shot labels of voxels: scores of phrases, mean IoU and accuracy, average precision.

A voxel has a feature, and phrases have embeddings in the same space. The score of a class is the best cosine of its
phrases. A feature of zeros, or one that is not finite, is none: its scores are minus infinity and its label is the
number of classes. Such voxels count as misses here. In the released code of OpenScene (Peng et al., CVPR 2023) and
CUA-O3D (Li et al., CVPR 2025) they leave the confusion matrix. That figure has a name of its own here.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.evaluation.class_confusion import class_confusion, class_iou, mean_iou
from scene_completion_ros.evaluation.metric import Column, Metric, Row, Tally

Part: TypeAlias = tuple[float, str]  # range in metres and name of the region that voxels are counted in
_OF_WORDS = ("cosine", "common", "ids", "parts")  # what is kept of answers


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


def zero_shot_scores(confusion: NDArray[np.int64], names: Sequence[str]) -> Row:
    """Score labels on voxels whose class is known, NaN where a figure is not defined.

    `confusion`: int64 [K + 1, K] of `class_confusion`; the last row holds voxels without a label; `names`: the K
    classes.
    """
    classes = len(names)
    assert confusion.shape == (classes + 1, classes)
    true = confusion.sum(axis=0)
    present = true > 0
    iou = class_iou(confusion)
    accuracy = np.divide(np.diagonal(confusion), true, out=np.full(classes, np.nan), where=present)
    share = float(present.mean()) if present.any() else float("nan")
    return {
        "voxels": int(true.sum()),
        # Voxels without a label among them: they are misses, but for `released_mean_iou`.
        "without_feature": int(confusion[classes].sum()),
        # Share of the voxels whose label is right: it says what large classes gain, which the means hide.
        "accuracy": float(np.trace(confusion[:classes]) / true.sum()) if present.any() else float("nan"),
        "mean_iou": mean_iou(iou[present]),  # over the classes in the truth
        "mean_iou_of_all": mean_iou(iou[present]) * share,  # the same sum, divided by the number of all classes
        "mean_accuracy": mean_iou(accuracy[present]),  # mean recall over the classes in the truth
        # The same sum, divided by the number of all classes: the released code's mean accuracy.
        "mean_accuracy_of_all": mean_iou(accuracy[present]) * share,
        # As the released code has it: voxels without a label leave the confusion matrix, and the sum is divided by the
        # number of all classes. A class that is left with no voxel, where that code fails, is 0.
        "released_mean_iou": mean_iou(class_iou(confusion[:classes])[present]) * share,
        "class_iou": dict(zip(names, iou.tolist(), strict=True)),  # NaN for those that are neither true nor said
        "class_accuracy": dict(zip(names, accuracy.tolist(), strict=True)),  # recall; NaN for those that are not true
    }


class ZeroShotMetric(Tally):
    """Scores of `names`, K classes, by parts.

    Answers have `predicted`, classes [N], K for none; `true`, classes [N], of which -1 and 255 do not count; and
    `parts`: part -> which voxels are in it, bool [N]. Parts may overlap.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._confusion: dict[Part, NDArray[np.int64]] = {}  # part -> int64 [K + 1, K]

    def add(self, answer: Any) -> None:
        """Count the labelled voxels of a frame."""
        for part, mask in answer.parts.items():
            counts = class_confusion(answer.predicted, answer.true, len(self.names) + 1, len(self.names), mask)
            self._confusion[part] = self._confusion.get(part, 0) + counts
        self.frames += 1

    def rows(self) -> Iterator[Row]:
        """By range and region."""
        for (range_m, region), counts in self._confusion.items():
            yield {"range_m": range_m, "region": region, **zero_shot_scores(counts, self.names)}


def average_precision(score: NDArray[np.floating[Any]], positive: NDArray[np.bool_]) -> float:
    """Precision summed over the steps of recall, voxels with equal scores taken together; exact.

    Equal scores everywhere give the share of positives, and a random ranking does so but for O(log N / N). Returns
    0..1; NaN without positives. `score`: float [N], larger is more likely; minus infinity is last; `positive`: bool
    [N].
    """
    assert score.shape == positive.shape and not np.isnan(score).any()
    if not positive.any():
        return float("nan")
    order = np.argsort(-score, kind="stable")
    score, positive = score[order], positive[order]
    last = np.flatnonzero(np.append(score[1:] != score[:-1], True))  # of every block of equal scores
    found = np.cumsum(positive)[last]
    return float(np.sum(np.diff(found, prepend=0) * (found / (last + 1))) / found[-1])


class WordMetric(Tally):
    """Average precision of words over all voxels of all frames, within each part.

    It keeps every score, 4 bytes for each voxel and word: ranks are exact. A method has `words`: word -> the true
    classes that it means. Its answers have `cosine` of each word, float32 [N, W], minus infinity without a feature;
    `common`, the mean cosine of all phrases of the vocabulary, float32 [N]; true `ids` [N], all of them known; and
    `parts`: part -> which voxels are in it, bool [N], the same parts with every answer.

    A voxel of which little is sure has a mixture of features. That lies near what all sentences have in common, and so
    near any word: by the cosine alone such a voxel comes first. The contrast takes that away: the word's cosine less
    the mean of those of all phrases.
    """

    def __init__(self, words: Mapping[str, Sequence[int]]) -> None:
        self.words = words
        self._answers: list[Any] = []

    def add(self, answer: Any) -> None:
        """Keep the labelled voxels of a frame, if the method was asked for words."""
        if self.words:
            self._answers.append(SimpleNamespace(**{name: getattr(answer, name) for name in _OF_WORDS}))
            self.frames += 1

    def rows(self) -> Iterator[Row]:
        """By word, range and region; the last word is the mean of those that some voxel is meant by."""
        if not self._answers:
            return
        cosines, common, ids = (
            np.concatenate([getattr(kept, name) for kept in self._answers]) for name in _OF_WORDS[:3]
        )
        masks = {part: np.concatenate([kept.parts[part] for kept in self._answers]) for part in self._answers[0].parts}
        meant: dict[Part, list[Row]] = {part: [] for part in masks}
        for number, (word, classes) in enumerate(self.words.items()):
            cosine, positive = cosines[:, number], np.isin(ids, classes)
            contrast = np.subtract(cosine, common, out=np.full_like(cosine, -np.inf), where=~np.isneginf(common))
            for part, mask in masks.items():
                figures = {
                    "voxels": int(mask.sum()),
                    "positives": int(positive[mask].sum()),  # voxels of the classes that it means
                    # Their share: the average precision of a score that says nothing.
                    "prior": float(positive[mask].mean()) if mask.any() else float("nan"),
                    "average_precision": average_precision(contrast[mask], positive[mask]),  # NaN without positives
                    "average_precision_of_cosine": average_precision(cosine[mask], positive[mask]),
                }
                meant[part] += [figures] if figures["positives"] else []
                yield {"word": word, "means": list(classes), "range_m": part[0], "region": part[1], **figures}
        for (range_m, region), each in meant.items():
            if each:
                mean = {key: float(np.mean([figures[key] for figures in each])) for key in each[0]}
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
