"""Scripts of `training/experiments`, shortened: few rooms and towns, few steps, small models, one row of each kind.

tests/test_documents.py reads the commands of all rows.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.checkout import ROOT
from tests.training.foundation.tiny_models import tiny_model


def scored(name: str, folder: Path, rows: str, **settings: object) -> dict[str, set[str]]:
    """Rows of each table of results, by folder of the scores."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    chosen = {"OUT": folder, "ROWS": rows, **settings}
    environment = {**os.environ, "PATH": path, **{key: str(of) for key, of in chosen.items()}}
    script = ROOT / "training" / "experiments" / f"{name}.sh"
    done = subprocess.run(["bash", str(script)], env=environment, capture_output=True, text=True, check=False)
    logs = "".join(file.read_text()[-2000:] for file in sorted((folder / "logs").glob("*.log")))
    assert done.returncode == 0, f"{done.stdout}{done.stderr}{logs}"
    return {
        file.parent.name: {row["method"] for rows in json.loads(file.read_text())["scores"].values() for row in rows}
        for file in folder.glob("scores/*/results.json")
    }


def small_dinov2(folder: Path) -> Path:
    """Three blocks as wide as those of DINOv2 Small."""
    tiny_model("dinov2", hidden_size=384).save_pretrained(folder)
    return folder
