"""Cosine clusters of points: fitted, named, on disk, and the head that gives their classes on the robot."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.untrusted_files import read_json, read_tensors, shown
from scene_completion_ros.voxels.colours import spread_colour
from scene_completion_ros.whole_files import tensor_bytes, write_whole
from scene_completion_training.arrays import Floats, Halves, Ints, Reals

CLUSTER_FILE = "clusters.safetensors"
HELD_OUT = 5  # every so many-th point is kept out of the fit, and measures how well it does
CLASS_FILE = "classes.json"
SCHEMA = 1
UNNAMED = "cluster_{:02d}"
# Colours of the classes that clusters are usually named after; those of others follow from their number.
CLASS_COLOURS: dict[str, tuple[int, int, int]] = {
    "car": (70, 110, 230), "bicycle": (90, 210, 230), "motorcycle": (40, 60, 150), "truck": (90, 40, 170),
    "other-vehicle": (60, 90, 200), "person": (235, 50, 50), "road": (160, 90, 160), "sidewalk": (235, 120, 230),
    "building": (235, 190, 60), "fence": (230, 120, 70), "vegetation": (40, 150, 50), "terrain": (150, 215, 90),
    "pole": (200, 200, 140), "traffic-sign": (235, 60, 40), "other-object": (120, 120, 120),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Clusters:
    """Cosine clusters: centres of length one, float32 [K, C]."""

    centres: Floats

    def assign(self, codes: Floats) -> Ints:
        """The cluster [N] of each code [N, C]: that of the largest cosine."""
        return np.asarray((codes @ self.centres.T).argmax(axis=1), dtype=np.int64)


def fit_clusters(codes: Floats, count: int, *, seed: int = 0) -> Clusters:
    """K-means of codes of length one [N, C], with centres of length one: the best of several starts.

    On the sphere the squared Euclidean distance is two minus twice the cosine: with centres brought back to length one
    this is cosine k-means but for the steps in between. Raises ConfigurationError for fewer codes than clusters.
    """
    from sklearn.cluster import KMeans

    if len(codes) < count:
        what = f"{len(codes)} points for {count} clusters"
        raise ConfigurationError(what, where="clusters", cure="Take more frames or fewer clusters")
    found = KMeans(count, n_init=4, random_state=seed).fit(codes).cluster_centers_
    return Clusters((found / np.linalg.norm(found, axis=1, keepdims=True).clip(1e-9)).astype(np.float32))


def write_clusters(file: Path, clusters: Clusters, codes: Floats, units: Halves) -> None:
    """Writes the centres, and the units [N, E] of points with the clusters of their codes [N, C], in random order."""
    order = np.random.default_rng(0).permutation(len(codes))
    arrays: dict[str, NDArray[Any]] = {
        "centres": clusters.centres,
        "units": units[order],
        "cluster": clusters.assign(codes[order]).astype(np.uint8),
    }
    write_whole(file, tensor_bytes(arrays))


def read_clusters(file: Path) -> tuple[Clusters, Halves, Ints]:
    """Reads centres, units [N, E] and clusters [N]; a `ConfigurationError` if the file is missing or damaged."""
    cure = "Make it with `scene-completion features classes`"
    arrays = read_tensors(file, ConfigurationError, cure=cure)
    if missing := {"centres", "units", "cluster"} - arrays.keys():
        raise ConfigurationError(f"lacks {', '.join(sorted(missing))}", where=str(file), cure=cure)
    return Clusters(arrays["centres"]), arrays["units"], arrays["cluster"].astype(np.int64)


@dataclass(frozen=True, eq=False)
class LabelHead:
    """Logits of the classes: weight · units + bias."""

    weight: Floats  # float32 [K, E]
    bias: Floats  # float32 [K]
    agreement: float  # share of the held-out points to which it gives the class that their cluster has

    def assign(self, units: Reals) -> Ints:
        """The class [N] of each point with units [N, E]: that of the largest logit."""
        return np.asarray((units @ self.weight.T + self.bias).argmax(axis=1), dtype=np.int64)


def fit_label_head(units: Reals, classes: Ints, count: int) -> LabelHead:
    """Multinomial logistic regression of classes [N], of `count`, on standardised hidden units [N, E], in random order.

    Between units and clusters lie two networks, of which nothing is left on the robot. A map from the units alone gives
    the same labels but for points between two clusters. Classes that no point has stay improbable. Raises
    ConfigurationError where there are fewer than two classes among the points.
    """
    from sklearn.linear_model import LogisticRegression

    held_out = np.arange(len(classes)) % HELD_OUT == 0
    known = np.unique(classes[~held_out])
    if len(known) < 2:
        what = f"{len(known)} of {count} classes among {len(classes)} points"
        raise ConfigurationError(what, where="classes", cure="Give the clusters at least two names, or label more")
    # Tokens have most in common: around their mean the fit takes far fewer steps, to the same result.
    mean, scale = units[~held_out].mean(axis=0), units[~held_out].std(axis=0) + 1e-6
    model = LogisticRegression(max_iter=300)
    model.fit((units[~held_out] - mean) / scale, classes[~held_out])
    weights = model.coef_ / scale
    biases = model.intercept_ - weights @ mean
    if len(known) == 2:  # one row stands for both
        weights, biases = np.concatenate([-weights, weights]) / 2.0, np.concatenate([-biases, biases]) / 2.0
    rows = np.zeros((count, units.shape[1]), np.float32)
    bias = np.full(count, -30.0, np.float32)
    rows[known], bias[known] = weights, biases
    head = LabelHead(rows, bias, math.nan)
    return dataclasses.replace(head, agreement=float((head.assign(units[held_out]) == classes[held_out]).mean()))


@dataclass(frozen=True)
class NamedClusters:
    """Clusters with their classes."""

    class_names: tuple[str, ...]  # names of the classes, in the order of their first cluster; each once
    class_colours: tuple[tuple[int, int, int], ...]  # RGB of each class, 0..255
    class_of_cluster: tuple[int, ...]  # the class of each cluster

    def classes(self, clusters: Ints) -> Ints:
        """Classes [...] of clusters [...]."""
        return np.asarray(self.class_of_cluster, np.int64)[clusters]


def write_class_file(
    file: Path,
    names: Sequence[str | None],  # class of each cluster; None for those without a name
    shares: Sequence[float],  # share of the voxels of each cluster, for the reader
    # Colours of classes; those that it lacks have their usual one.
    colours: Mapping[str, tuple[int, int, int]] | None = None,
) -> None:
    """Writes a class file."""
    known, clusters = CLASS_COLOURS | dict(colours or {}), []
    for number, (name, share) in enumerate(zip(names, shares, strict=True)):
        called = name or UNNAMED.format(number)
        colour = known.get(called) or spread_colour(number)
        clusters.append({"cluster": number, "name": called, "colour": colour, "share": round(share, 4)})
    content = {"schema": SCHEMA, "clusters": clusters}
    write_whole(file, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def read_class_file(file: Path, count: int) -> NamedClusters:
    """Reads the class file of `count` clusters; those of one name become a class with the colour of the first of them.

    Raises ConfigurationError where it is damaged, or has not each cluster once, a name for each and one colour a name.
    """
    content = read_json(file, ConfigurationError, cure="Correct it, or make it anew", kind=dict)
    try:
        if content["schema"] != SCHEMA:
            raise _error(file, "schema", f"is {shown(content['schema'])}, this version reads {SCHEMA}")
        entries = [_entry(file, number, entry) for number, entry in enumerate(content["clusters"])]
    except (ValueError, LookupError, TypeError) as error:
        raise _error(file, "", f"cannot be read ({type(error).__name__}: {error})") from error
    numbers = sorted(number for number, _, _ in entries)
    if numbers != list(range(count)):
        missing = sorted(set(range(count)) - set(numbers))
        wrong = sorted({number for number in numbers if numbers.count(number) > 1 or not 0 <= number < count})
        raise _error(file, "clusters", f"leaves out {missing}, has twice or unknown {wrong}")
    colours: dict[str, tuple[int, int, int]] = {}
    classes = []
    for number, name, colour in sorted(entries):
        first = colours.setdefault(name, colour)
        if colour != first:
            raise _error(file, f"clusters[{number}].colour", f"is {list(colour)}, another {name} has {first}")
        classes.append(list(colours).index(name))
    return NamedClusters(tuple(colours), tuple(colours.values()), tuple(classes))


def _entry(file: Path, position: int, entry: Any) -> tuple[int, str, tuple[int, int, int]]:
    number, name, colour = entry["cluster"], entry["name"], entry["colour"]
    if not isinstance(number, int) or isinstance(number, bool):
        raise _error(file, f"clusters[{position}].cluster", f"{shown(number)} is no number")
    if not isinstance(name, str) or not name.strip():
        raise _error(file, f"clusters[{position}].name", f"{shown(name)} is no name")
    whole = isinstance(colour, list) and len(colour) == 3 and all(type(c) is int and 0 <= c <= 255 for c in colour)
    if not whole:
        raise _error(file, f"clusters[{position}].colour", f"{shown(colour)} is no RGB colour, three values in 0..255")
    return number, name.strip(), (colour[0], colour[1], colour[2])


def _error(file: Path, field: str, what: str) -> ConfigurationError:
    return ConfigurationError(
        what, where=f"{file}{': ' + field if field else ''}", cure="Correct it, or make it anew with `features classes`"
    )
