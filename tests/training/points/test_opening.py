"""The door for scenes of points: layouts, lists, PLY files, and what scenes lack."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scene_completion_ros.errors import SequenceError, VocabularyError
from scene_completion_training.points import ply, voxels
from scene_completion_training.points.opening import fused_scene, open_scenes
from scene_completion_training.points.ply import write_ply
from scene_completion_training.points.scene import OTHERS, PointScene, label_set, label_sets, require
from tests import room_layouts as layouts
from tests.official_layouts import write_split


def test_each_layout_is_recognised_from_its_folder_and_from_one_scene_of_it(tmp_path: Path) -> None:
    places = {
        "ScanNet": layouts.scannet(tmp_path / "scannet"),
        "Matterport3D": layouts.matterport(tmp_path / "matterport"),
    }
    for source, folder in places.items():
        for place in (folder.parent.parent, folder.parent, folder):
            scenes = open_scenes(place)
            assert scenes.source == source and len(scenes) == 1 and len(next(iter(scenes.values()))) in (5, 6)
    layouts.s3dis(tmp_path / "s3dis")
    assert open_scenes(tmp_path / "s3dis").source == "S3DIS"


def test_official_lists_split_scans_houses_and_areas(tmp_path: Path) -> None:
    for scan in ("scene0000_00", "scene0001_00"):
        layouts.scannet(tmp_path / "scannet", scan=scan)
    write_split(tmp_path / "scannet" / "Tasks" / "Benchmark" / "scannetv2_val.txt", ["scene0001_00"], windows=True)
    assert list(open_scenes(tmp_path / "scannet", split="val")) == ["scene0001_00"]
    assert list(open_scenes(tmp_path / "scannet" / "scans", split="val")) == ["scene0001_00"]
    for house in ("HxpKQynjfin", "17DRP5sb8fy"):
        layouts.matterport(tmp_path / "mp", house=house, views=False)
    write_split(tmp_path / "mp" / "scans" / "scenes_test.txt", ["HxpKQynjfin"])
    assert list(open_scenes(tmp_path / "mp", split="test")) == ["HxpKQynjfin_region0"]
    for area in ("Area_4", "Area_5"):
        layouts.s3dis(tmp_path / "s3dis", area=area)
    assert list(open_scenes(tmp_path / "s3dis", split="test")) == ["Area_5/office_1"]
    assert list(open_scenes(tmp_path / "s3dis", split="train")) == ["Area_4/office_1"]
    own = write_split(tmp_path / "own.txt", ["Area_4/office_1"])
    assert list(open_scenes(tmp_path / "s3dis", listed=own)) == ["Area_4/office_1"]


@pytest.mark.parametrize(
    ("place", "asked", "message"),
    [
        (".", {"split": "val"}, "no list scannetv2_val.txt"),
        (".", {"split": "training"}, "no split 'training'.*train, val, test"),
        (".", {"listed": "own.txt"}, "1 of the 2 listed scenes are not there, such as scene0707_00"),
        (".", {"labels": "matterport40"}, "Name one of scannet20, scannet200"),
        ("elsewhere", {}, "no such file or folder. Name a folder of ScanNet"),
        ("empty", {}, "holds no scenes of points"),
    ],
)
def test_scenes_that_are_not_there_are_refused(
    place: str, asked: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    layouts.scannet(tmp_path)
    Path("empty").mkdir()
    write_split(Path("own.txt"), ["scene0000_00", "scene0707_00"])
    with pytest.raises((SequenceError, VocabularyError), match=message):
        open_scenes(tmp_path / place, **{name: Path(to) if name == "listed" else to for name, to in asked.items()})


def test_rooms_of_s3dis_have_their_points_and_stairs_are_clutter(tmp_path: Path) -> None:
    layouts.s3dis(tmp_path)
    scene = open_scenes(tmp_path)["Area_1/office_1"]
    assert scene.label is not None and scene.instance is not None and scene.colours is not None
    assert [scene.classes[k] for k in scene.label] == ["floor", "floor", "clutter"]
    assert scene.instance.tolist() == [0, 0, 1] and scene.points[0].tolist() == [0.5, 1, 0]
    assert scene.colours[0].tolist() == pytest.approx([1, 0, 0.2])


def room(turn: Sequence[Sequence[float]] = ((1, 0, 0), (0, 1, 0), (0, 0, 1))) -> PointScene:
    scene = fused_scene(layouts.room_sequence(layouts.walk()), voxel=0.1)
    return PointScene(scene.name, scene.points @ np.array(turn, np.float32).T, scene.colours, label=scene.label)


def write_cloud(file: Path, scene: PointScene) -> Path:
    assert scene.label is not None
    label = np.where(np.arange(len(scene)) < 5, 255, scene.label).astype(np.uint8)
    write_ply(file, {"vertex": layouts.vertices(scene.points, label=label)})
    return file


def test_a_cloud_is_read_whole_or_by_voxels_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ply, "_BLOCK", 100)
    file = write_cloud(tmp_path / "cloud.ply", room())
    whole, bare = open_scenes(file, labels="s3dis")["cloud"], open_scenes(tmp_path)["cloud"]
    np.testing.assert_array_equal(whole.points, room().points)
    assert whole.label is not None and whole.label[:6].tolist() == [-1] * 5 + [room().label[5]]  # type: ignore[index]
    assert bare.label is None and bare.classes == () and bare.normals is None and bare.colours is not None
    coarse = open_scenes(file, voxel=0.5)["cloud"]
    cells = np.unique(np.floor(room().points.astype(np.float64) / 0.5 + voxels.SHIFT), axis=0)
    assert len(coarse) == len(cells) < len(whole) / 5
    with pytest.raises(SequenceError, match="has labels 2, but its list ends at 1"):
        ply.read_cloud(file, ("a", "b"))


def test_fifty_million_points_are_refused_with_the_cure_or_downsampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = "ply\nformat binary_little_endian 1.0\nelement vertex 50000000\n"
    header += "".join(f"property float {axis}\n" for axis in "xyz") + "end_header\n"
    file = tmp_path / "town.ply"
    with file.open("wb") as opened:
        opened.write(header.encode())
        opened.truncate(len(header) + 12 * 50_000_000)  # takes no room on the disk
    with pytest.raises(SequenceError, match=r"50,000,000 points, more than 20,000,000. Crop it, or name a voxel"):
        open_scenes(file)["town"]
    monkeypatch.setattr(ply, "MOST_POINTS", 100)
    small = write_cloud(tmp_path / "room.ply", room())
    assert len(open_scenes(small, voxel=0.1)["room"]) > 500
    monkeypatch.setattr(voxels, "MOST_POINTS", 100)
    with pytest.raises(SequenceError, match="more than 100 voxels of 0.1 m. Crop it, or choose a larger voxel"):
        open_scenes(small, voxel=0.1)["room"]


def test_a_cloud_whose_floor_nobody_finds_needs_to_say_what_is_up(tmp_path: Path) -> None:
    c, s = np.cos(0.6), np.sin(0.6)
    leaning = write_cloud(tmp_path / "leaning.ply", room([[1, 0, 0], [0, c, -s], [0, s, c]]))
    with pytest.raises(SequenceError, match="no floor stands out below.*as up"):
        open_scenes(leaning)["leaning"]
    lying = write_cloud(tmp_path / "lying.ply", room([[1, 0, 0], [0, 0, -1], [0, 1, 0]]))
    found = open_scenes(lying, up="y", labels="s3dis")["lying"]
    assert found.label is not None and np.ptp(found.points[found.label == 0][5:, 2]) < 0.2


def test_what_a_task_needs_and_a_scene_lacks_is_named() -> None:
    scene = PointScene("tiny", np.zeros((10, 3), np.float32))
    with pytest.raises(SequenceError, match="tiny: has 10 points, fewer than 100. Leave this scene out"):
        require(scene)
    for name in ("colours", "normals", "label", "views"):
        with pytest.raises(SequenceError, match=f"tiny: has no {name}. Choose settings that need no {name}"):
            require(scene, name, least=10)
    require(room(), "colours", "label", least=500)


def test_damaged_clouds_are_refused(tmp_path: Path) -> None:
    scene = room()
    scene.points[7, 1] = np.nan
    with pytest.raises(SequenceError, match="points without a place"):
        open_scenes(write_cloud(tmp_path / "a.ply", scene))["a"]
    scene.points[7, 1] = 2e5
    with pytest.raises(SequenceError, match="beyond 105 km"):
        open_scenes(write_cloud(tmp_path / "a.ply", scene), voxel=0.1)["a"]
    write_ply(tmp_path / "b.ply", {"vertex": np.zeros(3, [("x", "<f4"), ("y", "<f4")])})
    with pytest.raises(SequenceError, match="has no points. Export its vertices with x, y and z"):
        open_scenes(tmp_path / "b.ply")["b"]


def test_other_is_found_by_name_and_nothing_else_is_taken_for_it() -> None:
    """The last class but one is 'air vent', 'headboard' and 'person' in the longer sets of Matterport3D (S7)."""
    found = {name: [one for one in of.classes if one in OTHERS] for name, of in label_sets().items()}
    assert found.pop("scannet20") == ["otherfurniture"] and found.pop("matterport21") == ["other"]
    assert not any(found.values())
    assert [label_set(f"matterport{k}").classes[-2] for k in (21, 40, 80, 160)] == [
        "other", "air vent", "headboard", "person",
    ]  # fmt: skip
