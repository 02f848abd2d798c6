"""Students of a running node change places while images come, or stay where one cannot be used."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lifecycle_msgs.msg import Transition
from std_msgs.msg import String
from std_srvs.srv import Trigger

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid, read_grid
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.messages.drop_reasons import read_drop_notice
from scene_completion_ros.ros import topics
from scene_completion_ros.ros.deployment import WHERE
from tests.inference.small_bundle import class_names, make_small_bundle
from tests.inference.small_vocabulary import small_bank, small_space
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


def test_no_image_is_lost_under_load_and_the_students_are_not_mixed(
    running: Exchanging, truth: list[list[Any]]
) -> None:
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


def test_no_message_names_another_student(running: Exchanging, truth: list[list[Any]], bundle_folder: Path) -> None:
    """Nor one of the hub, which the node would fetch."""
    for value in ("", str(bundle_folder), "hf:robots/student"):
        refusal = running.graph.set_parameters(topics.NODE_NAME, shadow_bundle=value)
        assert not refusal.successful and "shadow.bundle is read-only: give it when the node starts" in refusal.reason
    assert is_cloud_of(shown(running, 3), truth[0][3])


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


def test_the_deployed_student_goes_on_where_the_other_sees_nothing(
    start: Start, tmp_path: Path, truth: list[list[Any]]
) -> None:
    blind = make_small_bundle(tmp_path / "blind", canonical=Camera(371.2, 371.2, -9000.0, 90.0, 640, 192))
    node: Exchanging = start("-p", "image.qos:=reliable", "-p", f"shadow.bundle:={blind.folder}", kind=Exchanging)
    node.start()
    node.refused("not exchanged", str(blind.folder), "sees nothing of the canonical image")
    assert is_cloud_of(shown(node, 3), truth[0][3])


def test_without_a_second_student_there_is_nothing_to_exchange(start: Start) -> None:
    node: Exchanging = start(kind=Exchanging, listen=False)
    assert node.graph.until(lambda: "inactive: configured" in node.node.log)
    node.refused(WHERE, "there is no second student", "Start the node with a folder")


def test_classes_that_are_no_obstacles_have_to_be_known_to_the_next_student(running: Exchanging) -> None:
    """Otherwise its road would be an obstacle."""
    running.name(obstacle_ignored_classes="class 4")
    running.refused("obstacle.ignored_classes", "no class is called 'class 4'")
    running.name(obstacle_ignored_classes="class 2")
    assert running.swap().success and running.swap().success
    running.name(obstacle_ignored_classes="auto")


@pytest.mark.parametrize("speechless", [False, True])
def test_words_in_use_go_with_the_student_or_keep_it(
    start: Start, tmp_path: Path, completer: Callable[..., Completer], second: StudentBundle, speechless: bool
) -> None:
    spoken = [
        make_small_bundle(tmp_path / name, seed=seed, threshold=0.1, classes=5).with_vocabulary(
            [small_space()], small_bank()
        )
        for seed, name in enumerate(("first", "other"))
    ]
    other = second if speechless else spoken[1]  # the former has no feature space
    arguments = ("-p", "image.qos:=reliable", "-p", f"shadow.bundle:={other.folder}")
    node: Exchanging = start(*arguments, kind=Exchanging, bundle=spoken[0].folder)
    node.start()
    to_vocabulary = node.graph.node.create_publisher(String, f"{node.output}/vocabulary", 10)
    assert node.graph.until(lambda: to_vocabulary.get_subscription_count() > 0)
    to_vocabulary.publish(String(data="car, tree"))
    named = ("car", "tree", "unknown")
    assert node.graph.until(lambda: node.classes == named), node.node.log
    if speechless:
        node.refused("second")
        assert node.told.fresh("vocabulary")["classes"] == "car, tree"
        to_vocabulary.publish(String())
        assert node.graph.until(lambda: node.classes == class_names(5)), node.node.log
        assert node.swap().success
        assert node.graph.until(lambda: node.classes == class_names(3)), node.node.log
        return
    legends = len(node.legends)
    assert node.swap().success
    model = completer(CAMERA, bundle=other)
    model.use(model.prepare_vocabulary(other.text_bank().vocabulary(("car", "tree"))))  # type: ignore[union-attr]
    assert is_cloud_of(shown(node, 1), model.complete(some_image(1)).voxels)
    assert node.graph.until(lambda: len(node.legends) > legends) and node.classes == named


def test_cleaning_up_forgets_which_student_was_deployed(
    running: Exchanging, truth: list[list[Any]], grid_file: Path
) -> None:
    assert read_grid(grid_file)[0] == truth[0][0].grid
    assert running.swap().success
    running.change(Transition.TRANSITION_DEACTIVATE)
    running.change(Transition.TRANSITION_CLEANUP)
    running.refused("the node is not configured")
    running.change(Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)
    running.until_answered(next(_stamps_s) * SECOND_NS)
    assert is_cloud_of(shown(running, 1), truth[0][1])
