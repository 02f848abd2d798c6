"""What became of the image of one camera, or of the images of several."""

from __future__ import annotations

from dataclasses import dataclass

from scene_completion_ros.inference.completer import Completion
from scene_completion_ros.mapping.fused_clearing import clearing_voxels
from scene_completion_ros.ros.completion.placements import Placement
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels


@dataclass(frozen=True, eq=False)
class View:
    """What became of one image.

    Attributes:
        name: Name of its camera; empty where there is one camera only.
        frame_id: Frame of the image.
        completion: The result.
    """

    name: str
    frame_id: str
    completion: Completion


@dataclass(frozen=True, eq=False)
class Scene:
    """What is published.

    Attributes:
        voxels: Those of the one image, or of several fused.
        placement: Where they lie; where there are several cameras, that of the first view.
        views: At least one.
        now: The voxels of this moment alone, where `voxels` are joined with those of earlier images; otherwise None.
    """

    voxels: SemanticVoxels
    placement: Placement
    views: tuple[View, ...]
    now: SemanticVoxels | None = None

    def clearing_voxels(self) -> SemanticVoxels:
        """The voxels that clearing rays are followed through: what is remembered clears nothing."""
        return self.voxels if self.now is None else clearing_voxels(self.voxels, self.now)
