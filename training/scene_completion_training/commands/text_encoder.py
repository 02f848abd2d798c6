"""Encode free text for a running node, in a process of its own: the node needs no text encoder and no torch.

It hears phrases on the topics text_query and text_vocabulary (std_msgs/String: with commas between them, or JSON as
the node takes it, without embeddings). It publishes them with their embeddings on scene_completion/query and
scene_completion/vocabulary. All four can be remapped: whatever follows --ros-args is for ROS.

--encoder must be the text encoder of the student's feature space. Give the bank that the node uses with --bank: its
template and its background hold for free text as well.
"""

from __future__ import annotations

import argparse
import base64
import functools
import json
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scene_completion_ros.errors import SceneCompletionError, VocabularyError

if TYPE_CHECKING:
    from scene_completion_ros.inference.text_bank import TextBank
    from scene_completion_ros.messages.words import AskedWords
    from scene_completion_training.foundation.text_encoder import TextEncoder

EXTRA = "text"
NODE_NAME = "text_encoder"
QUERY, VOCABULARY = "text_query", "text_vocabulary"
TO_QUERY, TO_VOCABULARY = "scene_completion/query", "scene_completion/vocabulary"
# What anything may be called: the canonical phrases of LERF (Kerr et al. 2023, section 3.4).
BACKGROUND = ("object", "things", "stuff", "texture")
DEPTH = 10
_SIGNAL_PERIOD_S = 0.2  # how long a signal may wait while no message comes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion text-encoder``."""
    parser.add_argument(
        "--encoder", required=True, metavar="MODEL", help="text encoder: local folder, or name on the hub"
    )
    parser.add_argument("--bank", type=Path, metavar="FILE", help="text bank of the node, made by the same encoder")
    parser.add_argument(
        "--template",
        help='sentence that phrases stand in (default: that of the bank, or "a photo of a {} on the street")',
    )
    parser.add_argument("--device", default="cpu", help="where the encoder runs, e.g. cuda (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="torch threads (default: all cores)")
    parser.add_argument("--ros-args", nargs=argparse.REMAINDER, default=[], help="arguments of ROS, to the end")


def run(args: argparse.Namespace) -> int:
    """Load the encoder, and answer until SIGINT or SIGTERM."""
    import torch

    from scene_completion_ros.inference.text_bank import TextBank
    from scene_completion_training.foundation.text_encoder import TextEncoder

    if args.threads:
        torch.set_num_threads(args.threads)
    bank = TextBank.load(args.bank) if args.bank else None
    answers = EncodedAnswers(TextEncoder(args.encoder, args.device), bank, args.template)
    return serve(answers, ["--ros-args", *args.ros_args] if args.ros_args else [])


class EncodedAnswers:
    """What a node is told for what was asked.

    Args:
        bank: Whose template, background and name of the encoder hold; None for none.
        template: Instead of the bank's; None for that.

    Raises:
        VocabularyError: The bank was made by another encoder.
        ConfigurationError: The template has no place for a phrase.
    """

    def __init__(self, encoder: TextEncoder, bank: TextBank | None = None, template: str | None = None) -> None:
        from scene_completion_training.foundation.text_encoder import STREET_TEMPLATE, check_template

        if bank is not None and bank.text_encoder_sha256 != encoder.sha256:
            raise VocabularyError(
                f"was made by the text encoder {bank.text_encoder} {bank.text_encoder_sha256[:12]}, this is "
                f"{encoder.name} {encoder.sha256[:12]}",
                where=bank.where,
                cure="Name the encoder of the bank, or make the bank anew with: scene-completion vocabulary",
            )
        self._encoder = encoder
        self._name = encoder.name if bank is None else bank.text_encoder  # one model may have two names
        self._background = BACKGROUND if bank is None else bank.background
        # The node tells a query from all phrases of its bank; without one it needs some to tell it from.
        self._general = BACKGROUND if bank is None else None
        self._template = template or (STREET_TEMPLATE if bank is None else bank.template)
        check_template(self._template)

    def query(self, text: str) -> str:
        """The text for `~/query`; an empty one ends the query.

        Raises:
            VocabularyError: The text cannot be read, see `messages.words`.
            ConfigurationError: A phrase cannot be encoded.
        """
        from scene_completion_ros.messages.words import read_query

        asked = read_query(text)
        if asked is None:
            return ""
        general = self._general if asked.background is None else asked.background
        return json.dumps({"phrases": list(asked.phrases), **self._embedded(asked, general)})

    def vocabulary(self, text: str) -> str:
        """The text for `~/vocabulary`; otherwise see `query`."""
        from scene_completion_ros.inference.text_bank import MOST_ROWS
        from scene_completion_ros.messages.words import read_vocabulary

        asked = read_vocabulary(text)
        if asked is None:
            return ""
        if (count := len(_phrases_of(asked))) > MOST_ROWS:
            raise VocabularyError(f"{count} phrases, where at most {MOST_ROWS} are possible", where=VOCABULARY)
        classes = asked.phrases if isinstance(asked.phrases, dict) else list(asked.phrases)
        said = {"margin": asked.margin, "pooling": asked.pooling}
        background = self._background if asked.background is None else asked.background
        return json.dumps({"classes": classes, **said, **self._embedded(asked, background)})

    def _embedded(self, asked: AskedWords, background: Sequence[str] | None) -> dict[str, Any]:
        from scene_completion_training.foundation.text_encoder import prompt

        if asked.given is not None:
            raise VocabularyError("has embeddings already", where="text", cure="Publish it to the node itself")
        phrases = list(dict.fromkeys([*_phrases_of(asked), *(background or ())]))
        # Each by itself, as in a bank: an embedding is to follow from nothing but its phrase.
        rows = [self._encoder.encode([prompt(phrase, self._template)])[0].half().numpy() for phrase in phrases]
        packed = [base64.b64encode(row.astype("<f2").tobytes()).decode("ascii") for row in rows]
        others = None if background is None else [one for one in background if one not in _phrases_of(asked)]
        return {
            **({} if others is None else {"background": others}),
            "encoder": {"id": self._name, "sha256": self._encoder.sha256},
            "embeddings": dict(zip(phrases, packed, strict=True)),
        }


def _phrases_of(asked: AskedWords) -> list[str]:
    if isinstance(asked.phrases, tuple):
        return list(asked.phrases)
    return [phrase for phrases in asked.phrases.values() for phrase in phrases]


def serve(answers: EncodedAnswers, ros_arguments: Iterable[str]) -> int:
    """Answer messages until SIGINT or SIGTERM; what cannot be answered is warned about."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from std_msgs.msg import String

    from scene_completion_ros.messages.words import text_of

    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    context = rclpy.Context()
    with ExitStack() as resources:
        rclpy.init(args=[sys.argv[0], *ros_arguments], context=context)
        resources.callback(context.try_shutdown)
        node = rclpy.create_node(NODE_NAME, context=context)
        resources.callback(node.destroy_node)

        def answer(topic: str, make: Callable[[str], str], publisher: Any, message: bytes) -> None:
            try:
                publisher.publish(String(data=make(text_of(message, topic))))
            except SceneCompletionError as error:
                node.get_logger().warning(f"not answered: {error}")

        for topic, to, make in ((QUERY, TO_QUERY, answers.query), (VOCABULARY, TO_VOCABULARY, answers.vocabulary)):
            heard = functools.partial(answer, topic, make, node.create_publisher(String, to, DEPTH))
            node.create_subscription(String, topic, heard, DEPTH, raw=True)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        resources.callback(executor.shutdown)
        node.get_logger().info(f"ready: phrases on {QUERY} and {VOCABULARY} become {TO_QUERY} and {TO_VOCABULARY}")
        while not stopped:
            executor.spin_once(timeout_sec=_SIGNAL_PERIOD_S)
    return 0
