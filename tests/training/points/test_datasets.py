"""ScanNet v2 and Matterport3D in small folders of their layouts."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.errors import ImageError, SequenceError
from scene_completion_ros.geometry import Camera
from scene_completion_training.points.datasets import exported_views, sens_views
from scene_completion_training.points.opening import open_scenes
from scene_completion_training.points.scene import PointScene
from tests import room_layouts as layouts

WALK = layouts.walk(3)


def scan(root: Path, labels: str = "") -> PointScene:
    return open_scenes(root, labels=labels)[layouts.SCAN]


def test_points_labels_and_things(tmp_path: Path) -> None:
    layouts.scannet(tmp_path)
    found = scan(tmp_path)
    assert found.points[5].tolist() == [0, 3, 0] and found.normals is not None and found.views == ()
    # a triangle looks along z, the other one, of the same size, along y
    expected = [[0, 0.5**0.5, 0.5**0.5], [0, 0.5**0.5, 0.5**0.5], [0, 0, 1], [0, 1, 0], [0, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(found.normals, expected, atol=1e-6)
    assert found.colours is not None and found.colours[5, 0] == pytest.approx(5 / 255)
    assert found.label is not None and found.instance is not None
    assert [found.classes[k] for k in found.label[:4]] == ["wall", "wall", "bed", "bed"]
    assert found.label[4:].tolist() == [-1, -1]  # 0, and NYU's 'otherprop', which is none of the 20
    assert found.instance.tolist() == [0, 0, 1, 1, 2, -1]


def test_labels_of_scannet200_come_by_the_table(tmp_path: Path) -> None:
    folder = layouts.scannet(tmp_path)
    found = scan(tmp_path, "scannet200")
    assert found.label is not None
    assert [found.classes[k] for k in found.label[:4]] == ["wall", "wall", "mattress", "mattress"]
    assert found.label[4:].tolist() == [-1, -1]  # the table gives 'paper stack' an id that is none of the 200
    (folder / f"{layouts.SCAN}_vh_clean_2.labels.ply").unlink()
    by_table = scan(tmp_path).label
    assert by_table is not None and by_table.tolist() == [0, 0, 3, 3, -1, -1]


def test_a_scan_of_the_test_split_has_no_labels(tmp_path: Path) -> None:
    layouts.scannet(tmp_path, labelled=False)
    found = scan(tmp_path)
    assert found.label is None and found.instance is None and found.classes == ()


SCANNET, MATTERPORT, S3DIS = layouts.scannet, layouts.matterport, layouts.s3dis
LABELS, TABLE = f"{layouts.SCAN}_vh_clean_2.labels.ply", "../../scannetv2-labels.combined.tsv"
GROUPS, SEGMENTS = (f"{layouts.SCAN}{name}" for name in (".aggregation.json", "_vh_clean_2.0.010000.segs.json"))
CONF, MESH = f"undistorted_camera_parameters/{layouts.HOUSE}.conf", "region_segmentations/region0.ply"
MAPPING, FLOOR = "../../category_mapping.tsv", "Annotations/floor_2.txt"


@pytest.mark.parametrize(
    ("layout", "file", "old", "new", "message"),
    [
        (SCANNET, SEGMENTS, "31]", "31, 5]", "no list of 6 numbers"),
        (SCANNET, GROUPS, '"label"', '"name"', r"segGroups\[0\] has no segments and label"),
        (SCANNET, GROUPS, "[7]", '["7"]', r"segGroups\[0\]: is no list of 1 numbers"),
        (SCANNET, LABELS, "vertex 6", "vertex 5", "does not label 6 vertices"),
        (SCANNET, LABELS, "\x28\x00", "\x29\x00", "labels 41, but its list ends at 40"),
        (SCANNET, TABLE, None, None, "labels need scannetv2-labels.combined.tsv.*--label_map"),
        (SCANNET, TABLE, None, layouts.MATTERPORT_TABLE, "has no columns raw_category, id"),
        (SCANNET, TABLE, None, "", "no columns"),
        (SCANNET, TABLE, None, "id\traw_category\tnyu40id\n5\tlamp\t35\n", "knows none of its 3 things"),
        (MATTERPORT, MAPPING, None, None, "no category_mapping.tsv"),
        (MATTERPORT, MAPPING, None, "index\tnyu40id\tnyuClass\n1\t1\twall\n", "labels 6, but its list ends at 1"),
        (MATTERPORT, CONF, "matrix 60.0", "matrix f", "line 4: cannot be used: could not convert"),
        (MATTERPORT, CONF, "ab_i0_1.jpg", "../1.jpg", "line 6: cannot be used: there is no image"),
        (MATTERPORT, CONF, "intrinsics_matrix", "in", "line 5: cannot be used: it comes before all intrinsics"),
        (MATTERPORT, CONF, " 1.00000000\n", "\n", "line 5: cannot be used: cannot reshape"),
        (MATTERPORT, MESH, "\2\0\0\0\3\0\0\0\4\0", "\2\0\0\0\3\0\0\0\5\0", "faces of other than its 5 vertices"),
        (MATTERPORT, MESH, "int category_id", "int category_no", "faces without .*category_id"),
        (S3DIS, FLOOR, None, "1 2 3 4 5 6\n1 2 3\x104 5 6\n", "floor_2.txt: cannot be read: .*hallway_6"),
        (S3DIS, FLOOR, None, "1 2 3\n", "rows of 3 numbers"),
        (S3DIS, FLOOR, None, "1 2 nan 4 5 6\n", "no numbers"),
        (S3DIS, "Annotations/lamp_1.txt", None, "1 2 3 4 5 6\n", "is a 'lamp'. Things are ceiling, floor"),
    ],
)
def test_what_is_missing_or_damaged_is_named(
    layout: Callable[[Path], Path],
    file: str,
    old: str | None,
    new: str | None,
    message: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    root = tmp_path_factory.mktemp("damaged")  # of its own: tables are remembered by their paths
    place = layout(root) / file
    if new is None:
        place.unlink()
    elif old is None:
        place.write_text(new, encoding="latin-1")
    else:
        place.write_bytes(place.read_bytes().replace(old.encode("latin-1"), new.encode("latin-1"), 1))
    with pytest.raises(SequenceError, match=message):
        next(iter(open_scenes(root, labels="scannet200" if file == TABLE else "").values()))


def test_views_are_those_of_the_stream_and_of_its_exported_frames(tmp_path: Path) -> None:
    folder = layouts.scannet(tmp_path / "a")
    layouts.sens(folder / f"{layouts.SCAN}.sens", [WALK[0], None, WALK[2]])
    other = layouts.scannet(tmp_path / "b")
    layouts.exported_frames(other, WALK)
    streamed, exported = scan(tmp_path / "a").views, scan(tmp_path / "b").views
    assert [view.name for view in streamed] == ["000000", "000002"] and len(exported) == 3  # tracking was lost in one
    assert [view.name for view in open_scenes(tmp_path / "b", every=2)[layouts.SCAN].views] == ["000000", "000002"]
    for one, same in zip(streamed, exported[::2], strict=True):
        assert one.camera == same.camera == layouts.CAMERA.resized(160, 120)
        np.testing.assert_allclose(one.world_from_camera.matrix, same.world_from_camera.matrix, atol=1e-5)
        assert one.image().shape == (120, 160, 3) and np.abs(one.image() - same.image().astype(int)).max() == 0
        np.testing.assert_array_equal(one.depth(), same.depth())
    np.testing.assert_allclose(streamed[1].depth(), layouts.seen(WALK[2])[0], atol=6e-4)
    assert streamed[0].image()[118, 80].tolist() == pytest.approx([200, 100, 50], abs=8)  # the floor, RGB


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, struct.pack("<I", 3), "is version 3 of .sens"),
        (27 + 256, struct.pack("<2i", 2, 2), "compressions 2 of colour and 2 of depth"),
        (27 + 256 + 16, struct.pack("<2I", 80, 1 << 31), "promises 2 frames of 80x2147483648"),
        (27 + 256 + 24, struct.pack("<f", 0.0), "0 to a metre"),
        (27 + 256 + 28, struct.pack("<Q", 1 << 60), "promises 1152921504606846976 frames"),
        (27 + 256 + 36, struct.pack("<f", 3.0), "frame 0: not a rigid transform"),
        (27 + 256 + 36 + 80, struct.pack("<Q", 1 << 40), "ends within frame 0 of 2"),
    ],
)
def test_a_damaged_stream_is_refused_in_a_sentence(tmp_path: Path, place: int, value: bytes, message: str) -> None:
    file = layouts.sens(tmp_path / "a.sens", WALK[:2])
    content = bytearray(file.read_bytes())
    content[place : place + len(value)] = value
    file.write_bytes(content)
    with pytest.raises(SequenceError, match=message):
        sens_views(file)


def test_a_stream_that_ends_early_and_depth_of_another_size_are_refused(tmp_path: Path) -> None:
    file = layouts.sens(tmp_path / "a.sens", WALK[:1])
    content = file.read_bytes()
    for end in (5, 100, 300):
        file.write_bytes(content[:end])
        with pytest.raises(SequenceError, match="ends early"):
            sens_views(file)
    file.write_bytes(content[: 27 + 256 + 16] + struct.pack("<2I", 80, 59) + content[27 + 256 + 24 :])
    with pytest.raises(ImageError, match="no depth of 80x59"):
        sens_views(file)[0].depth()


def test_exported_frames_that_are_damaged_are_named(tmp_path: Path) -> None:
    folder = layouts.exported_frames(tmp_path / "scan", WALK[:1])
    (folder / "depth" / "0.png").write_bytes((folder / "color" / "0.jpg").read_bytes())
    with pytest.raises(ImageError, match="no depth image of 16 bits"):
        exported_views(folder)[0].depth()
    (folder / "pose" / "0.txt").write_text("1 0 0")
    with pytest.raises(SequenceError, match=r"0\.txt: is no matrix of 4x4"):
        exported_views(folder)


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
