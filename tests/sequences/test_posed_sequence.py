"""`PosedSequence`: checks, access, and the folder format."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from scene_completion_ros.errors import CameraError, SequenceError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.sequences.posed_sequence import Frame, PosedSequence
from tests.bags.recordings import jpeg, picture
from tests.messages.test_images import TURNED

CAMERA = Camera(40.0, 41.0, 31.5, 23.5, 64, 48, "plumb_bob", (0.1, -0.02, 0.0, 0.001, 0.0))
PINHOLE = Camera(40.0, 40.0, 31.5, 23.5, 64, 48)


def pose(x: float) -> RigidTransform:
    return RigidTransform.from_quaternion([0, 0, np.sin(x / 10), np.cos(x / 10)], [x, 0.5, -1.0])


@pytest.fixture
def sequence(tmp_path: Path) -> PosedSequence:
    """Camera "/left" from JPEG files, "left" (the same folder name) from raw arrays, and missing in frame 1."""
    (tmp_path / "source").mkdir()
    frames = []
    for index in range(3):
        file = tmp_path / "source" / f"{index}.jpg"
        file.write_bytes(jpeg(index))
        images: dict[str, Any] = {"/left": file}
        if index != 1:
            images["left"] = lambda index=index: picture(100 + index)
        assets = {"lidar": lambda index=index: np.full((5, 3), index, np.float64)} if index == 2 else {}
        frames.append(Frame(10 + index, images, pose(float(index)), assets))
    return PosedSequence(
        name="test",
        cameras={"/left": CAMERA, "left": PINHOLE},
        rig_from_camera={"/left": RigidTransform.identity(), "left": pose(0.5)},
        frames=frames,
        pose_source="made up",
        metric_scale=False,
        provenance={"licence": "none"},
        rig_from_sensor={"lidar": pose(2.0)},
    )


def assert_same(one: PosedSequence, other: PosedSequence) -> None:
    for name in ("name", "pose_source", "metric_scale", "provenance", "cameras"):
        assert getattr(one, name) == getattr(other, name)
    for name in one.cameras:
        np.testing.assert_allclose(one.rig_from_camera[name].matrix, other.rig_from_camera[name].matrix, atol=1e-12)
    assert len(one) == len(other)
    for index, (a, b) in enumerate(zip(one.frames, other.frames, strict=True)):
        assert a.stamp_ns == b.stamp_ns
        assert set(a.images) == set(b.images)
        np.testing.assert_allclose(a.world_from_rig.matrix, b.world_from_rig.matrix, atol=1e-12)
        for name in a.images:
            np.testing.assert_array_equal(one.image(index, name), other.image(index, name))


def test_round_trip(sequence: PosedSequence, tmp_path: Path) -> None:
    loaded = PosedSequence.load(sequence.save(tmp_path / "saved"))
    assert_same(sequence, loaded)
    lidar = loaded.lidar(2)
    assert lidar.dtype == np.float32
    np.testing.assert_array_equal(lidar, np.full((5, 3), 2.0))
    assert loaded.lidar(0) is None
    np.testing.assert_allclose(loaded.rig_from_sensor["lidar"].matrix, pose(2.0).matrix)
    assert_same(loaded, PosedSequence.load(loaded.save(tmp_path / "again")))


def test_nothing_is_overwritten(sequence: PosedSequence, tmp_path: Path) -> None:
    folder = sequence.save(tmp_path / "saved")
    before = (folder / "sequence.json").read_bytes()
    with pytest.raises(SequenceError, match="not empty"):
        sequence.save(folder)
    assert (folder / "sequence.json").read_bytes() == before


def test_interrupted_extraction_is_recognised(sequence: PosedSequence, tmp_path: Path) -> None:
    def broken() -> np.ndarray:
        raise KeyboardInterrupt

    frames = [*sequence.frames[:2], dataclasses.replace(sequence.frames[2], images={"left": broken})]
    with pytest.raises(KeyboardInterrupt):
        dataclasses.replace(sequence, frames=frames).save(tmp_path / "saved")
    for name in ("saved", "missing"):
        with pytest.raises(SequenceError, match=r"no sequence\.json"):
            PosedSequence.load(tmp_path / name)


def in_frame(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["frames"][1].update(fields)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda d: d.update(schema_version=2), "schema_version: is 2, this program reads 1. Update"),
        (lambda d: d.update(frames=[]), "no frame"),
        (in_frame(stamp_ns=3), "does not follow"),
        (in_frame(images={"/left": "../../secret.jpg"}), "frames.1.images./left: .*leaves the folder"),
        (in_frame(images={"rear": "images/a.jpg"}), "unknown cameras"),
        (in_frame(world_from_rig=[[1, 2], [3, 4]]), "frames.1.world_from_rig: not a rigid"),
        (lambda d: d["cameras"]["left"].update(fx=0.0), "cameras.left: focal length"),
        (lambda d: d["rig_from_camera"].pop("left"), "rig_from_camera"),
    ],
)
def test_defects_name_file_and_field(
    sequence: PosedSequence, tmp_path: Path, edit: Callable[[dict[str, Any]], None], words: str
) -> None:
    index = sequence.save(tmp_path / "saved") / "sequence.json"
    document = json.loads(index.read_text())
    edit(document)
    index.write_text(json.dumps(document))
    with pytest.raises(SequenceError, match=words):
        PosedSequence.load(tmp_path / "saved")


def test_exif_orientation_does_not_turn_the_image(tmp_path: Path) -> None:
    """Calibration belongs to the pixels as recorded."""
    content = jpeg(4)
    (tmp_path / "turned.jpg").write_bytes(content[:2] + TURNED + content[2:])
    assert cv2.imread(str(tmp_path / "turned.jpg")).shape[:2] == (64, 48)  # OpenCV does turn it
    frame = Frame(0, {"left": tmp_path / "turned.jpg"}, pose(0.0))
    one = PosedSequence("one", {"left": PINHOLE}, {"left": RigidTransform.identity()}, [frame], "none")
    assert one.image(0, "left").shape == (48, 64, 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fx": 1e-3}, "sequence.json: field cameras.a: fx = 0.001 pixels in an image of width 64 is a field of view"),
        ({"fy": 1e6}, "sequence.json: field cameras.a: fy = 1e\\+06 pixels in an image of height 48"),
        ({"cx": 1e5}, "sequence.json: field cameras.a: principal point lies outside the image .*, 23.5 of 64x48"),
        (
            {"metres": 538.0},
            "sequence.json, a and b: a stereo baseline of 538 m: .*it would be 0.538 m if in millimetres",
        ),
        ({"metres": 1e-4}, "sequence.json, a and b: a stereo baseline of 0.0001 m"),
        ({"metres": 0.54}, ""),
        ({"cx": 39.5, "cy": 29.5}, ""),  # those who extracted it were told
    ],
)
def test_cameras_and_baselines_that_cannot_be_are_refused(tmp_path: Path, change: dict[str, float], words: str) -> None:
    poses = {"a": RigidTransform.identity(), "b": RigidTransform(np.eye(3), np.array([0.54, 0.0, 0.0]))}
    images: dict[str, Any] = dict.fromkeys(poses, lambda: picture())
    made = PosedSequence("pair", dict.fromkeys(poses, PINHOLE), poses, [Frame(1, images, pose(0.0))], "made up")
    index = made.save(tmp_path / "pair") / "sequence.json"
    document = json.loads(index.read_text())
    document["rig_from_camera"]["b"][0][3] = change.pop("metres", 0.54)
    document["cameras"]["a"] |= change
    index.write_text(json.dumps(document))
    if not words:
        assert set(PosedSequence.load(index.parent).cameras) == {"a", "b"}
        return
    with pytest.raises(CameraError, match=words):
        PosedSequence.load(index.parent)


@pytest.mark.parametrize(
    ("scale", "far", "arm", "words"),
    [
        (1.0, None, 0.5, ""),
        (1000.0, None, 0.5, r"the rig moves at 10000 m/s, .*10 m/s if the poses are in millimetres.*metric_scale"),
        (1.0, 7, 0.5, r"from frame 7 on, are 1 of 20 poses.* that of 700000000 ns is 2\d\d m from the one beside it"),
        (1.0, None, 500.0, r"/left is 500 m from its rig.*0.5 m if the poses are in millimetres"),
    ],
)
def test_poses_that_cannot_be_are_refused_when_read(
    sequence: PosedSequence, tmp_path: Path, scale: float, far: int | None, arm: float, words: str
) -> None:
    def place(index: int) -> RigidTransform:
        return RigidTransform(np.eye(3), np.array([scale * index, 250.0 * (index == far), 0.0]))

    images = {"/left": sequence.frames[0].images["/left"]}
    made = dataclasses.replace(
        sequence,
        cameras={"/left": CAMERA},
        rig_from_camera={"/left": RigidTransform(np.eye(3), np.array([arm, 0.0, 0.0]))},
        frames=[Frame(100_000_000 * index, images, place(index)) for index in range(20)],
        metric_scale=True,
    )
    folder = made.save(tmp_path / "saved")
    if words:
        with pytest.raises(SequenceError, match=words) as caught:
            PosedSequence.load(folder)
        assert caught.value.where.endswith("sequence.json")
    else:
        assert len(PosedSequence.load(folder)) == 20
    unscaled = dataclasses.replace(made, metric_scale=False).save(tmp_path / "unscaled")
    assert len(PosedSequence.load(unscaled)) == 20  # no metres
