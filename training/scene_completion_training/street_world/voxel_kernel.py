"""The loops of voxelisation, compiled: votes of surfaces and of points, and insides of convex bodies.

The test of `ground_truth` has their readable twin, and feeds both.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# numba infers the types of these loops; their arrays' shapes are in the docstrings.

from functools import cache
from typing import Any

import numpy as np

from scene_completion_ros.jit import inlined, kernel


@inlined
def _voxel(x, y, z, origin, size, shape):
    """Flat index of the voxel that a point lies in, -1 outside."""
    i, j, k = np.floor((x - origin[0]) / size), np.floor((y - origin[1]) / size), np.floor((z - origin[2]) / size)
    if not (0 <= i < shape[0] and 0 <= j < shape[1] and 0 <= k < shape[2]):
        return -1
    return (int(i) * shape[1] + int(j)) * shape[2] + int(k)


@inlined
def _count(cell, votes, touched, filled):
    if cell >= 0:
        if votes[cell] == 0:
            touched[filled] = cell
            filled += 1
        votes[cell] += 1
    return filled


@inlined
def _settle(label, best, votes, touched, filled, name):
    """Give voxels to a class that has at least as many votes as any before; forget its votes."""
    for n in range(filled):
        cell = touched[n]
        if votes[cell] >= best[cell]:
            best[cell] = votes[cell]
            label[cell] = name
        votes[cell] = 0


def _vote_triangles(corners, start, names, spacing, origin, size, shape, label, best, votes, touched):
    """Class with most surface samples per voxel: triangles [F, 3, 3] sorted by class, class n from start[n] on."""
    for n in range(len(names)):
        filled = 0
        for f in range(start[n], start[n + 1]):
            longest = 0.0
            for a in range(3):
                b = (a + 1) % 3
                x, y, z = (
                    corners[f, a, 0] - corners[f, b, 0],
                    corners[f, a, 1] - corners[f, b, 1],
                    corners[f, a, 2] - corners[f, b, 2],
                )
                longest = max(longest, np.sqrt(x * x + y * y + z * z))
            steps = int(2 ** np.ceil(np.log2(max(longest / spacing, 1.0))))
            for i in range(steps + 1):
                for j in range(steps + 1 - i):
                    p, q, r = (steps - i - j) / steps, i / steps, j / steps
                    x = p * corners[f, 0, 0] + q * corners[f, 1, 0] + r * corners[f, 2, 0]
                    y = p * corners[f, 0, 1] + q * corners[f, 1, 1] + r * corners[f, 2, 1]
                    z = p * corners[f, 0, 2] + q * corners[f, 1, 2] + r * corners[f, 2, 2]
                    filled = _count(_voxel(x, y, z, origin, size, shape), votes, touched, filled)
        _settle(label, best, votes, touched, filled, names[n])


def _vote_points(points, start, names, origin, size, shape, label, best, votes, touched):
    """Most frequent class of the points in each voxel: points [N, 3] sorted by class."""
    for n in range(len(names)):
        filled = 0
        for i in range(start[n], start[n + 1]):
            cell = _voxel(points[i, 0], points[i, 1], points[i, 2], origin, size, shape)
            filled = _count(cell, votes, touched, filled)
        _settle(label, best, votes, touched, filled, names[n])


def _mark_points(points, origin, size, shape, marked):
    """Set the voxels that points [N, 3] lie in."""
    for i in range(len(points)):
        cell = _voxel(points[i, 0], points[i, 1], points[i, 2], origin, size, shape)
        if cell >= 0:
            marked[cell] = True


def _fill_convex(normals, offsets, low, high, origin, size, name, label):
    """Label free voxels [X, Y, Z] whose centres lie behind all planes, within index bounds."""
    for i in range(low[0], high[0]):
        x = origin[0] + (i + 0.5) * size
        for j in range(low[1], high[1]):
            y = origin[1] + (j + 0.5) * size
            for k in range(low[2], high[2]):
                if label[i, j, k] != 0:
                    continue
                z = origin[2] + (k + 0.5) * size
                inside = True
                for f in range(len(offsets)):
                    if normals[f, 0] * x + normals[f, 1] * y + normals[f, 2] * z > offsets[f] + 1e-6:
                        inside = False
                        break
                if inside:
                    label[i, j, k] = name


@cache
def compiled(name: str) -> Any:
    """One of the kernels by name: "vote_triangles", "vote_points", "mark_points", "fill_convex"."""
    functions = (_vote_triangles, _vote_points, _mark_points, _fill_convex)
    return kernel(parallel=False)({function.__name__[1:]: function for function in functions}[name])
