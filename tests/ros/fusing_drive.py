"""A robot that drives, a node that joins its images, and what they are to become."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import Image, PointCloud2
from std_srvs.srv import Trigger

from scene_completion_ros.inference.completer import Completer, Completion
from scene_completion_ros.mapping.temporal_fusion import FusedFrame, FusionSettings, TemporalFusion
from scene_completion_ros.ros.topics import NODE_NAME
from tests.ros.camera_to_voxels import CAMERA, SECOND_NS, CameraToVoxels, some_image, stamp_of
from tests.ros.diagnosed import values
from tests.ros.graph import Graph, NodeUnderTest
from tests.ros.moving_robot import ARGUMENTS, MOUNT, MovingRobot, pose

TENTH_NS = SECOND_NS // 10
PATIENT_S = 10.0  # the most that `transform.timeout` may be
TOPICS = ("-p", "fusion.enabled:=true", *ARGUMENTS["topics"], "-p", "image.qos:=reliable")
SETTINGS = FusionSettings(seen_for=0.0)


class FusingDrive(CameraToVoxels):
    """A node with a camera that is mounted on a robot, whose odometry it hears."""

    def __init__(self, start: Callable[[Graph], NodeUnderTest]) -> None:
        super().__init__(start)
        self.robot = MovingRobot(self.graph, "topics")
        self.states = self.graph.collect(Image, f"{self.output}/voxel_grid")
        self.clearing = self.graph.collect(PointCloud2, f"{self.output}/clearing")
        self.depths = self.graph.collect(Image, f"{self.output}/depth/image")
        self.now_ns = 100 * SECOND_NS

    def begin(self) -> None:
        """Until all of it is heard, in both directions."""
        self.robot.say_mount()
        self.start(CAMERA)

        def joined() -> bool:
            self.show(0, 0.0)
            return self.joined > 0 and all((self.states, self.clearing, self.depths))

        assert self.graph.until(joined), self.node.log
        self.wait_for_transforms(PATIENT_S)

    @contextmanager
    def impatient(self) -> Iterator[None]:
        """Images without a pose do not hold up those after them for long."""
        self.wait_for_transforms(0.2)
        try:
            yield
        finally:
            self.wait_for_transforms(PATIENT_S)

    def hears_all(self) -> bool:
        """Whether the node has found the publishers of transforms, and is about to lose nothing of them."""
        for publisher in self.robot.publishers:
            found = [
                info
                for info in self.graph.node.get_subscriptions_info_by_topic(publisher.topic_name)
                if info.node_name == NODE_NAME
            ]
            if not found or any(info.qos_profile.reliability != ReliabilityPolicy.RELIABLE for info in found):
                return False
        return True

    def begin_anew(self) -> None:
        """Forget what other tests have left behind."""
        assert self.graph.call(Trigger, f"{NODE_NAME}/reset", Trigger.Request()).success

    def numbers(self) -> dict[str, str]:
        """What the diagnostics say of the map."""
        status = self.told.newest.get("fusion")
        return {} if status is None else values(status)

    @property
    def joined(self) -> int:
        return int(self.numbers().get("images joined", "0"))

    def show(self, seed: int, x: float, yaw: float = 0.0, *, posed: bool = True, later_ns: int = TENTH_NS) -> Any:
        """Take an image somewhere, a tenth of a second after the last one; what the node makes of it."""
        self.now_ns += later_ns
        if posed:
            self.robot.say_pose(self.now_ns, pose(x, yaw))
        return self.answer(self.image(seed, self.now_ns))

    def stamped(self, heard: list[Any], stamp_ns: int) -> Any:
        """The one message of a time."""
        assert self.graph.until(lambda: stamp_ns in map(stamp_of, heard)), self.node.log
        (message,) = (one for one in heard if stamp_of(one) == stamp_ns)
        return message


class FusedTruth:
    """What the model and the map say of images that were taken somewhere."""

    def __init__(self, completer: Completer) -> None:
        self._completer = completer
        self.grid, self.grid_from_camera = completer.grid, completer.grid_from_camera

    def alone(self, seed: int, stamp_ns: int = 0) -> Completion:
        """One image by itself."""
        completion = self._completer.complete(some_image(seed), stamp_ns)
        assert len(completion.voxels) > 50  # or a comparison shows nothing
        return completion

    def map(self, settings: FusionSettings = SETTINGS) -> TemporalFusion:
        """An empty one."""
        threshold = self._completer.bundle.threshold
        return TemporalFusion(self.grid, self.grid_from_camera, threshold, settings, threads=1)

    def joined(self, fusion: TemporalFusion, seed: int, stamp_ns: int, x: float, yaw: float = 0.0) -> FusedFrame:
        """An image joined with a map."""
        completion = self.alone(seed, stamp_ns)
        odometry_from_grid = pose(x, yaw) @ MOUNT @ self.grid_from_camera.inverse()
        return fusion.fuse(completion.voxels, completion.probability, odometry_from_grid)
