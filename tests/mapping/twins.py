"""The readable twins of the kernels of maps, for the tests that feed both; `recall` and `integrate` join evidence."""

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.mapping.camera_fusion import DenseVoxels
from scene_completion_ros.mapping.clearing import MARGIN, TOUCH
from scene_completion_ros.mapping.evidence import HEARSAY, NOTHING
from scene_completion_ros.mapping.ground_map import FREE, OCCUPIED, UNKNOWN
from scene_completion_ros.voxels.semantic_voxels import VoxelState


def recall(memory, lower, turn, shift, frame, rules, now, fused) -> None:
    """See `evidence.recall`."""
    sizes = np.array(memory.weight.shape, dtype=np.int64)
    state = frame.state
    centres = np.moveaxis(np.indices(state.shape), 0, -1) + 0.5  # [X, Y, Z, 3]
    places = centres @ turn.T + shift
    slot, inside = _slots(np.floor(places).astype(np.int64), lower, sizes)
    age = now - memory.observed[slot].astype(np.int64)
    known = inside & (memory.weight[slot] > 0.0) & (age <= rules.forget_after)
    fade = np.where(known, rules.fades[np.clip(age, 0, len(rules.fades) - 1)].astype(np.float64), 0.0)

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
    limit = frame.nearness * _limit(memory, slot, state, frame.label, rules)
    old = np.where(known, np.minimum(total * fade, limit), 0.0)
    joined = np.where(old > 0.0, (old * mean + new * frame.log_odds) / (old + new), frame.log_odds)
    log_odds = np.where(in_view, joined, rules.prior + (mean - rules.prior) * fade).astype(np.float32)
    stated = in_view | known
    votes = state >= VoxelState.SURFACE
    aged = np.where(in_view, old, 1.0)
    label, confidence = _voted(agreed, agreement, aged, frame.label, frame.confidence, np.where(votes, new, 0.0))
    of_voxels = np.where(confidence > HEARSAY, rules.thresholds[label], np.float32(rules.threshold))
    # Where there is no memory the frame's own state holds: log odds are rounded.
    occupied = np.where(in_view & (old == 0.0), state >= VoxelState.SURFACE, stated & (log_odds >= of_voxels))

    seen = sees | (known & (now - memory.seen[slot].astype(np.int64) <= rules.seen_for))
    contradicted = state >= VoxelState.SURFACE
    remembered_free = known & (memory.seen_free[slot] > 0) & seen & ~contradicted
    free_seen = (state == VoxelState.FREE_SEEN) | remembered_free
    occupied_state = np.where(seen, VoxelState.SURFACE, VoxelState.COMPLETED)
    free_state = np.where(free_seen, VoxelState.FREE_SEEN, VoxelState.FREE_INFERRED)
    fused.log_odds[...] = np.where(stated, log_odds, NOTHING)
    fused.state[...] = np.where(stated, np.where(occupied, occupied_state, free_state), VoxelState.UNOBSERVED)

    fused.label[...] = np.where(occupied, label, 0)
    fused.confidence[...] = np.where(occupied, confidence, 0.0)


def integrate(memory, lower, turn, shift, frame, rules, now) -> None:
    """See `evidence.integrate`."""
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
    limit = frame.nearness[source] * _limit(memory, slot, state, frame.label[source], rules)
    age = now - memory.observed[slot].astype(np.int64)
    fresh = age <= rules.forget_after
    kept = memory.weight[slot].astype(np.float64) * rules.fades[np.clip(age, 0, len(rules.fades) - 1)]
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


def _limit(memory, slot, state, label, rules) -> NDArray[np.float64]:
    """Largest weight of memory: a road user is where the newest frame says, in memory and in the frame."""
    remembered = rules.movable[memory.label[slot]] & (memory.agreement[slot] > HEARSAY)
    moves = remembered & (memory.log_odds[slot] >= rules.thresholds[memory.label[slot]])
    moves |= rules.movable[label] & (state >= VoxelState.SURFACE)
    sees = (state == VoxelState.FREE_SEEN) | (state == VoxelState.SURFACE)
    limit = np.where(sees, rules.seen_limit, rules.inferred_limit)
    return np.where(moves, np.minimum(limit, rules.movable_limit), limit)


def _slots(local, lower, sizes) -> tuple[tuple[NDArray[np.int64], ...], NDArray[np.bool_]]:
    """Places in memory of voxels [..., 3] counted from the lower corner of the box, and which of them it holds."""
    inside = np.all((local >= 0) & (local < sizes), axis=-1)
    return tuple(np.moveaxis((local + lower) % sizes, -1, 0)), inside


def _voted(label, agreement, old, new_label, new_confidence, new) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Majority of labels with two numbers of memory (Boyer and Moore's vote, weighted); no vote where `new` is 0."""
    sign = np.where(label == new_label, 1.0, -1.0)
    total = np.where(old + new > 0.0, old + new, 1.0)
    joined = np.where(new > 0.0, (old * agreement + sign * new * new_confidence) / total, agreement)
    turned = (joined < 0.0) | ((old == 0.0) & (new > 0.0))
    return np.where(turned, new_label, label).astype(np.uint8), np.abs(joined).astype(np.float32)


def fuse_dense_reference(views, thresholds) -> DenseVoxels:
    """The rule, readable. `thresholds`: probability from which a voxel of each label is occupied."""
    state, probability = views.state, views.probability
    seen = (state == VoxelState.FREE_SEEN) | (state == VoxelState.SURFACE)
    observed = state != VoxelState.UNOBSERVED
    any_seen = seen.any(axis=0)
    say = np.where(any_seen, seen, observed)  # [N, V]
    count = say.sum(axis=0)
    mean = (np.where(say, probability, 0).sum(axis=0, dtype=np.float32) / np.maximum(count, 1)).astype(np.float32)
    voter = say & (state >= VoxelState.SURFACE)
    weight = np.where(voter, probability * views.confidence, 0)
    label, confidence = np.zeros(mean.shape, np.uint8), np.zeros_like(mean)
    weights = np.where(voter, probability, 0).sum(axis=0)
    most = np.full(mean.shape, -1.0)
    for candidate in np.unique(views.label):  # ascending, so that the lower one stays where votes are equal
        elects = voter & (views.label == candidate)
        votes = np.where(elects, weight, 0).sum(axis=0)
        better = elects.any(axis=0) & (votes > most)
        label[better], most[better] = candidate, votes[better]
    occupied = (mean >= thresholds[label]) & voter.any(axis=0)
    fused = np.select(
        [count == 0, occupied & any_seen, occupied, any_seen],
        [VoxelState.UNOBSERVED, VoxelState.SURFACE, VoxelState.COMPLETED, VoxelState.FREE_SEEN],
        VoxelState.FREE_INFERRED,
    ).astype(np.uint8)
    label[~occupied] = 0
    confidence[occupied] = most[occupied] / np.maximum(weights[occupied], 1e-12)
    return DenseVoxels(fused, mean, label, confidence)


def voxels_along(origin, direction, shape) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The voxels of a grid that a ray passes, in order.

    `origin`: where the ray begins [3], voxel edges; `direction`: unit vector [3]; `shape`: number of voxels along x, y,
    z. Returns where the ray enters and leaves each voxel [N, 2], in voxel edges from its origin, and their indices [N,
    3].
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        crossings = [(np.arange(size + 1) - o) / d for size, o, d in zip(shape, origin, direction, strict=True)]
    moving = [along for along, d in zip(crossings, direction, strict=True) if d != 0.0]
    misses = any(d == 0.0 and not 0.0 <= o < size for size, o, d in zip(shape, origin, direction, strict=True))
    enter = max(0.0, *(along.min() for along in moving))
    leave = min(along.max() for along in moving)
    if misses or leave <= enter:
        return np.zeros((0, 2)), np.zeros((0, 3), dtype=np.int64)
    inner = np.concatenate(moving)
    borders = np.unique(np.concatenate([[enter, leave], inner[(enter < inner) & (inner < leave)]]))
    ways = np.stack([borders[:-1], borders[1:]], axis=1)
    ways = ways[ways[:, 1] - ways[:, 0] > TOUCH]
    return ways, np.floor(origin + ways.mean(axis=1)[:, None] * direction).astype(np.int64)


def free_distances_reference(state, origin, direction, blind) -> NDArray[np.float64]:
    """See `clearing.free_distances`."""
    distances = np.zeros(len(direction))
    for ray in range(len(direction)):
        ways, index = voxels_along(origin, direction[ray], state.shape)  # type: ignore[arg-type]  # three axes
        met = state[tuple(index.T)]
        free = met == VoxelState.FREE_SEEN
        passed = free | ((met == VoxelState.UNOBSERVED) & (ways[:, 0] <= blind))
        followed = int(np.argmin(np.append(passed, False)))
        if free[:followed].any() and ways[0, 0] <= blind:
            stop = ways[:followed, 1][free[:followed]][-1] - MARGIN
            distances[ray] = stop if stop > ways[0, 0] else 0.0
    return distances


def ground_cells_reference(voxels, upright_from_grid, band, ground, ignored, height) -> NDArray[np.int8]:
    """The cells of a `GroundMap` above ground of one height, by points in the middle of its cells and of voxels."""
    grid, size, state = voxels.grid, voxels.grid.voxel_size, voxels.state.copy()
    passable = np.isin(voxels.label, ignored)
    at = tuple(voxels.index[passable].T)
    state[at] = np.where(state[at] == VoxelState.SURFACE, VoxelState.FREE_SEEN, VoxelState.FREE_INFERRED)
    corners = np.array(grid.origin) + np.argwhere(np.ones((2, 2, 2))) * np.array(grid.shape) * size
    # Levels one voxel apart, from the lowest corner of the grid on.
    levels = np.arange(upright_from_grid.apply(corners)[:, 2].min() + size / 2, band[1] + 1e-6, size)
    y, x = (np.indices(ground.cells.shape) + 0.5) * size + np.reshape(ground.origin[::-1], (2, 1, 1))
    above = levels[levels >= band[0] - 1e-6][:, None, None] + height
    points = np.stack(np.broadcast_arrays(x, y, above), axis=-1)
    index, inside = grid.index_of(upright_from_grid.inverse().apply(points))
    index = np.where(inside[..., None], index, 0)
    found = np.where(inside, state[index[..., 0], index[..., 1], index[..., 2]], VoxelState.UNOBSERVED)
    cells = np.where((found == VoxelState.FREE_SEEN).all(axis=0), FREE, UNKNOWN).astype(np.int8)
    cells[(found >= VoxelState.SURFACE).any(axis=0)] = OCCUPIED
    points = upright_from_grid.apply(voxels.points_grid()[~passable].astype(np.float64))
    points = points[np.abs(points[:, 2] - height - np.mean(band)) <= np.ptp(band) / 2 + 1e-6]
    column, row = np.floor((points[:, :2] - ground.origin) / size).astype(int).T
    cells[row, column] = OCCUPIED
    return cells
