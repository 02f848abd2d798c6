"""Asphalt of the lanes with the markings of a street's profile: one tile for each side of the centre line."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scene_completion_training.street_world.street_profile import SideProfile, StreetProfile
from scene_completion_training.street_world.texture_atlas import Texture
from scene_completion_training.street_world.textures import asphalt, cobbles, periodic_noise, wet

Floats = NDArray[np.float32]

ALONG_M = 12.0  # length of a tile
HEIGHT, WIDTH = 1024, 512


def road_textures(rng: np.random.Generator, profile: StreetProfile, wetness: float) -> dict[str, Texture]:
    """Lanes and zebra crossings of both sides, from the centre line to the edge of the road."""
    shade = float(rng.uniform(0.22, 0.46))
    paved = profile.kind.value in ("inner city", "residential") and rng.random() < 0.12
    wear = float(rng.uniform(0.35, 0.95))
    edge_line = bool(rng.random() < {"arterial": 1.0, "country": 0.8}.get(profile.kind.value, 0.25))
    patches = bool(rng.random() < 0.4)
    textures = {}
    for name, side in (("left", profile.left), ("right", profile.right)):
        size = (HEIGHT, WIDTH)
        surface = (
            cobbles(rng, size) if paved else asphalt(rng, size, shade, seams=bool(rng.random() < 0.5), patched=patches)
        )
        tile = (side.road_edge, ALONG_M)
        marked = surface.copy()
        if not paved:
            _wheel_tracks(marked, side)
            _paint(rng, marked, _lines(side, profile, edge_line), wear)
        textures[f"road_{name}"] = Texture(marked, tile)
        stripes = surface[: HEIGHT // 4].copy()
        across = _metres(side)
        _paint(
            rng, stripes, np.broadcast_to((across // 0.5 % 2 == 1)[None], stripes.shape[:2]).astype(np.float32), wear
        )
        textures[f"crossing_{name}"] = Texture(stripes, (side.road_edge, ALONG_M / 4))
        for image in (marked, stripes):
            wet(image, wetness)
    return textures


def _metres(side: SideProfile) -> Floats:
    """Distance of the texels' columns from the centre line."""
    return ((np.arange(WIDTH) + 0.5) * side.road_edge / WIDTH).astype(np.float32)


def _lines(side: SideProfile, profile: StreetProfile, edge_line: bool) -> Floats:
    """Where paint lies, [HEIGHT, WIDTH] from 0 to 1."""
    across, paint = _metres(side), np.zeros((HEIGHT, WIDTH), np.float32)
    along = (np.arange(HEIGHT) + 0.5) / HEIGHT * ALONG_M
    dashes = (along % 12.0 < 4.0) if profile.kind.value in ("arterial", "country") else (along % 6.0 < 3.0)
    if side.median > 0.0:
        paint[:, np.abs(across - side.median - 0.2) < 0.07] = 1.0
    elif profile.centre_line != "none":
        shown = dashes if profile.centre_line == "dashed" else np.ones(HEIGHT, bool)
        paint[np.ix_(shown, across < 0.065)] = 1.0
    for lane in range(1, side.lanes):
        paint[np.ix_(dashes, np.abs(across - side.median - lane * side.lane) < 0.065)] = 1.0
    if edge_line:
        paint[:, np.abs(across - side.median - side.lanes * side.lane - 0.06) < 0.07] = 1.0
    return paint


def _paint(rng: np.random.Generator, image: Floats, paint: Floats, wear: float) -> None:
    """Lay worn white paint over asphalt."""
    holes = np.clip(wear + 0.22 * periodic_noise(rng, image.shape[0], image.shape[1], 0.5, 4.0), 0.05, 1.0)
    cover = (paint * holes)[..., None]
    image[..., :3] = image[..., :3] * (1 - cover) + 0.86 * cover


def _wheel_tracks(image: Floats, side: SideProfile) -> None:
    """Lanes are darker where wheels run."""
    across, tracks = _metres(side), np.zeros(WIDTH, np.float32)
    for lane in range(side.lanes):
        for wheel in (0.24, 0.76):
            middle = side.median + (lane + wheel) * side.lane
            tracks += np.exp(-0.5 * ((across - middle) / 0.3) ** 2).astype(np.float32)
    image[..., :3] *= (1.0 - 0.13 * tracks)[None, :, None]
