"""Makes the encoders for GPUs of a bundle, measures each, and adds them where all pass."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from scene_completion_ros.errors import BundleError
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.gpu_encoders import GpuEncoder
from scene_completion_ros.inference.gpu_graph_encoder import GpuGraph
from scene_completion_training.gpu_export.graph import gpu_graph
from scene_completion_training.gpu_export.parity import GATES, Gate, Parity, ParityCheck, Reference, canonical_images
from scene_completion_training.gpu_export.precisions import to_half

PARITY_IMAGES = 8  # images that every variant is compared on, in all


def export_for_gpus(
    bundle: StudentBundle,  # the student, saved; its folder is written
    precisions: Sequence[str],
    *,
    parity: Sequence[Path],  # places of the images that every variant is compared on
    gates: Mapping[str, Gate] = GATES,
    threads: int | None = None,
    encoder_weights: str = "",  # folder or hub name of a transformer trunk, see `Reference`
    # Called for every variant with its precision, bytes and parity, also where it fails.
    report: Callable[[str, int, Parity], None] = lambda *_: None,
) -> StudentBundle:
    """Adds encoders for GPUs to a bundle, all of them or none, and returns it as written.

    Raises ConfigurationError where the configuration of a transformer is not there; BundleError: a variant misses its
    gate, or cannot be made; the bundle stays as it was.
    """
    single = gpu_graph(bundle)
    reference = Reference(bundle, threads=threads, encoder_weights=encoder_weights)
    check = ParityCheck(bundle, canonical_images(parity, bundle.canonical, PARITY_IMAGES), reference.encode)
    made: dict[str, tuple[bytes, GpuEncoder]] = {}
    failures: list[str] = []
    for precision in precisions:
        model = single if precision == "fp32" else to_half(single)
        graph: bytes = model.SerializeToString(deterministic=True)
        measured = check(GpuGraph(graph, f"{precision} of {bundle.folder}", threads=threads).encode)
        report(precision, len(graph), measured)
        failures += [f"{precision}: {failure}" for failure in measured.failures(gates[precision])]
        numbers = {name: float(value) for name, value in dataclasses.asdict(measured).items()}
        made[precision] = (graph, GpuEncoder(precision, "", {}, numbers, reference.name))
    if failures:
        cure = "The bundle stays as it was. Leave this precision out."
        raise BundleError("; ".join(failures), where=f"parity with {reference.name}", cure=cure)
    return bundle.add_gpu_encoders(made)
