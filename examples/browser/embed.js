// An exported extractor in the browser: images in, features out. Runs in Node too, but for `decode`.

import * as ort from "onnxruntime-web";
import { FITS, SIZE, checkSize, fitPhoto } from "./photo.js";

const FORMAT = 2; // of config.json
const BATCH = 8;

ort.env.wasm.numThreads = 1; // several need a server that sends the headers of cross-origin isolation
ort.env.logLevel = "error";

/**
 * Open an extractor.
 *
 * @param {string | URL} modelUrl of `model.onnx`.
 * @param {string | URL} configUrl of the `config.json` beside it.
 * @returns {Promise<Extractor>}
 * @throws {Error} one of them is missing, changed since its export, or of a version that this one does not know.
 */
export async function load(modelUrl, configUrl) {
  const response = await get(configUrl);
  const config = await response.json().catch(() => {
    throw new Error(`${configUrl}: damaged, or not of an extractor; export again`);
  });
  const fit = checkConfig(config, configUrl);
  const model = await (await get(modelUrl)).arrayBuffer();
  await checkModel(model, config.sha256["model.onnx"], modelUrl);
  const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
  return new Extractor(fit, config.num_features, session);
}

/** Images to features; made by `load`. */
class Extractor {
  #session;

  constructor(fit, numFeatures, session) {
    this.fit = fit;
    this.numFeatures = numFeatures;
    this.#session = session;
  }

  /**
   * @param {{data: Uint8ClampedArray | Uint8Array, width: number, height: number}[]} images RGBA, upright.
   * @returns {Promise<Float32Array[]>} a row of `numFeatures` each; compare them by `distance`.
   */
  async embed(images) {
    return this.features(images.map((image) => fitPhoto(image, this.fit)));
  }

  /**
   * @param {Uint8Array[]} photos (3, 128, 128) each, as `fitPhoto` gives them with this extractor's `fit`.
   * @returns {Promise<Float32Array[]>}
   */
  async features(photos) {
    const rows = [];
    for (let start = 0; start < photos.length; start += BATCH) {
      const batch = photos.slice(start, start + BATCH);
      const pixels = new Uint8Array(batch.length * 3 * SIZE * SIZE);
      batch.forEach((photo, i) => pixels.set(photo, i * photo.length));
      const input = new ort.Tensor("uint8", pixels, [batch.length, 3, SIZE, SIZE]);
      const { features } = await this.#session.run({ photos: input });
      for (let i = 0; i < batch.length; i++) {
        rows.push(features.data.slice(i * this.numFeatures, (i + 1) * this.numFeatures));
      }
    }
    return rows;
  }
}

/**
 * The upright pixels of an encoded image, at its own size and in its own colours. In browsers only.
 *
 * @param {Blob} blob
 * @returns {Promise<ImageData>}
 * @throws {Error} it is not an image that this browser can read, too small or too large.
 */
export async function decode(blob) {
  const bitmap = await createImageBitmap(blob, {
    imageOrientation: "from-image",
    colorSpaceConversion: "none",
    premultiplyAlpha: "none",
  }).catch(() => {
    throw new Error("not an image that this browser can read");
  });
  try {
    const { width, height } = bitmap;
    checkSize(width, height);
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    return context.getImageData(0, 0, width, height);
  } finally {
    bitmap.close();
  }
}

/** The Euclidean distance of two rows of features: what shoes that look alike have little of. */
export function distance(one, other) {
  let sum = 0;
  for (let i = 0; i < one.length; i++) sum += (one[i] - other[i]) ** 2;
  return Math.sqrt(sum);
}

async function get(url) {
  const response = await fetch(url).catch(() => {
    throw new Error(`${url}: the server does not answer`);
  });
  if (!response.ok) throw new Error(`${url}: missing (${response.status}); put an extractor's directory there`);
  return response;
}

/** The `fit` of a checked config. */
function checkConfig(config, url) {
  if (!(config?.photo && config.num_features && config.sha256?.["model.onnx"])) {
    throw new Error(`${url}: damaged, or not of an extractor; export again`);
  }
  if (config.format !== FORMAT) throw new Error(`${url}: of format ${config.format}; this page knows ${FORMAT}`);
  const { fit, ...others } = config.photo;
  const known = { size: SIZE, interpolation: "bicubic", background: "white", orientation: "exif" };
  const names = Object.keys({ ...known, ...others });
  if (!FITS.includes(fit) || names.some((name) => known[name] !== others[name])) {
    throw new Error(`${url}: photo settings ${JSON.stringify(config.photo)} are not known to this page`);
  }
  return fit;
}

async function checkModel(model, expected, url) {
  if (!globalThis.crypto?.subtle) return; // browsers have it on https and on localhost alone
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", model));
  const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (found !== expected) throw new Error(`${url}: changed since its export (sha256 differs); copy it again`);
}
