"""NumPy reads the saved voxels as they were."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scene_completion_ros.voxels.files import ImageDetails, npz_bytes
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels
from tests.checkout import ROOT
from tests.voxels.samples import STREET, street


def details(voxels: SemanticVoxels) -> ImageDetails:
    random = np.random.default_rng(1)
    return ImageDetails(
        probability_grid=random.random(voxels.grid.shape).astype(np.float16),
        alpha_grid=random.random(voxels.grid.shape).astype(np.float16),
        depth=random.random((5, 7), dtype=np.float32),
        transmittance=random.random((5, 7)).astype(np.float16),
        depth_intrinsics=np.diag([3.0, 4.0, 1.0]),
    )


def test_numpy_reads_voxels_and_details(tmp_path: Path) -> None:
    voxels = street()
    more = details(voxels)
    (tmp_path / "voxels.npz").write_bytes(npz_bytes(voxels, more))
    with np.load(tmp_path / "voxels.npz", allow_pickle=False) as archive:
        arrays = dict(archive)
    wanted = {name: getattr(voxels, name) for name in ("state", "index", "probability", "label", "confidence")}
    for name, array in {**wanted, **vars(more)}.items():
        assert arrays[name].dtype == array.dtype, name
        np.testing.assert_array_equal(arrays[name], array)
    assert (str(arrays["format"]), arrays["version"]) == ("scene_completion_ros voxels", 1)
    assert tuple(arrays["class_names"]) == voxels.class_names
    assert tuple(map(tuple, arrays["class_colours"])) == voxels.class_colours
    held = [arrays[name] for name in ("voxel_size", "grid_frame")]
    assert (tuple(arrays["origin"]), *held) == (voxels.grid.origin, voxels.grid.voxel_size, voxels.grid.frame)
    np.testing.assert_array_equal(arrays["grid_from_camera"], voxels.grid_from_camera.matrix)
    assert arrays["stamp_ns"] == voxels.stamp_ns


def test_the_documented_example_reads_them_with_numpy_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    voxels = street()
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    Path("out/voxels.npz").write_bytes(npz_bytes(voxels, details(voxels)))
    (example,) = (
        block
        for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "voxels.md").read_text(), re.DOTALL)
        if "voxels.npz" in block
    )
    names: dict[str, Any] = {}
    exec(example, names)  # noqa: S102 # the example of our own documents
    np.testing.assert_array_equal(names["state"], voxels.state)
    np.testing.assert_allclose(names["points"], voxels.points_grid(), atol=1e-5)
    assert names["names"].tolist() == [STREET[label] for label in voxels.label]
    assert len(names["sure"]) == np.count_nonzero(voxels.probability > 0.8)
