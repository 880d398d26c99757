// A tile at full size: zoom, pan, values under the pointer, places of findings, neighbours at its
// sides, and what belongs beside it.
import { complain, get, imageOf, thumbnailOf } from "./api.js";
import { byId, element, figure, percent, severity, swatch } from "./dom.js";
import { TITLES } from "./filters.js";
import { fetchNumbers, paint } from "./masks.js";
import { settings } from "./state.js";

const MARK = "#ffe600";
const SIDES = ["above", "left", "right", "below", "over"];

export class Viewer {
  /** `grid` gives tiles in order; `actions` are drop, tag and untag of a tile. */
  constructor(about, grid, actions) {
    this.about = about;
    this.grid = grid;
    this.actions = actions;
    this.dialog = byId("viewer");
    this.dialog.addEventListener("close", () => {
      this.tile = null;
      this.grid.go(this.grid.current);
    });
    this.zoom = null;
    this.finding = null;
    new ResizeObserver(() => this.isOpen && this.draw()).observe(this.dialog);
  }

  get isOpen() {
    return this.dialog.open;
  }

  /** Show the tile at a place of the order, or, without one, a row. */
  async open(index, row = null) {
    this.index = index;
    this.serial = (this.serial || 0) + 1;
    const serial = this.serial;
    try {
      const chosen = row ?? (await this.grid.tile(index))?.row;
      if (chosen === undefined) return;
      const tile = await get(`tiles/${chosen}`);
      if (serial !== this.serial) return;
      this.tile = tile;
      this.zoom = null;
      this.boxes = [];
      this.build();
      if (!this.isOpen) this.dialog.showModal();
      this.canvas?.focus();
      await this.load(serial);
    } catch (error) {
      complain(error);
    }
  }

  /** Show the next or an earlier tile of the order. */
  step(by) {
    const next = Math.max(0, Math.min(this.grid.total - 1, this.index + by));
    if (next === this.index) return;
    this.grid.go(next);
    this.open(next);
  }

  async refresh() {
    if (!this.isOpen || !this.tile) return;
    this.tile = { ...this.tile, ...(await get(`tiles/${this.tile.row}`)) };
    this.side.replaceChildren(...this.facts());
    this.head();
  }

  build() {
    const tile = this.tile;
    this.panes = this.paneList(tile).map((pane) => ({ ...pane, canvas: element("canvas", { tabindex: "0", role: "img", "aria-label": `${pane.title} of ${tile.name}` }), bitmap: null, mask: null }));
    this.canvas = this.panes[0].canvas;
    this.readout = element("p", { class: "readout" }, "Values under the pointer, or in the middle when keys zoom and move");
    this.side = element("div", { class: "side" }, ...this.facts());
    this.header = element("header", {});
    this.head();
    const neighbours = new Map(SIDES.map((side) => [side, tile.neighbours.filter((near) => near.side === side)]));
    const strip = (side) =>
      neighbours.get(side).length > 0 && element("div", { class: `near ${side}` }, neighbours.get(side).slice(0, 3).map((near) => this.near(near)));
    const frames = this.panes.map((pane) => element("figure", { class: "frame" }, pane.canvas, element("figcaption", {}, element("bdi", {}, pane.title))));
    this.dialog.replaceChildren(
      this.header,
      element(
        "div",
        { class: "viewer-body" },
        element("div", { class: "stage" }, strip("above"), element("div", { class: "middle" }, strip("left"), element("div", { class: "frames" }, frames), strip("right")), strip("below"), strip("over"), this.readout),
        this.side,
      ),
    );
    for (const pane of this.panes) this.listen(pane);
  }

  paneList(tile) {
    const panes = [];
    if (tile.has_image) panes.push({ set: 0, row: tile.row, image: true, overlay: tile.has_mask && !this.about.others.length, title: this.about.others.length ? this.about.name : "image and mask" });
    this.about.others.forEach((other, at) => {
      if (tile.beside[at] !== null) panes.push({ set: at + 1, row: tile.beside[at], image: true, overlay: false, title: other.name });
    });
    if (tile.has_mask && (!tile.has_image || this.about.others.length)) panes.push({ set: 0, row: tile.row, image: false, overlay: true, title: "mask" });
    return panes.length ? panes : [{ set: 0, row: tile.row, image: true, overlay: false, title: "image" }];
  }

  head() {
    const tile = this.tile;
    const button = (label, action, title, more = {}) => element("button", { type: "button", title, onclick: action, ...more }, label);
    this.header.replaceChildren(
      element("h2", {}, element("bdi", {}, tile.name)),
      element(
        "div",
        { class: "buttons" },
        button("←", () => this.step(-1), "Previous (k)", { "aria-label": "Previous tile" }),
        button("→", () => this.step(1), "Next (j)", { "aria-label": "Next tile" }),
        button("−", () => this.scale(0.8), "Smaller (-)", { "aria-label": "Zoom out" }),
        button("+", () => this.scale(1.25), "Larger (+)", { "aria-label": "Zoom in" }),
        button("Fit", () => this.fit(), "Fit (0)"),
        button(tile.dropped ? "Keep" : "Drop", () => this.actions.drop(tile), "Drop or keep (x)", { id: "viewer-drop" }),
        button("Tag", () => this.actions.tag(tile), "Tag (t)", { id: "viewer-tag" }),
        button("Close", () => this.dialog.close(), "Close (Esc)", { id: "viewer-close" }),
      ),
    );
  }

  near(near) {
    const words = `${near.kind} ${near.side}: ${near.name}`;
    return element(
      "button",
      { type: "button", class: "neighbour", title: words, "aria-label": words, onclick: () => this.open(this.index, near.row) },
      element("img", { src: thumbnailOf(0, near.row), alt: "" }),
      element("span", {}, element("bdi", {}, near.name), near.split && element("span", { class: near.split === this.tile.split ? "split" : "split other" }, ` ${near.split}`)),
    );
  }

  facts() {
    const tile = this.tile;
    const row = (name, text) => text !== null && text !== "" && [element("dt", {}, name), element("dd", {}, element("bdi", {}, text))];
    return [
      tile.dropped && element("p", { class: "chip drop" }, "dropped"),
      tile.tags.length > 0 && element("p", {}, tile.tags.map((tag) => element("button", { type: "button", class: "chip", "aria-label": `Remove tag ${tag}`, onclick: () => this.actions.untag(tile, tag) }, tag, " ×"))),
      element("h3", {}, "Classes"),
      element("ul", { class: "shares" }, tile.classes.map(([place, share]) => element("li", {}, swatch(this.about.classes[place].colour), element("bdi", {}, this.about.classes[place].name), element("span", { class: "number" }, percent(share)))), tile.classes.length === 0 && element("li", {}, tile.has_mask ? "none" : "no mask")),
      tile.details.length > 0 && element("h3", {}, "Findings"),
      tile.details.map((finding) =>
        element(
          "div",
          { class: "found" },
          element("p", {}, severity(finding.severity), " ", element("b", {}, `${finding.code} ${finding.name}`)),
          finding.detail && element("p", { class: "detail" }, finding.detail),
          finding.has_marks && element("button", { type: "button", class: "mark", "aria-pressed": String(this.finding === finding.key), onclick: () => this.mark(finding.key) }, "Mark the place"),
        ),
      ),
      element("h3", {}, "Facts"),
      element(
        "dl",
        { class: "facts-list" },
        row("group", tile.group), row("split", tile.split), row("pool", tile.pool), row("image label", tile.label),
        row("image", tile.image_path), row("mask", tile.mask_path),
        Object.entries(tile.numbers).map(([name, number]) => row(TITLES[name] || name, number === null ? "" : figure(number))),
      ),
      tile.neighbours.length > 0 && element("h3", {}, "Neighbours"),
      tile.neighbours.map((near) => element("p", { class: "detail" }, `${near.kind} ${near.side}: `, element("bdi", {}, near.name))),
    ].flat().filter(Boolean);
  }

  async load(serial) {
    const isCurrent = () => serial === this.serial && this.isOpen;
    await Promise.all(
      this.panes.map(async (pane) => {
        if (pane.image) {
          const response = await fetch(imageOf(pane.set, pane.row));
          if (response.status !== 200) pane.problem = decodeURIComponent(response.headers.get("Histoprep-Reason") || "unreadable");
          else pane.bitmap = await createImageBitmap(await response.blob(), { colorSpaceConversion: "none" });
        }
        if (pane.overlay) {
          const [mask, labels] = await Promise.all([fetchNumbers(`/api/mask/${pane.row}?set=${pane.set}`), get(`labels/${pane.row}`, [["set", pane.set]])]);
          if (mask) {
            pane.mask = mask;
            pane.labels = labels;
            pane.painted = element("canvas");
          }
        }
        if (pane.bitmap) {
          const source = new OffscreenCanvas(pane.bitmap.width, pane.bitmap.height);
          pane.pixels = source.getContext("2d", { willReadFrequently: true });
          pane.pixels.drawImage(pane.bitmap, 0, 0);
        }
        if (isCurrent()) {
          this.repaint();
        }
      }),
    );
    const first = this.tile.details.find((finding) => finding.has_marks);
    if (first && isCurrent()) await this.mark(first.key, true);
    if (isCurrent()) this.dialog.dataset.loaded = String(this.tile.row);
  }

  /** Mark the places that a finding speaks of; again to hide them. */
  async mark(key, stays = false) {
    this.finding = this.finding === key && !stays ? null : key;
    try {
      this.boxes = (this.finding && (await get(`marks/${this.tile.row}`, [["finding", key]]))) || [];
    } catch (error) {
      this.boxes = [];
      complain(error);
    }
    this.side.replaceChildren(...this.facts());
    this.draw();
  }

  /** Paint masks again, after a setting changed. */
  repaint() {
    for (const pane of this.panes ?? []) {
      if (!pane.mask) continue;
      const entries = pane.labels.map((each) => ({ colour: each.class.colour, key: each.class.id, plain: each.class.id === 0 }));
      paint(pane.painted, pane.mask, entries, { ...settings, alone: !pane.image });
    }
    this.draw();
  }

  sizeOf(pane) {
    const source = pane.bitmap || pane.mask;
    return source ? [source.width, source.height] : [1, 1];
  }

  /** Show the whole tile. */
  fit() {
    this.zoom = null;
    this.draw();
  }

  view(pane) {
    const [width, height] = this.sizeOf(pane);
    const whole = Math.min(pane.canvas.width / width, pane.canvas.height / height);
    const zoom = whole * (this.zoom?.factor ?? 1);
    const [x, y] = this.zoom ? [this.zoom.x * width, this.zoom.y * height] : [width / 2, height / 2];
    return { zoom, left: pane.canvas.width / 2 - x * zoom, top: pane.canvas.height / 2 - y * zoom, width, height };
  }

  draw() {
    for (const pane of this.panes ?? []) {
      const { canvas } = pane;
      const ratio = devicePixelRatio || 1;
      const box = canvas.getBoundingClientRect();
      if (!box.width) continue;
      canvas.width = Math.round(box.width * ratio);
      canvas.height = Math.round(box.height * ratio);
      const context = canvas.getContext("2d");
      if (!pane.bitmap && !pane.mask) {
        context.font = `${14 * ratio}px system-ui`;
        context.fillStyle = getComputedStyle(canvas).color;
        context.fillText(pane.problem || "loading", 12 * ratio, 24 * ratio);
        continue;
      }
      const { zoom, left, top, width, height } = this.view(pane);
      context.imageSmoothingEnabled = zoom < 1.5;
      if (pane.bitmap) context.drawImage(pane.bitmap, left, top, width * zoom, height * zoom);
      if (pane.mask) {
        context.imageSmoothingEnabled = false;
        context.drawImage(pane.painted, left, top, width * zoom, height * zoom);
        this.frames(context, zoom, left, top, ratio);
      }
    }
  }

  frames(context, zoom, left, top, ratio) {
    for (const [upper, first, lower, last] of this.boxes) {
      // Around the place, but never outside of what is seen.
      const inset = 2 * ratio;
      const { width, height } = context.canvas;
      const x = [left + first * zoom - 3 * ratio, left + last * zoom + 3 * ratio].map((edge) => Math.max(inset, Math.min(width - inset, edge)));
      const y = [top + upper * zoom - 3 * ratio, top + lower * zoom + 3 * ratio].map((edge) => Math.max(inset, Math.min(height - inset, edge)));
      if (x[0] === x[1] || y[0] === y[1]) continue;
      const place = [x[0], y[0], x[1] - x[0], y[1] - y[0]];
      context.lineWidth = 4 * ratio;
      context.strokeStyle = "#000000";
      context.strokeRect(...place);
      context.lineWidth = 2 * ratio;
      context.strokeStyle = MARK;
      context.strokeRect(...place);
    }
  }

  /** Zoom by a factor, about the middle or about a place in [0, 1]. */
  scale(factor, about = null) {
    const now = this.zoom ?? { factor: 1, x: 0.5, y: 0.5 };
    const next = Math.max(1, Math.min(64, now.factor * factor));
    if (next === 1) {
      this.zoom = null;
    } else {
      const [x, y] = about ?? [now.x, now.y];
      const part = now.factor / next;
      this.zoom = { factor: next, x: x + (now.x - x) * part, y: y + (now.y - y) * part };
    }
    this.draw();
  }

  /** Move what is seen of a zoomed image by a tenth of it, or by a pixel, and say what is in its
      middle; returns whether it is zoomed. */
  pan(right, down, byPixel) {
    if (!this.zoom) return false;
    const [width, height] = this.sizeOf(this.panes[0]);
    const [across, along] = byPixel ? [1 / width, 1 / height] : [0.1 / this.zoom.factor, 0.1 / this.zoom.factor];
    this.zoom.x = Math.max(0, Math.min(1, this.zoom.x + right * across));
    this.zoom.y = Math.max(0, Math.min(1, this.zoom.y + down * along));
    this.draw();
    this.readMiddle();
    return true;
  }

  /** Say what is in the middle of what is seen. */
  readMiddle() {
    const [pane] = this.panes;
    const [width, height] = this.sizeOf(pane);
    const { x, y } = this.zoom ?? { x: 0.5, y: 0.5 };
    this.readAt(pane, Math.min(x * width, width - 1), Math.min(y * height, height - 1));
  }

  place(pane, event) {
    const box = pane.canvas.getBoundingClientRect();
    const ratio = pane.canvas.width / box.width;
    const { zoom, left, top, width, height } = this.view(pane);
    return { x: ((event.clientX - box.left) * ratio - left) / zoom, y: ((event.clientY - box.top) * ratio - top) / zoom, width, height, zoom, ratio };
  }

  listen(pane) {
    const { canvas } = pane;
    const held = new Map();
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const { x, y, width, height } = this.place(pane, event);
      this.scale(event.deltaY < 0 ? 1.2 : 1 / 1.2, [x / width, y / height]);
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      held.set(event.pointerId, event);
      this.read(pane, event);
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (event) => held.delete(event.pointerId));
    canvas.addEventListener("pointermove", (event) => {
      const { width, height, zoom, ratio } = this.place(pane, event);
      const before = held.get(event.pointerId);
      const other = before && [...held.values()].find((each) => each.pointerId !== event.pointerId);
      if (other) {
        // Two fingers: what is between them stays there.
        const apart = (each) => Math.hypot(each.clientX - other.clientX, each.clientY - other.clientY);
        const between = this.place(pane, { clientX: (event.clientX + other.clientX) / 2, clientY: (event.clientY + other.clientY) / 2 });
        this.scale(apart(event) / Math.max(1, apart(before)), [between.x / width, between.y / height]);
      } else if (before && this.zoom) {
        this.zoom.x -= ((event.clientX - before.clientX) * ratio) / zoom / width;
        this.zoom.y -= ((event.clientY - before.clientY) * ratio) / zoom / height;
        this.draw();
      }
      if (before) held.set(event.pointerId, event);
      this.read(pane, event);
    });
    canvas.addEventListener("dblclick", () => (this.zoom ? this.fit() : this.scale(4)));
  }

  /** Say what is under the pointer. */
  read(pane, event) {
    const { x, y } = this.place(pane, event);
    this.readAt(pane, x, y);
  }

  readAt(pane, x, y) {
    const [width, height] = this.sizeOf(pane);
    const [column, row] = [Math.floor(x), Math.floor(y)];
    if (column < 0 || row < 0 || column >= width || row >= height) return;
    const parts = [`x ${column}, y ${row}`];
    if (pane.pixels) {
      const [red, green, blue] = pane.pixels.getImageData(column, row, 1, 1).data;
      parts.push(`RGB ${red} ${green} ${blue}`);
    }
    const masked = pane.mask ? pane : this.panes.find((each) => each.mask && this.sizeOf(each)[0] === width && this.sizeOf(each)[1] === height);
    if (masked && masked.mask.width === width && masked.mask.height === height) {
      const entry = masked.labels[masked.mask.numbers[row * width + column] - 1];
      if (entry) parts.push(`label ${entry.label}${entry.label_name === entry.class.name ? "" : ` ${entry.label_name}`}: ${entry.class.name}`);
    }
    this.readout.textContent = parts.join(" · ");
  }
}
