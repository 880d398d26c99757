// Elements from names and texts. Text is only ever text: nothing here parses HTML.

/** Return an element: `attributes` are properties, `on...` listeners, `data`, or attributes. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "data") Object.assign(made.dataset, value);
    else if (key === "style") for (const [rule, text] of Object.entries(value)) made.style.setProperty(rule, text);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export const byId = (id) => document.getElementById(id);

/** Return 1234567 as "1,234,567". */
export const count = (value) => value.toLocaleString("en-US");

/** Return a share in [0, 1] as "63.2 %". */
export function percent(share) {
  if (share === 0 || share === 1) return `${100 * share} %`;
  if (share >= 0.1) return `${(100 * share).toFixed(1)} %`;
  return share < 0.000001 ? "< 0.0001 %" : `${Number((100 * share).toPrecision(2))} %`;
}

/** Return "1 tile" or "2 tiles". */
export const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;

/** Return a number with digits enough to be read. */
export const figure = (value) => (value === null ? "" : Number.isInteger(value) ? count(value) : String(Number(value.toPrecision(4))));

export function swatch(colour) {
  return element("span", { class: "colour", style: { "background-color": colour } });
}

export function severity(name) {
  return element("span", { class: `severity ${name}` }, name);
}
