"""Why messages are dropped, in the node and offline alike, and which images count by stamp."""

import json
from enum import Enum
from typing import Literal

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.untrusted_files import parse_json, shown

# The part of `/diagnostics` that reports a reason; none where it is normal work.
JudgedBy = Literal["input", "calibration", "inference", "none"]


class DropReason(str, Enum):
    """A reason, which is the text under which it is counted and reported."""

    judged_by: JudgedBy  # who reports it
    meaning: str  # what has happened, in a few words

    def __new__(cls, text: str, judged_by: JudgedBy, meaning: str) -> "DropReason":
        """A reason of this text."""
        reason = str.__new__(cls, text)
        reason._value_, reason.judged_by, reason.meaning = text, judged_by, meaning
        return reason

    def __str__(self) -> str:
        return str(self.value)

    NEWER_IMAGE = "newer image arrived", "none", "the inference thread was busy, and takes the newest image"
    DEACTIVATED = "deactivated", "none", "the node was deactivated before the image was published"
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
    NO_TRANSFORM = "no transform", "input", "no transforms of its stamp came within `sync.timeout`"
    BAD_TRANSFORM = "bad transform", "input", "a transform, not an image, that is not rigid or names no frames"
    NO_CAMERA_INFO = "no CameraInfo", "calibration", "no usable CameraInfo has come yet"
    BAD_CAMERA_INFO = "bad CameraInfo", "calibration", "a CameraInfo, not an image, that is no calibration"
    UNUSABLE_CAMERA = "unusable camera", "inference", "no model can be built for this calibration"
    GPU_FAILED = "GPU failed", "inference", "the GPU failed while the image was completed"
    NOT_FINITE = "result is not finite", "inference", "what the student makes of the image are no finite numbers"
    INTERNAL_ERROR = "internal error", "inference", "an unforeseen error; please report it"


def drop_notice(reason: DropReason, stamp_ns: int, frame_id: str) -> str:
    """The notice of an image as JSON: `{"stamp_ns": 1700000000, "frame_id": "camera", "reason": "bad image"}`."""
    return json.dumps({"stamp_ns": stamp_ns, "frame_id": frame_id, "reason": reason.value})


def read_drop_notice(text: str) -> tuple[int, str, str]:
    """Stamp (ns), frame, and reason, maybe an unknown one, of a notice. Raises SceneCompletionError if it is none."""
    cure = "Take a node of this version"
    notice = parse_json(text, SceneCompletionError, where=shown(text), cure=cure, kind=dict)
    try:
        return int(notice["stamp_ns"]), str(notice["frame_id"]), str(notice["reason"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise SceneCompletionError("is no notice of a dropped image", where=shown(text), cure=cure) from error


CLOCK_JUMP_NS = 1_000_000_000  # a stamp further back than this is a restarted recording, not a late message

Arrival = Literal["in order", "late", "restarted"]


class StampOrder:
    """Tells late images from those to complete, by the stamps of all images so far.

    An image less than a second behind the newest is late. One further behind belongs to a recording started again, from
    which on its stamps count. Equal stamps are in order: some drivers leave all stamps at 0.
    """

    def __init__(self) -> None:
        self._newest_ns: int | None = None
        self.behind_ns = 0  # how far the last image was behind the newest one before it; 0 if it was not

    def forget(self) -> None:
        """Time began anew: the next image is in order, whatever its stamp."""
        self._newest_ns, self.behind_ns = None, 0

    def arrived(self, stamp_ns: int) -> Arrival:
        """Take note of an image's stamp; only a ``late`` image is to be dropped."""
        self.behind_ns = 0 if self._newest_ns is None else max(self._newest_ns - stamp_ns, 0)
        if 0 < self.behind_ns < CLOCK_JUMP_NS:
            return "late"
        self._newest_ns = stamp_ns
        return "restarted" if self.behind_ns else "in order"

    def late(self, topic: str, stamp_ns: int) -> str:
        """Says of an image that just arrived how late it is."""
        return f"{topic}: stamp {stamp_ns} ns is {self.behind_ns / 1e6:.1f} ms before the last one"
