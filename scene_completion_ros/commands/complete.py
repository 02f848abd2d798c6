"""Complete one image: voxels.npz, voxels.ply and picture.png.

voxels.npz holds
  probability       float16 [X, Y, Z]  calibrated probability of being occupied
  alpha             float16 [X, Y, Z]  the network's opacity over one voxel edge
  state             uint8 [X, Y, Z]    0 unobserved, 1 free (seen), 2 free (inferred), 3 surface, 4 completed
  label             uint8 [X, Y, Z]    index into class_names where the state is 3 or 4, elsewhere 0
  confidence        float16 [X, Y, Z]  in the label, 0 to 1, where the state is 3 or 4, elsewhere 0
  depth             float32 [H, W]     metres along the optical axis of the camera depth_intrinsics;
                                       NaN where the image does not reach
  transmittance     float16 [H, W]     part of each ray that leaves the grid, 0 to 1; near 1 (sky, or farther away than
                                       the grid reaches) depth is only where the ray leaves the grid
  depth_intrinsics  float64 [3, 3]
  origin, voxel_size, grid_from_camera [4, 4], class_names [K], class_colours uint8 [K, 3] (RGB)

picture.png shows no depth where transmittance is 0.5 or more.

probability and alpha are also given outside the camera's view, where they are extrapolated from the image border and
mean little; the state there stays unobserved.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from scene_completion_ros.inference.completer import Completion


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion complete``."""
    parser.add_argument("image", type=Path, metavar="IMAGE", help="image file (PNG, JPEG, …)")
    parser.add_argument(
        "--camera",
        required=True,
        metavar="FILE",
        help="its calibration: KITTI's calib.txt with the camera, as in calib.txt:P2, or camera_calibration's YAML",
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--grid",
        type=Path,
        metavar="FILE",
        help="YAML with origin, voxel_size, shape and grid_from_camera (4x4, row by row) of another grid to query",
    )
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="student bundle (default: the one that is shipped)")
    parser.add_argument(
        "--engine",
        default="auto",
        help="what runs the encoder: auto, openvino, openvino_bf16, onnxruntime, tensorrt (default: %(default)s)",
    )
    parser.add_argument("--rerun", type=Path, metavar="FILE.rrd", help="also write a recording for the Rerun viewer")


def run(args: argparse.Namespace) -> int:
    """Complete the image and write the results."""
    import sys

    from scene_completion_ros.geometry.camera_files import read_camera
    from scene_completion_ros.geometry.grids import read_grid
    from scene_completion_ros.inference.bundle import StudentBundle, load_default_bundle
    from scene_completion_ros.inference.completer import Completer
    from scene_completion_ros.report.pictures import birds_eye_view, depth_picture, panel, write_picture
    from scene_completion_ros.report.ply import write_ply
    from scene_completion_ros.report.rerun_export import RerunRecording

    recording = RerunRecording(args.rerun) if args.rerun else None  # fails before the work where Rerun is missing
    image = read_image(args.image)
    camera = read_camera(args.camera, image_size=(image.shape[1], image.shape[0]))
    bundle = StudentBundle.load(args.bundle) if args.bundle else load_default_bundle()
    grid, grid_from_camera = read_grid(args.grid) if args.grid else (None, None)
    completer = Completer(
        bundle, camera, grid=grid, grid_from_camera=grid_from_camera, engine=args.engine, extrapolate=True
    )
    for warning in completer.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    completion = completer.complete(image)
    args.output.mkdir(parents=True, exist_ok=True)
    # The completion's own probability is zero outside the view.
    write_npz(args.output / "voxels.npz", completion, bundle.calibration.apply(completion.alpha))
    write_ply(args.output / "voxels.ply", completion.voxels)
    picture = panel(
        image,
        depth_picture(completion.shown_depth),
        birds_eye_view(completion.voxels, camera=completion.depth_camera),
        title=f"{args.image.name}: {len(completion.voxels)} occupied voxels",
        class_names=bundle.class_names,
        class_colours=bundle.class_colours,
    )
    write_picture(args.output / "picture.png", picture)
    if recording is not None:
        recording.add_frame(completion)
        recording.close()
    print(f"{len(completion.voxels)} occupied voxels; see {args.output / 'picture.png'}")
    return 0


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image file as it was taken: a calibration knows nothing of an orientation tag.

    Args:
        path: Image file.

    Returns:
        RGB image [H, W, 3].

    Raises:
        ImageError: The file is missing or no image.
    """
    import cv2
    import numpy as np

    from scene_completion_ros.errors import ImageError

    try:
        data = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}", where=str(path), cure="Check the path") from error
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    decoded = cv2.imdecode(data, flags) if data.size else None
    if decoded is None:
        raise ImageError("is no image that OpenCV can decode", where=str(path), cure="Give a PNG or JPEG file")
    return np.ascontiguousarray(decoded[..., ::-1], dtype=np.uint8)


def write_npz(path: Path, completion: Completion, probability: NDArray[np.float32]) -> None:
    """Write everything known of one completed image, in the layout that ``--help`` describes.

    Args:
        path: File to write.
        completion: The completed image.
        probability: Calibrated probability [X, Y, Z].
    """
    import numpy as np

    voxels = completion.voxels
    label = np.zeros(voxels.grid.shape, dtype=np.uint8)
    label[tuple(voxels.index.T)] = voxels.label
    confidence = np.zeros(voxels.grid.shape, dtype=np.float16)
    confidence[tuple(voxels.index.T)] = voxels.confidence
    np.savez_compressed(
        path,
        probability=probability.astype(np.float16),
        alpha=completion.alpha.astype(np.float16),
        state=voxels.state,
        label=label,
        confidence=confidence,
        depth=completion.depth.astype(np.float32),
        transmittance=completion.transmittance.astype(np.float16),
        depth_intrinsics=np.asarray(completion.depth_camera.matrix, dtype=np.float64),
        origin=np.asarray(voxels.grid.origin, dtype=np.float64),
        voxel_size=np.float64(voxels.grid.voxel_size),
        grid_from_camera=voxels.grid_from_camera.matrix,
        class_names=np.asarray(voxels.class_names),
        class_colours=np.asarray(voxels.class_colours, dtype=np.uint8),
    )
