"""The browser's extractor: the pixels of Python's, the features of Python's, and a page that sorts by them."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.agreement import EXAMPLE, browser_lacks, differences, in_browser, run_page, same_nearest, serve
from infogan.photo import load_photo
from retrieval.directory import FORMAT
from retrieval.extractor import Extractor

needs_node = pytest.mark.skipif(not shutil.which("node"), reason="there is no Node")
needs_runtime = pytest.mark.skipif(
    not shutil.which("node") or not (EXAMPLE / "node_modules").is_dir(), reason="no Node, or no npm install"
)
needs_browser = pytest.mark.skipif(browser_lacks() is not None, reason=browser_lacks() or "")

# Before 13, Pillow shrinks every photo across first; tall ones come out a little different.
TALL = [(50, 200), (227, 374), (10, 140)]
SIZES = [(136, 102), (128, 128), (8, 8), (1000, 37), (300, 301), (129, 77), (64, 128), (256, 9), (256, 11), *TALL]

FIT = """
const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const bytes = Buffer.concat(chunks);
const [sizes, fit] = JSON.parse(process.argv[1]);
let start = 0;
for (const [width, height] of sizes) {
  const data = bytes.subarray(start, (start += 4 * width * height));
  process.stdout.write(photo.fitPhoto({ data, width, height }, fit));
}
"""

EMBED = """
const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const bytes = Buffer.concat(chunks);
const [address, width, height] = JSON.parse(process.argv[1]);
const images = [];
for (let at = 0; at < bytes.length; at += 4 * width * height) {
  images.push({ data: bytes.subarray(at, at + 4 * width * height), width, height });
}
const extractor = await embed.load(`${address}/model.onnx`, `${address}/config.json`);
for (const row of await extractor.embed(images)) process.stdout.write(Buffer.from(row.buffer));
"""

REFUSE = """
for (const address of JSON.parse(process.argv[1])) {
  const message = await embed.load(`${address}/model.onnx`, `${address}/config.json`).then(() => "", (e) => e.message);
  console.log(JSON.stringify(message));
}
"""

# Uses the page as a visitor does: some files for the catalogue, the last of them no photo, and then the first again.
VISIT = """<!doctype html>
<iframe src="index.html" width="900" height="700"></iframe>
<script type="module">
  const post = (name, value) => fetch(`posted/${name}`, { method: "POST", body: JSON.stringify(value) });
  const frame = document.querySelector("iframe");
  const all = (selector) => [...frame.contentDocument.querySelectorAll(selector)];
  const until = async (ready) => {
    while (!ready()) await new Promise((resolve) => setTimeout(resolve, 20));
  };
  const choose = (picker, files) => {
    const chosen = new DataTransfer();
    for (const file of files) chosen.items.add(file);
    const [input] = all(`${picker} input`);
    input.files = chosen.files;
    input.dispatchEvent(new Event("change"));
  };
  const texts = (selector) => all(selector).map((element) => element.textContent);
  try {
    await until(() => texts("#status")[0] === "Ready." || texts("#error:not([hidden])").length);
    if (texts("#error:not([hidden])").length) throw new Error(texts("#error")[0]);
    const files = [];
    for (let i = 0; i < COUNT; i++) files.push(new File([await (await fetch(`photos/${i}`)).blob()], `${i}.jpg`));
    choose("#catalogue", [...files, new File(["no"], "notes.txt")]);
    await until(() => all("#results li").length === COUNT);
    await post("error", texts("#error:not([hidden])"));
    choose("#query", [files[0]]);
    await until(() => all("#results b").length === COUNT);
    await post("later", texts("#error:not([hidden])"));
    await post("names", texts("#results span"));
    await post("distances", texts("#results b").map(Number));
    await post("status", texts("#status"));
    await post("done");
  } catch (error) {
    await post("failed", error.message);
  }
</script>
"""


def node(module: str, code: str, arguments: object, stdin: bytes = b"") -> bytes:
    """Run code that uses `photo` or `embed`, one of the example's modules, by that name."""
    code = f"import * as {module} from {(EXAMPLE / f'{module}.js').as_uri()!r};\n{code}"
    done = subprocess.run(
        ["node", "--input-type=module", "-e", code, json.dumps(arguments)],
        input=stdin,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def rgba(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGBA"))


@pytest.fixture(scope="module")
def paths(catalogue: Path) -> list[Path]:
    return sorted(catalogue.rglob("*.jpg"))[:30]


@needs_node
@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_pixels_are_pythons_to_the_bit(fit: str) -> None:
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (height, width, 4), np.uint8) for width, height in SIZES]
    images += [np.where(image > 127, 255, 0).astype(np.uint8) for image in images]  # overshoots are cut off
    opaque = [image.copy() for image in images]
    for image in opaque:
        image[..., 3] = 255
    values, alphas = np.mgrid[:256, :256].astype(np.uint8)
    blends = np.stack([values, values, values, alphas], axis=-1)
    images += opaque + [blends[y : y + 128, x : x + 128] for y in (0, 128) for x in (0, 128)]
    sizes = [(image.shape[1], image.shape[0]) for image in images]
    done = node("photo", FIT, [sizes, fit], b"".join(image.tobytes() for image in images))
    photos = np.frombuffer(done, np.uint8).reshape(len(images), 3, 128, 128).transpose(0, 2, 3, 1)
    for image, photo, size in zip(images, photos, sizes, strict=True):
        np.testing.assert_array_equal(photo, load_photo(image, fit), err_msg=f"{size}")


@needs_runtime
def test_node_gives_the_same_features(extractor: Path, paths: list[Path]) -> None:
    python = Extractor.load(extractor)
    images = np.stack([rgba(path) for path in paths[:20]])
    with serve(extractor) as (address, _, _):
        arguments = [f"{address}/extractor", images.shape[2], images.shape[1]]
        done = node("embed", EMBED, arguments, images.tobytes())
    features = np.frombuffer(done, np.float32).reshape(20, python.num_features)
    expected = python(paths[:20])
    assert differences(expected, features).max() <= 1e-4
    assert same_nearest(expected, features).all()


@needs_runtime
def test_unsound_extractors_are_refused(extractor: Path, tmp_path: Path) -> None:
    config = json.loads((extractor / "config.json").read_text())
    changes: dict[str, dict[str, Any] | None] = {
        f"of format {FORMAT + 1}": {"format": FORMAT + 1},
        "photo settings": {"photo": {**config["photo"], "fit": "crop"}},
        "are not known": {"photo": {**config["photo"], "gamma": 2}},
        "damaged": {"sha256": None},
        "sha256 differs": {"sha256": {"model.onnx": "0" * 64}},
        "config.json: missing": None,
    }
    for i, change in enumerate(changes.values()):
        (tmp_path / str(i)).mkdir()
        (tmp_path / str(i) / "model.onnx").symlink_to(extractor / "model.onnx")
        if change is not None:
            (tmp_path / str(i) / "config.json").write_text(json.dumps({**config, **change}))
    with serve(tmp_path) as (address, _, _):
        lines = node("embed", REFUSE, [f"{address}/extractor/{i}" for i in range(len(changes))]).decode().splitlines()
    for words, line in zip(changes, lines, strict=True):
        assert words in json.loads(line) and "\n" not in json.loads(line)


@needs_browser
def test_the_browser_decodes_and_embeds_as_python(extractor: Path, paths: list[Path]) -> None:
    python = Extractor.load(extractor)
    turned, clear = io.BytesIO(), io.BytesIO()
    with Image.open(paths[0]) as photo:
        exif = photo.getexif()
        exif[0x0112] = 6  # on its side
        photo.save(turned, "JPEG", quality=90, exif=exif)
    transparent = rgba(paths[1]).copy()
    transparent[..., 3] = np.linspace(0, 255, transparent.shape[1]).astype(np.uint8)
    Image.fromarray(transparent).save(clear, "PNG")
    photos = [*(path.read_bytes() for path in paths), turned.getvalue(), clear.getvalue()]
    pixels, features = in_browser(python, photos)
    expected = np.stack([load_photo(photo, python.fit) for photo in photos])
    assert np.abs(expected[-2].astype(int) - expected[0]).mean() > 5  # it is on its side
    off = np.abs(pixels.astype(int) - expected).reshape(len(photos), -1)
    assert off.max() <= 2 and off.mean() <= 0.1  # canvases hold colours multiplied by alpha, which rounds
    vectors = python.features(expected)
    assert differences(vectors, features)[:-1].max() <= 1e-3
    assert same_nearest(vectors[:30], features[:30]).all()


@needs_browser
def test_the_page_sorts_the_catalogue(extractor: Path, paths: list[Path]) -> None:
    posted = run_page(VISIT.replace("COUNT", "12"), extractor, [path.read_bytes() for path in paths[:12]], timeout=60)
    said = {name: json.loads(body) for name, body in posted.items() if name != "done"}
    assert said["error"] == ["notes.txt: not an image that this browser can read"] and said["later"] == []
    assert said["status"][0].startswith("1 photo read, ") and said["status"][0].endswith(" ms a photo.")
    vectors = Extractor.load(extractor)(paths[:12])
    places = [int(name.removesuffix(".jpg")) for name in said["names"]]
    assert places[0] == 0 and sorted(places) == list(range(12))
    distances = np.linalg.norm(vectors[places] - vectors[0], axis=1)
    np.testing.assert_allclose(said["distances"], distances, rtol=1e-3, atol=1e-3)
    assert (np.diff(distances) >= -1e-4 * distances.max()).all()
