"""Name a few voxels, and get a student that calls all voxels so.

First look. DIR/index.html shows what the student completes; choose a class or type a new one, click voxels, save the
file:

    scene-completion name-voxels --data drive_bag --page DIR

Then give the file back. BUNDLE is the student with these classes in place of its own; the node publishes them like any
other. With --page, the page shows what it calls the voxels now, and takes further names:

    scene-completion name-voxels --data drive_bag --names named_voxels.json --output BUNDLE --page DIR

Ten voxels a class are a good beginning. What tells classes apart are the student's label units, or with --checkpoint a
network of stage masked_scene. A file by hand is as good as one of the page:

    {"schema": 1, "classes": {"kerb": {"colour": [200, 60, 60]}, "road": {}},
     "voxels": [{"recording": "drive", "frame": 12, "index": [40, 120, 9], "class": "kerb"}, ...]}
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scene_completion_ros.commands.paths import BUNDLE, REPORT
from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.commands.arguments import add_paths, say_dropped

if TYPE_CHECKING:
    from scene_completion_ros.inference.bundle import StudentBundle
    from scene_completion_ros.sequences.posed_sequence import PosedSequence
    from scene_completion_training.clustering.named_voxels import NamedVoxels
    from scene_completion_training.clustering.voxel_naming import FeaturesOfRows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion name-voxels``."""
    add_paths(parser, "--data", "PATH", "recordings: bags, sequences, or folders of KITTI", required=True)
    parser.add_argument(
        "--bundle",
        type=Path,
        metavar="DIR",
        help="folder, name or hf:owner/name@revision of the student (default: kitti_student)",
    )
    parser.add_argument("--names", type=Path, metavar="FILE", help="named voxels; then --output takes the student")
    parser.add_argument("--output", type=BUNDLE, metavar="BUNDLE", help="folder for the student with the named classes")
    parser.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="network of stage masked_scene that tells voxels apart"
    )
    parser.add_argument("--page", type=REPORT, metavar="DIR", help="folder for the page on which voxels are named")
    parser.add_argument("--every", type=int, default=5, metavar="N", help="every N-th frame (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the voxels that are drawn (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Fit and write the student, or show the voxels of the one that there is."""
    from scene_completion_ros.inference.shipped import open_student
    from scene_completion_training.clustering.named_voxels import NamedVoxels
    from scene_completion_training.clustering.voxel_naming import check_student

    _check(args)
    named = NamedVoxels.read(args.names) if args.names else None
    bundle = open_student(args.bundle)
    check_student(bundle, args.output)
    recordings = _opened(args.data)
    if named is not None:
        named.check_recordings({name: len(sequence) for name, sequence in recordings.items()})
        bundle = _named_student(args, bundle, named, recordings)
    if args.page:
        _write_page(args, bundle, named, recordings)
    return 0


def _opened(paths: list[Path]) -> dict[str, PosedSequence]:
    """Recordings by name, without anything but images: what is named is what the student says of them."""
    import dataclasses

    from scene_completion_ros.sequences.opening import open_recording

    found: dict[str, PosedSequence] = {}
    for path in paths:
        sequence = open_recording(path)
        if sequence.name in found:
            raise ConfigurationError(
                f"two recordings are called {sequence.name}", where="--data", cure="Name them in two runs"
            )
        frames = [dataclasses.replace(frame, assets={}) for frame in sequence.frames]
        found[sequence.name] = dataclasses.replace(sequence, frames=frames)
    return found


def _named_student(
    args: argparse.Namespace, bundle: StudentBundle, named: NamedVoxels, recordings: dict[str, PosedSequence]
) -> StudentBundle:
    from scene_completion_training.clustering.voxel_naming import VoxelNamer, write_named
    from scene_completion_training.masked_scene.scenes import SceneMaker

    namer = VoxelNamer(named, _features(args, bundle), args.seed)
    for name, sequence in recordings.items():
        maker = SceneMaker(sequence, "predicted", student=bundle, units=True)
        for frame in sorted(named.frames(name).union(range(0, len(sequence), args.every))):
            namer.look(name, frame, maker.scene(frame))
    found = namer.head()
    features = f"network of {args.checkpoint.name}" if args.checkpoint else "label units"
    written = write_named(bundle, found, named, args.output, features=features)
    say_dropped(bundle, written)
    print(
        f"{args.output}: {found.voxels} named voxels of {len(named.class_names)} classes; "
        f"{100.0 * found.found_again:.0f} % of them are found again where a fifth is left out"
    )
    if args.checkpoint:
        print(f"the student's labels agree with the network's on {100.0 * found.agreement:.0f} % of the voxels")
    return written


def _features(args: argparse.Namespace, bundle: StudentBundle) -> FeaturesOfRows | None:
    """What a network says of voxels, all levels side by side; None for the student's units."""
    if args.checkpoint is None:
        return None
    import numpy as np

    from scene_completion_training.evaluation.voxel_features import NetworkFeatures

    network = NetworkFeatures.open(args.checkpoint, args.checkpoint.name, bundle.grid.voxel_size)
    return lambda scene, rows: np.concatenate(network.features_of(scene, rows), axis=1)


def _write_page(
    args: argparse.Namespace, bundle: StudentBundle, named: NamedVoxels | None, recordings: dict[str, PosedSequence]
) -> None:
    import dataclasses

    import numpy as np

    from scene_completion_ros.inference.completer import Completer
    from scene_completion_ros.report.writer import ReportWriter
    from scene_completion_ros.sequences.rigs import reference_camera

    classes = zip(bundle.class_names, bundle.class_colours, strict=True)
    content: dict[str, Any] = {"classes": {name: {"colour": list(colour)} for name, colour in classes}, "voxels": []}
    if named is not None:
        content = named.content()
    title = f"{', '.join(recordings)}: voxels of {bundle.name}"
    with ReportWriter(args.page, title, bundle.class_names, bundle.class_colours, naming=content) as report:
        for name, sequence in recordings.items():
            camera = reference_camera(sequence)
            completer = Completer(bundle, sequence.cameras[camera])
            asked = named.frames(name) if named else set()
            for frame in sorted(asked.union(range(0, len(sequence), args.every))):
                image = sequence.image(frame, camera)
                completion = completer.complete(image, sequence.frames[frame].stamp_ns)
                voxels = completion.voxels
                # Those that the fit looks at as well.
                shown = np.asarray(sequence.cameras[camera].project(voxels.points_camera())[1])
                parts = ("index", "probability", "label", "confidence")
                kept = {part: getattr(voxels, part)[shown] for part in parts}
                report.add_frame(
                    dataclasses.replace(voxels, **kept),
                    image,
                    completion.shown_depth,
                    camera=sequence.cameras[camera],
                    timings_ms=completion.timings_ms,
                    source=(name, frame),
                )
    print(f"{report.index}: open it, choose a class and click voxels; then give the saved file with --names")


def _check(args: argparse.Namespace) -> None:
    if args.names is None and args.page is None:
        raise ConfigurationError(
            "nothing to do", where="name-voxels", cure="Give --page to name voxels, or --names and --output"
        )
    if (args.names is None) != (args.output is None) or (args.checkpoint and args.names is None):
        raise ConfigurationError(
            "--names, and no place for the student, or the other way round",
            where="--names, --output, --checkpoint",
            cure="Give --names and --output together, --checkpoint only with them",
        )
    if args.every < 1:
        raise ConfigurationError(f"{args.every} is no step", where="--every", cure="Take every frame, 1, or fewer")
