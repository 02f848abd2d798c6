"""The readable twin of the kernel that measures bodies, for the test that feeds both."""

import re

import numpy as np

from scene_completion_ros.evaluation.bodies import CUT, MISSED, NO_THING, OTHER
from scene_completion_ros.evaluation.truth import FREE, UNKNOWN
from scene_completion_ros.geometry.grids import GridRays

_SHARE = 0.1


def bodies(codes: np.ndarray, predicted: np.ndarray, rays: GridRays, tolerance: float) -> list[tuple[int, ...]]:
    """Voxel, step, true and predicted length of each ray: its voxels as letters, runs as regular expressions."""
    letters = {FREE: ".", UNKNOWN: "?", OTHER: "o"}
    found = []
    for direction, first, stop in zip(rays.direction, rays.first, rays.stop, strict=True):
        places = rays.origin + (np.arange(first, stop)[:, None] + 0.5) * direction
        index = tuple(np.clip(np.floor(places).astype(int), 0, np.array(codes.shape) - 1).T)
        true = "".join(letters.get(code, chr(code + 64)) for code in codes[index].tolist())
        called = "".join("x" if one else "." for one in predicted[index] & (codes[index] != UNKNOWN))
        body = re.match(r"[.?]*(?P<body>([A-Z])(.?\2)*)(?P<behind>\.*)", true)
        if body is None:
            found.append((NO_THING, MISSED))
            continue
        start, end, limit = body.start("body"), body.end("body"), body.end("behind")
        near = max(tolerance, _SHARE * (first + start + 0.5))
        begin = called.find("x", max(0, int(np.ceil(start - near))), limit)
        if true[end : end + 1] in ("", "?"):
            length = CUT
        elif 0 <= begin <= start + near:
            run = re.match(r"x(.?x)*", called[begin:limit])
            assert run is not None
            length = run.end()
        else:
            length = CUT if limit <= start + near and true[limit : limit + 1] in ("", "?") else MISSED
        voxel = np.ravel_multi_index([axis[start] for axis in index], codes.shape)
        found.append((int(voxel), int(first) + start, end - start, length))
    return found
