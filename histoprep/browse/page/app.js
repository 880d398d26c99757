// The page as a whole: what the server describes, the views, and what keys and buttons do.
import { complain, get } from "./api.js";
import * as decisions from "./decisions.js";
import { byId, element, plural } from "./dom.js";
import * as filters from "./filters.js";
import { Grid } from "./grid.js";
import * as keys from "./keys.js";
import * as points from "./points.js";
import { onChange, query, set, settings, view } from "./state.js";
import * as tables from "./tables.js";
import { Viewer } from "./viewer.js";

const VIEWS = { tiles: "Tiles", findings: "Findings", classes: "Classes", groups: "Groups", points: "Map" };
const INSTANT = ["tiles"];

async function start() {
  // The cookie knows the token now; the address may be shown to others.
  if (location.search) history.replaceState(null, "", location.pathname + location.hash);
  const about = await get("set");
  about.severities = new Map(about.findings.map((finding) => [finding.key, finding.severity]));
  document.title = `${about.name}: HistoPrep`;
  byId("set-name").replaceChildren(element("bdi", { title: about.path }, about.name));
  byId("notes").hidden = about.notes.length === 0;
  byId("notes").textContent = about.notes.join("; ");

  let viewer;
  const grid = new Grid(about, (index) => viewer.open(index));
  const current = async () => (viewer.isOpen ? viewer.tile : await grid.tile(grid.current));
  const dropOrKeep = (tile) => (tile.dropped ? decisions.keep : decisions.drop)({ rows: [tile.row] });
  const actions = {
    drop: dropOrKeep,
    tag: (tile) => decisions.tag({ rows: [tile.row] }, tile.name),
    untag: (tile, tag) => decisions.untag({ rows: [tile.row] }, tag),
  };
  viewer = new Viewer(about, grid, actions);
  filters.build(about);
  const repaint = () => {
    grid.repaint();
    viewer.repaint();
  };
  filters.legend(repaint);
  filters.display((name) => (name === "size" || name === "beside" ? grid.layout() : repaint()));
  tables.start(about, (row) => viewer.open(grid.current, row));
  decisions.start(about, async () => {
    filters.draw();
    await grid.reload({ keepPlace: true });
    await viewer.refresh();
    await show();
  });

  const wholeQuery = () => ({ query: query().map(([name, text]) => [name, text]) });
  const together = (words, send) => async () => {
    if (grid.total && (await decisions.confirmed(`${words} ${plural(grid.total, "tile")}?`, words))) await send(wholeQuery());
  };
  byId("drop-all").addEventListener("click", together("Drop", decisions.drop));
  byId("keep-all").addEventListener("click", together("Keep", decisions.keep));
  byId("tag-all").addEventListener("click", () => grid.total && decisions.tag(wholeQuery(), plural(grid.total, "tile")));
  byId("help").addEventListener("click", keys.help);
  byId("show-filters").addEventListener("click", () => {
    const open = document.body.classList.toggle("filters-open");
    byId("show-filters").setAttribute("aria-expanded", String(open));
    grid.layout();
  });

  const move = (by) => () => (viewer.isOpen ? viewer.step(by) : inGrid() && grid.go(grid.beside(by)));
  const inGrid = () => view() === "tiles";
  const arrow = (across) => (event) => {
    if (viewer.isOpen) return viewer.pan(typeof across === "number" ? across : 0, { row: 1, "-row": -1 }[across] ?? 0, event.shiftKey);
    if (!inGrid() || event.target.closest(".filters, .toolbar, .bar")) return false;
    return move(across === "row" ? grid.columns : across === "-row" ? -grid.columns : across)();
  };
  const onTile = (action) => () => {
    if (inGrid() || viewer.isOpen) current().then((tile) => tile && action(tile)).catch(complain);
  };
  const zoom = (by) => () => viewer.isOpen && (viewer.scale(by), viewer.readMiddle());
  const toggle = (id) => () => byId(id).click();
  keys.listen({
    j: move(1), k: move(-1),
    ArrowRight: arrow(1), ArrowLeft: arrow(-1), ArrowDown: arrow("row"), ArrowUp: arrow("-row"),
    Enter: (event) => (inGrid() && !viewer.isOpen && event.target === document.body ? viewer.open(grid.current) : false),
    x: onTile(actions.drop), t: onTile(actions.tag), u: () => decisions.undo(),
    m: () => {
      const control = byId("opacity");
      const hides = settings.opacity > 0;
      set("opacity", hides ? 0 : 45);
      set("outlines", !hides);
      control.value = settings.opacity;
      byId("outlines").checked = settings.outlines;
      repaint();
    },
    o: toggle("outlines"),
    "+": zoom(1.25), "-": zoom(0.8), 0: () => viewer.isOpen && viewer.fit(),
    "/": () => !viewer.isOpen && byId("text").focus(),
    "?": keys.help,
  });

  async function show() {
    const name = view() in VIEWS ? view() : "tiles";
    for (const each of Object.keys(VIEWS)) byId(`view-${each}`).hidden = each !== name;
    for (const each of document.querySelectorAll("nav [data-view]")) {
      if (each.dataset.view === name) each.setAttribute("aria-current", "page");
      else each.removeAttribute("aria-current");
    }
    byId("heading").textContent = VIEWS[name];
    // The map is of the tiles that are filtered.
    document.querySelector("nav [data-view=points]").hash = new URLSearchParams([["view", "points"], ...query()]).toString();
    document.body.dataset.view = name;
    if (name === "points") await points.show(about, (row) => viewer.open(grid.current, row));
    else if (!INSTANT.includes(name)) await tables[name]();
    document.body.dataset.ready = `${name} ${location.hash}`;
  }
  const update = async (what) => {
    if (what === "display") return;
    filters.draw();
    if (view() === "tiles") await grid.reload();
    await show();
  };
  onChange((what) => update(what).catch(complain));
  if (view() !== "tiles") await grid.reload();
  await update("query");
}

start().catch((error) => {
  complain(error);
  document.body.dataset.ready = "failed";
});
