// The filters beside the grid, the chips of those in use, and the legend of the overlay.
import { byId, count, element, figure, percent, severity, swatch } from "./dom.js";
import { change, hiddenClasses, query, set, settings, value, values } from "./state.js";

export const TITLES = {
  tile_id: "name", group: "group", split: "split", pool: "pool", label: "image label", share: "class share",
  width_px: "width", height_px: "height", image_bytes: "file size", focus: "focus", luminance: "luminance",
  contrast: "contrast", background_share: "background", jpeg_quality: "JPEG quality", fit_explained: "fit of the mask",
  num_specks: "specks",
};
const NO_VALUE = "none";
// Longer lists are filtered by typing.
const MOST_BOXES = 12;

let about;

/** Build the filters of a set. */
export function build(described) {
  about = described;
  draw();
  const sort = byId("sort");
  const sortable = ["tile_id", "group", "split", "pool", "label", ...Object.keys(about.numbers), "share"];
  sort.replaceChildren(element("option", { value: "" }, "as listed"), ...sortable.map((name) => element("option", { value: name }, TITLES[name] || name)));
  sort.addEventListener("change", () => {
    const first = about.classes.find((cls) => cls.id !== 0) ?? about.classes[0];
    change({ sort: sort.value || null, ...(sort.value === "share" && !value("class") && first ? { class: first.id, order: "desc" } : {}) });
  });
  byId("order").addEventListener("click", () => change({ order: value("order") === "desc" ? null : "desc" }));
}

/** Draw filters, chips and controls as the address says. */
export function draw() {
  const place = byId("filters");
  const open = new Set([...place.querySelectorAll("details[open]")].map((each) => each.dataset.name));
  const active = document.activeElement?.id;
  place.replaceChildren(
    element("div", { class: "filters-head" }, element("h2", {}, "Filters"), element("button", { type: "button", id: "clear", onclick: () => change({}, { fresh: true }) }, "Clear")),
    element("label", { class: "text" }, "Name contains", element("input", { id: "text", type: "search", value: value("text"), oninput: (event) => later(() => change({ text: event.target.value || null })) })),
    ...part("finding", "Finding", open, about.findings.length > 0, () => findingBoxes()),
    ...part("class", "Class", open, about.classes.length > 0, () => classFilter()),
    ...["group", "split", "pool", "label"].flatMap((name) => part(name, TITLES[name], open, about.categories[name].num_values > 0, () => categoryFilter(name))),
    ...part("quality", "Size and quality", open, true, () => ranges()),
    ...part("decision", "Decisions", open, true, () => decisionFilter()),
  );
  if (active) byId(active)?.focus();
  byId("sort").value = value("sort");
  byId("order").setAttribute("aria-pressed", String(value("order") === "desc"));
  chips();
}

let timer = 0;
function later(action) {
  clearTimeout(timer);
  timer = setTimeout(action, 250);
}

const capital = (text) => text[0].toUpperCase() + text.slice(1);

function part(name, title, open, there, content) {
  if (!there) return [];
  const inUse = query().some(([key]) => key === name || (name === "class" && key === "also") || (name === "quality" && /^(min|max)\./.test(key)) || (name === "decision" && ["state", "tag"].includes(key)));
  const isOpen = open.size ? open.has(name) || inUse : inUse || name === "finding" || name === "class";
  return [element("details", { class: "part", data: { name }, open: isOpen }, element("summary", {}, capital(title), inUse && element("span", { class: "chip" }, "on")), content())];
}

function box(name, own, checked, label, extra) {
  return element(
    "label",
    { class: "box" },
    element("input", {
      type: "checkbox", id: `${name}=${own}`, checked,
      onchange: (event) => {
        const now = new Set(values(name));
        if (event.target.checked) now.add(own);
        else now.delete(own);
        change({ [name]: now.size ? [...now] : null });
      },
    }),
    element("span", { class: "what" }, label),
    extra !== undefined && element("span", { class: "number" }, extra),
  );
}

function findingBoxes() {
  const chosen = new Set(values("finding"));
  return about.findings
    .filter((finding) => finding.num_tiles > 0)
    .map((finding) => box("finding", finding.key, chosen.has(finding.key), [element("span", { class: `code severity ${finding.severity}` }, finding.code), ` ${finding.name}`, finding.subcode && ` ${finding.subcode}`, finding.where && element("bdi", {}, ` ${finding.where}`)], count(finding.num_tiles)));
}

function classFilter() {
  const chosen = value("class");
  const select = element(
    "select",
    { id: "class", "aria-label": "Class that the mask holds", onchange: (event) => change({ class: event.target.value || null, min_share: null, max_share: null, ...(event.target.value ? {} : value("sort") === "share" ? { sort: null } : {}) }) },
    element("option", { value: "" }, "any"),
    about.classes.map((cls) => element("option", { value: cls.id, selected: String(cls.id) === chosen }, cls.name)),
  );
  const limit = (name, words, otherwise) =>
    element("label", {}, words, element("input", {
      type: "number", id: name, min: 0, max: 100, step: "any", disabled: !chosen, value: value(name) ? String(Number((100 * Number(value(name))).toPrecision(6))) : "", placeholder: otherwise,
      onchange: (event) => change({ [name]: event.target.value === "" ? null : Number(event.target.value) / 100 }),
    }), "%");
  return [select, element("div", { class: "limits" }, limit("min_share", "from", "0"), limit("max_share", "to", "100"))];
}

function categoryFilter(name) {
  const category = about.categories[name];
  const chosen = new Set(values(name));
  const none = category.has_none ? [box(name, "", chosen.has(""), element("i", {}, NO_VALUE))] : [];
  if (category.num_values <= MOST_BOXES) return [...category.values.map((each) => box(name, each.value, chosen.has(each.value), element("bdi", {}, each.name))), ...none];
  const list = `list-${name}`;
  return [
    element("input", {
      type: "text", id: `add-${name}`, list, placeholder: `${count(category.num_values)} values`, "aria-label": `Add ${TITLES[name]}`,
      onchange: (event) => {
        const found = category.values.find((each) => each.name === event.target.value);
        const own = found ? found.value : event.target.value;
        if (own) change({ [name]: [...new Set([...chosen, own])] });
      },
    }),
    element("datalist", { id: list }, category.values.map((each) => element("option", { value: each.name }))),
    ...[...chosen].filter((own) => own !== "").map((own) => box(name, own, true, element("bdi", {}, category.values.find((each) => each.value === own)?.name ?? own))),
    ...none,
  ];
}

function ranges() {
  return Object.entries(about.numbers).map(([name, [least, most]]) =>
    element(
      "fieldset",
      { class: "range" },
      element("legend", {}, capital(TITLES[name] || name)),
      ...[["min", least], ["max", most]].map(([end, otherwise]) =>
        element("input", {
          type: "number", step: "any", id: `${end}.${name}`, "aria-label": `${end === "min" ? "Least" : "Largest"} ${TITLES[name] || name}`, value: value(`${end}.${name}`), placeholder: figure(otherwise),
          onchange: (event) => change({ [`${end}.${name}`]: event.target.value === "" ? null : event.target.value }),
        }),
      ),
    ),
  );
}

function decisionFilter() {
  const states = [["", "all"], ["kept", "not dropped"], ["dropped", "dropped"]];
  const tags = Object.entries(about.decisions.tags);
  return [
    element("select", { id: "state", "aria-label": "Dropped or not", onchange: (event) => change({ state: event.target.value || null }) }, states.map(([own, words]) => element("option", { value: own, selected: value("state") === own }, words))),
    tags.length > 0 && element("select", { id: "tag", "aria-label": "Tag", onchange: (event) => change({ tag: event.target.value || null }) }, element("option", { value: "" }, "any tag or none"), tags.map(([tag, number]) => element("option", { value: tag, selected: value("tag") === tag }, `${tag} (${count(number)})`))),
  ];
}

/** Return what a filter says, in words. */
function words(name, text) {
  if (name === "finding") {
    const finding = about.findings.find((each) => each.key === text);
    return finding ? `${finding.code} ${finding.name}` : text;
  }
  if (name === "class") return about.classes.find((cls) => String(cls.id) === text)?.name ?? `class ${text}`;
  if (name === "also") return `also ${about.classes.find((cls) => String(cls.id) === text)?.name ?? `class ${text}`}`;
  if (name === "min_share") return `share from ${percent(Number(text))}`;
  if (name === "max_share") return `share to ${percent(Number(text))}`;
  if (name === "selection") return "selected by hand";
  if (name === "tag") return `tag ${text}`;
  if (name === "state") return text === "kept" ? "not dropped" : text;
  if (name === "text") return `name contains ${text}`;
  const [end, column] = name.split(".");
  if (column) return `${TITLES[column] || column} ${end === "min" ? "from" : "to"} ${text}`;
  return `${TITLES[name] || name} ${text === "" ? NO_VALUE : (about.categories[name]?.values.find((each) => each.value === text)?.name ?? text)}`;
}

function chips() {
  const used = query().filter(([name]) => !["sort", "order"].includes(name));
  byId("chips").replaceChildren(
    ...used.map(([name, text]) =>
      element("li", {}, element("button", {
        type: "button", class: "chip", "aria-label": `Remove filter: ${words(name, text)}`,
        onclick: () => change({ [name]: values(name).length > 1 ? values(name).filter((each) => each !== text) : null, ...(name === "class" ? { min_share: null, max_share: null, ...(value("sort") === "share" ? { sort: null } : {}) } : {}) }),
      }, element("bdi", {}, words(name, text)), " ×")),
    ),
  );
}

/** Build the legend: a class is shown or hidden by a click, shown alone with the Alt key or `only`. */
export function legend(repaint) {
  const draw = () =>
    byId("legend").replaceChildren(
      ...[...about.classes.map((cls) =>
        element("li", {}, element("button", {
          type: "button", class: "class-button", "aria-pressed": String(!hiddenClasses.has(cls.id)), title: "Show or hide; double-click for this class alone",
          onclick: () => {
            if (hiddenClasses.has(cls.id)) hiddenClasses.delete(cls.id);
            else hiddenClasses.add(cls.id);
            update();
          },
          ondblclick: () => {
            const alone = about.classes.every((each) => (each.id === cls.id) !== hiddenClasses.has(each.id)) && about.classes.length > 1;
            hiddenClasses.clear();
            if (!alone) for (const each of about.classes) if (each.id !== cls.id) hiddenClasses.add(each.id);
            update();
          },
        }, swatch(cls.colour), element("bdi", {}, cls.name))),
      ),
      hiddenClasses.size > 0 && element("li", {}, element("button", { type: "button", class: "class-button all", onclick: () => { hiddenClasses.clear(); update(); } }, "show all"))].filter(Boolean),
    );
  const update = () => {
    draw();
    repaint();
  };
  draw();
}

/** Connect the controls of the display. */
export function display(changed) {
  const connect = (id, name, read) => {
    const control = byId(id);
    if (control.type === "checkbox") control.checked = settings[name];
    else control.value = settings[name];
    control.addEventListener("input", () => {
      set(name, read(control));
      changed(name);
    });
  };
  connect("opacity", "opacity", (control) => Number(control.value));
  connect("outlines", "outlines", (control) => control.checked);
  connect("size", "size", (control) => Number(control.value));
  connect("beside", "beside", (control) => control.checked);
  byId("beside-label").hidden = about.others.length === 0;
}
