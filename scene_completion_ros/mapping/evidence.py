"""What a map remembers of every voxel, and how it is joined with a new frame: log odds, weighted.

Evidence of successive frames is far from independent: the same network looks at nearly the same picture, and is wrong
in the same way. Adding up the log odds of frames, as Thrun, Burgard and Fox do ("Probabilistic Robotics", section 9.2),
assumes independence. It would leave every voxel certain after a second. A map therefore averages them,

    L = (n m + w l) / (n + w)

with m the mean log odds in memory, l those of the frame, w the weight of the frame and n that of the memory. w is 1
where the frame saw the voxel and less where it inferred it. n grows by w with every frame up to a limit, so that newer
frames count more, as they should: they come from nearer, mostly. The limit falls with the third power of the distance
beyond a reach. The error of depth from one image moves along with the camera. So far surfaces of successive frames lie
in different voxels, and their mean would be smeared. n fades with its age. A voxel without memory takes l. The
limit is smaller where memory holds, or the frame finds, what may move: a car is where the newest frame has it.

The joining is compiled and runs in parallel.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import prange
from numpy.typing import NDArray

from scene_completion_ros.evaluation.semantic_classes import GROUND_CLASSES
from scene_completion_ros.jit import inlined, kernel
from scene_completion_ros.voxels.occupancy import Thresholds
from scene_completion_ros.voxels.semantic_voxels import VoxelState

HEARSAY = np.float32(1e-6)  # confidence in labels that no frame gave: any that a frame gives outvotes them
NEVER = -(2**30)  # time, milliseconds, of what has not happened yet


class VoxelMemory(NamedTuple):
    """What is known of the voxels of a rolling box, arrays [X, Y, Z] in the order of its memory."""

    log_odds: NDArray[np.float32]  # float32, weighted mean of the log odds of past frames
    weight: NDArray[np.float32]  # float32, how many seen frames they stand for; 0 for voxels that were never in view
    observed: NDArray[np.int32]  # int32, when the voxel was last in view, milliseconds
    seen: NDArray[np.int32]  # int32, when it was last seen, free or occupied, milliseconds
    seen_free: NDArray[np.uint8]  # uint8, whether the last frame that saw it, or called it occupied, saw it free
    label: NDArray[np.uint8]  # uint8, the class that most weight speaks for
    # float32 in 0..1, the mean confidence of frames in that class, those for other classes counted against it; 0 where
    # no frame gave a label.
    agreement: NDArray[np.float32]


class FrameEvidence(NamedTuple):
    """The evidence of a frame on its own grid, arrays [X, Y, Z]."""

    log_odds: NDArray[np.float32]  # float32, of the calibrated probability; anything where unobserved
    state: NDArray[np.uint8]  # uint8, values of `VoxelState`
    label: NDArray[np.uint8]  # uint8, class of the occupied voxels; anything elsewhere
    confidence: NDArray[np.float32]  # float32 in 0..1 of the label
    nearness: NDArray[np.float32]  # float32 in 0..1, 1 within reach of the camera, falling beyond


class Rules(NamedTuple):
    """How frames are joined; times in milliseconds."""

    threshold: float  # log odds from which a voxel without a label, or with one of hearsay, is occupied
    thresholds: NDArray[np.float32]  # the same for each label, float32 [256]
    least: float  # the smallest of all
    prior: float  # log odds of a voxel of which nothing is known
    inferred_weight: float  # weight of a frame where it inferred a voxel, relative to one that saw it
    seen_limit: float  # largest weight of memory against a frame that sees the voxel, within reach
    inferred_limit: float  # the same against one that infers it
    movable_limit: float  # against any where memory holds, or the frame finds, what may move
    movable: NDArray[np.bool_]  # bool [256], the labels of what may
    seen_for: int  # how long a voxel counts as seen
    fades: NDArray[np.float32]  # float32 [T], what is left of memory by its age; as of the last one where it is older
    forget_after: int  # largest age of what is remembered


class Fused(NamedTuple):
    """What frame and memory say together, arrays [X, Y, Z] of the frame's grid: log odds, state, label, confidence.

    Log odds of unobserved voxels are minus infinity; label and confidence are 0 where nothing is occupied.
    """

    log_odds: NDArray[np.float32]
    state: NDArray[np.uint8]
    label: NDArray[np.uint8]
    confidence: NDArray[np.float32]


UNLABELLED = "unlabelled"
UNOBSERVED, FREE_SEEN, FREE_INFERRED, SURFACE, COMPLETED = (np.uint8(state) for state in VoxelState)
ZERO, NO_LABEL = np.float32(0.0), np.uint8(0)
NOTHING = np.float32(-np.inf)  # log odds of unobserved voxels


def thresholds_of(thresholds: Thresholds, class_names: Sequence[str]) -> NDArray[np.float32]:
    """Those of labels, float32 [256], by the names of the first ones.

    What is named neither as a ground nor as unlabelled is an obstacle, as is the asphalt of a vocabulary.
    """
    of_labels = np.full(256, thresholds.obstacle, np.float32)
    low = [name in (*GROUND_CLASSES, UNLABELLED) for name in class_names]
    of_labels[: len(class_names)][low] = thresholds.ground
    return of_labels


def recall(
    memory: VoxelMemory,  # without this frame
    lower: NDArray[np.int64],  # lowest voxel of the box, int64 [3]
    turn: NDArray[np.float64],  # rotation [3, 3] from the frame's grid to the odometry frame
    # Translation [3] of voxel coordinates. The point p of the grid, in voxel edges from its lower corner, is at `turn @
    # p + shift`, in voxel edges from that of the box.
    shift: NDArray[np.float64],
    frame: FrameEvidence,
    rules: Rules,
    now: int,  # time of the frame, milliseconds
    fused: Fused,  # arrays to write to
) -> None:
    """Join a frame with what was remembered before it, voxel by voxel of the frame's grid.

    Memory is interpolated between the eight nearest voxels of the box, weighted with their weights as well. Taking the
    nearest one alone moves surfaces by up to half a voxel.
    """
    _recall_kernel()(memory, lower, turn, shift, frame, rules, now, fused)


def integrate(
    memory: VoxelMemory,
    lower: NDArray[np.int64],
    turn: NDArray[np.float64],
    shift: NDArray[np.float64],
    frame: FrameEvidence,
    rules: Rules,
    now: int,
) -> None:
    """Remember a frame. Arguments as for `recall`.

    Every voxel of the box takes the evidence of the frame's voxel that its centre lies in. So each is counted once
    whatever the heading.
    """
    x, y, z = frame.state.shape
    corners = np.array([(a, b, c) for a in (0, x) for b in (0, y) for c in (0, z)]) @ turn.T + shift
    sizes = np.array(memory.weight.shape)
    first = np.clip(np.floor(corners.min(axis=0)).astype(np.int64), 0, sizes)
    stop = np.clip(np.ceil(corners.max(axis=0)).astype(np.int64), 0, sizes)
    _integrate_kernel()(memory, lower, turn, shift, frame, rules, now, first, stop)


@inlined
def voted(label: Any, agreement: Any, old: Any, new_label: Any, confidence: Any, new: Any) -> Any:
    """Majority of labels with two numbers of memory (Boyer and Moore's vote, weighted); no vote where `new` is 0."""
    if not new > 0.0:
        return label, agreement
    if old == 0.0:
        return new_label, confidence
    joined = (old * agreement + (new if label == new_label else -new) * confidence) / (old + new)
    if joined < 0.0:
        return new_label, np.float32(-joined)
    return label, np.float32(joined)


@inlined
def limit_of(sees: Any, holds: Any, named: Any, rules: Any) -> Any:
    """Largest weight of memory within reach; `holds`, `named`: memory holds, and the frame finds, what may move."""
    limit = rules.seen_limit if sees else rules.inferred_limit
    return min(limit, rules.movable_limit) if holds or named else limit


@inlined
def may_move(log_odds: Any, label: Any, agreement: Any, rules: Any) -> Any:
    """Whether a voxel of memory holds what may move."""
    return log_odds >= rules.thresholds[label] and rules.movable[label] and agreement > HEARSAY


@inlined
def cell(place: Any) -> Any:
    """The whole number below."""
    return np.int64(math.floor(place))


@inlined
def neighbours(place: Any, size: Any, start: Any) -> Any:
    """Where in memory the two voxels around a place are, and their shares; a share is 0 where the box has no voxel."""
    first = cell(place - 0.5)
    share = place - 0.5 - first
    inside = 0 <= first < size
    follows = 0 <= first + 1 < size
    slot = first + start if inside else start
    following = first + 1 + start if follows else start
    slot = slot if slot < size else slot - size
    following = following if following < size else following - size
    return slot, following, (1.0 - share if inside else 0.0, share if follows else 0.0)


@inlined
def between(weight: Any, log_odds: Any, pair: Any) -> Any:
    """Weight between two voxels of a column, and their log odds times their weights."""
    first, second, share = pair
    below, above = share[0] * weight[first], share[1] * weight[second]
    return below + above, below * log_odds[first] + above * log_odds[second]


@functools.cache
def _recall_kernel() -> Callable[..., None]:
    @kernel()
    def join(memory: Any, lower: Any, turn: Any, shift: Any, frame: Any, rules: Any, now: Any, fused: Any) -> None:
        log_odds, weight, observed, seen, seen_free, label, agreement = memory
        stated, state, stated_label, stated_confidence, nearness = frame
        out_log_odds, out_state, out_label, out_confidence = fused
        count_x, count_y, count_z = state.shape
        size_x, size_y, size_z = weight.shape
        start_x, start_y, start_z = lower[0] % size_x, lower[1] % size_y, lower[2] % size_z
        for column in prange(count_x * count_y):
            i, j = column // count_y, column % count_y
            base_x = turn[0, 0] * (i + 0.5) + turn[0, 1] * (j + 0.5) + shift[0]
            base_y = turn[1, 0] * (i + 0.5) + turn[1, 1] * (j + 0.5) + shift[1]
            base_z = turn[2, 0] * (i + 0.5) + turn[2, 1] * (j + 0.5) + shift[2]
            for k in range(count_z):
                x = base_x + turn[0, 2] * (k + 0.5)
                y = base_y + turn[1, 2] * (k + 0.5)
                z = base_z + turn[2, 2] * (k + 0.5)
                now_state, l_new = state[i, j, k], stated[i, j, k]
                in_view = now_state != UNOBSERVED
                sees = now_state in (FREE_SEEN, SURFACE)
                a, b, c = cell(x), cell(y), cell(z)
                known = 0 <= a < size_x and 0 <= b < size_y and 0 <= c < size_z
                was_seen, was_free, age, limit = False, False, 0, 0.0
                if known:
                    a, b, c = a + start_x, b + start_y, c + start_z
                    a = a if a < size_x else a - size_x
                    b = b if b < size_y else b - size_y
                    c = c if c < size_z else c - size_z
                    age = now - observed[a, b, c]
                    known = weight[a, b, c] > ZERO and age <= rules.forget_after
                    was_seen = known and now - seen[a, b, c] <= rules.seen_for
                    was_free = was_seen and seen_free[a, b, c] > 0
                    holds = may_move(log_odds[a, b, c], label[a, b, c], agreement[a, b, c], rules)
                    limit = limit_of(sees, holds, now_state >= SURFACE and rules.movable[stated_label[i, j, k]], rules)
                if not known and not in_view:
                    out_log_odds[i, j, k], out_state[i, j, k] = NOTHING, UNOBSERVED
                    out_label[i, j, k], out_confidence[i, j, k] = NO_LABEL, ZERO
                    continue

                total, mean, old, fade = 0.0, 0.0, 0.0, 0.0
                x_0, x_1, share_x = neighbours(x, size_x, start_x)
                y_0, y_1, share_y = neighbours(y, size_y, start_y)
                z_pair = neighbours(z, size_z, start_z)
                if known:
                    t_0, m_0 = between(weight[x_0, y_0], log_odds[x_0, y_0], z_pair)
                    t_1, m_1 = between(weight[x_0, y_1], log_odds[x_0, y_1], z_pair)
                    t_2, m_2 = between(weight[x_1, y_0], log_odds[x_1, y_0], z_pair)
                    t_3, m_3 = between(weight[x_1, y_1], log_odds[x_1, y_1], z_pair)
                    total = share_x[0] * (share_y[0] * t_0 + share_y[1] * t_1)
                    total += share_x[1] * (share_y[0] * t_2 + share_y[1] * t_3)
                    mean = share_x[0] * (share_y[0] * m_0 + share_y[1] * m_1)
                    mean += share_x[1] * (share_y[0] * m_2 + share_y[1] * m_3)
                    if total > 0.0:
                        mean /= total
                    fade = float(rules.fades[min(age, rules.fades.size - 1)])
                new = 1.0 if sees else rules.inferred_weight
                if in_view:
                    old = min(total * fade, nearness[i, j, k] * limit)
                    joined = l_new
                    if old > 0.0:
                        joined = np.float32((old * mean + new * l_new) / (old + new))
                else:
                    old = 1.0
                    joined = np.float32(rules.prior + (mean - rules.prior) * fade)
                new_here = in_view and old == 0.0
                occupied = now_state >= SURFACE if new_here else joined >= rules.least
                out_log_odds[i, j, k] = joined
                if occupied:
                    agreed, agreeing, best = NO_LABEL, ZERO, 0.0
                    for side in range(8):
                        s_x, share = (x_0, share_x[0]) if side < 4 else (x_1, share_x[1])
                        s_y, share = (y_0, share * share_y[0]) if side % 4 < 2 else (y_1, share * share_y[1])
                        s_z, share = (
                            (z_pair[0], share * z_pair[2][0]) if side % 2 < 1 else (z_pair[1], share * z_pair[2][1])
                        )
                        vote = share * weight[s_x, s_y, s_z] * agreement[s_x, s_y, s_z]
                        if known and vote > best:
                            best = vote
                            agreed, agreeing = label[s_x, s_y, s_z], agreement[s_x, s_y, s_z]
                    votes = new if now_state >= SURFACE else 0.0
                    out_label[i, j, k], out_confidence[i, j, k] = voted(
                        agreed, agreeing, old, stated_label[i, j, k], stated_confidence[i, j, k], votes
                    )
                    named = out_confidence[i, j, k] > HEARSAY
                    occupied = new_here or joined >= (
                        rules.thresholds[out_label[i, j, k]] if named else rules.threshold
                    )
                if occupied:
                    out_state[i, j, k] = SURFACE if sees or was_seen else COMPLETED
                else:
                    out_label[i, j, k], out_confidence[i, j, k] = NO_LABEL, ZERO
                    free = now_state == FREE_SEEN or (was_free and now_state < SURFACE)
                    out_state[i, j, k] = FREE_SEEN if free else FREE_INFERRED

    return join


@functools.cache
def _integrate_kernel() -> Callable[..., None]:
    @kernel()
    def remember(  # type: ignore[no-untyped-def] # numba finds the types
        memory, lower, turn, shift, frame, rules, now, first, stop
    ):
        log_odds, weight, observed, seen, seen_free, label, agreement = memory
        stated, state, stated_label, stated_confidence, nearness = frame
        count_x, count_y, count_z = state.shape
        size_x, size_y, size_z = weight.shape
        start_x, start_y, start_z = lower[0] % size_x, lower[1] % size_y, lower[2] % size_z
        for row in prange(stop[0] - first[0]):
            a = first[0] + row
            s_x = a + start_x if a + start_x < size_x else a + start_x - size_x
            for b in range(first[1], stop[1]):
                s_y = b + start_y if b + start_y < size_y else b + start_y - size_y
                p_x, p_y = a + 0.5 - shift[0], b + 0.5 - shift[1]
                base_x = turn[0, 0] * p_x + turn[1, 0] * p_y
                base_y = turn[0, 1] * p_x + turn[1, 1] * p_y
                base_z = turn[0, 2] * p_x + turn[1, 2] * p_y
                for c in range(first[2], stop[2]):
                    p_z = c + 0.5 - shift[2]
                    i = cell(base_x + turn[2, 0] * p_z)
                    j = cell(base_y + turn[2, 1] * p_z)
                    k = cell(base_z + turn[2, 2] * p_z)
                    if not (0 <= i < count_x and 0 <= j < count_y and 0 <= k < count_z):
                        continue
                    now_state = state[i, j, k]
                    if now_state == UNOBSERVED:
                        continue
                    s_z = c + start_z if c + start_z < size_z else c + start_z - size_z
                    sees = now_state in (FREE_SEEN, SURFACE)
                    new = 1.0 if sees else rules.inferred_weight
                    age = now - observed[s_x, s_y, s_z]
                    old = 0.0
                    if age <= rules.forget_after:
                        held = log_odds[s_x, s_y, s_z], label[s_x, s_y, s_z], agreement[s_x, s_y, s_z]
                        named = now_state >= SURFACE and rules.movable[stated_label[i, j, k]]
                        limit = nearness[i, j, k] * limit_of(sees, may_move(*held, rules), named, rules)
                        old = min(float(weight[s_x, s_y, s_z]) * rules.fades[min(age, rules.fades.size - 1)], limit)
                    total = old + new
                    log_odds[s_x, s_y, s_z] = (old * log_odds[s_x, s_y, s_z] + new * stated[i, j, k]) / total
                    weight[s_x, s_y, s_z] = total
                    observed[s_x, s_y, s_z] = now
                    if sees:
                        seen[s_x, s_y, s_z] = now
                    if now_state == FREE_SEEN:
                        seen_free[s_x, s_y, s_z] = 1
                    elif now_state >= SURFACE:
                        seen_free[s_x, s_y, s_z] = 0
                        label[s_x, s_y, s_z], agreement[s_x, s_y, s_z] = voted(
                            label[s_x, s_y, s_z],
                            agreement[s_x, s_y, s_z],
                            old,
                            stated_label[i, j, k],
                            stated_confidence[i, j, k],
                            new,
                        )

    return remember
