"""Makes the folders of KITTI that `training/configs` names, of links to the official downloads.

    python -m scene_completion_training.data.kitti_folders ODOMETRY RAW STEREO data

ODOMETRY is the folder `dataset` of KITTI odometry (colour, grey, Velodyne, calibration, poses), with SemanticKITTI's
labels, voxels and poses in the same sequences; RAW holds `2011_09_26` of KITTI raw (synced and rectified); STEREO holds
`training` and `devkit` of KITTI 2015 (scene flow). Images keep their size.
"""

import argparse
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.geometry.camera_files import read_kitti_calibration
from scene_completion_ros.picture_files import read_picture
from scene_completion_ros.sequences.kitti_raw import kitti_raw
from scene_completion_training.arrays import Doubles

DATE = "2011_09_26"
WINDOWS = ("00", "01", "02", "03", "04", "05", "06", "07", "09")
# Folder: drive, frames, cameras, and of every how-manyth of these frames the scan is taken.
DRIVES: dict[str, tuple[str, Sequence[int], str, int]] = {
    "kitti_raw/2011_09_26_0013": ("0013", range(0, 144, 2), "23", 10),
    "kitti_more/kitti_raw_0005": ("0005", range(0, 154, 2), "2", 1),
    "kitti_more/kitti_raw_0039_gray": ("0039", range(0, 395, 3), "01", 1000),
    "kitti_more/kitti_raw_0056": ("0056", range(21), "23", 1000),
}


def link(folder: Path, files: Iterable[Path], every: int = 1, *, required: bool = True) -> None:
    """Links to files as 000000, 000001, … of a folder; SequenceError where one that is required is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, file in list(enumerate(files))[::every]:
        place = folder / f"{number:06d}{file.suffix}"
        if place.is_symlink():  # of a former run; a file is not replaced
            place.unlink()
        if file.is_file():
            place.symlink_to(file.resolve())
        elif required:
            raise SequenceError("is missing", where=str(file), cure="Unpack it from the data set")


def window(sequence: Path, folder: Path, cameras: str, frames: int) -> None:
    """The first frames of a sequence of KITTI odometry, those of colour cameras with scans and the first voxels."""
    kinds = {f"image_{camera}": "png" for camera in cameras}
    for kind, suffix in (kinds | ({"velodyne": "bin", "labels": "label"} if "2" in cameras else {})).items():
        link(folder / kind, [sequence / kind / f"{number:06d}.{suffix}" for number in range(frames)])
    if "2" in cameras:
        link(folder / "voxels", [sequence / "voxels/000000.label"])
        link(folder / "voxels", [sequence / "voxels/000000.invalid"])
        shutil.copyfile(sequence / "poses.txt", folder / "poses.txt")
    else:
        shutil.copyfile(sequence.parents[1] / f"poses/{sequence.name}.txt", folder / "poses_gt.txt")
    for name in ("calib.txt", "times.txt"):
        shutil.copyfile(sequence / name, folder / name)


def drive(raw: Path, folder: Path, number: str, frames: Sequence[int], cameras: str, every: int) -> None:
    """Frames of a drive of KITTI raw with poses of OXTS, and the scans of every so many-th of them."""
    source = raw / DATE / f"{DATE}_drive_{number}_sync"
    sequence = kitti_raw(source)
    first = next(iter(sequence.cameras))
    posed = {int(Path(str(frame.images[first])).stem): frame for frame in sequence.frames}
    kept = [frame for frame in frames if frame in posed]
    for camera in cameras:
        link(folder / f"image_{camera}", [source / f"image_0{camera}/data/{frame:010d}.png" for frame in kept])
    scans = [source / f"velodyne_points/data/{frame:010d}.bin" for frame in kept]
    link(folder / "velodyne", scans, every, required=False)
    _write(folder / "times.txt", (str((posed[frame].stamp_ns - posed[kept[0]].stamp_ns) / 1e9) for frame in kept))
    _write(folder / "poses.txt", (_row(posed[frame].world_from_rig.matrix[:3]) for frame in kept))
    calibration(raw, folder)


def pairs(raw: Path, stereo: Path, folder: Path) -> None:
    """The pairs of KITTI 2015's training set that are of `DATE`, with their scans, true depth, and drives."""
    lines = (stereo / "devkit/mapping/train_mapping.txt").read_text(encoding="utf-8").splitlines()
    known = [(f"{scene:06d}", *line.split()) for scene, line in enumerate(lines) if line.startswith(DATE)]
    for camera in "23":
        link(folder / f"image_{camera}", [stereo / f"training/image_{camera}/{scene}_10.png" for scene, *_ in known])
    scans = [raw / date / name / f"velodyne_points/data/{frame}.bin" for _, date, name, frame in known]
    link(folder / "velodyne", scans, required=False)
    projections = calibration(raw, folder)
    (folder / "true_depth").mkdir(exist_ok=True)
    for index, (scene, *_) in enumerate(known):
        disparity = read_picture(stereo / f"training/disp_occ_0/{scene}_10.png") / 256.0
        depth = (projections["P_rect_02"].flat[3] - projections["P_rect_03"].flat[3]) / np.maximum(disparity, 1e-3)
        steps = np.round(1.0 + 254.0 * np.log(depth / 2.0) / np.log(50.0))  # see `load_log_depth`
        values = np.where((steps >= 1) & (steps <= 255), steps, 0).astype(np.uint8)
        cv2.imwrite(str(folder / f"true_depth/{index:06d}.png"), values)
    _write(folder / "source.txt", map(" ".join, known))


def calibration(raw: Path, folder: Path) -> dict[str, Doubles]:
    """Writes `calib.txt` as KITTI odometry has it: `P0` to `P3`, and `Tr` from the LiDAR to the rectified camera 0."""
    cameras = read_kitti_calibration(raw / DATE / "calib_cam_to_cam.txt")
    lidar = read_kitti_calibration(raw / DATE / "calib_velo_to_cam.txt")
    mounting = cameras["R_rect_00"].reshape(3, 3) @ np.hstack([lidar["R"].reshape(3, 3), lidar["T"].reshape(3, 1)])
    rows = {f"P{n}": cameras[f"P_rect_0{n}"] for n in range(4) if f"P_rect_0{n}" in cameras} | {"Tr": mounting}
    _write(folder / "calib.txt", (f"{name}: {_row(matrix)}" for name, matrix in rows.items()))
    return cameras


def _row(matrix: Doubles) -> str:
    return " ".join(map(repr, matrix.ravel().tolist()))


def _write(file: Path, lines: Iterable[str]) -> None:
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def main() -> None:
    """Makes all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("odometry", "raw", "stereo", "output"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    for name in WINDOWS:
        window(args.odometry / "sequences" / name, args.output / "kitti_windows/sequences" / name, "23", 10)
    window(args.odometry / "sequences/00", args.output / "kitti_gray/00", "01", 200)
    for folder, chosen in DRIVES.items():
        drive(args.raw, args.output / folder, *chosen)
    pairs(args.raw, args.stereo, args.output / "kitti_more/kitti_2015_pairs")


if __name__ == "__main__":
    main()
