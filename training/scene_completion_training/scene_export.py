"""Turns a checkpoint of stage `completion` into a student bundle: one graph from the image to the voxels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.inference.bundle import Normalisation, StudentBundle
from scene_completion_ros.inference.feature_space import FeatureSpace
from scene_completion_ros.inference.head import HeadWeights
from scene_completion_ros.inference.scene_query import ray_camera
from scene_completion_ros.inference.text_bank import TextBank
from scene_completion_ros.inference.volume_pose import Lookups, no_evidence
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.clustering.clusters import CLASS_COLOURS
from scene_completion_training.export import graph_of, ray_depth, volume_reading, without_places
from scene_completion_training.networks.density_field import link_calibration
from scene_completion_training.networks.encoder_decoder import EncoderDecoder
from scene_completion_training.networks.scene_decoder import STRIDE
from scene_completion_training.networks.sight import Measured, PixelView
from scene_completion_training.stages.completion import SceneField, read_eyes

# Of the label's logits in the probabilities of the classes: the softmax of these is then nearly what they were.
SHARPNESS = 6.0
# Those of clusters for streets, so that all students of streets share one palette, and those of ScanNet for rooms.
COLOURS: Mapping[str, tuple[int, int, int]] = CLASS_COLOURS | {
    "wall": (174, 199, 232),
    "floor": (152, 223, 138), "cabinet": (31, 119, 180), "bed": (255, 187, 120), "chair": (188, 189, 34),
    "sofa": (140, 86, 75), "table": (255, 152, 150), "door": (214, 39, 40), "window": (197, 176, 213),
    "bookshelf": (148, 103, 189), "picture": (196, 156, 148), "counter": (23, 190, 207), "desk": (247, 182, 210),
    "curtain": (219, 219, 141), "refrigerator": (255, 127, 14), "shower curtain": (158, 218, 229),
    "toilet": (44, 160, 44), "sink": (112, 128, 144), "bathtub": (227, 119, 194), "otherfurniture": (82, 84, 163),
    "ceiling": (210, 210, 210),
}  # fmt: skip


class ExportedView(nn.Module):
    """From an image, and what is known of the ground, to what its pixels say by themselves."""

    def __init__(self, field: SceneField, encoder: EncoderDecoder) -> None:
        super().__init__()
        self.trunk: Any = encoder.trunk
        self.pixels = field.pixels

    def forward(self, image: Tensor, ground: Tensor) -> Tensor:
        """See `StudentBundle.view_shape`."""
        view = self.pixels(*self.trunk.with_tokens(image), ground)
        return torch.cat([view.code, view.deviation, view.classes], dim=1)


class ExportedScene(nn.Module):
    """From what pixels say and what else is known of depth to the units of cells, the logits of voxels, and depth."""

    def __init__(self, field: SceneField) -> None:
        super().__init__()
        self.field = field
        self.rays = ray_camera(field.camera)

    def forward(
        self,
        view: Tensor,
        cell_pixels: Tensor,
        cell_depth: Tensor,
        cell_in_view: Tensor,
        voxel_pixels: Tensor,
        voxel_depth: Tensor,
        voxel_in_view: Tensor,
        ground: Tensor,
        scale: Tensor,
        sensed: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Units [1, z x, y, K], logits [1, X, Y, Z], z-depth [1, h', w'], ground [1, 2, x, y]; see `graph_inputs`."""
        seen = PixelView(view[:, :1], view[:, 1:2], view[:, 2:], ground[:, 1:, :1, :1])
        seen = self.field.scaled(seen, ground, Measured(scale, sensed))
        cells = Lookups(cell_pixels, cell_depth, cell_in_view)
        scene = self.field.spatial(seen, cells, Lookups(voxel_pixels, voxel_depth, voxel_in_view))
        units = scene.classes.softmax(dim=1).permute(0, 2, 3, 4, 1).flatten(1, 2)
        surface = torch.stack([scene.height, scene.deviation], dim=1)
        return units, scene.occupied, ray_depth(seen.code, self.field.spec, self.rays), surface


def export_scene(file: Path, folder: Path, *, name: str, licence: str, provenance: Mapping[str, Any]) -> StudentBundle:
    """Exports a checkpoint of stage `completion` and what its eyes have of their own; see `export_bundle`."""
    stored = Checkpoint.read(file)
    settings, viewpoint = stored.configuration, stored.viewpoint
    field = stored.field_of(SceneField)
    encoder, _, eyes = read_eyes(str(settings["eyes"]), str(settings["encoder_weights"]), viewpoint)
    grid, code = viewpoint.volume.grid, viewpoint.volume.point_code
    x, y, z = field.spatial.cells
    low, high = stored.record.get("focal_range", (field.camera.fx / field.camera.width,) * 2)
    # Its logit, before the softplus of density, is that of the probability.
    itself = {"log_scale": torch.zeros(()), "offset": torch.zeros(())}
    bundle = StudentBundle(
        name=name,
        canonical=field.camera,
        head=HeadWeights.in_space(
            volume_reading(grid), STRIDE, code.size, SHARPNESS * np.eye(len(field.names), dtype=np.float32)
        ),
        point_code=code,
        feature_size=(z * x, y),
        height_above_ground=viewpoint.height_above_ground,
        height_range=stored.record.get("height_range") and tuple(stored.record["height_range"]),
        pitch_range=tuple(stored.record.get("pitch_range", viewpoint.pitch_range)),
        focal_range=(low * 0.99, high * 1.01),
        depth_range=(code.near, code.far),
        normalisation=Normalisation(encoder.trunk.mean, encoder.trunk.scale),
        class_names=field.names,
        class_colours=tuple(COLOURS[label] for label in field.names),
        calibration=link_calibration(itself, grid.voxel_size),
        grid=grid,
        provenance={**provenance, "configuration": without_places(settings), "calibration": {"fitted_on": "nothing"}},
        licence=licence,
    )
    weights = {f"field.{key}": value for key, value in field.state_dict().items()}
    weights |= {f"encoder.{key}": value for key, value in encoder.state_dict().items() if key in eyes.own}
    stored_weights = {key: value.detach().numpy().astype(np.float16) for key, value in weights.items()}
    given = {**bundle.graph_inputs(), **no_evidence(field.camera)}
    beside = {name: torch.from_numpy(values) for name, values in given.items()}
    image = {"image": torch.zeros(1, 3, field.camera.height, field.camera.width), "ground": beside["ground"]}
    encoded = graph_of(ExportedView(field, encoder), image, ["view"])
    view = {"view": torch.zeros(bundle.view_shape)}
    outputs = ["features", "volume", "depth", "surface"]
    decoded = graph_of(ExportedScene(field), view | beside, outputs)
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
