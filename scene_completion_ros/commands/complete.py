"""Complete one image: voxels.npz and picture.png; with --words also words.png.

numpy.load reads voxels.npz. It holds the state of every voxel; index, probability, label and confidence of the occupied
ones; names and colours of the classes. It also holds where the grid lies, probability and opacity of every voxel, and
the depth. docs/voxels.md shows examples; scene_completion_ros/voxels/files.py lists all arrays.

picture.png shows no depth where most of the ray leaves the grid (transmittance of 0.5 or more). Outside of the view
probability and opacity are 0, and the state is unobserved.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from scene_completion_ros.commands import arguments

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from scene_completion_ros.geometry.transforms import RigidTransform

RESULTS = arguments.Output(("voxels.npz", "picture.png", "words.png"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion complete``."""
    parser.add_argument("image", type=Path, metavar="IMAGE", help="PNG or JPEG")
    meaning = (
        "its calibration: the YAML of camera_calibration or OpenCV; Kalibr's camchain or KITTI's calib.txt with the "
        "camera, as in camchain.yaml:cam0 and calib.txt:P2"
    )
    parser.add_argument("--camera", type=arguments.place, required=True, metavar="FILE", help=meaning)
    parser.add_argument("--output", required=True, type=RESULTS, metavar="DIR", help="folder for the results")
    meaning = "metres of the camera above the ground, for a student that takes it into account"
    parser.add_argument("--camera-height", type=float, metavar="METRES", help=meaning)
    meaning = "degrees by which the camera looks down, with --camera-height (default: 0)"
    parser.add_argument("--camera-pitch", type=float, metavar="DEGREES", help=meaning)
    meaning = "how far its right side is lower (default: 0)"
    parser.add_argument("--camera-roll", type=float, metavar="DEGREES", help=meaning)
    meaning = "YAML with origin, voxel_size, shape and grid_from_camera (4x4, row by row) of another grid to query"
    parser.add_argument("--grid", type=Path, metavar="FILE", help=meaning)
    arguments.add_student_arguments(parser)
    arguments.add_words_argument(parser, "words.png shows", "none, and no such picture")


def run(args: argparse.Namespace) -> int:
    """Complete the image and write the results."""
    import numpy as np

    from scene_completion_ros.geometry.camera_files import read_camera
    from scene_completion_ros.geometry.grids import read_grid
    from scene_completion_ros.geometry.plausible_cameras import doubts_about
    from scene_completion_ros.inference.bundle import open_student
    from scene_completion_ros.inference.completer import Completer, mounting_warnings
    from scene_completion_ros.progress import Progress, print_summary
    from scene_completion_ros.report.pictures import birds_eye_view, depth_picture, panel, words_panel, write_picture
    from scene_completion_ros.voxels.files import ImageDetails, npz_bytes

    progress = Progress()
    image, assumption = read_image(args.image)
    camera = read_camera(args.camera, image_size=(image.shape[1], image.shape[0]))
    bundle = open_student(args.bundle)
    words = arguments.chosen_words(args.words, bundle)
    grid, grid_from_camera = read_grid(args.grid) if args.grid else (None, None)
    upright = upright_camera(args.camera_height, args.camera_pitch, args.camera_roll)
    progress.line(f"Completing {args.image} ({bundle.name}) ...")
    completer = Completer(
        bundle, camera, grid=grid, grid_from_camera=grid_from_camera, engine=args.engine, upright_from_camera=upright
    )
    mounted = mounting_warnings(bundle, upright, "give --camera-height and --camera-pitch")
    if unseen := completer.out_of_view():
        raise unseen
    arguments.set_words(completer, words)
    completion = completer.complete(image)
    doubts = map(str, doubts_about(camera, args.camera))
    for warning in filter(None, (assumption, *doubts, *completer.warnings, *mounted, completion.warning)):
        progress.warning(warning)
    details = ImageDetails(
        probability_grid=completion.probability.astype(np.float16),
        alpha_grid=completion.alpha.astype(np.float16),
        depth=completion.depth.astype(np.float32),
        transmittance=completion.transmittance.astype(np.float16),
        depth_intrinsics=np.asarray(completion.depth_camera.matrix, dtype=np.float64),
    )
    picture = panel(
        image,
        depth_picture(completion.shown_depth, completion.voxels.grid),
        birds_eye_view(completion.voxels, completion.depth_camera),
        title=f"{args.image.name}: {len(completion.voxels)} occupied voxels",
        class_names=bundle.class_names,
        class_colours=bundle.class_colours,
    )
    with RESULTS.writing(args.output, args) as folder:
        (folder / "voxels.npz").write_bytes(npz_bytes(completion.voxels, details))
        write_picture(folder / "picture.png", picture)
        if words:
            camera = completion.depth_camera
            lit = words_panel(image, completion.voxels, completion.matches, camera=camera, title=args.image.name)
            write_picture(folder / "words.png", lit)
    rows: dict[str, object] = {"voxels": f"{len(completion.voxels)} occupied"}
    rows |= {"time": f"{completion.timings_ms['total']:.0f} ms", "picture": args.output / "picture.png"}
    print_summary(rows | {"words": args.output / "words.png" if words else None})
    return 0


def upright_camera(height: float | None, pitch: float | None, roll: float | None = None) -> "RigidTransform | None":
    """Pose of the optical frame above the ground of a camera at a height, metres, that looks down and rolls, degrees.

    None where no height is given. Raises SceneCompletionError where the numbers make no sense.
    """
    import math

    import numpy as np

    from scene_completion_ros.errors import SceneCompletionError
    from scene_completion_ros.geometry.road_plane import MOST_ROLL_DEG
    from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD, RigidTransform, rotation_of_angles

    if height is None:
        for name, angle in (("pitch", pitch), ("roll", roll)):
            if angle is not None:
                cure = "Give --camera-height, too"
                raise SceneCompletionError("has no meaning alone", where=f"--camera-{name}", cure=cure)
        return None
    if abs(roll or 0.0) > MOST_ROLL_DEG:
        what = f"a camera that rolls by {roll:g} degrees shows the road on its side"
        cure = f"Turn the image upright, and give up to {MOST_ROLL_DEG:g} degrees"
        raise SceneCompletionError(what, where="--camera-roll", cure=cure)
    if not (0.0 < height <= 100.0 and abs(pitch or 0.0) <= 90.0):
        what = f"a camera {height:g} m above the ground that looks {pitch or 0.0:g} degrees down"
        raise SceneCompletionError(what, where="--camera-height, --camera-pitch", cure="Give metres and degrees")
    down = rotation_of_angles(math.radians(roll or 0.0), math.radians(pitch or 0.0), 0.0)
    return RigidTransform(down, np.array([0.0, 0.0, height])) @ OPTICAL_FROM_FORWARD.inverse()


def read_image(path: Path) -> "tuple[NDArray[np.uint8], str]":
    """Read an image file as it was taken: a calibration does not follow an orientation tag.

    Returns RGB image [H, W, 3], and what was assumed of it, in a sentence; empty where nothing was. Raises ImageError
    where the file is missing, no JPEG or PNG, or too large. How many of 16 bits the camera uses is judged by
    the largest value.
    """
    from scene_completion_ros.picture_files import bits_in_use, read_picture, to_rgb

    pixels = read_picture(path)
    bits = bits_in_use(pixels)
    assumption = (
        f"{path}: the largest of its 16-bit values is {pixels.max()}, so they are read as values of {bits} bits. If "
        "the image is merely dark, give it with 8 bits"
    )
    return to_rgb(pixels, bits), assumption if bits < 16 else ""
