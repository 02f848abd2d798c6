"""Names of the node and of its topics, shared with the replay, the launch file's tests and the RViz configuration."""

from __future__ import annotations

NODE_NAME = "scene_completion"

IMAGE = "image"
CAMERA_INFO = "camera_info"

VOXELS = "~/voxels"
LEGEND = "~/legend"
DEPTH = "~/depth/image"
DEPTH_CAMERA_INFO = "~/depth/camera_info"
VOXEL_GRID = "~/voxel_grid"
VOXEL_GRID_INFO = "~/voxel_grid/info"
OCCUPANCY_GRID = "~/occupancy_grid"
OBSTACLES = "~/obstacles"
CLEARING = "~/clearing"
FREE_SPACE = "~/free_space"
MARKERS = "~/markers"
DROPPED = "~/debug/dropped"

DIAGNOSTICS = "/diagnostics"

SAVE = "~/save"
RESET = "~/reset"
SET_ENABLED = "~/set_enabled"

STAGES = ("decode", "resample", "encode", "query", "march", "assemble", "label", "fuse", "total", "publish", "latency")
"""What `~/debug/processing_time_ms/<stage>` reports, in milliseconds: `fuse` joins with earlier images (next to none
without `temporal_fusion`), `total` is image array to voxels, `latency` is arrival of the image message to publication
of its voxels, waiting included."""


def depth_topics(camera: str = "") -> tuple[str, str]:
    """Topics of depth and of its CameraInfo; with several cameras each has its own."""
    return (f"~/depth/{camera}/image", f"~/depth/{camera}/camera_info") if camera else (DEPTH, DEPTH_CAMERA_INFO)


def stage_topic(stage: str) -> str:
    """Topic of one stage's processing time (std_msgs/Float64, milliseconds)."""
    return f"~/debug/processing_time_ms/{stage}"
