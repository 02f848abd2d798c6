"""Publishing from the command line, to a small hub of our own, with the client in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub")

from scene_completion_ros.inference.bundle import StudentBundle, load_default_bundle
from tests.checkout import run_python
from tests.inference.hub_server import Hub

COMMAND = "import sys; from scene_completion_ros.cli import main; sys.exit(main())"
LOAD = "from scene_completion_ros.inference.shipped import open_student; print(open_student({!r}).folder)"


def test_what_is_published_can_be_loaded_by_its_name(tmp_path: Path) -> None:
    """As HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE have it."""
    bundle = load_default_bundle().save(tmp_path / "mine", b"an ONNX graph" * 200)
    (tmp_path / "mine" / "README.md").write_text("# Mine\n\nMy words.", encoding="utf-8")
    with Hub().served() as server:
        hub = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        token = "hf_secret"
        published = run_python("-c", COMMAND, "publish", tmp_path / "mine", "hf:robots/mine", **hub, HF_TOKEN=token)
        assert published.returncode == 0, published.stderr
        named = published.stdout.splitlines()[-1]
        assert named.startswith("hf:robots/mine@")
        assert token not in published.stdout + published.stderr
        assert b"My words." in server.files("robots/mine")["README.md"]
        fetched = run_python("-c", LOAD.format(named), **hub)
        assert fetched.returncode == 0, fetched.stderr
    folder = Path(fetched.stdout.strip())
    assert folder.is_relative_to(tmp_path / "home")
    assert StudentBundle.load(folder).sha256 == bundle.sha256
    assert run_python("-c", LOAD.format(named), **hub, HF_HUB_OFFLINE="1").stdout == fetched.stdout
    unknown = run_python("-c", LOAD.format("hf:robots/mine@main"), **hub, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in unknown.stderr  # the commit was fetched, and never the branch


def test_card_alone_needs_no_hub(tmp_path: Path) -> None:
    card = tmp_path / "card.md"
    made = run_python("-c", COMMAND, "publish", "kitti_student", "hf:robots/mine", "--card-only", card)
    assert made.returncode == 0, made.stderr
    assert "hf:robots/mine" in card.read_text(encoding="utf-8")


def test_wrong_name_is_said_in_one_line() -> None:
    refused = run_python("-c", COMMAND, "publish", "kitti_student", "robots/mine")
    assert refused.returncode == 2
    assert "hf:owner/name" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
