"""Image to SemanticVoxels without torch: student bundle, encoder engines, voxel query, march, completer."""

from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, StudentBundle, load_default_bundle
from scene_completion_ros.inference.head import HeadWeights
from scene_completion_ros.inference.point_code import PointCodeSpec
from scene_completion_ros.voxels.occupancy import Calibration

__all__ = ["DEFAULT_BUNDLE", "Calibration", "HeadWeights", "PointCodeSpec", "StudentBundle", "load_default_bundle"]
