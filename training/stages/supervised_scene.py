"""Stage `supervised_scene`: a network of voxels learns from their labels, from random weights or pre-trained ones.

With "occupancy" it refines a student. Candidates are voxels that the student calls occupied, and more below its
threshold. A linear head on all levels corrects the log odds of each. With "classes" it is the upper bound of what
networks without labels learn.
"""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.configuration import TrainingConfiguration
from scene_completion_training.masked_scene.data import SceneData, SceneDataSettings
from scene_completion_training.masked_scene.labels import LabelHead, Target, class_loss, joined, occupancy_loss
from scene_completion_training.masked_scene.network import open_network
from scene_completion_training.masked_scene.objective import SceneView
from scene_completion_training.masked_scene.scenes import FEATURES
from scene_completion_training.masked_scene.views import SceneViewSettings
from scene_completion_training.scene_stage import SceneStage
from scene_completion_training.sparse.hu_net import HUNetSettings, VoxelHUNet


@dataclass
class SupervisedSceneConfiguration(TrainingConfiguration):
    """What learning from labels of voxels needs.

    Attributes:
        stage: Name of the stage.
        target: "occupancy" of the candidates of a student, or "classes" of occupied voxels.
        start_from: Checkpoint of stage `masked_scene` that gives the network, "{seed}" in it being the seed; random
            weights where it is empty.
        frozen: The network stays as it is, and the head alone learns.
        head_rate: Factor on `learning_rate` for the head, which starts at nothing.
        data: Recordings and kinds of scenes, whose frames have ground truth.
        views: What a sample changes of a scene.
        network: Size of the network where it starts at random; its inputs follow from the scenes.
        weight_decay: Of AdamW.
    """

    stage: str = "supervised_scene"
    target: Target = "occupancy"
    start_from: str = ""
    frozen: bool = False
    learning_rate: float = 1.5e-3
    head_rate: float = 5.0
    data: SceneDataSettings = field(default_factory=SceneDataSettings)
    views: SceneViewSettings = field(default_factory=SceneViewSettings)
    network: HUNetSettings = field(default_factory=lambda: HUNetSettings(inputs=len(FEATURES)))
    weight_decay: float = 0.05

    def completed(self) -> SupervisedSceneConfiguration:
        """The network is that of the checkpoint, or has as many inputs as the scenes have features.

        Raises:
            BundleError: There is no network of voxels in the checkpoint.
            ConfigurationError: Its voxels have another size or other features.
        """
        columns = self.data.columns()
        if not self.start_from:
            return dataclasses.replace(self, network=dataclasses.replace(self.network, inputs=len(columns)))
        named = self.start_from.replace("{seed}", str(self.seed))
        trained, record = open_network(Path(named), self.data.voxel_size)
        if record.columns != columns:
            raise ConfigurationError(
                f"was trained on {', '.join(record.columns)}; the scenes have {', '.join(columns)}",
                where=named,
                cure="Set data.units as it was there, and name the same student",
            )
        return dataclasses.replace(self, start_from=named, network=trained.settings)

    def check(self) -> None:
        """Refuses views that are none, and voxels that no student said for what refines a student's."""
        super().check()
        self.views.check()
        kinds = {kind for source in self.data.sources for kind in source.kinds}
        if self.target == "occupancy" and kinds - {"predicted"}:
            raise ConfigurationError(
                f"{', '.join(sorted(kinds))}: only predicted voxels may be wrong",
                where="data.sources",
                cure='Take kinds: [predicted], or target: "classes"',
            )


class SupervisedSceneStage(SceneStage):
    """Trains a `VoxelHUNet`, the `field` of its checkpoints, and a linear `head` on its levels.

    Args:
        settings: The configuration.
    """

    configuration_class = SupervisedSceneConfiguration
    next_command = "scene-completion evaluate occupancy --checkpoint {checkpoint} --data ... (or probe --method ...)"
    settings: SupervisedSceneConfiguration

    def __init__(self, settings: SupervisedSceneConfiguration) -> None:
        super().__init__(settings)
        self.field = VoxelHUNet(settings.network).requires_grad_(not settings.frozen)
        self.head = LabelHead(sum(self.field.dims), settings.target)
        self._data: SceneData | None = None

    def make_data(self) -> SceneData:
        """Labelled views of scenes."""
        settings = self.settings
        step = 2 ** (settings.network.levels - 1)
        self._data = SceneData(
            settings.data, settings.views, None, step=step, steps=settings.steps, seed=settings.seed, labelled=True
        )
        return self._data

    def start(self, data: Any) -> None:
        """Takes the weights of the checkpoint, where one is named."""
        if self.settings.start_from:
            self.field.load_state_dict(open_network(Path(self.settings.start_from))[0].state_dict())

    def weights(self) -> dict[str, float]:
        """There is one loss."""
        return {self.settings.target: 1.0}

    def terms(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Cross-entropy of the voxels of a batch."""
        assert self._data is not None
        scene = SceneView(batch["scene_index"], batch["scene_features"], self._data.shape, self.settings.network.levels)
        with torch.no_grad() if self.settings.frozen else contextlib.nullcontext():
            features = joined(self.field(scene.features, scene.pyramid), scene, batch["scene_index"])
        answer = self.head(features)
        if self.settings.target == "classes":
            return {"classes": class_loss(answer, batch["label"])}
        return {"occupancy": occupancy_loss(answer[:, 0], batch["probability"], batch["label"])}

    def configure_optimizers(self) -> Any:
        """The head learns faster than the network, which it may be alone to learn."""
        rate = self.settings.learning_rate * self.settings.head_rate
        groups: list[dict[str, Any]] = [{"params": self.head.parameters(), "lr": rate}]
        if not self.settings.frozen:
            groups.append({"params": self.field.parameters()})
        return self.warmed_adamw(groups)
