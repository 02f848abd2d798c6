"""The readable twins of the kernels of a student, for the tests that feed both."""

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry import Camera, RigidTransform, VoxelGrid
from scene_completion_ros.geometry.grids import grid_rays
from scene_completion_ros.inference.march import SPENT, MarchResult
from scene_completion_ros.inference.query_kernel import hidden_reference
from scene_completion_ros.inference.text_bank import BACKGROUND
from scene_completion_ros.voxels.occupancy import SEEN, density_of_logit
from scene_completion_ros.voxels.semantic_voxels import VoxelState


def centres_of(grid: VoxelGrid, camera_from_grid: RigidTransform, flat: NDArray[np.integer]) -> NDArray[np.float64]:
    """Centres [N, 3] of voxels of these flat indices, in the camera's optical frame."""
    index = np.stack(np.unravel_index(flat, grid.shape), axis=-1)
    return camera_from_grid.apply(np.asarray(grid.origin) + (index + 0.5) * grid.voxel_size)


def march(alpha, occupied, grid, camera_from_grid, camera) -> MarchResult:
    """Marches all rays of a camera, one step of all rays at a time."""
    rays = grid_rays(grid, camera_from_grid, camera)
    count = len(rays.first)
    transmittance, distance = np.ones(count), np.zeros(count)
    transmittance_state = np.ones(count)
    half_distance = np.full(count, np.inf)
    last = np.asarray(grid.shape) - 1
    for step in range(int(rays.first.min()), int(rays.stop.max())):
        active = np.flatnonzero((rays.first <= step) & (step < rays.stop) & (transmittance >= SPENT))
        along = (step + 0.5) * grid.voxel_size
        position = rays.origin + (step + 0.5) * rays.direction[active]
        index = np.clip(np.floor(position).astype(np.int64), 0, last)
        opacity = alpha[index[:, 0], index[:, 1], index[:, 2]]
        opaque = occupied[index[:, 0], index[:, 1], index[:, 2]]
        distance[active] += transmittance[active] * opacity * along
        transmittance[active] *= 1.0 - opacity
        transmittance_state[active] *= np.where(opaque, 0.0, 1.0 - opacity)
        # "Not at least" instead of "less": behind a NaN nothing is seen.
        turned = active[~(transmittance_state[active] >= SEEN) & np.isinf(half_distance[active])]
        half_distance[turned] = along
        spent = active[transmittance[active] < SPENT]
        distance[spent] += transmittance[spent] * along
        transmittance[spent] = 0.0
    distance += transmittance * np.where(transmittance > 0.0, rays.leave, 0.0)
    distance[rays.first == rays.stop] = np.nan
    shape = (camera.height, camera.width)
    return MarchResult(
        depth=(distance * rays.cosine).astype(np.float32).reshape(shape),
        half_distance=half_distance.astype(np.float32).reshape(shape),
        transmittance=transmittance.astype(np.float32).reshape(shape),
    )


def sight(depth, occupied, grid, camera_from_grid, camera, far) -> MarchResult:
    """How far the rays of a camera see, of a student that predicts depth."""
    rays = grid_rays(grid, camera_from_grid, camera)
    ends = depth.reshape(-1) / rays.cosine
    half_distance = np.full(len(ends), np.inf)
    last = np.asarray(grid.shape) - 1
    for ray, (first, stop) in enumerate(zip(rays.first, rays.stop, strict=True)):
        for step in range(first, stop):
            along = (step + 0.5) * grid.voxel_size
            if not along < ends[ray]:  # where the depth is no number, nothing is seen at all
                half_distance[ray] = np.nan_to_num(ends[ray], nan=0.0)
                break
            position = rays.origin + (step + 0.5) * rays.direction[ray]
            if occupied[tuple(np.clip(np.floor(position).astype(np.int64), 0, last))]:
                half_distance[ray] = along
                break
    shape = (camera.height, camera.width)
    return MarchResult(
        depth=depth.astype(np.float32),
        half_distance=half_distance.astype(np.float32).reshape(shape),
        transmittance=(depth >= far).astype(np.float32),
    )


def label_logits_reference(features, points_camera, head, code, canonical) -> NDArray[np.float64]:
    """Logits V . ReLU(F_l(u, v) + W_l gamma(c) + b_l) + v, float64 [N, K]. Raises ValueError without labels."""
    positional_weight, hidden_bias, weight, bias = head.label_layers()
    map_of_labels = features[..., head.hidden :]
    hidden = hidden_reference(map_of_labels, points_camera, positional_weight, hidden_bias, code, canonical)  # [N, E]
    return np.asarray(hidden @ weight.T + bias, dtype=np.float64)


def most_likely(logits) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Label, uint8 [N], and confidence, float64 [N], of logits [N, K]: the argmax, and its softmax probability."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return logits.argmax(axis=1).astype(np.uint8), 1.0 / np.exp(shifted).sum(axis=1)


def class_cosines_reference(hidden, vocabulary, space) -> NDArray[np.float64]:
    """Scores [N, K or K + 1] of classes and background of units `hidden` [N, E]; 0 where there is no feature."""
    weight, bias, root = space.folded(vocabulary.rows)
    product = hidden @ weight.T + bias  # [N, R]
    norm = np.linalg.norm(np.column_stack([hidden, np.ones(len(hidden))]) @ root.T, axis=1)[:, None]
    there = np.isfinite(norm) & (norm > 0.0)
    cosine = np.divide(product, norm, out=np.zeros_like(product), where=there)
    classes = range(len(vocabulary.names))
    groups = [*classes, BACKGROUND] if (vocabulary.group == BACKGROUND).any() else classes
    return np.stack([cosine[:, vocabulary.group == group].max(axis=1) for group in groups], axis=1)


def labels_reference(cosines, classes, margin, temperature) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Label, uint8 [N], and confidence of scores [N, `classes` or one more]; all 0: the voxel has no feature."""
    best = cosines.argmax(axis=1)
    ranked = np.sort(cosines, axis=1)[:, ::-1]
    ahead = ranked[:, 0] - ranked[:, 1] if cosines.shape[1] > 1 else np.full(len(cosines), np.inf)
    there = cosines.any(axis=1)
    label = np.where(there & (ahead >= margin), best, classes).astype(np.uint8)
    confidence = 1.0 / np.exp((cosines - ranked[:, :1]) / temperature).sum(axis=1)
    return label, np.where(there, confidence, 0.0)


def assert_labels(found, scores, label, confidence, *, margin: float, atol: float, tie: float) -> None:
    """That labels and confidences are those of scores [N, K], but for labels of which two scores nearly tie."""
    np.testing.assert_allclose(found.confidence, confidence, atol=atol)
    ranked = np.sort(scores, axis=1)[:, ::-1]
    ahead = ranked[:, 0] - ranked[:, 1] if scores.shape[1] > 1 else np.full(len(scores), np.inf)
    clear = (ahead > tie) & (np.abs(ahead - margin) > tie)
    assert np.count_nonzero(clear) >= 0.9 * len(scores)
    np.testing.assert_array_equal(found.label[clear], label[clear])


def density_reference(features, points_camera, head, code, canonical) -> NDArray[np.float64]:
    """Density sigma = softplus(w . ReLU(F(u, v) + W_gamma gamma(c) + b) + d), per metre, float64 [N]."""
    weight, bias, map_of_density = head.positional_weight, head.hidden_bias, features[..., : head.hidden]
    hidden = hidden_reference(map_of_density, points_camera, weight, bias, code, canonical)
    return density_of_logit(hidden @ head.density_weight.astype(np.float64) + head.density_bias[0])


def nearest_ray(points: NDArray[np.float64], camera: Camera) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column of the ray nearest to points [N, 3] in the optical frame, clamped to the image."""
    depth = np.maximum(points[:, 2], 1e-6)
    column = np.floor(camera.fx * points[:, 0] / depth + camera.cx + 0.5)
    row = np.floor(camera.fy * points[:, 1] / depth + camera.cy + 0.5)
    return (np.clip(row, 0, camera.height - 1).astype(np.int64), np.clip(column, 0, camera.width - 1).astype(np.int64))


def farthest_of_four(
    half_distance: NDArray[np.float32], points: NDArray[np.float64], camera: Camera
) -> NDArray[np.float32]:
    """Largest half distance of the four rays around points [N, 3] in the optical frame, clamped to the image."""
    depth = np.maximum(points[:, 2], 1e-6)
    column = np.floor(camera.fx * points[:, 0] / depth + camera.cx).astype(np.int64)
    row = np.floor(camera.fy * points[:, 1] / depth + camera.cy).astype(np.int64)
    far = np.zeros(len(points), dtype=np.float32)
    for rows in (row, row + 1):
        for columns in (column, column + 1):
            r, c = np.clip(rows, 0, camera.height - 1), np.clip(columns, 0, camera.width - 1)
            far = np.maximum(far, half_distance[r, c])
    return far


def states(
    occupied: NDArray[np.bool_],  # bool [X, Y, Z], calibrated probability at or above the threshold
    in_view: NDArray[np.bool_],  # bool [X, Y, Z], everything else is unobserved
    half_distance: NDArray[np.float32],  # [h, w] of `march` with the same ``occupied``
    grid: VoxelGrid,
    camera_from_grid: RigidTransform,
    camera: Camera,  # the ray camera of `march`, without distortion
) -> NDArray[np.uint8]:
    """State of every voxel, uint8 [X, Y, Z]: what `VoxelClassifier` computes."""
    index = np.argwhere(in_view)
    centres_grid = np.asarray(grid.origin) + (index + 0.5) * grid.voxel_size
    centres = camera_from_grid.apply(centres_grid)
    distance = np.linalg.norm(centres, axis=1)
    seen = distance <= half_distance[nearest_ray(centres, camera)] + 0.5 * grid.voxel_size
    is_occupied = occupied[in_view]
    camera_in_grid = camera_from_grid.inverse().translation
    for axis in range(3):
        offset = camera_in_grid[axis] - centres_grid[:, axis]
        turned = is_occupied & (np.abs(offset) > 0.5 * grid.voxel_size)
        faces = centres_grid[turned]
        faces[:, axis] += np.sign(offset[turned]) * 0.5 * grid.voxel_size
        points = camera_from_grid.apply(faces)
        reached = np.linalg.norm(points, axis=1) <= farthest_of_four(half_distance, points, camera)
        seen[turned] |= reached & (points[:, 2] > 0.0)
    state = np.zeros(grid.shape, dtype=np.uint8)
    occupied_state = np.where(seen, VoxelState.SURFACE, VoxelState.COMPLETED)
    free_state = np.where(seen, VoxelState.FREE_SEEN, VoxelState.FREE_INFERRED)
    state[in_view] = np.where(is_occupied, occupied_state, free_state)
    return state
