"""Occupied-normalised trilinear sampling: exact to the half voxel (M1), unshrunken beside free space (M2)."""

import itertools

import torch
from torch import Tensor

from scene_completion_training.sparse.voxel_set import Pyramid, VoxelSet, sample, sample_levels
from tests.training.sparse.voxel_sets import random_set


def random_points(count: int = 200, margin: float = 3.0) -> Tensor:
    """Points [P, 4] in and around the grid, of three scenes, of which the sets have two."""
    generator = torch.Generator().manual_seed(0)
    scene = torch.randint(3, (count, 1), generator=generator)
    return torch.cat([scene, torch.rand(count, 3, generator=generator) * (9 + 2 * margin) - margin], dim=1)


def plainly(features: Tensor, voxels: VoxelSet, points: Tensor, edge: float) -> tuple[Tensor, list[bool]]:
    """The readable twin: point by point, corner by corner."""
    rows = {tuple(place): row for row, place in enumerate(voxels.index.tolist())}
    out = torch.zeros(len(points), features.shape[1])
    known = []
    for number, (scene, *place) in enumerate(points.tolist()):
        corners = []
        u = [p / edge - 0.5 for p in place]
        for corner in itertools.product(*([int(v // 1), int(v // 1) + 1] for v in u)):
            weight = 1.0
            for v, c in zip(u, corner, strict=True):
                weight *= 1 - abs(v - c)
            if weight > 0 and (place_of := (int(scene), *corner)) in rows:
                corners.append((weight, features[rows[place_of]]))
        known.append(bool(corners))
        if corners:
            out[number] = torch.stack([w * f for w, f in corners]).sum(dim=0) / sum(w for w, _ in corners)
    return out, known


def test_sampling_is_that_of_the_readable_twin() -> None:
    pyramid, points = Pyramid.of(random_set(share=0.1), 3), random_points()
    features = [torch.randn(len(level), 4) for level in pyramid.levels]
    found, known = sample_levels(features, pyramid, points)
    for level, (f, voxels) in enumerate(zip(features, pyramid.levels, strict=True)):
        expected, there = plainly(f, voxels, points, 2**level)
        torch.testing.assert_close(found[level], expected, rtol=1e-4, atol=1e-4)
        if level == 0:
            assert known.tolist() == there
            assert 0 < sum(there) < len(there)


def test_m2_a_constant_stays_constant_beside_free_space() -> None:
    pyramid = Pyramid.of(random_set(share=0.02), 4)
    constant = [torch.full((len(level), 2), 3.0) for level in pyramid.levels]
    found, known = sample_levels(constant, pyramid, random_points(2000))
    assert known.any()
    for values in found:
        torch.testing.assert_close(values[known], torch.full_like(values[known], 3.0))


def test_m1_a_ramp_is_exact_to_the_half_voxel() -> None:
    shape = (16, 8, 8)
    cells = torch.tensor(list(itertools.product([0], *map(range, shape))))
    pyramid = Pyramid.of(VoxelSet.of(cells, shape)[0], 3)
    ramps = [(level.index[:, 1:] + 0.5) * 2**step for step, level in enumerate(pyramid.levels)]
    points = torch.cat([torch.zeros(300, 1), torch.rand(300, 3) * (torch.tensor(shape) - 4.0) + 2.0], dim=1)
    for values in sample_levels(ramps, pyramid, points)[0]:  # from centre to centre of the coarsest voxels
        torch.testing.assert_close(values, points[:, 1:], rtol=1e-5, atol=1e-5)


def test_gradients() -> None:
    voxels, points = random_set(share=0.1), random_points(40, margin=0.0).double()
    features = torch.randn(len(voxels), 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: sample(f, voxels, points, 2.0)[0], features)
