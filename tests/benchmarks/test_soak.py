"""The soak of the running node, as long as it takes for each fault to come once."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.soak import FAULTS
from tests.inference.small_bundle import make_small_bundle


def test_each_fault_is_named_and_forgotten_and_no_image_is_lost(tmp_path: Path) -> None:
    """Growth is left to runs of hours: memory pools still fill in these minutes."""
    bundle = make_small_bundle(tmp_path / "bundle")
    command = [sys.executable, "-m", "benchmarks.soak", "--minutes", "0", "--rate", "2", "--threads", "1"]
    command += ["--bundle", str(bundle.folder), "--output", str(tmp_path / "soak")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=900)
    record = json.loads((tmp_path / "soak" / "soak.json").read_text("utf-8"))
    assert not record["problems"], run.stdout + run.stderr
    assert {name for name, *_ in record["faults"]} == set(FAULTS)
    assert record["sent"] >= record["completed"] > 0
