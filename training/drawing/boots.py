"""Builder of boots, from ankle boots to those over the knee."""

from __future__ import annotations

from training.drawing.parts import buckle, heel_parts, inlay, sole_parts, stitching, tuft
from training.drawing.shape import Array, Last, Part, Shape, box, curve, ellipse, join, toe_profile


def boot(shape: Shape) -> list[Part]:
    last = Last(shape.heel, shape.platform, 2.5)
    seat, h, k = last.bed(90), shape.shaft, shape.toe_height
    top, tall = seat + h, min(max((h - 60) / 60, 0.0), 1.0)
    width = (46 + 5 * tall) * shape.girth
    back_x = 98.0 + 1.5 * tall
    front_x = back_x - width
    instep = seat + 28 - 0.25 * shape.heel
    ankle = (front_x + 4 + 4 * tall, seat + min(h * 0.66 + 4, 50))
    shin = [ankle, (front_x + 1 + tall, seat + h * 0.78), (front_x, top)]
    foot = [*(last.at(*p) for p in toe_profile(shape)), last.at(18, 16 * k), last.at(31, 20 * k), (46 - tall, instep)]
    vamp = curve([*foot, *shin])
    rim = _rim(shape, front_x, back_x, top)
    calf = [(back_x, top), (back_x + 2.5 * tall, seat + h * 0.68), (95 - 2 * tall, seat + min(h * 0.42, 38))]
    heel = curve([*calf, (101, seat + 12), (100, seat)])
    mouth = Part(ellipse((front_x + back_x) / 2, top, width / 2, 3.6 + h / 90), "hollow")
    parts = [*heel_parts(shape, last), mouth, Part(join(vamp, rim, heel, last.line(100, -1)), "upper")]
    parts += _boot_panels(shape, last) + sole_parts(shape, last)
    return parts + _boot_fastening(shape, last, front_x, back_x, instep) + _boot_top(shape, front_x, back_x, top)


def _rim(shape: Shape, front: float, back: float, top: float) -> Array:
    mid, dip = (front + back) / 2, 3.6 + shape.shaft / 90
    if shape.ornament == "western":
        return curve([(front, top + 1), (front + 8, top - 3), (mid, top - 11), (back - 8, top - 3), (back, top + 1)])
    return ellipse(mid, top, (back - front) / 2, dip, 180, 360)


def _boot_panels(shape: Shape, last: Last) -> list[Part]:
    seat, k = last.bed(90), shape.toe_height
    parts: list[Part] = []
    if shape.toe_cap:
        parts.append(inlay(join(last.over((20, 30), (18, 12), (21, -3)), box((-16, -3), (-16, 40)))))
    if shape.counter:
        parts.append(inlay(last.over((80, -2), (79, 14), (88, 26), (110, 26), (110, -2))))
    if shape.ornament == "western":
        for i in (0, 5):
            flame = [(62 + i, seat + 30), (74, seat + 44 + i), (72, seat + 60 + i), (86 - i, seat + 34)]
            parts.append(stitching(curve(flame)))
        parts.append(inlay(last.over((38, 40), (44, 22), (56, 12), (66, -1)), "shade", width=1.0))
    if shape.ornament in ("two-tone", "rubber"):
        low = last.over((-14, 12 * k), (20, 13), (55, 14), (110, 16))
        parts.append(inlay(join(low, box((110, -5), (-14, -5)))))
    if shape.ornament == "slouch":
        for y in (40, 55, 68):
            fold = curve([(52, seat + y + 6), (68, seat + y - 3), (100, seat + y + 3)])
            parts.append(inlay(fold, "shade", width=2.2))
    if shape.ornament in ("none", "slouch"):
        parts.append(stitching(last.over((74, 60), (72, 26), (66, 8), (64, -1))))
    return parts


def _boot_fastening(shape: Shape, last: Last, front: float, back: float, instep: float) -> list[Part]:
    seat, mid = last.bed(90), (front + back) / 2
    top = seat + shape.shaft
    if shape.fastening == "laces":
        ankle = min(shape.shaft * 0.66 + 1, 47)
        flap = curve([last.at(30, 17), (44, instep - 6), (front + 9, seat + ankle), (front + 6, top - 4)])
        rungs = curve([last.at(36, 21), (46.5, instep), (front + 4, seat + ankle + 1), (front + 1.5, top - 6)], 4)
        laces = [Part(box((x - 3.0, y + 2.5), (x + 5.5, y - 3.2)), "lace", width=2.1) for x, y in rungs.tolist()]
        return [Part(flap, "accent", width=3.0), *laces]
    if shape.fastening == "gore":
        gore = curve([(mid - 9, top - 4), (mid - 5, seat + 18), (mid + 3, seat + 15), (mid + 8, top - 4)])
        ribs = [box((mid - 4 + i, top - 7), (mid - 1.5 + i * 0.6, seat + 20)) for i in (0, 3, 6)]
        return [Part(gore, "accent", dim=0.8), *(Part(rib, "shade", width=0.7) for rib in ribs)]
    if shape.fastening == "zip":
        track = curve([(mid + 6, top - 5), (mid + 5, seat + shape.shaft * 0.5), (mid + 2, seat + 10)])
        pull = Part(box((mid + 6, top - 6), (mid + 6.5, top - 12)), "metal", width=1.6)
        return [Part(track, "shade", width=1.8), Part(track, "metal", width=1.0, dash=True), pull]
    if shape.fastening in ("buckle", "two buckles"):
        harness = curve([(50.5, seat + 28), (mid, seat + 24), (98, seat + 27)])
        parts = [Part(harness, "accent", width=5), *buckle(mid + 2, seat + 24.2, 3.4)]
        if shape.fastening == "two buckles":
            belt = curve([(front - 1, top - 12), (mid, top - 16), (back + 1, top - 13)])
            parts += [Part(belt, "accent", width=5), *buckle(mid + 2, top - 15.8, 3.4)]
        return parts
    return []


def _boot_top(shape: Shape, front: float, back: float, top: float) -> list[Part]:
    mid, half = (front + back) / 2, (back - front) / 2
    if shape.ornament == "fur":
        return [Part(tuft(curve([(front - 1, top), (mid, top - 4), (back + 1, top)]), 13, shape), "fur")]
    if shape.ornament == "cuff":
        fold = join(ellipse(mid, top, half + 1.5, 4, 180, 360), ellipse(mid, top - 11, half + 2.5, 4, 360, 180))
        return [Part(fold, "accent")]
    if shape.ornament in ("tab", "western"):
        loop = curve([(back - 5, top - 7), (back - 2, top + 5), (back + 1, top - 7)])
        return [Part(loop, "accent", width=2.2)]
    return []
