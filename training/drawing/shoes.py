"""Builders of low shoes: sneakers, courts, loafers and slippers."""

from __future__ import annotations

from training.drawing.parts import (
    ankle_strap,
    bow,
    buckle,
    heel_parts,
    inlay,
    lacing,
    sole_parts,
    stitching,
    tuft,
    vamp_ornament,
)
from training.drawing.shape import Array, Last, Part, Shape, box, curve, ellipse, join, toe_profile


def sneaker(shape: Shape) -> list[Part]:
    last = Last(shape.heel, shape.platform, 4.0)
    c, v = shape.shaft, shape.vamp
    throat, tongue = (31 * v, 18.5), (58, c + 9)
    mid = (45.0, 18 + (c - 11) * 0.48)
    vamp = last.over(*toe_profile(shape), (18, 15.5), throat, mid, tongue, (63.5, c + 9))
    collar = last.over((65, c + 3), (72, c - 4), (81, c - 6), (91, c - 1), (98, c + 7))
    back = last.over((100.5, c + 6), (97.5, c * 0.72), (101.5, 10), (100, 0))
    hollow = last.over((62, c + 5), (72, c + 3), (86, c + 1), (98, c + 4), (92, c - 10), (70, c - 10))
    upper = Part(join(vamp, collar, back, last.line(100, -1)), "upper")
    eyestay = join(last.over(throat, mid, tongue), last.over((66, c + 2), (57, 24), (40, 12), throat))
    low, high = last.at(throat[0] + 4, throat[1] + 0.5), last.at(55, c + 3)
    parts = [Part(hollow, "hollow"), upper, *_sneaker_panels(shape, last), inlay(eyestay)]
    parts.append(stitching(last.over((68, c - 3), (59, 22), (42, 10.5), (30 * v, 17))))
    if shape.fastening == "strap":
        straps = [last.over((36, 23 + y), (48, 17 + y), (60, 12 + 0.9 * y)) for y in (0, 11.7)]
        parts += [Part(strap, "accent", width=6, dim=0.9) for strap in straps]
    else:
        parts += lacing(low, high, 4 if c < 45 else 6, 5.0)
    if shape.ornament == "tab":
        parts.append(Part(curve([last.at(97, c), last.at(102, c + 7), last.at(101, c - 4)]), "accent", width=1.6))
    return parts + sole_parts(shape, last)


def _sneaker_panels(shape: Shape, last: Last) -> list[Part]:
    c = shape.shaft
    parts: list[Part] = []
    if shape.toe_cap:
        parts.append(inlay(join(last.over((17, 26), (15, 12), (19, -2)), last.line(19, -12))))
    if shape.counter:
        parts.append(inlay(last.over((84, -2), (82, 10), (90, 20), (93, c + 8), (106, c + 8), (106, -2))))
    if shape.ornament == "stripes":
        for x in (62, 69):
            parts.append(inlay(last.over((x - 8, c - 4), (x, 12), (x + 4, -2)), width=3.4))
    if shape.ornament == "wave":
        parts.append(inlay(last.over((28, 6), (42, 12), (58, 7), (74, 14), (100, 22)), width=4))
    if shape.ornament == "chevron":
        parts.append(inlay(box(last.at(58, 22), last.at(72, 12), last.at(60, 2)), width=4))
    if shape.ornament == "disc":
        parts.append(inlay(ellipse(80, last.bed(80) + c * 0.55, 6.5, 6.5)))
    if shape.ornament in ("mesh", "tab"):
        parts += [stitching(last.over((20, 12), (40, 6 + i), (66, 8 + i))) for i in (0, 3)]
    return parts


def court(shape: Shape) -> list[Part]:
    """Pumps and ballet flats: a low topline with a wide opening."""
    last = Last(shape.heel, shape.platform, 1.0 if shape.heel > 12 else 2.0)
    k, throat = shape.toe_height, 27 * shape.vamp
    vamp = last.over(*toe_profile(shape), (throat * 0.75, 13.5 * k), (throat, 15 * k))
    topline, rear, opening = _topline(shape, last, throat)
    parts = [*heel_parts(shape, last), *_court_strap(shape, last, near=False), opening]
    parts.append(Part(join(vamp, topline, rear), "upper"))
    if shape.toe_cap:
        parts.append(inlay(join(last.over((13, 24), (15, 8), (12, -3)), box((-16, -3), (-16, 40)))))
    if shape.counter:
        parts.append(inlay(join(last.over((84, 24), (80, 10), (82, -3)), box((108, 0), (108, 99)))))
    parts.append(Part(topline, "accent" if shape.ornament == "piping" else "shade", width=1.3))
    parts += sole_parts(shape, last) + _court_strap(shape, last, near=True)
    return parts + vamp_ornament(shape, last, throat)


def _topline(shape: Shape, last: Last, throat: float) -> tuple[Array, Array, Part]:
    """The near topline, the outline behind it down to the bed and back to the toe, and the opening."""
    k, steep = shape.toe_height, 1 + shape.heel / 90  # a steep bed needs more height to look as deep
    if shape.fastening == "sling":
        topline = last.over((throat, 15 * k), (throat + 9, 10 * steep), (58, 4), (60, 0))
        footbed = join(last.over((throat, 13), (throat + 9, 14 * steep), (64, 6), (98, 3)), last.line(98, throat))
        return topline, last.line(60, -1), Part(footbed, "lining")
    topline = last.over((throat, 15 * k), (throat + 9, 9.5 * steep), (62, 8 * steep), (82, 14), (96.5, 25))
    far = last.over((throat, 14 * k), (throat + 12, 15.5 * steep), (64, 14.5 * steep), (82, 20), (96.5, 25))
    rear = join(last.over((98, 25), (102, 14), (100, 0)), last.line(100, -1))
    return topline, rear, Part(join(far, last.line(96, throat, 1)), "hollow")


def _court_strap(shape: Shape, last: Last, near: bool) -> list[Part]:
    if shape.fastening == "ankle strap":
        x, y = 83.5, last.bed(90) + 35
        heel = [] if near else [Part(last.over((96.5, 16), (98.5, 28), (98, 36)), "upper", width=4.5)]
        return heel + ankle_strap(x, y, 14.5, near)
    if shape.fastening == "strap":
        if not near:
            return [Part(last.over((53, 19.5), (58, 18.5), (61, 11)), "upper", width=4.4, dim=0.6)]
        strap = last.over((46, 6), (46.5, 12.5), (49, 17.5), (54, 19.5))
        return [Part(strap, "upper", width=4.8), *buckle(*last.at(46.8, 12), 2.2)]
    if shape.fastening == "sling":
        if not near:
            return [Part(last.over((52, 12), (78, 17), (95, 23)), "upper", width=3, dim=0.6)]
        strap = last.over((52, 5), (72, 11), (90, 17), (97, 24))
        return [Part(strap, "upper", width=3.2), *buckle(*last.at(66, 9), 2)]
    return []


def loafer(shape: Shape) -> list[Part]:
    last = Last(shape.heel, shape.platform, 2.5)
    k, t = shape.toe_height, 45 * shape.vamp
    vamp = last.over(*toe_profile(shape), (18, 17 * k), (31, 22 * k), (t - 2, 30), (t + 3, 33))
    collar = last.over((t + 4, 31), (t + 12, 23), (74, 20), (88, 23), (97, 29))
    back = last.over((99, 28), (102, 15), (100, 0))
    hollow = last.over((t + 2, 30), (66, 30), (84, 28), (97, 29), (90, 18), (62, 14))
    parts = [
        *heel_parts(shape, last),
        Part(hollow, "hollow"),
        Part(join(vamp, collar, back, last.line(100, -1)), "upper"),
    ]
    seam = last.over((t + 1, 20), (30, 14.5), (14, 10.5 * k), (4, 9.5 * k), (1, 13 * k))
    apron = join(seam, box((0, 60), (t + 1, 60)))
    parts.append(Part(apron, "accent" if shape.toe_cap else "upper", inlay=True, dim=1.0 if shape.toe_cap else 1.07))
    parts += [inlay(seam, "shade", width=1.5), stitching(last.over((t + 1, 17.5), (30, 12), (14, 8 * k), (3, 7 * k)))]
    if shape.counter:
        parts.append(inlay(join(last.over((86, 34), (83, 12), (86, -3)), box((108, 0), (108, 60)))))
    parts.append(Part(collar, "shade", width=1.4))
    return parts + _loafer_ornament(shape, last, t) + sole_parts(shape, last) + _fur_collar(shape, last, t)


def _loafer_ornament(shape: Shape, last: Last, t: float) -> list[Part]:
    if shape.ornament in ("none", "fur"):
        return []
    strap = join(last.over((t - 12, 36), (t - 10, 20), (t - 7, 6)), last.over((t + 6, 6), (t + 1, 20), (t - 1, 38)))
    if shape.ornament == "gore":
        return [inlay(last.over((t, 33), (t + 3, 20), (t + 12, 14), (t + 15, 30)), "shade")]
    parts = [Part(strap, "accent", inlay=True, dim=0.92)]
    if shape.ornament == "penny":
        parts.append(inlay(last.over((t - 8, 22), (t - 5, 20.5), (t - 3, 23), (t - 5, 24), (t - 8, 22)), "shade"))
    if shape.ornament == "bit":
        parts += [Part(last.over((t - 12, 17), (t - 5, 20), (t + 2, 17)), "metal", width=1.6)]
        parts += [Part(ellipse(*last.at(x, 17), 2.3, 2.8), "metal", width=1.3) for x in (t - 12, t + 2)]
    if shape.ornament == "tassel":
        for x in (t - 13, t - 8):
            fringe = last.over((x + 4, 23), (x, 19), (x - 3, 11), (x + 3, 10), (x + 5, 19), (x + 4, 23))
            parts += [Part(fringe, "accent"), Part(ellipse(*last.at(x + 3, 20), 1.9, 1.9), "accent", dim=0.8)]
    if shape.ornament == "kiltie":
        parts += bow(*last.at(t - 7, 25), 5.5)
    return parts


def _fur_collar(shape: Shape, last: Last, t: float) -> list[Part]:
    if shape.ornament != "fur":
        return []
    return [Part(tuft(last.over((t + 1, 33), (t + 11, 24), (74, 21), (88, 24), (98, 30)), 9.5, shape), "fur")]


def scuff(shape: Shape) -> list[Part]:
    """A slipper without a back: a padded vamp, a fleece footbed, a thick soft sole."""
    last = Last(shape.heel, shape.platform, 2.5)
    k, t = shape.toe_height, 47 * shape.vamp
    vamp = last.over(*toe_profile(shape), (14, 21 * k), (30, 27 * k), (t - 3, 31 * k))
    edge = last.over((t - 2, 31 * k), (t + 3, 18), (t + 5, 0))
    bed = Part(join(last.over((30, 8), (60, 8), (85, 9), (99, 4)), last.line(101, 30)), "fur", dim=0.94)
    rim = Part(tuft(last.over((t, 7), (75, 7.5), (90, 7), (99, 4)), 4, shape), "fur")
    inside = last.over((t - 12, 30 * k), (t, 28 * k), (t + 7, 22 * k), (t + 9, 8))
    throat = Part(tuft(inside, 10, shape), "fur", dim=0.8)
    parts = [*heel_parts(shape, last), bed, rim, throat, Part(join(vamp, edge, last.line(t + 5, -1)), "upper")]
    if shape.toe_cap:
        parts += [stitching(last.over((t, 17), (30, 15), (12, 11), (2, 13)))]
    cuff = tuft(last.over((t - 4, 31 * k), (t + 2, 19), (t + 4, 5)), 10 * shape.girth, shape)
    parts += [Part(cuff, "fur"), *sole_parts(shape, last)]
    x, y = last.at(t * 0.55, 24 * k)
    if shape.ornament == "pompom":
        parts.append(Part(tuft(ellipse(x, y, 3.4, 3.4), 7.5, shape), "fur"))
    return parts + (bow(x, y, 6.5) if shape.ornament == "bow" else [])
