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
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_ros.geometry import Camera, VoxelGrid
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.head import HeadWeights, Lookups, PointCodeSpec, VolumeReading
from scene_completion_ros.inference.scene_query import ray_camera
from scene_completion_ros.inference.text_bank import FeatureSpace, TextBank, feature_space_for
from scene_completion_ros.removed import removed
from scene_completion_training import clustering
from scene_completion_training.checkpoints import Checkpoint, written_by
from scene_completion_training.losses import positive_inverse_depth
from scene_completion_training.networks.agglomerated_field import AgglomeratedField
from scene_completion_training.networks.density_field import LAST_WEIGHTS, DensityField, link_calibration
from scene_completion_training.networks.encoder_decoder import EncoderDecoder
from scene_completion_training.networks.feature_field import FeatureField
from scene_completion_training.networks.scene_decoder import STRIDE, Measured, PixelView
from scene_completion_training.stages.completion import SceneField, read_frozen_encoder

# Of the label's logits in the probabilities of the classes: the softmax of these is then nearly what they were.
SHARPNESS = 6.0
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


class ExportedView(nn.Module):
    """From an image, and what is known of the ground, to predictions for its pixels."""

    def __init__(self, field: SceneField, encoder: EncoderDecoder) -> None:
        super().__init__()
        self.trunk: Any = encoder.trunk
        self.pixels = field.pixels

    def forward(self, image: Tensor, ground: Tensor) -> Tensor:
        """See `StudentBundle.view_shape`."""
        view = self.pixels(*self.trunk.with_tokens(image), ground)
        return torch.cat([view.code, view.deviation, view.classes], dim=1)


class ExportedScene(nn.Module):
    """From predictions for pixels and measurements of depth to units of cells, logits of voxels, and depth."""

    def __init__(self, field: SceneField) -> None:
        super().__init__()
        self.field = field
        self.rays = ray_camera(field.camera)

    def forward(self, view: Tensor, *given: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Units [1, z x, y, K], logits [1, X, Y, Z], z-depth [1, h', w'], ground [1, 2, x, y].

        `given`: lookups of cells, and of voxels, the ground, scale and depths of a sensor, see `graph_inputs`.
        """
        ground, scale, sensed = given[6:]
        seen = PixelView(view[:, :1], view[:, 1:2], view[:, 2:], ground[:, 1:, :1, :1])
        seen = self.field.scaled(seen, ground, Measured(scale, sensed))
        scene = self.field.spatial(seen, Lookups(*given[:3]), Lookups(*given[3:6]))
        units = scene.classes.softmax(dim=1).permute(0, 2, 3, 4, 1).flatten(1, 2)
        surface = torch.stack([scene.height, scene.deviation], dim=1)
        return units, scene.occupied, ray_depth(seen.code, self.field.spec, self.rays), surface


def export_scene(file: Path, folder: Path, *, name: str, licence: str, provenance: Mapping[str, Any]) -> StudentBundle:
    """Exports a checkpoint of stage `completion` and what its encoder has of its own; see `export_bundle`."""
    stored = Checkpoint.read(file)
    if "eyes" in stored.configuration:  # of before the key was renamed
        cure = f"Export it with {written_by(stored.record)}, which trained it"
        raise ConfigurationError(str(removed("configuration key", "eyes")), where=str(file), cure=cure)
    settings, record, grid = stored.configuration, stored.record, stored.viewpoint.volume.grid
    field = stored.field_of(SceneField)
    encoder, _, frozen = read_frozen_encoder(
        str(settings["encoder_checkpoint"]), str(settings["encoder_weights"]), stored.viewpoint
    )
    x, y, z = field.spatial.cells
    classes = SHARPNESS * np.eye(len(field.names), dtype=np.float32)
    head = HeadWeights.in_space(volume_reading(grid), STRIDE, field.spec.size, classes)
    # Its logit, before the softplus of density, is that of the probability.
    itself = {"log_scale": torch.zeros(()), "offset": torch.zeros(())}
    bundle = _described(
        stored,
        provenance,
        name=name,
        licence=licence,
        head=head,
        feature_size=(z * x, y),
        height_range=record.get("height_range") and tuple(record["height_range"]),
        pitch_range=tuple(record.get("pitch_range", stored.viewpoint.pitch_range)),
        class_names=field.names,
        class_colours=tuple(COLOURS[label] for label in field.names),
        calibration=link_calibration(itself, grid.voxel_size),
    )
    weights = {f"field.{key}": value for key, value in field.state_dict().items()}
    weights |= {f"encoder.{key}": value for key, value in encoder.state_dict().items() if key in frozen.own}
    stored_weights = {key: value.detach().numpy().astype(np.float16) for key, value in weights.items()}
    extra_inputs = {name: torch.from_numpy(values) for name, values in bundle.graph_inputs().items()}
    image = {"image": torch.zeros(1, 3, field.camera.height, field.camera.width), "ground": extra_inputs["ground"]}
    encoded = graph_of(ExportedView(field, encoder), image, ["view"])
    view = {"view": torch.zeros(bundle.view_shape)}
    outputs = ["features", "volume", "depth", "surface"]
    decoded = graph_of(ExportedScene(field), view | extra_inputs, outputs)
    return bundle.save(folder, encoded, stored_weights, decoded)


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
SMALLEST_INVERSE_DEPTH = 1e-3  # per metre: what lies farther is put at a kilometre
# Settings that name files of the machine that trained.
_PLACES = ("output", "start_from", "pixels_from", "encoder_checkpoint", "teacher", "features_from", "encoder_weights")


class FoldedEncoder(nn.Module):
    """Encoder with the head's feature weights folded into its last convolution, channels last; features come last."""

    def __init__(self, field: DensityField | FeatureField, camera: Camera) -> None:
        super().__init__()
        density = field.density if isinstance(field, FeatureField) else field
        self.trunk = density.encoder.trunk
        self.decoder = density.encoder.decoder
        self.prior = functional.interpolate(density.encoder.prior, feature_size(density, camera), mode="bilinear")
        self.project = fold(density.encoder.projection, density.feature_layer)
        self.features: nn.Sequential | None = None
        self.surface: nn.Conv2d | None = None
        if isinstance(field, AgglomeratedField):
            depth = nn.Conv2d(density.encoder.channels, len(field.surface_layer.weight), 1, bias=False)
            depth.weight.data.zero_()[:, :1] = field.surface_layer.weight.data  # it reads channel 0 alone
            self.surface = fold(density.encoder.projection, depth)
        self.repeated: nn.Conv2d | None = None
        if isinstance(field, FeatureField):
            if field.shared:
                self.repeated = fold(density.encoder.projection, density.feature_layer)
            else:
                folded = fold(field.project, field.feature_layer)
                self.features = nn.Sequential(field.decoder, field.normalise, folded)

    def forward(self, image: Tensor) -> Tensor:
        """Returns pre-activations [1, h, w, C] of an RGB image [1, 3, H, W] in 0..255."""
        maps = self.trunk(image)
        decoded = torch.cat([self.decoder(maps), self.prior], dim=1)
        out: Tensor = self.project(decoded)
        if self.repeated is not None:
            out = torch.cat([out, self.repeated(decoded)], dim=1)
        if self.features is not None:
            units = self.features(maps)
            out = torch.cat([out, units if self.surface is None else units + self.surface(decoded)], dim=1)
        return out.permute(0, 2, 3, 1)


def ray_depth(code: Tensor, spec: PointCodeSpec, rays: Camera) -> Tensor:
    """z-depth [B, h', w'], metres, of the pixels of a ray camera, of inverse depth codes [B, 1, h, w]."""
    size = (rays.height, rays.width)
    inverse = spec.inverse_depth(functional.interpolate(code, size, mode="bilinear", align_corners=False))
    return 1.0 / positive_inverse_depth(inverse)[:, 0].clamp_min(SMALLEST_INVERSE_DEPTH)


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


def feature_size(field: DensityField | FeatureField, camera: Camera) -> tuple[int, int]:
    """Height and width of the feature map of a camera's images."""
    return field.encoder.map_size((camera.height, camera.width))


def encoder_onnx(field: DensityField | FeatureField, camera: Camera) -> bytes:
    """Exports the folded encoder as ONNX for a canonical camera."""
    image = {"image": torch.zeros(1, 3, camera.height, camera.width)}
    return graph_of(FoldedEncoder(field, camera), image, ["features"])


def graph_of(module: nn.Module, inputs: Mapping[str, Tensor], outputs: list[str]) -> bytes:
    """A module as ONNX for inputs of these shapes; weights are fp16."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "encoder.onnx"
        # The tracing exporter: a graph of plain convolutions without an extra dependency.
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            file,
            input_names=list(inputs),
            output_names=outputs,
            opset_version=OPSET,
            dynamo=False,
        )
        model = onnx.load(file)
    _store_half(model.graph)
    onnx.checker.check_model(model)
    return model.SerializeToString()  # type: ignore[no-any-return]


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
    """Takes the head of a field."""
    return HeadWeights(
        positional_weight=_array(field.position_layer.weight),
        hidden_bias=_array(field.position_layer.bias),
        density_weight=_array(field.density_layer.weight[0]),
        density_bias=_array(field.density_layer.bias),
    )


def volume_reading(grid: VoxelGrid) -> VolumeReading:
    """How a head reads logits at the centres of a grid's voxels."""
    step = np.full(3, grid.voxel_size, np.float32)
    first = np.asarray(grid.origin, np.float32) + 0.5 * step
    return VolumeReading(np.ones(1, np.float32), np.stack([first, step]), grid.shape)


def _array(tensor: Tensor) -> NDArray[np.float32]:
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
        kept["data"] = {name: value for name, value in kept["data"].items() if name not in ("root", "cache")}
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
    about = {"name": name, "licence": licence, "head": head_weights(field), "feature_size": feature_size(field, camera)}
    bundle = _described(stored, provenance, **about)
    weights = {key: value.detach().numpy().astype(np.float16) for key, value in field.state_dict().items()}
    return bundle.save(folder, encoder_onnx(field, camera), weights)


def _described(stored: Checkpoint, provenance: Mapping[str, Any], **given: Any) -> StudentBundle:
    """The bundle of a checkpoint, not yet saved; `given`: fields that do not follow from it, or not as usual."""
    camera, viewpoint, code = stored.camera, stored.viewpoint, stored.viewpoint.volume.point_code
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
    # Checkpoint of stage `feature_field`, `semantics` or `agglomeration` whose density is that of the student. Of an
    # agglomeration the spaces of the teachers that words can query go along.
    checkpoint: Path,
    student: StudentBundle,
    classes: Path,  # folder that `features classes` made of that checkpoint, its file of names edited or not
    folder: Path,
    *,
    name: str,
    licence: str,
) -> tuple[StudentBundle, float]:
    """Exports a student with labels: the density, calibration and camera that it has, and the classes of its features.

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
        student.head,
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
    saved = labelled.save(folder, encoder_onnx(field, student.canonical), student.load_weights())
    return saved, labels.agreement


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
    """Refuses a student whose units are others; its last weights may have been stretched meanwhile."""
    stored = student.load_weights()
    for name, value in density.named_parameters():
        if name in LAST_WEIGHTS:
            continue
        if name not in stored or not np.array_equal(value.detach().numpy().astype(np.float16), stored[name]):
            what = f"its density differs from that of the student {student.name} ({name})"
            cure = "Name the student that the feature field started from, trained with features.freeze_density"
            raise BundleError(what, where=str(checkpoint), cure=cure)
