"""A report folder that grows frame by frame and loses nothing when its process is interrupted."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import GridError, SceneCompletionError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.report.evidence_plot import Summary, evidence_in_words
from scene_completion_ros.report.html import embedded, pack_lidar, pack_matches, pack_voxels, write_page
from scene_completion_ros.report.pictures import (
    birds_eye_view,
    depth_of_voxels,
    depth_picture,
    encode_picture,
    panel,
    scaled_down,
    voxel_view,
    with_lidar,
    write_picture,
)
from scene_completion_ros.untrusted_files import read_text
from scene_completion_ros.voxels.semantic_voxels import PhraseMatches, SemanticVoxels
from scene_completion_ros.whole_files import whole_file

_PARTS = (("camera_jpg", "_camera.jpg"), ("depth_jpg", "_depth.jpg"), ("seen_png", "_seen.png"))
_WIDEST_IMAGE = 640  # pixels; the page carries every image
_QUALITY = 80
LARGEST_PAGE = 8_000_000  # bytes: a browser cannot hold an hour of voxels
_DATA = (("voxels", "_voxels.bin"), ("lidar", "_lidar.bin"))
_MATCHES = "_matches.bin"
_OWN = re.compile(
    r"index\.html|pictures/\d{6,}\.jpg"
    r"|frames/\d{6,}(\.json|_(camera|depth)\.jpg|_seen\.png|_(voxels|lidar|matches)\.bin)"
)
_MOVE = "Move it away, or name another folder"


class ReportWriter:
    """Writes ``pictures/*.jpg`` (for people) and ``frames/*`` (for the page) at once, the rest at the end.

    The rest is ``index.html``. The writer also writes it after 1, 2, 4, 8, … frames, so that even a killed process
    leaves a page. It writes it, too, when an exception or an interruption leaves the ``with`` block. Memory holds one
    frame and the timings. A page of a longer drive shows evenly spaced frames, as many as fit into 8 MB; ``pictures``
    always has all.
    """

    def __init__(
        self,
        # Folder of the report; made if missing. What frames/files.txt lists of an earlier report goes. Raises
        # SceneCompletionError where other files have names of a report.
        folder: str | Path,
        title: str,
        class_names: Sequence[str] = ("unlabelled",),
        class_colours: Sequence[tuple[int, int, int]] = ((128, 128, 128),),
        *,
        words: Sequence[str] = (),  # phrases that the frames were asked about; the page then has a button for each
    ) -> None:
        self.folder = Path(folder)
        self.title = title
        self.notes: list[str] = []
        self._class_names = tuple(class_names)
        self._class_colours = tuple(class_colours)
        self._words = tuple(words)
        self._matched: set[int] = set()  # places of words that matched somewhere
        self._sizes: list[int] = []  # bytes of each frame in the page
        self._first_ns = 0
        self._timings: list[dict[str, float]] = []
        self._evidence: list[Summary] = []
        self._frame_count = 0
        self._statistics: dict[str, Any] = {}
        self._headlines: dict[str, str] = {}
        self._list = self.folder / "frames" / "files.txt"
        self._remove_earlier()

    def __enter__(self) -> "ReportWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self.notes.append(f"Interrupted after {self._frame_count} frames ({kind.__name__}): the rest is missing.")
        self.close(self._statistics)

    def __len__(self) -> int:
        """Number of frames written."""
        return self._frame_count

    @property
    def index(self) -> Path:
        """The page."""
        return self.folder / "index.html"

    def add_frame(
        self,
        voxels: SemanticVoxels,
        image: NDArray[np.uint8] | None = None,  # RGB image [H, W, 3]
        # Depth in metres [h, w]. Where there is none but the camera is known, the depth of the first occupied voxel
        # along each ray is drawn instead and named so.
        depth: NDArray[np.float32] | None = None,
        *,
        camera: Camera | None = None,  # camera of the view edges in the bird's-eye view
        lidar_grid: NDArray[np.float32] | None = None,  # LiDAR points in the grid frame, metres [M, 3]
        timings_ms: Mapping[str, float] | None = None,  # milliseconds by stage; ``total`` is drawn as the line
        # What each word of the report matches among the voxels; none where there was no answer.
        matches: Sequence[PhraseMatches] = (),
        evidence: Summary | None = None,  # what else was known of the image, see `Evidence.summary`
    ) -> None:
        """Write one frame. Raises GridError where the matches are of other words, or of voxels that are not there."""
        farthest = max((int(found.voxels.max(initial=-1)) for found in matches), default=-1)
        if matches and (tuple(found.phrase for found in matches) != self._words or farthest >= len(voxels)):
            raise GridError(
                f"are of {[found.phrase for found in matches]} and more than {farthest} voxels, the report is of "
                f"{list(self._words)}, the frame has {len(voxels)} voxels",
                where="matches",
                cure="Ask the same words about the same frame",
            )
        depth_name = "depth"
        if depth is None and camera is not None:
            depth, depth_name = depth_of_voxels(voxels, camera), "depth of the first occupied voxel"
        self._first_ns = self._first_ns or voxels.stamp_ns
        time_s = (voxels.stamp_ns - self._first_ns) / 1e9
        caption = f"frame {self._frame_count + 1} · t = {time_s:.1f} s · {len(voxels)} occupied voxels"
        title = caption.replace("·", "|")  # the drawing font is ASCII
        birds_eye = birds_eye_view(voxels, camera=camera)
        size = 0
        timings = {name: float(value) for name, value in (timings_ms or {}).items() if math.isfinite(value)}
        if image is not None:
            image = scaled_down(image, _WIDEST_IMAGE)
            size += self._write("_camera.jpg", encode_picture(image, ".jpg", quality=_QUALITY))
        drawn = None if depth is None else depth_picture(depth, voxels.grid)
        if drawn is not None:
            size += self._write("_depth.jpg", encode_picture(drawn, ".jpg", quality=_QUALITY))
        if camera is not None:
            seen = voxel_view(voxels, camera, width=_WIDEST_IMAGE)  # a ray has two by two pixels
            size += self._write("_seen.png", encode_picture(seen[::2, ::2], ".png"))
        if lidar_grid is not None:
            birds_eye = with_lidar(birds_eye, voxels, lidar_grid)
            size += self._write("_lidar.bin", pack_lidar(lidar_grid, voxels))
        together = panel(
            image,
            drawn,
            birds_eye,
            title=title,
            depth_name=depth_name,
            class_names=voxels.class_names,
            class_colours=voxels.class_colours,
        )
        write_picture(self._own(f"pictures/{self._frame_count:06d}.jpg"), together)
        size += self._write("_voxels.bin", pack_voxels(voxels))
        if matches:
            size += self._write(_MATCHES, pack_matches(matches, voxels))
            self._matched |= {place for place, found in enumerate(matches) if len(found.sure)}
        description = {
            "caption": caption,
            "stamp_ns": voxels.stamp_ns,
            "count": len(voxels),
            "grid": {
                "origin": list(map(float, voxels.grid.origin)),
                "size": float(voxels.grid.voxel_size),
                "shape": list(map(int, voxels.grid.shape)),
            },
            "viewpoint": _viewpoint(voxels, camera),
            "depth_name": depth_name,
            "evidence": evidence_in_words(evidence or {}),
            "timings_ms": timings,
        }
        size += self._write(".json", json.dumps(description).encode())
        self._sizes.append(4 * size // 3)  # as base64
        self._timings.append(timings)
        self._evidence.append(evidence or {})
        self._frame_count += 1
        if self._frame_count & (self._frame_count - 1) == 0:
            self.close(self._statistics)

    def close(self, statistics: Mapping[str, Any] | None = None, headlines: Mapping[str, str] | None = None) -> Path:
        """Write ``index.html``, `headlines` first and `statistics` flattened in it; more frames may follow."""
        self._statistics = dict(statistics or self._statistics)
        self._headlines = dict(headlines or self._headlines)
        every = next(n for n in count(1) if sum(self._sizes[::n]) <= LARGEST_PAGE or n >= self._frame_count)
        numbers = range(0, self._frame_count, every)
        notes = list(self.notes)
        if every > 1:
            notes.append(
                f"Of {self._frame_count} frames one of {every} is shown here; the folder pictures has all of them."
            )
        with whole_file(self.index) as part, part.open("w", encoding="utf-8") as out:
            write_page(
                out,
                title=self.title,
                frames=self._embedded_frames(numbers),
                frame_count=len(numbers),
                class_names=self._class_names,
                class_colours=self._class_colours,
                timings_ms=self._timings,
                evidence=self._evidence,
                statistics=self._statistics,
                notes=notes,
                headlines=self._headlines,
                words=self._words,
                matched=self._matched,
            )
        return self.index

    def _remove_earlier(self) -> None:
        for name in ("pictures", "frames"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        if self._list.exists():
            text = read_text(self._list, SceneCompletionError, cure=_MOVE, most_bytes=2**28)
            for name in filter(_OWN.fullmatch, text.splitlines()):
                (self.folder / name).unlink(missing_ok=True)
        found = [self.index, *self.folder.glob("pictures/*"), *self.folder.glob("frames/*")]
        for path in found:
            if path.exists() and _OWN.fullmatch(path.relative_to(self.folder).as_posix()):
                raise SceneCompletionError("is not of an earlier report, and in the way", where=str(path), cure=_MOVE)
        self._list.write_text(f"{self.index.name}\n")

    def _own(self, name: str) -> Path:
        """The path of a file of a frame, listed before it is written."""
        with self._list.open("a") as listed:
            listed.write(f"{name}\n")
        return self.folder / name

    def _write(self, suffix: str, data: bytes) -> int:
        return self._own(f"frames/{self._frame_count:06d}{suffix}").write_bytes(data)

    def _embedded_frames(self, numbers: Sequence[int]) -> Iterator[dict[str, Any]]:
        for number in numbers:
            first = self.folder / "frames" / f"{number:06d}.json"
            frame: dict[str, Any] = json.loads(first.read_text())
            for name, suffix in (*_PARTS, *_DATA, *([("matches", _MATCHES)] if self._words else [])):
                part = first.with_name(first.stem + suffix)
                frame[name] = embedded(part.read_bytes()) if part.exists() else None
            yield frame


def _viewpoint(voxels: SemanticVoxels, camera: Camera | None) -> dict[str, Any]:
    """Where the camera stands in the grid frame, where it looks, and a small pyramid of its view."""
    rotation, position = voxels.grid_from_camera.rotation, voxels.grid_from_camera.translation
    forward = rotation @ np.array([0.0, 0.0, 1.0])
    if camera is None:
        rays = np.array([[-0.6, -0.3, 1.0], [0.6, -0.3, 1.0], [0.6, 0.3, 1.0], [-0.6, 0.3, 1.0]])
    else:
        right, bottom = camera.width - 0.5, camera.height - 0.5
        pixels = np.array([[-0.5, -0.5], [right, -0.5], [right, bottom], [-0.5, bottom]])
        rays = np.asarray(camera.unproject(pixels), dtype=np.float64)
    corners = position + 2.0 * rays @ rotation.T
    return {
        "position": position.tolist(),
        "heading": math.atan2(float(forward[1]), float(forward[0])),
        "corners": corners.tolist(),
    }
