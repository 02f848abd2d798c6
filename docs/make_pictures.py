"""Make the pictures of the documents: `python docs/make_pictures.py`, in the repository's root.

The shipped student of streets completes one image of the bundled drive, that of rooms one of a rendered room. Densities
from above are those of a rendered town. With `--experiment OUT` it also takes those of
`training/experiments/cua_o3d.sh`.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import tempfile
from pathlib import Path

import numpy as np

from scene_completion_ros.bags.reader import DEMO_DRIVE
from scene_completion_ros.cli import main as scene_completion
from scene_completion_ros.commands.arguments import chosen_words, set_words
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import DEFAULT_GRID_FROM_CAMERA, ROOM_GRID, VoxelGrid
from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD, RigidTransform
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, open_student
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.mapping.clearing import ClearingRays
from scene_completion_ros.mapping.ground_map import FREE, UNKNOWN, GroundProjection, ignored_labels
from scene_completion_ros.picture_files import read_rgb
from scene_completion_ros.report.pictures import (
    MapScale,
    Picture,
    class_legend,
    draw_axes,
    draw_camera,
    encode_picture,
    fit_width,
    map_picture,
    next_to_map,
    voxel_view,
    words_panel,
)
from scene_completion_ros.sequences.opening import open_recording
from scene_completion_ros.sequences.posed_sequence import reference_camera
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels
from scene_completion_worlds.room.walk import CAMERA, RoomWalk

IMAGE, CROSSING = 20, 38  # of the drive, from 0
WORDS = ("car", "tree", "zebra crossing", "sidewalk", "building", "hedge")
CELLS = {"free": (255, 255, 255), "occupied": (0, 0, 0), "unknown": (112, 137, 134)}
CLEARING = "end of a clearing ray"
COLOURS = CELLS | {CLEARING: (0, 150, 0)}
ROOM, VIEW = 7003, 0  # floor plan that no training knows, and view of it
BELOW_CEILING = VoxelGrid(ROOM_GRID.origin, ROOM_GRID.voxel_size, (*ROOM_GRID.shape[:2], 44))
EXPERIMENT = {
    "features.webp": "recordings_20_classes_2000.png",
    "uncertainty.webp": "uncertainty.png",
    "confusion.webp": "confusion_recordings_20_classes_2D_and_3D_mean.png",
}
"""Pictures of features of points, by the names that `evaluate points --pictures` gave them."""
HEIGHT, LOWEST, HIGHEST = 1.65, 0.3, 2.0
"""Of the camera, and of the band in which voxels are obstacles, metres above the ground."""


def from_behind(voxels: SemanticVoxels) -> Picture:
    """The voxels from above and behind the camera."""
    pitch, behind = math.radians(22.0), RigidTransform(np.eye(3), np.array([0.0, -9.0, -14.0]))
    down = np.array([[1, 0, 0], [0, math.cos(pitch), math.sin(pitch)], [0, -math.sin(pitch), math.cos(pitch)]])
    camera_from_eye = behind @ RigidTransform(down, np.zeros(3))
    moved = dataclasses.replace(voxels, grid_from_camera=voxels.grid_from_camera @ camera_from_eye)
    return fit_width(voxel_view(moved, Camera(1800.0, 1800.0, 959.5, 559.5, 1920, 860), width=1920), 960)


def street(image: Picture, seen: Picture, legend: dict[str, tuple[int, int, int]]) -> Picture:
    """A camera image above the names of classes, and its voxels on the right."""
    left, right = with_legend(fit_width(image, 600), legend), fit_width(seen, 680)
    below = right.shape[0] - left.shape[0]
    return np.concatenate([np.pad(left, ((0, below), (0, 0), (0, 0)), constant_values=255), right], axis=1)


def room() -> Picture:
    """An image of a rendered room, and its voxels from above and behind the camera, without those of the ceiling."""
    walk, bundle = RoomWalk(ROOM, 6, (640, 480), leg=1, carrier="hand"), open_student(Path("room"))
    image, camera, stands = walk.image(VIEW, CAMERA), walk.cameras[CAMERA], walk.grid_from_camera(VIEW)
    mounted = walk.world_from_camera(VIEW, CAMERA).levelled()
    completer = Completer(bundle, camera, grid=BELOW_CEILING, grid_from_camera=stands, upright_from_camera=mounted)
    voxels = completer.complete(image).voxels
    pitch = math.radians(38.0)
    down = np.array([[1, 0, 0], [0, math.cos(pitch), math.sin(pitch)], [0, -math.sin(pitch), math.cos(pitch)]])
    eye = RigidTransform(DEFAULT_GRID_FROM_CAMERA.rotation @ down, np.array([-1.4, 0.0, 4.2]))
    seen = voxel_view(
        dataclasses.replace(voxels, grid_from_camera=eye), Camera(620.0, 620.0, 319.5, 259.5, 640, 480), width=640
    )
    there = np.unique(voxels.label)
    legend = {bundle.class_names[label]: bundle.class_colours[label] for label in there}
    return with_legend(np.concatenate([fit_width(image, 480), fit_width(seen, 480)], axis=1), legend)


def ground(voxels: SemanticVoxels, camera: Camera) -> Picture:
    """The map of the ground from above, forward up, and the ends of the clearing rays."""
    upright = RigidTransform(np.eye(3), np.array([0.0, 0.0, HEIGHT])) @ OPTICAL_FROM_FORWARD.inverse()
    grid_from_camera = voxels.grid_from_camera
    projection = GroundProjection(voxels.grid, upright @ grid_from_camera.inverse(), LOWEST, HIGHEST)
    found = projection(voxels, ignored=ignored_labels("auto", voxels.class_names))
    scale = MapScale(found.origin, found.cells.shape[::-1], found.resolution, max(1, 560 // max(found.cells.shape)))
    known = np.where(found.cells == FREE, 0, np.where(found.cells == UNKNOWN, 2, 1))
    picture = map_picture(np.array(list(CELLS.values()), np.uint8)[known].swapaxes(0, 1).copy(), scale)
    for x, y, _ in upright.apply(ClearingRays(voxels.grid, grid_from_camera, camera, None)(voxels).astype(np.float64)):
        column, row = scale.pixel(float(x), float(y))
        if 0 <= row < picture.shape[0] and 0 <= column < picture.shape[1]:
            picture[row, column] = COLOURS[CLEARING]
    draw_axes(picture, scale)
    draw_camera(picture, scale, upright, camera)
    return picture


def profiles() -> Picture:
    """Densities from above of both students of streets, and the exact voxels."""
    with tempfile.TemporaryDirectory() as folder:
        town = ["world", "street-kitti360", "--seed", "2001", "--frames", "1", "--size", "928", "280"]
        scene_completion([*town, "--supersampling", "1", "--output", f"{folder}/town"])
        students = [str(DEFAULT_BUNDLE), str(DEFAULT_BUNDLE.with_name("street"))]
        scored = ["evaluate", "geometry", "--profiles", "--data", f"{folder}/town", "--bundle", *students]
        scene_completion([*scored, "--output", f"{folder}/profiles"])
        (file,) = Path(folder, "profiles").glob("*.png")
        return fit_width(read_rgb(file), 880)


def with_legend(picture: Picture, entries: dict[str, tuple[int, int, int]]) -> Picture:
    """A picture and, below it, the names of colours."""
    drawn = class_legend(list(entries), list(entries.values()), width=picture.shape[1] - 24)
    return np.concatenate([picture, np.pad(drawn, ((6, 6), (12, 12), (0, 0)), constant_values=255)])


def main() -> None:
    """Make them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/pictures"), metavar="DIR")
    parser.add_argument("--experiment", type=Path, metavar="OUT", help="folder of training/experiments/cua_o3d.sh")
    args = parser.parse_args()
    bundle, drive = open_student(None), open_recording(DEMO_DRIVE)
    name = reference_camera(drive)
    completer = Completer(bundle, drive.cameras[name])
    set_words(completer, chosen_words(None, bundle, WORDS))
    crossing, image = drive.image(CROSSING, name), drive.image(IMAGE, name)
    there = from_behind(completer.complete(crossing).voxels)
    done = completer.complete(image)
    voxels, camera = done.voxels, done.depth_camera
    seen = from_behind(voxels)
    tiles = [("camera", fit_width(image, 480)), ("~/voxels", fit_width(seen, 480))]
    made = {
        "voxels.webp": street(crossing, there, dict(zip(bundle.class_names, bundle.class_colours, strict=True))),
        "nav2_map.webp": with_legend(next_to_map(tiles, ground(voxels, camera), title="", width=480), COLOURS),
        "room.webp": room(),
        "profile.webp": profiles(),
        "words.webp": words_panel(image, voxels, done.matches, camera=camera),
    }
    for file, found in EXPERIMENT.items() if args.experiment else ():
        picture = read_rgb(args.experiment / "pictures" / found)
        made[file] = fit_width(picture, min(picture.shape[1], 860))
    args.output.mkdir(parents=True, exist_ok=True)
    for file, picture in made.items():
        (args.output / file).write_bytes(encode_picture(picture, ".webp", quality=88))


if __name__ == "__main__":
    main()
