"""RealEstate10K in small folders of its layouts."""

from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.geometry.transforms import about
from scene_completion_ros.sequences.frame_lists import FrameSplit, frame_indices
from scene_completion_ros.sequences.opening import open_recording
from scene_completion_ros.sequences.posed_sequence import UNKNOWN_POSES, PosedSequence
from tests import official_layouts as layouts


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"cameras": "cameras/test", "windows": True},
        {"pictures": "frames_720/test", "unit": 1000},  # SceneDINO
    ],
)
def test_cameras_poses_and_pictures(tmp_path: Path, layout: dict[str, object]) -> None:
    folder = layouts.realestate10k(tmp_path, **layout)
    sequence = open_recording(folder)
    assert (sequence.name, len(sequence), sequence.metric_scale) == ("249fd0890d439aa9", 12, False)
    camera = sequence.cameras["camera"]
    # 0.5 of 128 and 0.9 of 72 pixels; the middle of the image lies between pixels 63 and 64, 35 and 36
    assert (camera.fx, camera.cx, camera.cy, camera.distortion_model) == (64.0, 63.5, 35.5, "none")
    assert camera.fy == pytest.approx(64.8)
    np.testing.assert_allclose(sequence.frames[3].world_from_rig.translation, [0.0, 0.0, 0.3], atol=1e-9)
    np.testing.assert_allclose(sequence.frames[3].world_from_rig.rotation, about(1, 0.03), atol=1e-9)
    assert sequence.frames[1].stamp_ns - sequence.frames[0].stamp_ns == 33_367_000
    assert sequence.image(5, "camera")[0, 0].tolist() == pytest.approx([5] * 3, abs=12)  # JPEG
    assert open_recording(folder, poses=UNKNOWN_POSES).travelled_distance() == 0.0


def test_lists_count_lines_also_where_pictures_are_missing(tmp_path: Path) -> None:
    folder = layouts.realestate10k(tmp_path, missing=(0, 3))
    (folder / "123.jpg").write_bytes(b"of no line")
    sequence = open_recording(folder)
    assert sequence.provenance["missing_images"] == [0, 3] and sequence.provenance["images_without_pose"] == 1
    assert frame_indices(sequence) == {1: 0, 2: 1, **{k: k - 2 for k in range(4, 12)}}
    split = FrameSplit(layouts.write_split(tmp_path / "test_files.txt", [f"{folder.name} {k}" for k in (4, 3, 11)]))
    assert split.of(sequence) == [(2, "l"), (9, "l")]
    with pytest.raises(SequenceError, match=f"1 of its 3 frames.* {folder.name} 3 l"):
        split.counted()
    saved = PosedSequence.load(sequence.save(tmp_path / "saved"))
    assert frame_indices(saved)[11] == 9
