"""Students of a running node change places while images come, or stay where one cannot be used."""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from std_msgs.msg import String
from std_srvs.srv import Trigger

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.messages.drop_reasons import read_drop_notice
from scene_completion_ros.ros import topics
from tests.inference.small_bundle import class_names, make_small_bundle
from tests.ros.camera_to_voxels import CAMERA, SECOND_NS, CameraToVoxels, is_cloud_of, some_image, stamp_of
from tests.ros.diagnosed import OK
from tests.ros.moving_robot import LATCHED

Start = Callable[..., Any]
SWAP = topics.SWAP_BUNDLE.replace("~", topics.NODE_NAME)
SEEDS = 4
AHEAD = 5  # images that the node has not accounted for yet


class Exchanging(CameraToVoxels):
    """A running node, its legends and the images that it dropped."""

    def start(self, camera: Camera = CAMERA) -> None:
        self.legends = self.graph.collect(String, f"{self.output}/legend", LATCHED)
        self.notices = self.graph.collect(String, f"{self.output}/debug/dropped", 100)
        super().start(camera)
        assert self.graph.until(lambda: bool(self.legends)), self.node.log

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(json.loads(self.legends[-1].data)["class_names"])

    def swap(self) -> Any:
        return self.graph.call(Trigger, SWAP, Trigger.Request())

    def name(self, **parameters: Any) -> None:
        answer = self.graph.set_parameters(topics.NODE_NAME, **parameters)
        assert answer.successful, answer.reason

    def refused(self, *complaints: str) -> None:
        """The other student cannot be deployed."""
        answer = self.swap()
        assert not answer.success
        assert answer.message in self.node.log
        for complaint in complaints:
            assert complaint in answer.message


_stamps_s = itertools.count(100)


def shown(node: CameraToVoxels, seed: int) -> Any:
    return node.answer(node.image(seed, next(_stamps_s) * SECOND_NS))


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> StudentBundle:
    """Another student, with other classes and another threshold, trained with higher cameras."""
    folder = tmp_path_factory.mktemp("second") / "bundle"
    return make_small_bundle(folder, seed=1, classes=3, threshold=0.2, name="second", height_above_ground=2.5)


@pytest.fixture(scope="module")
def truth(completer: Callable[..., Completer], second: StudentBundle) -> list[list[Any]]:
    """What each student makes of each image."""
    of_students = completer(CAMERA), completer(CAMERA, bundle=second)
    return [[one.complete(some_image(seed)).voxels for seed in range(SEEDS)] for one in of_students]


@pytest.fixture(scope="module")
def running(start_once: Start, second: StudentBundle) -> Iterator[Exchanging]:
    arguments = ("-p", "image.qos:=reliable", "-p", f"shadow.bundle:={second.folder}")
    running: Exchanging = start_once(*arguments, kind=Exchanging)
    running.start()
    yield running
    running.node.end_well()


def test_the_students_change_places_and_all_that_depends_on_them_follows(
    running: Exchanging, truth: list[list[Any]], second: StudentBundle, bundle_folder: Path
) -> None:
    assert is_cloud_of(shown(running, 1), truth[0][1])
    for of_which, folder, classes in ((1, second.folder, 3), (0, bundle_folder, 5), (1, second.folder, 3)):
        answer = running.swap()
        assert answer.success, answer.message
        assert f"({folder}) is deployed for images that arrive from now on" in answer.message
        cloud = shown(running, 2)
        assert is_cloud_of(cloud, truth[of_which][2])
        assert not is_cloud_of(cloud, truth[1 - of_which][2])
        assert running.graph.until(lambda classes=classes: running.classes == class_names(classes))  # type: ignore[misc]
        assert running.graph.until(
            lambda folder=folder: str(folder) in running.told.fresh("inference")["student"]  # type: ignore[misc]
        )
    assert running.told.until("inference", OK, "ready")
    assert running.swap().success


def test_no_image_is_lost_under_load_and_students_are_not_mixed(running: Exchanging, truth: list[list[Any]]) -> None:
    """Images come faster than the node can complete them; each is completed by one of them, or said to be dropped."""
    running.voxels.clear()
    running.notices.clear()
    client = running.graph.node.create_client(Trigger, f"{running.graph.namespace}/{SWAP}")
    assert running.graph.until(client.service_is_ready)
    sent: list[int] = []
    calls = []

    def told() -> list[int]:
        return [*running.stamps_ns, *(read_drop_notice(one.data)[0] for one in running.notices)]

    for number in range(400):
        if number % 100 == 50:
            calls.append(client.call_async(Trigger.Request()))
        stamp_ns = next(_stamps_s) * SECOND_NS
        sent.append(stamp_ns)
        running.images.publish(running.image(number % SEEDS, stamp_ns))
        # A node that is starved has room for so many; what the middleware loses is no matter of the node.
        assert running.graph.until(lambda: len(sent) - len(told()) < AHEAD), running.node.log
    assert running.graph.until(lambda: len(told()) >= len(sent) and all(call.done() for call in calls))
    assert sorted(told()) == sent
    assert all(call.result().success for call in calls)
    used = []
    for cloud in running.voxels:
        seed = sent.index(stamp_of(cloud)) % SEEDS
        (of_which,) = [i for i, of_student in enumerate(truth) if is_cloud_of(cloud, of_student[seed])]
        used.append(of_which)
    assert sum(one != other for one, other in itertools.pairwise(used)) in (2, 4)  # two may come before one image
    assert used[0] == used[-1] == 0
    running.graph.node.destroy_client(client)


def damaged(folder: Path) -> str:
    made = make_small_bundle(folder, threshold=0.1, classes=5)
    made.encoder_path.write_bytes(made.encoder_path.read_bytes()[:-1] + b"\0")
    return "sha256"


def of_another_grid(folder: Path) -> str:
    make_small_bundle(folder, grid=VoxelGrid((0.0, -3.2, -1.6), 0.2, (32, 32, 16)))
    return "Name one grid for both students in grid.file"


@pytest.mark.parametrize("spoil", [lambda _: "there is no folder", damaged, of_another_grid])
def test_a_second_student_that_cannot_be_used_is_refused_at_once(
    start: Start, tmp_path: Path, spoil: Callable[[Path], str]
) -> None:
    complaint = spoil(tmp_path / "second")
    node: Exchanging = start(
        "-p", "grid.file:=''", "-p", f"shadow.bundle:={tmp_path / 'second'}", kind=Exchanging, listen=False
    )
    node.node.ends_with(complaint)
