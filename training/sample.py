"""A drawn sample catalogue, so that the demo and the tests run with no download.

`python -m training.sample --output DIR` writes photos of shoes that nobody sells, in the tree of UT-Zap50K
(`Category/SubCategory/Brand/<product>.<colour>.jpg`) and with the eight classes of the label scheme `utzap50k-8`. A
photo is a function of (seed, product, colour) alone, and a smaller catalogue is the beginning of a larger one. Shape
tells the class; colour, material and pattern are drawn without looking at it.
"""

from __future__ import annotations

import colorsys
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from infogan.errors import ArgumentParser, UserError, run_command
from training.drawing import PATTERNS, Colour, Colours, Light, Shape, draw_shoe

BRANDS = (
    "Alder & Finch", "Bramblewick", "Cobblegate", "Dunmarrow", "Ettersole", "Fennimoor",
    "Gullane Row", "Hask", "Ivory Lane", "Juniper Last", "Kestrelway", "Lumen Foot",
)  # fmt: skip

# --- what is made -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A product line: its class and folder, its share of the products, and what its products may look like."""

    kind: str
    folder: str
    share: float
    build: str
    toe: str
    heel: tuple[float, float]
    heel_style: str
    platform: tuple[float, float]
    shaft: tuple[float, float] = (36, 36)
    sole: str = "strip"
    fastening: str = "none"
    ornament: str = "none"


_SNEAKERS, _ANKLE, _MID = "Shoes/Sneakers and Athletic Shoes", "Boots/Ankle", "Boots/Mid-Calf"
_HEELS, _FLATS, _LOAFERS = "Shoes/Heels", "Shoes/Flats", "Shoes/Loafers"
_KNEE, _THIGH = "Boots/Knee High", "Boots/Over the Knee"
_SLIPPERS, _SLIPPER_HEELS = "Slippers/Slipper Flats", "Slippers/Slipper Heels"
_FLAT, _ATHLETIC, _HEEL = "Sandals/Flat", "Sandals/Athletic", "Sandals/Heel"

# Where a field names several choices ("round bumper"), each product takes one. The shares follow UT-Zap50K's order of
# classes, evened out so that a small catalogue has enough of each.
LINES = (
    Line("sports", _SNEAKERS, 10, "sneaker", "round bumper", (3, 6), "none", (8, 12), (27, 32), "runner",
         "laces", "stripes wave chevron mesh tab"),
    Line("sports", _SNEAKERS, 7, "sneaker", "round bumper", (1, 2), "none", (6, 8), (26, 31), "cup",
         "laces laces strap", "stripes wave chevron disc none"),
    Line("sports", _SNEAKERS, 4, "sneaker", "round bumper", (1, 3), "none", (7, 10), (44, 52), "cup runner",
         "laces", "disc wave stripes none"),
    Line("boots", _ANKLE, 4, "boot", "round almond", (4, 9), "stacked block", (3, 4), (56, 68), "strip",
         "gore zip", "tab none"),
    Line("boots", _ANKLE, 4, "boot", "bumper round", (4, 7), "none", (8, 11), (54, 70), "lug",
         "laces", "none fur cuff two-tone"),
    Line("boots", _ANKLE, 3, "boot", "almond pointed", (22, 32), "block stiletto cone", (3, 5), (46, 58), "strip",
         "zip buckle none", "none cuff slouch"),
    Line("boots", _MID, 4, "boot", "round bumper", (4, 8), "none", (7, 10), (78, 96), "lug",
         "laces buckle two@buckles", "none fur rubber"),
    Line("boots", _MID, 3, "boot", "pointed", (9, 14), "cuban", (3, 4), (84, 100), "strip", "none", "western"),
    Line("heels", _HEELS, 6, "court", "pointed almond round", (34, 48), "stiletto", (3, 9), sole="strip",
         fastening="none none sling", ornament="none bow piping brooch"),
    Line("heels", _HEELS, 5, "court", "round almond pointed", (30, 44), "block cone stiletto", (3, 12), sole="strip",
         fastening="ankle@strap strap", ornament="none piping"),
    Line("heels", _HEELS, 3, "court", "pointed almond", (17, 26), "kitten cone block", (3, 4), sole="strip",
         fastening="none sling strap", ornament="bow brooch none rosette"),
    Line("sandals", _FLAT, 4, "sandal", "round", (2, 8), "none", (6, 9), sole="soft", fastening="thong",
         ornament="none none rosette brooch"),
    Line("sandals", _FLAT, 3, "sandal", "round", (2, 5), "none", (8, 11), sole="soft", fastening="slide",
         ornament="none none wide"),
    Line("sandals", _FLAT, 3, "sandal", "round", (3, 6), "stacked", (3, 4), fastening="gladiator",
         ornament="none t-bar"),
    Line("sandals", _ATHLETIC, 2, "sandal", "round", (3, 6), "none", (9, 12), sole="runner lug", fastening="sport"),
    Line("sandals", _HEEL, 1.5, "sandal", "round", (28, 42), "wedge block stiletto", (4, 9), fastening="gladiator",
         ornament="none t-bar"),
    Line("flats", _FLATS, 6, "court", "round almond", (2, 4), "stacked", (2, 3),
         ornament="bow bow rosette piping none brooch"),
    Line("flats", _FLATS, 4, "court", "round pointed", (2, 5), "stacked", (2, 3), fastening="strap none",
         ornament="none piping brooch"),
    Line("loafers", _LOAFERS, 7, "loafer", "round almond", (5, 9), "stacked", (3, 4),
         ornament="penny penny tassel bit kiltie"),
    Line("loafers", _LOAFERS, 3, "loafer", "round almond bumper", (2, 4), "none", (5, 7), sole="cup soft",
         ornament="penny bit gore tassel"),
    Line("high_boots", _KNEE, 5, "boot", "round almond", (5, 10), "stacked block", (3, 4), (150, 185), "strip",
         "zip buckle two@buckles", "none tab cuff"),
    Line("high_boots", _KNEE, 2, "boot", "almond pointed", (24, 36), "stiletto block cone", (3, 6), (150, 180), "strip",
         "zip none", "none slouch cuff"),
    Line("high_boots", _THIGH, 1, "boot", "almond round", (6, 34), "block stacked", (3, 5), (205, 235), "strip",
         "zip none", "none slouch"),
    Line("slippers", _SLIPPERS, 4.5, "scuff", "round bumper", (1, 3), "none", (6, 9), sole="soft",
         ornament="none pompom bow none"),
    Line("slippers", _SLIPPERS, 3, "loafer", "bumper round", (1, 3), "none", (5, 8), sole="soft", ornament="fur"),
    Line("slippers", _SLIPPER_HEELS, 1, "scuff", "round almond", (12, 18), "wedge kitten", (3, 4),
         ornament="pompom bow"),
)  # fmt: skip


@dataclass(frozen=True)
class Product:
    """One product of the catalogue: where it is filed, how it is built, and its colourways."""

    number: int
    line: Line
    brand: str
    shape: Shape
    colourways: tuple[tuple[int, Colours], ...]


def _shape(line: Line, draw: np.random.Generator) -> Shape:
    def pick(choices: str) -> str:
        return str(draw.choice(choices.split())).replace("@", " ")

    shape = Shape(
        build=line.build,
        toe=pick(line.toe),
        heel=draw.uniform(*line.heel),
        heel_style=pick(line.heel_style),
        sole=pick(line.sole),
        platform=draw.uniform(*line.platform),
        shaft=draw.uniform(*line.shaft),
        fastening=pick(line.fastening),
        ornament=pick(line.ornament),
        toe_cap=draw.random() < 0.35,
        counter=draw.random() < 0.35,
    )
    return replace(
        shape,
        material=str(draw.choice(["leather", "suede", "canvas", "patent"], p=[0.42, 0.24, 0.2, 0.14])),
        pattern=str(draw.choice(PATTERNS)) if draw.random() < 0.13 else "none",
        toe_height=draw.uniform(0.9, 1.12),
        vamp=draw.uniform(0.93, 1.07),
        girth=draw.uniform(0.92, 1.08),
        zoom=draw.uniform(0.92, 1.08),
        tilt=draw.uniform(-3, 3),
        grain=int(draw.integers(1 << 31)),
    )


# --- colours ----------------------------------------------------------------------------------------------------------

# RGB in hexadecimal; common colours stand more than once.
# fmt: off
_UPPERS = (
    "232326", "232326", "232326", "232326", "2e2826", "4a3228", "4a3228", "6f4a31", "6f4a31", "8f5f3b", "a8754a",
    "a8754a", "c49a6a", "c49a6a", "d9c09a", "e6dccb", "efede8", "efede8", "efede8", "94979c", "94979c", "5f6b73",
    "2a3850", "2a3850", "2a3850", "46699a", "8fb4cf", "3b7672", "6d7f5a", "5d6043", "74303a", "74303a", "b2433b",
    "cf6a52", "dc9a4e", "d9b95f", "dfadb4", "bc5f80", "6b557d", "aeabc6", "a4c8ba", "bfc3c8", "c4aa74",
)
# fmt: on
_NEUTRALS = ("f2f0ea", "d8b98a", "6b4226", "8d8f94", "1f1f22")
_SOLES = ("232325", "232325", "3b2a20", "5d3f29", "a9713f", "c08a52", "f0eee6", "f0eee6", "e5d8bd", "85888d")
_LININGS = ("efe6d6", "efe6d6", "e2cfb0", "cfae84", "d9d9dc", "f3d9da", "b9a38d", "9c9ea3")
_LACES = ("f6f4ef", "f6f4ef", "262628", "6b4a30", "d9cdb4")
_METALS = ("d9b45f", "c9ccd2", "c9ccd2", "6e6a68")


def _rgb(code: str) -> Colour:
    red, green, blue = bytes.fromhex(code)
    return red / 255, green / 255, blue / 255


def _accent(upper: Colour, draw: np.random.Generator) -> Colour:
    """A second colour that goes with the first: a shade of it, a neutral, or now and then another colour."""
    hue, light, saturation = colorsys.rgb_to_hls(*upper)
    manner = draw.random()
    if manner < 0.5:
        light = light * 0.66 if light > 0.38 else light + 0.17
        return colorsys.hls_to_rgb(hue, light, saturation * 0.9)
    return _rgb(str(draw.choice(_NEUTRALS if manner < 0.8 else _UPPERS)))


def _colours(upper: Colour, draw: np.random.Generator) -> Colours:
    sole, lining, lace, metal = (_rgb(str(draw.choice(names))) for names in (_SOLES, _LININGS, _LACES, _METALS))
    return Colours(upper, _accent(upper, draw), sole, lining, lace, metal)


# --- the catalogue ----------------------------------------------------------------------------------------------------


def products(seed: int = 0) -> Iterator[Product]:
    """The catalogue's products, without end. Product i depends on (seed, i) alone."""
    edges = np.cumsum([line.share for line in LINES])
    start = np.random.default_rng([seed, 0]).random()
    number = 0
    while True:
        draw = np.random.default_rng([seed, 1, number])
        # Golden-ratio steps spread the products over the lines evenly, so that even a short catalogue keeps the shares.
        share = (start + number * 0.6180339887498949) % 1.0 * edges[-1]
        line = LINES[int(np.searchsorted(edges, share, side="right"))]
        uppers = list(dict.fromkeys(draw.choice(_UPPERS, 16).tolist()))
        codes = draw.choice(np.arange(1, 999), 4, replace=False)
        count = int(draw.choice([1, 2, 3, 4], p=[0.3, 0.35, 0.2, 0.15]))
        colourways = tuple(
            (int(code), _colours(_rgb(upper), draw)) for code, upper in zip(codes[:count], uppers, strict=False)
        )
        # The seed is part of the id: two catalogues in one folder do not share products.
        name = 10_000_000 * (1 + seed % 9) + 100_000 * (seed // 9 % 100) + number
        yield Product(name, line, str(draw.choice(BRANDS)), _shape(line, draw), colourways)
        number += 1


def _light(seed: int, product: int, colour: int) -> Light:
    draw = np.random.default_rng([seed, 2, product, colour])
    across, up = draw.uniform(-0.6, 0.6, 2).tolist()
    return Light(draw.uniform(0.95, 1.05), draw.uniform(-0.02, 0.02), (across, up))


def _write(path: Path, product: Product, colours: Colours, light: Light) -> None:
    """Write one photo, whole or not at all."""
    buffer = io.BytesIO()
    draw_shoe(product.shape, colours, light).save(buffer, "JPEG", quality=90)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(buffer.getvalue())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _photos(root: Path, photos: int, seed: int) -> Iterator[Path]:
    shots = ((product, code, colours) for product in products(seed) for code, colours in product.colourways)
    for product, code, colours in islice(shots, photos):
        path = root / product.line.folder / product.brand / f"{product.number}.{code}.jpg"
        _write(path, product, colours, _light(seed, product.number, code))
        yield path


def write_catalogue(root: Path, photos: int, seed: int) -> Iterator[Path]:
    """Write the photos one by one as they are asked for; see `draw_catalogue`. Mistakes are raised at once."""
    if photos < 1:
        raise UserError(f"--photos {photos}: a catalogue has at least one photo; ask for 1 or more")
    if seed < 0:
        raise UserError(f"--seed {seed}: a seed is not negative; ask for 0 or more")
    if root.exists() and not root.is_dir():
        raise UserError(f"{root}: is a file; name a folder for the catalogue")
    return _photos(root, photos, seed)


def draw_catalogue(root: Path, photos: int = 1000, seed: int = 0) -> list[Path]:
    """Write a drawn catalogue under `root` and return the photos' paths, in catalogue order.

    Each is a 136×102 JPEG at `Category/SubCategory/Brand/<product>.<colour>.jpg`. The same (photos, seed) give the
    same bytes; files already there are written anew, other files are left alone. Raises `UserError` for photos < 1, a
    negative seed, or a `root` that is a file.
    """
    return list(write_catalogue(root, photos, seed))


def main() -> None:
    parser = ArgumentParser(prog="python -m training.sample", description="Draw a sample catalogue of shoes.")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write the catalogue to")
    parser.add_argument("--photos", type=int, default=1000, help="how many photos (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other shoes (default 0)")
    args = parser.parse_args()
    photos = write_catalogue(args.output, args.photos, args.seed)
    paths = list(track(photos, "Drawing", total=args.photos, console=Console(stderr=True)))
    makes = len({path.name.split(".")[0] for path in paths})
    print(f"{len(paths):,} photos of {makes:,} products in {args.output} (seed {args.seed})")


if __name__ == "__main__":
    raise SystemExit(run_command(main))
