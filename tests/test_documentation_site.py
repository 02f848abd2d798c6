"""The documentation site: it builds strictly, is whole, loads nothing from elsewhere; its pictures can be made anew."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.checkout import ROOT, run_python

LOADED = re.compile(r'<(?:script|link|img|iframe)\b[^>]*?\s(?:src|href)="([^"]*)"')  # what a page loads by itself


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("documentation") / "site"
    command = ("-m", "mkdocs", "build", "--strict", "--site-dir", folder)  # --quiet would hide warnings from --strict
    done = run_python(*command, NO_MKDOCS_2_WARNING="1")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_pages_load_nothing_from_elsewhere_and_everything_is_there(site: Path) -> None:
    for path in site.rglob("*.html"):
        for address in LOADED.findall(path.read_text(encoding="utf-8")):
            assert not re.match(r"(https?:)?//", address), (path, address)
            if path.name != "404.html":
                assert (path.parent / address.partition("?")[0].partition("#")[0]).exists(), (path, address)


def test_every_document_and_every_room_has_a_page(site: Path) -> None:
    documents = [path.stem for path in (ROOT / "docs").glob("*.md")]
    assert all((site / f"{name}.html").is_file() for name in documents)
    geometry = (site / "reference" / "scene_completion_ros.geometry.html").read_text(encoding="utf-8")
    assert 'id="scene_completion_ros.geometry.Camera"' in geometry
    voxels = (site / "reference" / "scene_completion_ros.voxels.html").read_text(encoding="utf-8")
    assert "calibrated probability of being occupied" in voxels  # a comment next to a field


@pytest.mark.timeout(3600)
def test_the_command_makes_all_pictures_of_the_documents(tmp_path: Path) -> None:
    experiment, made = tmp_path / "experiment" / "pictures", tmp_path / "made"
    experiment.mkdir(parents=True)
    results = "recordings_20_classes_2000", "uncertainty", "confusion_recordings_20_classes_2D_and_3D_mean"
    for name in results:  # of a training
        cv2.imwrite(str(experiment / f"{name}.png"), np.zeros((20, 900, 3), np.uint8))
    done = run_python("docs/make_pictures.py", "--output", made, "--experiment", experiment.parent, timeout_s=3500.0)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in made.iterdir()} == {path.name for path in (ROOT / "docs" / "pictures").iterdir()}
