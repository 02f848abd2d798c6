"""The pictures of the documents: they are there, small, and whole; and what makes them still does."""

import re
from pathlib import Path

import cv2

from tests.checkout import run_python

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


def test_the_command_makes_all_of_them(tmp_path: Path) -> None:
    done = run_python("docs/make_pictures.py", "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in PICTURES.iterdir()}
