"""Score students, checkpoints and controls against what is true of recordings: what predicts x what is true x metrics.

`evaluate occupancy` scores bundles and checkpoints beside the controls that a completion has to beat. It does so on
towns of the street world (exact ground truth), on KITTI windows and on drives with LiDAR (LiDAR protocols).

`evaluate depth` scores their depth against the LiDAR of drives, on all frames or on those of a frame list. The Eigen
split of KITTI is evaluated in this way.

`evaluate semantics` clusters the points of feature fields on training recordings, and names the clusters by labelled
ones. It scores them on towns and KITTI windows as S4C and SceneDINO do, beside controls. Checkpoints of stage
`supervised`, which have learned from labels, are scored in the same way.

`evaluate features` asks whether the features of fields, and the tokens they were learned from, look the same from two
views.

`evaluate open-vocabulary` asks the voxels of agglomerated fields for words. It scores zero-shot labels on towns and
KITTI windows, given the true geometry and as completions, and the average precision of single words. Beside them it
scores the 2D teacher alone, the prior and linear probes. Several checkpoints of one method give mean and spread.

`evaluate runs` makes the tables of a document again from a list of evaluations.
"""

from __future__ import annotations

import argparse

from scene_completion_training.commands import (
    evaluate_depth,
    evaluate_features,
    evaluate_occupancy,
    evaluate_open_vocabulary,
    evaluate_runs,
    evaluate_semantics,
)

PROTOCOLS = {
    "occupancy": (evaluate_occupancy, "occupancy: exact ground truth and both LiDAR protocols"),
    "depth": (evaluate_depth, "depth against LiDAR on drives, as the Eigen split of KITTI"),
    "semantics": (evaluate_semantics, "unsupervised semantic completion, protocol of S4C"),
    "features": (evaluate_features, "whether features look the same from two views"),
    "runs": (evaluate_runs, "the tables of a document, from a list of evaluations"),
    "open-vocabulary": (evaluate_open_vocabulary, "zero-shot labels and words of voxels, linear probes"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion evaluate``."""
    protocols = parser.add_subparsers(dest="protocol", required=True, metavar="PROTOCOL")
    for name, (module, meaning) in PROTOCOLS.items():
        protocol = protocols.add_parser(name, help=meaning)
        module.add_arguments(protocol)
        protocol.set_defaults(run_protocol=module.run)


def run(args: argparse.Namespace) -> int:
    """Run the protocol that was asked for."""
    code: int = args.run_protocol(args)
    return code
