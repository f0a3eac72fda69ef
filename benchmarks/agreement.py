"""Whether the forms of an extractor say the same, down to the one that runs in a browser.

    python benchmarks/agreement.py EXTRACTOR PHOTOS… [--queries 1000] [--run RUN_OR_CHECKPOINT]

Each form embeds the same photos, and each photo asks for the nearest five of the others. Prints Markdown: how far the
features are from eager PyTorch's, and how often the five are the same ones or as near. The eager network has the
weights of `model.safetensors`, or with `--run` those of the checkpoint that was exported. The browser is a headless
Chromium with `examples/browser`, which decodes and resizes the photo files itself; it is left out, and said to be,
where Chromium or `npm install` is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors.torch import load_file

from infogan.edge_trunk import AnyTrunk
from infogan.errors import ArgumentParser, UserError, run_command
from infogan.photo import PhotoError, load_photo
from infogan.sources import PhotoFiles
from infogan.trunk import PhotoToFeatures
from retrieval.extractor import Extractor
from training.exporting import load_trunk
from training.networks import build_trunk
from training.run import checkpoint_config, checkpoints, load_checkpoint

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "browser"
K = 5
TIE = 1e-4
BATCH = 16
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# Embeds the photos at photos/0, photos/1 and so on, and posts what it made of them.
HARNESS = """<!doctype html>
<script type="importmap">
  { "imports": { "onnxruntime-web": "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs" } }
</script>
<script type="module">
  const post = (name, body) => fetch(`posted/${name}`, { method: "POST", body });
  try {
    const { decode, load } = await import("./embed.js");
    const { fitPhoto } = await import("./photo.js");
    const extractor = await load("extractor/model.onnx", "extractor/config.json");
    const [pixels, features] = [[], []];
    for (let i = 0; i < COUNT; i++) {
      const photo = fitPhoto(await decode(await (await fetch(`photos/${i}`)).blob()), extractor.fit);
      pixels.push(photo);
      features.push(...(await extractor.features([photo])));
    }
    await post("pixels", new Blob(pixels));
    await post("features", new Blob(features));
    await post("done");
  } catch (error) {
    await post("failed", error.message);
  }
</script>
"""


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extractor")
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--run", type=Path, metavar="RUN_OR_CHECKPOINT")
    arguments = parser.parse_args()
    extractor = Extractor.load(arguments.extractor)
    encoded, pixels = read_photos(PhotoFiles(arguments.photos), arguments.queries, extractor.fit)

    stored = eager(stored_trunk(extractor))
    truth = embed(eager(trained_trunk(arguments.run, extractor)) if arguments.run else stored, pixels)
    program = torch.export.load(extractor.directory / "model.pt2").module()
    found = {"`model.safetensors`, PyTorch": embed(stored, pixels)} if arguments.run else {}
    found |= {"`model.pt2`, PyTorch": embed(program, pixels), "`model.onnx`, ONNX Runtime": extractor.features(pixels)}
    cells = dict.fromkeys(found, "–")
    if missing := browser_lacks():
        print(f"The browser is left out: {missing}.\n")
    else:
        name = "`model.onnx`, Chromium"
        seen, found[name] = in_browser(extractor, encoded)
        off = np.abs(seen.astype(int) - pixels).reshape(len(pixels), -1).max(axis=1)
        cells[name] = f"{(off > 0).sum():,}" + (f", by at most {off.max()} of 255" if off.any() else "")

    print(f"{len(pixels):,} photos; a difference is its length over that of the features.\n")
    print("| form | largest difference | other pixels | same nearest 5 |\n|---|---|---|---|")
    for name, features in found.items():
        share = same_nearest(truth, features).mean()
        print(f"| {name} | {differences(truth, features).max():.1e} | {cells[name]} | {share:.2%} |")


def read_photos(files: PhotoFiles, count: int, fit: str) -> tuple[list[bytes], np.ndarray]:
    """So many photos, by a fixed choice, the readable ones: as files, and (N, 128, 128, 3) uint8."""
    if min(count, len(files)) <= K:
        raise UserError(f"{min(count, len(files))} photos; take at least {K + 1}")
    chosen = np.random.default_rng(0).permutation(len(files))[:count].tolist()
    photos: list[bytes] = []
    pixels: list[np.ndarray] = []
    for row in chosen:
        with contextlib.suppress(PhotoError):
            pixels.append(load_photo(files.read(row), fit))
            photos.append(files.read(row))
    return photos, np.stack(pixels)


# --- PyTorch ----------------------------------------------------------------------------------------------------------


def stored_trunk(extractor: Extractor) -> AnyTrunk:
    """The network that an extractor's `config.json` describes, with the weights of its `model.safetensors`."""
    try:
        trunk = build_trunk(OmegaConf.create(extractor.config["model_args"]))
        trunk.load_state_dict(load_file(extractor.directory / "model.safetensors"))
    except (KeyError, RuntimeError, TypeError, OmegaConfBaseException):
        raise UserError(f"{extractor.directory}: its network is not of this version; export it again") from None
    return trunk


def trained_trunk(source: Path, extractor: Extractor) -> AnyTrunk:
    """The network of the checkpoint that was exported, with batch-norm statistics as they were estimated for that."""
    if source.is_dir():
        seen = extractor.config["run"]["images_seen"]
        fitting = [path for path in checkpoints(source) if load_checkpoint(path)["images_seen"] == seen]
        if not fitting:
            raise UserError(f"{source}: no checkpoint of {seen:,} images seen, as the extractor's; name it by its file")
        source = fitting[0]
    checkpoint = load_checkpoint(source)
    trunk = load_trunk(checkpoint, checkpoint_config(checkpoint, source), source)
    stored = load_file(extractor.directory / "model.safetensors")
    settled = {name: value for name, value in stored.items() if "running_" in name or "num_batches" in name}
    trunk.load_state_dict({**trunk.state_dict(), **settled})
    return trunk


def eager(trunk: AnyTrunk) -> Callable[[torch.Tensor], torch.Tensor]:
    return PhotoToFeatures(trunk.eval())


@torch.no_grad()
def embed(form: Callable[[torch.Tensor], torch.Tensor], pixels: np.ndarray) -> np.ndarray:
    """(N, 128, 128, 3) uint8 → (N, D) float32."""
    batches = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().split(BATCH)
    return torch.cat([form(batch) for batch in batches]).numpy()


# --- how much of it is the same ---------------------------------------------------------------------------------------


def differences(truth: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(N,): the length of each row's difference, over the row's."""
    return np.linalg.norm(other - truth, axis=1) / np.linalg.norm(truth, axis=1)


def same_nearest(truth: np.ndarray, other: np.ndarray, k: int = K) -> np.ndarray:
    """(N,) bool: whether the k nearest others of each row in `other` are those of `truth`, or as near in it."""
    near, found = (_distances(rows) for rows in (truth, other))
    expected = np.sort(near, axis=1)[:, :k]
    got = np.sort(np.take_along_axis(near, np.argsort(found, axis=1)[:, :k], axis=1), axis=1)
    return np.isclose(got, expected, rtol=TIE, atol=1e-6 * expected.mean()).all(axis=1)


def _distances(rows: np.ndarray) -> np.ndarray:
    points = torch.tensor(rows, dtype=torch.float64)
    return torch.cdist(points, points).fill_diagonal_(float("inf")).numpy()


# --- the browser ------------------------------------------------------------------------------------------------------


def browser_lacks() -> str | None:
    """What is missing for `in_browser`; None where nothing is."""
    if not any(map(shutil.which, CHROMIUM)):
        return "there is no Chromium"
    if not (EXAMPLE / "node_modules" / "onnxruntime-web").is_dir():
        return f"there is no onnxruntime-web; npm install --no-package-lock --prefix {os.path.relpath(EXAMPLE)}"
    return None


def in_browser(extractor: Extractor, photos: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Photo files, decoded, fitted and embedded by the example's code in headless Chromium.

    Returns:
        (N, 128, 128, 3) uint8 pixels and (N, D) float32 features.
    """
    posted = run_page(HARNESS.replace("COUNT", str(len(photos))), extractor.directory, photos)
    pixels = np.frombuffer(posted["pixels"], np.uint8).reshape(len(photos), 3, 128, 128).transpose(0, 2, 3, 1)
    return pixels, np.frombuffer(posted["features"], np.float32).reshape(len(photos), extractor.num_features)


def run_page(page: str, extractor: Path, photos: Sequence[bytes], timeout: float = 600) -> dict[str, bytes]:
    """Open a page beside those of the example in headless Chromium, until it posts `done`.

    Args:
        page: HTML. It finds the photos at `photos/0`, `photos/1` and so on, and posts to `posted/NAME`.
        extractor: the directory to find at `extractor/`.
        photos: as files.
        timeout: in seconds.

    Returns:
        What it posted, by name.

    Raises:
        RuntimeError: it posted `failed`, the browser ended or the time was up.
    """
    binary = next(filter(None, map(shutil.which, CHROMIUM)))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch, serve(extractor, photos, page) as served:
        address, posted, over = served
        flags = ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions"]
        flags += ["--disable-background-networking", f"--user-data-dir={scratch}"]
        if os.geteuid() == 0:  # Chromium's sandbox refuses root
            flags.append("--no-sandbox")
        command = [binary, *flags, f"{address}/harness.html"]
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            finished = over.wait(timeout)
        finally:
            browser.terminate()
            browser.wait()
        if "failed" in posted:
            raise RuntimeError(f"the page failed: {posted['failed'].decode()}")
        if not finished:
            raise RuntimeError(f"the page posted only {sorted(posted)} in {timeout:g} s")
        return posted


@contextlib.contextmanager
def serve(
    extractor: Path, photos: Sequence[bytes] = (), page: str = ""
) -> Iterator[tuple[str, dict[str, bytes], threading.Event]]:
    """Serve the example with an extractor on a free port: its address, what is posted, and when that is over."""
    posted: dict[str, bytes] = {}
    over = threading.Event()

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            folder, _, name = self.path.strip("/").rpartition("/")
            if folder == "photos":
                self._answer(photos[int(name)], "image/*")
            elif name == "harness.html":
                self._answer(page.encode(), "text/html; charset=utf-8")
            else:
                super().do_GET()

        def do_POST(self) -> None:
            name = self.path.rpartition("/")[2]
            posted[name] = self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(b"", "text/plain")
            if name in ("done", "failed"):
                over.set()

        def _answer(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with tempfile.TemporaryDirectory() as folder:
        for path in EXAMPLE.iterdir():
            if path.name != "extractor":
                (Path(folder) / path.name).symlink_to(path)
        (Path(folder) / "extractor").symlink_to(extractor.resolve())
        server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", posted, over
        finally:
            server.shutdown()
            server.server_close()


if __name__ == "__main__":
    raise SystemExit(run_command(main))
