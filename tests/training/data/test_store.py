"""Entries of the store are whole, belong to what they follow from, and go when they are too many and not used."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.cli import main
from scene_completion_ros.errors import SequenceError
from scene_completion_training.data.store import AGAIN, Arrays, Entry, Store, keyed, mapped_arrays


def squares(numbers: Sequence[int]) -> Iterator[Arrays]:
    """What processes of their own can make, too."""
    for number in numbers:
        yield {"square": np.array([number**2], np.int32), "process": np.array([os.getpid()], np.int32)}


def test_names_follow_from_all_that_an_entry_is_made_of() -> None:
    first, again = (keyed("drive/0", made) for made in ({"a": 1, "b": [0.5]}, {"b": [0.5], "a": 1}))
    assert first == again != keyed("drive/0", {"a": 1, "b": [0.25]}) and first.startswith("drive_0-")


@pytest.mark.parametrize("workers", [1, 2])
def test_only_what_is_missing_is_made(workers: int, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    entry = store.entry("squares", keyed("squares", 1))
    entry.write("5", {"square": np.array([-1], np.int32)})
    files = entry.fill({number: f"{number}" for number in range(17)}, squares, "number", workers)
    made = [mapped_arrays(file) for file in files]
    assert [int(arrays["square"][0]) for arrays in made] == [-1 if n == 5 else n**2 for n in range(17)]
    processes = {int(arrays["process"][0]) for arrays in made if "process" in arrays}
    assert (processes == {os.getpid()}) == (workers == 1)
    assert store.entry("squares", keyed("squares", 1)).fill({3: "3"}, squares, "number") == [files[3]]
    assert mapped_arrays(files[3])["process"] == made[3]["process"]


@pytest.mark.parametrize("name", ["", "a//b", "../a", "a/./b", "/a", "a/"])
def test_names_that_lead_elsewhere_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SequenceError, match="is no key"):
        Entry(tmp_path).write(name, {})


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:-50], lambda whole: whole[:20], lambda whole: b"", lambda whole: b"\x02\0\0\0\0\0\0\0[]",
        lambda whole: b"\xff" * 64, lambda whole: whole.replace(b"[3,6,3,4]", b"[9000000000000000000000]"),
        lambda whole: (4000).to_bytes(8, "little") + b"[" * 4000,
    ],
)  # fmt: skip
def test_damaged_files_are_named_with_the_cure(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    entry = Entry(tmp_path, "Bake it again")
    entry.write("a b/ä%:", {"values": np.zeros((3, 6, 3, 4), np.float16)})
    file = entry.file("a b/ä%:")
    changed = damage(file.read_bytes())
    assert changed != file.read_bytes()
    file.write_bytes(changed)
    with pytest.raises(SequenceError, match="damaged.*Bake it again") as caught:
        entry.read("a b/ä%:")
    assert str(file) in str(caught.value)
    with pytest.raises(SequenceError, match=AGAIN):
        mapped_arrays(file)


def test_what_was_not_used_for_longest_goes_when_no_other_uses_the_store(tmp_path: Path) -> None:
    """Of four entries of a kilobyte, three may stay; a folder that is none stays whatever its size."""
    store = Store(tmp_path)
    for number in range(4):
        entry = store.entry("zeros", f"zeros-{number}")
        entry.write("0", {"zeros": np.zeros(1000, np.uint8)})
        os.utime(entry.folder / ".entry", (1000 + number, 1000 + number))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_bytes(bytes(9000))
    os.utime(store.entry("zeros", "zeros-0").folder / ".entry", (2000, 2000))

    def names() -> set[str]:
        return {folder.name for folder in tmp_path.iterdir()}

    Store(tmp_path, most_bytes=4000).entry("zeros", "zeros-3")
    assert len(names()) == 5  # `store` is another user
    del store
    Store(tmp_path, most_bytes=4000).entry("zeros", "zeros-2")
    assert names() == {"other", "zeros-0", "zeros-2", "zeros-3"}
    Store(tmp_path, most_bytes=0).entry("zeros", "zeros-4")
    assert names() == {"other", "zeros-4"}


def test_the_command_lists_what_lies_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "--stored", f"data.cache={tmp_path / 'store'}"]
    assert main(command) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'store'}: nothing\n"
    store = Store(tmp_path / "store")
    store.entry("resized images", "drive-1").write("0", {"zeros": np.zeros(20_000_000, np.uint8)})
    store.entry("prepared frames", "drive-2")
    assert main(command) == 0
    total, last, first = capsys.readouterr().out.splitlines()
    assert "store: 0.02 GB of " in total and total.endswith("entries: 2")
    assert last.endswith(": prepared frames, drive-2") and first.startswith("     0.02 GB, used 20")
    assert first.endswith(": resized images, drive-1")
