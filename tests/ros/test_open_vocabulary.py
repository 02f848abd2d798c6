"""A running node whose voxels answer words: vocabularies and queries, while images come."""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import String

from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import Completer, Completion
from scene_completion_ros.inference.label_query import FoldedVocabulary
from scene_completion_ros.inference.text_bank import BankClass, TextBank
from scene_completion_ros.messages.words import GivenEmbeddings, RequestedWords
from scene_completion_ros.ros import topics
from scene_completion_ros.ros.words_input import Dictionary
from scene_completion_ros.voxels.cloud import MATCH_CLOUD_DTYPE, cloud_array_from_message
from tests.inference.small_bundle import ENCODER, make_small_bundle, small_bank, small_space
from tests.ros.camera_to_voxels import CAMERA, OK, WARN, CameraToVoxels, is_cloud_of, some_image, stamp_of, values
from tests.ros.graph import LATCHED, Graph, NodeUnderTest

Start = Callable[..., Any]
ENCODED = {"id": ENCODER["text_encoder"], "sha256": ENCODER["text_encoder_sha256"]}


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> StudentBundle:
    """A student of five classes with a feature space and a bank."""
    bundle = make_small_bundle(tmp_path_factory.mktemp("words") / "bundle", threshold=0.1, classes=5)
    return bundle.with_vocabulary([small_space()], small_bank())


class Talkative(CameraToVoxels):
    """A running node with vocabularies and queries, and what it publishes of them."""

    def __init__(self, start: Callable[[Graph], NodeUnderTest], *, listen: bool = True) -> None:
        super().__init__(start, listen=listen)
        create = self.graph.node.create_publisher
        self.to_vocabulary = create(String, topics.VOCABULARY.replace("~", self.output), 10)
        self.to_query = create(String, topics.QUERY.replace("~", self.output), 10)
        self.legends = self.graph.collect(String, topics.LEGEND.replace("~", self.output), LATCHED)
        self.found = self.graph.collect(PointCloud2, topics.MATCHES.replace("~", self.output))
        self.phrases = self.graph.collect(String, topics.PHRASES.replace("~", self.output), LATCHED)

    def start(self, *arguments: Any) -> None:
        super().start(*arguments)
        assert self.graph.until(self.heard), self.node.log

    def heard(self) -> bool:
        """Whether words reach the node, and its legend this test."""
        there = [publisher.get_subscription_count() for publisher in (self.to_vocabulary, self.to_query)]
        return all(there) and bool(self.legends) and bool(self.phrases)

    @property
    def legend(self) -> Any:
        return json.loads(self.legends[-1].data)

    def name(self, text: str, *names: str) -> None:
        """Ask for a vocabulary, and wait until the legend has its classes."""
        self.to_vocabulary.publish(String(data=text))
        assert self.graph.until(lambda: tuple(self.legend["class_names"]) == names), self.node.log

    def ask(self, text: str, *phrases: str) -> None:
        """Ask a query, and wait until the node says so."""
        self.to_query.publish(String(data=text))
        assert self.graph.until(lambda: json.loads(self.phrases[-1].data)["phrases"] == list(phrases)), self.node.log

    def refused(self, topic: Any, text: str | bytes, *complaints: str) -> None:
        """Send what cannot be used; it is counted, and the diagnostics have the reason.

        Bytes are published as they are, which a publisher in another language may do.
        """
        newest = self.diagnosed.newest
        before = int(values(newest["vocabulary"])["refused"]) if "vocabulary" in newest else 0
        little_endian, packed = b"\0\1\0\0", text if isinstance(text, bytes) else text.encode()
        topic.publish(little_endian + (len(packed) + 1).to_bytes(4, "little") + packed + b"\0")
        status = self.diagnosed.until("vocabulary", WARN, *complaints)
        assert self.graph.until(lambda: int(values(self.diagnosed.newest["vocabulary"])["refused"]) == before + 1), (
            status
        )


class Truth:
    """What the model says of images, by the words that it is given."""

    def __init__(self, completer: Completer, dictionary: Dictionary) -> None:
        self._completer, self.dictionary = completer, dictionary

    def of(
        self, seed: int, *, words: FoldedVocabulary | None = None, asked: FoldedVocabulary | None = None
    ) -> Completion:
        self._completer.set_vocabulary(words)
        self._completer.set_query(asked)
        return self._completer.complete(some_image(seed))

    def vocabulary(self, *phrases: str, **said: Any) -> FoldedVocabulary:
        return self.dictionary.vocabulary_of(RequestedWords(phrases, **said))

    def query(self, *phrases: str, **said: Any) -> FoldedVocabulary:
        return self.dictionary.query_of(RequestedWords(phrases, **said))


@pytest.fixture(scope="module")
def truth(completer: Callable[..., Completer], student: StudentBundle) -> Truth:
    return Truth(completer(CAMERA, bundle=student), Dictionary(student, ""))


@pytest.fixture(scope="module")
def running(start_once: Start, student: StudentBundle) -> Iterator[Talkative]:
    running: Talkative = start_once("-p", "image.qos:=reliable", kind=Talkative, bundle=student.folder)
    running.start()
    yield running
    running.node.end_well()


@pytest.fixture
def talkative(running: Talkative, student: StudentBundle) -> Talkative:
    """A node that tests share, as it was at first."""
    running.name("", *student.class_names)
    running.ask("")
    return running


def test_a_vocabulary_names_the_voxels_and_the_legend_follows(talkative: Talkative, truth: Truth) -> None:
    assert is_cloud_of(talkative.show(1), truth.of(1).voxels)
    assert "text_bank_sha256" not in talkative.legend
    talkative.name("zebra crossing, vehicle", "zebra crossing", "vehicle", "unknown")
    assert talkative.legend["text_bank_sha256"] == small_bank().sha256
    assert talkative.legend["class_colours"][1:] == [[1, 2, 3], [128, 128, 128]]
    cloud, expected = talkative.show(1), truth.of(1, words=truth.vocabulary("zebra crossing", "vehicle")).voxels
    assert len(np.unique(expected.label)) == 3  # or the comparison shows little
    assert is_cloud_of(cloud, expected)
    assert not is_cloud_of(cloud, truth.of(1).voxels)
    points = cloud_array_from_message(cloud)
    red, green, blue = np.array(talkative.legend["class_colours"], np.uint32)[points["label"]].T
    np.testing.assert_array_equal(points["rgb"], (red << 16) | (green << 8) | blue)
    assert talkative.diagnosed.until("vocabulary", OK, "2 classes of a vocabulary")

    text = '{"classes": {"plants": ["tree", "car"]}, "pooling": "mean", "margin": 0.5, "background": ["wall"]}'
    talkative.name(text, "plants", "unknown")
    words = truth.dictionary.vocabulary_of(RequestedWords({"plants": ("tree", "car")}, 0.5, "mean", ("wall",)))
    assert is_cloud_of(talkative.show(2), truth.of(2, words=words).voxels)
    talkative.name("", "class 0", "class 1", "class 2", "class 3", "class 4")
    assert is_cloud_of(talkative.show(2), truth.of(2).voxels)


def test_unusable_words_change_nothing_and_are_reported(talkative: Talkative, truth: Truth) -> None:
    talkative.name("car, tree", "car", "tree", "unknown")
    unknown_phrase = ("does not hold 'strolller'", "make a bank with yours")
    legends, packed = len(talkative.legends), base64.b64encode(bytes(32)).decode()
    other = {"encoder": {"id": "another", "sha256": "cd"}, "embeddings": {"a": packed.replace("A", "P")}}
    for text, *complaints in (
        ("strolller", *unknown_phrase),
        (b"caf\xe9", "is not UTF-8"),
        (
            json.dumps({"classes": ["a"], **other}),
            "made by the text encoder another",
            "small has spaces of another encoder",
        ),
    ):
        talkative.refused(talkative.to_vocabulary, text, *complaints)
    talkative.refused(talkative.to_query, "strolller", *unknown_phrase)
    log = talkative.node.log
    assert "the vocabulary stays as it was: " in log and "the query stays as it was: " in log
    assert "Traceback" not in log and "please report" not in log
    assert int(values(talkative.diagnosed.newest["outputs"])["warnings: ~/vocabulary"]) >= 3
    assert len(talkative.legends) == legends
    assert is_cloud_of(talkative.show(3), truth.of(3, words=truth.vocabulary("car", "tree")).voxels)


def test_the_parameter_is_checked_and_followed_while_images_come(
    talkative: Talkative, truth: Truth, student: StudentBundle, tmp_path: Path
) -> None:
    graph, node, bank_file = talkative.graph, topics.NODE_NAME, tmp_path / "bank.safetensors"
    things = BankClass("thing", ("car", "wall"), (9, 9, 200)), BankClass("plant", ("tree",), (0, 150, 0))
    small_bank(classes=things, background=("sky",)).save(bank_file)  # of the same encoder, with classes of its own

    def follows(value: str, *names: str) -> None:
        assert graph.set_parameters(node, vocabulary=value).successful
        assert graph.until(lambda: tuple(talkative.legend["class_names"]) == names), talkative.node.log

    follows("shipped", "vehicle", "tree", "unknown")
    assert is_cloud_of(talkative.show(1), truth.of(1, words=Dictionary(student, "shipped").vocabulary).voxels)
    follows(str(bank_file), "thing", "plant", "unknown")
    assert talkative.legend["text_bank_sha256"] == TextBank.load(bank_file).sha256

    damaged = tmp_path / "damaged"
    damaged.write_bytes(bank_file.read_bytes()[:-1] + b"\0")
    refused = graph.set_parameters(node, vocabulary=str(damaged))
    assert not refused.successful and "it is damaged or was changed" in refused.reason
    assert is_cloud_of(talkative.show(2), truth.of(2, words=Dictionary(student, str(bank_file)).vocabulary).voxels)

    # A message may ask for others of its words; the empty one goes back to it.
    talkative.name("tree", "tree", "unknown")
    assert talkative.legend["text_bank_sha256"] == TextBank.load(bank_file).sha256
    talkative.name("", "thing", "plant", "unknown")
    follows("", *student.class_names)


def matches_in(message: Any) -> NDArray[np.void]:
    fields = tuple((field.name, field.offset, field.datatype, field.count) for field in message.fields)
    documented = (*zip("xyz", (0, 4, 8), strict=True), ("score", 12), ("probability", 16))  # of docs/topics.md
    assert fields == (*((*field, 7, 1) for field in documented), ("phrase", 20, 2, 1)) and message.point_step == 24
    return np.frombuffer(bytes(message.data), MATCH_CLOUD_DTYPE)


def assert_are(cloud: NDArray[np.void], completion: Completion) -> None:
    voxels = completion.voxels
    index = np.concatenate([voxels.index[found.voxels] for found in completion.matches])
    centres = np.asarray(voxels.grid.origin) + (index + 0.5) * voxels.grid.voxel_size
    places = voxels.grid_from_camera.inverse().apply(centres)
    np.testing.assert_allclose(np.stack([cloud[axis] for axis in "xyz"], axis=-1), places, atol=1e-4)
    for number, found in enumerate(completion.matches):
        of_phrase = cloud[cloud["phrase"] == number]
        np.testing.assert_allclose(of_phrase["score"], found.score, atol=1e-4)
        np.testing.assert_allclose(of_phrase["probability"], found.probability, atol=1e-3)


def test_a_query_finds_voxels(talkative: Talkative, truth: Truth) -> None:
    graph = talkative.graph
    found = talkative.found
    unasked_ns = stamp_of(talkative.show(1))
    talkative.ask("car\nzebra crossing", "car", "zebra crossing")
    assert json.loads(talkative.phrases[-1].data)["text_bank_sha256"] == small_bank().sha256
    for seed in (1, 2):
        message = talkative.image(seed, talkative.stamp())
        stamp_ns = stamp_of(message)
        cloud = talkative.answer(message, found)
        assert is_cloud_of(cloud, truth.of(seed).voxels)  # labels stay as they were
        completion = truth.of(seed, asked=truth.query("car", "zebra crossing"))
        answer = talkative.stamped(found, stamp_ns)
        assert answer.header == cloud.header
        points = matches_in(answer)
        assert 0 < len(points) < len(completion.matches) * len(completion.voxels)
        assert set(points["phrase"]) == {0, 1}
        assert (points["probability"] >= 0.5 - 1e-3).all()
        assert_are(points, completion)

    talkative.ask("")
    assert graph.until(lambda: not found[-1].width), talkative.node.log
    heard = len(found)
    for _ in range(2):  # what is sent of an image has come with the voxels of the next one
        talkative.show(1)
    assert len(found) == heard and unasked_ns not in map(stamp_of, found)


def test_free_text_brings_its_embeddings(talkative: Talkative, truth: Truth) -> None:
    rows = np.random.default_rng(7).normal(size=(1, 16)).astype(np.float16)
    packed = base64.b64encode(rows.astype("<f2").tobytes()).decode()
    said = {"encoder": ENCODED, "embeddings": {"a pram of my aunt": packed}}
    talkative.ask(json.dumps(said), "a pram of my aunt")
    message = talkative.image(1, talkative.stamp())
    talkative.answer(message)
    given = GivenEmbeddings(*ENCODED.values(), ("a pram of my aunt",), rows)
    completion = truth.of(1, asked=truth.query("a pram of my aunt", given=given))
    assert_are(matches_in(talkative.stamped(talkative.found, stamp_of(message))), completion)

    talkative.name(
        json.dumps({"classes": ["tree", "a pram of my aunt"], **said}), "tree", "a pram of my aunt", "unknown"
    )
    words = truth.vocabulary("tree", "a pram of my aunt", given=given)
    assert talkative.legend["text_bank_sha256"] == words.vocabulary.bank_sha256 != small_bank().sha256
    assert is_cloud_of(talkative.show(1), truth.of(1, words=words).voxels)
