"""How a shoe is photographed: what its parts are made of, how they are lit and laid on a white sheet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from training.drawing.boots import boot
from training.drawing.sandals import sandal
from training.drawing.shape import Array, Colour, Colours, Light, Part, Point, Shape, ellipse
from training.drawing.shoes import court, loafer, scuff, sneaker

WIDTH, HEIGHT = 136, 102
_WORK, _MASK = 2, 4  # parts are composited at 2× the photo's size, from masks drawn at 4×

BUILDERS: dict[str, Callable[[Shape], list[Part]]] = {
    "sneaker": sneaker,
    "court": court,
    "loafer": loafer,
    "scuff": scuff,
    "boot": boot,
    "sandal": sandal,
}


# --- materials --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Material:
    texture: str  # a key of _texture
    strength: float
    gloss: float
    sharpness: float  # exponent of the highlight


MATERIALS = {
    "leather": Material("fine", 0.02, 0.28, 14),
    "suede": Material("mottle", 0.11, 0.0, 1),
    "canvas": Material("weave", 0.1, 0.0, 1),
    "patent": Material("fine", 0.0, 0.75, 42),
    "rubber": Material("fine", 0.018, 0.10, 8),
    "cloth": Material("weave", 0.035, 0.0, 1),
    "metal": Material("fine", 0.0, 0.9, 20),
    "fur": Material("fleece", 0.26, 0.0, 1),
}
PATTERNS = ("dots", "leopard", "bands", "check", "zigzag", "floral")
# What a role is made of; the others are of the shape's own material.
_ROLE_MATERIAL = {
    "sole": "rubber",
    "tread": "rubber",
    "lining": "cloth",
    "lace": "cloth",
    "metal": "metal",
    "fur": "fur",
}
_TILE = (HEIGHT * _WORK + 128, WIDTH * _WORK + 128)


def _noise(radius: float, seed: int) -> Array:
    raw = Image.fromarray(np.random.default_rng(seed).integers(0, 256, _TILE, dtype=np.uint8))
    smooth = np.asarray(raw.filter(ImageFilter.GaussianBlur(radius)), np.float32)
    return (smooth - smooth.mean()) / (smooth.std() + 1e-6)


@cache
def _texture(name: str) -> Array:
    """A field about 0 of the working size and some more, so that it can be shifted for each product."""
    y, x = np.mgrid[: _TILE[0], : _TILE[1]].astype(np.float32)
    if name == "weave":
        return 0.7 * np.sin(x * np.pi / 2.5) * np.sin(y * np.pi / 2.5) + 0.3 * _noise(1.0, 1)
    if name == "mottle":
        return 0.5 * _noise(5.0, 2) + 0.5 * _noise(1.4, 3)
    if name == "fleece":
        return np.clip(_noise(1.3, 4), -1.5, 1.0) * 0.8
    return _noise(1.2, 5)


@cache
def _motif(name: str) -> Array:
    """Where a pattern shows its second colour, 0–1, in working pixels."""
    y, x = np.mgrid[: _TILE[0], : _TILE[1]].astype(np.float32)
    if name == "dots":
        field = 2.6 - np.hypot((x + 6 * ((y // 12) % 2)) % 12 - 6, y % 12 - 6)
    elif name == "bands":
        field = 3.0 - np.abs((x + 0.35 * y) % 14 - 7)
    elif name == "check":
        return (0.45 * ((x % 18) < 8) + 0.45 * ((y % 18) < 8)).astype(np.float32)
    elif name == "zigzag":
        field = 2.4 - np.abs((y + np.abs(x % 16 - 8)) % 13 - 6)
    elif name == "leopard":
        spots = _noise(2.6, 6)
        field = 4 * (0.55 - np.abs(spots - 1.0))
    else:
        field = 3 * (_noise(3.0, 7) - 0.75)
    return np.clip(field, 0, 1).astype(np.float32)


# --- the studio -------------------------------------------------------------------------------------------------------

_LIGHT = np.asarray([-0.38, -0.62, 0.69], np.float32)  # from the upper left and the front; image axes, z to the viewer
_HALF = (_LIGHT + np.asarray([0, 0, 1], np.float32)) / np.linalg.norm(_LIGHT + np.asarray([0, 0, 1], np.float32))


def _blur(mask: Array, radius: float) -> Array:
    image = Image.fromarray((mask * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(image, np.float32) / 255


def _relief(mask: Array, radius: float, material: Material) -> tuple[Array, Array]:
    """Diffuse factor and highlight of a cushion with this mask: its blur is its height."""
    slope_y, slope_x = np.gradient(_blur(mask, radius) * (radius * 1.9))
    norm = 1 / np.sqrt(1 + slope_x**2 + slope_y**2)
    diffuse = (_LIGHT[2] - _LIGHT[0] * slope_x - _LIGHT[1] * slope_y) * norm / _LIGHT[2]
    rim = _blur(mask, 1.6)
    shade = (0.42 + 0.58 * np.clip(diffuse, 0.1, 1.45)) * (0.66 + 0.34 * np.clip(rim * 1.6 - 0.55, 0, 1))
    if not material.gloss:
        return shade, np.zeros_like(shade)
    flat = float(_HALF[2]) ** material.sharpness
    shine = np.clip((_HALF[2] - _HALF[0] * slope_x - _HALF[1] * slope_y) * norm, 0, 1) ** material.sharpness
    return shade, material.gloss * np.clip((shine - flat) / (1 - flat), 0, 1)


class _Studio:
    """A white sheet on which parts are laid one after another, in working pixels (2× the photo)."""

    def __init__(self, shape: Shape, colours: Colours, light: Light, parts: list[Part]) -> None:
        self.shape, self.light, self.colours = shape, light, colours
        self.sheet = np.ones((HEIGHT * _WORK, WIDTH * _WORK, 3), np.float32)
        size = self.sheet.shape[:2]
        self.body, self.shade, self.shine = (np.zeros(size, np.float32) for _ in range(3))
        self.offset = np.random.default_rng([shape.grain, 1]).integers(0, 128, 2)
        self._fit(np.concatenate([part.outline for part in parts if not part.inlay]))

    def _fit(self, points: Array) -> None:
        """Centre the shoe as catalogue photos do: as wide or as high as the frame lets it, times its own zoom."""
        turn = np.radians(self.shape.tilt)
        self.turn = np.asarray([[np.cos(turn), np.sin(turn)], [np.sin(turn), -np.cos(turn)]], np.float32)
        turned = points @ self.turn.T
        low, high = turned.min(0), turned.max(0)
        self.scale = float(min(116 / (high[0] - low[0]), 85 / (high[1] - low[1])) * self.shape.zoom)
        self.origin = np.asarray([WIDTH / 2, HEIGHT / 2 - 1]) + self.light.shift - self.scale * (low + high) / 2

    def place(self, points: Array) -> Array:
        """Shoe units to photo pixels."""
        return points @ self.turn.T * self.scale + self.origin

    def mask(self, part: Part, margin: int) -> tuple[tuple[slice, slice], Array]:
        """Where the part covers the sheet: a region of it in working pixels, and the coverage 0–1 there."""
        points = self.place(part.outline) * _WORK
        edge = margin + part.width * self.scale * _WORK / 2
        limit = np.asarray([WIDTH, HEIGHT]) * _WORK
        low = np.clip(np.floor(points.min(0) - edge), 0, limit - 2).astype(int)
        high = np.clip(np.ceil(points.max(0) + edge) + 1, low + 2, limit).astype(int)
        fine = _MASK // _WORK
        image = Image.new("L", tuple(((high - low) * fine).tolist()))
        ink = ImageDraw.Draw(image)
        path = [(float(x), float(y)) for x, y in (points - low) * fine]
        if part.width:
            _stroke(ink, path, part.width * self.scale * _MASK, part.dash)
        else:
            ink.polygon(path, fill=255)
        region = slice(low[1], high[1]), slice(low[0], high[0])
        return region, np.asarray(image.reduce(fine), np.float32) / 255

    def lay(self, part: Part) -> None:
        """Lay a part on the sheet. A filled one is a body: its relief is its own, and lights the inlays after it."""
        material = MATERIALS[self.material(part.role)]
        solid = not part.width and not part.inlay and part.role not in ("hollow", "ground")
        region, mask = self.mask(part, 10 if solid else 3)
        albedo = self.albedo(part, region, material)
        if part.inlay:
            mask = mask * self.body[region]
            shade, shine = self.shade[region], self.shine[region]
        elif part.role == "hollow":
            shade, shine = self.hollow(mask), np.zeros_like(mask)
        else:
            radius = max(9.0 if solid else part.width * self.scale * 0.8, 1.2)
            shade, shine = _relief(mask, min(radius, 4.0 + 0.12 * min(mask.shape)), material)
        if solid:
            self.body[:], self.shade[:], self.shine[:] = 0, 1, 0
            self.body[region], self.shade[region], self.shine[region] = mask, shade, shine
        lit = albedo * (shade * part.dim)[..., None] + shine[..., None]
        if part.role == "ground":
            lit = np.ones_like(lit)  # a gap in the sole shows the sheet
        self.blend(region, mask, lit, shadow=not part.inlay or part.role == "accent")

    def blend(self, region: tuple[slice, slice], mask: Array, lit: Array, shadow: bool) -> None:
        under = self.sheet[region]
        if shadow:  # what lies on top darkens its surroundings a little, but never the white sheet
            paper = (under[..., 0] > 0.97) & (under[..., 1] > 0.97) & (under[..., 2] > 0.97)
            dark = np.where(paper, 0, 0.3) * np.clip(_blur(mask, 2.0) * 1.4 - mask, 0, 1)
            under = under * (1 - dark)[..., None].astype(np.float32)
        self.sheet[region] = under + (np.clip(lit, 0, 1) - under) * mask[..., None]

    def material(self, role: str) -> str:
        return _ROLE_MATERIAL.get(role, self.shape.material)

    def albedo(self, part: Part, region: tuple[slice, slice], material: Material) -> Array:
        """Colour before light, (h, w, 3): the role's colour, its material's texture and, on the upper, the pattern."""
        y, x = (slice(r.start + o, r.stop + o) for r, o in zip(region, self.offset.tolist(), strict=True))
        base = np.asarray(_role_colour(part.role, self.colours), np.float32)
        field: Array = np.broadcast_to(base, (y.stop - y.start, x.stop - x.start, 3))
        if part.role == "upper" and self.shape.pattern != "none":
            motif = _motif(self.shape.pattern)[y, x, None]
            field = field * (1 - motif) + np.asarray(self.colours.accent, np.float32) * motif
        strength = material.strength * (1.15 - 0.75 * float(base.mean()))  # on white, texture soon looks like dirt
        grain = 1 + strength * _texture(material.texture)[y, x, None]
        warm = 1 + self.light.warmth * np.asarray([1, 0, -1], np.float32)
        return field * grain * warm * self.light.exposure

    @staticmethod
    def hollow(mask: Array) -> Array:
        """The inside of a shoe: darker the deeper it goes."""
        depth = np.linspace(0.92, 0.38, mask.shape[0], dtype=np.float32)[:, None]
        return np.broadcast_to(depth, mask.shape)

    def cast(self, parts: list[Part]) -> None:
        """A soft contact shadow under the shoe."""
        points = np.concatenate([part.outline for part in parts if not part.inlay])
        ground = points[points[:, 1] < 6]
        left, right = float(ground[:, 0].min()), float(ground[:, 0].max())
        foot = Part(ellipse((left + right) / 2, 0.4, (right - left) / 2, 2.4), "shade")
        region, mask = self.mask(foot, 12)
        self.sheet[region] *= (1 - 0.34 * _blur(mask, 4.0))[..., None]

    def photo(self) -> Image.Image:
        sheet = Image.fromarray((np.clip(self.sheet, 0, 1) * 255 + 0.5).astype(np.uint8))
        return sheet.resize((WIDTH, HEIGHT), Image.Resampling.BOX)


def _stroke(ink: ImageDraw.ImageDraw, path: list[Point], width: float, dash: bool) -> None:
    pen = max(1, round(width))
    if not dash:
        ink.line(path, fill=255, width=pen, joint="curve")
        for x, y in (path[0], path[-1]):
            ink.ellipse((x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2), fill=255)
        return
    points = np.asarray(path)
    length = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    for start in np.arange(0, length[-1], 13.0):
        at = [start, min(start + 8.0, length[-1])]
        ends = np.stack([np.interp(at, length, points[:, 0]), np.interp(at, length, points[:, 1])], 1)
        ink.line([tuple(p) for p in ends.tolist()], fill=255, width=pen)


def _role_colour(role: str, colours: Colours) -> Colour:
    rgb = np.asarray(colours.upper)
    if role == "stitch":  # thread shows: lighter on dark leather, darker on light
        rgb = rgb * 0.55 + 0.45 if rgb.mean() < 0.45 else rgb * 0.6
    elif role == "shade":
        rgb = rgb * 0.5
    elif role == "tread":
        rgb = np.asarray(colours.sole) * 0.72 + rgb * 0.17
    elif role in ("fur", "hollow"):
        rgb = np.asarray(colours.lining)
    elif role != "ground":
        rgb = np.asarray(getattr(colours, role))
    return float(rgb[0]), float(rgb[1]), float(rgb[2])


def draw_shoe(shape: Shape, colours: Colours, light: Light | None = None) -> Image.Image:
    """One catalogue photo: 136×102 RGB, side view facing left on pure white. Same arguments, same pixels."""
    parts = BUILDERS[shape.build](shape)
    studio = _Studio(shape, colours, light or Light(), parts)
    studio.cast(parts)
    for part in parts:
        studio.lay(part)
    return studio.photo()
