from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from scene_completion_ros.geometry import DEFAULT_GRID, RigidTransform, VoxelGrid
from scene_completion_ros.inference.field_kernels import order_kernel
from scene_completion_ros.inference.head import HeadWeights
from scene_completion_ros.inference.label_query import LabelQuery, label_logits_reference, most_likely
from scene_completion_ros.inference.query_kernel import VoxelQuery, density_reference
from scene_completion_ros.jit import kernel_threads
from tests.inference.small_bundle import CANONICAL, random_features, random_head, with_labels
from tests.inference.test_query_kernel import CASES, CODE, FEATURE_SIZE, FORWARD

HEAD = with_labels(random_head())


def queries(
    grid: VoxelGrid, camera_from_grid: RigidTransform, head: HeadWeights = HEAD, *, extrapolate: bool = False
) -> tuple[VoxelQuery, LabelQuery]:
    query = VoxelQuery(head, CODE, CANONICAL, FEATURE_SIZE, grid, camera_from_grid, extrapolate=extrapolate)
    return query, LabelQuery(query.field, query.samples, query.in_view.size)


def some(candidates: np.ndarray, count: int) -> np.ndarray:
    """Some flat indices, in the order of the grid."""
    return np.sort(np.random.default_rng(0).choice(np.flatnonzero(candidates), count, replace=False))


def expected_logits(
    features: np.ndarray, grid: VoxelGrid, camera_from_grid: RigidTransform, targets: np.ndarray, head: HeadWeights
) -> np.ndarray:
    index = np.stack(np.unravel_index(targets, grid.shape), axis=-1)
    points = camera_from_grid.apply(np.asarray(grid.origin) + (index + 0.5) * grid.voxel_size)
    return label_logits_reference(features, points, head, CODE, CANONICAL)


def check(
    query: LabelQuery, features: np.ndarray, targets: np.ndarray, expected: np.ndarray, *, tolerance: float = 1e-4
) -> None:
    logits = query.logits(features, targets)
    np.testing.assert_allclose(logits, expected, atol=tolerance, rtol=0.0)
    label, confidence = query(features, targets)
    assert (label.dtype, confidence.dtype) == (np.uint8, np.float32)
    expected_label, expected_confidence = most_likely(expected)
    np.testing.assert_allclose(confidence, expected_confidence, atol=tolerance)
    first, second = np.sort(expected, axis=1)[:, -1:-3:-1].T
    clear = first - second > 2 * tolerance
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(label[clear], expected_label[clear])
    np.testing.assert_array_equal(label, most_likely(logits)[0])


@pytest.mark.parametrize("extrapolate", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_kernel_agrees_with_the_reference(case: str, extrapolate: bool) -> None:
    grid, camera_from_grid = CASES[case]
    voxels, query = queries(grid, camera_from_grid, extrapolate=extrapolate)
    features = random_features(channels=HEAD.channels)
    targets = some(np.ones(grid.shape) if extrapolate else voxels.in_view, 1000)
    expected = expected_logits(features, grid, camera_from_grid, targets, HEAD)
    assert len(np.unique(expected.argmax(axis=1))) > 4
    check(query, features, targets, expected)


@pytest.mark.parametrize(
    ("channels", "label_hidden", "classes"), [(20, 6, 2), (64, 64, 19), (128, 64, 19), (30, 33, 255)]
)
def test_any_width_and_number_of_classes(channels: int, label_hidden: int, classes: int) -> None:
    grid, camera_from_grid = CASES["pitch 3 and roll 2 degrees"]
    head = with_labels(random_head(channels=channels), classes, label_hidden)
    voxels, query = queries(grid, camera_from_grid, head)
    features = random_features(1, head.channels)
    targets = some(voxels.in_view, 500)
    check(query, features, targets, expected_logits(features, grid, camera_from_grid, targets, head))


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 1023, 1024, 1025, 2500])
def test_any_number_of_voxels_in_any_order(count: int) -> None:
    grid, camera_from_grid = CASES["default pose"]
    voxels, query = queries(grid, camera_from_grid)
    features = random_features(2, HEAD.channels)
    targets = np.random.default_rng(count).permutation(some(voxels.in_view, count))
    if count:
        check(query, features, targets, expected_logits(features, grid, camera_from_grid, targets, HEAD))
    else:
        label, confidence = query(features, targets)
        assert len(label) == len(confidence) == len(query.logits(features, targets)) == 0


@pytest.mark.parametrize("largest", [0, 2047, 2048, 2**22, 2**31 - 1])
def test_numbers_are_ordered_with_their_places(largest: int) -> None:
    values = np.random.default_rng(0).integers(0, largest, 3000, np.int32, endpoint=True)
    values[7] = largest
    ordered, place = np.empty_like(values), np.empty_like(values)
    order_kernel()(values, ordered, place)
    np.testing.assert_array_equal(place, np.argsort(values, kind="stable"))
    np.testing.assert_array_equal(ordered, values[place])


def test_label_units_do_not_touch_the_density() -> None:
    grid, camera_from_grid = CASES["pitch 3 and roll 2 degrees"]
    features = random_features(4, HEAD.channels)
    labelled, _ = queries(grid, camera_from_grid)
    plain = VoxelQuery(random_head(), CODE, CANONICAL, FEATURE_SIZE, grid, camera_from_grid)
    density = labelled.density(features)
    np.testing.assert_array_equal(density, plain.density(features[..., : HEAD.hidden]))
    points = camera_from_grid.apply(grid.centres().reshape(-1, 3).astype(np.float64))[labelled.in_view.reshape(-1)]
    expected = density_reference(features, points, HEAD, CODE, CANONICAL)
    np.testing.assert_allclose(density[labelled.in_view], expected, atol=1e-4, rtol=0.0)


def test_the_default_grid_on_two_threads() -> None:
    voxels, query = queries(DEFAULT_GRID, FORWARD)
    features = random_features(3, HEAD.channels)
    targets = some(voxels.in_view, 20000)
    with kernel_threads(1):
        alone = query(features, targets)
    with kernel_threads(2):
        together = query(features, targets)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)
    chosen = some(np.ones(20000), 3000)
    expected = expected_logits(features, DEFAULT_GRID, FORWARD, targets[chosen], HEAD)
    np.testing.assert_allclose(alone[1][chosen], most_likely(expected)[1], atol=1e-4)


def test_units_that_are_zero_everywhere_do_not_matter() -> None:
    grid, camera_from_grid = CASES["default pose"]
    assert HEAD.label_hidden_bias is not None
    bias = HEAD.label_hidden_bias.copy()
    bias[::3] = -100.0
    head = dataclasses.replace(HEAD, label_hidden_bias=bias)
    voxels, query = queries(grid, camera_from_grid, head)
    features, targets = random_features(channels=HEAD.channels), some(voxels.in_view, 300)
    check(query, features, targets, expected_logits(features, grid, camera_from_grid, targets, head))
    silent = dataclasses.replace(HEAD, label_hidden_bias=np.full_like(bias, -100.0))
    _, query = queries(grid, camera_from_grid, silent)
    check(query, features, targets, expected_logits(features, grid, camera_from_grid, targets, silent), tolerance=1e-5)


def test_certainty_does_not_overflow() -> None:
    grid, camera_from_grid = CASES["default pose"]
    assert HEAD.label_weight is not None
    head = dataclasses.replace(HEAD, label_weight=HEAD.label_weight * np.float32(1e4))
    voxels, query = queries(grid, camera_from_grid, head)
    label, confidence = query(random_features(channels=HEAD.channels), some(voxels.in_view, 300))
    assert np.isfinite(confidence).all()
    assert np.median(confidence) == 1.0
    assert len(np.unique(label)) > 5


def test_voxels_out_of_view_are_refused() -> None:
    grid, camera_from_grid = CASES["default pose"]
    voxels, query = queries(grid, camera_from_grid)
    outside = np.flatnonzero(~voxels.in_view)[:2]
    with pytest.raises(ValueError, match="2 of 3 voxels are out of view"):
        query(random_features(channels=HEAD.channels), np.concatenate([outside, np.flatnonzero(voxels.in_view)[:1]]))


def test_features_of_another_size_are_refused() -> None:
    grid, camera_from_grid = CASES["default pose"]
    _, query = queries(grid, camera_from_grid)
    with pytest.raises(ValueError, match=r"\(96, 320, 128\)"):
        query(random_features(channels=HEAD.hidden), np.zeros(0, dtype=np.int64))


def test_a_head_without_labels_is_refused() -> None:
    query = VoxelQuery(random_head(), CODE, CANONICAL, FEATURE_SIZE, *CASES["default pose"])
    with pytest.raises(ValueError, match="no labels"):
        LabelQuery(query.field, query.samples, query.in_view.size)


def test_the_reference_agrees_with_torch() -> None:
    torch = pytest.importorskip("torch")
    points = np.random.default_rng(5).uniform([-10, -2, 3], [10, 2, 60], (500, 3))
    features = random_features(channels=HEAD.channels)
    coordinates = CODE.coordinates(points, CANONICAL)
    sampled = torch.nn.functional.grid_sample(
        torch.from_numpy(features[..., HEAD.hidden :].astype(np.float64)).permute(2, 0, 1)[None],
        torch.from_numpy(coordinates[None, None, :, :2]),
        padding_mode="border",
        align_corners=False,
    )[0, :, 0].T
    tensors = {name: torch.from_numpy(tensor.astype(np.float64)) for name, tensor in HEAD.tensors().items()}
    linear = torch.nn.functional.linear
    positional = linear(
        torch.from_numpy(CODE.encode(coordinates)), tensors["label_positional_weight"], tensors["label_hidden_bias"]
    )
    expected = linear(torch.relu(sampled + positional), tensors["label_weight"], tensors["label_bias"])
    logits = label_logits_reference(features, points, HEAD, CODE, CANONICAL)
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-9)
    confidence, label = torch.softmax(expected, dim=1).max(dim=1)
    np.testing.assert_array_equal(most_likely(logits)[0], label.numpy())
    np.testing.assert_allclose(most_likely(logits)[1], confidence.numpy(), atol=1e-9)
