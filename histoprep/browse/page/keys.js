// Keys: everything can be done without a pointer.
import { byId, element } from "./dom.js";

export const KEYS = [
  ["j, k", "next, previous tile"],
  ["arrows", "move in the grid; at full size, move a zoomed image, with Shift by a pixel"],
  ["Enter", "open the tile at full size"],
  ["x", "drop the tile, or keep it again"],
  ["t", "tag the tile"],
  ["u", "take the last decision back"],
  ["m", "show or hide the mask"],
  ["o", "outlines on or off"],
  ["+, -, 0", "zoom in, out, fit"],
  ["/", "search by name"],
  ["in the map", "arrows move a cross (Shift: far), Space sets corners of a line, Enter ends it, or opens the tile at the cross"],
  ["Esc", "close"],
  ["?", "this list"],
];

/** Call `actions` by key; keys typed into fields are text. */
export function listen(actions) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const field = event.target.closest?.("input:not([type=checkbox]):not([type=range]), select, textarea");
    if (field || byId("ask").open) return;
    const range = event.target.closest?.("input[type=range]");
    if (range && event.key.startsWith("Arrow")) return;
    const action = actions[event.key];
    if (!action) return;
    if (action(event) !== false) event.preventDefault();
  });
}

/** Show the list of keys. */
export function help() {
  const dialog = byId("ask");
  dialog.replaceChildren(
    element("h2", {}, "Keys"),
    element("dl", { class: "keys" }, KEYS.map(([key, words]) => [element("dt", {}, key), element("dd", {}, words)])),
    element("div", { class: "buttons" }, element("button", { type: "button", class: "main", onclick: () => dialog.close() }, "Close")),
  );
  dialog.showModal();
}
