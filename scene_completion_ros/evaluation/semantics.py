"""Measures of semantics: confusion of classes, names for clusters, completed voxels, zero-shot labels from words.

Every confusion matrix here has a row for each predicted label and a column for each true class. Predicted labels may be
clusters without a name; `renamed` gives them one afterwards, exactly as if the predictions themselves were renamed.

An assignment is int64 [clusters]: a class for each cluster, or `UNASSIGNED`. It may be fitted on one set and applied to
another, with `renamed`. Fitting it on the scored set itself, as most published figures do, gives a method what it could
not know. The more clusters, the more a many-to-one assignment flatters: tables have `match_one_to_one`.

Semantic scene completion on SSCBench-KITTI-360 under the protocol of S4C and SceneDINO.

All frames are counted into one confusion matrix (micro average), within 12.8, 25.6 and 51.2 m. A range reaches so far
ahead, half of it to each side, and the full height. Geometry is "any class" against "empty". The mean IoU is over all
classes but "empty"; a class that is neither predicted nor true counts as 0. What is predicted as "empty" is empty,
however dense it is. Unlike in SSCBench's official protocol of 18 classes, what lies outside of the camera's field of
view does not count, nor does free space under the road: the scores of the two cannot be compared.

Hayler et al., "S4C" (3DV 2024); Jevtić et al., "Feed-Forward SceneDINO" (ICCV 2025); Li et al., "SSCBench" (arXiv
2306.09001). Unlike in the published code, renamed clusters carry their class's name into every row of a result.

Zero-shot labels of voxels: scores of phrases, mean IoU and accuracy, average precision.

A voxel has a feature, and phrases have embeddings in the same space. The score of a class is the best cosine of its
phrases. A feature of zeros, or one that is not finite, is none: its scores are minus infinity and its label is the
number of classes. Such voxels count as misses here. In the released code of OpenScene (Peng et al., CVPR 2023) and
CUA-O3D (Li et al., CVPR 2025) they leave the confusion matrix. That figure has a name of its own here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
from scipy.optimize import linear_sum_assignment

from scene_completion_ros.arrays import Doubles, Floats, Integers, Ints, Mask, Reals
from scene_completion_ros.evaluation import occupancy, semantic_classes
from scene_completion_ros.evaluation.metric import Metric, Row, Tally, columns
from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES, EMPTY, INVALID
from scene_completion_ros.geometry.grids import VoxelGrid

IGNORED = (-1, 255)  # truth that does not count, of label images and of voxels

UNASSIGNED = -1  # class of a cluster that got none


def class_confusion(
    predicted: Integers,  # labels [...] in 0 .. labels - 1, where the truth counts; anything elsewhere
    truth: Integers,  # classes [...] in 0 .. classes - 1; -1 and 255 do not count
    labels: int,
    classes: int,
    counted: Mask | None = None,  # bool [...], what else does not count; all by default
) -> Ints:
    """Counts int64 [labels, classes]."""
    assert predicted.shape == truth.shape and (counted is None or counted.shape == truth.shape)
    keep = (truth != IGNORED[0]) & (truth != IGNORED[1])
    if counted is not None:
        keep &= counted
    found, true = predicted[keep].astype(np.int64), truth[keep].astype(np.int64)
    for name, values, limit in (("predicted", found, labels), ("true", true, classes)):
        assert not values.size or (values.min() >= 0 and values.max() < limit), f"{name} labels outside 0..{limit - 1}"
    return np.bincount(found * classes + true, minlength=labels * classes).reshape(labels, classes).astype(np.int64)


def renamed(confusion: Ints, class_of_label: Integers, unassigned: int | None = None) -> Ints:
    """Give the predicted labels of a confusion matrix the names of classes.

    Rows of one class add up, so that row and column i are both class i. So no table made from the result can show a
    class under another one's name. Returns int64 [classes + 1, classes]; the last row holds predictions of no class.
    `confusion`: int64 [labels, classes]; `class_of_label`: [labels], classes or `UNASSIGNED`; `unassigned`: class that
    labels without one count as; by default they are no class's, and wrong everywhere.
    """
    labels, classes = confusion.shape
    names = np.asarray(class_of_label, dtype=np.int64)
    assert names.shape == (labels,) and (names >= UNASSIGNED).all() and (names < classes).all()
    rows = np.where(names == UNASSIGNED, classes if unassigned is None else unassigned, names)
    result = np.zeros((classes + 1, classes), dtype=np.int64)
    np.add.at(result, rows, confusion)
    return result


def class_iou(confusion: Ints) -> Doubles:
    """Intersection over union of every class: TP / (row + column - TP).

    Returns float64 [classes]; NaN where a class is neither predicted nor true. `confusion`: int64 [rows, classes], rows
    >= classes; row i is what was predicted as class i, further rows are predictions of no class.
    """
    classes = confusion.shape[1]
    hit = np.diagonal(confusion[:classes])
    union = confusion[:classes].sum(axis=1) + confusion.sum(axis=0) - hit
    with np.errstate(invalid="ignore"):
        return np.asarray(hit / union, dtype=np.float64)


def mean_iou(iou: Doubles) -> float:
    """Mean over classes [classes]; a class that is nowhere (NaN) counts as 0."""
    return float(np.nan_to_num(iou).mean()) if iou.size else float("nan")


Match: TypeAlias = Callable[[Integers], Ints]


def match_one_to_one(confusion: Integers) -> Ints:
    """Assign each class to at most one cluster so that most pixels or voxels agree (Hungarian method).

    Returns int64 [clusters]. With more clusters than classes the leftover ones are `UNASSIGNED`; with fewer, some
    classes have no cluster. A cluster may get a class it never falls together with, where only such ones are left.
    `confusion`: [clusters, classes], see `class_confusion`.
    """
    clusters, classes = linear_sum_assignment(confusion, maximize=True)
    assignment = np.full(confusion.shape[0], UNASSIGNED, dtype=np.int64)
    assignment[clusters] = classes
    return assignment


def match_cityscapes(confusion: Integers) -> Ints:
    """Assign clusters Cityscapes' classes, each at most once, and by them the common classes that these count as.

    So SceneDINO's 19 clusters are named. Two of them may be buildings (one stands for the walls), two other vehicles
    (buses, trains). Sky and rider count as empty: such clusters are `UNASSIGNED`. `confusion`: [clusters,
    common classes without "empty"].
    """
    found = semantic_classes.CITYSCAPES_TO_COMMON.table[: len(semantic_classes.CITYSCAPES_CLASSES)].astype(np.int64)
    columns = found[found != EMPTY] - 1
    named = match_one_to_one(confusion[:, columns])
    return np.where(named == UNASSIGNED, UNASSIGNED, columns[named])


def match_occupied(confusion: Integers, match: Match = match_one_to_one) -> Ints:
    """Name the clusters of voxels by what is occupied in prediction and truth; empty stays empty.

    There is far more free space than anything else: with it, a cluster that spreads a little beyond surfaces would be
    called empty. Returns int64 [1 + clusters]. `confusion`: [1 + clusters, classes]; row and column 0 are empty;
    `match`: how the other rows are matched with the other columns.
    """
    named = match(confusion[1:, 1:])
    return np.concatenate([[0], np.where(named == UNASSIGNED, UNASSIGNED, named + 1)]).astype(np.int64)


SSCBENCH_GRID = VoxelGrid((0.0, -25.6, -2.0), 0.2, (256, 256, 32), "velodyne")
GROUND_LAYERS = 7  # height indices in which empty voxels below everything do not count: 1.4 m


def additional_invalid(truth: Integers) -> Mask:
    """Empty voxels of the lowest layers that have no occupied voxel below them in their column.

    LiDAR sees no ground through the ground: below it, free is only what was never measured. Returns bool [X, Y, Z].
    `truth`: classes [X, Y, Z], z up, after they are mapped; 255 does not count and is not occupied.
    """
    low = truth[..., :GROUND_LAYERS]
    occupied = (low != EMPTY) & (low != INVALID)
    invalid = np.zeros(truth.shape, dtype=np.bool_)
    # An empty voxel is not occupied itself: "none up to here" is "none below".
    invalid[..., :GROUND_LAYERS] = (low == EMPTY) & ~np.logical_or.accumulate(occupied, axis=-1)
    return invalid


def completion_confusion(
    predicted: Integers,  # labels [X, Y, Z], 0 empty: classes, or clusters from 1 on
    truth: Integers,  # classes [X, Y, Z], 255 does not count
    field_of_view: Mask,  # bool [X, Y, Z], where the image covers the voxel
    labels: int = len(COMMON_CLASSES),  # number of predicted labels, "empty" among them
    classes: int = len(COMMON_CLASSES),  # number of classes, "empty" among them
) -> Ints:
    """Count voxels of full columns: int64 [labels, classes]."""
    return class_confusion(predicted, truth, labels, classes, field_of_view & ~additional_invalid(truth))


def completion_scores(
    confusion: Ints,  # int64 [labels, classes] of `completion_confusion`
    # int [labels], the class of each predicted label, see `class_confusion`; by default labels are classes. Labels
    # without a class count as empty.
    class_of_label: Integers | None = None,
    class_names: tuple[str, ...] = COMMON_CLASSES,  # names by id; 0 is "empty"
) -> Row:
    """Score a confusion matrix, NaN where a figure is not defined.

    `iou`, `precision` and `recall` are those of "occupied", any class.
    """
    classes = len(class_names)
    names = np.arange(classes) if class_of_label is None else class_of_label
    named = renamed(confusion, names, unassigned=EMPTY)[:classes]
    iou, found = class_iou(named)[1:], named[1:, 1:]
    weight = np.array([semantic_classes.COMMON_SHARES.get(name, np.nan) for name in class_names[1:]])
    return {
        "voxels": int(named.sum()),
        **occupancy.shares(int(found.sum()), int(named[1:].sum()), int(named[:, 1:].sum())),
        "mean_iou": mean_iou(iou),  # over all classes but "empty"; those that are nowhere count as 0, as published
        # Over the classes that occur in the truth. Not published; for ground truth that has not all classes.
        "mean_iou_of_present": mean_iou(iou[named.sum(axis=0)[1:] > 0]),
        # Over the classes that occur, counted only where truth and prediction are occupied: what things are called
        # where they are found. Not published; it takes the geometry out.
        "mean_iou_of_found": mean_iou(class_iou(found)[found.sum(axis=0) > 0]),
        # By how frequent classes are (`COMMON_SHARES`); those that are nowhere count as 0. NaN for other classes.
        "weighted_mean_iou": float((weight * np.nan_to_num(iou)).sum() / weight.sum()),
        "class_iou": dict(zip(class_names[1:], iou.tolist(), strict=True)),  # NaN if neither predicted nor true
    }


class SemanticCompletionMetric:
    """Scores over all grids of all updates, within each range."""

    def __init__(
        self,
        grid: VoxelGrid = SSCBENCH_GRID,  # where truth and predictions lie
        labels: int | None = None,  # number of predicted labels, "empty" among them; by default the classes
        class_names: tuple[str, ...] = COMMON_CLASSES,  # names by id; 0 is "empty"
    ) -> None:
        self.grid = grid
        self.class_names = class_names
        self.labels = len(class_names) if labels is None else labels
        self.crops = occupancy.crops_within(grid)
        # Range -> int64 [labels, classes].
        self.confusion = {range_m: np.zeros((self.labels, len(class_names)), np.int64) for range_m in self.crops}

    def update(self, predicted: Integers, truth: Integers, field_of_view: Mask) -> None:
        """Count one grid [X, Y, Z]; see `completion_confusion`."""
        assert predicted.shape == truth.shape == self.grid.shape
        for range_m, crop in self.crops.items():
            found = predicted[crop], truth[crop], field_of_view[crop]
            self.confusion[range_m] += completion_confusion(*found, self.labels, len(self.class_names))

    def compute(self, class_of_label: Integers | None = None) -> dict[float, Row]:
        """Range -> scores; see `completion_scores`."""
        of = class_of_label, self.class_names
        return {range_m: completion_scores(counts, *of) for range_m, counts in self.confusion.items()}


COLUMNS = columns("mean_iou: mIoU, mean_iou_of_present: mIoU of present, mean_iou_of_found: mIoU where found, iou: IoU")


class SemanticTally(Tally):
    """`SemanticCompletionMetric` of a method's labels, which its `names` turn into classes afterwards."""

    def __init__(self, method: Any) -> None:
        self._method = method
        self._metric: SemanticCompletionMetric | None = None

    def add(self, answer: Any) -> None:
        """Count the labels of a frame: `labels` and true `classes`, [X, Y, Z], of its voxels in view."""
        truth = answer.truth.voxels
        if self._metric is None:
            self._metric = SemanticCompletionMetric(truth.grid, self._method.labels, truth.class_map.target)
        self._metric.update(answer.labels, answer.classes, truth.everything)
        self.frames += 1

    @property
    def confusion(self) -> dict[float, Ints]:
        """Range -> counts of labels and classes."""
        return {} if self._metric is None else self._metric.confusion

    def rows(self) -> Iterator[Row]:
        """By range."""
        yield from self._rows(self._method.names())

    def _rows(self, names: Ints) -> Iterator[Row]:
        assert self._metric is not None
        for range_m, scores in self._metric.compute(names).items():
            yield {"range_m": range_m, "class_of_label": names.tolist(), **scores}


class TwiceNamedTally(SemanticTally):
    """The figures by the method's own names, and by those that fit the scored voxels best, as SceneDINO has both."""

    def rows(self) -> Iterator[Row]:
        """By naming and range."""
        direct = np.asarray(self._method.names())
        counts = renamed(self.confusion[max(self.confusion)], direct, unassigned=EMPTY)[:-1]
        stay = np.eye(len(counts), dtype=np.int64)  # where nothing is won by another name
        best = match_one_to_one(2 * len(counts) * counts + stay)[np.where(direct == UNASSIGNED, EMPTY, direct)]
        for naming, names in {"direct": direct, "hungarian (upper bound)": best}.items():
            yield from ({"naming": naming, **row} for row in self._rows(names))


SEMANTICS = Metric(
    "semantics",
    "Semantic scene completion under the protocol of S4C, in percent; each cluster names one class (Hungarian).",
    COLUMNS,
    SemanticTally,
    across="range_m",
    classes="class_iou",
)

SSCBENCH = Metric(
    "sscbench",
    "SSCBench-KITTI-360 under the protocol of S4C and SceneDINO, in percent. Direct: as clusters are named on other "
    "frames. Hungarian: as the scored voxels themselves would name the classes, which is an upper bound.",
    columns("mean_iou: mIoU, weighted_mean_iou: weighted mIoU, iou: IoU, precision, recall"),
    TwiceNamedTally,
    by=("naming",),
    across="range_m",
    classes="class_iou",
)


Part: TypeAlias = tuple[float, str]  # range in metres and name of the region that voxels are counted in
_OF_WORDS = ("cosine", "common", "ids", "parts")  # what is kept of answers


def unit_vectors(features: Reals) -> Floats:
    """Features [N, D] of length one, float32; zeros where there is none."""
    largest = np.abs(features).max(axis=1, keepdims=True, initial=0.0)
    found = np.isfinite(largest) & (largest > 0.0)
    scaled = np.where(found, features, 0.0) / np.where(found, largest, 1.0)  # squares neither vanish nor overflow
    return np.asarray(scaled / np.where(found, np.linalg.norm(scaled, axis=1, keepdims=True), 1.0), np.float32)


def cosines(features: Reals, rows: Floats) -> Floats:
    """Cosines [N, R] of features [N, D] with rows [R, D] of length one; minus infinity where there is no feature."""
    units = unit_vectors(features)
    return np.where(units.any(axis=1, keepdims=True), units @ rows.T, np.float32(-np.inf))


def class_scores(features: Reals, rows: Floats, group: Integers, classes: int) -> Floats:
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


def best_classes(scores: Floats) -> Ints:
    """Class [N] with the largest of scores [N, K]; K where there is no feature."""
    labels = scores.argmax(axis=1)
    labels[np.isneginf(scores).all(axis=1)] = scores.shape[1]
    return np.asarray(labels, np.int64)


def zero_shot_scores(confusion: Ints, names: Sequence[str]) -> Row:
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
        # Share of the voxels whose label is right: it shows gains of large classes, which the means hide.
        "accuracy": float(np.trace(confusion[:classes]) / true.sum()) if present.any() else float("nan"),
        "mean_iou": mean_iou(iou[present]),  # over the classes in the truth
        "mean_iou_of_all": mean_iou(iou[present]) * share,  # the same sum, divided by the number of all classes
        "mean_accuracy": mean_iou(accuracy[present]),  # mean recall over the classes in the truth
        # The same sum, divided by the number of all classes: the released code's mean accuracy.
        "mean_accuracy_of_all": mean_iou(accuracy[present]) * share,
        # As the released code has it: voxels without a label leave the confusion matrix, and the sum is divided by the
        # number of all classes. A class that is left with no voxel, where that code fails, is 0.
        "released_mean_iou": mean_iou(class_iou(confusion[:classes])[present]) * share,
        "class_iou": dict(zip(names, iou.tolist(), strict=True)),  # NaN for those that are neither true nor predicted
        "class_accuracy": dict(zip(names, accuracy.tolist(), strict=True)),  # recall; NaN for those that are not true
    }


class ZeroShotMetric(Tally):
    """Scores of `names`, K classes, by parts.

    Answers have `predicted`, classes [N], K for none; `true`, classes [N], of which -1 and 255 do not count; and
    `parts`: part -> which voxels are in it, bool [N]. Parts may overlap.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._confusion: dict[Part, Ints] = {}  # part -> int64 [K + 1, K]

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


def average_precision(score: Reals, positive: Mask) -> float:
    """Precision summed over the steps of recall, voxels with equal scores taken together; exact.

    Equal scores everywhere give the share of positives, and a random ranking does so but for O(log N / N). Returns
    0..1; NaN without positives. `score`: float [N], larger is more likely; minus infinity is last; `positive`: bool
    [N].
    """
    assert score.shape == positive.shape and not np.isnan(score).any()
    values, rank = np.unique(score, return_inverse=True)
    counts = [np.bincount(rank[positive == state], minlength=len(values)) for state in (False, True)]
    return occupancy.average_precision(np.stack(counts))


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
                    # Their share: the average precision of a constant score.
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
    columns(
        "mean_iou: mIoU, mean_iou_of_all: mIoU of all, released_mean_iou: as released, mean_accuracy: mAcc, "
        "mean_accuracy_of_all: mAcc of all, accuracy, without_feature: without a feature"
    ),
    lambda method: ZeroShotMetric(method.class_names),
    by=("region",),
    across="range_m",
    classes="class_iou",
)
WORDS = Metric(
    "words",
    "How well a word finds its voxels among those that the truth calls occupied: average precision by contrast and by "
    "cosine, in percent, with the prior of a constant score.",
    columns("prior, average_precision, average_precision_of_cosine: by cosine"),
    lambda method: WordMetric(method.words),
    by=("word", "region"),
    across="range_m",
)
