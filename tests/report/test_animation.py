from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from scene_completion_ros.report import animation
from scene_completion_ros.report.animation import MOST_FRAMES, DriveAnimation
from scene_completion_ros.report.pictures import birds_eye_view
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels, VoxelState
from tests.report.animations import decoded
from tests.report.scenes import CAMERA, COLOURS, photo, street

MILLISECOND = 1_000_000


def collect(frames: list[SemanticVoxels], image: NDArray[np.uint8] | None) -> DriveAnimation:
    drive = DriveAnimation()
    for voxels in frames:
        view = birds_eye_view(voxels)
        drive.add(voxels, image, view, title="a street", camera=CAMERA)
    return drive


def drive_of(stamps_ms: list[int], *, classes: bool = True) -> DriveAnimation:
    return collect([street(classes=classes, stamp_ns=stamp * MILLISECOND) for stamp in stamps_ms], photo())


def without_the_wall(voxels: SemanticVoxels) -> SemanticVoxels:
    """The street with the hedge alone, so that the frames differ."""
    keep = voxels.label != 1
    state = voxels.state.copy()
    state[tuple(voxels.index[~keep].T)] = VoxelState.FREE_SEEN
    arrays = {name: getattr(voxels, name)[keep] for name in ("index", "probability", "label", "confidence")}
    return dataclasses.replace(voxels, state=state, **arrays)


def near(picture: NDArray[np.uint8], colour: tuple[int, ...]) -> NDArray[np.bool_]:
    """Pixels of a colour, as a lossy file has it."""
    return np.asarray((np.abs(picture.astype(int) - colour) < 20).all(axis=-1))


@pytest.mark.parametrize("classes", [True, False])
def test_every_frame_is_shown_as_long_as_it_was_driven_and_again_and_again(classes: bool) -> None:
    picture = drive_of([1000, 1100, 1150, 1450], classes=classes).picture()
    assert picture is not None
    assert picture.caption == "4 of 4 frames, as fast as driven"
    found = decoded(picture.data)
    assert found.durations_ms == [100, 50, 300, 100]  # the last: the median
    assert found.loop == 0
    assert len({frame.shape for frame in found.frames}) == 1


def test_a_class_keeps_its_colour_and_its_place() -> None:
    full = street()
    frames = [dataclasses.replace(full, stamp_ns=i * 100 * MILLISECOND) for i in range(3)]
    frames[1] = without_the_wall(frames[1])
    picture = collect(frames, None).picture()  # the photo has red in it
    assert picture is not None
    first, without, again = decoded(picture.data).frames
    map_view = np.s_[:330, animation._WIDTH + 24 :]  # without the red arrow at its lower end
    seen = np.s_[60:240, : animation._WIDTH]
    wall, front = COLOURS[1], tuple(round(0.7 * channel) for channel in COLOURS[1])
    for one in (first, again):
        assert near(one[map_view], wall).sum() > 200
        assert near(one[seen], front).sum() > 200
        assert near(one[map_view], COLOURS[0]).sum() > 2000
    assert near(without[map_view], wall).sum() == 0
    assert near(without[seen], front).sum() == 0
    assert near(without[map_view], COLOURS[2]).sum() > 100  # the hedge behind it, as green as before
    assert np.array_equal(first, again)


def test_one_frame_is_a_still_picture() -> None:
    picture = drive_of([5]).picture()
    assert picture is not None
    assert picture.caption == "1 of 1 frames"
    assert b"ANIM" not in picture.data
    assert len(decoded(picture.data).frames) == 1


def test_of_a_long_drive_evenly_spaced_frames_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(animation, "MOST_FRAMES", 4)
    for count, shown in ((4, [0, 1, 2, 3]), (5, [0, 2, 4]), (8, [0, 2, 4, 6]), (9, [0, 4, 8]), (33, [0, 16, 32])):
        drive = drive_of([100 * i for i in range(count)])
        assert [stamp_ns // (100 * MILLISECOND) for stamp_ns, _ in drive._frames] == shown
        picture = drive.picture()
        assert picture is not None
        assert picture.caption.startswith(f"{len(shown)} of {count} frames, ")
        durations = decoded(picture.data).durations_ms
        assert durations == [min(1000, 100 * shown[1])] * len(shown)
        assert picture.caption.endswith("1.6 times as fast as driven" if count == 33 else ", as fast as driven")
    assert MOST_FRAMES == 40


def test_pauses_and_repeated_stamps_are_shown_for_a_time_that_can_be_watched() -> None:
    picture = drive_of([0, 100, 60_100, 60_100, 60_200]).picture()
    assert picture is not None
    assert decoded(picture.data).durations_ms == [100, 1000, 20, 100, 100]
    assert "20 ms to 1 s a frame" in picture.caption


def test_frames_of_another_size_are_put_on_the_canvas_of_the_first() -> None:
    drive = DriveAnimation()
    for stamp, image in enumerate((photo(), np.zeros((300, 200, 3), np.uint8), None)):
        voxels = street(stamp_ns=stamp * 100 * MILLISECOND)
        drive.add(voxels, image, birds_eye_view(voxels), title="a street", camera=CAMERA)
    picture = drive.picture()
    assert picture is not None
    assert len({frame.shape for frame in decoded(picture.data).frames}) == 1


def test_without_webp_there_is_no_animation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(animation, "can_write_webp", lambda: False)
    assert drive_of([0, 100]).picture() is None
