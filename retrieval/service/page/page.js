// The page: what is looked for, by which filters, and what was found. It speaks to its own server only.

import { ask, find, make, number, plain } from "./api.js";
import { cropper } from "./crop.js";
import { filtering } from "./facets.js";
import { colour, plane } from "./map.js";
import { explain } from "./why.js";

const FIRST = 5;
const MORE = 20;
const MOST = 100;
const LARGEST = 16 * 2 ** 20; // bytes; what the server takes
const PIXELS = 25e6; // and this
const TAKEN = /^image\/(jpeg|png|webp|bmp|gif|tiff)$/; // and of these

let view = "photo";
let query = null; // {photo: File or Blob, cropped?} or {item: id}; on the Draw view, what the sliders say
let k = FIRST;
let about = { items: 0, draws: false, codes: [], categories: 0 };
let seed = 1;
let turn = 0; // answers to older questions are dropped

const crop = cropper(find("#crop"), () => soon(look));
const map = plane(find("#plane"), showPoint);
const filters = filtering(refresh);
const dark = matchMedia("(prefers-color-scheme: dark)");

// ---- one thing at a time, and the newest last

let running = false;
let next = null;
/** Do it now, or as soon as what is being done has been; what was to be done before is not. */
async function soon(work) {
  next = work;
  if (running) return;
  running = true;
  while (next) {
    const now = next;
    next = null;
    await now();
  }
  running = false;
}

// ---- looking

async function look() {
  const mine = ++turn;
  find("#hits").classList.add("waiting");
  try {
    const start = performance.now();
    const found = await answer();
    if (mine !== turn) return;
    fail(null);
    show(found, performance.now() - start);
  } catch (error) {
    if (mine === turn) fail(error);
  } finally {
    if (mine === turn) find("#hits").classList.remove("waiting");
  }
}

async function answer() {
  if (view === "draw") return ask("draw", { json: { ...drawing(), k, filters: filters.now() } });
  if (query?.item !== undefined) return ask("search/by-id", { json: { id: query.item, k, filters: filters.now() } });
  if (query) return ask("search", { form: { photo: await photo(), k, filters: JSON.stringify(filters.now()), seen: "yes" } });
  return ask(filters.path("items", { k: 24 }));
}

/** What is compared: the file as it is, or what is in the frame. */
async function photo() {
  const { photo, bitmap } = query;
  const small = photo.size < LARGEST / 8 && bitmap && bitmap.width * bitmap.height <= PIXELS;
  return !bitmap || (crop.whole() && small && TAKEN.test(photo.type)) ? photo : crop.blob();
}

function show(found, milliseconds) {
  const hits = found.results ?? found.items;
  const asked = found.results !== undefined;
  find("#title").textContent = asked ? "Most alike" : "From the catalogue";
  const among = found.count ?? about.items;
  find("#status").textContent = asked
    ? `${hits.length} of ${number(about.items)}, in ${milliseconds.toFixed(0)} ms`
    : `${number(among)} ${among === 1 ? "shoe" : "shoes"}${filters.any() ? " meet the filters" : ""}`;
  if (found.seen && view === "draw") find("#drawn").src = found.seen;
  else if (found.seen) Object.assign(find("#seen"), { src: found.seen, hidden: false });
  find("#whole").hidden = !query?.bitmap || crop.whole();
  const list = find("#hits");
  list.replaceChildren(...hits.map((hit) => card(hit, asked)));
  if (!hits.length) {
    const words = filters.any() ? "Nothing meets all of these filters. Take one away." : "The catalogue is empty.";
    list.append(Object.assign(document.createElement("li"), { className: "nothing", textContent: words }));
  }
  find("#more").hidden = !asked || hits.length < k || k >= MOST;
}

function fail(error) {
  const box = find("#error");
  box.hidden = !error;
  if (!error) return;
  const unreadable = query?.photo && view === "photo" && [400, 413, 415, 422].includes(error.status) && !error.message.startsWith("filters");
  const words = unreadable ? "This photo cannot be read. It may be damaged, or be no picture at all: try another one." : error.message;
  box.replaceChildren(words);
  if (unreadable) box.append(make("small", error.message.replace(/^photo: /, "")));
  find("#status").textContent = "";
  if (unreadable) {
    find("#title").textContent = "No results";
    find("#hits").replaceChildren();
    find("#more").hidden = true;
  }
}

// ---- cards

/** What an item is called, and what else is known of it. */
function words({ path, attributes }) {
  const known = Object.entries(attributes).filter(([, value]) => value !== null && value !== "");
  const texts = known.filter(([, value]) => typeof value === "string" && value.length < 60).map(([, value]) => value);
  const others = known.filter(([, value]) => typeof value === "number").map(([name, value]) => `${plain(name)} ${number(value)}`);
  const flags = known.filter(([, value]) => value === true).map(([name]) => plain(name));
  const title = texts.pop() ?? path.split("/").pop().replace(/\.\w+$/, "");
  return { title, rest: [...texts.slice(-2), ...others.slice(0, 2), ...flags.slice(0, 1)].join(" · ") };
}

function card(hit, asked) {
  const item = make("li");
  const { title, rest } = words(hit);
  const frame = make("button", "", { type: "button", className: "photo" });
  frame.setAttribute("aria-label", `${title}: more like this`);
  const image = make("img", "", { src: `photos/${hit.id}`, alt: "", loading: "lazy", width: 320, height: 240 });
  image.addEventListener("error", () => image.replaceWith(make("span", "This photo is gone", { className: "gone" })));
  frame.append(image);
  frame.addEventListener("click", () => moreLike(hit.id));
  const text = make("div", "", { className: "words" });
  text.append(make("strong", title));
  if (rest) text.append(make("span", rest));
  const actions = make("div", "", { className: "actions" });
  const more = make("button", "More like this", { type: "button", className: "link more" });
  more.addEventListener("click", () => moreLike(hit.id));
  actions.append(more);
  if (asked) {
    const why = make("button", "Why?", { type: "button", className: "link why" });
    why.setAttribute("aria-label", `Why ${title}?`);
    why.addEventListener("click", () => explain(() => pair(hit.id)));
    actions.append(why);
  }
  item.append(frame, text, actions);
  if (asked) item.append(make("b", hit.distance.toFixed(3), { className: "far", title: "Distance: 0 is the same photo" }));
  return item;
}

function moreLike(id) {
  location.hash = `item=${id}`;
  window.scrollTo({ top: 0, behavior: "smooth" });
}

// ---- the query

async function choose(file) {
  if (!file) return;
  const mine = { photo: file, bitmap: null };
  [query, k] = [mine, FIRST];
  const bitmap = await createImageBitmap(file).catch(() => null); // of what a browser cannot show, the server may know more
  if (query !== mine) return; // another was chosen meanwhile
  mine.bitmap = bitmap;
  find("#seen").hidden = true;
  if (location.hash === "#photo" || !location.hash) enter();
  else location.hash = "photo";
  if (!bitmap && file.size > LARGEST) return fail(Object.assign(new Error("photo: more than 16 MB"), { status: 413 }));
  if (bitmap) crop.show(bitmap);
  soon(look);
}

for (const input of [find("#file"), find("#camera")]) {
  input.addEventListener("change", () => {
    choose(input.files[0]);
    input.value = ""; // the same file may be chosen again
  });
}
addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files][0];
  if (file) choose(file);
});
let depth = 0; // of elements that a dragged file is over
addEventListener("dragenter", () => document.body.classList.toggle("over", ++depth > 0));
addEventListener("dragleave", () => document.body.classList.toggle("over", --depth > 0));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  document.body.classList.remove("over");
  choose(event.dataTransfer.files[0]);
});
find("#whole").addEventListener("click", () => {
  crop.reset();
  soon(look);
});
for (const id of ["#again", "#forget"]) find(id).addEventListener("click", () => find("#file").click());
find("#more").addEventListener("click", async () => {
  const first = k;
  k = Math.min(k + MORE, MOST);
  await look();
  find(`#hits li:nth-child(${first + 1}) button`)?.focus(); // where reading goes on
});

async function showItem(id) {
  const picture = find("#asked-photo");
  picture.src = `photos/${id}`;
  find("#asked-words").textContent = "";
  const item = await ask(`items/${id}`).catch(() => null);
  if (!item || query?.item !== id) return;
  const { title, rest } = words(item);
  picture.alt = title;
  find("#asked-words").replaceChildren(make("strong", title), rest ? ` ${rest}` : "");
}

// ---- drawing

function drawing() {
  const codes = [...document.querySelectorAll("#codes input")].map((slider) => Number(slider.value));
  return { seed, codes, category: Number(find("#codes select")?.value ?? 0) };
}

function addSliders() {
  const box = find("#codes");
  for (const name of about.codes) {
    const label = make("label", name);
    label.append(make("input", "", { type: "range", min: -1, max: 1, step: 0.05, value: 0 }));
    box.append(label);
  }
  if (about.categories > 1) {
    const label = make("label", "kind");
    const select = make("select");
    for (let i = 0; i < about.categories; i++) select.append(make("option", `${i + 1}`, { value: i }));
    label.append(select);
    box.append(label);
  }
  box.addEventListener("input", () => soon(look));
}

find("#surprise").addEventListener("click", () => {
  seed = Math.floor(Math.random() * 2 ** 32);
  for (const slider of document.querySelectorAll("#codes input")) slider.value = Math.random() * 2 - 1;
  for (const select of document.querySelectorAll("#codes select")) select.value = Math.floor(Math.random() * about.categories);
  soon(look);
});

function refresh() {
  filters.load();
  if (view === "map") soon(loadMap);
  else soon(look);
}

/** What is looked for and what was found, to be explained. */
async function pair(id) {
  if (view === "draw") return { id, photo: decoded(find("#drawn").src) };
  return query.item !== undefined ? { id, query: query.item } : { id, photo: await photo() };
}

/** The file in a data URL; the page's policy lets none be fetched. */
function decoded(url) {
  return new Blob([Uint8Array.from(atob(url.split(",")[1]), (letter) => letter.charCodeAt(0))], { type: "image/png" });
}

// ---- the map

let every = null;
async function loadMap() {
  find("#title").textContent = "The catalogue";
  find("#status").textContent = every ? "" : "Drawing the map…";
  find("#hits").replaceChildren();
  find("#more").hidden = true;
  try {
    const fresh = await ask("map");
    const chosen = filters.any() ? await ask(filters.path("map")) : null;
    if (view !== "map") return;
    every = fresh;
    fail(null);
    map.show(every, chosen);
    showClusters((chosen ?? every).clusters);
    const count = (chosen ?? every).ids.length;
    find("#status").textContent = `${number(count)} ${count === 1 ? "shoe" : "shoes"}`;
  } catch (error) {
    fail(error);
  }
}

function showClusters(clusters) {
  const rows = clusters.map(({ name, count }, i) => {
    const button = make("button", "", { type: "button" });
    const dot = make("i");
    dot.style.background = colour(i, dark.matches);
    button.append(dot, make("span", name), make("b", number(count)));
    button.addEventListener("click", () => map.look(i));
    const row = make("li");
    row.append(button);
    return row;
  });
  find("#clusters").replaceChildren(...rows);
}

async function showPoint(id) {
  const item = await ask(`items/${id}`).catch(() => null);
  if (!item) return;
  const box = find("#point");
  box.replaceChildren(...card(item, false).childNodes);
  box.hidden = false;
  box.querySelector(".more").focus({ preventScroll: true });
}

find("#closer").addEventListener("click", () => map.zoom(1.6));
find("#farther").addEventListener("click", () => map.zoom(1 / 1.6));
find("#all").addEventListener("click", () => map.reset());

// ---- the key

function askForKey() {
  if (!find("#key").open) find("#key").showModal();
}
addEventListener("locked", askForKey);
find("#key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await ask("session", { json: { key: find("#key-input").value } });
    find("#key").close();
    start();
  } catch (error) {
    find("#key-error").textContent = error.status === 401 ? "This is not the key." : error.message;
  }
});

// ---- views

function enter() {
  const [name, id] = location.hash.slice(1).split("=");
  const before = view;
  view = ["draw", "map"].includes(name) && (name !== "draw" || about.draws) ? name : "photo";
  if (name === "item" && /^\d+$/.test(id ?? "")) {
    if (query?.item !== Number(id)) [query, k] = [{ item: Number(id) }, FIRST];
  } else if (query?.item !== undefined) query = null;
  if (before !== view) {
    k = FIRST;
    window.scrollTo(0, 0);
  }
  document.body.dataset.view = view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  find("#query-title").textContent = { photo: query?.item === undefined ? "Which shoes look like yours?" : "More like this one", draw: "Draw a shoe", map: "All shoes, the alike together" }[view];
  find("#pick").hidden = view !== "photo" || query !== null;
  find("#chosen").hidden = view !== "photo" || !query?.photo;
  find("#crop").hidden = find(".seen p").hidden = !query?.bitmap;
  find("#asked").hidden = view !== "photo" || query?.item === undefined;
  find("#drawer").hidden = view !== "draw";
  find("#groups").hidden = find("#chart").hidden = view !== "map";
  if (query?.item !== undefined && view === "photo") showItem(query.item);
}

addEventListener("hashchange", () => {
  const photoBefore = view === "photo" && query?.photo;
  enter();
  if (view === "map") soon(loadMap);
  else if (!(photoBefore && query?.photo && view === "photo")) soon(look);
});

async function start() {
  enter();
  try {
    about = await ask("about");
  } catch (error) {
    return fail(error);
  }
  find("#size").textContent = `${number(about.items)} ${about.items === 1 ? "shoe" : "shoes"}`;
  find("#draw-link").hidden = !about.draws;
  if (!find("#codes").children.length) addSliders();
  enter();
  filters.load();
  if (view === "map") soon(loadMap);
  else soon(look);
}

start();
