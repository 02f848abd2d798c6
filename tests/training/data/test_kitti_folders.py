"""Folders of KITTI that configurations name, made of the official downloads."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.sequences.opening import depth_truth, open_recording
from scene_completion_training import CONFIGS
from scene_completion_training.data import kitti_folders
from tests import official_layouts as layouts

DRIVE = layouts.RAW_DRIVE  # of 2011_09_26
FOLDER = "kitti_raw/2011_09_26_0013"


@pytest.fixture
def downloads(tmp_path: Path) -> list[str]:
    """Odometry with SemanticKITTI, KITTI raw and KITTI 2015, tiny."""
    odometry, raw, stereo = (tmp_path / name for name in ("odometry", "raw", "stereo"))
    layouts.kitti_raw(raw, frames=6)
    sequence = layouts.kitti_odometry(odometry).rename(odometry / "sequences/00")
    for camera, count in (("0", 200), ("1", 200), ("2", 10), ("3", 10)):
        layouts.write_pictures(sequence / f"image_{camera}", layouts.RAW_SIZE, range(count), "{:06d}.png")
    poses = "".join(f"1 0 0 0 0 1 0 0 0 0 1 {number}\n" for number in range(200))
    for file in (sequence / "poses.txt", sequence / "times.txt", odometry / "poses/00.txt"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(poses if file.name != "times.txt" else "".join(f"{n / 10}\n" for n in range(200)))
    for folder in ("velodyne", "labels", "voxels"):
        (sequence / folder).mkdir()
    for number in range(10):
        scan = layouts.corridor_scan(float(number))
        scan.tofile(sequence / f"velodyne/{number:06d}.bin")
        np.full(len(scan), 40, "<u4").tofile(sequence / f"labels/{number:06d}.label")
    np.full((256, 256, 32), 40, "<u2").tofile(sequence / "voxels/000000.label")
    np.zeros(256 * 256 * 4, np.uint8).tofile(sequence / "voxels/000000.invalid")
    (stereo / "devkit/mapping").mkdir(parents=True)
    mapping = f"\n2011_09_28 2011_09_28_drive_0001_sync 0000000000\n2011_09_26 {DRIVE} 0000000003\n"
    (stereo / "devkit/mapping/train_mapping.txt").write_text(mapping)
    for camera in ("image_2", "image_3"):
        layouts.write_pictures(stereo / "training" / camera, layouts.RAW_SIZE, range(3), "{:06d}_10.png")
    disparity = np.zeros((48, 64), np.uint16)
    disparity[20, 30] = 2.7 * 256  # of a focal length times baseline of 27 pixels metres: 10 m
    (stereo / "training/disp_occ_0").mkdir()
    cv2.imwrite(str(stereo / "training/disp_occ_0/000002_10.png"), disparity)
    return [str(odometry), str(raw), str(stereo)]


def test_frames_are_those_of_the_downloads(
    downloads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images, poses, scans, voxels and true depth, by the numbers that the folders give them."""
    monkeypatch.setattr(kitti_folders, "WINDOWS", ("00",))
    monkeypatch.setattr(kitti_folders, "DRIVES", {FOLDER: ("0001", range(1, 6, 2), "23", 2)})
    monkeypatch.setattr(sys, "argv", ["kitti_folders", *downloads, str(tmp_path / "data")])
    for _ in range(2):  # a second run changes nothing
        kitti_folders.main()
    window, grey, drive, pairs = (
        open_recording(tmp_path / "data" / name)
        for name in ("kitti_windows/sequences/00", "kitti_gray/00", FOLDER, "kitti_more/kitti_2015_pairs")
    )
    assert (len(window), len(grey), sorted(grey.cameras)) == (10, 200, ["image_0", "image_1"])
    assert set(window.frames[0].assets) - set(window.frames[1].assets) == {"ssc_label", "ssc_invalid"}
    recorded = open_recording(Path(downloads[1]) / "2011_09_26" / DRIVE)
    for index, number in enumerate((1, 3, 5)):
        expected = recorded.frames[number].world_from_rig.matrix
        np.testing.assert_allclose(drive.frames[index].world_from_rig.matrix, expected, atol=1e-9)
        assert (drive.image(index, "image_3") == recorded.image(number, "image_03")).all()
    assert [frame.stamp_ns for frame in drive.frames] == [0, 200_000_000, 400_000_000]
    np.testing.assert_allclose(drive.lidar(0), recorded.lidar(1), atol=1e-5)
    assert drive.lidar(1) is None and drive.lidar(2) is None  # left out, and not there
    assert (len(pairs), pairs.provenance["drives"]) == (1, [DRIVE])
    np.testing.assert_allclose(pairs.lidar(0), recorded.lidar(3), atol=1e-5)
    truth = depth_truth(pairs, 0, "image_2")
    assert truth is not None and truth.depth[20, 30] == pytest.approx(10.0, rel=0.01) and (truth.depth > 0).sum() == 1
    (Path(downloads[2]) / "training/image_3/000002_10.png").unlink()
    with pytest.raises(SequenceError, match="000002_10.png"):
        kitti_folders.main()


def test_configurations_name_no_other_folders_of_kitti() -> None:
    made = {f"kitti_windows/sequences/{name}" for name in kitti_folders.WINDOWS} | set(kitti_folders.DRIVES)
    made |= {"kitti_gray/00", "kitti_more/kitti_2015_pairs"}
    for file in (CONFIGS / "street.yaml", *sorted((CONFIGS / "data").glob("*.yaml"))):
        content = yaml.safe_load(file.read_text())
        data = content.get("data", content)
        named = {source["folder"] for source in [*data["sources"], *data.get("validation", [])]}
        assert {folder for folder in named if not folder.startswith("./")} <= made, file
        assert data["root"] == "data"


def test_a_file_that_is_no_link_is_not_replaced(tmp_path: Path) -> None:
    source, folder = tmp_path / "source.png", tmp_path / "image_2"
    source.touch()
    for _ in range(2):  # links of a former run are made anew
        kitti_folders.link(folder, [source])
    (folder / "000000.png").unlink()
    (folder / "000000.png").write_text("mine")
    with pytest.raises(FileExistsError):
        kitti_folders.link(folder, [source])
    assert (folder / "000000.png").read_text() == "mine"
