"""Score students, checkpoints and controls against what is true of recordings: what predicts x what is true x metrics.

`evaluate geometry` scores bundles and checkpoints beside the controls that a completion has to beat. It does so on
towns of the street world (exact ground truth), on KITTI windows and on drives with LiDAR (LiDAR protocols). With
--depth it scores their depth against the LiDAR of drives, on all frames or on those of a frame list: so the Eigen split
of KITTI is evaluated.

`evaluate semantics` clusters the points of feature fields on training recordings, and names the clusters by labelled
ones. It scores them on towns and KITTI windows as S4C and SceneDINO do, beside controls. Checkpoints of stage
`semantic_field`, which have learned from labels, are scored in the same way. With --bank it asks the voxels of
agglomerated fields for words: zero-shot labels, given the true geometry and as completions, and the average precision
of single words, beside the 2D teacher alone and the prior. Several checkpoints of one method give mean and spread. With
--sscbench it scores checkpoints by their own density on SSCBench-KITTI-360.

`evaluate segmentation` labels the pixels of KITTI-360, Cityscapes and BDD100K by the features of fields, rendered into
the image: by clusters that validation images name, and by linear probes that training images teach.

`evaluate fusion` drives through towns with bundles, and with the truth in place of a student, and compares what one
image says with what the node's fused map says of that moment, ghosts of what moved away included.

`evaluate points` gives points of rooms classes by sentences, from the pixels that show them and from networks that
several 2D models were distilled into (CUA-O3D), or by linear probes.

`evaluate point-features` probes off-the-shelf features of points, level by level and with few labels, by linear layers
and by nearest neighbours. It also has them find things (--instances) and what sentences mean (--phrases).

`evaluate views` renders what another camera sees from what checkpoints saw in one image, and scores it by PSNR, SSIM
and LPIPS, as Behind the Scenes is scored. With --consistency it compares features and classes from view to view.
"""

import argparse

from scene_completion_ros.commands.arguments import Output
from scene_completion_training.commands import (
    evaluate_fusion,
    evaluate_geometry,
    evaluate_point_features,
    evaluate_points,
    evaluate_segmentation,
    evaluate_semantics,
    evaluate_views,
)

PROTOCOLS = {
    "geometry": (evaluate_geometry, "occupancy: exact ground truth and both LiDAR protocols; or depth against LiDAR"),
    "semantics": (evaluate_semantics, "semantic completion, protocol of S4C; or zero-shot labels and words of voxels"),
    "segmentation": (evaluate_segmentation, "classes of pixels by rendered features: clusters and linear probes"),
    "fusion": (evaluate_fusion, "what the fused map makes of drives: occupancy, calibration, and ghosts of what moved"),
    "points": (evaluate_points, "classes of points of rooms: zero-shot by pixels, network and both; linear probes"),
    "point-features": (evaluate_point_features, "classes, things and sentences by off-the-shelf features of points"),
    "views": (evaluate_views, "novel views by PSNR, SSIM and LPIPS; or features and classes from view to view"),
}


RESULTS = Output(("results.json", "results.md", "probe_*.safetensors"))  # the last are of `segmentation`


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion evaluate``."""
    protocols = parser.add_subparsers(dest="protocol", required=True, metavar="PROTOCOL")
    for name, (module, meaning) in PROTOCOLS.items():
        protocol = protocols.add_parser(name, help=meaning)
        module.add_arguments(protocol)
        protocol.add_argument("--output", type=RESULTS, required=True, metavar="DIR", help="takes the results")
        protocol.set_defaults(run_protocol=module.run)


def run(args: argparse.Namespace) -> int:
    """Run the protocol that was asked for."""
    return args.run_protocol(args)  # type: ignore[no-any-return]
