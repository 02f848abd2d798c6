"""Writing recordings, also from a process that dies."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.bags.writer import BagWriter
from scene_completion_ros.errors import BagError
from tests.bags.recordings import START, SqliteWriter, string
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


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as writer:
        writer.write("/text", "std_msgs/msg/String", string("kept"), START)
    with pytest.raises(BagError, match=r"exists already.*new folder"):
        BagWriter(tmp_path / "bag").open()
    with BagReader(tmp_path / "bag") as reader:
        assert next(reader.messages()).message.data == "kept"


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
    assert process.stdout.readline().strip() == b"written"
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=10)
    with BagReader(tmp_path / "bag") as reader:
        texts = [m.message.data.split(" x")[0] for m in reader.messages()]
    assert texts == [f"message {i}" for i in range(50)]
    assert not (tmp_path / "bag" / "metadata.yaml").exists()
    if writer is BagWriter:
        assert "without an end record" in reader.losses[0]
