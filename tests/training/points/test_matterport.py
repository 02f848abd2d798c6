"""Matterport3D in a small folder of its layout."""

from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.geometry import Camera
from scene_completion_training.points.opening import open_scenes
from scene_completion_training.points.scene import PointScene
from tests import room_layouts as layouts

REGION = f"{layouts.HOUSE}_region0"


def region(root: Path, labels: str = "") -> PointScene:
    return open_scenes(root, labels=labels)[REGION]


def test_a_vertex_has_the_most_frequent_class_of_its_faces(tmp_path: Path) -> None:
    """Vertices 0 and 1 are of wall faces alone. Vertex 2 has two walls and a vent, 3 one of each, 4 a vent."""
    layouts.matterport(tmp_path, views=False)
    found = region(tmp_path, "matterport40")
    assert found.label is not None and found.instance is not None
    assert [found.classes[k] for k in found.label] == ["wall", "wall", "wall", "wall", "air vent"]
    assert found.instance.tolist() == [0, 0, 0, 0, 1]
    assert found.normals is not None and found.normals[3].tolist() == [0, 0, 1] and found.views == ()
    # OpenScene's 21 classes have no vents: such faces count as unlabelled, which wins where it is as frequent.
    known = region(tmp_path).label
    assert known is not None and known.tolist() == [0, 0, 0, -1, -1]


def test_views_look_as_their_owners_say(tmp_path: Path) -> None:
    layouts.matterport(tmp_path)
    for view, pose in zip(region(tmp_path).views, layouts.walk(3), strict=True):
        assert view.camera == Camera(60.0, 60.0, 39.5, 24.5, 80, 60)  # cy counts from the lower edge in the file
        np.testing.assert_allclose(view.world_from_camera.matrix, pose.matrix, atol=1e-6)
        np.testing.assert_allclose(view.depth(), layouts.seen(pose, view.camera)[0], atol=2e-4)
        assert view.image().shape == (60, 80, 3)


def test_ids_beyond_the_table_and_a_missing_table_are_refused(tmp_path: Path) -> None:
    layouts.matterport(tmp_path, table=False)
    with pytest.raises(SequenceError, match="no category_mapping.tsv"):
        open_scenes(tmp_path)
    (tmp_path / "category_mapping.tsv").write_text("index\tnyu40id\tnyuClass\n1\t1\twall\n")
    with pytest.raises(SequenceError, match="labels 6, but its list ends at 1"):
        region(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("intrinsics_matrix 60.0", "intrinsics_matrix f", "line 4: cannot be used: could not convert"),
        ("scan ab_d0_1.png ab_i0_1.jpg", "scan ab_d0_1.png ../1.jpg", "line 6: cannot be used: there is no image"),
        ("intrinsics_matrix", "intrinsics", "line 5: cannot be used: it comes before all intrinsics"),
        (" 1.00000000\n", "\n", "line 5: cannot be used: cannot reshape"),
    ],
)
def test_a_damaged_file_of_cameras_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    folder = layouts.matterport(tmp_path)
    conf = folder / "undistorted_camera_parameters" / f"{layouts.HOUSE}.conf"
    conf.write_text(conf.read_text().replace(old, new, 1))
    with pytest.raises(SequenceError, match=message):
        region(tmp_path)


def test_faces_of_other_vertices_are_refused(tmp_path: Path) -> None:
    mesh = layouts.matterport(tmp_path, views=False) / "region_segmentations" / "region0.ply"
    content = mesh.read_bytes()
    mesh.write_bytes(content.replace(np.array([2, 3, 4], "<i4").tobytes(), np.array([2, 3, 5], "<i4").tobytes()))
    with pytest.raises(SequenceError, match="faces of other than its 5 vertices"):
        region(tmp_path)
    mesh.write_bytes(content.replace(b"int category_id", b"int category_no"))
    with pytest.raises(SequenceError, match="faces without .*category_id"):
        region(tmp_path)
