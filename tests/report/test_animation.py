import numpy as np
import pytest
from numpy.typing import NDArray

from scene_completion_ros.report import animation
from scene_completion_ros.report.animation import MOST_FRAMES, DriveAnimation
from scene_completion_ros.report.pictures import birds_eye_view
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels
from tests.report.animations import decoded
from tests.report.scenes import CAMERA, photo, street

MILLISECOND = 1_000_000


def collect(frames: list[SemanticVoxels], image: NDArray[np.uint8] | None) -> DriveAnimation:
    drive = DriveAnimation()
    for voxels in frames:
        view = birds_eye_view(voxels)
        drive.add(voxels, image, view, title="a street", camera=CAMERA)
    return drive


def drive_of(stamps_ms: list[int], *, classes: bool = True) -> DriveAnimation:
    return collect([street(classes=classes, stamp_ns=stamp * MILLISECOND) for stamp in stamps_ms], photo())


def test_of_a_long_drive_evenly_spaced_frames_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(animation, "MOST_FRAMES", 4)
    for count, shown in ((4, [0, 1, 2, 3]), (5, [0, 2, 4]), (8, [0, 2, 4, 6]), (9, [0, 4, 8]), (33, [0, 16, 32])):
        drive = drive_of([100 * i for i in range(count)])
        assert [stamp_ns // (100 * MILLISECOND) for stamp_ns, _ in drive._frames] == shown
        picture = drive.picture()
        assert picture.caption.startswith(f"{len(shown)} of {count} frames, ")
        durations = decoded(picture.data).durations_ms
        assert durations == [min(1000, 100 * shown[1])] * len(shown)
        assert picture.caption.endswith("1.6 times as fast as driven" if count == 33 else ", as fast as driven")
    assert MOST_FRAMES == 40


def test_without_webp_there_is_no_animation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(animation, "can_write_webp", lambda: False)
    assert drive_of([0, 100]).picture() is None
