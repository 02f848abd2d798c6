"""Pieces on the disk: whole or not there, within their budget, and found again."""

import errno
import json
import os
import signal
from pathlib import Path

import pytest

from scene_completion_ros.bags.pieces import DESCRIPTION, Moment, PieceStore, RolledMessage, RolledPiece, expected_size
from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.bags.writer import BagWriter
from scene_completion_ros.errors import BagError
from scene_completion_ros.messages.drop_reasons import RecordReason

SECOND_NS = 1_000_000_000
KIND = "std_msgs/msg/String"
SIZE = 1_000_000


def piece(second: int, value: float, size: int = SIZE) -> RolledPiece:
    moment = Moment(second * SECOND_NS, RecordReason("Unsure / far", "why", value), 77)
    messages = (
        RolledMessage(second * SECOND_NS, "/tf_static", KIND, b"latched!", latched=True),
        RolledMessage(second * SECOND_NS, "/text", KIND, bytes(size)),
    )
    return RolledPiece(second * SECOND_NS, (second + 1) * SECOND_NS, (moment,), messages, whole=True)


BUDGET = 3 * expected_size(piece(0, 0.5).messages)


def seconds(store: PieceStore) -> list[int]:
    return sorted(kept.start_ns // SECOND_NS for kept in store.kept)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def test_a_piece_is_a_bag_with_its_reasons(tmp_path: Path) -> None:
    with PieceStore(tmp_path / "new" / "folder", BUDGET) as store:
        kept = store.write(piece(1_700_000_000, 0.25))
    assert kept.path.name == "2023-11-14T22-13-20.000Z_unsure___far"
    with BagReader(kept.path) as bag:
        assert bag.losses == []
        assert bag.counts == {"/tf_static": 1, "/text": 1}
        (message,) = bag.messages(["/text"])
        assert (message.stamp_ns, message.raw) == (1_700_000_000 * SECOND_NS, bytes(SIZE))
    said = json.loads((kept.path / DESCRIPTION).read_text())
    assert said["value"] == 0.25 and said["whole"] is True
    assert said["messages"] == {"/tf_static": 1, "/text": 1}
    (moment,) = said["moments"]
    assert (moment["name"], moment["message"], moment["stamp_ns"]) == ("Unsure / far", "why", 77)
    assert kept.size == sum(file.stat().st_size for file in kept.path.iterdir()) <= BUDGET / 3


def test_the_least_valuable_make_room_and_the_oldest_of_equals(tmp_path: Path) -> None:
    with PieceStore(tmp_path, BUDGET) as store:
        for second, value in ((1, 0.5), (2, 0.2), (3, 0.5)):
            assert store.write(piece(second, value))
        assert store.write(piece(4, 0.3))  # in the place of 2
        assert seconds(store) == [1, 3, 4]
        assert store.write(piece(5, 0.1)) is None  # all are worth more
        assert seconds(store) == [1, 3, 4]
        assert store.write(piece(6, 0.5))  # 4 is worth least
        assert store.write(piece(7, 0.5))  # 1 is the oldest
        assert seconds(store) == [3, 6, 7]
        assert store.size <= BUDGET
        assert len(names(tmp_path)) == 3
        # A large one replaces several, or none.
        assert store.write(piece(8, 0.4, 2 * SIZE)) is None
        assert seconds(store) == [3, 6, 7]
        assert store.write(piece(9, 0.6, 2 * SIZE))
        assert seconds(store) == [7, 9]


def kill_while_it_writes(folder: Path) -> None:
    child = os.fork()
    if not child:
        BagWriter.write = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        with PieceStore(folder, BUDGET) as store:
            store.write(piece(1_700_000_000, 0.9))
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_a_restart_counts_what_is_there_and_clears_what_is_not_whole(tmp_path: Path) -> None:
    with PieceStore(tmp_path, BUDGET) as store:
        for second in (1, 2):
            store.write(piece(second, 0.1 * second))
    kill_while_it_writes(tmp_path)
    (half,) = tmp_path.glob(".*.part")
    others = [tmp_path / name for name in ("my bag", ".my bag.part", f"{half.name[:-5]}_of_somebody.part")]
    for other in others:
        with BagWriter(other) as bag:
            bag.write("/text", KIND, bytes(10 * BUDGET), 1)
    others += [tmp_path / ".a.part", tmp_path / ".link.part"]
    others[-2].write_text("a file")
    others[-1].symlink_to(half)
    strange = {
        "list": "[]",
        "deep": "[" * 5000,
        "other": '{"format": "other", "value": 0.0, "start_ns": 1}',
        "worthless": '{"format": "scene_completion_record/1", "value": NaN, "start_ns": 1}',
    }
    for name, text in strange.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / DESCRIPTION).write_text(text)
    with PieceStore(tmp_path, BUDGET) as store:
        assert seconds(store) == [1, 2]
        assert not half.exists()
        for second in (3, 4):
            assert store.write(piece(second, 0.5))
        assert seconds(store) == [2, 3, 4]
    # What is not its own, it leaves alone.
    assert all(os.path.lexists(path) for path in others)
    assert all((tmp_path / name).is_dir() for name in strange)


def test_two_recorders_do_not_share_a_folder_and_one_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    with PieceStore(tmp_path, BUDGET), pytest.raises(BagError, match="another recorder"), PieceStore(tmp_path, BUDGET):
        pass
    with PieceStore(tmp_path, BUDGET) as store:
        assert store.kept == []
    (tmp_path / "file").touch()
    with pytest.raises(BagError, match="cannot be written to"), PieceStore(tmp_path / "file" / "folder", BUDGET):
        pass


def test_a_full_disk_leaves_whole_pieces_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with PieceStore(tmp_path, BUDGET) as store:
        store.write(piece(1, 0.5))

        def full(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(BagWriter, "write", full)
            with pytest.raises(OSError, match="No space left"):
                store.write(piece(2, 0.5))
        assert len(names(tmp_path)) == 1
        assert store.write(piece(3, 0.5))
        assert seconds(store) == [1, 3]


def test_a_folder_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "pieces"
    with PieceStore(folder, BUDGET) as store:
        (folder / ".lock").unlink()
        folder.rmdir()
        with pytest.raises(FileNotFoundError):
            store.write(piece(1, 0.5))
    assert not folder.exists()
