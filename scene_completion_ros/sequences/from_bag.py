"""Posed sequences from bags: images with CameraInfo, poses from tf or odometry, LiDAR where there is some."""

from dataclasses import replace
from pathlib import Path

from scene_completion_ros.bags.opening import names_bag
from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.errors import BagError, SequenceError
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.sequences.posed_sequence import UNKNOWN_POSES, Frame, PosedSequence, Source
from scene_completion_ros.sequences.recorded_motion import moving_transforms
from scene_completion_ros.sequences.recording import (
    Recording,
    counted,
    depth_asset,
    lidar_asset,
    list_clouds,
    list_depths,
    read_recordings,
)


def sequence_from_bag(reader: BagReader, poses: str | None = None) -> PosedSequence:
    """Make a posed sequence of all images of a bag that have a CameraInfo; see `posed_recording`.

    Raises BagError: no usable image topic, CameraInfo, or poses: says what to record; SequenceError where no image is
    left; says what happened to them. `poses`: an odometry topic to use where tf is not enough. `UNKNOWN_POSES` takes
    the first camera's images, whose places nobody knows.
    """
    (recording,) = read_recordings(reader)
    if poses != UNKNOWN_POSES:
        return posed_recording(recording, odometry_topic=poses)
    camera, here = recording.first_camera, RigidTransform.identity()
    return PosedSequence(
        name=reader.path.stem,
        cameras={camera: recording.cameras[camera]},
        rig_from_camera={camera: here},
        frames=[Frame(stamp, {camera: found[camera]}, here) for stamp, found in recording.groups if camera in found],
        pose_source=UNKNOWN_POSES,
        provenance=recording_provenance(recording),
    )


def posed_recording(
    recording: Recording,
    *,
    # Largest distance in time of the two poses between which is interpolated. Images without are dropped.
    max_gap_s: float = 0.2,
    world_frame: str | None = None,
    odometry_topic: str | None = None,  # nav_msgs/Odometry to use where tf is not enough; the only one by default
    lidar_topic: str | None = None,  # PointCloud2 to attach as "lidar"; the only one by default
    # Frame whose z axis points up from the ground, as `base_frame` of the node or `map`. The world is then this frame
    # as it stands at the first image, and `PosedSequence.floor` is known.
    ground_frame: str | None = None,
    ground_height: float = 0.0,  # of the ground in it, metres
) -> PosedSequence:
    """Give the images of a recording the poses of tf or odometry.

    The rig frame is the optical frame of the first image topic. The world is the topmost frame above it in tf. Where tf
    does not say how the camera moves, it is the fixed frame of the odometry. Images that come at one time (1 ms) make
    one frame. Images and clouds stay in the bag and are read when asked for. The LiDAR, of whatever make, is the sensor
    "velodyne" of the rig. Depth images (16UC1, 32FC1) in the frame of the first camera, which are registered to it, are
    the asset "depth". Raises BagError where there are no poses: says what to record; SequenceError where no image is
    left; says what happened to them.
    """
    reader, rig_frame, dropped = recording.reader, recording.rig_frame, recording.dropped
    topic = recording.topics[recording.first_camera]
    buffer, world, pose_source = moving_transforms(
        reader, topic, rig_frame, recording.transforms, world_frame, odometry_topic
    )
    rig_from_camera = {name: recording.rig_from_camera(buffer, name) for name in recording.cameras}
    max_gap_ns = round(max_gap_s * 1e9)
    clouds = list_clouds(reader, topic, lidar_topic)
    depths = list_depths(reader, topic, rig_frame)
    rig_from_sensor = {}
    for stamp_ns, frame_id, _ in clouds[:1]:
        try:
            rig_from_sensor["velodyne"] = buffer.lookup(rig_frame, frame_id, stamp_ns, max_gap_ns)
        except BagError as error:
            recording.warnings.append(f"the LiDAR is left out: {error}")
    frames = []
    for stamp_ns, images in recording.groups:
        try:
            world_from_rig = buffer.lookup(world, rig_frame, stamp_ns, max_gap_ns)
        except BagError as error:
            dropped[f"no pose: {error.where}"] += len(images)
            continue
        assets = lidar_asset(clouds, buffer, world, world_from_rig, stamp_ns, max_gap_ns)
        assets |= depth_asset(depths, stamp_ns) if recording.first_camera in images else {}
        frames.append(Frame(stamp_ns, images, world_from_rig, assets))
    if not frames:
        cure = "Record /tf (or odometry) and /tf_static together with the images"
        raise SequenceError(f"no image has a pose ({counted(dropped)})", where=str(reader.path), cure=cure)
    provenance = recording_provenance(recording) | {"world_frame": world}
    if ground_frame:
        upright = buffer.lookup(ground_frame, world, frames[0].stamp_ns, max_gap_ns)
        frames = [replace(frame, world_from_rig=upright @ frame.world_from_rig) for frame in frames]
        provenance |= {"ground_frame": ground_frame, "floor": ground_height}
    return PosedSequence(
        name=reader.path.stem,
        cameras=recording.cameras,
        rig_from_camera=rig_from_camera,
        frames=frames,
        pose_source=pose_source,
        metric_scale=True,
        provenance=provenance,
        rig_from_sensor=rig_from_sensor,
    )


def recording_provenance(recording: Recording) -> dict[str, object]:
    """What a sequence says of the bag it was made from."""
    reader = recording.reader
    return {
        "bag": reader.path.name,
        "image_topics": dict(recording.topics),
        "rig_frame": recording.rig_frame,
        "dropped_images": dict(recording.dropped),
        "skipped_messages": dict(reader.skipped),
        "losses": list(reader.losses),
        "warnings": [*recording.warnings, *reader.warnings],
    }


def is_bag(path: Path) -> bool:
    """Whether a path looks like a bag: a file, or a folder with metadata.yaml or files of bags."""
    if not path.is_dir():
        return names_bag(path)
    return any(names_bag(file) or file.name == "metadata.yaml" for file in path.iterdir())


def _open(path: Path, poses: str | None) -> PosedSequence:
    with BagReader(path) as reader:
        return sequence_from_bag(reader, poses)


SOURCE = Source("a bag (rosbag2 folder, .mcap, .db3 or ROS 1 .bag)", is_bag, _open)
