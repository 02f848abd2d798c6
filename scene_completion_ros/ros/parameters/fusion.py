"""What the parameters say about the fusion of successive images, and whether they can be meant."""

from __future__ import annotations

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.mapping.temporal_fusion import FusionSettings
from scene_completion_ros.ros.inputs.transform_source import fixed_transforms, source_kind
from scene_completion_ros.ros.parameters.schema import NodeParameters, names_in


def fusion_settings(parameters: NodeParameters) -> FusionSettings:
    """How much memory counts.

    A voxel counts as seen only where the image sees it (`seen_for` is 0): nothing is cleared from memory.
    """
    return FusionSettings(
        seen_frames=parameters.fusion_seen_frames,
        inferred_frames=parameters.fusion_inferred_frames,
        half_life=parameters.fusion_half_life,
        forget_after=parameters.fusion_forget_after,
        seen_for=0.0,
        largest_gap=parameters.fusion_largest_gap,
        largest_speed=parameters.fusion_largest_speed,
    )


def check_fusion(parameters: NodeParameters) -> None:
    """Find out whether something can say where the grid is in the odometry frame, if images are to be joined.

    They are joined by `temporal_fusion`, and compared for `record_wrong`.

    Raises:
        SceneCompletionError: Nothing can: says what to name.
        TransformError: The file of fixed transforms is malformed.
    """
    odometry = parameters.odometry_frame.strip("/")
    asking = "temporal_fusion" if parameters.temporal_fusion else "record_wrong" if parameters.record_wrong else ""
    if not asking or (odometry and odometry == parameters.grid_frame.strip("/")):
        return
    if not odometry:
        raise SceneCompletionError(
            f"{asking} has no frame to join images in",
            where=f"parameters {asking}, odometry_frame",
            cure="Name the frame in which the robot moves without jumps, such as odom",
        )
    kind = source_kind(parameters)
    if kind == "tf2" or (kind == "topics" and names_in(f"{parameters.transform_topics},{parameters.odometry_topics}")):
        return
    fixed = fixed_transforms(parameters)
    known = {name.strip("/") for extrinsic in fixed for name in (extrinsic.parent, extrinsic.child)}
    if odometry not in known:
        says = f"extrinsics_file knows {', '.join(sorted(known))} only" if known else "there is no source of transforms"
        raise SceneCompletionError(
            f"nothing says where the voxel grid is in {odometry!r}: {says}",
            where=f"parameters {asking}, transform_source",
            cure="Set transform_source to topics and name odometry_topics or transform_topics, or set it to tf2. For a "
            f"camera that never moves, give its place in {odometry} in an extrinsics_file",
        )
