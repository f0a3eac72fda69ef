// The part of a photo that is compared: shown, and adjusted by pointer or keyboard.

const LEAST = 24; // pixels of the photo
const REACH = 22; // pixels of the page around a corner
const LARGEST = 1024; // side of what is sent
const STEP = 0.04;

/** A frame on a canvas. `changed` is called whenever it has moved. */
export function cropper(canvas, changed) {
  let [image, frame, drag] = [null, null, null];
  const scale = () => canvas.width / image.width;

  function draw() {
    const context = canvas.getContext("2d");
    const s = scale();
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    if (whole()) return corners(context, s);
    context.fillStyle = "#0009";
    context.beginPath();
    context.rect(0, 0, canvas.width, canvas.height);
    context.rect(frame.x * s, frame.y * s, frame.width * s, frame.height * s);
    context.fill("evenodd");
    corners(context, s);
  }

  function corners(context, s) {
    const [left, top, right, bottom] = [frame.x * s, frame.y * s, (frame.x + frame.width) * s, (frame.y + frame.height) * s];
    const inset = 3 * devicePixelRatio;
    const arm = Math.min(20 * devicePixelRatio, (right - left) / 3, (bottom - top) / 3);
    context.lineWidth = 3 * devicePixelRatio;
    context.lineCap = "round";
    context.strokeStyle = getComputedStyle(canvas).getPropertyValue("--accent");
    context.beginPath();
    for (const [x, sx] of [[left, 1], [right, -1]]) {
      for (const [y, sy] of [[top, 1], [bottom, -1]]) {
        const [cx, cy] = [x + sx * inset, y + sy * inset];
        context.moveTo(cx + sx * arm, cy);
        context.lineTo(cx, cy);
        context.lineTo(cx, cy + sy * arm);
      }
    }
    context.stroke();
  }

  const whole = () => frame.width === image.width && frame.height === image.height;

  function set(x, y, width, height) {
    width = Math.min(Math.max(width, Math.min(LEAST, image.width)), image.width);
    height = Math.min(Math.max(height, Math.min(LEAST, image.height)), image.height);
    frame = { x: Math.min(Math.max(x, 0), image.width - width), y: Math.min(Math.max(y, 0), image.height - height), width, height };
    draw();
  }

  /** Where a pointer is, in pixels of the photo. */
  function at(event) {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * image.width, ((event.clientY - box.top) / box.height) * image.height];
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (!image) return;
    canvas.setPointerCapture(event.pointerId);
    const [x, y] = at(event);
    const reach = (REACH * image.width) / canvas.getBoundingClientRect().width;
    const near = (edge, place) => Math.abs(edge - place) < reach;
    const horizontal = near(frame.x, x) ? frame.x + frame.width : near(frame.x + frame.width, x) ? frame.x : null;
    const vertical = near(frame.y, y) ? frame.y + frame.height : near(frame.y + frame.height, y) ? frame.y : null;
    const inside = x > frame.x && x < frame.x + frame.width && y > frame.y && y < frame.y + frame.height;
    if (horizontal !== null && vertical !== null) drag = { from: [horizontal, vertical] };
    else if (inside && !whole()) drag = { by: [x - frame.x, y - frame.y] };
    else drag = { from: [x, y] };
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const [x, y] = at(event).map((place, i) => Math.min(Math.max(place, 0), i ? image.height : image.width));
    if (drag.by) set(x - drag.by[0], y - drag.by[1], frame.width, frame.height);
    else {
      const [left, top] = [Math.min(x, drag.from[0]), Math.min(y, drag.from[1])];
      const [width, height] = [Math.abs(x - drag.from[0]), Math.abs(y - drag.from[1])];
      if (Math.min(width, height) < LEAST / 2) return; // a click is no frame
      set(left, top, width, height);
    }
    changed();
  });
  for (const type of ["pointerup", "pointercancel"]) canvas.addEventListener(type, () => (drag = null));

  canvas.addEventListener("keydown", (event) => {
    if (!image) return;
    const [dx, dy] = [STEP * image.width, STEP * image.height];
    const { x, y, width, height } = frame;
    const moves = { ArrowLeft: [-dx, 0], ArrowRight: [dx, 0], ArrowUp: [0, -dy], ArrowDown: [0, dy] };
    const sizes = { "+": 1, "=": 1, "-": -1 };
    if (moves[event.key]) set(x + moves[event.key][0], y + moves[event.key][1], width, height);
    else if (sizes[event.key]) {
      const [w, h] = [sizes[event.key] * dx, sizes[event.key] * dy];
      set(x - w / 2, y - h / 2, width + w, height + h);
    } else if (event.key === "0") set(0, 0, image.width, image.height);
    else return;
    event.preventDefault();
    changed();
  });

  return {
    /** Show a bitmap, all of it in the frame. */
    show(bitmap) {
      image = bitmap;
      const shrink = Math.min(560 / bitmap.width, 900 / bitmap.height);
      canvas.width = Math.max(1, Math.round(bitmap.width * shrink));
      canvas.height = Math.max(1, Math.round(bitmap.height * shrink));
      set(0, 0, bitmap.width, bitmap.height);
    },
    reset: () => set(0, 0, image.width, image.height),
    whole,
    /** What is in the frame, as a JPEG of at most 1024 pixels a side. */
    blob() {
      const shrink = Math.min(1, LARGEST / Math.max(frame.width, frame.height));
      const part = document.createElement("canvas");
      part.width = Math.max(8, Math.round(frame.width * shrink));
      part.height = Math.max(8, Math.round(frame.height * shrink));
      const context = part.getContext("2d");
      context.fillStyle = "#fff";
      context.fillRect(0, 0, part.width, part.height);
      context.imageSmoothingQuality = "high";
      context.drawImage(image, frame.x, frame.y, frame.width, frame.height, 0, 0, part.width, part.height);
      return new Promise((resolve) => part.toBlob(resolve, "image/jpeg", 0.95));
    },
  };
}
