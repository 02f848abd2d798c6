"""Files appear all together, over nothing, and nowhere but in the folder."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.ros.publish.saving import write_together
from tests.unprivileged import unprivileged

CONTENTS = {"a.npz": b"first" * 10, "a.ply": b"second" * 1000}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "saved"
    folder.mkdir()
    return folder


@contextmanager
def sizes_limited_to(size: int) -> Iterator[None]:
    """Let files of this process grow no further, as on a full disk; no longer than needed: its output may be one."""
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_both_files_are_written(folder: Path) -> None:
    assert write_together(folder, CONTENTS) == [folder / name for name in CONTENTS]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == CONTENTS


@pytest.mark.parametrize("taken", list(CONTENTS))
def test_where_one_name_is_taken_nothing_is_written(folder: Path, taken: str) -> None:
    (folder / taken).write_bytes(b"of others")
    with pytest.raises(SceneCompletionError, match="is there already. Move it away"):
        write_together(folder, CONTENTS)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {taken: b"of others"}


@pytest.mark.parametrize("taken", list(CONTENTS))
def test_links_are_not_followed(folder: Path, tmp_path: Path, taken: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    for target in (victim, tmp_path / "not yet there"):
        (folder / taken).unlink(missing_ok=True)
        (folder / taken).symlink_to(target)
        with pytest.raises(SceneCompletionError, match="is there already"):
            write_together(folder, CONTENTS)
        assert [path.name for path in folder.iterdir()] == [taken]
    assert victim.read_bytes() == b"precious"
    assert {path.name for path in tmp_path.iterdir()} == {"saved", "victim"}


@pytest.mark.parametrize("name", ["", ".", "..", "../escape", "/tmp/escape", "below/escape", "nul\0"])
def test_only_plain_names(folder: Path, name: str) -> None:
    with pytest.raises(SceneCompletionError, match="is no name of a file"):
        write_together(folder, {name: b""})
    assert not list(folder.iterdir())


def test_a_full_disk_leaves_nothing(folder: Path) -> None:
    with (
        pytest.raises(SceneCompletionError, match="the node saved nothing: File too large") as caught,
        sizes_limited_to(1000),  # between the two sizes
    ):
        write_together(folder, CONTENTS)
    assert "ulimit -f" in caught.value.cure
    assert not list(folder.iterdir())


def test_a_folder_that_is_gone_or_none(folder: Path) -> None:
    folder.rmdir()
    with pytest.raises(SceneCompletionError, match="make it again"):
        write_together(folder, CONTENTS)
    folder.write_bytes(b"")
    with pytest.raises(SceneCompletionError, match="Not a directory"):
        write_together(folder, CONTENTS)


def test_a_folder_that_may_not_be_written_to() -> None:
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        with unprivileged(), pytest.raises(SceneCompletionError, match="This user may not write there"):
            write_together(Path(folder), CONTENTS)
        assert not list(Path(folder).iterdir())


def test_what_a_killed_process_left_is_removed_while_nobody_else_writes(folder: Path) -> None:
    left_over = folder / ".voxels_12_000000034.npz.0123abcd.part"
    of_others = folder / ".voxels_12_000000034.npz.part"
    left_over.write_bytes(b"half")
    of_others.write_bytes(b"of somebody else")
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_SH)  # as another process that writes
        write_together(folder, CONTENTS)
        assert left_over.exists()
    finally:
        os.close(opened)
    write_together(folder, {"b.npz": b"third"})
    assert {path.name for path in folder.iterdir()} == {*CONTENTS, "b.npz", of_others.name}


def test_a_second_file_that_a_killed_process_left_without_the_first_is_no_obstacle(folder: Path) -> None:
    (folder / "a.ply").write_bytes(CONTENTS["a.ply"])
    write_together(folder, CONTENTS)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == CONTENTS
    with pytest.raises(SceneCompletionError, match="is there already"):
        write_together(folder, CONTENTS)
