"""Entries of the store are whole, and belong to what they follow from."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.errors import SequenceError
from scene_completion_training.data.store import AGAIN, Arrays, Entry, keyed, mapped_arrays


def squares(numbers: Sequence[int]) -> Iterator[Arrays]:
    """What processes of their own can make, too."""
    for number in numbers:
        yield {"square": np.array([number**2], np.int32), "process": np.array([os.getpid()], np.int32)}


def test_names_follow_from_all_that_an_entry_is_made_of() -> None:
    first, again = (keyed("drive/0", made) for made in ({"a": 1, "b": [0.5]}, {"b": [0.5], "a": 1}))
    assert first == again != keyed("drive/0", {"a": 1, "b": [0.25]}) and first.startswith("drive_0-")


@pytest.mark.parametrize("workers", [1, 2])
def test_only_what_is_missing_is_made(workers: int, tmp_path: Path) -> None:
    entry = Entry(tmp_path / "store" / "squares")
    entry.write("5", {"square": np.array([-1], np.int32)})
    files = entry.fill({number: f"{number}" for number in range(17)}, squares, "number", workers)
    made = [mapped_arrays(file) for file in files]
    assert [int(arrays["square"][0]) for arrays in made] == [-1 if n == 5 else n**2 for n in range(17)]
    processes = {int(arrays["process"][0]) for arrays in made if "process" in arrays}
    assert (processes == {os.getpid()}) == (workers == 1)
    assert Entry(entry.folder).fill({3: "3"}, squares, "number") == [files[3]]
    assert mapped_arrays(files[3])["process"] == made[3]["process"]


@pytest.mark.parametrize("name", ["a//b", "../a", "a/./b"])
def test_names_that_lead_elsewhere_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SequenceError, match="is no key"):
        Entry(tmp_path).write(name, {})


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:-50],
        lambda whole: b"",
        lambda whole: whole.replace(b"[3,6,3,4]", b"[9000000000000000000000]"),
    ],
)
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
