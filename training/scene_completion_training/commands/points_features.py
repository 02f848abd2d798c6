"""Compute features of a cloud of points, as they come off the shelf of a network that learned from rooms.

CLOUD is a PLY file with x y z in metres, z up, and red green blue and nx ny nz where it has them; or anything else that
is one scene of points: a scan of ScanNet, a region of Matterport3D, a room of S3DIS, a recording with depth.

--output gets `features`, float16 [N, D], and `points`, float32 [N, 3], a row for each vertex in their order. The widths
of the levels, finest first, are in its metadata. --pca writes the cloud with the
three principal components of the features as colours, and --pictures shows it from above and from a corner.
"""

import argparse
from pathlib import Path

from scene_completion_ros.commands.arguments import FILE, Output, place
from scene_completion_ros.errors import SequenceError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion points-features``."""
    parser.add_argument("cloud", type=Path, metavar="CLOUD", help="PLY file, or another scene of points")
    parser.add_argument("--output", type=FILE, required=True, metavar="FEATURES", help="safetensors file to write")
    meaning = "folder of `scene-completion export`, or checkpoint"
    parser.add_argument("--network", type=place, required=True, metavar="NETWORK", help=meaning)
    parser.add_argument("--up", default="", metavar="AXIS", help="direction that points up in the cloud, e.g. -y")
    parser.add_argument("--pca", type=FILE, metavar="PLY", help="also a PLY file of principal components")
    pictures = Output(("above.png", "corner.png"))
    parser.add_argument("--pictures", type=pictures, metavar="DIR", help="also above.png and corner.png of these")


def run(args: argparse.Namespace) -> int:
    """Compute, write and say what was written."""
    import json

    import numpy as np

    from scene_completion_ros.report.pictures import write_picture
    from scene_completion_ros.whole_files import tensor_bytes, write_whole
    from scene_completion_training.points import features
    from scene_completion_training.points.opening import open_scenes
    from scene_completion_training.points.ply import write_ply

    network = features.PointNetwork.open(args.network)
    scenes = open_scenes(args.cloud, up=args.up)
    if len(scenes) > 1:
        what, cure = f"holds {len(scenes)} scenes, such as {', '.join([*scenes][:3])}", "Name one of them"
        raise SequenceError(what, where=str(args.cloud), cure=cure)
    (scene,) = scenes.values()
    found = np.concatenate(network.of_scene(scene), axis=1)
    widths = json.dumps(network.network.dims)
    metadata = {"levels": widths, "network": network.name, "voxel_size": f"{network.voxel_size:g}"}
    write_whole(args.output, tensor_bytes({"features": found, "points": scene.points}, metadata))
    print(f"{args.output}: features of {len(scene)} points, levels of {widths} channels")
    if not (args.pca or args.pictures):
        return 0
    colours = features.principal_colours(found)
    if args.pca:
        kinds = [*((axis, "<f4") for axis in "xyz"), *((name, "u1") for name in ("red", "green", "blue"))]
        rows = np.empty(len(scene), kinds)
        for values, names in ((scene.points, "xyz"), (colours, ("red", "green", "blue"))):
            for name, column in zip(names, values.T, strict=True):
                rows[name] = column
        write_ply(args.pca, {"vertex": rows})
    if args.pictures:
        args.pictures.mkdir(parents=True, exist_ok=True)
        write_picture(args.pictures / "above.png", features.seen_from_above(scene.points, colours))
        write_picture(args.pictures / "corner.png", features.seen_from_a_corner(scene.points, colours))
    return 0
