"""What is wrong with the files of public data sets is refused with the file, and the line where it has some."""

from pathlib import Path

import pytest

from scene_completion_ros.errors import SceneCompletionError, SequenceError
from scene_completion_ros.sequences.frame_lists import read_frame_list
from scene_completion_ros.sequences.kitti import kitti_odometry
from scene_completion_ros.sequences.kitti_360 import kitti_360
from scene_completion_ros.sequences.kitti_raw import kitti_raw
from scene_completion_ros.sequences.realestate10k import realestate10k
from tests import official_layouts as layouts

MADE_AND_READ = {
    "odometry": (layouts.kitti_odometry, kitti_odometry),
    "raw": (layouts.kitti_raw, lambda folder: kitti_raw(folder).lidar(0)),
    "360": (layouts.kitti_360, kitti_360),
    "realestate": (layouts.realestate10k, realestate10k),
    "list": (lambda root: layouts.write_split(root / "files.txt", ["drive 0 l"]), read_frame_list),
}
LINE, TWICE = "1 0 0 0 0 1 0 0 0 0 1 0\n", "2 0 0 0 0 1 0 0 0 0 1 0\n"
POSES, CALIBRATION = f"../../data_poses/{layouts.DRIVE}/cam0_to_world.txt", "../../calibration"
VIDEO, CAMERAS = "https://video\n50000000 0.5 0.9 0.5 0.5 0 0 " + LINE, "../../../test/249fd0890d439aa9.txt"
FRAME = "50033367 0.5 0.9 0.5 0.5 0 0 "


@pytest.mark.parametrize(
    ("layout", "name", "content", "message"),
    [
        ("odometry", "poses.txt", LINE + LINE.replace("1 0 0 0 ", "1 0 0 nan ") * 2, "poses.txt, line 2: .*holds NaN"),
        ("odometry", "poses.txt", "1 0 0 0 0 1 0 0 0 0 1 zero\n", "poses.txt, line 1: no pose: .*'zero'"),
        ("odometry", "poses.txt", TWICE, "poses.txt, line 1: .*not a rotation"),
        ("odometry", "poses.txt", 3 * LINE, "3 poses, but images up to frame 3"),
        ("odometry", "poses.txt", None, "no poses.txt"),
        ("odometry", "times.txt", "0.0\nsoon\n", "times.txt, line 2: no time: 'soon'"),
        ("odometry", "times.txt", "0.0\n0.1\n", "2 times, but images up to frame 3"),
        ("odometry", "times.txt", "0.0\n0.1\n0.05\n0.2\n", "does not follow"),
        ("odometry", "calib.txt", f"P0: {layouts.odometry_projection()}\n", "no P2 for image_2"),
        ("odometry", "calib.txt", None, "calib.txt"),
        ("raw", "oxts/data/0000000002.txt", "49.0 nan\n", "0000000002.txt, line 1: .*not 30 numbers"),
        ("raw", "oxts/data/0000000002.txt", None, "0000000002.txt: cannot be read: No such file"),
        ("raw", "image_02/timestamps.txt", "2011-09-26 13:02:25.1\nnoon\n", "timestamps.txt, line 2: no time"),
        ("raw", "image_02/timestamps.txt", "2011-09-26 13:02:25.1\n", "1 times, but images up to frame 4"),
        ("raw", "../calib_cam_to_cam.txt", "R_rect_00: 1 0 0 0 1 0 0 0 1\n", "no S_rect_02 of 2 numbers"),
        ("raw", "../calib_velo_to_cam.txt", "R: 1 0 0 0 1 0 0 0 1\n", "calib_velo_to_cam.txt.*no T of 3 numbers"),
        ("raw", "velodyne_points/data/0000000000.bin", "12345678", "no points of x, y, z"),
        ("360", POSES, "4 1 0 0 nan 0 1 0 0 0 0 1 0\n", "line 1: no pose: .*holds NaN"),
        ("360", POSES, "4 1 0 0 0 0 1 0 0 0 0 1\n", "line 1: no pose"),
        ("360", POSES, "", "holds no pose"),
        ("360", f"{CALIBRATION}/calib_cam_to_velo.txt", "1 0 0\n", "calib_cam_to_velo.txt, line 1: no 3x4 matrix"),
        ("360", f"{CALIBRATION}/calib_cam_to_pose.txt", f"image_00: {LINE}", "no image_02 of 12 numbers"),
        ("360", f"{CALIBRATION}/image_02.yaml", None, "image_02.yaml"),
        ("realestate", CAMERAS, FRAME + LINE + FRAME + LINE, "first line is no address"),
        ("realestate", CAMERAS, "https://video\nnone\n", "line 2: no frame: 'none' .not 19 numbers"),
        ("realestate", CAMERAS, VIDEO + FRAME + TWICE, "line 3: .*not a rotation"),
        ("realestate", CAMERAS, VIDEO + FRAME.replace("0.5 0.5", "0.5 nan") + LINE, "line 3: .*not 19 numbers"),
        ("realestate", CAMERAS, VIDEO + FRAME.replace(" 0.5 0.9", " 0.6 0.9") + LINE, "line 3: .*intrinsics change"),
        *(("list", "", f"drive 0 l\n{line}\n", "line 2: no line") for line in ("a 12", "a b l", "a 1 x", "a -1 l")),
        ("list", "", "\n", "holds no line"),
    ],
)
def test_defects_are_refused(tmp_path: Path, layout: str, name: str, content: str | None, message: str) -> None:
    make, read = MADE_AND_READ[layout]
    folder = make(tmp_path)
    read(folder)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(SceneCompletionError, match=message):
        read(folder)


def test_a_drive_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SequenceError, match="Unpack some of"):
        kitti_360(tmp_path / "data_2d_raw" / layouts.DRIVE)
