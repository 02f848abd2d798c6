"""Classes of the indoor data sets, in the order of their papers: see `label_sets.yaml` beside this file."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import SequenceError, VocabularyError
from scene_completion_ros.untrusted_files import read_yaml
from scene_completion_training.points.scene import UNLABELLED

# Classes of what is none of the others, by name: the released code of OpenScene finds them by index, and overwrites
# 'air vent', 'headboard' and 'person' with 'other' in the longer lists of Matterport3D.
OTHERS = ("other", "otherfurniture")
_FILE = Path(__file__).with_name("label_sets.yaml")
_PARTS = {"matterport40": 40, "matterport80": 80}  # the most frequent classes of matterport160


@dataclass(frozen=True)
class LabelSet:
    """Names of K classes."""

    name: str
    classes: tuple[str, ...]
    ids: tuple[int, ...] = ()  # of each class in its data set; none where that has names alone

    def labels(self, ids: NDArray[Any], known: int, where: str) -> NDArray[np.int64]:
        """Classes of ids [N]: 0..K - 1, `UNLABELLED` where an id is of none of them.

        Raises SequenceError where there are ids beyond: they are of another list. `known`: the largest id that the data
        set has.
        """
        table = np.full(known + 1, UNLABELLED, np.int64)
        table[list(self.ids)] = np.arange(len(self.ids))
        return looked_up(table, ids, where)


def looked_up(table: NDArray[np.int64], ids: NDArray[Any], where: str) -> NDArray[np.int64]:
    """Entries of a table by ids; -1 stands for nothing known.

    Raises SequenceError where there are ids beyond the table.
    """
    beyond = (ids < UNLABELLED) | (ids >= len(table))
    if beyond.any():
        some = ", ".join(map(str, np.unique(ids[beyond])[:5].tolist()))
        cure = "These are ids of another list: name the label set that they belong to"
        raise SequenceError(f"has labels {some}, but its list ends at {len(table) - 1}", where=where, cure=cure)
    return np.where(ids < 0, UNLABELLED, table[np.maximum(ids, 0).astype(np.int64)])


@lru_cache(maxsize=1)
def label_sets() -> dict[str, LabelSet]:
    """All label sets by name: scannet20, scannet200, matterport21, -40, -80 and -160, s3dis."""
    stored = read_yaml(_FILE, VocabularyError, cure="Install the package again", kind=dict)
    found = {name: LabelSet(name, tuple(of["classes"]), tuple(of.get("ids", ()))) for name, of in stored.items()}
    return found | {name: LabelSet(name, found["matterport160"].classes[:first]) for name, first in _PARTS.items()}


def label_set(name: str, among: str = "") -> LabelSet:
    """A label set by its name. Raises VocabularyError where there is none, or it is of another data set.

    `among`: how names of usable ones begin, where a data set has its own.
    """
    usable = sorted(known for known in label_sets() if known.startswith(among))
    if name not in usable:
        raise VocabularyError(f"there are no labels {name!r} here", cure=f"Name one of {', '.join(usable)}")
    return label_sets()[name]
