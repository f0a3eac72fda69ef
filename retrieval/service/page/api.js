// What every part of the page needs: the server, and elements.

export const find = (selector) => document.querySelector(selector);
export const number = (value) => value.toLocaleString("en");
export const plain = (name) => name.replaceAll("_", " ");

export function make(tag, text = "", properties = {}) {
  return Object.assign(document.createElement(tag), { textContent: text, ...properties });
}

/** What the server answers: `json` and `form` are sent by POST. Problems are thrown, with their `status`. */
export async function ask(path, { json, form } = {}) {
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
  if (answer.status === 401 && path !== "session") dispatchEvent(new Event("locked"));
  throw Object.assign(new Error(problem.detail), { status: answer.status });
}
