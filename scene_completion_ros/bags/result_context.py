"""What a result takes over from its recording, so that a viewer can open it alone: images and transforms."""

from typing import Any

from scene_completion_ros.bags.reader import TRANSFORM_TYPE, BagMessage, BagReader
from scene_completion_ros.bags.writer import BagWriter

IMAGE_TOPIC = "/image"
COMPRESSED_TYPE = "sensor_msgs/msg/CompressedImage"
STREET = "street"  # an upright frame below the camera: viewers keep z up, and an optical frame has it forward
STREET_BELOW_CAMERA = 1.65  # metres; RViz draws its ground there too


def write_image(recorded: BagMessage, output: BagWriter) -> None:
    """Write a recorded image, raw or compressed, under the name that the node has for it."""
    topic = f"{IMAGE_TOPIC}/compressed" if recorded.type == COMPRESSED_TYPE else IMAGE_TOPIC
    output.write(topic, recorded.type, recorded.cdr, recorded.stamp_ns)


def write_transforms(reader: BagReader, image_topic: str, output: BagWriter) -> None:
    """Write all transforms of a recording, and where `STREET` is below the camera, unless the recording has it.

    Latched ones become one message a topic: late readers of a latched topic get no more than the last message.
    """
    image = next(iter(reader.readable([image_topic], lambda message: message.header)), None)
    if image is None:
        return
    recorded_image, header = image
    types = output.typestore.types
    latched: dict[str, dict[str, Any]] = {"/tf_static": {}}  # by topic and child frame
    frames: set[str] = set()
    for recorded, _ in reader.readable(reader.topics_of_type(TRANSFORM_TYPE), lambda message: message):
        message: Any = output.typestore.deserialize_cdr(recorded.cdr, TRANSFORM_TYPE)
        frames |= {name for one in message.transforms for name in (one.header.frame_id, one.child_frame_id)}
        if recorded.topic.endswith("tf_static"):
            latched.setdefault(recorded.topic, {}).update({one.child_frame_id: one for one in message.transforms})
        else:
            output.write(recorded.topic, TRANSFORM_TYPE, message, recorded.stamp_ns)
    if header.frame_id and STREET not in frames:
        latched["/tf_static"][STREET] = _street(types, str(header.frame_id), recorded_image.stamp_ns)
    for topic, transforms in latched.items():
        if transforms:
            message = types[TRANSFORM_TYPE](transforms=list(transforms.values()))
            output.write(topic, TRANSFORM_TYPE, message, recorded_image.stamp_ns)


def _street(types: Any, camera_frame: str, stamp_ns: int) -> Any:
    """The TransformStamped from an optical frame to `STREET`: x forward, y left, z up."""
    stamp = types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 1_000_000_000))
    return types["geometry_msgs/msg/TransformStamped"](
        header=types["std_msgs/msg/Header"](stamp=stamp, frame_id=camera_frame),
        child_frame_id=STREET,
        transform=types["geometry_msgs/msg/Transform"](
            translation=types["geometry_msgs/msg/Vector3"](x=0.0, y=STREET_BELOW_CAMERA, z=0.0),
            rotation=types["geometry_msgs/msg/Quaternion"](x=0.5, y=-0.5, z=0.5, w=0.5),
        ),
    )
