"""Reads checkpoints of trainings: what was trained, and the field in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from scene_completion_ros.errors import BundleError, TrainingError
from scene_completion_ros.geometry import Camera
from scene_completion_training.data.prepared import CANONICAL_CAMERA
from scene_completion_training.data.view_batches import ViewSettings
from scene_completion_training.losses.fused_occupancy import OccupancyLink
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.networks.encoder_decoder import EncoderDecoder, TrunkName
from scene_completion_training.networks.feature_field import FeatureField
from scene_completion_training.networks.multi_view_field import MultiViewField
from scene_completion_training.networks.semantic_head import DistillationHead
from scene_completion_training.record import KEY

SUPERVISED = "supervised"
"""Stage whose fields have learned from labels."""
_Field = TypeVar("_Field", DensityField, MultiViewField, FeatureField)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint of `train`, of any stage.

    Attributes:
        file: Where it lies.
        state: Name -> weights of the (averaged) field.
        link: Weights of the `OccupancyLink`, empty where none was trained.
        record: What `TrainingRecord` wrote: the configuration, the range of focal lengths.
        head: Weights of the head of stage `semantics`.
    """

    file: Path
    state: Mapping[str, Tensor]
    record: Mapping[str, Any]
    link: Mapping[str, Tensor] = field(default_factory=dict)
    head: Mapping[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def read(file: Path) -> Checkpoint:
        """Reads a file; nothing in it is executed.

        Raises:
            BundleError: The file is no checkpoint.
        """
        # Tensors and plain containers are all we accept.
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
            state, link, head = (
                {name.removeprefix(part): v for name, v in content["state_dict"].items() if name.startswith(part)}
                for part in ("field.", "link.", "head.")
            )
            record = content.get(KEY, {})
        except Exception as error:
            raise BundleError(
                f"not a checkpoint of a density field ({error})", where=str(file), cure="Name a checkpoint of `train`"
            ) from error
        configuration = record.get("configuration", {})
        distilled = configuration.get("distillation", {}).get("space") == "occupancy"
        trained = distilled or configuration.get("losses", {}).get("occupancy", 0.0)
        return Checkpoint(file, state, record, link if trained else {}, head)

    @property
    def stage(self) -> str:
        """Name of the stage it comes from."""
        return str(self.record.get("configuration", {}).get("stage", "single_view"))

    @property
    def half_resolution(self) -> bool:
        """Whether the last step of the training still saw images of half the size."""
        configuration = self.record.get("configuration", {})
        return bool(configuration.get("half_resolution_steps", 0) >= configuration.get("steps", 1))

    @property
    def encoder_metres(self) -> tuple[float, float]:
        """How far along the drive the further views of a teacher stood, least and most."""
        views = self.record.get("configuration", {}).get("data", {}).get("views", {})
        least, most = views.get("encoder_metres", ViewSettings().encoder_metres)
        return float(least), float(most)

    @property
    def camera(self) -> Camera:
        """Canonical camera at the resolution that the last step of the training saw."""
        full = CANONICAL_CAMERA
        return full.resized(full.width // 2, full.height // 2) if self.half_resolution else full

    def single_view_field(self) -> DensityField:
        """The field of stage `single_view` or `student`.

        Raises:
            BundleError: It holds none, or one of another network.
        """
        field = DensityField(CANONICAL_CAMERA, encoder=self._encoder(), hidden=self._hidden)
        return self._loaded(field, "A teacher is distilled into a student first, with stage `student`")

    def multi_view_field(self) -> MultiViewField:
        """The field of stage `teacher`.

        Raises:
            BundleError: It holds none, or one of another network.
        """
        field = MultiViewField(CANONICAL_CAMERA, encoder=self._encoder(), hidden=self._hidden)
        return self._loaded(field, "Name the checkpoint of a training with stage `teacher`")

    def feature_field(self) -> FeatureField:
        """The field of stage `feature_field` or `semantics`.

        Raises:
            BundleError: It holds none, one that has learned from labels, or one of another network.
        """
        cure = "Name the checkpoint of a training with stage `feature_field`"
        if self.stage == SUPERVISED:
            raise BundleError(
                "no checkpoint of a feature field: it has learned classes from labels", where=str(self.file), cure=cure
            )
        return self._field_with_features(cure)

    def class_field(self) -> FeatureField:
        """The field of stage `supervised`, whose expanded features are logits of the classes without "empty".

        Raises:
            BundleError: It holds none, or one of another network.
        """
        cure = f"Name the checkpoint of a training with stage `{SUPERVISED}`"
        if self.stage != SUPERVISED:
            raise BundleError(
                f"no field that has learned classes: its stage is {self.stage}", where=str(self.file), cure=cure
            )
        return self._field_with_features(cure)

    def _field_with_features(self, cure: str) -> FeatureField:
        sizes = [self.state.get(f"{name}.weight") for name in ("output_layer", "expansion.2", "expansion.0")]
        if any(size is None for size in sizes):
            raise BundleError(
                f"no checkpoint of a feature field: its stage is {self.stage}", where=str(self.file), cure=cure
            )
        output, target, expansion = (size for size in sizes if size is not None)
        density = DensityField(CANONICAL_CAMERA, encoder=self._encoder(), hidden=self._hidden)
        field = FeatureField(
            density,
            target_size=len(target),
            channels=len(output),
            units=output.shape[1],
            expansion=len(expansion),
        )
        return self._loaded(field, cure)

    def distillation_head(self) -> DistillationHead:
        """The head of stage `semantics`.

        Raises:
            BundleError: It holds none.
        """
        linear = self.head.get("linear.weight")
        if linear is None:
            raise BundleError(
                f"no checkpoint of semantics: its stage is {self.stage}",
                where=str(self.file),
                cure="Name the checkpoint of a training with stage `semantics`",
            )
        head = DistillationHead(linear.shape[1], linear.shape[0])
        head.load_state_dict(dict(self.head))
        return head.eval()

    def occupancy_link(self) -> OccupancyLink | None:
        """From the field's logit to an occupancy probability; None where none was trained."""
        if not self.link:
            return None
        link = OccupancyLink()
        link.load_state_dict(dict(self.link))
        return link

    @property
    def trunk(self) -> TrunkName:
        """Name of the trunk of its encoder."""
        name: TrunkName = self.record.get("configuration", {}).get("encoder", "efficientnet_lite0")
        return name

    @property
    def _hidden(self) -> int:
        return int(self.record.get("configuration", {}).get("hidden", 64))

    def _encoder(self) -> EncoderDecoder:
        weights = str(self.record.get("configuration", {}).get("encoder_weights", ""))
        size = (CANONICAL_CAMERA.height, CANONICAL_CAMERA.width)
        return EncoderDecoder(size, trunk=self.trunk, pretrained=False, weights=weights)

    def _loaded(self, field: _Field, cure: str) -> _Field:
        try:
            field.load_state_dict(dict(self.state))
        except RuntimeError as error:
            raise BundleError(
                f"not a checkpoint of a density field of this kind: its stage is {self.stage} ({str(error)[:200]})",
                where=str(self.file),
                cure=cure,
            ) from error
        field.eval()
        return field


def load_field(file: Path) -> DensityField:
    """Loads the single-view field of a checkpoint, see `Checkpoint`."""
    return Checkpoint.read(file).single_view_field()


class SafeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there when it is whole.

    With a full disk, or a process that is killed while it writes, the checkpoint before stays.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes a checkpoint.

        Raises:
            TrainingError: It cannot be written.
        """
        target = Path(path)
        part = target.with_name(f"{target.name}.part")
        try:
            super().save_checkpoint(checkpoint, part, storage_options)
            part.replace(target)
        except (OSError, RuntimeError) as error:  # torch turns a failed write into a RuntimeError
            part.unlink(missing_ok=True)
            raise TrainingError(
                f"checkpoint could not be written ({error})",
                where=str(target),
                cure="If the disk is full, make room and start the same command again: it goes on from the one before",
            ) from error
