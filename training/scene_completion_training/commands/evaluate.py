"""Score students, checkpoints and controls on recordings with ground truth.

`scene-completion evaluate PROTOCOL --help` describes a protocol: its inputs, its ground truth and its metrics.
"""

import argparse

from scene_completion_ros.commands.arguments import Output
from scene_completion_training.commands import (
    evaluate_geometry,
    evaluate_points,
    evaluate_segmentation,
    evaluate_semantics,
    evaluate_views,
)

PROTOCOLS = {
    "geometry": (evaluate_geometry, "occupancy: exact ground truth and both LiDAR protocols; or depth against LiDAR"),
    "semantics": (evaluate_semantics, "semantic completion, protocol of S4C; or zero-shot labels and words of voxels"),
    "segmentation": (evaluate_segmentation, "classes of pixels by rendered features: clusters and linear probes"),
    "points": (
        evaluate_points,
        "classes, things and sentences by features of points of rooms: zero-shot, or by probes",
    ),
    "views": (evaluate_views, "novel views by PSNR, SSIM and LPIPS; or features and classes from view to view"),
}


RESULTS = Output(("results.json", "results.md", "probe_*.safetensors", "profile_*.png"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion evaluate``."""
    protocols = parser.add_subparsers(dest="protocol", required=True, metavar="PROTOCOL")
    for name, (module, meaning) in PROTOCOLS.items():
        formatter = argparse.RawDescriptionHelpFormatter
        protocol = protocols.add_parser(name, help=meaning, description=module.__doc__, formatter_class=formatter)
        module.add_arguments(protocol)
        protocol.add_argument("--output", type=RESULTS, required=True, metavar="DIR", help="takes the results")
        protocol.set_defaults(run_protocol=module.run)


def run(args: argparse.Namespace) -> int:
    """Run the protocol that was named."""
    return args.run_protocol(args)  # type: ignore[no-any-return]
