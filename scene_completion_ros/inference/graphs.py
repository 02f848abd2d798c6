"""The graphs of a student: what the ONNX graph of each step takes and gives."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

from scene_completion_ros.errors import BundleError
from scene_completion_ros.inference import bundle as student_bundle
from scene_completion_ros.inference.cells import STRIDE
from scene_completion_ros.inference.ground_pixels import SEEN

IMAGE = "image"  # name of the input that takes an image, [1, 3, H, W] RGB 0..255
FEATURES = "features"  # name of the output of a field student

Ports: TypeAlias = list[tuple[str, list[int]]]  # names and shapes of inputs or outputs, in order, all float32


class StepGraph(NamedTuple):
    """One graph of a student."""

    path: Path
    onnx: bytes
    given: Ports
    made: Ports
    # Rows of these that a run takes and gives, the same of all; None for all of them. What a run of few rows computes
    # stays in the cache of a CPU.
    rows: int | None = None

    @property
    def parts(self) -> tuple[slice, ...]:
        """The rows of each run; those of the last one may be of the one before, too."""
        if self.rows is None:
            return (slice(None),)
        whole = self.made[0][1][0]
        starts = (*range(0, whole - self.rows, self.rows), whole - self.rows)
        return tuple(slice(start, start + self.rows) for start in starts)

    def ports_of_run(self) -> tuple[Ports, Ports]:
        """What a run takes and gives: the inputs and outputs of the file."""
        if self.rows is None:
            return self.given, self.made
        given, made = ([(name, [self.rows, *shape[1:]]) for name, shape in ports] for ports in (self.given, self.made))
        return given, made

    def check_ports(self, inputs: Ports, outputs: Ports, cure: str) -> None:
        """Raises BundleError where these are not the inputs and outputs of the file."""
        for kind, found, wanted in zip(("input", "output"), (inputs, outputs), self.ports_of_run(), strict=True):
            if found != wanted:
                raise BundleError(f"{kind} is {found} where {wanted} is needed", where=str(self.path), cure=cure)


def graphs_of(bundle: student_bundle.StudentBundle) -> Iterator[StepGraph]:
    """The graph that sees and, of a student that completes cells, the two that decode; each is read when it is due.

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
    pixels = [(name, [1, *size, count]) for name, count in zip(student_bundle.PIXEL_OUTPUTS, channels, strict=True)]
    local, logits = ("local", [cells, volume.looked_up]), [cells, STRIDE**3]
    shapes = [cells, volume.around], logits, [columns, 2]
    around, mean, ground = zip(student_bundle.COLUMN_OUTPUTS, shapes, strict=True)
    hidden, others = zip(student_bundle.CELL_OUTPUTS, (logits, [cells, volume.of_cell]), strict=True)
    pixels += [(student_bundle.PLANE, [1, 3, 2])] if volume.on_ground else []
    yield StepGraph(path, bundle.read_encoder(), [image, ("ground", [1, 2, *size])], pixels)
    given = [local, ("columns", [columns, volume.of_column])]
    given += [(student_bundle.SEEN_GROUND, [columns, SEEN])] if volume.on_ground else []
    made = [around, mean, ground, *([(student_bundle.PRIOR, [*volume.prior_shape])] if volume.prior else [])]
    yield StepGraph(path.with_name(student_bundle.DECODER), bundle.read_decoder(), given, made)
    given, rows = [around, local, mean], min(student_bundle.CELL_ROWS, cells)
    yield StepGraph(path.with_name(student_bundle.CELLS), bundle.read_cells(), given, [hidden, others], rows)
