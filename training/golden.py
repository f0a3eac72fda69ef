"""The photos that go into an extractor's directory as its golden ones: drawn shoes, in whatever form a photo comes."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from training.sample import draw_catalogue

DRAWN = 16
SEED = 20


def golden_photos() -> dict[str, bytes]:
    """Names to encoded bytes: 16 drawn photos as they are, and eight that decoders and resizers may take otherwise."""
    with tempfile.TemporaryDirectory() as place:
        drawn = [path.read_bytes() for path in draw_catalogue(Path(place), DRAWN, SEED)]
    shoes = [Image.open(io.BytesIO(data)).convert("RGB") for data in drawn]
    turned = Image.Exif()
    turned[0x0112] = 6
    mask = ImageOps.invert(shoes[3].convert("L")).point([min(255, 8 * level) for level in range(256)])
    seen_through = shoes[3].copy()
    seen_through.putalpha(mask)
    return {f"drawn-{i:02d}.jpg": data for i, data in enumerate(drawn)} | {
        "progressive.jpg": _encoded(shoes[0], "JPEG", quality=75, progressive=True),
        "full-colour.jpg": _encoded(shoes[1], "JPEG", quality=95, subsampling=0),
        "tall.png": _encoded(shoes[2].crop((40, 0, 80, 102)), "PNG"),
        "grey.jpg": _encoded(shoes[4].convert("L"), "JPEG", quality=85),
        "turned.jpg": _encoded(shoes[5].rotate(90, expand=True), "JPEG", quality=85, exif=turned),
        "large.jpg": _encoded(shoes[6].resize((1365, 1024), Image.Resampling.BICUBIC), "JPEG", quality=85),
        "wide.png": _encoded(shoes[7].crop((0, 20, 136, 70)), "PNG"),
        "transparent.png": _encoded(seen_through, "PNG"),
    }


def _encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()
