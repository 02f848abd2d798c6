"""Maps of samples that are kept on disk."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from scene_completion_ros.errors import TrainingError
from scene_completion_training.data.kept_maps import KeptMaps


class Maker:
    """Counts how often it is asked; the maps of sample n hold n."""

    def __init__(self) -> None:
        self.calls = 0

    def of(self, numbers: torch.Tensor) -> list[torch.Tensor]:
        self.calls += 1
        return [numbers[:, None].float().expand(-1, 3) + 0.0, numbers[:, None, None].float().expand(-1, 2, 2) * -1.0]


def test_each_sample_is_computed_once(tmp_path: Path) -> None:
    maker, kept = Maker(), KeptMaps(tmp_path / "maps", 10, "a")
    for numbers in ([1, 4], [2, 9], [4, 1], [9, 4]):
        wanted = torch.tensor(numbers)
        first, second = kept.get(wanted, lambda wanted=wanted: maker.of(wanted))  # type: ignore[misc]
        torch.testing.assert_close(first, wanted[:, None].float().expand(-1, 3) + 0.0)
        torch.testing.assert_close(second, -wanted[:, None, None].float().expand(-1, 2, 2))
    assert maker.calls == 2
    again = KeptMaps(tmp_path / "maps", 10, "a")  # of the training that goes on
    again.get(torch.tensor([9, 2]), lambda: maker.of(torch.tensor([9, 2])))
    assert maker.calls == 2 and copy.deepcopy(again) is again


def test_a_full_disk_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    kept = KeptMaps(tmp_path / "maps", 2, "a")
    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(TrainingError, match="No space left") as caught:
        kept.get(torch.tensor([0]), lambda: [torch.zeros(1, 3)])
    assert "distinct_samples" in str(caught.value)
