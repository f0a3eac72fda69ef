"""What is drawn: a shoe's shape and colours, the parts it is made of, and the last and curves that outline them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Point = tuple[float, float]
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Shape:
    """What is drawn, colour aside; all colour variants of a product share it. Lengths in shoe units (foot = 100)."""

    build: str  # a key of BUILDERS
    toe: str = "round"  # round, almond, pointed, bumper
    heel: float = 4.0  # how far the heel seat stands above the ball
    heel_style: str = "stacked"  # stacked, block, cuban, stiletto, kitten, cone, wedge, none
    sole: str = "strip"  # strip, cup, runner, lug, soft
    platform: float = 3.0  # thickness under the ball
    shaft: float = 36.0  # height of the collar or shaft above the heel seat
    fastening: str = "none"  # laces, zip, gore, buckle, strap, ankle strap, sling, ...
    ornament: str = "none"  # stripes, wave, bow, penny, tassel, fur, ...
    toe_cap: bool = False
    counter: bool = False  # a heel counter in the accent colour
    material: str = "leather"  # a key of MATERIALS
    pattern: str = "none"  # a key of PATTERNS
    toe_height: float = 1.0  # proportions, as factors about 1
    vamp: float = 1.0
    girth: float = 1.0
    zoom: float = 1.0  # how the product stands in its photos
    tilt: float = 0.0  # degrees
    grain: int = 0  # seeds fur and texture


@dataclass(frozen=True)
class Colours:
    """One colourway: RGB in 0–1 for each role."""

    upper: Colour
    accent: Colour
    sole: Colour
    lining: Colour
    lace: Colour
    metal: Colour


@dataclass(frozen=True)
class Light:
    """What differs between two photos of the same product: brightness, warmth, and the shoe's place in photo pixels."""

    exposure: float = 1.0
    warmth: float = 0.0
    shift: Point = (0.0, 0.0)


@dataclass(frozen=True)
class Part:
    """A piece of the shoe in shoe units: a filled outline, or a stroke along it where `width` is set."""

    outline: Array
    role: str  # a field of Colours, or stitch, shade, tread, fur, hollow (an inside), ground (a gap in the sole)
    width: float = 0.0
    dash: bool = False
    inlay: bool = False  # clipped to the last body, and lit with it
    dim: float = 1.0  # darker for what lies on the far side


# --- curves and the last ----------------------------------------------------------------------------------------------


def curve(points: Iterable[Point], steps: int = 8) -> Array:
    """A centripetal Catmull-Rom spline through the points: (N, 2). It does not overshoot where points lie unevenly."""
    p = np.asarray(list(points), np.float32)
    p = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    knots = np.concatenate([[0], np.cumsum(np.maximum(np.linalg.norm(np.diff(p, axis=0), axis=1), 1e-3) ** 0.5)])
    at = [knots[i : len(knots) - 3 + i, None] for i in range(4)]
    q = [p[i : len(p) - 3 + i, None] for i in range(4)]
    t = at[1] + (at[2] - at[1]) * np.linspace(0, 1, steps, endpoint=False)

    def blend(a: Array, b: Array, i: int, j: int) -> Array:
        share = ((t - at[i]) / (at[j] - at[i]))[..., None]
        return a * (1 - share) + b * share

    low, mid, high = blend(q[0], q[1], 0, 1), blend(q[1], q[2], 1, 2), blend(q[2], q[3], 2, 3)
    spline = blend(blend(low, mid, 0, 2), blend(mid, high, 1, 3), 1, 2).reshape(-1, 2)
    return np.concatenate([spline, p[-2:-1]]).astype(np.float32)


def join(*curves: Array) -> Array:
    """One outline from several curves, with a corner where they meet."""
    return np.concatenate(curves)


def ellipse(x: float, y: float, rx: float, ry: float, start: float = 0.0, end: float = 360.0) -> Array:
    """An arc of an ellipse, angles in degrees, anticlockwise from the right: (N, 2)."""
    t = np.radians(np.linspace(start, end, 28))
    return np.stack([x + rx * np.cos(t), y + ry * np.sin(t)], 1).astype(np.float32)


def box(*corners: Point) -> Array:
    return np.asarray(corners, np.float32)


@dataclass(frozen=True)
class Last:
    """The form a shoe is built on: `bed` is the line where the upper meets the sole."""

    heel: float
    platform: float
    spring: float = 2.0

    def bed(self, x: float) -> float:
        rise = min(max((x - 28) / 54, 0.0), 1.0)
        return self.platform + self.heel * rise * rise * (3 - 2 * rise) + self.spring * max(0.0, (24 - x) / 24) ** 2

    def at(self, x: float, dy: float) -> Point:
        return x, self.bed(x) + dy

    def over(self, *points: Point) -> Array:
        """A curve through (x, height above the bed)."""
        return curve(self.at(x, dy) for x, dy in points)

    def line(self, start: float, end: float, dy: float = 0.0) -> Array:
        """The bed itself between two x, raised by dy."""
        return box(*(self.at(x, dy) for x in np.linspace(start, end, 25).tolist()))


_TOES: dict[str, tuple[Point, ...]] = {  # (x, height above the bed), from the welt to the start of the vamp
    "round": ((-1, 0), (-3.5, 4), (-2, 9), (6, 14)),
    "almond": ((-3, 0), (-6, 3), (-2, 8), (8, 12)),
    "pointed": ((-6, 0), (-11, 1.5), (-4, 6.5), (9, 11)),
    "bumper": ((-2, 0), (-4.5, 5), (-3, 11.5), (6, 17)),
}


def toe_profile(shape: Shape) -> tuple[Point, ...]:
    return tuple((x, dy * shape.toe_height) for x, dy in _TOES[shape.toe])
