"""The door for scenes of points: layouts, lists, PLY files, posed RGB-D, and what scenes lack."""

import shutil
import struct
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scene_completion_ros.errors import ConfigurationError, ImageError, SequenceError, VocabularyError
from scene_completion_ros.geometry import Camera, RigidTransform
from scene_completion_ros.geometry.depth_images import surface_normals
from scene_completion_training.points import opening, ply
from scene_completion_training.points.datasets import sens_views
from scene_completion_training.points.opening import fused_scene, open_scenes
from scene_completion_training.points.ply import read_ply, write_ply
from scene_completion_training.points.scene import OTHERS, PointScene, label_set, label_sets, require
from scene_completion_training.points.voxels import SHIFT
from tests import room_layouts as layouts
from tests.official_layouts import write_split


def test_each_layout_is_recognised_and_split_by_its_official_lists(tmp_path: Path) -> None:
    for scan in ("scene0000_00", "scene0001_00"):
        scanned = layouts.scannet(tmp_path / "scannet", scan=scan)
    write_split(tmp_path / "scannet" / "Tasks" / "Benchmark" / "scannetv2_val.txt", ["scene0001_00"], windows=True)
    for house in ("17DRP5sb8fy", "HxpKQynjfin"):
        walked = layouts.matterport(tmp_path / "mp", house=house, views=False)
    write_split(tmp_path / "mp" / "scenes_val.txt", ["HxpKQynjfin"])
    for source, folder, last, counts in (
        ("ScanNet", scanned, scanned.name, (1, 2, 2)),
        ("Matterport3D", walked, "HxpKQynjfin_region0", (1, 1, 2, 2, 2)),
    ):
        for place, count in zip((folder, *folder.parents), counts, strict=False):
            scenes = open_scenes(place)
            assert scenes.source == source and len(scenes) == count and len(scenes[last]) in (5, 6)
            assert count == 1 or list(open_scenes(place, split="val")) == [last]
    for area in ("Area_4", "Area_5"):
        office = layouts.s3dis(tmp_path / "s3dis", area=area)
    tested = ["Area_5/hallway_6", "Area_5/office_1", "Area_5/office_36"]
    for split, of in ("test", tested), ("train", ["Area_4/office_1"]):
        assert list(open_scenes(tmp_path / "s3dis", split=split)) == of
    for place, count in ((office, 1), (office.parent, 3), (office.parent.parent, 4), (tmp_path / "s3dis", 4)):
        scenes = open_scenes(place)
        assert scenes.source == "S3DIS" and len(scenes) == count and len(scenes["Area_5/office_1"]) == 3


@pytest.mark.parametrize(
    ("place", "asked", "message"),
    [
        (".", {"split": "test"}, "no list scannetv2_test.txt"),
        (".", {"split": "training"}, "no split 'training'.*train, val, test"),
        (".", {"split": "val"}, "1 of the 2 listed scenes are not there, such as scene0707_00"),
        (".", {"labels": "matterport40"}, "Name one of scannet20, scannet200"),
        ("elsewhere", {}, "no such file or folder. Name a folder of ScanNet"),
        ("empty", {}, "holds no scenes of points"),
    ],
)
def test_scenes_that_are_not_there_are_refused(place: str, asked: dict[str, str], message: str, tmp_path: Path) -> None:
    layouts.scannet(tmp_path)
    (tmp_path / "empty").mkdir()
    write_split(tmp_path / "scannetv2_val.txt", ["scene0000_00", "scene0707_00"])
    with pytest.raises((SequenceError, VocabularyError), match=message):
        open_scenes(tmp_path / place, **asked)


def test_rooms_of_s3dis_have_their_points_and_stairs_are_clutter(tmp_path: Path) -> None:
    layouts.s3dis(tmp_path)
    scene = open_scenes(tmp_path)["Area_1/office_1"]
    assert [scene.classes[k] for k in scene.label] == ["floor", "floor", "clutter"]
    assert scene.instance.tolist() == [0, 0, 1] and scene.points[0].tolist() == [0.5, 1, 0]
    assert scene.colours[0].tolist() == pytest.approx([1, 0, 0.2])


def test_s3dis_is_read_as_it_is_downloaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In its folder in itself, with a zero byte for a space, and with a wall that is there twice; each is said once."""
    nested = tmp_path / layouts.S3DIS
    office = layouts.s3dis(nested, area="Area_5")
    shutil.copytree(nested, tmp_path / "__MACOSX" / layouts.S3DIS)  # as archives of macOS have it
    for _ in range(2):
        scenes = open_scenes(tmp_path)
        ceiling, wall = (scenes[f"Area_5/{room}"] for room in ("hallway_6", "office_36"))
        colours = [[155, 155, 165], [185, 187, 182], [170, 171, 175]]
        np.testing.assert_allclose(ceiling.colours * np.float32(255.0), colours, rtol=1e-6)
        assert len(wall) == 2 and wall.instance.tolist() == [0, 0] and wall.points[1, 2] == np.float32(0.6)
    of_ceiling, of_wall = (office.parent / room / "Annotations" for room in ("hallway_6", "office_36"))
    assert capsys.readouterr().out.splitlines() == [
        rf"{of_ceiling}/ceiling_1.txt, line 2: '22.350 6.692 3.048 185\x00187 182' is read as "
        "'22.350 6.692 3.048 185 187 182', since a byte lost a bit",
        f"{of_wall}/wall_3 (1).txt: left out, it is a copy of wall_3.txt",
    ]
    (of_wall / "wall_3.txt").unlink()
    assert len(open_scenes(tmp_path)["Area_5/office_36"]) == 2  # where it is no copy, it counts


@pytest.mark.parametrize(
    ("stored", "meant"), [("103.0\x100000", 103), ("1\x167", 167), ("167.\x1000000", 167), ("7\x0e5", 7.5)]
)
def test_a_digit_that_lost_a_bit_is_known(stored: str, meant: float, tmp_path: Path) -> None:
    """So are those of the version without alignment, as other readers report them: '103.0\\x100000' is 103.000000."""
    file = layouts.s3dis(tmp_path) / "Annotations" / "floor_1.txt"
    file.write_bytes(f"1 2 3 {stored} 5 6\n".encode())
    colours = open_scenes(tmp_path)["Area_1/office_1"].colours
    assert colours is not None and colours[0].tolist() == pytest.approx([meant / 255, 5 / 255, 6 / 255])


def test_what_lies_there_twice_or_packed_is_named(tmp_path: Path) -> None:
    layouts.s3dis(tmp_path / "one")
    layouts.s3dis(tmp_path / "one" / "other")
    with pytest.raises(
        SequenceError, match=r"Area_1/office_1: is there twice, as .*one/Stan.* and .*other/Stan.*Name one"
    ):
        open_scenes(tmp_path)
    shutil.rmtree(tmp_path / "one" / "other")
    with pytest.raises(SequenceError, match="1 of the 1 listed scenes are not there, such as Area_5"):
        open_scenes(tmp_path, split="test")
    layouts.scannet(tmp_path / "two")
    with pytest.raises(SequenceError, match="holds S3DIS and ScanNet. Name the folder of one"):
        open_scenes(tmp_path)
    for scenes in ("one", "two"):
        shutil.rmtree(tmp_path / scenes)
    house = layouts.matterport(tmp_path, views=False)
    shutil.rmtree(house)
    archive = house.parent / "region_segmentations.zip"
    with pytest.raises(SequenceError, match=f"holds no scenes, but archives such as {archive}. Unpack each archive"):
        open_scenes(tmp_path)


def room() -> PointScene:
    return fused_scene(layouts.room_sequence(layouts.walk()))


def write_cloud(file: Path, scene: PointScene) -> Path:
    label = np.where(np.arange(len(scene)) < 5, 255, scene.label).astype(np.uint8)
    write_ply(file, {"vertex": layouts.vertices(scene.points, label=label)})
    return file


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "VOXEL", 0.05)


def test_a_cloud_is_read_with_its_labels_where_they_have_names(tmp_path: Path) -> None:
    file, expected = write_cloud(tmp_path / "cloud.ply", room()), room()
    whole, bare = open_scenes(file, labels="s3dis")["cloud"], open_scenes(tmp_path)["cloud"]
    np.testing.assert_array_equal(whole.points, expected.points)
    assert whole.label is not None and whole.label[:6].tolist() == [-1] * 5 + [expected.label[5]]  # type: ignore[index]
    assert bare.label is None and bare.classes == () and bare.normals is None and bare.colours is not None
    with pytest.raises(SequenceError, match="has labels 2, but its list ends at 1"):
        ply.read_cloud(file, ("a", "b"))


def moved(place: float) -> PointScene:
    scene = room()
    scene.points[7, 1] = place
    return scene


@pytest.mark.parametrize(
    ("cloud", "most", "message"),
    [
        (room, 100, r"has [\d,]+ points, more than 100. Crop it"),
        (partial(moved, np.nan), 10**6, "points without a place"),
        (None, 10**6, "has no points. Export its vertices with x, y and z"),
    ],
)
def test_clouds_that_cannot_be_used_are_refused(
    cloud: Callable[[], PointScene] | None, most: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.ply"
    if cloud is None:
        write_ply(file, {"vertex": np.zeros(3, [("x", "<f4"), ("y", "<f4")])})
    else:
        write_cloud(file, cloud())
    monkeypatch.setattr(ply, "MOST_POINTS", most)
    with pytest.raises(SequenceError, match=message):
        open_scenes(file)["a"]


def test_what_a_task_needs_and_a_scene_lacks_is_named() -> None:
    scene = PointScene("tiny", np.zeros((10, 3), np.float32))
    with pytest.raises(SequenceError, match="tiny: has 10 points, fewer than 100. Leave this scene out"):
        require(scene)
    for name in ("colours", "normals", "label", "views"):
        with pytest.raises(SequenceError, match=f"tiny: has no {name}. Choose settings that need no {name}"):
            require(scene, name, least=10)
    require(room(), "colours", "label", least=500)


def test_other_is_found_by_name_and_nothing_else_is_taken_for_it() -> None:
    """The last class but one is 'air vent', 'headboard' and 'person' in the longer sets of Matterport3D (S7)."""
    found = {name: [one for one in of.classes if one in OTHERS] for name, of in label_sets().items()}
    assert found.pop("scannet20") == ["otherfurniture"] and found.pop("matterport21") == ["other"]
    assert not any(found.values())
    assert [label_set(f"matterport{k}").classes[-2] for k in (21, 40, 80, 160)] == [
        "other", "air vent", "headboard", "person",
    ]  # fmt: skip


# ScanNet v2 and Matterport3D in small folders of their layouts.


THREE = layouts.walk(3)


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
    assert [found.classes[k] for k in found.label[:4]] == ["wall", "wall", "bed", "bed"]
    assert found.label[4:].tolist() == [-1, -1]  # 0, and NYU's 'otherprop', which is none of the 20
    assert found.instance.tolist() == [0, 0, 1, 1, 2, -1]


def test_labels_of_scannet200_come_by_the_table(tmp_path: Path) -> None:
    folder = layouts.scannet(tmp_path)
    found = scan(tmp_path, "scannet200")
    assert [found.classes[k] for k in found.label[:4]] == ["wall", "wall", "mattress", "mattress"]
    assert found.label[4:].tolist() == [-1, -1]  # the table gives 'paper stack' an id that is none of the 200
    (folder / f"{layouts.SCAN}_vh_clean_2.labels.ply").unlink()
    by_table = scan(tmp_path).label
    assert by_table is not None and by_table.tolist() == [0, 0, 3, 3, -1, -1]
    layouts.scannet(tmp_path / "test", labelled=False)  # as scans of the test split are
    found = scan(tmp_path / "test")
    assert found.label is None and found.instance is None and found.classes == ()


SCANNET, MATTERPORT, S3DIS = layouts.scannet, layouts.matterport, layouts.s3dis
LABELS, TABLE = f"{layouts.SCAN}_vh_clean_2.labels.ply", "../../scannetv2-labels.combined.tsv"
GROUPS, SEGMENTS = (f"{layouts.SCAN}{name}" for name in (".aggregation.json", "_vh_clean_2.0.010000.segs.json"))
CONF, MESH = f"undistorted_camera_parameters/{layouts.HOUSE}.conf", "region_segmentations/region0.ply"
MAPPING, FLOOR = "../../../../category_mapping.tsv", "Annotations/floor_2.txt"


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
        (SCANNET, TABLE, None, "id\traw_category\tnyu40id\n5\tlamp\t35\n", "has none of its 3 things"),
        (MATTERPORT, MAPPING, None, None, "no category_mapping.tsv"),
        (MATTERPORT, MAPPING, None, "index\tnyu40id\tnyuClass\n1\t1\twall\n", "labels 6, but its list ends at 1"),
        (MATTERPORT, CONF, "matrix 60.0", "matrix f", "line 4: cannot be used: could not convert"),
        (MATTERPORT, CONF, "ab_i0_1.jpg", "../1.jpg", "line 6: cannot be used: there is no image"),
        (MATTERPORT, CONF, "intrinsics_matrix", "in", "line 5: cannot be used: it comes before all intrinsics"),
        (MATTERPORT, CONF, " 1.00000000\n", "\n", "line 5: cannot be used: cannot reshape"),
        (MATTERPORT, MESH, "\2\0\0\0\3\0\0\0\4\0", "\2\0\0\0\3\0\0\0\5\0", "faces of other than its 5 vertices"),
        (MATTERPORT, MESH, "int category_id", "int category_no", "faces without .*category_id"),
        (
            S3DIS,
            FLOOR,
            None,
            "1 2 3 4 5 6\n1 2 3\x104 5 6\n",
            r"floor_2.txt, line 2: is '1 2 3\\x104 5 6', not x y z red",
        ),
        (S3DIS, FLOOR, None, "1 2 3 4 5 6\n\n1 2 3 4\x105 5 6\n", r"line 3: is '1 2 3 4\\x105 5 6', not x y z"),
        (
            S3DIS,
            FLOOR,
            None,
            "1 2 3 4 5 6\n1 2 3 4 5" + 9 * "\0" + "6\n",
            r"line 2: is '1 2 3 4 5\\x00\\x00.*Unpack the",
        ),
        (S3DIS, FLOOR, None, "1 2 3\n", "line 1: is '1 2 3', not x y z red green blue"),
        (S3DIS, FLOOR, None, "1 2 nan 4 5 6\n", "line 1: is '1 2 nan 4 5 6', not"),
        (S3DIS, FLOOR, None, "1 2 3 4 5 256\n", "line 1: is .* with colours up to 255"),
        (S3DIS, FLOOR, None, "", "floor_2.txt: has no lines x y z red green blue"),
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


def test_views_are_those_of_the_stream(tmp_path: Path) -> None:
    folder = layouts.scannet(tmp_path)
    layouts.sens(folder / f"{layouts.SCAN}.sens", [THREE[0], None, THREE[2]])
    views = scan(tmp_path).views
    assert [view.name for view in views] == ["000000", "000002"]  # tracking was lost in one
    assert [view.name for view in open_scenes(tmp_path, every=2)[layouts.SCAN].views] == ["000000", "000002"]
    for view, pose in zip(views, THREE[::2], strict=True):
        assert view.camera == layouts.CAMERA.resized(160, 120)
        np.testing.assert_allclose(view.world_from_camera.matrix, pose.matrix, atol=1e-5)
        np.testing.assert_allclose(view.depth(), layouts.seen(pose)[0], atol=6e-4)
    image, floor = views[0].image(), [200, 100, 50]
    assert image.shape == (120, 160, 3) and image[118, 80].tolist() == pytest.approx(floor, abs=8)


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
        (27 + 256 + 16, struct.pack("<2I", 80, 59), "no depth of 80x59"),
        *((place, None, "ends early") for place in (5, 100, 300)),
    ],
)
def test_a_damaged_stream_is_refused_in_a_sentence(
    tmp_path: Path, place: int, value: bytes | None, message: str
) -> None:
    file = layouts.sens(tmp_path / "a.sens", THREE[:2])
    content = file.read_bytes()
    file.write_bytes(content[:place] + (value + content[place + len(value) :] if value else b""))
    with pytest.raises((ImageError, SequenceError), match=message):
        sens_views(file)[0].depth()


def region(root: Path, labels: str = "") -> PointScene:
    return open_scenes(root, labels=labels)[f"{layouts.HOUSE}_region0"]


def test_a_vertex_has_the_most_frequent_class_of_its_faces(tmp_path: Path) -> None:
    """Vertices 0 and 1 are of wall faces alone. Vertex 2 has two walls and a vent, 3 one of each, 4 a vent."""
    layouts.matterport(tmp_path, views=False)
    found = region(tmp_path, "matterport40")
    assert [found.classes[k] for k in found.label] == ["wall", "wall", "wall", "wall", "air vent"]
    assert found.instance.tolist() == [0, 0, 0, 0, 1]
    assert found.normals is not None and found.normals[3].tolist() == [0, 0, 1] and found.views == ()
    # OpenScene's 21 classes have no vents: such faces count as unlabelled, which wins where it is as frequent.
    known = region(tmp_path).label
    assert known is not None and known.tolist() == [0, 0, 0, -1, -1]


def test_views_of_a_house_have_the_cameras_of_its_file(tmp_path: Path) -> None:
    layouts.matterport(tmp_path)
    for view, pose in zip(region(tmp_path).views, THREE, strict=True):
        assert view.camera == Camera(60.0, 60.0, 39.5, 24.5, 80, 60)  # cy counts from the lower edge in the file
        np.testing.assert_allclose(view.world_from_camera.matrix, pose.matrix, atol=1e-6)
        np.testing.assert_allclose(view.depth(), layouts.seen(pose, view.camera)[0], atol=2e-4)
        assert view.image().shape == (60, 80, 3)


# Posed RGB-D becomes points, and what is wrong with it a sentence.


WALK = layouts.walk()
HALF = np.array([layouts.ROOM[0], layouts.ROOM[1]])
FIRST = RigidTransform(WALK[0].rotation.T, np.zeros(3))  # to the world of the first camera, which looks down a little
INVERTED = "100% of its depth agrees between views if poses are inverted.*world_from_camera"


def fused(poses: Sequence[RigidTransform] = WALK, **changes: Any) -> Any:
    options = {name: changes.pop(name) for name in ("classes", "every") if name in changes}
    given = {name: changes.pop(name) for name in ("provenance", "metric_scale") if name in changes}
    sequence = layouts.room_sequence(poses, **changes)
    for name, value in given.items():
        setattr(sequence, name, value)
    return fused_scene(sequence, **options)


def test_normals_are_those_of_the_surface_towards_the_camera() -> None:
    depth, label = layouts.seen(layouts.pose(0.0))  # ahead the wall, at x = 2 m
    positions = layouts.CAMERA.unproject(layouts.CAMERA.pixel_centres()) * depth[..., None]
    normals = surface_normals(positions)
    np.testing.assert_allclose(normals[30, 40], [0, 0, -1], atol=1e-9)
    np.testing.assert_allclose(normals[57, 40] if label[57, 40] == 0 else [0, -1, 0], [0, -1, 0], atol=1e-9)
    assert not normals[0].any() and not normals[:, -1].any()
    positions[30, 41] = np.nan
    assert not surface_normals(positions)[30, 40].any()
    near = np.where(np.arange(80)[None, :, None] < 40, 0.5, 1.0) * positions  # a step between two surfaces
    assert not surface_normals(near)[20, 39:41].any() and surface_normals(near)[20, 30].any()


def test_a_room_has_its_walls_colours_normals_classes_and_things() -> None:
    scene = fused()
    distance = np.stack([*(HALF - np.abs(scene.points[:, :2])).T, scene.points[:, 2], 2.4 - scene.points[:, 2]])
    assert len(scene) > 3000 and np.abs(np.abs(distance).min(axis=0)).max() < 0.03
    inside = np.sort(np.abs(distance), axis=0)[1] > 0.1  # in no corner
    expected = np.where(distance[2] < 0.05, "floor", np.where(distance[3] < 0.05, "ceiling", "wall"))
    assert (np.array(layouts.CLASSES)[scene.label[inside]] == expected[inside]).all()
    assert (scene.instance == scene.label + 1).all()
    floor = inside & (scene.label == 0)
    np.testing.assert_allclose(255 * scene.colours[floor], np.tile([200, 100, 50], (floor.sum(), 1)), atol=0.5)
    known = np.linalg.norm(scene.normals, axis=1) > 0
    assert known[inside].mean() > 0.9
    np.testing.assert_allclose(scene.normals[floor & known][:, 2], 1.0, atol=1e-3)
    assert len(scene.views) == 8 and len(fused(every=3).views) == 3
    cells = np.floor(scene.points.astype(np.float64) / 0.05 + SHIFT)
    assert len(np.unique(cells, axis=0)) >= 0.999 * len(scene)  # one point a voxel, but for rounding


def test_unknown_labels_and_frames_without_them_stay_unlabelled() -> None:
    label = np.full((60, 80), 255, np.uint8)
    scene, bare = fused(label=label, instance=np.zeros((60, 80), np.uint16)), fused(label=None, instance=None)
    assert (scene.label == -1).all() and (scene.instance == -1).all()
    assert bare.label is None and bare.instance is None and bare.classes == ()


def test_label_images_of_half_the_size_fit_and_classes_are_found_by_name_in_another_list() -> None:
    scene = fused(label=np.zeros((30, 40), np.uint8), classes=("thing", "floor"))
    assert scene.classes == ("thing", "floor") and (scene.label == 1).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": 1000.0}, r"median of its depth is 1\d\d\d m.*millimetres, it seems"),
        ({"scale": 0.001}, "median of its depth is 0.001.* m.*divided twice"),
        ({"scale": np.nan}, "hold no depth"),
        ({"depth": np.ones((60, 60), np.float32)}, "is 60x60, its image 80x60: other proportions.*registered"),
        ({"depth": np.ones(5, np.float32)}, "is 5, its image 80x60"),
        ({"depth": np.array([["far"]])}, "depth is <U3. Give z-depth in metres"),
        ({"depth": None}, "no frame has depth"),
        ({"label": np.zeros((60, 80))}, r"room, label of view 0: is float64 of shape \[60, 80\]"),
        ({"provenance": {}}, "its labels have no names"),
        ({"provenance": {"classes": ["floor", "wall"]}}, "has labels 2, but its list ends at 1"),
        ({"metric_scale": False}, "not in metres"),
        ({"given": RigidTransform.inverse}, INVERTED),
        ({"given": RigidTransform.inverse, "poses": layouts.walk(24)}, INVERTED),
        ({"given": lambda pose: FIRST @ pose}, "z is not up in its cameras. Turn its world so that z points up"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigurationError, SequenceError), match=message):
        fused(**changes)


def test_recordings_are_scenes_by_the_names_of_their_folders(tmp_path: Path) -> None:
    for name in ("a", "b"):
        layouts.room_sequence(WALK[:3]).save(tmp_path / name)
    scenes = open_scenes(tmp_path)
    assert (scenes.source, list(scenes), scenes.classes) == ("recordings", ["a", "b"], ())
    assert scenes["b"].classes == layouts.CLASSES and len(scenes["b"]) > 200
    assert list(open_scenes(tmp_path / "a")) == ["a"]
    assert open_scenes(tmp_path, labels="scannet20")["a"].classes[0] == "wall"


# PLY files, whole and damaged.


HEADER = "ply\nformat {}\ncomment a mesh\nelement vertex 3\nproperty float x\nproperty uchar red\nelement face 2\n"
HEADER += "property list uchar int vertex_indices\nproperty short id\nend_header\n"
VERTICES = np.array([(0.5, 1), (1.5, 2), (-2.5, 255)], [("x", "<f4"), ("red", "u1")])
FACES = np.array([([0, 1, 2], -7), ([2, 1, 0], 5)], [("vertex_indices", "<i4", (3,)), ("id", "<i2")])


def test_what_is_written_is_read_and_big_endian_is_the_same(tmp_path: Path) -> None:
    write_ply(tmp_path / "a.ply", {"vertex": VERTICES, "face": FACES})
    big = HEADER.format("binary_big_endian 1.0").encode() + VERTICES.astype([("x", ">f4"), ("red", "u1")]).tobytes()
    for indices, number in FACES:
        big += b"\3" + indices.astype(">i4").tobytes() + np.array(number, ">i2").tobytes()
    (tmp_path / "b.ply").write_bytes(big)
    for name in "ab":
        found = read_ply(tmp_path / f"{name}.ply", ("vertex", "face"))
        for rows, expected in ((found["vertex"], VERTICES), (found["face"], FACES)):
            for field in expected.dtype.names or ():
                np.testing.assert_array_equal(rows[field], expected[field])
    assert read_ply(tmp_path / "a.ply", ("face",)).keys() == {"face"}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], "ends within its 2 rows of 'face'"),
        (lambda content: content[:-15] + b"\4" + content[-14:], "different lengths"),
        (lambda content: content[: content.index(b"end_header\n") + 11], "ends within its 3 rows"),
        (lambda content: content.replace(b"vertex 3", b"vertex 999999999999"), "ends within its 999,999,999,999 rows"),
        (lambda content: content.replace(b"uchar int", b"float int"), "property list float"),
        (
            lambda content: content.replace(b"uchar int", b"uint int").replace(b"\3\0\0\0\0\1", 4 * b"\xff" + b"\0\1"),
            "list 'vertex_indices' of impossible length",
        ),
        (lambda content: content.replace(b"property float x\nproperty uchar red\n", b""), "without properties"),
        (lambda content: content.replace(b"float x", b"half x"), "line 'property half x'"),
        (lambda content: content.replace(b"binary_little_endian", b"ascii"), "file of text. .* as binary"),
        (lambda content: content.replace(b"ply\n", b"obj\n"), "no header"),
        (lambda content: content.replace(b"end_header", b"end"), "no header"),
        (lambda content: content.replace(b"format binary_little_endian 1.0\n", b""), "no header"),
        (None, "No such file"),
    ],
)
def test_a_file_promises_no_more_than_it_holds(
    damage: Callable[[bytes], bytes] | None, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.ply"
    if damage:
        write_ply(file, {"vertex": VERTICES, "face": FACES})
        file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(SequenceError, match=message):
        read_ply(file, ("vertex", "face"))
