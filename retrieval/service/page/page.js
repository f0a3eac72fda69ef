// The page: what is looked for, by which filters, and what was found. It speaks to its own server only.

import { cropper } from "./crop.js";
import { colour, plane } from "./map.js";

const FIRST = 5;
const MORE = 20;
const MOST = 100;
const LARGEST = 16 * 2 ** 20; // bytes; what the server takes
const FEW = 6; // values of a filter that are shown at first
const find = (selector) => document.querySelector(selector);
const number = (value) => value.toLocaleString("en");

let view = "photo";
let query = null; // {photo: File or Blob, cropped?} or {item: id}; on the Draw view, what the sliders say
let k = FIRST;
let filters = {}; // name → [values] or {min, max}
let about = { items: 0, draws: false, codes: [], categories: 0 };
let seed = 1;
let turn = 0; // answers to older questions are dropped

const crop = cropper(find("#crop"), () => soon(look));
const map = plane(find("#plane"), showPoint);
const dark = matchMedia("(prefers-color-scheme: dark)");

// ---- speaking to the server

async function ask(path, { json, form } = {}) {
  const options = {};
  if (json) Object.assign(options, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(json) });
  if (form) {
    const body = new FormData();
    for (const [name, value] of Object.entries(form)) body.append(name, value);
    Object.assign(options, { method: "POST", body });
  }
  const answer = await fetch(path, options).catch(() => {
    throw new Error("The service does not answer. Is it still running?");
  });
  if (answer.ok) return answer.status === 204 ? null : answer.json();
  const problem = await answer.json().catch(() => ({ detail: answer.statusText }));
  if (answer.status === 401 && path !== "session") askForKey();
  throw Object.assign(new Error(problem.detail), { status: answer.status });
}

const filtered = (path, more = {}) => {
  const words = new URLSearchParams(more);
  if (Object.keys(filters).length) words.set("filters", JSON.stringify(filters));
  return words.size ? `${path}?${words}` : path;
};

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
  if (view === "draw") return ask("draw", { json: { ...drawing(), k, filters } });
  if (query?.item !== undefined) return ask("search/by-id", { json: { id: query.item, k, filters } });
  if (query) return ask("search", { form: { photo: await photo(), k, filters: JSON.stringify(filters), seen: "yes" } });
  return ask(filtered("items", { k: 24 }));
}

/** What is compared: the file as it is, or what is in the frame. */
async function photo() {
  return !query.bitmap || (crop.whole() && query.photo.size < LARGEST / 8) ? query.photo : crop.blob();
}

function show(found, milliseconds) {
  const hits = found.results ?? found.items;
  const asked = found.results !== undefined;
  find("#title").textContent = asked ? "Most alike" : "From the catalogue";
  const among = found.count ?? about.items;
  find("#status").textContent = asked
    ? `${hits.length} of ${number(about.items)}, in ${milliseconds.toFixed(0)} ms`
    : `${number(among)} ${among === 1 ? "shoe" : "shoes"}${Object.keys(filters).length ? " meet the filters" : ""}`;
  if (found.seen && view === "draw") find("#drawn").src = found.seen;
  else if (found.seen) Object.assign(find("#seen"), { src: found.seen, hidden: false });
  find("#whole").hidden = !query?.bitmap || crop.whole();
  const list = find("#hits");
  list.replaceChildren(...hits.map((hit) => card(hit, asked)));
  if (!hits.length) {
    const words = Object.keys(filters).length ? "Nothing meets all of these filters. Take one away." : "The catalogue is empty.";
    list.append(Object.assign(document.createElement("li"), { className: "nothing", textContent: words }));
  }
  find("#more").hidden = !asked || hits.length < k || k >= MOST;
}

function fail(error) {
  const box = find("#error");
  box.hidden = !error;
  if (!error) return;
  const unreadable = query?.photo && view === "photo" && [400, 413, 415, 422].includes(error.status);
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

function make(tag, text = "", properties = {}) {
  return Object.assign(document.createElement(tag), { textContent: text, ...properties });
}

// ---- cards

/** What an item is called, and what else is known of it. */
function words({ path, attributes }) {
  const known = Object.entries(attributes).filter(([, value]) => value !== null && value !== "");
  const texts = known.filter(([, value]) => typeof value === "string" && value.length < 60).map(([, value]) => value);
  const others = known.filter(([, value]) => typeof value === "number").map(([name, value]) => `${name.replaceAll("_", " ")} ${number(value)}`);
  const flags = known.filter(([, value]) => value === true).map(([name]) => name.replaceAll("_", " "));
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
    why.addEventListener("click", () => explain(hit.id));
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
  [query, k] = [{ photo: file, bitmap: null }, FIRST];
  const bitmap = await createImageBitmap(file).catch(() => null); // of what a browser cannot show, the server may know more
  query.bitmap = bitmap;
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

// ---- filters

let facetTurn = 0;
async function loadFacets() {
  const mine = ++facetTurn;
  const found = await ask(filtered("facets")).catch(() => null);
  if (!found || mine !== facetTurn) return;
  find("#filters").hidden = !found.facets.length;
  find("#clear").hidden = !Object.keys(filters).length;
  for (const facet of found.facets) {
    const name = `facet-${facet.name}`;
    let field = document.getElementById(name);
    if (!field) {
      field = make("fieldset", "", { id: name });
      field.append(make("legend", facet.name.replaceAll("_", " ")));
      find("#facets").append(field);
      if (facet.kind === "range") addRange(field, facet);
      else field.append(make("div", "", { className: "values" }));
    }
    if (facet.kind === "values") showValues(field, facet);
  }
}

function addRange(field, { name, min, max }) {
  const row = make("div", "", { className: "range" });
  for (const [end, bound] of [["min", min], ["max", max]]) {
    const input = make("input", "", { type: "number", min: Math.floor(min), max: Math.ceil(max), step: "any", placeholder: number(bound) });
    input.setAttribute("aria-label", `${name}, ${end === "min" ? "least" : "most"}`);
    input.addEventListener("change", () => {
      const { [name]: before = {}, ...others } = filters;
      const range = { ...before, [end]: input.value === "" ? null : Number(input.value) };
      filters = range.min == null && range.max == null ? others : { ...others, [name]: range };
      refresh();
    });
    row.append(...(end === "max" ? [make("span", "to", { className: "small" })] : []), input);
  }
  field.append(row);
}

/** The values of a facet, in the order in which they first came: they do not jump about while counts change. */
function showValues(field, { name, values }) {
  const box = field.querySelector(".values");
  const counts = new Map(values.map(({ value, count }) => [value, count]));
  for (const label of box.children) {
    const count = counts.get(label.dataset.value) ?? 0;
    label.querySelector("b").textContent = number(count);
    label.querySelector("input").checked = filters[name]?.includes(label.dataset.value) ?? false;
    counts.delete(label.dataset.value);
  }
  for (const [value, count] of counts) box.append(choice(name, value, count));
  const labels = [...box.children];
  if (labels.length > FEW + 2 && !field.querySelector(".link")) {
    const more = make("button", `All ${labels.length}`, { type: "button", className: "link" });
    more.addEventListener("click", () => {
      field.classList.add("every");
      more.remove();
      fold();
    });
    field.append(more);
  }
  const fold = () => {
    labels.forEach((label, i) => {
      label.hidden = labels.length > FEW + 2 && !field.classList.contains("every") && i >= FEW && !label.querySelector("input").checked;
    });
  };
  fold();
}

function choice(name, value, count) {
  const label = make("label");
  label.dataset.value = value;
  const box = make("input", "", { type: "checkbox" });
  box.checked = filters[name]?.includes(value) ?? false;
  box.addEventListener("change", () => {
    const { [name]: before = [], ...others } = filters;
    const chosen = box.checked ? [...before, value] : before.filter((other) => other !== value);
    filters = chosen.length ? { ...others, [name]: chosen } : others;
    refresh();
  });
  label.append(box, make("span", { true: "yes", false: "no" }[value] ?? value), make("b", number(count)));
  return label;
}

find("#clear").addEventListener("click", () => {
  filters = {};
  for (const input of document.querySelectorAll("#facets input[type=number]")) input.value = "";
  refresh();
  find("#filters-title").closest("summary").focus();
});
if (matchMedia("(max-width: 56rem)").matches) find("#filters details").open = false; // results come first there
find("#facets").addEventListener("submit", (event) => event.preventDefault());

function refresh() {
  loadFacets();
  if (view === "map") soon(loadMap);
  else soon(look);
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
    const chosen = Object.keys(filters).length ? await ask(filtered("map")) : null;
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

// ---- why

async function explain(id) {
  const dialog = find("#why");
  const [one, other] = [find("#why-query"), find("#why-result")];
  for (const canvas of [one, other]) canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
  find("#why-words").textContent = "Comparing…";
  dialog.showModal();
  try {
    const form = { id };
    if (view === "draw") form.photo = decoded(find("#drawn").src);
    else if (query.item !== undefined) form.query = query.item;
    else form.photo = await photo();
    const found = await ask("why", { form });
    await Promise.all([paint(one, found.query), paint(other, found.result)]);
    find("#why-words").textContent =
      "The likeness rests on what is lit: with that region hidden, the two would be farther apart. What is dark makes no difference, or sets them apart.";
  } catch (error) {
    find("#why-words").textContent = error.message;
  }
}

/** The file in a data URL; the page's policy lets none be fetched. */
function decoded(url) {
  return new Blob([Uint8Array.from(atob(url.split(",")[1]), (letter) => letter.charCodeAt(0))], { type: "image/png" });
}

/** A photo that is dark where it does not count. */
async function paint(canvas, { seen, regions }) {
  const image = new Image();
  image.src = seen;
  await image.decode();
  const grid = new ImageData(regions.length, regions.length);
  regions.flat().forEach((heat, i) => grid.data.set([12, 34, 40, Math.round(205 * (1 - Math.sqrt(heat)))], 4 * i));
  const small = document.createElement("canvas");
  small.width = small.height = regions.length;
  small.getContext("2d").putImageData(grid, 0, 0);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
}

find("#why-close").addEventListener("click", () => find("#why").close());
find("#why").addEventListener("click", (event) => {
  if (event.target === find("#why")) find("#why").close();
});

// ---- the key

function askForKey() {
  if (!find("#key").open) find("#key").showModal();
}
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
  loadFacets();
  if (view === "map") soon(loadMap);
  else soon(look);
}

start();
