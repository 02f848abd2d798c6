"""The graphs of a student: what the ONNX graph of each step takes and gives."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

from scene_completion_ros.inference.bundle import CELL_OUTPUTS, DECODER, PIXEL_OUTPUTS, StudentBundle
from scene_completion_ros.inference.cells import STRIDE

IMAGE = "image"  # name of the input that takes an image, [1, 3, H, W] RGB 0..255
FEATURES = "features"  # name of the output of a field student

Ports: TypeAlias = list[tuple[str, list[int]]]  # names and shapes of inputs or outputs, in order, all float32


class StepGraph(NamedTuple):
    """One graph of a student."""

    path: Path
    onnx: bytes
    given: Ports
    made: Ports


def graphs_of(bundle: StudentBundle) -> Iterator[StepGraph]:
    """The graph that sees and, of a student that completes cells, the one that decodes; each is read when it is due.

    Raises BundleError where a file was removed or replaced since the bundle was loaded.
    """
    camera, path, volume = bundle.canonical, bundle.encoder_path, bundle.volume
    image = IMAGE, [1, 3, camera.height, camera.width]
    if volume is None:
        features = FEATURES, [1, *bundle.feature_size, bundle.field_head.channels]
        yield StepGraph(path, bundle.read_encoder(), [image], [features])
        return
    size = [camera.height // 2, camera.width // 2]
    columns = volume.cells[0] * volume.cells[1]
    cells = columns * volume.cells[2]
    channels = 2, volume.classes + 1, volume.context
    pixels = [(name, [1, *size, count]) for name, count in zip(PIXEL_OUTPUTS, channels, strict=True)]
    shapes = [cells, STRIDE**3], [cells, volume.of_cell], [columns, 2]
    given = [("local", [cells, volume.looked_up]), ("columns", [columns, volume.of_column])]
    yield StepGraph(path, bundle.read_encoder(), [image, ("ground", [1, 2, *size])], pixels)
    made = list(zip(CELL_OUTPUTS, shapes, strict=True))
    yield StepGraph(path.with_name(DECODER), bundle.read_decoder(), given, made)
