"""nuScenes in a small folder of its layout."""

import json
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.sequences.nuscenes import _keyframes
from scene_completion_ros.sequences.opening import depth_truth, open_recording
from scene_completion_ros.sequences.posed_sequence import UNKNOWN_POSES
from tests import official_layouts as layouts


def test_keyframes_of_a_scene(tmp_path: Path) -> None:
    """A point 10 m ahead of the vehicle's start comes 4 m nearer a keyframe, whenever the LiDAR turned."""
    sequence = open_recording(layouts.nuscenes(tmp_path))
    assert (sequence.name, len(sequence), set(sequence.cameras)) == ("scene-0061", 4, {"CAM_FRONT"})
    camera = sequence.cameras["CAM_FRONT"]
    assert (camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height) == (120, 121, 80, 45, 160, 90)
    for k in range(2):
        points = sequence.lidar(k)
        np.testing.assert_allclose(points, [[10.0 - 4.0 * k, 0.0, 1.0]], atol=1e-4)  # x forward, y left, z up
        pose = sequence.world_from_camera(k, "CAM_FRONT")
        np.testing.assert_allclose(pose.translation, [400.0, 1000.0 + 4.0 * k + 1.5, 1.5], atol=1e-9)
        np.testing.assert_allclose(pose.rotation[:, 2], [0.0, 1.0, 0.0], atol=1e-9)  # it looks north
    depth = depth_truth(sequence, 0)
    (at,) = np.argwhere(depth.depth > 0)
    # 8.5 m ahead of the camera and 0.5 m below it
    assert at.tolist() == [round(45 + 121 * 0.5 / 8.5), 80] and depth.depth[tuple(at)] == pytest.approx(8.5, abs=1e-4)
    assert sequence.image(2, "CAM_FRONT")[0, 0].tolist() == pytest.approx([2] * 3, abs=12)
    assert sequence.frames[1].stamp_ns - sequence.frames[0].stamp_ns == 500_000_000
    assert open_recording(tmp_path / "v1.0-mini" / "scene-0061", poses=UNKNOWN_POSES).travelled_distance() == 0.0


def test_defects_are_named(tmp_path: Path) -> None:
    scene = layouts.nuscenes(tmp_path)
    with pytest.raises(SequenceError, match="no scene 'scene-9'.*1 scenes, such as scene-0061"):
        open_recording(scene.parent / "scene-9")

    def changed(table: str, **values: object) -> str:
        """The error after one row of a table became another one."""
        _keyframes.cache_clear()
        file = scene.parent / f"{table}.json"
        before = file.read_text()
        rows = json.loads(before)
        file.write_text(json.dumps([rows[0] | values, *rows[1:]]))
        with pytest.raises(SequenceError) as error:
            open_recording(scene)
        file.write_text(before)
        return str(error.value)

    assert "leaves the folder" in changed("sample_data", filename="../x.jpg")
    assert "length 2" in changed("ego_pose", rotation=[2, 0, 0, 0])
    assert "do not fit together" in changed("sensor", token="other")
    assert "do not fit together" in changed("calibrated_sensor", camera_intrinsic=[])
    for path in (tmp_path / "samples" / "CAM_FRONT").iterdir():
        path.unlink()
    assert "none of 4 keyframes has a picture" in changed("sample")
    (scene.parent / "ego_pose.json").unlink()
    _keyframes.cache_clear()
    with pytest.raises(SequenceError, match=r"ego_pose\.json: cannot be read"):
        open_recording(scene)
