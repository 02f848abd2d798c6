"""Rectified views: a lens becomes a pinhole, an oblique pair a parallel one."""

import dataclasses
import re

import numpy as np
import pytest
from numpy.typing import NDArray

from scene_completion_ros.errors import CameraError
from scene_completion_ros.geometry import Camera, RigidTransform
from scene_completion_ros.geometry.transforms import about
from scene_completion_ros.sequences.posed_sequence import Frame, PosedSequence, stereo_pair
from scene_completion_training.extraction.finishing import rectified_views

IDENTITY = RigidTransform.identity()
FISHEYE = Camera(120.0, 121.0, 160.0, 118.0, 320, 240, "equidistant", (0.02, -0.01, 0.002, 0.0))
BARREL = Camera(190.0, 190.0, 159.5, 91.5, 320, 184, "plumb_bob", (-0.2, 0.05, 0.001, -0.001, 0.0))


def picture(camera: Camera) -> NDArray[np.uint8]:
    """What a camera sees of a sphere whose grey value is a function of the direction, [H, W, 3]."""
    rays = np.nan_to_num(camera.unproject(camera.pixel_centres()))
    rays /= np.maximum(np.linalg.norm(rays, axis=-1, keepdims=True), 1e-9)
    value = 127.0 + 60.0 * np.sin(12.0 * rays[..., 0]) + 60.0 * np.sin(9.0 * rays[..., 1])
    return np.repeat(np.rint(value).astype(np.uint8)[..., None], 3, axis=-1)


@pytest.mark.parametrize("camera", [FISHEYE, BARREL], ids=["fisheye", "barrel"])
def test_a_rectified_picture_is_what_the_pinhole_camera_would_have_taken(camera: Camera) -> None:
    (view,) = rectified_views({"a": camera}, {"a": IDENTITY}).values()
    assert view.camera.distortion_model == "none" and view.rig_from_camera.matrix.tolist() == np.eye(4).tolist()
    seen = view.image(lambda: picture(camera))()
    validity = view.validity
    assert validity is not None and validity.mean() > 0.8
    difference = np.abs(seen.astype(float) - picture(view.camera))[validity]
    assert difference.max() < 4.0
    assert (seen[~validity] == 0).all()


def test_an_oblique_pair_becomes_a_rectified_one() -> None:
    """Both cameras squint, distort and differ; afterwards a point has one row and the disparity of its depth."""
    cameras = {"left": BARREL, "right": dataclasses.replace(BARREL, fx=195.0, fy=194.0)}
    poses = {
        "left": RigidTransform(about(1, 0.05) @ about(0, 0.02), np.array([0.0, 0.0, 0.0])),
        "right": RigidTransform(about(1, -0.04), np.array([0.5, 0.02, 0.03])),
    }
    views = rectified_views(cameras, poses)
    assert views["left"].camera == views["right"].camera
    frame = Frame(0, {}, IDENTITY)
    sequence = PosedSequence(
        "pair", {n: v.camera for n, v in views.items()}, {n: v.rig_from_camera for n, v in views.items()}, [frame], "tf"
    )
    left, right, baseline = stereo_pair(sequence)  # what training asks for
    assert (left, right) == ("left", "right")
    assert baseline == pytest.approx(np.linalg.norm([0.5, 0.02, 0.03]))
    point = np.array([0.3, -0.2, 6.0])
    pixels = {name: view.camera.project(view.rig_from_camera.inverse().apply(point))[0] for name, view in views.items()}
    depth = views["left"].rig_from_camera.inverse().apply(point)[2]
    assert pixels["left"][1] == pytest.approx(pixels["right"][1], abs=1e-9)
    assert pixels["left"][0] - pixels["right"][0] == pytest.approx(views["left"].camera.fx * baseline / depth)


def test_a_pair_that_stands_closer_than_any_is_refused() -> None:
    """Of 0.1 mm by tf the unit is wrong; colour and depth stand close by, and one place is no pair."""
    poses = {"left": IDENTITY, "right": RigidTransform(np.eye(3), np.array([1e-4, 0.0, 0.0]))}
    said = "left and right, by the transforms between them: a stereo baseline of 0.0001 m: stereo rigs have 0.01 to 4 m"
    with pytest.raises(CameraError, match=re.escape(f"{said} (it would be 0.1 m if divided by 1000). State the")):
        rectified_views({"left": BARREL, "right": dataclasses.replace(BARREL, fx=195.0)}, poses)
    depth = dataclasses.replace(BARREL, fx=250.0, fy=250.0)
    assert rectified_views({"left": BARREL, "right": depth}, poses)["right"].rig_from_camera == poses["right"]
    assert len(rectified_views({"left": BARREL, "right": BARREL}, {"left": IDENTITY, "right": IDENTITY})) == 2
