// The catalogue in the plane: dots from afar, photos from near.

const CELL = 92; // pixels of the page; one photo in each
const PHOTO = 68;
const NEAR = 2.2; // times closer than all of it: from here on photos are shown
const FARTHEST = 0.8;
const CLOSEST = 120;
const KEPT = 400; // photos in memory

/** Hues that differ, and are as light as each other. */
export const colour = (cluster, dark) => `hsl(${(cluster * 137.5 + 170) % 360} ${dark ? "55% 64%" : "52% 44%"})`;

/** A map on a canvas. `chosen` is called with the id of a dot. */
export function plane(canvas, chosen) {
  const context = canvas.getContext("2d");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const photos = new Map(); // id → image, least recently drawn first
  let [all, some, names, picked] = [null, null, [], null];
  let view = { x: 0.5, y: 0.5, zoom: 1 };
  let due = false;

  const size = () => [canvas.clientWidth, canvas.clientHeight];
  /** Pixels of the page for a unit of the map: it is wider where the canvas is. */
  function scales() {
    const [width, height] = size();
    return [width * view.zoom, height * view.zoom];
  }
  function toPage(x, y) {
    const [width, height] = size();
    const [sx, sy] = scales();
    return [(x - view.x) * sx + width / 2, (y - view.y) * sy + height / 2];
  }

  function schedule() {
    if (!due) requestAnimationFrame(draw);
    due = true;
  }

  function draw() {
    due = false;
    if (!all) return;
    const [width, height] = size();
    if (!width) return;
    const ratio = devicePixelRatio;
    if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
    if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    const radius = Math.min(1.3 + view.zoom * 0.35, 5);
    if (some) dots(all, radius * 0.8, () => (dark.matches ? "#3b3833" : "#dcd8d0"));
    const shown = some ?? all;
    dots(shown, radius, (cluster) => colour(cluster, dark.matches));
    if (view.zoom >= NEAR) pictures(shown);
    else labels(shown);
    if (document.activeElement === canvas && canvas.matches(":focus-visible")) cross(width / 2, height / 2);
  }

  function dots(points, radius, paint) {
    const [width, height] = size();
    const paths = new Map();
    for (let i = 0; i < points.ids.length; i++) {
      const [x, y] = toPage(points.x[i], points.y[i]);
      if (x < -9 || y < -9 || x > width + 9 || y > height + 9) continue;
      const cluster = points.cluster[i];
      if (!paths.has(cluster)) paths.set(cluster, new Path2D());
      const path = paths.get(cluster);
      path.moveTo(x + radius, y);
      path.arc(x, y, radius, 0, 7);
    }
    for (const [cluster, path] of paths) {
      context.fillStyle = paint(cluster);
      context.fill(path);
    }
  }

  /** In each cell of the page, the photo whose dot is nearest to its middle. Cells move with the map. */
  function pictures(points) {
    const [width, height] = size();
    const [sx, sy] = scales();
    const best = new Map();
    for (let i = 0; i < points.ids.length; i++) {
      const [x, y] = toPage(points.x[i], points.y[i]);
      if (x < -CELL || y < -CELL || x > width + CELL || y > height + CELL) continue;
      const [u, v] = [(points.x[i] * sx) / CELL, (points.y[i] * sy) / CELL];
      const key = `${Math.floor(u)} ${Math.floor(v)}`;
      const off = Math.abs((u % 1) - 0.5) + Math.abs((v % 1) - 0.5);
      if (!best.has(key) || best.get(key).off > off) best.set(key, { off, x, y, i });
    }
    for (const { x, y, i } of best.values()) {
      const image = photo(points.ids[i]);
      if (!image.complete || !image.naturalWidth) continue;
      const fit = PHOTO / Math.max(image.naturalWidth, image.naturalHeight);
      const [w, h] = [image.naturalWidth * fit, image.naturalHeight * fit];
      context.beginPath();
      context.roundRect(x - w / 2 - 2, y - h / 2 - 2, w + 4, h + 4, 7);
      context.fillStyle = "#fff";
      context.fill();
      context.drawImage(image, x - w / 2, y - h / 2, w, h);
      context.lineWidth = points.ids[i] === picked ? 4 : 1.5;
      context.strokeStyle = colour(points.cluster[i], dark.matches);
      context.stroke();
    }
  }

  function photo(id) {
    let image = photos.get(id);
    photos.delete(id);
    if (!image) {
      image = new Image();
      image.onload = schedule;
      image.src = `photos/${id}`;
    }
    photos.set(id, image);
    if (photos.size > KEPT) photos.delete(photos.keys().next().value);
    return image;
  }

  /** The name of each group, in the middle of its dots. */
  function labels(points) {
    const sums = names.map(() => [0, 0, 0]);
    for (let i = 0; i < points.ids.length; i++) {
      const sum = sums[points.cluster[i]];
      sum[0] += points.x[i];
      sum[1] += points.y[i];
      sum[2]++;
    }
    context.font = "600 13px system-ui, sans-serif";
    context.textAlign = "center";
    context.lineJoin = "round";
    const taken = [];
    sums.forEach(([x, y, count], cluster) => {
      if (!count) return;
      let [px, py] = toPage(x / count, y / count);
      const wide = context.measureText(names[cluster]).width / 2;
      const [width] = size();
      px = Math.min(Math.max(px, wide + 6), width - wide - 6);
      const wanted = py;
      while (taken.some(([tx, ty, tw]) => Math.abs(tx - px) < tw + wide && Math.abs(ty - py) < 17)) py += 6;
      if (py - wanted > 30) return; // too far from its dots
      taken.push([px, py, wide]);
      context.lineWidth = 4;
      context.strokeStyle = dark.matches ? "#211f1d" : "#fff";
      context.strokeText(names[cluster], px, py);
      context.fillStyle = dark.matches ? "#eeebe4" : "#1d1c1a";
      context.fillText(names[cluster], px, py);
    });
  }

  function cross(x, y) {
    context.strokeStyle = dark.matches ? "#eeebe4" : "#1d1c1a";
    context.lineWidth = 1.5;
    context.beginPath();
    context.arc(x, y, 12, 0, 7);
    context.stroke();
  }

  /** Keep the place under (px, py) where it is, and come closer. */
  function zoom(factor, px = size()[0] / 2, py = size()[1] / 2) {
    const [width, height] = size();
    const before = scales();
    const [mx, my] = [view.x + (px - width / 2) / before[0], view.y + (py - height / 2) / before[1]];
    view.zoom = Math.min(Math.max(view.zoom * factor, FARTHEST), CLOSEST);
    const after = scales();
    move(mx - (px - width / 2) / after[0], my - (py - height / 2) / after[1]);
  }

  function move(x, y) {
    view.x = Math.min(Math.max(x, -0.1), 1.1);
    view.y = Math.min(Math.max(y, -0.1), 1.1);
    schedule();
  }

  function nearest(px, py, reach) {
    let [best, found] = [reach * reach, null];
    const points = some ?? all;
    for (let i = 0; i < (points?.ids.length ?? 0); i++) {
      const [x, y] = toPage(points.x[i], points.y[i]);
      const far = (x - px) ** 2 + (y - py) ** 2;
      if (far < best) [best, found] = [far, points.ids[i]];
    }
    return found;
  }

  function choose(px, py, reach) {
    const id = nearest(px, py, reach);
    if (id === null) return;
    picked = id;
    schedule();
    chosen(id);
  }

  const pointers = new Map();
  let moved = 0;
  const local = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, local(event));
    moved = pointers.size > 1 ? 99 : 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId)) return;
    const [before, now] = [pointers.get(event.pointerId), local(event)];
    const [sx, sy] = scales();
    const share = pointers.size; // two fingers move it half as far each
    if (pointers.size === 2) {
      const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
      const apart = (one) => Math.hypot(one[0] - other[0], one[1] - other[1]) || 1;
      zoom(apart(now) / apart(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    }
    move(view.x - (now[0] - before[0]) / sx / share, view.y - (now[1] - before[1]) / sy / share);
    moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
    pointers.set(event.pointerId, now);
  });
  for (const type of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(type, (event) => {
      if (type === "pointerup" && pointers.size === 1 && moved < 5) choose(...local(event), view.zoom >= NEAR ? PHOTO / 1.5 : 18);
      pointers.delete(event.pointerId);
    });
  }
  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), ...local(event));
    },
    { passive: false },
  );
  canvas.addEventListener("keydown", (event) => {
    const [sx, sy] = scales();
    const step = { ArrowLeft: [-60, 0], ArrowRight: [60, 0], ArrowUp: [0, -60], ArrowDown: [0, 60] }[event.key];
    if (step) move(view.x + step[0] / sx, view.y + step[1] / sy);
    else if (event.key === "+" || event.key === "=") zoom(1.4);
    else if (event.key === "-") zoom(1 / 1.4);
    else if (event.key === "Enter") choose(size()[0] / 2, size()[1] / 2, 300);
    else return;
    event.preventDefault();
  });
  for (const type of ["focus", "blur"]) canvas.addEventListener(type, schedule);
  new ResizeObserver(schedule).observe(canvas);
  dark.addEventListener("change", schedule);

  return {
    /** All dots, and which of them are shown in colour: null, all. */
    show(every, chosenOnes) {
      [all, some] = [every, chosenOnes];
      names = every.clusters.map(({ name }) => name);
      schedule();
    },
    zoom,
    reset() {
      view = { x: 0.5, y: 0.5, zoom: 1 };
      schedule();
    },
    /** Bring one group into sight. */
    look(cluster) {
      const points = some ?? all;
      const places = ["x", "y"].map((axis) => points[axis].filter((_, i) => points.cluster[i] === cluster).sort((a, b) => a - b));
      if (!places[0].length) return;
      const at = (list, share) => list[Math.floor(share * (list.length - 1))];
      const spread = Math.max(...places.map((list) => at(list, 0.9) - at(list, 0.1)), 0.02);
      view = { x: at(places[0], 0.5), y: at(places[1], 0.5), zoom: Math.min(Math.max(0.8 / spread, NEAR), CLOSEST) };
      schedule();
    },
  };
}
