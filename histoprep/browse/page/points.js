// Tiles as points: what looks alike lies together. A line drawn around points selects their tiles.
import { complain, get, post, thumbnailOf } from "./api.js";
import { byId, count, element, percent, plural, swatch } from "./dom.js";
import { change, query } from "./state.js";

const SOURCES = { features: "features of the encoder", measures: "measures of the audit", colours: "colours", classes: "class shares" };
const COLOUR_BY = { class: "largest class", split: "split", group: "group", pool: "pool", label: "image label", decision: "decision" };
const NONE = "#8a8f98";
// As label maps without colours have them; further ones go around the wheel.
const FIRST = ["#648fff", "#d55e00", "#ffb000", "#332288", "#7fffd4", "#aa4499", "#661100", "#ddcc77"];
const MOST_NAMES = 40;
const NEAR_PX = 9;

let about;
let openTile;
let chosen = { source: "", by: "class" };
let found;
let line = [];
// Where keys are, in CSS pixels, and how far a key moves it.
let cross = null;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const STEP_PX = 8;
let hidden = new Set();

const colourOf = (entry, at) => entry.colour ?? FIRST[at] ?? `hsl(${Math.round(at * 137.5) % 360} 65% 50%)`;

/** Show the map of the tiles of the filters in use; `open(row)` shows a tile at full size. */
export async function show(described, open) {
  about = described;
  openTile = open;
  const place = byId("view-points");
  if (!place.querySelector("canvas")) build(place);
  await load();
}

function choice(name, titles, options, changed) {
  return element("select", { id: `points-${name}`, onchange: (event) => { chosen[name] = event.target.value; changed(); } }, options.map((each) => element("option", { value: each, selected: chosen[name] === each }, titles[each])));
}

function build(place) {
  const canvas = element("canvas", { tabindex: "0", role: "application", "aria-label": "Map of tiles: arrows move a cross, Space sets corners of a line around points, Enter ends it or opens the tile at the cross" });
  place.replaceChildren(
    element("div", { class: "toolbar" },
      element("p", { id: "points-count", role: "status" }),
      element("label", {}, "Places by", element("span", { id: "points-sources" })),
      element("label", {}, "Colour by", choice("by", COLOUR_BY, Object.keys(COLOUR_BY).filter((name) => !(name in about.categories) || about.categories[name].num_values > 0), () => { hidden = new Set(); load().catch(complain); })),
    ),
    element("p", { class: "lead" }, "Draw a line around points to see their tiles, and to tag or drop them. A click opens a tile. Keys: arrows move a cross, Space sets corners, Enter ends the line."),
    element("ul", { class: "class-legend", id: "points-legend", "aria-label": "Colours of the points" }),
    element("div", { class: "points-frame" }, canvas, element("figure", { class: "points-hover", role: "status", hidden: true }, element("img", { alt: "" }), element("figcaption"))),
    element("p", { class: "where", id: "points-axes" }),
  );
  listen(canvas);
  new ResizeObserver(draw).observe(canvas);
}

async function load() {
  byId("points-count").textContent = "measuring";
  const sources = found?.sources ?? ["measures", "colours", "classes"];
  const wanted = chosen.source || (about.num_tiles <= 1000 ? "colours" : sources[0]);
  const filters = query().filter(([name]) => !["sort", "order"].includes(name));
  found = await get("points", [...filters, ["source", wanted], ["by", chosen.by]]);
  chosen.source = wanted;
  byId("points-sources").replaceChildren(choice("source", SOURCES, found.sources, () => load().catch(complain)));
  byId("points-source").setAttribute("aria-label", "Places by");
  byId("points-count").textContent = found.rows.length === found.total ? plural(found.total, "tile") : `${count(found.rows.length)} of ${plural(found.total, "tile")}`;
  byId("points-axes").textContent = found.axes[0] ? `Across (${percent(found.explained[0])} of the variance): ${found.axes[0]}. Up (${percent(found.explained[1])}): ${found.axes[1]}.` : "These tiles do not differ in what is compared.";
  legend();
  draw();
  byId("view-points").dataset.drawn = `${chosen.source} ${chosen.by} ${found.rows.length}`;
}

function legend() {
  const counts = new Map();
  for (const code of found.codes) counts.set(code, (counts.get(code) || 0) + 1);
  const codes = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a)).slice(0, MOST_NAMES);
  byId("points-legend").replaceChildren(
    ...codes.map((code) => {
      const entry = found.legend[code];
      return element("li", {}, element("button", {
        type: "button", class: "class-button", "aria-pressed": String(!hidden.has(code)),
        onclick: () => {
          if (hidden.has(code)) hidden.delete(code);
          else hidden.add(code);
          legend();
          draw();
        },
      }, swatch(entry ? colourOf(entry, code) : NONE), element("bdi", {}, entry ? entry.name : "none"), element("span", { class: "where" }, count(counts.get(code)))));
    }),
  );
}

const canvasOf = () => byId("view-points").querySelector("canvas");

/** Return the place of a point on the canvas, in CSS pixels. */
function placeOf(at, box) {
  const side = Math.min(box.width, box.height) / 2 - 14;
  return [box.width / 2 + (found.x[at] / 1000) * side * (box.width / Math.min(box.width, box.height)) * 0.95, box.height / 2 - (found.y[at] / 1000) * side * (box.height / Math.min(box.width, box.height)) * 0.95];
}

function draw() {
  const canvas = canvasOf();
  const box = canvas.getBoundingClientRect();
  if (!found || !box.width) return;
  const ratio = devicePixelRatio || 1;
  canvas.width = Math.round(box.width * ratio);
  canvas.height = Math.round(box.height * ratio);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const radius = found.rows.length > 5000 ? 1.6 : found.rows.length > 800 ? 2.5 : 4;
  context.globalAlpha = found.rows.length > 5000 ? 0.6 : 0.85;
  for (let at = 0; at < found.rows.length; at += 1) {
    const code = found.codes[at];
    if (hidden.has(code)) continue;
    const [x, y] = placeOf(at, box);
    const entry = found.legend[code];
    context.fillStyle = entry ? colourOf(entry, code) : NONE;
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fill();
    if (radius > 2) {
      context.lineWidth = 0.6;
      context.strokeStyle = "rgb(128 128 128 / 80%)";
      context.stroke();
    }
  }
  if (line.length > 1) {
    context.globalAlpha = 1;
    context.strokeStyle = getComputedStyle(document.body).getPropertyValue("--accent");
    context.lineWidth = 2;
    context.setLineDash([5, 4]);
    context.beginPath();
    line.forEach(([x, y], at) => (at ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.closePath();
    context.stroke();
  }
  if (cross && document.activeElement === canvas) {
    const [x, y] = cross;
    context.globalAlpha = 1;
    context.setLineDash([]);
    context.strokeStyle = getComputedStyle(document.body).getPropertyValue("--ink");
    context.lineWidth = 1.5;
    context.beginPath();
    for (const [right, down] of Object.values(ARROWS)) {
      context.moveTo(x + 3 * right, y + 3 * down);
      context.lineTo(x + 12 * right, y + 12 * down);
    }
    context.stroke();
  }
}

/** Return whether a point lies inside of a closed line (even-odd rule). */
export function isInside([x, y], corners) {
  let inside = false;
  for (let at = 0, before = corners.length - 1; at < corners.length; before = at, at += 1) {
    const [[ax, ay], [bx, by]] = [corners[at], corners[before]];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) inside = !inside;
  }
  return inside;
}

function nearest(place, box) {
  let best = null;
  let least = NEAR_PX ** 2;
  for (let at = 0; at < found.rows.length; at += 1) {
    if (hidden.has(found.codes[at])) continue;
    const [x, y] = placeOf(at, box);
    const distance = (x - place[0]) ** 2 + (y - place[1]) ** 2;
    if (distance < least) [best, least] = [at, distance];
  }
  return best;
}

function listen(canvas) {
  const hover = () => byId("view-points").querySelector(".points-hover");
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  let shown = null;
  let isHeld = false;
  /** Show the tile that is nearest to a place. */
  const point = (place) => {
    const box = canvas.getBoundingClientRect();
    const near = nearest(place, box);
    if (near === shown) return;
    shown = near;
    hover().hidden = near === null;
    if (near === null) return;
    const [x, y] = placeOf(near, box);
    hover().style.setProperty("left", `${Math.min(x + 12, box.width - 120)}px`);
    hover().style.setProperty("top", `${Math.min(y + 12, box.height - 130)}px`);
    hover().querySelector("img").src = thumbnailOf(0, found.rows[near]);
    hover().querySelector("figcaption").textContent = found.legend[found.codes[near]]?.name ?? "none";
  };
  /** Show the tiles inside of a line. */
  const select = async (drawn) => {
    const box = canvas.getBoundingClientRect();
    const rows = found.rows.filter((_, index) => !hidden.has(found.codes[index]) && isInside(placeOf(index, box), drawn));
    draw();
    if (!rows.length) return;
    try {
      const { selection } = await post("selections", { rows });
      change({ selection }, { fresh: true });
    } catch (error) {
      complain(error);
    }
  };
  const openAt = (place) => {
    const near = nearest(place, canvas.getBoundingClientRect());
    if (near !== null) openTile(found.rows[near]);
    draw();
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    isHeld = true;
    cross = null;
    line = [at(event)];
  });
  canvas.addEventListener("pointermove", (event) => {
    if (isHeld) {
      line.push(at(event));
      draw();
    } else if (found) {
      point(at(event));
    }
  });
  canvas.addEventListener("pointerup", (event) => {
    if (!isHeld || !found) return;
    isHeld = false;
    const drawn = line;
    line = [];
    const far = Math.max(...drawn.map(([x, y]) => Math.hypot(x - drawn[0][0], y - drawn[0][1])));
    if (far < 6) openAt(at(event));
    else select(drawn);
  });
  canvas.addEventListener("pointercancel", () => {
    isHeld = false;
    line = [];
    draw();
  });
  canvas.addEventListener("pointerleave", () => {
    hover().hidden = true;
    shown = null;
  });
  canvas.addEventListener("keydown", (event) => {
    if (!found || event.ctrlKey || event.metaKey || event.altKey) return;
    const box = canvas.getBoundingClientRect();
    const place = cross ?? [box.width / 2, box.height / 2];
    const arrow = ARROWS[event.key];
    if (arrow) {
      const step = STEP_PX * (event.shiftKey ? 8 : 1);
      cross = [box.width, box.height].map((most, axis) => Math.max(0, Math.min(most, place[axis] + step * arrow[axis])));
      point(cross);
    } else if (event.key === " ") {
      cross = place;
      line.push(place);
    } else if (event.key === "Enter") {
      const drawn = line;
      line = [];
      if (drawn.length > 2) select(drawn);
      else openAt(place);
    } else if (event.key === "Escape") {
      line = [];
    } else {
      return;
    }
    event.preventDefault();
    draw();
  });
  canvas.addEventListener("focus", () => {
    const box = canvas.getBoundingClientRect();
    cross = canvas.matches(":focus-visible") ? (cross ?? [box.width / 2, box.height / 2]) : null;
    draw();
  });
  canvas.addEventListener("blur", () => {
    line = [];
    hover().hidden = true;
    shown = null;
    draw();
  });
}
