// Tables that filter on a click: findings, classes, image labels, groups; each with a gallery.
import { complain, get, thumbnailOf } from "./api.js";
import { byId, count, element, percent, plural, severity, swatch } from "./dom.js";
import { change } from "./state.js";

const NUM_EXAMPLES = 8;

let about;
let openTile;

/** Begin with a set; `open(row)` shows a tile at full size. */
export function start(described, open) {
  about = described;
  openTile = open;
}

const link = (changes, ...words) =>
  element("button", { type: "button", class: "link", onclick: () => change(changes, { fresh: true }) }, ...words);

function table(title, lead, heads, rows) {
  return [
    element("h2", {}, title),
    lead && element("p", { class: "lead" }, lead),
    element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title }, element("table", { class: "classes" }, element("thead", {}, element("tr", {}, heads.map(([words, kind]) => element("th", { scope: "col", class: kind || null }, words)))), element("tbody", {}, rows))),
  ];
}

const number = (value) => element("td", { class: "num" }, typeof value === "number" ? count(value) : value);

// Keys reach these tiles by the row's first link: a thousand rows would be a long way for Tab.
const example = (tile) =>
  element("button", { type: "button", class: "example", tabindex: "-1", title: tile.name, "aria-label": tile.name, onclick: () => openTile(tile.row) }, element("img", { src: thumbnailOf(0, tile.row), alt: "", loading: "lazy", onerror: (event) => event.target.parentElement.remove() }));

/** Show a few tiles of each row, once it is in sight. */
function gallery(parameters) {
  const place = element("td", { class: "gallery-cell" });
  new IntersectionObserver((entries, observer) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    get("tiles", [...parameters, ["limit", NUM_EXAMPLES]])
      .then(({ tiles }) => place.replaceChildren(element("div", { class: "strip" }, tiles.filter((tile) => tile.has_image).map(example))))
      .catch(complain);
  }).observe(place);
  return place;
}

export function findings() {
  const place = byId("view-findings");
  const rows = about.findings.map((finding) =>
    element(
      "tr",
      { class: finding.severity },
      element("td", {}, severity(finding.severity)),
      element(
        "td",
        {},
        finding.num_tiles > 0 ? link({ finding: [finding.key] }, element("span", { class: "code" }, finding.code), ` ${finding.name}`) : [element("span", { class: "code" }, finding.code), ` ${finding.name}`],
        finding.subcode && [" ", element("span", { class: "chip" }, finding.subcode)],
        finding.where && element("div", { class: "where" }, element("bdi", {}, finding.where)),
        element("div", { class: "where" }, finding.definition),
      ),
      number(finding.num_named),
      number(finding.num_tiles),
      finding.num_tiles > 0 ? gallery([["finding", finding.key]]) : element("td", {}, element("span", { class: "where" }, "names no tile")),
    ),
  );
  const note = about.findings.length ? "Click a finding for its tiles." : "No findings are known.";
  place.replaceChildren(...table("Findings of the last audit", note, [["Severity"], ["Finding"], ["Named", "num"], ["Tiles", "num"], ["Examples"]], rows));
}

export async function classes() {
  const place = byId("view-classes");
  const found = await get("classes");
  const splits = about.categories.split.values;
  const byClass = found.classes.map((cls) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, link({ class: cls.id, sort: "share", order: "desc" }, swatch(cls.colour), element("span", { class: "class-id" }, cls.id >= 0 ? String(cls.id) : ""), element("bdi", {}, cls.name))),
      number(percent(cls.share)),
      number(cls.tiles),
      number(cls.core_tiles),
      number(cls.groups),
      splits.map((split) => element("td", { class: "num" }, cls.splits[split.name] ? link({ class: cls.id, split: [split.value] }, count(cls.splits[split.name])) : "0")),
      gallery([["class", cls.id], ["sort", "share"], ["order", "desc"]]),
    ),
  );
  const pairs = found.classes.map((cls, row) =>
    element("tr", {}, element("th", { scope: "row" }, swatch(cls.colour), element("bdi", {}, cls.name)), found.pairs[row].map((tiles, column) => element("td", { class: `num${row === column ? " same" : ""}` }, tiles ? link({ class: cls.id, also: row === column ? null : [found.classes[column].id] }, count(tiles)) : count(tiles)))),
  );
  const parts = [
    ...table("Classes", "Share of all mask pixels; tiles that hold the class; core-present: at least 5 pixels thick somewhere. Click for tiles, the largest share first.", [["Class"], ["Share", "num"], ["Tiles", "num"], ["Core-present", "num"], ["Groups", "num"], ...splits.map((split) => [split.name, "num"]), ["Examples"]], byClass),
    ...(found.classes.length > 1 ? table("Class by class", "Tiles that hold both classes. Click a number for them.", [["Class"], ...found.classes.map((cls) => [cls.name, "num"])], pairs) : []),
  ];
  if (about.categories.label.num_values > 0) {
    const labels = found.image_labels;
    const rows = labels.labels.map((label, row) =>
      element(
        "tr",
        {},
        element("th", { scope: "row" }, link({ label: [label ? label.value : ""] }, element("bdi", {}, label ? label.name : "none"))),
        labels.counts[row].map((tiles, column) => {
          const cls = found.classes[column];
          return element("td", { class: "num" }, tiles && cls ? link({ label: [label ? label.value : ""], class: cls.id }, count(tiles)) : count(tiles));
        }),
      ),
    );
    parts.push(...table("Image labels and masks", "Tiles of each image label, by the class of most pixels.", [["Image label"], ...found.classes.map((cls) => [cls.name, "num"]), ["no mask", "num"]], rows));
  }
  place.replaceChildren(...parts);
}

export async function groups() {
  const place = byId("view-groups");
  const found = await get("groups", [["by", "group"]]);
  let order = "name";
  const draw = () => {
    const listed = [...found].sort((a, b) => (order === "name" ? 0 : b[order] - a[order]));
    const rows = listed.slice(0, 1000).map((group) =>
      element(
        "tr",
        {},
        element("th", { scope: "row" }, link({ group: [group.value] }, element("bdi", {}, group.name))),
        number(group.tiles),
        number(group.classes),
        number(group.errors ? severity("error") : 0),
        number(group.warnings),
        number(group.dropped),
        gallery([["group", group.value]]),
      ),
    );
    listed.slice(0, 1000).forEach((group, at) => {
      rows[at].children[3].replaceChildren(count(group.errors));
      if (group.errors) rows[at].children[3].classList.add("severity", "error");
    });
    const head = (name, words) => [element("button", { type: "button", class: "link", "aria-pressed": String(order === name), onclick: () => { order = name; draw(); } }, words), name === "name" ? "" : "num"];
    place.replaceChildren(...table("Groups", `${plural(found.length, "group")}: slides, cases or patients. Tiles with findings by severity. Click a group for its tiles, to look at or to drop them.`, [head("name", "Group"), head("tiles", "Tiles"), ["Classes", "num"], head("errors", "Errors"), head("warnings", "Warnings"), head("dropped", "Dropped"), ["Examples"]], rows));
  };
  draw();
}
