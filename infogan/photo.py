"""The one way an image becomes a photo: 128×128×3 uint8.

Training, export and retrieval all come through here, so an extractor never meets pixels that were prepared
otherwise than the ones it learned from. Needs NumPy and Pillow only.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from infogan.errors import UserError

SIZE = 128
PHOTO_BYTES = SIZE * SIZE * 3
FITS = ("pad", "stretch")
SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
MIN_SIDE = 8
# Below Pillow's own alarm, so that ours is the one that is heard; 80 megapixels are 240 MB once decoded.
MAX_PIXELS = 80_000_000

Source = str | Path | bytes | BinaryIO | Image.Image | np.ndarray
_EXIF_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by orientation; Pillow's own way also writes the EXIF anew, and fails where that is damaged


class PhotoError(UserError):
    """A source that is no photo: unreadable, too small or too large. The message says which and why."""


def load_photo(source: Source, fit: str = "pad") -> np.ndarray:
    """Read an image and fit it to the square that the networks see.

    EXIF orientation is applied, alpha is composited on white, 16-bit samples keep their high byte, animations give
    their first frame, and CMYK becomes RGB without its ICC profile.

    Args:
        source: a path, encoded bytes, an open binary file, a PIL image, or an (H, W[, 3 or 4]) uint8 array.
        fit: `pad` centres the image on a white square; `stretch` ignores the aspect ratio.

    Returns:
        (128, 128, 3) uint8, RGB.

    Raises:
        PhotoError: the source is not a readable image, has a side under 8 pixels, or over 80 million pixels.
    """
    return fit_photo(open_rgb(source), fit)


def open_rgb(source: Source, most_pixels: int = MAX_PIXELS, formats: tuple[str, ...] | None = None) -> Image.Image:
    """The upright RGB image behind a source, at its own size; `load_photo` without the fitting.

    Args:
        most_pixels: larger images are refused by what their header says, before they are decoded.
        formats: Pillow's names of those that may be tried on encoded bytes; default: all that it can read.

    Raises:
        PhotoError: as for `load_photo`.
    """
    name = str(source) if isinstance(source, str | Path) else "photo"
    try:
        with _open(source, formats) as image:
            _check_size(image, name, most_pixels)
            image.load()
            return _to_rgb(_upright(image))
    except PhotoError:
        raise
    except FileNotFoundError:
        raise PhotoError(f"{name}: no such file") from None
    except UnidentifiedImageError:
        raise PhotoError(f"{name}: not an image that Pillow can read") from None
    except Image.DecompressionBombError:
        raise PhotoError(f"{name}: more than {MAX_PIXELS:,} pixels; scale it down first") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise PhotoError(f"{name}: damaged or unreadable image ({error or type(error).__name__})") from None


def fit_photo(image: Image.Image, fit: str) -> np.ndarray:
    """Fit an RGB image to (128, 128, 3) uint8 with Pillow's antialiased bicubic filter."""
    if fit not in FITS:
        raise UserError(f"fit {fit!r} is not known; choose one of {', '.join(FITS)}")
    if fit == "stretch":
        return np.asarray(_resize(image, SIZE, SIZE))
    # Scaled before it is padded: the square around a very wide photo would not fit into memory.
    scale = SIZE / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    square = Image.new("RGB", (SIZE, SIZE), "white")
    inner = _resize(image, width, height)
    square.paste(inner, ((SIZE - width) // 2, (SIZE - height) // 2))
    return np.asarray(square)


def _resize(image: Image.Image, width: int, height: int) -> Image.Image:
    """Along the rows and then along the columns, rounded in between: which comes first differs between Pillow's
    versions, and with it the pixels."""
    for size in ((width, image.height), (width, height)):
        image = image.resize(size, Image.Resampling.BICUBIC)
    return image


def photo_spec(fit: str) -> dict[str, Any]:
    """What `load_photo` does, as written into an extractor's `config.json`."""
    return {"size": SIZE, "fit": fit, "interpolation": "bicubic", "background": "white", "orientation": "exif"}


def check_photo_spec(spec: dict[str, Any]) -> str:
    """Return the `fit` of a spec, or refuse a spec that this version would not reproduce exactly."""
    fit = spec.get("fit")
    if fit not in FITS or spec != photo_spec(fit):
        raise UserError(f"photo settings {spec} are not known to this version; upgrade sole2vec or export again")
    return fit


def _open(source: Source, formats: tuple[str, ...] | None) -> Image.Image:
    if isinstance(source, Image.Image):
        return source.copy()  # the caller's image must survive our closing it
    if isinstance(source, np.ndarray):
        return Image.fromarray(source)
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats)


def _check_size(image: Image.Image, name: str, most_pixels: int) -> None:
    width, height = image.size
    if width * height > most_pixels:
        raise PhotoError(f"{name}: {width}×{height} is more than {most_pixels:,} pixels; scale it down first")
    if min(width, height) < MIN_SIDE:
        raise PhotoError(f"{name}: {width}×{height} pixels; a photo needs at least {MIN_SIDE}×{MIN_SIDE}")


def _upright(image: Image.Image) -> Image.Image:
    if image.format == "JPEG" and not {"exif", "xmp"} & image.info.keys():
        return image  # most photos; to look for what is not there takes a tenth of their time
    try:
        way = _TURNS.get(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # good pixels behind damaged EXIF are still a photo
        return image
    if way is None:
        return image
    turned = image.transpose(way)
    for told in ("exif", "xmp", "XML:com.adobe.xmp"):  # or it would be turned again by whoever is given the image
        turned.info.pop(told, None)
    return turned


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16-bit greys; Pillow's own conversion would clip them to white
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
