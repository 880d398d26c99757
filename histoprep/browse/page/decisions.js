// Dropping, tagging and taking back; each decision is on the server's disk before it is shown.
import { complain, post } from "./api.js";
import { byId, element, plural } from "./dom.js";

let about;
let changed = () => {};

/** Begin with the decisions of a set; `listener` is called after each change. */
export function start(described, listener) {
  about = described;
  changed = listener;
  byId("undo").addEventListener("click", () => undo());
  show(about.decisions);
}

function show(decisions) {
  about.decisions = decisions;
  const tags = Object.keys(decisions.tags).length;
  byId("decided").textContent = [`${plural(decisions.dropped, "tile")} dropped`, tags && plural(tags, "tag")].filter(Boolean).join(", ");
  byId("decided").title = decisions.path;
  byId("undo").disabled = decisions.undoable === 0;
}

async function send(path, body) {
  try {
    show(await post(path, body));
    await changed();
  } catch (error) {
    complain(error);
  }
}

/** Drop or keep tiles: `which` is { rows } or { query }. */
export const drop = (which) => send("decisions", { ...which, action: "drop" });
export const keep = (which) => send("decisions", { ...which, action: "keep" });
export const untag = (which, tag) => send("decisions", { ...which, action: "untag", tag });
export const undo = () => send("undo", {});

/** Ask for a tag and give it to tiles. */
export async function tag(which, words) {
  const name = await ask(`Tag ${words}`, Object.keys(about.decisions.tags));
  if (name) await send("decisions", { ...which, action: "tag", tag: name });
}

/** Return the text that was typed, or null. */
function ask(title, known) {
  const dialog = byId("ask");
  const input = element("input", { id: "ask-text", type: "text", maxlength: 60, list: "ask-known", autocomplete: "off", required: true });
  return new Promise((resolve) => {
    const form = element(
      "form",
      { method: "dialog", onsubmit: (event) => { event.preventDefault(); dialog.close(); resolve(input.value.trim()); } },
      element("h2", {}, title),
      element("label", {}, "Name of the tag", input),
      element("datalist", { id: "ask-known" }, known.map((each) => element("option", { value: each }))),
      element("div", { class: "buttons" }, element("button", { type: "submit", class: "main" }, "Tag"), element("button", { type: "button", onclick: () => { dialog.close(); resolve(null); } }, "Cancel")),
    );
    dialog.replaceChildren(form);
    dialog.addEventListener("cancel", () => resolve(null), { once: true });
    dialog.showModal();
    input.focus();
  });
}

/** Ask whether something is to be done, and return the answer. */
export function confirmed(question, action) {
  const dialog = byId("ask");
  return new Promise((resolve) => {
    const end = (answer) => () => { dialog.close(); resolve(answer); };
    dialog.replaceChildren(
      element("h2", {}, question),
      element("p", {}, "It is one decision: Undo takes it back."),
      element("div", { class: "buttons" }, element("button", { type: "button", class: "main", onclick: end(true) }, action), element("button", { type: "button", onclick: end(false) }, "Cancel")),
    );
    dialog.addEventListener("cancel", () => resolve(false), { once: true });
    dialog.showModal();
  });
}
