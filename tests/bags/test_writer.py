"""Writing recordings, also from a process that dies."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from rosbags.highlevel import AnyReader
from rosbags.interfaces import ConnectionExtRosbag2, QosDurability

from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.bags.writer import BagWriter
from scene_completion_ros.errors import BagError
from tests.bags.recordings import START, SqliteWriter, string, transform
from tests.checkout import with_this_checkout


def test_round_trip_of_objects_and_bytes(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "a") as writer:
        for index in range(10):
            writer.write("/text", "std_msgs/msg/String", string(f"n{index}"), START + index)
    with BagReader(tmp_path / "a") as reader, BagWriter(tmp_path / "b") as writer:
        for recorded in reader.messages():
            writer.write(recorded.topic, recorded.type, recorded.raw, recorded.stamp_ns)
    with BagReader(tmp_path / "b") as reader:
        assert [(m.stamp_ns, m.message.data) for m in reader.messages()] == [(START + i, f"n{i}") for i in range(10)]
        assert (tmp_path / "b" / "metadata.yaml").is_file()


def test_static_transforms_are_latched(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as writer:
        writer.write("/tf_static", "tf2_msgs/msg/TFMessage", transform("a", "b", (0, 0, 0)), START)
        writer.write("/tf", "tf2_msgs/msg/TFMessage", transform("a", "b", (0, 0, 0)), START)
    with AnyReader([tmp_path / "bag"]) as reader:
        durability = {}
        for connection in reader.connections:
            assert isinstance(connection.ext, ConnectionExtRosbag2)
            durability[connection.topic] = [qos.durability for qos in connection.ext.offered_qos_profiles]
    assert durability == {"/tf_static": [QosDurability.TRANSIENT_LOCAL], "/tf": []}


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as writer:
        writer.write("/text", "std_msgs/msg/String", string("kept"), START)
    with pytest.raises(BagError, match=r"exists already.*new folder"):
        BagWriter(tmp_path / "bag").open()
    with BagReader(tmp_path / "bag") as reader:
        assert next(reader.messages()).message.data == "kept"


def test_wrong_use_is_explained(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "bag")
    with pytest.raises(BagError, match="not open"):
        writer.write("/text", "std_msgs/msg/String", string(""), START)
    with writer:
        writer.write("/text", "std_msgs/msg/String", string("a"), START)
        with pytest.raises(BagError, match="written as std_msgs/msg/String"):
            writer.write("/text", "std_msgs/msg/Bool", string("a"), START)
        with pytest.raises(BagError, match="unknown message type"):
            writer.write("/own", "my_msgs/msg/Own", b"", START)
        with pytest.raises(BagError, match="does not fit"):
            writer.write("/text", "std_msgs/msg/String", transform("a", "b", (0, 0, 0)), START)


def test_exception_in_the_block_closes_the_bag_properly(tmp_path: Path) -> None:
    def interrupted() -> None:
        with BagWriter(tmp_path / "bag") as writer:
            writer.write("/text", "std_msgs/msg/String", string("a"), START)
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        interrupted()
    with BagReader(tmp_path / "bag") as reader:
        assert reader.losses == []
        assert [m.message.data for m in reader.messages()] == ["a"]


@pytest.mark.parametrize("writer", [BagWriter, SqliteWriter])
def test_everything_written_survives_a_kill(tmp_path: Path, writer: type[BagWriter]) -> None:
    """A process writes 50 messages, says so, and is killed while it goes on."""
    program = textwrap.dedent(
        f"""
        import sys
        from {writer.__module__} import {writer.__name__}
        writer = {writer.__name__}({str(tmp_path / "bag")!r})
        writer.open()
        number = 0
        while True:
            text = writer.typestore.types["std_msgs/msg/String"](data=f"message {{number}} " + "x" * 1000)
            writer.write("/text", "std_msgs/msg/String", text, {START} + number)
            number += 1
            if number == 50:
                print("written", flush=True)
                sys.stdin.readline()
        """
    )
    command, environment = [sys.executable, "-c", program], with_this_checkout()
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == b"written"
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=10)
    with BagReader(tmp_path / "bag") as reader:
        texts = [m.message.data.split(" x")[0] for m in reader.messages()]
    assert texts == [f"message {i}" for i in range(50)]
    assert not (tmp_path / "bag" / "metadata.yaml").exists()
    if writer is BagWriter:
        assert "without an end record" in reader.losses[0]
