// What is shown: view, filters, order. It stands in the address behind #, so that it can be kept
// and the browser's Back works. Settings of the display are kept beside it.

const SETTINGS = { opacity: 45, outlines: true, size: 176, beside: true };

const listeners = new Set();

export const settings = { ...SETTINGS, ...stored() };
export const hiddenClasses = new Set();

function stored() {
  try {
    return JSON.parse(localStorage.getItem("histoprep-display")) || {};
  } catch {
    return {};
  }
}

/** Change a setting of the display. */
export function set(name, value) {
  settings[name] = value;
  try {
    localStorage.setItem("histoprep-display", JSON.stringify(settings));
  } catch {
    // A browser that keeps nothing still shows everything.
  }
  for (const listener of listeners) listener("display");
}

/** Return the pairs of the address: view, and parameters of api/tiles. */
export function pairs() {
  return [...new URLSearchParams(location.hash.slice(1))];
}

export const view = () => pairs().find(([name]) => name === "view")?.[1] ?? "tiles";

/** Return the parameters of api/tiles. */
export const query = () => pairs().filter(([name]) => name !== "view");

export const value = (name) => query().find(([key]) => key === name)?.[1] ?? "";
export const values = (name) => query().filter(([key]) => key === name).map(([, text]) => text);

/** Show other tiles: `changes` by name, a text, a list of texts, or null to drop a filter. */
export function change(changes, { to = "tiles", fresh = false } = {}) {
  const keep = fresh ? [] : query().filter(([name]) => !(name in changes));
  const added = Object.entries(changes).flatMap(([name, now]) =>
    now === null ? [] : Array.isArray(now) ? now.map((text) => [name, text]) : [[name, String(now)]],
  );
  const next = new URLSearchParams([...(to === "tiles" ? [] : [["view", to]]), ...keep, ...added]).toString();
  if (next === location.hash.slice(1)) return;
  location.hash = next;
}

export function onChange(listener) {
  listeners.add(listener);
}

addEventListener("hashchange", () => {
  for (const listener of listeners) listener("query");
});
