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


SCORES, PICTURES = ("results.json", "results.md", "probe_*.safetensors"), ("profile_*.png",)
RESULTS = Output((*SCORES, *PICTURES), lambda args: PICTURES if getattr(args, "profiles", False) else SCORES)


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
    with RESULTS.writing(args.output, args) as folder:
        return args.run_protocol(argparse.Namespace(**{**vars(args), "output": folder}))  # type: ignore[no-any-return]
