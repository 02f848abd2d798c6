"""What a map remembers of every voxel, and how it is joined with what a new frame says: log odds, weighted.

Evidence of successive frames is far from independent: the same network looks at nearly the same picture, and is wrong
in the same way. Adding up the log odds of frames, as Thrun, Burgard and Fox do ("Probabilistic Robotics", section 9.2),
assumes independence. It would leave every voxel certain after a second. A map therefore averages them,

    L = (n m + w l) / (n + w)

with m the mean log odds in memory, l those of the frame, w the weight of the frame and n that of the memory. w is 1
where the frame saw the voxel and less where it inferred it. n grows by w with every frame up to a limit, so that newer
frames count more, as they should: they come from nearer, mostly. The limit falls with the third power of the distance
beyond a reach. The error of depth from one image moves along with the camera. So far surfaces of successive frames lie
in different voxels, and their mean would be smeared. n fades with its age. A voxel without memory takes l.

This module is the readable reference; ``evidence_kernel`` is its fast twin with the same signatures.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.voxels.semantic_voxels import VoxelState

NEVER = -(2**30)  # time, milliseconds, of what has not happened yet
NOTHING_STATED = np.float32(-np.inf)  # log odds of unobserved voxels


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
    """What a frame says about its own grid, arrays [X, Y, Z]."""

    log_odds: NDArray[np.float32]  # float32, of the calibrated probability; anything where unobserved
    state: NDArray[np.uint8]  # uint8, values of `VoxelState`
    label: NDArray[np.uint8]  # uint8, class of the occupied voxels; anything elsewhere
    confidence: NDArray[np.float32]  # float32 in 0..1 of the label
    nearness: NDArray[np.float32]  # float32 in 0..1, 1 within reach of the camera, falling beyond


class Rules(NamedTuple):
    """How frames are joined; times in milliseconds."""

    threshold: float  # log odds from which a voxel is occupied
    prior: float  # log odds of a voxel of which nothing is known
    inferred_weight: float  # weight of a frame where it inferred a voxel, relative to one that saw it
    seen_limit: float  # largest weight of memory against a frame that sees the voxel, within reach
    inferred_limit: float  # the same against one that infers it
    seen_for: int  # how long a voxel counts as seen
    fades: NDArray[np.float32]  # float32 [T], what is left of memory by its age; older ones are forgotten


class Fused(NamedTuple):
    """What frame and memory say together, arrays [X, Y, Z] of the frame's grid: log odds, state, label, confidence.

    Log odds of unobserved voxels are minus infinity; label and confidence are 0 where nothing is occupied.
    """

    log_odds: NDArray[np.float32]
    state: NDArray[np.uint8]
    label: NDArray[np.uint8]
    confidence: NDArray[np.float32]


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
    sizes = np.array(memory.weight.shape, dtype=np.int64)
    state = frame.state
    centres = np.moveaxis(np.indices(state.shape), 0, -1) + 0.5  # [X, Y, Z, 3]
    places = centres @ turn.T + shift
    slot, inside = _slots(np.floor(places).astype(np.int64), lower, sizes)
    age = now - memory.observed[slot].astype(np.int64)
    known = inside & (memory.weight[slot] > 0.0) & (age < len(rules.fades))
    fade = np.where(known, rules.fades[np.where(known, age, 0)].astype(np.float64), 0.0)

    total, weighted, best = np.zeros((3, *state.shape))
    agreed, agreement = np.zeros(state.shape, dtype=np.uint8), np.zeros(state.shape)
    corner = np.floor(places - 0.5).astype(np.int64)
    for offset in np.ndindex(2, 2, 2):
        neighbour = corner + offset
        share = np.prod(1.0 - np.abs(places - 0.5 - neighbour), axis=-1)
        near, there = _slots(neighbour, lower, sizes)
        weight = np.where(there, share * memory.weight[near], 0.0)
        total += weight
        weighted += weight * memory.log_odds[near]
        vote = weight * memory.agreement[near]
        wins = vote > best
        best[wins], agreed[wins], agreement[wins] = vote[wins], memory.label[near][wins], memory.agreement[near][wins]
    mean = np.divide(weighted, total, out=np.zeros_like(total), where=total > 0.0)

    in_view = state != VoxelState.UNOBSERVED
    sees = (state == VoxelState.FREE_SEEN) | (state == VoxelState.SURFACE)
    new = np.where(sees, 1.0, rules.inferred_weight)
    limit = frame.nearness * np.where(sees, rules.seen_limit, rules.inferred_limit)
    old = np.where(known, np.minimum(total * fade, limit), 0.0)
    joined = np.where(old > 0.0, (old * mean + new * frame.log_odds) / (old + new), frame.log_odds)
    log_odds = np.where(in_view, joined, rules.prior + (mean - rules.prior) * fade).astype(np.float32)
    stated = in_view | known
    # Where there is no memory the frame's own state holds: log odds are rounded.
    occupied = np.where(in_view & (old == 0.0), state >= VoxelState.SURFACE, stated & (log_odds >= rules.threshold))

    seen = sees | (known & (now - memory.seen[slot].astype(np.int64) <= rules.seen_for))
    contradicted = state >= VoxelState.SURFACE
    remembered_free = known & (memory.seen_free[slot] > 0) & seen & ~contradicted
    free_seen = (state == VoxelState.FREE_SEEN) | remembered_free
    occupied_state = np.where(seen, VoxelState.SURFACE, VoxelState.COMPLETED)
    free_state = np.where(free_seen, VoxelState.FREE_SEEN, VoxelState.FREE_INFERRED)
    fused.log_odds[...] = np.where(stated, log_odds, NOTHING_STATED)
    fused.state[...] = np.where(stated, np.where(occupied, occupied_state, free_state), VoxelState.UNOBSERVED)

    votes = frame.state >= VoxelState.SURFACE
    old = np.where(in_view, old, 1.0)
    label, confidence = _voted(agreed, agreement, old, frame.label, frame.confidence, np.where(votes, new, 0.0))
    fused.label[...] = np.where(occupied, label, 0)
    fused.confidence[...] = np.where(occupied, confidence, 0.0)


def integrate(
    memory: VoxelMemory,
    lower: NDArray[np.int64],
    turn: NDArray[np.float64],
    shift: NDArray[np.float64],
    frame: FrameEvidence,
    rules: Rules,
    now: int,
) -> int:
    """Remember a frame.

    Every voxel of the box takes what the frame says of the voxel that its centre lies in. So each is counted once
    whatever the heading. Arguments as for `recall`. Returns number of voxels that the frame had something to say about.
    """
    sizes = np.array(memory.weight.shape, dtype=np.int64)
    local = np.moveaxis(np.indices(tuple(sizes)), 0, -1)
    voxel = np.floor((local + 0.5 - shift) @ turn).astype(np.int64)
    inside = np.all((voxel >= 0) & (voxel < frame.state.shape), axis=-1)
    local, source = local[inside], tuple(voxel[inside].T)
    in_view = frame.state[source] != VoxelState.UNOBSERVED
    source = tuple(axis[in_view] for axis in source)
    slot = tuple(((local[in_view] + lower) % sizes).T)

    state = frame.state[source]
    sees = (state == VoxelState.FREE_SEEN) | (state == VoxelState.SURFACE)
    new = np.where(sees, 1.0, rules.inferred_weight)
    limit = frame.nearness[source] * np.where(sees, rules.seen_limit, rules.inferred_limit)
    age = now - memory.observed[slot].astype(np.int64)
    fresh = age < len(rules.fades)
    kept = memory.weight[slot].astype(np.float64) * rules.fades[np.where(fresh, age, 0)]
    old = np.where(fresh, np.minimum(kept, limit), 0.0)
    memory.log_odds[slot] = (old * memory.log_odds[slot] + new * frame.log_odds[source]) / (old + new)
    memory.weight[slot] = old + new
    memory.observed[slot] = now
    memory.seen[slot] = np.where(sees, now, memory.seen[slot])
    occupied = state >= VoxelState.SURFACE
    free = np.where(occupied, 0, np.where(state == VoxelState.FREE_SEEN, 1, memory.seen_free[slot]))
    memory.seen_free[slot] = free
    memory.label[slot], memory.agreement[slot] = _voted(
        memory.label[slot],
        memory.agreement[slot].astype(np.float64),
        old,
        frame.label[source],
        frame.confidence[source],
        np.where(occupied, new, 0.0),
    )
    return int(in_view.sum())


def _slots(
    local: NDArray[np.int64], lower: NDArray[np.int64], sizes: NDArray[np.int64]
) -> tuple[tuple[NDArray[np.int64], ...], NDArray[np.bool_]]:
    """Places in memory of voxels [..., 3] counted from the lower corner of the box, and which of them it holds."""
    inside = np.all((local >= 0) & (local < sizes), axis=-1)
    return tuple(np.moveaxis((local + lower) % sizes, -1, 0)), inside


def _voted(
    label: NDArray[np.uint8],
    agreement: NDArray[np.float64],
    old: NDArray[np.float64],
    new_label: NDArray[np.uint8],
    new_confidence: NDArray[np.float32],
    new: NDArray[np.float64],
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Majority of labels with two numbers of memory (Boyer and Moore's vote, weighted); no vote where `new` is 0."""
    sign = np.where(label == new_label, 1.0, -1.0)
    total = np.where(old + new > 0.0, old + new, 1.0)
    joined = np.where(new > 0.0, (old * agreement + sign * new * new_confidence) / total, agreement)
    turned = (joined < 0.0) | ((old == 0.0) & (new > 0.0))
    return np.where(turned, new_label, label).astype(np.uint8), np.abs(joined).astype(np.float32)
