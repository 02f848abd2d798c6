"""Turns a training checkpoint into a student bundle: folded ONNX encoder, head and unfolded weights.

Of stage `completion` it is two graphs, from the image to predictions for its pixels, and from there to the voxels.
"""

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_ros.errors import BundleError, ConfigurationError, GpuError
from scene_completion_ros.geometry import Camera
from scene_completion_ros.inference import bundle as student_bundle
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.cells import STRIDE
from scene_completion_ros.inference.encoder import cpu_has_bf16, cpu_networks
from scene_completion_ros.inference.gpu.parity import BF16, measure_voxels
from scene_completion_ros.inference.ground_pixels import SEEN
from scene_completion_ros.inference.head import HeadWeights
from scene_completion_ros.inference.text_bank import FeatureSpace, TextBank, feature_space_for
from scene_completion_training import clustering
from scene_completion_training.arrays import Floats
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.networks.agglomerated_field import AgglomeratedField
from scene_completion_training.networks.density_field import DensityField, DistanceCode, link_calibration, part_of
from scene_completion_training.networks.feature_field import FeatureField
from scene_completion_training.networks.pixel_head import no_ground
from scene_completion_training.networks.scene_decoder import AT, SceneDecoder
from scene_completion_training.networks.trunk import DepthAnythingTrunk
from scene_completion_training.stages.completion import SceneField
from scene_completion_training.stages.pixels import learned_weights, trained_trunk
from scene_completion_training.viewpoint import Viewpoint

# Those of clusters for streets, so that all students of streets share one palette, and those of ScanNet for rooms.
COLOURS: Mapping[str, tuple[int, int, int]] = clustering.CLASS_COLOURS | {
    "wall": (174, 199, 232),
    "floor": (152, 223, 138), "cabinet": (31, 119, 180), "bed": (255, 187, 120), "chair": (188, 189, 34),
    "sofa": (140, 86, 75), "table": (255, 152, 150), "door": (214, 39, 40), "window": (197, 176, 213),
    "bookshelf": (148, 103, 189), "picture": (196, 156, 148), "counter": (23, 190, 207), "desk": (247, 182, 210),
    "curtain": (219, 219, 141), "refrigerator": (255, 127, 14), "shower curtain": (158, 218, 229),
    "toilet": (44, 160, 44), "sink": (112, 128, 144), "bathtub": (227, 119, 194), "otherfurniture": (82, 84, 163),
    "ceiling": (210, 210, 210),
}  # fmt: skip


_HELD = "field.spatial.held"  # counts of voxels, more of them than a half can say


class ExportedPixels(nn.Module):
    """From an image, and what is known of the ground, to what its pixels show."""

    def __init__(self, field: SceneField, trunk: DepthAnythingTrunk) -> None:
        super().__init__()
        self.trunk, self.pixels, self.reduce = trunk, field.pixels, field.spatial.reduce

    def forward(self, image: Tensor, ground: Tensor) -> tuple[Tensor, ...]:
        """See `PIXEL_OUTPUTS` and `PLANE`."""
        view = self.pixels(*self.trunk(image), ground)
        classes = view.classes.softmax(dim=1)
        maps = torch.cat([view.code, view.deviation], dim=1), classes, self.reduce(classes)
        first, second, third = (part.permute(0, 2, 3, 1) for part in maps)
        return first, second, third, view.plane


class _Upwards(nn.Module):
    """A block of the U-Net upwards, without the taps that nearest neighbours share.

    Each place of the coarser map is four of the finer one, so a window of 3×3 meets 2×2 of the coarser map: that is a
    transposed convolution with a stride of two.
    """

    def __init__(self, block: nn.Sequential) -> None:
        super().__init__()
        both, self.norm, self.activation = block
        assert isinstance(both, nn.Conv2d)
        coarse = both.in_channels - both.out_channels
        self.coarser = nn.ConvTranspose2d(coarse, both.out_channels, 4, 2, 1, bias=False)
        weight = both.weight.detach()[:, :coarse]
        for axis in (2, 3):
            first, middle, last = weight.unbind(axis)
            weight = torch.stack([last, middle + last, first + middle, first], dim=axis)
        self.coarser.weight = nn.Parameter(weight.transpose(0, 1).contiguous())
        self.finer = nn.Conv2d(both.out_channels, both.out_channels, 3, padding=1)
        self.finer.weight, self.finer.bias = nn.Parameter(both.weight.detach()[:, coarse:].clone()), both.bias

    def forward(self, x: Tensor, finer: Tensor) -> Tensor:
        """From maps [B, C, X, Y] and [B, C', 2 X, 2 Y] to one [B, C', 2 X, 2 Y]."""
        return self.activation(self.norm(self.finer(finer) + self.coarser(x)))  # type: ignore[no-any-return]


class ExportedColumns(nn.Module):
    """From what cells and columns are given to what is around each cell, in the order of the kernels: x y z."""

    def __init__(self, decoder: SceneDecoder) -> None:
        super().__init__()
        self.decoder = decoder
        self.prior: Tensor | None
        self.register_buffer("prior", decoder.prior_rows() if decoder.prior > 0.0 else None)
        heights = decoder.cells[2]
        enter, bias = _of(decoder.enter[0])
        looked_up = (enter.shape[1] - decoder.of_column) // heights - 1
        local = enter[:, : looked_up * heights].reshape(-1, looked_up, heights).transpose(1, 2).flatten(1)
        self.enter_local = _linear(local, None)
        self.enter = _linear(enter[:, looked_up * heights :], bias)
        around = (
            part.reshape(-1, heights, *part.shape[1:]).transpose(0, 1).flatten(0, 1) for part in _of(decoder.context)
        )
        self.around = _linear(*around)
        doubled = all(count % 2 ** len(decoder.up) == 0 for count in decoder.cells[:2])
        self.up = nn.ModuleList(map(_Upwards, decoder.up)) if doubled else None  # type: ignore[arg-type]

    def forward(self, local: Tensor, columns: Tensor, seen_ground: Tensor | None = None) -> tuple[Tensor, ...]:
        """See `COLUMN_OUTPUTS` and `PRIOR`."""
        count_x, count_y, heights = self.decoder.cells
        count = count_x * count_y
        below = columns[:, -1:] if seen_ground is None else seen_ground
        columns = columns if seen_ground is None else torch.cat([columns, seen_ground], dim=1)
        entered = (self.enter_local(local.reshape(count, -1)) + self.enter(columns)).relu()
        x = self.decoder.enter[2](entered.reshape(1, count_x, count_y, -1).permute(0, 3, 1, 2))
        x = self.decoder.with_neighbours(x, self.up)
        around = self.around(x.permute(0, 2, 3, 1).reshape(count, -1)).reshape(count * heights, -1)
        mean = self.decoder.mean_of_cells().reshape(STRIDE**3, heights, count).permute(2, 1, 0).reshape(-1, STRIDE**3)
        below = below.T.reshape(1, -1, count_x, count_y)
        ground = self.decoder.ground_of(self.decoder.ground(x), below)
        prior = () if self.prior is None else (self.prior.clone(),)
        return around, mean, ground.permute(0, 2, 3, 1).reshape(-1, 2), *prior


class ExportedCells(nn.Module):
    """From cells and what is around them to what is predicted of each: products of matrices, for any cells in a row."""

    def __init__(self, decoder: SceneDecoder) -> None:
        super().__init__()
        occupied, bias = _of(decoder.occupied)
        self.enter, self.mix = _linear(*_of(decoder.mix[0])), _linear(*_of(decoder.mix[2]))
        self.hidden = _linear(occupied[: STRIDE**3], bias[: STRIDE**3])
        others = (occupied[STRIDE**3 :], bias[STRIDE**3 :]), _of(decoder.named), _of(decoder.trust)
        self.others = _linear(*(torch.cat(parts) for parts in zip(*others, strict=True)))
        self.hides, self.at = decoder.sees_ground, decoder.reduce.out_channels + AT
        self.named: Tensor
        named = torch.arange(self.others.out_features) - (STRIDE**3 + 1)
        self.register_buffer("named", ((named >= 0) & (named < decoder.classes)).float())

    def forward(self, around: Tensor, local: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """See `CELL_OUTPUTS`."""
        mixed = self.mix(self.enter(torch.cat([around, local], dim=1)).relu()).relu()
        others = self.others(mixed)
        if self.hides:
            others = others * (1.0 - local[:, self.at : self.at + 1] * self.named)
        return self.hidden(mixed) + mean, others


def _of(convolution: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight [C', C] and bias [C'] of a convolution over single places."""
    assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
    return convolution.weight[..., 0, 0], convolution.bias


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer


def export_scene(file: Path, folder: Path, *, name: str, licence: str, provenance: Mapping[str, Any]) -> StudentBundle:
    """Exports a checkpoint of stage `completion` and what its trunk has of its own; see `export_bundle`."""
    stored = Checkpoint.read(file)
    record, field, trunk = stored.record, stored.field_of(SceneField), trained_trunk(stored)
    # Its logit, before the softplus of density, is that of the probability.
    itself = {"log_scale": torch.zeros(()), "offset": torch.zeros(())}
    made = {name: record[name] for name in ("commit", "images_sha256", "frames") if record.get(name)}
    bundle = _described(
        stored,
        {**provenance, "training": made},
        name=name,
        licence=licence,
        head=None,
        volume=field.volume,
        height_range=record.get("height_range") and tuple(record["height_range"]),
        pitch_range=tuple(record.get("pitch_range", stored.viewpoint.pitch_range)),
        class_names=field.names,
        class_colours=tuple(COLOURS[label] for label in field.names),
        calibration=link_calibration(itself, stored.viewpoint.volume.voxel_size),
    )
    weights = {f"field.{key}": value for key, value in field.state_dict().items()}
    weights |= {f"trunk.{key}": trunk.state_dict()[key] for key in learned_weights(trunk)}
    halves = {key: value.detach().numpy().astype(np.float16) for key, value in weights.items() if key != _HELD}
    stored_weights = halves | {_HELD: weights[_HELD].numpy()}
    ground = no_ground(stored.viewpoint, 1)
    image = {"image": torch.zeros(1, 3, field.camera.height, field.camera.width), "ground": ground}
    outputs = [*student_bundle.PIXEL_OUTPUTS, student_bundle.PLANE]
    pixels = graph_of(ExportedPixels(field, trunk), image, outputs, int8=True)
    return bundle.save(folder, pixels, stored_weights, decoder_onnx(field))


def export_again(student: StudentBundle, folder: Path) -> StudentBundle:
    """Writes a student as this version does, of the weights and the encoder in its bundle.

    Raises BundleError where the bundle has no weights, or completes cells and they are not those of its stage.
    """
    weights = student.load_weights()
    if student.volume is None:
        return student.save(folder, student.read_encoder(), weights)
    state = part_of({name: torch.from_numpy(value.astype(np.float32)) for name, value in weights.items()}, "field.")
    try:
        field = SceneField.rebuilt(state, Viewpoint.of_bundle(student))
        field.load_state_dict(state)
    except (KeyError, RuntimeError) as error:
        what, cure = "are not those of stage completion as this version has it", "Export its checkpoint"
        raise BundleError(what, where=f"bundle {student.name}: weights", cure=cure) from error
    bundle = dataclasses.replace(student, volume=field.volume)
    return bundle.save(folder, student.read_encoder(), weights, decoder_onnx(field)).with_vocabulary(
        student.feature_spaces, student.text_bank()
    )


def measured_in_bf16(bundle: StudentBundle) -> tuple[StudentBundle, str]:
    """The bundle, with what bfloat16 is off on the images of the gate if it passes; and what was found, in words."""
    if not cpu_has_bf16():
        return bundle, "not measured: this CPU, or the lack of OpenVINO, does not allow it"
    exact, lower = (cpu_networks(bundle, name) for name in ("openvino", "openvino_bf16"))
    numbers = measure_voxels(bundle, lower, exact)
    try:
        in_words = "; ".join(BF16.require(numbers))
    except GpuError as error:
        return bundle, str(error)
    return bundle.with_bf16(numbers), in_words


def decoder_onnx(field: SceneField) -> tuple[bytes, bytes]:
    """The graphs that decode: what is around cells, and what is predicted of these, see `COLUMN_OUTPUTS`."""
    volume = field.volume
    columns = volume.cells[0] * volume.cells[1]
    cells = columns * volume.cells[2]
    local = {"local": torch.zeros(cells, volume.looked_up)}
    given = {**local, "columns": torch.zeros(columns, volume.of_column)}
    if volume.on_ground:
        given[student_bundle.SEEN_GROUND] = torch.zeros(columns, SEEN)
    made = [*student_bundle.COLUMN_OUTPUTS, *([student_bundle.PRIOR] if volume.prior else [])]
    around = graph_of(ExportedColumns(field.spatial), given, made)
    given = {"around": torch.zeros(cells, volume.around), **local, "mean": torch.zeros(cells, STRIDE**3)}
    given = {name: values[: student_bundle.CELL_ROWS] for name, values in given.items()}
    return around, graph_of(ExportedCells(field.spatial), given, list(student_bundle.CELL_OUTPUTS))


def space_of_classes(bank: TextBank, names: Sequence[str]) -> FeatureSpace:
    """The space of a text encoder, of the probabilities of classes of these names.

    A place of one class lies where what the bank calls that class lies; of several, at their mean. Words find bodies,
    and so what the student completed behind them. Unknown classes stay at the origin; a ConfigurationError if all are.
    """
    phrases = {known.name: known.phrases for known in bank.classes if known.name in names}
    if not phrases:
        what = "names no class of the student"
        raise ConfigurationError(what, where="--vocabulary", cure=f"Name some of {', '.join(names)} in it")
    vocabulary = bank.vocabulary(phrases, pooling="mean")
    weight = np.zeros((bank.dimension, len(names)), np.float32)
    weight[:, [names.index(name) for name in vocabulary.names]] = vocabulary.rows[: len(vocabulary.names)].T
    encoder = (bank.text_encoder, bank.text_encoder_sha256)
    return FeatureSpace("text", weight, np.zeros(bank.dimension, np.float32), *encoder)


OPSET = 18
LARGE = 20_000  # numbers from which a weight is stored as int8 where that is wanted
# Settings that name files of the machine that trained.
_PLACES = ("output", "start_from", "pixels_from", "teacher", "features_from", "encoder_weights")


class FoldedEncoder(nn.Module):
    """Encoder with the head's feature weights folded into its last convolution, channels last; features come last."""

    def __init__(self, field: DensityField | FeatureField, camera: Camera) -> None:
        super().__init__()
        density = field.density if isinstance(field, FeatureField) else field
        self.trunk = density.encoder.trunk
        self.decoder = density.encoder.decoder
        size = density.encoder.map_size((camera.height, camera.width))
        self.prior = functional.interpolate(density.encoder.prior, size, mode="bilinear")
        self.project = fold(density.encoder.projection, density.feature_layer)
        self.features: nn.Sequential | None = None
        self.surface: nn.Conv2d | None = None
        if isinstance(field, AgglomeratedField):
            depth = nn.Conv2d(density.encoder.channels, len(field.surface_layer.weight), 1, bias=False)
            depth.weight.data.zero_()[:, :1] = field.surface_layer.weight.data  # it reads channel 0 alone
            self.surface = fold(density.encoder.projection, depth)
        self.shared = isinstance(field, FeatureField) and field.shared  # the units of features are those of the density
        if isinstance(field, FeatureField) and not field.shared:
            folded = fold(field.project, field.feature_layer)
            self.features = nn.Sequential(field.decoder, field.normalise, folded)

    def forward(self, image: Tensor) -> Tensor:
        """Returns pre-activations [1, h, w, C] of an RGB image [1, 3, H, W] in 0..255."""
        maps = self.trunk(image)
        decoded = torch.cat([self.decoder(maps), self.prior], dim=1)
        out: Tensor = self.project(decoded)
        if self.shared:
            out = torch.cat([out, out], dim=1)
        if self.features is not None:
            units = self.features(maps)
            out = torch.cat([out, units if self.surface is None else units + self.surface(decoded)], dim=1)
        return out.permute(0, 2, 3, 1)


def fold(first: nn.Conv2d, second: nn.Conv2d) -> nn.Conv2d:
    """Returns the 1×1 convolution that equals `second(first(x))` of two 1×1 convolutions."""
    folded = nn.Conv2d(first.in_channels, second.out_channels, 1)
    with torch.no_grad():
        weight = second.weight[:, :, 0, 0] @ first.weight[:, :, 0, 0]
        bias = second.weight[:, :, 0, 0] @ (first.bias if first.bias is not None else torch.zeros(first.out_channels))
        folded.weight.copy_(weight[:, :, None, None])
        if folded.bias is not None:
            folded.bias.copy_(bias if second.bias is None else bias + second.bias)
    return folded


def encoder_onnx(field: DensityField | FeatureField, camera: Camera) -> bytes:
    """Exports the folded encoder as ONNX for a canonical camera."""
    image = {"image": torch.zeros(1, 3, camera.height, camera.width)}
    return graph_of(FoldedEncoder(field, camera), image, ["features"])


def graph_of(module: nn.Module, inputs: Mapping[str, Tensor], outputs: list[str], *, int8: bool = False) -> bytes:
    """A module as ONNX for inputs of these shapes; weights are fp16, with `int8` the large ones int8 by channel."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "encoder.onnx"
        # The tracing exporter: a graph of plain convolutions without an extra dependency.
        options: dict[str, Any] = {"input_names": list(inputs), "output_names": outputs, "opset_version": OPSET}
        torch.onnx.export(module.eval(), tuple(inputs.values()), file, **options, dynamo=False)
        model = onnx.load(file)
    if int8:
        _store_int8(model.graph)
    _store_half(model.graph)
    onnx.checker.check_model(model)
    return model.SerializeToString()  # type: ignore[no-any-return]


def _store_int8(graph: onnx.GraphProto) -> None:
    """Replaces large weights of products and convolutions by rounded ones and a scale for each output channel."""
    channels = {"Conv": 0, "MatMul": 1}  # the axis of a weight's output channels
    axes = {node.input[1]: channels[node.op_type] for node in graph.node if node.op_type in channels}
    nodes = []
    for tensor in list(graph.initializer):
        if tensor.name not in axes or np.prod(tensor.dims) < LARGE:
            continue
        values, axis = numpy_helper.to_array(tensor), axes[tensor.name]
        others = tuple(number for number in range(values.ndim) if number != axis)
        scale = np.maximum(np.abs(values).max(axis=others, keepdims=True), np.finfo(np.float32).tiny) / np.float32(
            127.0
        )
        stored = {"int8": np.rint(values / scale).astype(np.int8), "scale": scale.ravel()}
        graph.initializer.remove(tensor)
        graph.initializer.extend(
            numpy_helper.from_array(array, f"{tensor.name}.{key}") for key, array in stored.items()
        )
        names = [f"{tensor.name}.{key}" for key in stored]
        nodes.append(helper.make_node("DequantizeLinear", names, [tensor.name], axis=axis))
    nodes += graph.node
    del graph.node[:]
    graph.node.extend(nodes)


def _store_half(graph: onnx.GraphProto) -> None:
    """Replaces every fp32 initializer of more than 64 values by its fp16 version and a cast."""
    casts = []
    for tensor in list(graph.initializer):
        if tensor.data_type != TensorProto.FLOAT or int(np.prod(tensor.dims)) <= 64:
            continue
        name = tensor.name
        half = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), f"{name}.half")
        graph.initializer.remove(tensor)
        graph.initializer.append(half)
        casts.append(helper.make_node("Cast", [half.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def head_weights(field: DensityField) -> HeadWeights:
    """Takes the head of a field; a `BundleError` for one that robots cannot compute."""
    if field.blocks or isinstance(field.spec, DistanceCode):
        what = "residual blocks, or a point code by distance, which robots do not compute"
        raise BundleError(what, where="head", cure="Train with blocks=0 code_mode=z, or distil it into such a student")
    positions, density = field.position_layer, field.density_layer
    return HeadWeights(*map(_array, (positions.weight, positions.bias, density.weight[0], density.bias)))


def _array(tensor: Tensor) -> Floats:
    return np.ascontiguousarray(tensor.detach().numpy(), np.float32)


def without_places(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without the folders of the machine it ran on; the sources keep their names."""
    kept = {name: value for name, value in configuration.items() if name not in _PLACES}
    if "features" in kept:
        kept["features"] = {name: value for name, value in kept["features"].items() if name != "targets"}
        kept["features"]["model"] = Path(kept["features"].get("model", "")).name
    if "agglomeration" in kept:
        teachers, gone = kept["agglomeration"]["teachers"], ("targets", "text_bank")
        teachers = [{k: v for k, v in one.items() if k not in gone} for one in teachers]
        kept["agglomeration"] = {**kept["agglomeration"], "teachers": teachers}
    if "data" in kept:
        kept["data"] = {name: value for name, value in kept["data"].items() if name not in ("root", "cache", "pack")}
        for group in kept["data"].keys() & {"sources", "validation"}:
            kept["data"][group] = [dict(one) for one in kept["data"][group]]
            for one in kept["data"][group]:
                if Path(one["folder"]).is_absolute():  # of a place on a machine, the last three parts
                    one["folder"] = str(Path(*Path(one["folder"]).parts[-3:]))
    return kept


def export_bundle(
    checkpoint: Path, folder: Path, *, name: str, licence: str, provenance: Mapping[str, Any]
) -> StudentBundle:
    """Exports a checkpoint as a bundle, calibrated by the occupancy that the training learned.

    A training that ended with images of half the size makes a student that takes such: a quarter of the pixels.
    `licence`: of the weights, which follows from the training data; `provenance`: what it was trained on and how.
    """
    stored = Checkpoint.read(checkpoint)
    field, camera = stored.density_field(), stored.camera
    size = field.encoder.map_size((camera.height, camera.width))
    bundle = _described(stored, provenance, name=name, licence=licence, head=head_weights(field), feature_size=size)
    weights = {key: value.detach().numpy().astype(np.float16) for key, value in field.state_dict().items()}
    return bundle.save(folder, encoder_onnx(field, camera), weights)


def _described(stored: Checkpoint, provenance: Mapping[str, Any], **given: Any) -> StudentBundle:
    """The bundle of a checkpoint, not yet saved; `given`: fields that do not follow from it, or not as usual."""
    camera, viewpoint, code = stored.camera, stored.viewpoint, stored.viewpoint.volume.point_code
    if not stored.record.get("metric", True):
        cure = "Train on recordings whose poses are in metres"
        raise BundleError("its training knew no metres, which robots need", where=str(stored.file), cure=cure)
    low, high = stored.record.get("focal_range", (camera.fx / camera.width,) * 2)
    about = {**provenance, "configuration": without_places(stored.configuration)}
    about |= {"calibration": {"fitted_on": "training voxels" if stored.link else "nothing"}}
    usual: dict[str, Any] = {
        "canonical": camera,
        "point_code": code,
        "height_above_ground": viewpoint.height_above_ground,
        "pitch_range": viewpoint.pitch_range,
        "grid": viewpoint.volume.grid,
        "depth_range": (code.near, code.far),
        "focal_range": (low * 0.99, high * 1.01),
        "calibration": link_calibration(stored.link, viewpoint.volume.voxel_size),
        "provenance": about,
    }
    return StudentBundle(**(usual | given))


def export_labelled(
    checkpoint: Path, student: StudentBundle, classes: Path, folder: Path, *, name: str, licence: str
) -> tuple[StudentBundle, float]:
    """Exports a student with labels: the density, calibration and camera that it has, and the classes of its features.

    `checkpoint`: of stage `feature_field`, `semantics` or `agglomeration`, whose density is that of the student; of an
    agglomeration the spaces of the teachers that words can query go along. `classes`: folder that `features classes`
    made of that checkpoint, its file of names edited or not.

    Returns the bundle, and the share of points whose label is the class of their cluster. Raises BundleError where the
    checkpoint is none of these, or of another density; ConfigurationError where classes are damaged, or of another one.
    """
    stored = Checkpoint.read(checkpoint)
    field = stored.field_of(FeatureField)
    spaces = feature_spaces(stored, field) if isinstance(field, AgglomeratedField) else ()
    _refuse_other_density(field.density, student, checkpoint)
    clusters, units, cluster = clustering.read_clusters(classes / clustering.CLUSTER_FILE)
    if units.shape[1] != field.positions.out_features:
        what = f"points of {units.shape[1]} units, the checkpoint has {field.positions.out_features}"
        raise ConfigurationError(what, where=str(classes), cure="Make the classes anew from this checkpoint")
    named = clustering.read_class_file(classes / clustering.CLASS_FILE, len(clusters.centres))
    labels = clustering.fit_label_head(units.astype(np.float32), named.classes(cluster), len(named.class_names))
    record: dict[str, Any] = {"configuration": without_places(stored.record.get("configuration", {}))}
    record |= {"agreement_with_clusters": round(labels.agreement, 4)}
    head = dataclasses.replace(
        student.field_head,
        label_positional_weight=_array(field.positions.weight),
        label_hidden_bias=_array(field.positions.bias),
        label_weight=labels.weight,
        label_bias=labels.bias,
    )
    labelled = dataclasses.replace(
        student,
        name=name,
        licence=licence,
        head=head,
        class_names=named.class_names,
        class_colours=named.class_colours,
        feature_spaces=spaces,  # those of the student read other label units
        provenance={**student.provenance, "labels": record},
    )
    return labelled.save(folder, encoder_onnx(field, student.canonical), student.load_weights()), labels.agreement


def feature_spaces(stored: Checkpoint, field: AgglomeratedField) -> tuple[FeatureSpace, ...]:
    """The spaces of the teachers of an agglomeration whose features lie in that of a text encoder."""
    spaces = []
    for name, teacher in stored.configuration["teachers"].items():
        if teacher["text_encoder"]:
            weight, bias = (_array(part) for part in field.space(name))
            spaces.append(FeatureSpace(name, weight, bias, teacher["text_encoder"], teacher["text_encoder_sha256"]))
    return tuple(spaces)


def asked_teacher(stored: Checkpoint, bank: TextBank) -> str:
    """The teacher in whose space a bank's texts lie; a `BundleError` or `VocabularyError` where there is none."""
    return feature_space_for(feature_spaces(stored, stored.field_of(AgglomeratedField)), bank, str(stored.file)).name


def _refuse_other_density(density: DensityField, student: StudentBundle, checkpoint: Path) -> None:
    """Refuses a student whose units are others."""
    stored = student.load_weights()
    for name, value in density.named_parameters():
        if name not in stored or not np.array_equal(value.detach().numpy().astype(np.float16), stored[name]):
            what = f"its density differs from that of the student {student.name} ({name})"
            cure = "Name the student that the feature field started from, trained with features.freeze_density"
            raise BundleError(what, where=str(checkpoint), cure=cure)
