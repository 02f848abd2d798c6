"""Textures of the ground, the road and its markings, plants and small objects; and the atlas that kernels read."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from scene_completion_training.arrays import Doubles, Floats, Random, Reals
from scene_completion_worlds.street.parts import Colour, triple
from scene_completion_worlds.street.street_line import SideProfile, StreetProfile

ROAD_TILE_M = 12.0  # along the road
ROAD_HEIGHT, ROAD_WIDTH = 1024, 512  # texels


def srgb_to_linear(value: Reals) -> Floats:
    """Display values in [0, 1] to linear light."""
    value = np.clip(np.asarray(value, np.float32), 0.0, 1.0)
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4).astype(np.float32)


def linear_to_srgb(value: Reals) -> Floats:
    """Linear light to display values in [0, 1]."""
    value = np.clip(np.asarray(value, np.float32), 0.0, 1.0)
    return np.where(value <= 0.0031308, value * 12.92, 1.055 * value ** (1 / 2.4) - 0.055).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Texture:
    """One tile that repeats in both directions."""

    image: Floats  # display colours and gloss [H, W, 4] in [0, 1]; H and W are powers of two, row 0 is the top
    tile_m: tuple[float, float]  # metres of the tile (horizontally, vertically) where it is drawn at its natural size


class TextureAtlas:
    """Textures by name."""

    def __init__(self, textures: dict[str, Texture]) -> None:
        self.names = tuple(textures)
        self.tile_m = {name: texture.tile_m for name, texture in textures.items()}
        pyramids = [_mip_levels(texture.image) for texture in textures.values()]
        counts = np.array([len(pyramid) for pyramid in pyramids])[:, None]
        levels = [level for pyramid in pyramids for level in pyramid]
        ends = np.cumsum([level[..., 0].size for level in levels])
        # Of each texture and level its number among all; the last of a smaller texture stands for those that it lacks.
        number = np.cumsum(counts)[:, None] - counts + np.minimum(np.arange(counts.max()), counts - 1)
        offsets = np.insert(ends, 0, 0)[number]
        sizes = np.array([level.shape[:2] for level in levels], np.int32)[number]  # height, width
        # Display values of eight bits are as exact as images are, and the gather moves a quarter of the memory.
        packed = np.empty((ends[-1], 4), np.uint8)
        shown = np.rint(255.0 * linear_to_srgb(np.arange(65536) / 65535.0)).astype(np.uint8)
        # Level by level, and gloss as if it were a colour: rows of four go through the loops of NumPy as one.
        for end, level in zip(ends, (level.reshape(-1, 4) for level in levels), strict=True):
            kept = packed[end - len(level) : end]
            np.take(shown, (level * 65535.0 + 0.5).astype(np.uint16), out=kept)
            kept[:, 3] = np.rint(255.0 * level[:, 3])
        linear = srgb_to_linear(np.arange(256, dtype=np.float32) / 255.0)
        # What `texel_at` needs: offsets and sizes of the levels, texels, linear value of a display value.
        self.tables: tuple[NDArray[Any], ...] = (offsets, sizes, packed, linear)

    def index(self, name: str) -> int:
        """Number of a texture."""
        return self.names.index(name)

    def texels_per_tile(self) -> Floats:
        """Height and width of every texture's finest level, [T, 2]."""
        return np.asarray(self.tables[1][:, 0], np.float32)


def _mip_levels(image: Floats) -> list[Floats]:
    level = image.astype(np.float32).copy()
    level[..., :3] = srgb_to_linear(level[..., :3])
    levels = [level]
    while min(level.shape[:2]) > 1:
        level = 0.25 * (level[::2, ::2] + level[1::2, ::2] + level[::2, 1::2] + level[1::2, 1::2])
        levels.append(level)
    return levels


def periodic_noise(rng: Random, height: int, width: int, exponent: float, lowest: float = 1.0) -> Floats:
    """Tileable noise of mean 0, deviation 1, from `lowest` cycles a tile on, falling with frequency^exponent."""
    spectrum = np.fft.rfft2(rng.standard_normal((height, width)))
    fy, fx = np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width)[None] * width
    frequency = np.hypot(fx, fy)
    gain = np.where(frequency >= lowest, 1.0 / np.maximum(frequency, 1.0) ** exponent, 0.0)
    noise = np.fft.irfft2(spectrum * gain, s=(height, width))
    return np.asarray((noise - noise.mean()) / noise.std(), np.float32)


def plain(colour: Colour, height: int = 64, width: int = 64, gloss: float = 0.0) -> Floats:
    """Uniform tile [H, W, 4] in display values."""
    image = np.empty((height, width, 4), np.float32)
    image[:] = (*colour, gloss)
    return image


def speckled(rng: Random, image: Floats, *, fine: float, coarse: float) -> Floats:
    """Multiply with fine and coarse noise of the given relative deviations."""
    height, width = image.shape[:2]
    gain = 1.0 + fine * periodic_noise(rng, height, width, 0.15, 8.0)
    gain = gain + coarse * periodic_noise(rng, height, width, 1.9)
    image[..., :3] *= gain[..., None]
    np.clip(image, 0.0, 1.0, out=image)
    return image


def asphalt(
    rng: Random, size: tuple[int, int], shade: float = 0.36, *, seams: bool = False, patched: bool = True
) -> Floats:
    """Asphalt with cracks, [H, W, 4]; perhaps with long joints sealed with tar, and with repaired patches."""
    height, width = size
    image = plain((shade, shade, shade * 1.03), height, width)
    for _ in range(3 if patched else 0):
        x, y = rng.integers(0, width), rng.integers(0, height)
        w, h = rng.integers(width // 8, width // 2), rng.integers(height // 16, height // 4)
        image[y : y + h, x : x + w, :3] *= rng.uniform(0.72, 1.15)
    cracks = np.zeros((height, width), np.uint8)
    for _ in range(int(rng.integers(0, 7))):
        steps = rng.normal(0, 9, (24, 2)).cumsum(axis=0) + rng.uniform(0, 1, 2) * (width, height)
        cv2.polylines(cracks, [steps.astype(np.int32)], False, 255, 2, cv2.LINE_AA)
    for place in rng.uniform(0.1, 0.95, 2 if seams else 0) * width:  # they run along, and close at the tile's ends
        along = np.linspace(0, height, 33)
        wave = 5.0 * np.sin(4 * np.pi * along / height) + 3.0 * np.sin(10 * np.pi * along / height)
        cv2.polylines(cracks, [np.stack([place + wave, along], axis=-1).astype(np.int32)], False, 255, 3, cv2.LINE_AA)
    image[..., :3] *= 1.0 - 0.45 * (cracks / 255.0)[..., None].astype(np.float32)
    return speckled(rng, image, fine=0.13, coarse=0.08)


def cobbles(rng: Random, size: tuple[int, int]) -> Floats:
    """Setts of about 15 cm on a tile of a few metres, [H, W, 4]."""
    image = plain((0.40, 0.39, 0.37), *size)
    _lay_slabs(rng, image, rows=64, columns=32, joint=0.55, spread=0.14)
    return speckled(rng, image, fine=0.08, coarse=0.08)


@cache
def _drawings() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("textures.yaml").read_text(encoding="utf-8"))
    return content


def drawn(name: str, rng: Random) -> Texture:
    """A texture of `textures.yaml`: slabs are laid and shapes painted on a plain ground, which is then speckled."""
    described = _drawings()[name]
    width, height = described["size"]
    image = plain(described["colour"], height, width, described.get("gloss", 0.0))
    if "slabs" in described:
        _lay_slabs(rng, image, **described["slabs"])
    for shape, places, colour, thickness in described.get("shapes", ()):
        getattr(cv2, shape)(image, *places, colour, thickness)
    if "speckle" in described:
        speckled(rng, image, **described["speckle"])
    return Texture(image, tuple(described["tile_m"]))


def _lay_slabs(rng: Random, tile: Floats, *, rows: int, columns: int, joint: float, spread: float) -> None:
    height, width = tile.shape[:2]
    y, x = np.mgrid[0:height, 0:width]
    row = y * rows // height
    shifted = x + (row % 2) * (width // columns // 2)
    column = (shifted * columns // width) % columns
    shade = 1.0 + spread * rng.standard_normal((rows, columns))
    tile[..., :3] *= shade[row, column][..., None].astype(np.float32)
    seam = (np.diff(row, axis=0, prepend=row[:1] - 1) != 0) | (np.diff(column, axis=1, prepend=-1) != 0)
    tile[seam, :3] *= joint


def _strokes(rng: Random, image: Floats, count: int, size: tuple[float, float], colours: Doubles, thin: float) -> None:
    """Paint tileable ellipses (leaves, blades) over the image, later ones on top."""
    height, width = image.shape[:2]
    canvas = np.ascontiguousarray(image[..., :3])
    for x, y, length, angle, pick, gain in zip(
        rng.integers(0, width, count),
        rng.integers(0, height, count),
        rng.uniform(*size, count),
        rng.uniform(0, 180, count),
        rng.integers(0, len(colours), count),
        rng.uniform(0.55, 1.25, count),
        strict=True,
    ):
        colour = tuple(float(value) for value in colours[pick] * gain)
        axes = (max(1, round(length)), max(1, round(length * thin)))
        for shift_x in (0, -width if x > width / 2 else width):
            for shift_y in (0, -height if y > height / 2 else height):
                centre = (int(x) + shift_x, int(y) + shift_y)
                if -length <= centre[0] <= width + length and -length <= centre[1] <= height + length:
                    cv2.ellipse(canvas, centre, axes, float(angle), 0, 360, colour, -1, cv2.LINE_AA)
    image[..., :3] = np.clip(canvas, 0.0, 1.0)


def foliage(rng: Random, base: Colour) -> Texture:
    """Leaves in front of dark gaps; a tile of 1.6 m."""
    image = plain(triple(np.array(base) * 0.32), 256, 256)
    colours = np.array(base) * rng.uniform(0.65, 1.25, (12, 1)) + rng.uniform(-0.03, 0.05, (12, 3))
    _strokes(rng, image, 1100, (3.0, 7.0), colours, 0.55)
    image[..., :3] *= np.clip(1.0 + 0.3 * periodic_noise(rng, 256, 256, 1.2, 2.0), 0.4, 1.5)[..., None]
    return Texture(np.clip(image, 0.0, 1.0), (1.6, 1.6))


def grass(rng: Random, dry: float, bare: float) -> Texture:
    """Grass, 0 green ... 1 dry as straw, with a share of bare earth showing through; a tile of 4 m."""
    image = plain((0.20, 0.24, 0.10), 512, 512)
    green = np.array([(0.26, 0.35, 0.13), (0.33, 0.40, 0.18), (0.42, 0.42, 0.24)])
    straw = np.array([(0.47, 0.42, 0.26), (0.56, 0.50, 0.33), (0.38, 0.36, 0.20)])
    _strokes(rng, image, 5000, (2.0, 6.0), green * (1 - dry) + straw * dry, 0.3)
    earth = np.clip(periodic_noise(rng, 512, 512, 1.3) - 1.6 + 1.8 * bare, 0.0, 1.0)[..., None]
    image[..., :3] = image[..., :3] * (1 - earth) + np.array([0.40, 0.33, 0.25], np.float32) * earth
    return Texture(speckled(rng, image, fine=0.07, coarse=0.14), (4.0, 4.0))


def bark(rng: Random) -> Texture:
    """Vertical furrows; a tile of 1 m."""
    image = plain((0.36, 0.29, 0.22), 128, 128)
    furrow = periodic_noise(rng, 1, 128, 0.3, 4.0) + 0.5 * periodic_noise(rng, 128, 128, 0.8, 4.0)
    image[..., :3] *= np.clip(1.0 + 0.30 * furrow, 0.3, 1.6)[..., None]
    return Texture(image, (1.0, 1.0))


def roof_tiles(rng: Random) -> Texture:
    """Rows of tiles of 0.25 m."""
    image = plain((0.80, 0.76, 0.74), 256, 256)
    _lay_slabs(rng, image, rows=16, columns=16, joint=0.6, spread=0.13)
    image[..., :3] *= (0.82 + 0.18 * ((np.arange(256) % 16) / 15.0))[:, None, None].astype(np.float32)
    return Texture(speckled(rng, image, fine=0.05, coarse=0.10), (4.0, 4.0))


def planks(rng: Random) -> Texture:
    """Fence of upright boards, 2 m wide and 1.2 m high, gaps dark."""
    image = plain((0.62, 0.52, 0.40), 128, 256)
    board = np.arange(256) * 16 // 256
    image[..., :3] *= (1.0 + 0.14 * rng.standard_normal(16))[board][None, :, None].astype(np.float32)
    image[:, np.arange(256) % 16 < 3, :3] *= 0.28
    image[18:26, :, :3] *= 0.75
    image[100:108, :, :3] *= 0.75
    return Texture(speckled(rng, image, fine=0.10, coarse=0.08), (2.0, 1.2))


def ground_textures(rng: Random, wetness: float) -> dict[str, Texture]:
    """Everything that lies, grows or stands without windows, at a wetness of 0 (dry) to 1."""
    season = float(rng.random())  # summer to late autumn
    dry = float(rng.uniform(0.0, 1.0)) ** 1.5
    leaf = np.array([0.22, 0.28, 0.10]) * (1 - season**2) + np.array([0.38, 0.29, 0.10]) * season**2
    slab = float(rng.uniform(0.42, 0.66))
    small = plain((slab * 0.95, slab * 0.9, slab * 0.86), 512, 512)
    _lay_slabs(rng, small, rows=32, columns=16, joint=0.72, spread=0.09)
    textures = {
        "asphalt": Texture(asphalt(rng, (512, 512), float(rng.uniform(0.24, 0.44))), (8.0, 8.0)),
        "asphalt_light": Texture(asphalt(rng, (512, 512), float(rng.uniform(0.42, 0.56))), (6.0, 6.0)),
        "parking": drawn("parking", rng),
        "sidewalk": drawn("sidewalk", rng),
        "sidewalk_small": Texture(speckled(rng, small, fine=0.07, coarse=0.09), (3.2, 3.2)),
        "median": drawn("median", rng),
        "kerb": drawn("kerb", rng),
        "grass": grass(rng, dry, float(rng.uniform(0.0, 0.6))),
        "meadow": grass(rng, float(np.clip(dry + 0.3, 0, 1)), 0.2),
        "field": grass(rng, float(rng.random()), float(rng.uniform(0.3, 1.0))),
        "leaves": foliage(rng, triple(leaf * rng.uniform(0.8, 1.15))),
        "leaves_dark": foliage(rng, (0.12, 0.18, 0.085)),
        "leaves_yellow": foliage(rng, triple(leaf * (1.3, 1.12, 0.95))),
        "bark": bark(rng),
        "roof": roof_tiles(rng),
        "planks": planks(rng),
    }
    textures |= {name: drawn(name, rng) for name in ("bricks", "concrete", "cloth", "metal", "spokes", "rubber")}
    for name in ("asphalt", "asphalt_light", "parking", "sidewalk", "sidewalk_small"):
        wet(textures[name].image, wetness)
    return textures


def wet(image: Floats, wetness: float) -> None:
    """Darken a ground's image and make it shine, in place."""
    image[..., :3] *= 1.0 - 0.35 * wetness
    image[..., 3] = np.maximum(image[..., 3], 0.2 * wetness)


def road_textures(rng: Random, profile: StreetProfile, wetness: float) -> dict[str, Texture]:
    """Lanes and zebra crossings of both sides, from the centre line to the edge of the road."""
    shade = float(rng.uniform(0.22, 0.46))
    paved = profile.kind.value in ("inner city", "residential") and rng.random() < 0.12
    wear = float(rng.uniform(0.35, 0.95))
    edge_line = bool(rng.random() < {"arterial": 1.0, "country": 0.8}.get(profile.kind.value, 0.25))
    patches = bool(rng.random() < 0.4)
    textures = {}
    for name, side in (("left", profile.left), ("right", profile.right)):
        size = (ROAD_HEIGHT, ROAD_WIDTH)
        seams = not paved and bool(rng.random() < 0.5)
        surface = cobbles(rng, size) if paved else asphalt(rng, size, shade, seams=seams, patched=patches)
        marked = surface.copy()
        if not paved:
            _wheel_tracks(marked, side)
            _paint(rng, marked, _lines(side, profile, edge_line), wear)
        textures[f"road_{name}"] = Texture(marked, (side.road_edge, ROAD_TILE_M))
        stripes = surface[: ROAD_HEIGHT // 4].copy()
        zebra = (_metres(side) // 0.5 % 2 == 1).astype(np.float32)
        _paint(rng, stripes, np.broadcast_to(zebra, stripes.shape[:2]), wear)
        textures[f"crossing_{name}"] = Texture(stripes, (side.road_edge, ROAD_TILE_M / 4))
        for image in (marked, stripes):
            wet(image, wetness)
    return textures


def _metres(side: SideProfile) -> Floats:
    """Distance of the texels' columns from the centre line."""
    return ((np.arange(ROAD_WIDTH) + 0.5) * side.road_edge / ROAD_WIDTH).astype(np.float32)


def _lines(side: SideProfile, profile: StreetProfile, edge_line: bool) -> Floats:
    """Where paint lies, [ROAD_HEIGHT, ROAD_WIDTH] from 0 to 1."""
    across, paint = _metres(side), np.zeros((ROAD_HEIGHT, ROAD_WIDTH), np.float32)
    along = (np.arange(ROAD_HEIGHT) + 0.5) / ROAD_HEIGHT * ROAD_TILE_M
    dashes = (along % 12.0 < 4.0) if profile.kind.value in ("arterial", "country") else (along % 6.0 < 3.0)
    if side.median > 0.0:
        paint[:, np.abs(across - side.median - 0.2) < 0.07] = 1.0
    elif profile.centre_line != "none":
        shown = dashes if profile.centre_line == "dashed" else np.ones(ROAD_HEIGHT, bool)
        paint[np.ix_(shown, across < 0.065)] = 1.0
    for lane in range(1, side.lanes):
        paint[np.ix_(dashes, np.abs(across - side.median - lane * side.lane) < 0.065)] = 1.0
    if edge_line:
        paint[:, np.abs(across - side.median - side.lanes * side.lane - 0.06) < 0.07] = 1.0
    return paint


def _paint(rng: Random, image: Floats, paint: Floats, wear: float) -> None:
    holes = np.clip(wear + 0.22 * periodic_noise(rng, image.shape[0], image.shape[1], 0.5, 4.0), 0.05, 1.0)
    cover = (paint * holes)[..., None]
    image[..., :3] = image[..., :3] * (1 - cover) + 0.86 * cover


def _wheel_tracks(image: Floats, side: SideProfile) -> None:
    """Lanes are darker where wheels run."""
    across, tracks = _metres(side), np.zeros(ROAD_WIDTH, np.float32)
    for lane in range(side.lanes):
        for wheel in (0.24, 0.76):
            middle = side.median + (lane + wheel) * side.lane
            tracks += np.exp(-0.5 * ((across - middle) / 0.3) ** 2).astype(np.float32)
    image[..., :3] *= (1.0 - 0.13 * tracks)[None, :, None]


# House fronts (four bays by four floors, the ground floor at the bottom), boards, and with them what is drawn.


FACADE_COUNT = 10
SIGN_COUNT = 4
BAY_M, FLOOR_M = 3.0, 3.0
BAYS, FLOORS, CELL = 4, 4, 128  # CELL: texels of a bay and of a floor
WALL_COLOURS = (
    (0.62, 0.36, 0.28), (0.90, 0.89, 0.86), (0.84, 0.79, 0.68), (0.70, 0.55, 0.47), (0.93, 0.92, 0.90),
    (0.76, 0.75, 0.73), (0.58, 0.50, 0.44), (0.86, 0.83, 0.74), (0.88, 0.88, 0.89), (0.80, 0.70, 0.52),
)  # fmt: skip


def facade(rng: Random, kind: int) -> Texture:
    """One house front; even kinds have shops on the ground floor, every third one is of brick."""
    height, width = FLOORS * CELL, BAYS * CELL
    image = plain(WALL_COLOURS[kind % len(WALL_COLOURS)], height, width)
    if kind % 3 == 0:
        _brick_pattern(rng, image)
    speckled(rng, image, fine=0.06, coarse=0.10)
    style = _WindowStyle(rng)
    for floor in range(FLOORS):
        top = height - (floor + 1) * CELL
        if floor:
            image[top + CELL - 5 : top + CELL, :, :3] *= 1.12  # string course with its shadow
            image[top + CELL - 2 : top + CELL, :, :3] *= 0.7
        for bay in range(BAYS):
            cell = image[top : top + CELL, bay * CELL : (bay + 1) * CELL]
            if floor == 0 and kind % 2 == 0:
                _shop(rng, cell)
            elif floor == 0 and bay == kind % BAYS:
                _door(rng, cell)
            else:
                _window(rng, cell, style)
    base = image[height - 20 :, :, :3]
    base *= np.array([0.62, 0.62, 0.64], np.float32)  # plinth
    streaks = np.clip(1.0 - 0.07 * np.abs(periodic_noise(rng, 1, width, 0.4, 3.0)), 0.7, 1.0)
    image[..., :3] *= streaks[..., None]
    return Texture(np.clip(image, 0.0, 1.0), (BAYS * BAY_M, FLOORS * FLOOR_M))


def _brick_pattern(rng: Random, image: Floats) -> None:
    height, width = image.shape[:2]
    y, x = np.mgrid[0:height, 0:width]
    row = y // 4
    column = ((x + (row % 2) * 5) // 10) % (width // 10 + 1)
    image[..., :3] *= (1.0 + 0.13 * rng.standard_normal((height // 4, width // 10 + 2)))[row, column][..., None]
    image[(y % 4 == 0) | ((x + (row % 2) * 5) % 10 == 0), :3] *= 1.22


class _WindowStyle:
    """What the windows of one house have in common."""

    def __init__(self, rng: Random) -> None:
        self.width, self.height = int(rng.integers(44, 72)), int(rng.integers(62, 82))
        self.frame = np.array(rng.choice([0.93, 0.86, 0.30, 0.42]) * np.ones(3), np.float32)
        self.panes = int(rng.integers(1, 4))
        self.shutters = rng.uniform(0.15, 0.6, 3).astype(np.float32) if rng.random() < 0.35 else None
        self.surround = float(rng.choice([1.0, 1.15, 0.82]))


def _window(rng: Random, cell: Floats, style: _WindowStyle) -> None:
    x0, y0 = (CELL - style.width) // 2, (CELL - style.height) // 2 - 4
    x1, y1 = x0 + style.width, y0 + style.height
    cell[y0 - 7 : y1 + 7, x0 - 7 : x1 + 7, :3] *= style.surround
    if style.shutters is not None:
        for left in (x0 - 22, x1 + 2):
            slats = 0.8 + 0.2 * (np.arange(style.height) % 6 > 2)[:, None, None]
            cell[y0:y1, left : left + 20, :3] = style.shutters * slats.astype(np.float32)
    _glass(rng, cell[y0:y1, x0:x1])
    for edge in np.linspace(0, style.width - 4, style.panes + 1).astype(int):
        cell[y0:y1, x0 + edge : x0 + edge + 4] = (*style.frame, 0.0)
    for edge in (0, style.height // 3, style.height - 4):
        cell[y0 + edge : y0 + edge + 4, x0:x1] = (*style.frame, 0.0)
    cell[y0 : y0 + 3, x0:x1, :3] *= 0.45  # the lintel's shadow
    cell[y1 : y1 + 4, x0 - 5 : x1 + 5] = (0.80, 0.79, 0.77, 0.0)
    cell[y1 + 4 : y1 + 8, x0 - 5 : x1 + 5, :3] *= 0.6


def _glass(rng: Random, pane: Floats) -> None:
    height, width = pane.shape[:2]
    pane[:] = (0.10, 0.12, 0.15, 0.35)
    kind = rng.random()
    if kind < 0.35:  # curtains at both sides
        side = width // int(rng.integers(3, 5))
        folds = 0.65 + 0.12 * np.sin(np.arange(width) * 1.1)[None, :, None]
        curtain = np.broadcast_to(folds * rng.uniform(0.7, 1.2, 3), (height, width, 3))
        pane[:, :side, :3], pane[:, -side:, :3] = curtain[:, :side], curtain[:, -side:]
    elif kind < 0.55:  # blind, partly down
        drop = int(height * rng.uniform(0.25, 0.9))
        pane[:drop, :, :3] = (0.62 + 0.1 * (np.arange(drop) % 5 > 1))[:, None, None]
    elif kind < 0.7:  # something on the sill
        x = int(rng.integers(4, width - 14))
        pane[-int(rng.integers(10, 22)) :, x : x + 10, :3] = rng.uniform(0.2, 0.7, 3)


def _door(rng: Random, cell: Floats) -> None:
    colour = rng.uniform(0.12, 0.5, 3)
    cell[26:, 36:92, :3] *= 0.75
    cell[30:, 40:88] = (*colour, 0.05)
    for top, bottom in ((36, 62), (70, 96), (102, 122)):
        for left in (44, 67):
            cell[top:bottom, left : left + 17, :3] = colour * 0.7
    cell[70:76, 82:85, :3] = 0.8
    cell[14:26, 40:88] = (0.16, 0.18, 0.20, 0.4)


def _shop(rng: Random, cell: Floats) -> None:
    cell[4:30, :, :3] = rng.uniform(0.1, 0.75, 3)
    x = 10
    while x < CELL - 16:  # the name board: letter-like blocks
        letter = int(rng.integers(4, 9))
        cell[10:24, x : x + letter, :3] = 0.92
        cell[14:18, x + 2 : x + letter - 1, :3] *= rng.uniform(0.2, 1.0)
        x += letter + 4
    cell[34:112, 6:122] = (0.11, 0.12, 0.13, 0.45)
    for _ in range(9):  # goods behind the glass
        x, y = int(rng.integers(8, 106)), int(rng.integers(60, 100))
        cell[y:112, x : x + int(rng.integers(5, 14)), :3] = rng.uniform(0.1, 0.7, 3)
    for x in (4, 62, 120):
        cell[32:118, x : x + 4] = (0.25, 0.25, 0.26, 0.1)


def board(rng: Random) -> Texture:
    """A direction board or a poster: blocks of lettering on a plain or coloured ground."""
    ground = [(0.05, 0.15, 0.5), (0.92, 0.9, 0.86), (0.85, 0.65, 0.05)][int(rng.integers(3))]
    image = plain(ground, 64, 128)
    ink = 0.95 if sum(ground) < 1.5 else 0.08
    for row in range(8, 54, 14):
        x = int(rng.integers(6, 20))
        while x < 118 - int(rng.integers(0, 30)):
            letter = int(rng.integers(3, 8))
            image[row : row + 8, x : x + letter, :3] = ink
            x += letter + 3
    return Texture(image, (1.0, 1.0))


def made_textures(rng: Random) -> dict[str, Texture]:
    """Everything with windows, wheels or letters."""
    textures = {f"facade_{kind}": facade(rng, kind) for kind in range(FACADE_COUNT)}
    textures |= {f"sign_{kind}": drawn(f"sign_{kind}", rng) for kind in range(SIGN_COUNT)}
    textures |= {f"board_{kind}": board(rng) for kind in range(3)}
    return textures | {name: drawn(name, rng) for name in ("car_side", "car_glass", "car_screen", "wheel")}
