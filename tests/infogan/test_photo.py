"""Every kind of image file becomes the same kind of photo, or says in one line why not."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from infogan.errors import UserError
from infogan.photo import PhotoError, check_photo_spec, load_photo, open_rgb, photo_spec

RED, WHITE = (200, 30, 40), (255, 255, 255)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def plain(mode: str = "RGB", size: tuple[int, int] = (100, 60)) -> Image.Image:
    image = Image.new("RGB", size, RED)
    return image.quantize() if mode == "P" else image.convert(mode)


@pytest.mark.parametrize(
    ("form", "mode"),
    [
        *(("JPEG", "RGB"), ("PNG", "RGB"), ("WebP", "RGB"), ("BMP", "RGB"), ("TIFF", "RGB")),
        *(("GIF", "P"), ("PNG", "P"), ("JPEG", "CMYK"), ("PNG", "RGBA")),
    ],
)
def test_every_format_gives_the_same_red(form: str, mode: str) -> None:
    photo = load_photo(encoded(plain(mode), form), "stretch")
    assert photo.shape == (128, 128, 3) and photo.dtype == np.uint8
    assert np.abs(photo.astype(int) - RED).max() <= 8  # CMYK and JPEG round


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_images_become_grey_photos(mode: str) -> None:
    photo = load_photo(Image.new("L", (40, 40), 255).convert(mode))
    assert (photo == 255).all()


def test_sixteen_bit_greys_keep_their_brightness() -> None:
    ramp = Image.fromarray((np.arange(64 * 64, dtype=np.uint16) * 16).reshape(64, 64))
    photo = load_photo(encoded(ramp, "PNG"), "stretch")
    assert photo[0].mean() < 10 and 245 < photo[-1].mean() < 256
    assert 120 < photo[64].mean() < 136


def test_transparency_is_composited_on_white() -> None:
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    image.paste((*RED, 255), (0, 0, 32, 64))
    for form in ("PNG", "WebP"):
        photo = load_photo(encoded(image, form, lossless=True), "stretch")
        assert np.abs(photo[:, 110:].astype(int) - WHITE).max() <= 2
        assert np.abs(photo[:, :20].astype(int) - RED).max() <= 2


def test_palette_transparency_is_composited_on_white() -> None:
    image = Image.new("P", (64, 64), 0)
    image.putpalette([0, 0, 0, *RED])
    image.paste(1, (0, 0, 32, 64))
    photo = load_photo(encoded(image, "PNG", transparency=0), "stretch")
    assert (photo[:, 110:] == 255).all()


def test_a_gif_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    photo = load_photo(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert tuple(photo[64, 64]) == (255, 0, 0)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = Image.new("RGB", (64, 64), "white")
    upright.paste(RED, (0, 0, 20, 40))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # Image.Transpose that the tag takes back
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = encoded(upright.transpose(Image.Transpose(undo)), "PNG", exif=exif)
    np.testing.assert_array_equal(load_photo(turned), load_photo(upright))


def test_a_photo_is_turned_whatever_else_its_exif_holds() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x0132], exif[0x011A] = 6, "maker", "2026:01:01 00:00:00", 72.0
    good, chance, unwritable = exif.tobytes(), np.random.default_rng(0), 0
    for _ in range(300):
        damaged = bytearray(good)
        for place in chance.integers(16, len(damaged), 2):
            damaged[place] = chance.integers(256)
        photo = encoded(plain(size=(40, 20)), "JPEG", exif=bytes(damaged))
        image = Image.open(io.BytesIO(photo))
        try:
            known = image.getexif().get(0x0112) == 6
        except Exception:
            continue
        try:
            ImageOps.exif_transpose(image)
        except Exception:
            unwritable += 1
        assert not known or open_rgb(photo).size == open_rgb(open_rgb(photo)).size == (20, 40)
    assert unwritable  # Pillow's own way would not do


def test_damaged_exif_does_not_lose_the_photo() -> None:
    photo = load_photo(encoded(plain(size=(64, 64)), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff"))
    assert np.abs(photo.astype(int) - RED).max() <= 4


def test_pad_keeps_the_shape_and_stretch_fills() -> None:
    tall = plain(size=(40, 80))
    padded, stretched = load_photo(tall, "pad"), load_photo(tall, "stretch")
    assert (padded[:, :30] == 255).all() and (padded[:, 98:] == 255).all()
    np.testing.assert_array_equal(padded[64, 64], RED)
    assert (stretched == np.array(RED)).all()


@pytest.mark.parametrize("size", [(200_000, 300), (300, 200_000)])
def test_a_very_wide_photo_costs_no_more_than_its_pixels(size: tuple[int, int]) -> None:
    tracemalloc.start()
    photo = load_photo(Image.new("L", size, 0))
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()
    assert (photo == 255).mean() > 0.9 and (photo == 0).any()


def test_downscaling_is_antialiased() -> None:
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    photo = load_photo(stripes, "stretch")
    assert photo[:, 8:-8].min() >= 120 and photo[:, 8:-8].max() <= 135


def test_all_sources_give_the_same_photo(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8))
    data = encoded(image, "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(data)
    sources = [path, str(path), data, io.BytesIO(data), image, np.asarray(image)]
    first, *others = [load_photo(source) for source in sources]
    for other in others:
        np.testing.assert_array_equal(first, other)
    image.getpixel((0, 0))  # the caller's image is still open


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not an image"),
        (b"this is a letter, not a shoe", "not an image"),
        (encoded(Image.effect_noise((200, 200), 90), "JPEG")[:3000], "damaged"),
        (encoded(Image.effect_noise((200, 200), 90), "PNG")[:3000], "damaged"),
        (encoded(plain(size=(1, 1)), "PNG"), "1×1"),
        (encoded(Image.new("1", (20_000, 20_000)), "PNG"), "pixels"),
        (encoded(Image.new("1", (10_000, 9_500)), "PNG"), "pixels"),
    ],
    ids=["empty", "text", "cut JPEG", "cut PNG", "1×1", "20,000²", "95 MP"],
)
def test_what_is_no_photo_says_so(data: bytes, words: str) -> None:
    with pytest.raises(PhotoError, match=words) as caught:
        load_photo(data)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(PhotoError, match="no such file"):
        load_photo("gone.jpg")


def test_an_unknown_fit_is_refused() -> None:
    with pytest.raises(UserError, match="crop"):
        load_photo(plain(), "crop")


def test_the_spec_round_trips_and_unknown_settings_are_refused() -> None:
    assert check_photo_spec(photo_spec("stretch")) == "stretch"
    for change in ({"interpolation": "nearest"}, {"fit": "crop"}, {"crop": 0.9}):
        with pytest.raises(UserError, match="photo settings"):
            check_photo_spec({**photo_spec("pad"), **change})


@pytest.mark.parametrize("fit", ["pad", "stretch"])
@pytest.mark.parametrize("size", [(136, 102), (102, 136), (40, 300), (300, 40), (128, 128), (1365, 1024)])
def test_rows_are_resized_before_columns(size: tuple[int, int], fit: str) -> None:
    """Whatever Pillow's version does where it is asked for both at once."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    width, height = (128, 128) if fit == "stretch" else (max(1, round(side * 128 / max(size))) for side in size)
    rows = Image.fromarray(pixels).resize((width, size[1]), Image.Resampling.BICUBIC)
    expected = np.asarray(rows.resize((width, height), Image.Resampling.BICUBIC))
    left, top = (128 - width) // 2, (128 - height) // 2
    found = load_photo(pixels, fit)[top : top + height, left : left + width]
    np.testing.assert_array_equal(found, expected)
