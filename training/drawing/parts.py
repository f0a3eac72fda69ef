"""What builders share: seams and fur, soles and heels, and fittings such as buckles and laces."""

from __future__ import annotations

import numpy as np

from training.drawing.shape import Array, Last, Part, Point, Shape, box, curve, ellipse, join


def inlay(outline: Array, role: str = "accent", width: float = 0.0, dim: float = 1.0) -> Part:
    return Part(outline, role, width, inlay=True, dim=dim)


def stitching(line: Array) -> Part:
    return Part(line, "stitch", width=0.8, dash=True, inlay=True)


def tuft(spine: Array, width: float, shape: Shape) -> Array:
    """The ragged outline of a strip of fur along a curve."""
    draw = np.random.default_rng([shape.grain, len(spine)])
    dense = curve([(float(x), float(y)) for x, y in spine[:: max(1, len(spine) // 12)]], steps=6)
    along = np.gradient(dense, axis=0)
    normal = np.stack([-along[:, 1], along[:, 0]], 1) / (np.linalg.norm(along, axis=1, keepdims=True) + 1e-6)
    reach = width * draw.uniform(0.32, 0.68, (2, len(dense), 1))
    caps = draw.uniform(0.0, 0.3, (2, 2)) * width
    ends = dense[-1] + along[-1] + caps[0], dense[0] - along[0] - caps[1]
    outline = [dense + normal * reach[0], ends[0][None], (dense - normal * reach[1])[::-1], ends[1][None]]
    return np.concatenate(outline).astype(np.float32)


# --- soles and heels --------------------------------------------------------------------------------------------------

# x of the front at the seat, of the front and the back on the ground; bulge of the back
_HEELS: dict[str, tuple[float, float, float, float]] = {
    "stacked": (70, 72, 99, 0.0),
    "block": (76, 79, 98, 0.5),
    "cuban": (70, 75, 93, 1.0),
    "cone": (78, 86, 95, 1.0),
    "kitten": (82, 90, 94, -1.5),
    "stiletto": (80, 93, 96, -1.5),
}


def heel_parts(shape: Shape, last: Last) -> list[Part]:
    if shape.heel_style == "none" or shape.sole in ("cup", "runner", "soft"):
        return []
    if shape.heel_style == "wedge":
        top = last.line(24, 100, -1)
        return [Part(join(top, curve([(100, last.bed(100)), (101, 4), (99, 0)]), box((26, 0))), "tread")]
    front, foot, back, bulge = _HEELS[shape.heel_style]
    seat = last.bed(90)
    breast = curve([last.at(front, -1), (foot - (foot - front) * 0.25, seat * 0.55), (foot, 0)])
    rear = curve([(back, 0), (back + bulge + (100 - back) * 0.3, seat * 0.5), (100.5, last.bed(100))])
    parts = [Part(join(breast, rear), "tread")]
    lift = min(1.6, seat * 0.3)
    parts.append(inlay(box((foot - 3, 0), (foot - 3, lift), (back + 4, lift), (back + 4, 0)), "shade"))
    if shape.heel_style == "stacked" and seat > 7:
        levels = np.arange(3.2, seat, 2.6).tolist()
        parts += [inlay(box((60, y), (104, y)), "shade", width=0.5) for y in levels]
    return parts


def _strip_sole(shape: Shape, last: Last) -> list[Part]:
    shank = min(shape.platform, 2.4)
    stations = np.linspace(100, -1, 34)
    thick = np.interp(stations, [24, 36], [shape.platform, shank])
    bottom = [(x, last.bed(x) - t) for x, t in zip(stations.tolist(), thick.tolist(), strict=True)]
    toe = -8.0 if shape.toe == "pointed" else -4.0
    tip = curve([last.at(-1, -shape.platform), last.at(toe, 0)], 3)
    return [Part(join(tip, last.line(toe, 100.5), curve(bottom, 3)), "sole")]


_FOXING: dict[str, tuple[Point, ...]] = {  # the upper edge of a unit sole: (x, height above the bed)
    "runner": ((-5, 4), (10, 2.5), (30, 1), (52, 2.5), (74, 1.5), (94, 3.5), (104, 5)),
    "lug": ((-5.5, 2), (50, 0.5), (102, 0.8)),
    "cup": ((-5, 2.2), (20, 1.8), (60, 1.8), (101.5, 2.4)),
    "soft": ((-5, 2.2), (20, 1.8), (60, 1.8), (101.5, 2.4)),
}


def _unit_sole(shape: Shape, last: Last) -> list[Part]:
    """A sole that fills everything down to the ground: vulcanised, sport, lugged or soft."""
    top = last.over(*_FOXING[shape.sole])
    heel = [(103, last.bed(100) * 0.55), (99, 1.5), (92, 0)] if shape.sole == "runner" else [(101.5, 2.5), (98, 0)]
    bottom = curve([*heel, (75, 0), (60, 0.8), (28, 0), (12, 1), (-4, last.bed(-4) - shape.platform * 0.55)])
    parts = [Part(join(top, bottom), "sole")]
    if shape.sole == "lug":
        return parts + _lugs(last)
    if shape.sole == "runner":
        line = join(last.over((-7, -8), (20, 2 - shape.platform)), curve([(50, 3), (80, 2.4), (104, 5)]))
        tread = join(line, box((104, -3), (-9, -3)))
        parts.append(inlay(tread, "tread"))
        parts.append(inlay(last.over((44, -2), (62, 0), (82, -1.5), (104, 1.5)), width=2.2))
    if shape.sole == "cup":
        parts.append(inlay(last.line(-6, 103, -0.8), width=1.3))
    if shape.sole == "soft":
        parts.append(stitching(last.line(-6, 103, 0.2)))
    return parts


def _lugs(last: Last) -> list[Part]:
    notches = [x for x in range(0, 100, 8) if not 52 < x < 70]
    cuts = [inlay(box((x, -1), (x, 2.1), (x + 3.2, 2.1), (x + 3.2, -1)), "ground") for x in notches]
    arch = inlay(curve([(54, -1), (58, 3), (69, 3.6), (71, -1)]), "ground")
    return [*cuts, arch, stitching(last.line(-6, 103, -1.2))]


def sole_parts(shape: Shape, last: Last) -> list[Part]:
    return _strip_sole(shape, last) if shape.sole == "strip" else _unit_sole(shape, last)


# --- fittings ---------------------------------------------------------------------------------------------------------


def buckle(x: float, y: float, size: float = 3.0) -> list[Part]:
    corners = ((-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1))
    frame = box(*((x + size * across, y + size * up) for across, up in corners))
    return [Part(frame, "metal", width=1.5), Part(box((x - size, y), (x + size, y)), "metal", width=1.0)]


def bow(x: float, y: float, size: float) -> list[Part]:
    wings = (-size, size)
    loops = [curve([(x, y), (x + w, y + 0.75 * size), (x + 1.15 * w, y - 0.5 * size), (x, y)], 10) for w in wings]
    knot = Part(ellipse(x, y, size * 0.28, size * 0.34), "accent", dim=0.85)
    return [*(Part(loop, "accent") for loop in loops), knot]


def lacing(low: Point, high: Point, count: int, reach: float) -> list[Part]:
    """Rungs of lace between two ends of the throat, each from its eyelet over the tongue, with a bow on top."""
    slope = np.arctan2(high[1] - low[1], high[0] - low[0])
    rung = np.asarray([[1, 0], [-1, 0]]) + np.outer([-0.6, 0.75], [-np.sin(slope), np.cos(slope)]) * reach
    eyelets = np.linspace(low, high, count)[:, None]
    parts = [Part(ends.astype(np.float32), "lace", width=2.5) for ends in eyelets + rung]
    x, y = high
    loop = curve([(x, y), (x - 7, y + 3), (x - 8, y - 3), (x, y)])
    end = curve([(x, y), (x + 4, y - 6), (x + 3, y - 11)])
    return [*parts, Part(loop, "lace", width=1.5), Part(end, "lace", width=1.5)]


def ankle_strap(x: float, y: float, rx: float, near: bool) -> list[Part]:
    arc = ellipse(x, y, rx, 4.5, 180, 360) if near else ellipse(x, y, rx, 4.5, 0, 180)
    strap = Part(arc, "upper", width=3.6, dim=1.0 if near else 0.6)
    return [strap, *buckle(x - rx * 0.2, y - 4.4, 2.2)] if near else [strap]


def vamp_ornament(shape: Shape, last: Last, throat: float) -> list[Part]:
    x, y = last.at(throat - 5, 14 * shape.toe_height)
    if shape.ornament == "bow":
        return bow(x, y, 7.0)
    if shape.ornament == "brooch":
        return [Part(ellipse(x, y - 1, 4.6, 3.8), "metal"), Part(ellipse(x, y - 1, 2.2, 1.8), "accent")]
    if shape.ornament == "rosette":
        turn = np.radians(np.arange(0, 360, 60))
        petals = [Part(ellipse(x + 3.4 * np.cos(t), y + 3 * np.sin(t), 2.8, 2.5), "accent") for t in turn]
        return [*petals, Part(ellipse(x, y, 1.9, 1.7), "metal")]
    return []
