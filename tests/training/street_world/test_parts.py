"""Bodies are closed, convex and face outwards."""

from __future__ import annotations

import numpy as np
import pytest
from scene_completion_training.street_world.classes import StreetClass
from scene_completion_training.street_world.parts import box, cylinder, ellipsoid, extrusion, frustum, upright

SOME = StreetClass.BUILDING
PROFILE = np.array([(0.0, 0.0), (2.0, 0.0), (2.0, 1.0), (1.0, 1.5)])
BODIES = {
    "box": box((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), "a", SOME),
    "frustum": frustum((0, 4, 0, 2), (1, 3, 0.5, 1.5), (0, 1), ("a", "b", "c"), SOME),
    "extrusion": extrusion(PROFILE, (-1.0, 1.5), ("a", "b"), SOME),
    "cylinder": upright(cylinder(0.5, 2.0, ("a", "b"), SOME), (1.0, 2.0, 0.0), 2.0),
    "ellipsoid": ellipsoid((1.0, 2.0, 3.0), (0.0, 0.0, 1.0), "a", SOME),
    "moved": box((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), "a", SOME).moved((1.0, 2.0, 3.0), yaw=0.7),
}


def volume(corners: np.ndarray) -> float:
    return float(np.linalg.det(corners).sum() / 6.0)


@pytest.mark.parametrize("name", BODIES)
def test_bodies_are_closed_convex_and_face_outwards(name: str) -> None:
    part = BODIES[name]
    normals, offsets = part.planes()
    points = part.corners.reshape(-1, 3)
    assert (points @ normals.T <= offsets + 1e-9).all()
    assert (points.mean(axis=0) @ normals.T < offsets).all()
    # Closed: the oriented faces cancel, so the volume does not depend on the origin.
    assert volume(part.corners) == pytest.approx(volume(part.corners + 10.0), rel=1e-6)


def test_volumes() -> None:
    assert volume(BODIES["box"].corners) == pytest.approx(6.0)
    assert volume(BODIES["extrusion"].corners) == pytest.approx(2.5 * 2.0)
    assert volume(BODIES["cylinder"].corners) == pytest.approx(np.pi * 0.5, rel=0.06)
