// How an image becomes the photo that an extractor sees: the pixels of infogan/photo.py, bit for bit.

export const SIZE = 128;
export const FITS = ["pad", "stretch"];
export const MIN_SIDE = 8;
export const MAX_PIXELS = 80_000_000;

const FRACTION_BITS = 22; // of the filter's fixed-point weights

/**
 * Fit an upright image to the square that the network sees.
 *
 * @param {{data: Uint8ClampedArray | Uint8Array, width: number, height: number}} image RGBA as in ImageData,
 *   (height, width, 4), alpha not premultiplied.
 * @param {"pad" | "stretch"} fit `pad` centres the image on a white square, `stretch` ignores its aspect ratio.
 * @returns {Uint8Array} (3, 128, 128), RGB.
 */
export function fitPhoto({ data, width, height }, fit) {
  if (!FITS.includes(fit)) throw new Error(`fit ${fit} is not known; choose one of ${FITS.join(", ")}`);
  checkSize(width, height);
  if (data.length !== 4 * width * height) throw new Error(`${data.length} bytes are not ${width}×${height} of RGBA`);
  const scale = SIZE / Math.max(width, height);
  const [w, h] = fit === "stretch" ? [SIZE, SIZE] : [width, height].map((side) => Math.max(1, roundEven(side * scale)));
  const left = Math.floor((SIZE - w) / 2);
  const top = Math.floor((SIZE - h) / 2);
  const photo = new Uint8Array(3 * SIZE * SIZE).fill(255);
  for (let colour = 0; colour < 3; colour++) {
    const plane = resize(onWhite(data, colour), width, height, w, h);
    for (let y = 0; y < h; y++) {
      photo.set(plane.subarray(y * w, (y + 1) * w), (colour * SIZE + top + y) * SIZE + left);
    }
  }
  return photo;
}

/** Refuse an image that infogan/photo.py refuses. */
export function checkSize(width, height) {
  if (width * height > MAX_PIXELS) throw new Error(`${width}×${height} is more than ${MAX_PIXELS} pixels`);
  if (Math.min(width, height) < MIN_SIDE) {
    throw new Error(`${width}×${height} pixels; a photo needs at least ${MIN_SIDE}×${MIN_SIDE}`);
  }
}

/**
 * One colour of RGBA bytes, over white.
 *
 * @returns {Uint8Array} (height × width)
 */
function onWhite(data, colour) {
  const plane = new Uint8Array(data.length / 4);
  for (let i = 0, at = colour; i < plane.length; i++, at += 4) {
    const alpha = data[4 * i + 3];
    plane[i] = Math.round((data[at] * alpha + 255 * (255 - alpha)) / 255);
  }
  return plane;
}

/** One plane by an antialiased bicubic filter in fixed point, one way and then the other; rounded to bytes each time. */
function resize(plane, width, height, newWidth, newHeight) {
  const rows = () => {
    if (newWidth === width) return;
    const [source, taps] = [plane, filter(width, newWidth)];
    plane = new Uint8Array(newWidth * height);
    for (let y = 0; y < height; y++) resample(source, y * width, 1, plane, y * newWidth, 1, taps);
    width = newWidth;
  };
  const columns = () => {
    if (newHeight === height) return;
    const [source, taps] = [plane, filter(height, newHeight)];
    plane = new Uint8Array(width * newHeight);
    for (let x = 0; x < width; x++) resample(source, x, width, plane, x, width, taps);
    height = newHeight;
  };
  rows();
  columns();
  return plane;
}

/** One row or column: `source[start + i · step]` → `target[targetStart + j · targetStep]`. */
function resample(source, start, step, target, targetStart, targetStep, taps) {
  for (let j = 0; j < taps.length; j++) {
    const { first, weights } = taps[j];
    let sum = 1 << (FRACTION_BITS - 1); // rounds to the nearest
    for (let i = 0, at = start + first * step; i < weights.length; i++, at += step) sum += source[at] * weights[i];
    target[targetStart + j * targetStep] = Math.min(Math.max(sum >> FRACTION_BITS, 0), 255);
  }
}

/**
 * What each of `after` pixels takes from which of `before` pixels.
 *
 * @returns {{first: number, weights: Int32Array}[]} (after), weights in fixed point.
 */
function filter(before, after) {
  const scale = before / after;
  const stretch = Math.max(scale, 1); // the filter widens where an image shrinks: no aliasing
  const reach = 2 * stretch;
  return Array.from({ length: after }, (_, j) => {
    const centre = (j + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - reach + 0.5), 0);
    const end = Math.min(Math.trunc(centre + reach + 0.5), before);
    const exact = Array.from({ length: end - first }, (_, i) => cubic((i + first - centre + 0.5) * (1 / stretch)));
    const total = exact.reduce((sum, weight) => sum + weight, 0);
    const fixed = exact.map((weight) => (weight / total) * 2 ** FRACTION_BITS);
    return { first, weights: Int32Array.from(fixed, (weight) => Math.trunc(weight + Math.sign(weight) / 2)) };
  });
}

/** Keys' cubic convolution kernel with a = −½. */
function cubic(x) {
  const d = Math.abs(x);
  if (d < 1) return (1.5 * d - 2.5) * d * d + 1;
  return d < 2 ? (((d - 5) * d + 8) * d - 4) * -0.5 : 0;
}

/** The nearest integer; of two, the even one. */
function roundEven(x) {
  const below = Math.floor(x);
  return x - below === 0.5 ? below + (below % 2) : Math.round(x);
}
