"""Why messages are dropped: one list for the running node and for the offline replay, and the notice of a drop."""

import json
from enum import Enum
from typing import Literal

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.untrusted_files import parse_json, shown

# The part of `/diagnostics` that reports a reason; nobody where it is normal work.
JudgedBy = Literal["input", "calibration", "inference", "nobody"]


class DropReason(str, Enum):
    """A reason, which is the text under which it is counted and told."""

    judged_by: JudgedBy  # who reports it
    meaning: str  # what has happened, in a few words

    def __new__(cls, text: str, judged_by: JudgedBy, meaning: str) -> "DropReason":
        """A reason of this text."""
        reason = str.__new__(cls, text)
        reason._value_, reason.judged_by, reason.meaning = text, judged_by, meaning
        return reason

    def __str__(self) -> str:
        return str(self.value)

    NEWER_IMAGE = "newer image arrived", "nobody", "the inference thread was busy, and takes the newest image"
    DEACTIVATED = "deactivated", "nobody", "the node was deactivated before the image was published"
    DISABLED = "disabled", "nobody", "`~/set_enabled` has stopped the node"
    RESET = "reset", "nobody", "`~/reset` gave up the images in hand"
    ABOVE_RATE = "above largest_rate", "nobody", "the image came earlier than `largest_rate` allows"
    BAD_IMAGE = (
        "bad image",
        "input",
        "the image cannot be decoded, or has other proportions than calibrated, or its stamp is invalid",
    )
    UNDECODABLE = "image could not be decoded", "input", "the same in `replay --offline`, where nothing else is known"
    WENT_BACK = "stamp went back", "input", "the stamp is less than a second before that of the last image"
    TIME_WENT_BACK = (
        "waited while time went back",
        "input",
        "the image waited for something when a recording began anew",
    )
    NOT_TOGETHER = "no image of the other cameras at its time", "input", "with several `cameras`: the image fits no set"
    NO_TRANSFORM = "no transform", "input", "no transforms of its stamp came within `transform.timeout`"
    BAD_TRANSFORM = "bad transform", "input", "a transform, not an image, that is not rigid or names no frames"
    NO_CAMERA_INFO = "no CameraInfo", "calibration", "no usable CameraInfo has come yet"
    NO_MATCHING_CAMERA_INFO = "no CameraInfo of its time", "calibration", "`sync.camera_info` found none for its stamp"
    BAD_CAMERA_INFO = "bad CameraInfo", "calibration", "a CameraInfo, not an image, that is no calibration"
    UNUSABLE_CAMERA = "unusable camera", "inference", "no model can be built for this calibration"
    GPU_FAILED = "GPU failed", "inference", "the GPU failed while the image was completed"
    NOT_FINITE = "result is not finite", "inference", "what the student makes of the image are no finite numbers"
    INTERNAL_ERROR = "internal error", "inference", "an unforeseen error; please report it"


def drop_notice(reason: DropReason, stamp_ns: int, frame_id: str) -> str:
    """The notice of an image as JSON, such as `{"stamp_ns": 1700000000, "frame_id": "camera", "reason": "reset"}`."""
    return json.dumps({"stamp_ns": stamp_ns, "frame_id": frame_id, "reason": reason.value})


def read_drop_notice(text: str) -> tuple[int, str, str]:
    """Stamp in nanoseconds, frame and reason of a notice, which may be one that this version does not know.

    Raises SceneCompletionError where it is no notice.
    """
    cure = "Take a node of this version"
    notice = parse_json(text, SceneCompletionError, where=shown(text), cure=cure, kind=dict)
    try:
        return int(notice["stamp_ns"]), str(notice["frame_id"]), str(notice["reason"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise SceneCompletionError("is no notice of a dropped image", where=shown(text), cure=cure) from error
