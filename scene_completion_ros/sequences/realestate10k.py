"""Posed sequences from RealEstate10K, as Behind the Scenes and SceneDINO unpack it.

    train/NAME.txt, test/NAME.txt          the owner's camera files; they may also lie in cameras/train, cameras/test
    frames/train/NAME/TIMESTAMP.jpg        one picture for each line of the file, named by microseconds (Behind the
                                           Scenes, whose script takes them from the videos) or milliseconds

A camera file has the address of the video in its first line. Each other line is a frame: its time in microseconds,
focal lengths and principal point (fx fy cx cy) in widths and heights of the image, radial distortion (k1 k2), and the
row-major 3x4 `camera_from_world`. Poses come from a SLAM, whose unit of length is not the metre. The rig is the camera
(x right, y down, z forward). Published splits name a frame by its place among the lines.
"""

from pathlib import Path

import numpy as np

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.picture_files import read_size
from scene_completion_ros.sequences import posed_sequence
from scene_completion_ros.sequences.frame_lists import FRAME_NUMBERS

CAMERA = "camera"
_COLUMNS = 19
_RESTORE = "Restore the file from the data set"


def realestate10k(folder: Path | str, *, poses: str | None = None) -> posed_sequence.PosedSequence:
    """Read a video of RealEstate10K; frames whose picture is not there are left out and listed in the provenance.

    Raises SequenceError where the camera file is missing or malformed, its poses are no rotations, its intrinsics
    change, or no line has a picture: names it; CameraError where the intrinsics are none. `folder`:
    `ROOT/frames/SPLIT/NAME`, with the pictures; `poses`: "none": the frames are unrelated.
    """
    root = Path(folder).resolve()
    file = _camera_file(root)
    if file is None:
        what = f"no camera file {root.parent.name}/{root.name}.txt next to the frames"
        raise SequenceError(what, where=str(root), cure="Unpack the camera files of RealEstate10K next to `frames`")
    if len(posed_sequence.read_lines(file, "address of a video", str.split, _RESTORE)[0]) == _COLUMNS:
        raise SequenceError("its first line is no address of a video", where=str(file), cure=_RESTORE)
    cure = "Expected microseconds, fx fy cx cy k1 k2 and a row-major 3x4 world-to-camera matrix"
    lines = posed_sequence.read_lines(file, "frame", _line, cure, header=1)
    pictures = {int(path.stem): path for path in root.glob("*.jpg") if path.stem.isdecimal()}
    found = {
        number: picture
        for number, (at, _, _) in enumerate(lines)
        if (picture := pictures.get(at) or pictures.get(at // 1000)) is not None
    }
    if not found:
        what = f"none of its {len(lines)} lines has a picture among the {len(pictures)} of {root}"
        cure = "Name a picture TIMESTAMP.jpg after the first number of its line, as Behind the Scenes does"
        raise SequenceError(what, where=str(file), cure=cure)
    if changed := [number for number, line in enumerate(lines) if not np.allclose(line[1], lines[0][1], atol=1e-6)]:
        what = "its intrinsics change, but a sequence has one camera"
        raise SequenceError(what, where=f"{file}, line {changed[0] + 2}", cure="Cut the file where they change")
    frames = [
        posed_sequence.Frame(
            lines[number][0] * 1000,
            {CAMERA: picture},
            RigidTransform.identity() if poses == posed_sequence.UNKNOWN_POSES else lines[number][2],
        )
        for number, picture in found.items()
    ]
    missing, unposed = sorted(set(range(len(lines))) - found.keys()), len(set(pictures.values()) - set(found.values()))
    return posed_sequence.PosedSequence(
        name=root.name,
        cameras={CAMERA: _camera(lines[0][1], next(iter(found.values())))},
        rig_from_camera={CAMERA: RigidTransform.identity()},
        frames=frames,
        pose_source=poses or "SLAM of the data set",
        metric_scale=False,
        provenance={
            "dataset": "RealEstate10K",
            "folder": f"{root.parent.name}/{root.name}",
            FRAME_NUMBERS: list(found),
            **({"missing_images": missing} if missing else {}),
            **({"images_without_pose": unposed} if unposed else {}),
        },
    )


def _camera_file(folder: Path) -> Path | None:
    split, name = folder.parent.name, folder.name
    root = folder.parent.parent.parent
    places = (root / split / f"{name}.txt", root / "cameras" / split / f"{name}.txt")
    return next((place for place in places if place.is_file()), None)


def _line(text: str) -> tuple[int, list[float], RigidTransform]:
    """Microseconds, fx fy cx cy k1 k2, and world_from_camera of a line."""
    time, *words = text.split()
    numbers = [float(word) for word in words]
    if len(numbers) != _COLUMNS - 1 or not np.isfinite(numbers).all() or not time.isdecimal() or len(time) > 15:
        raise ValueError(f"not {_COLUMNS} numbers that begin with a time in microseconds")
    return int(time), numbers[:6], posed_sequence.pose_of(" ".join(words[6:])).inverse()


def _camera(intrinsics: list[float], picture: Path) -> Camera:
    """The camera; its coordinates run from 0 to 1 between the edges of the image."""
    fx, fy, cx, cy, k1, k2 = intrinsics
    width, height = read_size(picture)
    lens = {} if k1 == k2 == 0.0 else {"distortion_model": "plumb_bob", "distortion": (k1, k2, 0.0, 0.0)}
    return Camera(fx * width, fy * height, cx * width - 0.5, cy * height - 0.5, width, height, **lens)  # type: ignore[arg-type]


SOURCE = posed_sequence.Source(
    "frames/SPLIT/NAME of RealEstate10K",
    lambda path: path.is_dir() and _camera_file(path.resolve()) is not None,
    lambda path, poses: realestate10k(path, poses=poses),
)
