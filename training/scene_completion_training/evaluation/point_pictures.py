"""Pictures of scenes of points and of their features, of confusions, and of curves of a training."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.evaluation.semantics import unit_vectors
from scene_completion_ros.report.pictures import INK, Picture, class_legend, draw_text
from scene_completion_ros.voxels.colours import spread_colour
from scene_completion_training.arrays import Bytes, Floats, Ints, Reals
from scene_completion_training.clustering import fit_clusters
from scene_completion_training.points.features import principal_colours

SIDE, HEADING, GAP = 420, 26, 10  # pixels: edge of a picture, height of its title, and between pictures
YAW, DOWN = np.radians(30.0), np.radians(55.0)  # where a scene is seen from
CEILING = 0.75  # share of the height of a scene above which points are left out: the ceiling hides the others
CLUSTERED, EMBEDDED = 20_000, 1000  # points that clusters are fitted to, and that are embedded in a plane
UNKNOWN = (215, 215, 215)


def oblique_view(points: Reals, colours: Bytes) -> Picture:
    """Points [N, 3], z up, in colours [N, 3], seen obliquely from above; what stands higher than `CEILING` is left out.

    Nearer points hide those behind.
    """
    low, high = np.quantile(points[:, 2], (0.01, 0.99))
    kept = points[:, 2] <= low + CEILING * (high - low)
    place = points[kept] - points[kept].mean(axis=0)
    x = place[:, 0] * np.cos(YAW) - place[:, 1] * np.sin(YAW)
    ahead = place[:, 0] * np.sin(YAW) + place[:, 1] * np.cos(YAW)
    up = ahead * np.sin(DOWN) + place[:, 2] * np.cos(DOWN)
    nearness = place[:, 2] * np.sin(DOWN) - ahead * np.cos(DOWN)
    return _splats(np.stack([x, up], axis=1), colours[kept], nearness)


def plane_view(features: Reals, colours: Bytes) -> Picture:
    """Features [N, D] of some points in a plane by t-SNE, each a dot of its colour [N, 3]."""
    from sklearn.manifold import TSNE

    rows = np.random.default_rng(0).permutation(len(features))[:EMBEDDED]
    vectors = unit_vectors(features[rows])
    embedded = TSNE(init="pca", perplexity=min(30.0, (len(rows) - 1) / 3.0), random_state=0).fit_transform(vectors)
    return _splats(embedded, colours[rows], np.arange(len(rows), dtype=np.float32), radius=2)


def _splats(place: Reals, colours: Bytes, nearness: Reals, radius: int | None = None) -> Picture:
    """Squares at places [N, 2] (right, up); the nearest are drawn last."""
    picture = np.full((SIDE, SIDE, 3), 255, np.uint8)
    reach = max(1, round(0.7 * SIDE / np.sqrt(max(len(place), 1)))) if radius is None else radius
    order, low = np.argsort(nearness, kind="stable"), place.min(axis=0)
    extent = float(np.ptp(place, axis=0).max()) or 1.0
    margin = reach + 4
    centred = place - low + (extent - np.ptp(place, axis=0)) / 2.0
    column, row = (margin + centred[order] / extent * (SIDE - 1 - 2 * margin)).round().astype(np.int64).T
    across, down = np.meshgrid(*[np.arange(-(reach // 2), (reach + 1) // 2 + 1)] * 2)
    at = SIDE - 1 - row[:, None] + down.reshape(-1), column[:, None] + across.reshape(-1)
    picture[at] = colours[order, None]  # of a pixel that comes again, the last one stays
    return picture


def cluster_colours(features: Reals, count: int) -> Bytes:
    """RGB [N, 3] of the clusters of features [N, D] by cosine; grey for what has none."""
    vectors = unit_vectors(features)
    known = np.flatnonzero(vectors.any(axis=1))
    clusters = fit_clusters(vectors[np.random.default_rng(0).permutation(known)[:CLUSTERED]], count)
    return class_colours(np.where(vectors.any(axis=1), clusters.assign(vectors), -1), count)


def class_colours(labels: Ints, count: int) -> Bytes:
    """RGB [N, 3] of classes [N] of so many; grey for others."""
    table = np.array([*map(spread_colour, range(count)), UNKNOWN], np.uint8)
    return table[np.where((labels >= 0) & (labels < count), labels, count)]


def heat_colours(values: Reals, most: float) -> Bytes:
    """RGB [N, 3] of values [N] in 0..most, dark to bright; grey for NaN."""
    shares = np.rint(255.0 * np.clip(np.nan_to_num(values) / max(most, 1e-9), 0.0, 1.0)).astype(np.uint8)
    found = cv2.applyColorMap(shares[:, None], cv2.COLORMAP_INFERNO)[:, 0, ::-1]
    return np.where(np.isfinite(values)[:, None], found, np.array(UNKNOWN, np.uint8))


def scene_sheet(
    title: str,
    points: Floats,
    class_names: Sequence[str],
    true: Ints,
    features: Mapping[str, Reals],  # [N, D] by name; zeros where there is none
    answers: Mapping[str, Ints],  # classes [N] by name
    ambiguity: Mapping[str, Floats] | None = None,  # circular variance [N] by teacher; NaN where it is not known
) -> Picture:
    """A scene by each of its features (principal components, clusters, and in a plane), its classes and ambiguity."""
    count = len(class_names)
    rows: list[list[tuple[str, Picture]]] = []
    for name, values in features.items():
        known = np.flatnonzero(np.any(values, axis=1))
        colours = np.tile(np.array(UNKNOWN, np.uint8), (len(points), 1))
        colours[known] = principal_colours(unit_vectors(values[known]))
        in_plane = plane_view(values[known], class_colours(true[known], count))
        rows.append([
            (f"{name}: principal components", oblique_view(points, colours)),
            (f"{name}: {count} clusters", oblique_view(points, cluster_colours(values, count))),
            (f"{name}: t-SNE, true classes", in_plane),
        ])  # fmt: skip
    tiles = [(name, oblique_view(points, class_colours(labels, count))) for name, labels in answers.items()]
    for name, values in (ambiguity or {}).items():
        most = float(np.nanquantile(values, 0.98)) if np.isfinite(values).any() else 1.0
        tiles.append((f"{name}: ambiguity 0 to {most:.2g}", oblique_view(points, heat_colours(values, most))))
    tiles.insert(0, ("true classes", oblique_view(points, class_colours(true, count))))
    rows += [tiles[start : start + 3] for start in range(0, len(tiles), 3)]
    width = 3 * (SIDE + GAP) + GAP
    picture = np.full((HEADING + len(rows) * (SIDE + HEADING + GAP), width, 3), 255, np.uint8)
    draw_text(picture, title, (GAP, 18), scale=0.55)
    for number, row in enumerate(rows):
        top = HEADING + number * (SIDE + HEADING + GAP)
        for place, (name, tile) in enumerate(row):
            left = GAP + place * (SIDE + GAP)
            draw_text(picture, name, (left, top + 17))
            picture[top + HEADING : top + HEADING + SIDE, left : left + SIDE] = tile
    legend = class_legend(class_names, [spread_colour(number) for number in range(count)], width=width - 2 * GAP)
    return np.concatenate([picture, np.pad(legend, ((0, GAP), (GAP, GAP), (0, 0)), constant_values=255)])


def confusion_picture(title: str, confusion: Ints, class_names: Sequence[str]) -> Picture:
    """Counts [rows, K] of predicted (rows) and true classes (columns), as shares of the true ones: white to blue."""
    shares = confusion / np.maximum(confusion.sum(axis=0), 1)
    cell = max(4, min(34, 700 // len(class_names)))
    left, top = 150, 60
    size = (top + cell * len(shares) + 130, left + cell * len(class_names) + 30, 3)
    picture = np.full(size, 255, np.uint8)
    draw_text(picture, f"{title}: predicted (rows) of true (columns), percent", (GAP, 20), scale=0.5)
    colours = np.rint(255 - shares[..., None] * np.array([215, 150, 60])).astype(np.uint8)
    drawn = np.kron(colours, np.ones((cell, cell, 1), np.uint8))
    picture[top : top + drawn.shape[0], left : left + drawn.shape[1]] = drawn
    if cell < 12:
        return picture
    for row, name in enumerate([*class_names, "no feature"][: len(shares)]):
        draw_text(picture, name[:20], (GAP, top + cell * row + cell // 2 + 4), scale=0.38)
        for column, share in enumerate(shares[row]):
            middle = (left + cell * column + cell // 2, top + cell * row + cell // 2 + 4)
            if cell >= 24 and share >= 0.005:
                draw_text(picture, f"{100 * share:.0f}", middle, scale=0.35, centred=True)
    names = np.full((size[1], 130, 3), 255, np.uint8)  # turned by a quarter below the columns
    for column, name in enumerate(class_names):
        draw_text(names, name[:18], (4, size[1] - (left + cell * column + cell // 2) + 4), scale=0.38)
    picture[top + drawn.shape[0] :] = np.rot90(names, -1)[:130]
    return picture


def curves_picture(title: str, curves: Mapping[str, Sequence[tuple[int, float]]]) -> Picture:
    """Curves of (step, value) by name, with their axes."""
    width, height, left, top = 760, 420, 60, 50
    picture = np.full((height + top + 60, width + left + 30, 3), 255, np.uint8)
    draw_text(picture, title, (GAP, 20), scale=0.5)
    steps, values = np.array([point for of in curves.values() for point in of], np.float64).T
    ends = ((0.0, steps.max()), (values.min(), values.max()))
    spans = [(low, high if high > low else low + 1.0) for low, high in ends]

    def pixels(points: Sequence[tuple[float, float]]) -> NDArray[np.int32]:
        (first, last), (low, high) = spans
        step, value = np.array(points, np.float64).T
        x = left + (step - first) / (last - first) * width
        y = top + (1.0 - (value - low) / (high - low)) * height
        return np.stack([x, y], axis=1).round().astype(np.int32)

    cv2.rectangle(picture, (left, top), (left + width, top + height), INK, 1)
    for share in np.linspace(0.0, 1.0, 5):
        step, value = (low + share * (high - low) for low, high in spans)
        draw_text(picture, f"{step:.0f}", (left + round(share * width), top + height + 18), centred=True)
        draw_text(picture, f"{value:.4g}", (8, top + round((1.0 - share) * height) + 4))
    for number, of in enumerate(curves.values()):
        cv2.polylines(picture, [pixels(of)], False, spread_colour(number), 2, cv2.LINE_AA)
    legend = class_legend(list(curves), [spread_colour(number) for number in range(len(curves))], width=width)
    picture[top + height + 28 : top + height + 28 + len(legend), left : left + width] = legend[: 60 - 28]
    return picture


def read_curves(folder: Path, beginning: str) -> dict[str, list[tuple[int, float]]]:
    """What a training logged under names that begin so: (step, value) by the rest of the name; nothing without a log.

    `folder`: the `curves` of its output.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not any(folder.glob("events*")):
        return {}
    events = EventAccumulator(str(folder))
    events.Reload()
    names = [name for name in events.Tags()["scalars"] if name.startswith(beginning)]
    return {name.removeprefix(beginning): [(e.step, e.value) for e in events.Scalars(name)] for name in names}
