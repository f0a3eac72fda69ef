"""Builder of sandals: thongs, slides, gladiators and sport sandals."""

from __future__ import annotations

import numpy as np

from training.drawing.parts import ankle_strap, buckle, heel_parts, sole_parts, vamp_ornament
from training.drawing.shape import Last, Part, Shape, curve, join


def sandal(shape: Shape) -> list[Part]:
    last = Last(shape.heel, shape.platform, 1.5)
    insole = join(last.over((-3, 2), (14, 6), (40, 7), (70, 6.5), (92, 6), (99, 1)), last.line(100, -3))
    straps = {"thong": _thong, "slide": _slide, "gladiator": _gladiator, "sport": _trail}[shape.fastening]
    far, near = straps(shape, last)
    parts = [*far, *heel_parts(shape, last), Part(insole, "lining"), *sole_parts(shape, last), *near]
    if shape.ornament in ("brooch", "rosette", "bow"):
        parts += vamp_ornament(shape, last, 31.0)
    return parts


def _band(last: Last, front: float, back: float, height: float, lean: float = 8.0) -> tuple[list[Part], list[Part]]:
    """A strap over the foot: its far side and its near side."""
    middle = (front + back) / 2 + lean
    front_edge = (front, -1), (front + lean * 0.3, height * 0.6), (front + lean * 0.9, height * 0.95)
    back_edge = (back + lean, height * 0.92), (back + lean * 0.5, height * 0.5), (back, -1)
    near = last.over(*front_edge, (middle + 1.5, height + 2), *back_edge)
    far = near + np.asarray([5.0, 2.0], np.float32)
    return [Part(far, "upper", dim=0.55)], [Part(near, "upper")]


def _thong(shape: Shape, last: Last) -> tuple[list[Part], list[Part]]:
    w = 5.2 * shape.girth
    far = [Part(last.over((21, 5), (33, 16), (48, 17), (62, 5)), "upper", width=w * 0.9, dim=0.6)]
    near = [Part(last.over((20, 4), (30, 14), (46, 13), (59, -1)), "upper", width=w)]
    return far, [*near, Part(last.over((20, 3), (21.5, 9)), "upper", width=w * 0.7, dim=0.85)]


def _slide(shape: Shape, last: Last) -> tuple[list[Part], list[Part]]:
    far, near = _band(last, 12, 26, 15 * shape.toe_height)
    far2, near2 = _band(last, 34, 49, 23 * shape.toe_height)
    if shape.ornament == "wide":
        return _band(last, 11, 46, 20 * shape.toe_height, 5)
    return far + far2, [*near, *near2, *buckle(*last.at(24, 9), 2.6), *buckle(*last.at(47, 15), 2.6)]


def _gladiator(shape: Shape, last: Last) -> tuple[list[Part], list[Part]]:
    far, near = _band(last, 8, 16 + 4 * shape.girth, 13 * shape.toe_height, 6)
    ring = last.bed(90) + 32
    far += [Part(last.over((97, 0), (99, 16), (98, 32)), "upper", width=4.5), *ankle_strap(84, ring, 14.5, False)]
    near += [Part(last.over((88, -1), (93, 10), (98.5, 17), (101.5, 9), (100, -1)), "upper")]
    if shape.ornament == "t-bar":
        near += [Part(join(last.over((23, 15), (44, 23)), curve([(60, ring - 8), (70, ring - 2)])), "upper", width=3.6)]
    else:
        for x, h in ((32, 19), (46, 26)):
            far2, near2 = _band(last, x, x + 5, h, 7)
            far, near = far + far2, near + near2
    return far, near + ankle_strap(84, ring, 14.5, True)


def _trail(shape: Shape, last: Last) -> tuple[list[Part], list[Part]]:
    far, near = _band(last, 8, 24, 15 * shape.toe_height)
    far2, near2 = _band(last, 40, 50, 27 * shape.toe_height)
    near += [Part(last.over((27, 12), (38, 8), (46, 13)), "accent", width=4)]
    near += [Part(last.over((54, 20), (76, 17), (96, 24)), "accent", width=6)]
    heel = Part(last.over((84, -1), (89, 20), (97, 29), (102, 18), (101, -1)), "upper")
    far += [Part(last.over((56, 24), (78, 23), (95, 28)), "accent", width=5, dim=0.55)]
    return far + far2, [*near, *near2, heel, *buckle(*last.at(54, 20), 2.4)]
