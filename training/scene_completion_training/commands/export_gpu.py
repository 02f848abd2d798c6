"""Add encoders for GPUs to a student bundle: ONNX graphs that TensorRT builds engines of, in fp32, fp16 and int8.

The command compares each with the student in torch on real images. It compares feature map, volume and depth, and
density, occupied voxels and labels of the default grid. One that misses what is allowed of its precision makes the
command fail, and the bundle stays as it was. No GPU is needed. int8 is calibrated on images of the drives that the
student was trained on:

    scene-completion export-gpu BUNDLE --precision fp32 fp16 int8 --calibration-images drives/train_*
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from scene_completion_training.commands.arguments import add_paths

if TYPE_CHECKING:
    from scene_completion_training.gpu_export.parity import Parity


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion export-gpu``."""
    parser.add_argument("bundle", type=Path, help="student bundle; the encoders are added to it")
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=("fp32", "fp16", "int8"),
        default=["fp16"],
        help="which encoders to make (default: fp16); others that are there already stay",
    )
    meaning = "for int8: sequence folders, KITTI drives, bags or folders of images that the student was trained on"
    add_paths(parser, "--calibration-images", "PLACE", meaning)
    meaning = "what to compare on, places of the same kinds (default: the bundled drive)"
    add_paths(parser, "--parity-images", "PLACE", meaning)
    parser.add_argument("--images", type=int, default=8, metavar="N", help="how many to compare (default: %(default)s)")
    parser.add_argument(
        "--encoder-weights",
        default="",
        metavar="MODEL",
        help="of a student with a transformer: folder or hub name whose configuration is read (default: on the hub)",
    )
    parser.add_argument("--threads", type=int, help="threads of ONNX Runtime (default: all)")


def run(args: argparse.Namespace) -> int:
    """Make, measure, write."""
    from importlib import import_module

    from scene_completion_ros.bags.demo_drive import DEMO_DRIVE
    from scene_completion_ros.errors import ConfigurationError
    from scene_completion_ros.inference.shipped import own_student

    if args.images < 1:
        raise ConfigurationError(f"{args.images} is no number of images", where="--images", cure="Compare 1 or more")
    for package in ("onnx", "onnxruntime", "torch"):
        import_module(package)  # fails before the work
    from scene_completion_training.gpu_export.export import export_for_gpus

    bundle = export_for_gpus(
        own_student(args.bundle),
        tuple(dict.fromkeys(args.precision)),
        calibration=args.calibration_images,
        parity=args.parity_images or [DEMO_DRIVE],
        parity_images=args.images,
        threads=args.threads,
        encoder_weights=args.encoder_weights,
        report=_print,
    )
    print(f"{bundle.folder}: encoders for GPUs in {', '.join(bundle.gpu_precisions)}")
    return 0


def _print(precision: str, size: int, parity: Parity) -> None:
    volume = ""
    if parity.volume_relative > 0.0:
        volume = f"volume by {100 * parity.volume_relative:.3g} %, depth by {100 * parity.depth_relative:.3g} %; "
    print(
        f"{precision}: {size / 1e6:.1f} MB; map off by {100 * parity.features_relative:.3g} %; {volume}density by "
        f"{100 * parity.density_relative:.3g} %; {100 * parity.occupied_agreement:.3f} % of the decisions agree, IoU "
        f"of the occupied voxels {parity.occupied_iou:.4f}; {100 * parity.labels_agreement:.2f} % of the labels agree "
        f"({parity.images} images)",
        flush=True,
    )
