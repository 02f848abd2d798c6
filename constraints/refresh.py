"""Pin the newest versions that fit together for the Python that runs this; the pins of the other ones stay.

    python3.11 constraints/refresh.py          # writes what constraints/pins.txt says of 3.11

A line holds for every Python that the first line of the file names, or for those in its marker. pip resolves every
extra of the package without installing anything. torch is left out of the file: setup.py pins it, and its wheels are
large and differ by index. An empty wheel with the same requirements stands in for it.
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
EXTRAS = ("ros", "train", "test", "lint", "docs")
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
    """Return the version of every distribution that pip would install next to torch."""
    with tempfile.TemporaryDirectory() as folder:
        stand_in_for_torch(Path(folder))
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--find-links", folder, "--report", str(report), f"{ROOT}[{','.join(EXTRAS)}]"]
        subprocess.run(command, check=True)
        resolved = json.loads(report.read_text(encoding="utf-8"))["install"]
    versions = {item["metadata"]["name"].lower().replace("_", "-"): item["metadata"]["version"] for item in resolved}
    return {name: version for name, version in sorted(versions.items()) if name not in UNPINNED}


def read_pins(file: Path) -> dict[str, dict[str, str]]:
    """Return the pins of a file: Python -> distribution -> version."""
    head, *lines = file.read_text(encoding="utf-8").splitlines()
    pins: dict[str, dict[str, str]] = {python: {} for python in re.findall(r"3\.\d+", head)}
    for line in lines:
        pin, _, marker = line.partition("; ")
        name, version = pin.split("==")
        for python in re.findall(r"3\.\d+", marker) or pins:
            pins[python][name] = version
    return pins


def write_pins(file: Path, pins: dict[str, dict[str, str]]) -> None:
    """Write what `read_pins` reads."""
    pythons = sorted(pins, key=lambda python: int(python.split(".")[1]))
    lines = [f"# Written by constraints/refresh.py for Python {' '.join(pythons)}"]
    for name in sorted(set().union(*pins.values())):
        for version in dict.fromkeys(pins[python][name] for python in pythons if name in pins[python]):
            holds = [python for python in pythons if pins[python].get(name) == version]
            marker = "" if holds == pythons else f'; python_version in "{" ".join(holds)}"'
            lines.append(f"{name}=={version}{marker}")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Refresh `constraints/pins.txt`."""
    file = ROOT / "constraints" / "pins.txt"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    pins = read_pins(file) | {python: resolve()}
    write_pins(file, pins)
    print(f"{file.name}: {len(pins[python])} distributions for Python {python}")


if __name__ == "__main__":
    main()
