from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.cli import main
from scene_completion_ros.evaluation.semantic_classes import ROOM_CLASSES
from scene_completion_ros.geometry import RigidTransform
from scene_completion_ros.sequences.opening import depth_truth, open_recording, voxel_truth
from scene_completion_ros.sequences.posed_sequence import mounting
from scene_completion_training.points import opening
from scene_completion_worlds.room.furniture import RoomClass
from scene_completion_worlds.room.plan import FloorPlan
from scene_completion_worlds.room.walk import CAMERA, HAND_HEIGHT_M, HAND_PITCH, ROBOT_HEIGHT_M, RoomWalk
from scene_completion_worlds.street.parts import box
from scene_completion_worlds.street.scene import build_scene


@pytest.fixture(scope="module")
def walk() -> RoomWalk:
    """Twelve views apart of the rooms of seed 7, in a hand."""
    return RoomWalk(7, 12, (160, 120), leg=1, carrier="hand", supersampling=1)


@pytest.mark.parametrize("seed", range(40, 43))
def test_rooms_share_no_place_and_things_stay_inside(seed: int) -> None:
    plan = FloorPlan(seed)
    x0, x1, y0, y1 = plan.outline
    for number, room in enumerate(plan.rooms):
        for other in plan.rooms[:number]:
            a, b = room.inside, other.inside
            assert a[0] >= b[1] or b[0] >= a[1] or a[2] >= b[3] or b[2] >= a[3]
    for part in plan.parts:
        low, high = part.corners.min(axis=(0, 1)), part.corners.max(axis=(0, 1))
        assert (low > (x0 - 0.3, y0 - 0.3, -0.06)).all() and (high < (x1 + 0.3, y1 + 0.3, plan.height + 0.31)).all()


def test_a_robot_is_level_and_low_and_a_hand_is_neither(walk: RoomWalk) -> None:
    robot = RoomWalk(8, 6, (64, 48), leg=2, carrier="robot", supersampling=1)
    mounted = robot.rig_from_camera[CAMERA]
    assert ROBOT_HEIGHT_M[0] <= mounted.translation[2] <= ROBOT_HEIGHT_M[1]
    assert abs(mounted.rotation[2, 0]) < 1e-9  # x of the image stays level
    for pose in robot.poses:  # the rig moves on the floor
        assert pose.translation[2] == pytest.approx(0.0, abs=1e-9) and pose.rotation[2, 2] == pytest.approx(1.0)
    downs = np.array([-np.arcsin(pose.rotation[2, 2]) for pose in walk.poses])
    assert all(HAND_HEIGHT_M[0] <= pose.translation[2] <= HAND_HEIGHT_M[1] for pose in walk.poses)
    assert downs.min() >= HAND_PITCH[0] - 1e-9 and downs.max() <= HAND_PITCH[1] + 1e-9 and np.ptp(downs) > 0.1


def test_what_pixels_show_lies_in_voxels_of_its_class(walk: RoomWalk) -> None:
    """Depth, labels and voxels of a frame agree, but for the rims of voxels that two classes share."""
    right = total = 0
    for index in range(0, 12, 3):
        view, truth = walk.view(index, CAMERA), walk.truth(index)
        camera = walk.cameras[CAMERA]
        points = camera.unproject(camera.pixel_centres().reshape(-1, 2)) * view.depth.reshape(-1, 1)
        place, inside = (np.asarray(part) for part in truth.grid.index_of(truth.grid_from_camera.apply(points)))
        found = truth.labels[tuple(place[inside].T)]
        right += int((found == view.label.reshape(-1)[inside]).sum())
        total += int(inside.sum())
        assert truth.occupied[tuple(place[inside].T)].mean() > 0.97
    assert right > 0.9 * total


def test_the_grid_stands_upright_on_the_floor_below_each_frame(walk: RoomWalk) -> None:
    for index in (0, 5):
        truth = walk.truth(index)
        ground = truth.ground
        assert ground is not None and np.nanmedian(ground[np.isfinite(ground)]) == pytest.approx(0.0, abs=1e-5)
        assert truth.grid_from_camera.translation[2] == pytest.approx(walk.poses[index].translation[2])
        assert truth.grid_from_camera.rotation[1, 2] == pytest.approx(0.0, abs=1e-9)  # it faces along x


def test_rooms_behind_closed_doors_are_unknown() -> None:
    """Two rooms with a wall between them: the one without the camera is unknown."""
    walk = RoomWalk(7, 1, (64, 48), leg=1, carrier="hand", supersampling=1)
    plan = walk.plan
    x0, x1, y0, y1 = plan.outline
    plan.rooms = [replace(plan.rooms[0], inside=(x0, 2.0, y0, y1)), replace(plan.rooms[0], inside=(2.2, x1, y0, y1))]
    floor = [part for part in plan.parts if part.label == RoomClass.FLOOR]
    wall = box((0.2, y1 - y0, plan.height), (2.1, (y0 + y1) / 2, plan.height / 2), "wall_0", RoomClass.WALL)
    plan.parts = [*floor, wall]
    walk._renderer.scene = build_scene(plan)
    ahead = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    walk.poses = [RigidTransform(ahead, np.array([0.5, (y0 + y1) / 2, 0.5]))]
    truth = walk.truth(0)
    at = int(1.5 / 0.05)  # the front of the wall, metres ahead
    assert truth.known[: at - 1, 64, 10:40].all()
    assert not truth.known[at + 6 :, 64, 10:40].any()


def test_a_walk_that_was_written_is_read_with_its_truth(tmp_path: Path, walk: RoomWalk) -> None:
    output = tmp_path / "out"
    command = f"world room --seed 8 --frames 3 --rate 0.6 --size 99 75 --supersampling 1 --output {output}".split()
    assert main(command) == 0
    sequence = open_recording(output)
    truth, exact = voxel_truth(sequence, 2), RoomWalk(8, 3, (99, 75), leg=1, supersampling=1).truth(2)
    assert truth is not None and truth.class_map.target == ROOM_CLASSES
    assert np.array_equal(truth.labels, exact.labels) and np.array_equal(truth.known, exact.known)
    assert truth.grid_from_camera.matrix == pytest.approx(exact.grid_from_camera.matrix)
    stands = mounting(sequence, CAMERA, 2)
    assert stands is not None and stands.translation[2] == pytest.approx(exact.grid_from_camera.translation[2])
    depth = depth_truth(sequence, 1)
    assert depth is not None and np.isfinite(depth.depth).mean() > 0.99
    assert main(command) == 2  # it exists already


def test_a_robots_walk_is_a_bag_with_its_mounting(tmp_path: Path) -> None:
    command = f"world room --seed 7 --frames 3 --size 64 48 --supersampling 1 --bag --output {tmp_path}/out".split()
    assert main(command) == 0
    recorded, exact = open_recording(tmp_path / "out" / "bag"), open_recording(tmp_path / "out")
    (name,) = recorded.cameras
    assert recorded.cameras[name].matrix == pytest.approx(exact.cameras[CAMERA].matrix)
    assert [frame.stamp_ns for frame in recorded.frames] == [frame.stamp_ns for frame in exact.frames]
    for index in range(3):
        assert np.array_equal(recorded.image(index, name), exact.image(index, CAMERA))
        found, expected = recorded.world_from_camera(index, name), exact.world_from_camera(index, CAMERA)
        assert found.matrix == pytest.approx(expected.matrix, abs=1e-6)


def test_rooms_are_scenes_of_points_with_the_classes_of_a_benchmark(
    tmp_path: Path, walk: RoomWalk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels are found by name: what ScanNet lacks has none."""
    walk.sequence(("depth", "label", "instance")).save(tmp_path / "rooms")
    monkeypatch.setattr(opening, "VOXEL", 0.05)
    scene = opening.open_scenes(tmp_path / "rooms", labels="scannet20")["rooms"]
    assert scene.classes == ROOM_CLASSES[1:21] and scene.label is not None and scene.instance is not None
    floor = scene.points[scene.label == 1]
    assert len(floor) > 200 and np.abs(floor[:, 2]).max() < 0.1
    ceiling = scene.points[:, 2] > walk.plan.height - 0.02
    assert ceiling.any() and (scene.label[ceiling] == -1).mean() > 0.9
