"""Write the constraint file of the Python that runs this: the newest versions that fit together.

    python3.11 constraints/refresh.py          # writes constraints/py311.txt

pip resolves every extra of the package without installing anything. torch is left out of the file: setup.py pins it,
and its wheels are large and differ by index. An empty wheel with the same requirements stands in for it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("ros", "train", "rerun", "test", "lint")
UNPINNED = {"scene-completion-ros", "torch"}
TORCH_REQUIREMENTS = (
    "filelock",
    "fsspec>=0.8.5",
    "jinja2",
    "networkx>=2.5.1",
    "setuptools>=77.0.3",
    "sympy>=1.13.3",
    "typing-extensions>=4.10.0",
)


def stand_in_for_torch(folder: Path) -> None:
    """Write a wheel of no content whose local version outranks the real wheel of the version that setup.py pins."""
    pinned = re.findall(r'"torch==([\d.]+)"', (ROOT / "setup.py").read_text(encoding="utf-8"))[0]
    version = f"{pinned}+zzz.stand.in"
    information = f"torch-{version}.dist-info"
    metadata = "".join(f"Requires-Dist: {requirement}\n" for requirement in TORCH_REQUIREMENTS)
    with zipfile.ZipFile(folder / f"torch-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{information}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n{metadata}")
        wheel.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{information}/RECORD", "")


def resolve() -> dict[str, str]:
    """Return the version of every distribution that pip would install beside torch."""
    with tempfile.TemporaryDirectory() as folder:
        stand_in_for_torch(Path(folder))
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--find-links", folder, "--report", str(report), f"{ROOT}[{','.join(EXTRAS)}]"]
        subprocess.run(command, check=True)
        resolved = json.loads(report.read_text(encoding="utf-8"))["install"]
    versions = {item["metadata"]["name"].lower().replace("_", "-"): item["metadata"]["version"] for item in resolved}
    return {name: version for name, version in sorted(versions.items()) if name not in UNPINNED}


def main() -> None:
    """Write `constraints/pyXY.txt`."""
    tag = f"py{sys.version_info.major}{sys.version_info.minor}"
    versions = resolve()
    target = ROOT / "constraints" / f"{tag}.txt"
    header = f"# Written by constraints/refresh.py for Python {sys.version_info.major}.{sys.version_info.minor}.\n"
    target.write_text(header + "".join(f"{n}=={v}\n" for n, v in versions.items()), encoding="utf-8")
    print(f"{target.name}: {len(versions)} distributions")


if __name__ == "__main__":
    main()
