"""Children end with their parent."""

import subprocess
import sys
from pathlib import Path

import pytest

PARENT = """
import subprocess, sys, time
from scene_completion_ros.ros.replay.played_node import ending_with_parent
child = subprocess.Popen([sys.executable, "-c", "import time; print('child', flush=True); time.sleep(600)"],
                         preexec_fn=ending_with_parent())
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent has died")
def test_a_child_ends_when_its_parent_is_killed() -> None:
    folder = Path(__file__).resolve().parents[1]
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, cwd=folder)
    assert parent.stdout.readline() == "child\n"
    parent.kill()
    assert parent.stdout.read() == ""  # ends once the child, which holds the pipe too, has ended
    assert parent.wait() != 0
