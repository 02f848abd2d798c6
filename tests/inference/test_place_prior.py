"""What a place ahead of the camera adds to the density: by hand, in the kernel, and through the files of a bundle."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.errors import BundleError
from scene_completion_ros.geometry.grids import DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA
from scene_completion_ros.inference.bundle import MANIFEST, StudentBundle
from scene_completion_ros.inference.head import PlacePrior
from scene_completion_ros.inference.query_kernel import VoxelQuery
from tests.inference.small_bundle import CANONICAL, make_small_bundle, random_features, random_head, road_head
from tests.inference.test_bundle import edit_manifest, refused, replace_head
from tests.inference.twins import density_reference

LATTICE = np.array([[1.0, -10.0, -2.0], [8.0, 4.0, 1.0]], dtype=np.float32)


def random_prior(seed: int = 0) -> PlacePrior:
    rng = np.random.default_rng(seed)
    gain, logit = rng.uniform(0.2, 1.5, (7, 6, 5)), rng.normal(0.0, 2.0, (7, 6, 5))
    return PlacePrior(gain.astype(np.float32), logit.astype(np.float32), LATTICE)


def test_between_knots_by_hand() -> None:
    logit = np.zeros((2, 2, 2), dtype=np.float32)
    logit[1, 0, 1] = 8.0  # the knot 3 m ahead, 1 m to the right, 4 m up
    gain = np.full((2, 2, 2), 0.5, dtype=np.float32)
    prior = PlacePrior(gain, logit, np.array([[1.0, -1.0, 0.0], [2.0, 2.0, 4.0]], dtype=np.float32))
    # Optical axes: x right, y down, z forward.
    points = np.array([[1.0, -4.0, 3.0], [0.0, -4.0, 3.0], [0.5, -3.0, 2.0], [90.0, -90.0, 90.0], [0.0, 0.0, -5.0]])
    found = prior.at(points)
    np.testing.assert_allclose(found[:, 0], 0.5)
    # On the knot; half way to the left; 3/4 across, 3/4 up and half way ahead; beyond the corner; behind the camera.
    np.testing.assert_allclose(found[:, 1], [8.0, 4.0, 8.0 * 0.75 * 0.75 * 0.5, 8.0, 0.0], atol=1e-6)


def test_kernel_agrees_with_the_reference() -> None:
    head = dataclasses.replace(random_head(), prior=random_prior())
    code, features = StudentBundle("", CANONICAL, random_head()).point_code, random_features()
    camera_from_grid = DEFAULT_GRID_FROM_CAMERA.inverse()
    query = VoxelQuery(head, code, CANONICAL, (96, 320), DEFAULT_GRID, camera_from_grid)
    index = np.random.default_rng(0).choice(np.flatnonzero(query.in_view), 20000, replace=False)
    points = camera_from_grid.apply(DEFAULT_GRID.centres().reshape(-1, 3)[index])
    expected = density_reference(features, points, head, code, CANONICAL)
    np.testing.assert_allclose(query.density(features).reshape(-1)[index], expected, atol=2e-4, rtol=0.0)
    without = density_reference(features, points, random_head(), code, CANONICAL)
    assert np.abs(expected - without).mean() > 0.5


@pytest.mark.parametrize("classes", [1, 3])
def test_a_bundle_keeps_its_prior(tmp_path: Path, classes: int) -> None:
    prior = random_prior()
    bundle = make_small_bundle(tmp_path, classes=classes)
    bundle = dataclasses.replace(bundle, head=dataclasses.replace(bundle.head, prior=prior))
    saved = bundle.save(tmp_path, bundle.encoder_path.read_bytes())
    for loaded in (saved, StudentBundle.load(tmp_path)):
        assert loaded.head.prior is not None
        assert loaded.head.classes == classes
        for name in ("gain", "logit", "lattice"):
            np.testing.assert_array_equal(getattr(loaded.head.prior, name), getattr(prior, name))
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    assert manifest["head"]["prior_knots"] == [7, 6, 5]


def with_prior(folder: Path) -> None:
    head = dataclasses.replace(road_head(), prior=random_prior())
    make_small_bundle(folder, head=head)


def test_what_contradicts_itself_is_refused(tmp_path: Path) -> None:
    with_prior(tmp_path)
    edit_manifest(tmp_path, lambda m: m["head"].update(prior_knots=[7, 6, 4]))
    assert "tensor prior_gain" in refused(tmp_path).where
    edit_manifest(tmp_path, lambda m: m["head"].pop("prior_knots"))
    assert "tensor prior_gain" in refused(tmp_path).where  # nobody said that there is one


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"prior_gain": np.full((7, 6, 5), -1.0, np.float32)}, "negative"),
        ({"prior_lattice": np.zeros((2, 3), np.float32)}, "not positive"),
        ({"prior_logit": np.full((7, 6, 5), np.inf, np.float32)}, "values beyond"),
        ({"prior_lattice": None}, "missing"),
    ],
)
def test_bad_tensors_are_refused(tmp_path: Path, tensors: dict[str, np.ndarray | None], message: str) -> None:
    with_prior(tmp_path)
    replace_head(tmp_path, **tensors)
    assert message in refused(tmp_path).what


def test_bad_shapes_are_refused() -> None:
    one_knot = np.ones((1, 6, 5), np.float32)
    with pytest.raises(BundleError, match="at least two knots"):
        PlacePrior(one_knot, one_knot, LATTICE)
    with pytest.raises(BundleError, match="one shape"):
        PlacePrior(np.ones((7, 6, 5), np.float32), np.ones((7, 5, 5), np.float32), LATTICE)
