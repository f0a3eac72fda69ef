// Filters: what can be chosen, how many there would be, and what has been.

import { ask, find, make, number, plain } from "./api.js";

const FEW = 6; // values that are shown at first

/** The filters of the page. `changed` is called whenever they are others. */
export function filtering(changed) {
  let filters = {}; // name → [values] or {min, max}
  let turn = 0; // answers to older questions are dropped

  async function load() {
    const mine = ++turn;
    const found = await ask(path("facets")).catch(() => null);
    if (!found || mine !== turn) return;
    find("#filters").hidden = !found.facets.length;
    find("#clear").hidden = !any();
    for (const facet of found.facets) {
      const name = `facet-${facet.name}`;
      let field = document.getElementById(name);
      if (!field) {
        field = make("fieldset", "", { id: name });
        field.append(make("legend", plain(facet.name)));
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
      input.setAttribute("aria-label", `${plain(name)}, ${end === "min" ? "least" : "most"}`);
      input.addEventListener("change", () => {
        const { [name]: before = {}, ...others } = filters;
        const range = { ...before, [end]: input.value === "" ? null : Number(input.value) };
        filters = range.min == null && range.max == null ? others : { ...others, [name]: range };
        changed();
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
      changed();
    });
    label.append(box, make("span", { true: "yes", false: "no" }[value] ?? value), make("b", number(count)));
    return label;
  }

  find("#clear").addEventListener("click", () => {
    filters = {};
    for (const input of document.querySelectorAll("#facets input[type=number]")) input.value = "";
    changed();
    find("#filters-title").closest("summary").focus();
  });
  if (matchMedia("(max-width: 56rem)").matches) find("#filters details").open = false; // results come first there
  find("#facets").addEventListener("submit", (event) => event.preventDefault());

  /** A path with the filters, and what else is asked. */
  function path(name, more = {}) {
    const words = new URLSearchParams(more);
    if (any()) words.set("filters", JSON.stringify(filters));
    return `${words}` ? `${name}?${words}` : name; // older browsers do not tell its size
  }

  const any = () => Object.keys(filters).length > 0;
  return { load, path, any, now: () => filters };
}
