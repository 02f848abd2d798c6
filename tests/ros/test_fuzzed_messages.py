"""Messages with whatever can be wrong in them: refused with a reason, counted, never the node's end.

Ten thousand go to the functions that read them, and eight hundred over DDS to running nodes; `FUZZED_MESSAGES=5000`
sends so many to each node, and `FUZZED_SEED` draws others.
"""

import os
import resource
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from rclpy.time import Time
from std_msgs.msg import String

from scene_completion_ros.errors import CameraError, ImageError
from scene_completion_ros.geometry.camera_files import camera_from_camera_info
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.resampling import Resampler
from scene_completion_ros.messages.drop_reasons import read_drop_notice
from scene_completion_ros.messages.images import announced_size, check_image, decode_image
from scene_completion_ros.ros import messages, topics
from tests.ros import failing_node
from tests.ros.camera_to_voxels import CAMERA, ERROR, FRAME, SECOND_NS, CameraToVoxels, some_image, values
from tests.ros.fuzzed_messages import MessageFuzzer
from tests.ros.graph import Graph, NodeUnderTest, as_arguments

SEEN = Camera(92.8, 92.8, 79.5, 22.125, 160, 48)  # what cameras are resampled to
LARGEST_GROWTH_KB = 600_000  # of memory: a picture of a gigapixel takes more
TO_A_NODE = int(os.environ.get("FUZZED_MESSAGES", "400"))
SEED = int(os.environ.get("FUZZED_SEED", "3"))
AT_ONCE = 4  # images on their way to the node: as many as its subscription keeps

Image = tuple[int, str]  # an image by its stamp in nanoseconds and its frame


def peak_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize(("kind", "count"), [("image", 4000), ("compressed_image", 3000)])
def test_images_are_decoded_or_refused_with_a_reason(kind: str, count: int) -> None:
    fuzzer = MessageFuzzer(1, CAMERA)
    outcome: Counter[str] = Counter()
    errors: list[ImageError] = []
    before_kb = peak_kb()
    for number in range(count):
        message, shrink = getattr(fuzzer, kind)(), 2 ** (number % 4)
        try:
            width, height = announced_size(message)
            check_image(message)
        except ImageError as error:
            outcome["refused at once"] += 1
            errors.append(error)
            with pytest.raises(ImageError):
                decode_image(message, shrink)
            continue
        try:
            pixels = decode_image(message, shrink)
        except ImageError as error:
            outcome["refused"] += 1
            errors.append(error)
            continue
        outcome["decoded"] += 1
        shrunk = (height // shrink, width // shrink, 3)
        outcome["shrunk"] += pixels.shape == shrunk != (height, width, 3)
        assert pixels.shape in (shrunk, (height, width, 3))
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous
    assert all(error.what and error.cure for error in errors)
    assert min(outcome["decoded"], outcome["refused at once"]) > count / 10, outcome
    assert ("refused" in outcome) == (kind == "compressed_image")  # of raw images, the header tells all
    assert (outcome["shrunk"] > 100) == (kind == "compressed_image")
    assert peak_kb() - before_kb < LARGEST_GROWTH_KB


@pytest.mark.filterwarnings("error")
def test_calibrations_are_usable_or_refused_with_a_reason() -> None:
    fuzzer = MessageFuzzer(2, CAMERA)
    outcome: Counter[str] = Counter()
    errors: list[CameraError] = []
    for _ in range(3000):
        message = fuzzer.camera_info()
        for rectified in (False, True):
            try:
                camera = camera_from_camera_info(message, rectified=rectified, where="/camera_info")
                resampler = Resampler(camera, SEEN)
                image = np.full((min(camera.height, 64), min(camera.width, 64), 3), 9, np.uint8)
                if camera == CAMERA or image.shape[:2] == (camera.height, camera.width):
                    resampler(np.full((camera.height, camera.width, 3), 9, np.uint8))
            except CameraError as error:
                outcome["refused"] += 1
                errors.append(error)
            else:
                outcome["usable"] += 1
                assert resampler.validity.shape == (SEEN.height, SEEN.width)
    assert all(error.what and error.where for error in errors)
    assert min(outcome["refused"], outcome["usable"]) > 300, outcome


class Fuzzed(CameraToVoxels):
    """A running node and what it said of every image."""

    def __init__(self, start: Callable[[Graph], NodeUnderTest], transport: str) -> None:
        super().__init__(start, transport)
        self.notices = self.graph.collect(String, topics.DROPPED.replace("~", self.output), 1000)

    @property
    def completed(self) -> Counter[Image]:
        """Images whose voxels came."""
        return Counter((messages.stamp_nanoseconds(one.header.stamp), one.header.frame_id) for one in self.voxels)

    @property
    def dropped(self) -> Counter[Image]:
        """Images of which the node said that they were dropped."""
        notices = (read_drop_notice(notice.data) for notice in self.notices)
        return Counter((stamp_ns, frame_id.strip("/")) for stamp_ns, frame_id, _ in notices)

    def settle(self) -> None:
        """Wait until nothing sent so far, nor what is said of it, is on its way any more: topics keep their order."""
        self.images.publish(self.make_image(some_image(2), 901 * SECOND_NS, FRAME))
        assert self.graph.until(lambda: (901 * SECOND_NS, FRAME) in self.completed), self.node.log
        empty = self.make_image(some_image(2), 902 * SECOND_NS, FRAME)
        empty.data = empty.data[:0]
        self.images.publish(empty)
        assert self.graph.until(lambda: (902 * SECOND_NS, FRAME) in self.dropped), self.node.log

    def counted(self) -> tuple[int, int, Counter[str]]:
        """Images received and completed, and what was dropped by reason, when all that was received is accounted for.

        As diagnostics of from now on have it; the node counts an image as completed after it has published its voxels.
        """
        asked = self.graph.node.get_clock().now()

        def count() -> tuple[int, int, Counter[str]] | None:
            if not any(Time.from_msg(array.header.stamp) >= asked for array in self.told.arrays):
                return None
            arrived, inference = (values(self.told.newest[part]) for part in ("input", "inference"))
            given = {name: int(count) for name, count in arrived.items() if name.startswith("dropped: ")}
            reasons = Counter({name.removeprefix("dropped: "): count for name, count in given.items()})
            received, completed = int(arrived["images received"]), int(inference["images completed"])
            unwanted = int(inference["images that nobody subscribed to"])
            accounted = completed + unwanted + reasons.total() - reasons["bad CameraInfo"]
            return (received, completed, reasons) if received == accounted else None

        assert self.graph.until(lambda: count() is not None), self.node.log
        counts = count()
        assert counts is not None
        return counts

    def until_as_before(self, seed: int, data: Any) -> None:
        """Send the right calibration and an image until what comes of it is what came before."""
        stamps_ns = iter(range(5000 * SECOND_NS, 6000 * SECOND_NS, SECOND_NS))

        def same() -> bool:
            self.camera_infos.publish(messages.camera_info_message(CAMERA, 0, FRAME))
            self.graph.spin(0.1)
            return bool(self.answer(self.make_image(some_image(seed), next(stamps_ns), FRAME)).data == data)

        assert self.graph.until(same), self.node.log


def decodable(message: Any) -> bool:
    """Whether voxels of a message may come out."""
    try:
        decode_image(message)
    except ImageError:
        return False
    return True


@pytest.fixture(params=["raw", "compressed"])
def fuzzed(request: pytest.FixtureRequest, start: Any) -> tuple[Fuzzed, str]:
    given = {"image.transport": request.param, "image.qos": "reliable"}
    return start(*as_arguments(given), kind=Fuzzed, transport=request.param), request.param


def test_the_running_node_accounts_for_every_message_and_goes_on(fuzzed: tuple[Fuzzed, str]) -> None:
    running, transport = fuzzed
    fuzzer = MessageFuzzer(SEED, CAMERA)
    draw = fuzzer.image if transport == "raw" else fuzzer.compressed_image
    running.start()
    before = running.answer(running.make_image(some_image(1), 900 * SECOND_NS, FRAME))
    running.settle()
    received, processed, reasons = running.counted()
    heard, told = len(running.voxels), len(running.notices)
    memory = values(running.told.newest["memory"])

    sent: dict[Image, bool] = {}
    for batch in range(TO_A_NODE // AT_ONCE):
        if batch % 10 == 5:
            running.camera_infos.publish(fuzzer.camera_info())
        if batch % 10 == 7:
            running.camera_infos.publish(messages.camera_info_message(CAMERA, 0, FRAME))
        drawn = [draw() for _ in range(AT_ONCE)]
        headers = [one.header for one in drawn]
        names = [(messages.stamp_nanoseconds(header.stamp), header.frame_id.strip("/")) for header in headers]
        sent |= dict(zip(names, map(decodable, drawn), strict=True))
        for message in drawn:
            running.images.publish(message)
        said = running.graph.until(lambda names=names: set(names) <= running.completed.keys() | running.dropped.keys())
        assert said, f"{names}; {running.node.log}"

    del running.voxels[:heard], running.notices[:told]
    completed, dropped = running.completed, running.dropped
    assert completed + dropped == Counter(sent.keys())  # of each message one thing, once
    assert all(sent[image] for image in completed)
    assert len(completed) > 20 < len(dropped)
    received_now, processed_now, reasons_now = running.counted()
    of_camera_info = reasons_now.pop("bad CameraInfo", 0)
    assert received_now - received == len(sent)
    assert processed_now - processed == len(completed)
    assert (reasons_now - reasons).total() == len(dropped)
    assert of_camera_info > 0

    running.until_as_before(1, before.data)
    running.counted()
    memory_now = values(running.told.newest["memory"])
    grown_mb = {name: float(memory_now[name]) - float(memory[name]) for name in ("peak resident MB", "open files")}
    assert grown_mb["peak resident MB"] < LARGEST_GROWTH_KB / 1e3, memory_now
    assert grown_mb["open files"] <= 0, memory_now
    running.node.end_well()
    assert "please report" not in running.node.log


def test_an_error_that_nobody_thought_of_is_counted_and_the_node_goes_on(start: Any) -> None:
    running = start(script=failing_node.__file__)
    running.start()
    notices = running.graph.collect(String, topics.DROPPED.replace("~", running.output), 100)
    faulty = running.make_image(some_image(1), 10 * SECOND_NS, failing_node.FAULTY)

    def send() -> None:
        running.images.publish(faulty)
        running.camera_infos.publish(faulty_info())

    assert running.graph.repeat(send, lambda: bool(notices)), running.node.log
    assert read_drop_notice(notices[0].data) == (10 * SECOND_NS, failing_node.FAULTY, "internal error")
    status = running.told.until("inference", ERROR, "internal error", "report internal errors", meanwhile=send)
    assert status.message
    assert "ZeroDivisionError: nobody thought of it; please report this" in running.node.log
    running.until_logged("in arrived", lambda: running.camera_infos.publish(faulty_info()))  # where it was
    running.answer(running.make_image(some_image(1), 20 * SECOND_NS, FRAME))
    endless = running.make_image(some_image(1), failing_node.ENDLESS_NS, FRAME)
    expected = (failing_node.ENDLESS_NS, FRAME, "result is not finite")

    def dropped() -> bool:
        return expected in (read_drop_notice(notice.data) for notice in notices)

    assert running.graph.repeat(lambda: running.images.publish(endless), dropped), running.node.log
    assert running.node.end() == 0


def faulty_info() -> Any:
    return messages.camera_info_message(CAMERA, 0, failing_node.FAULTY)
