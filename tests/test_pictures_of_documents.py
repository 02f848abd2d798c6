"""What makes the pictures of the documents still does."""

from pathlib import Path

from tests.checkout import ROOT, run_python


def test_the_command_makes_all_of_them(tmp_path: Path) -> None:
    done = run_python("docs/make_pictures.py", "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in (ROOT / "docs" / "pictures").iterdir()}
