"""A survey of training recordings, and contact sheets of it: where a cluster lies, so that somebody can name it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.sequences.rigs import reference_camera
from scene_completion_training.clustering.clusters import Clusters, NamedClusters
from scene_completion_training.evaluation.semantic_models import FeatureFieldModel, surface_points

TILE = (120, 180)  # height and width of a tile, pixels
COLUMNS = 6
TILES = 3 * COLUMNS
_HEADER = 34
_MARGIN = 4


@dataclass(frozen=True, eq=False)
class Survey:
    """Points of training recordings."""

    recordings: Sequence[PosedSequence]
    recording: NDArray[np.int64]  # number of the recording of each point [N]
    frame: NDArray[np.int64]  # its frame [N]
    pixel: NDArray[np.float64]  # where it lies in the image of the reference camera [N, 2], u and v
    codes: NDArray[np.float32]  # what is clustered, of length one, float32 [N, C]
    units: NDArray[np.float16]  # hidden units of the features, float16 [N, E]


def survey(
    model: FeatureFieldModel, recordings: Sequence[PosedSequence], *, every: int = 1, points_a_frame: int = 500
) -> Survey:
    """Looks at so many pixels of every so many-th frame; a `ConfigurationError` if none shows a surface."""
    generator = np.random.default_rng(0)
    parts: list[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float32], NDArray[np.float16]]] = []
    for number, sequence in enumerate(recordings):
        camera = sequence.cameras[reference_camera(sequence)]
        for index in range(0, len(sequence), every):
            observed = model.observe(sequence, index)
            points = surface_points(observed, generator, points_a_frame)
            places = np.tile(np.array([[number, index]]), (len(points), 1))
            pixels = np.asarray(camera.project(points.astype(np.float64))[0])
            assert observed.units is not None  # a feature field has some
            parts.append((places, pixels, observed.codes(points), observed.units(points).astype(np.float16)))
    if not sum(len(part[0]) for part in parts):
        what = "no pixel of any frame shows a surface"
        raise ConfigurationError(what, where="survey", cure="Check the student and the recordings")
    places, pixels, codes, units = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Survey(recordings, places[:, 0], places[:, 1], pixels, codes, units)


def write_contact_sheets(folder: Path, clusters: Clusters, found: Survey, named: NamedClusters) -> list[Path]:
    """Writes a page for each cluster: the points nearest to its centre, at most one a frame."""
    cosine = found.codes @ clusters.centres.T
    assigned = cosine.argmax(axis=1)
    files = []
    for number in range(len(clusters.centres)):
        of_class = named.class_of_cluster[number]
        name, colour = named.class_names[of_class], named.class_colours[of_class]
        tiles = []
        for point in _typical(found, np.flatnonzero(assigned == number), cosine[:, number]):
            sequence = found.recordings[found.recording[point]]
            image = sequence.image(int(found.frame[point]), reference_camera(sequence))
            u, v = found.pixel[point]
            tiles.append(tile(image, (float(u), float(v)), colour))
        share = 100.0 * float((assigned == number).mean())
        page = contact_sheet(tiles, f"cluster {number}: {name}, {share:.1f} % of the points", colour)
        files.append(folder / f"cluster_{number:02d}.png")
        cv2.imwrite(str(files[-1]), page[..., ::-1])
    return files


def _typical(found: Survey, members: NDArray[np.int64], cosine: NDArray[np.float32]) -> list[int]:
    """Points of a cluster, nearest to its centre first, of as many frames as there are."""
    chosen: dict[tuple[int, int], int] = {}
    for point in members[np.argsort(-cosine[members])]:
        chosen.setdefault((int(found.recording[point]), int(found.frame[point])), int(point))
        if len(chosen) == TILES:
            break
    return list(chosen.values())


def tile(image: NDArray[np.uint8], pixel: tuple[float, float], colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """What lies around a pixel of an RGB image [H, W, 3], ringed, moved to stay in it: uint8 [*TILE, 3]."""
    height, width = TILE
    top = int(np.clip(round(pixel[1]) - height // 2, 0, max(0, image.shape[0] - height)))
    left = int(np.clip(round(pixel[0]) - width // 2, 0, max(0, image.shape[1] - width)))
    cut = np.full((height, width, 3), 96, np.uint8)
    part = image[top : top + height, left : left + width]
    cut[: part.shape[0], : part.shape[1]] = part
    centre = (round(pixel[0]) - left, round(pixel[1]) - top)
    for shade, thickness in (((0, 0, 0), 4), (colour, 2)):
        cv2.circle(cut, centre, 9, shade, thickness, cv2.LINE_AA)
    return cut


def contact_sheet(tiles: Sequence[NDArray[np.uint8]], title: str, colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """A page of tiles under a title on the class's colour: uint8 [H, W, 3]."""
    height, width = TILE
    rows = max(1, -(-len(tiles) // COLUMNS))
    step_y, step_x = height + _MARGIN, width + _MARGIN
    page = np.full((_HEADER + rows * step_y + _MARGIN, COLUMNS * step_x + _MARGIN, 3), 255, np.uint8)
    page[: _HEADER - 2] = colour
    dark = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] < 140
    shade = (255, 255, 255) if dark else (0, 0, 0)
    cv2.putText(page, title, (8, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.6, shade, 1, cv2.LINE_AA)
    for number, cut in enumerate(tiles):
        top = _HEADER + _MARGIN + number // COLUMNS * step_y
        left = _MARGIN + number % COLUMNS * step_x
        page[top : top + height, left : left + width] = cut
    return page
