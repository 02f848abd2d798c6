"""The pictures of the documents: they are there, small, and whole; and what makes them still does."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import pytest

from tests.checkout import run_python
from tests.inference.small_bundle import make_small_bundle
from tests.inference.small_vocabulary import small_bank, small_space
from tests.ros_domain import next_domain

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = REPOSITORY / "docs"
PICTURES = DOCUMENTS / "pictures"
LARGEST_BYTES = 200_000


def test_every_picture_is_shown_somewhere_and_every_picture_shown_is_there() -> None:
    shown = {
        (document.parent / name).resolve()
        for document in (*DOCUMENTS.glob("*.md"), REPOSITORY / "README.md")
        for name in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", document.read_text(encoding="utf-8"))
    }
    assert shown == {path.resolve() for path in PICTURES.iterdir()}


def test_pictures_are_small_and_whole() -> None:
    for path in PICTURES.iterdir():
        assert path.stat().st_size < LARGEST_BYTES, path
        picture = cv2.imread(str(path))
        assert picture is not None, path
        assert picture.std() > 10.0, path


def test_the_command_makes_all_of_them_from_a_running_node(tmp_path: Path) -> None:
    pytest.importorskip("rclpy")
    bundle = make_small_bundle(tmp_path / "bundle", threshold=0.1, classes=5)
    bundle.with_vocabulary([small_space()], small_bank())
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        "origin: [2.0, -3.2, -1.6]\nvoxel_size: 0.2\nshape: [32, 32, 16]\n"
        "grid_from_camera: [0, 0, 1, 0, -1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 0, 1]\n",
        encoding="utf-8",
    )
    given = ("--output", tmp_path / "made", "--image", "39", "--bundle", tmp_path / "bundle", "--grid", grid)
    variables = {"ROS_DOMAIN_ID": next_domain(), "ROS_LOG_DIR": str(tmp_path / "log")}
    done = run_python("docs/make_pictures.py", *given, **variables)
    assert done.returncode == 0, done.stderr
    made = {path.name for path in (tmp_path / "made").iterdir()}
    assert made == {path.name for path in PICTURES.iterdir()} | {"words.webp"}
    assert all(cv2.imread(str(path)) is not None for path in (tmp_path / "made").iterdir())
