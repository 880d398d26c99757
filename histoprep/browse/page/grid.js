// The grid: of any number of tiles only those in sight are in the page.
import { complain, get, thumbnailOf } from "./api.js";
import { byId, count, element, plural, swatch } from "./dom.js";
import { fetchNumbers, overlayOf, paint } from "./masks.js";
import { query, settings } from "./state.js";

const PAGE = 100;
const MOST_PAGES = 40;
// Browsers cut elements off at some 33 million pixels.
const TALLEST = 8_000_000;
const CAPTION_PX = 40;
const GAP_PX = 8;

export class Grid {
  /** `about` describes the set; `open(index)` shows a tile at full size. */
  constructor(about, open) {
    this.about = about;
    this.open = open;
    this.place = byId("grid");
    this.extent = this.place.querySelector(".extent");
    this.pane = this.place.querySelector(".pane");
    this.entries = about.classes.map((cls) => ({ colour: cls.colour, key: cls.id, plain: cls.id === 0 }));
    this.cards = new Map();
    this.current = 0;
    this.position = 0;
    this.lastTop = 0;
    this.reset(true);
    this.place.addEventListener("scroll", () => this.scrolled(), { passive: true });
    new ResizeObserver(() => this.layout()).observe(this.place);
  }

  /** Forget what was loaded; `whole` also goes to the first tile. */
  reset(whole) {
    this.pages = new Map();
    this.parameters = query();
    this.serial = (this.serial || 0) + 1;
    if (whole) {
      this.total = 0;
      this.current = 0;
      this.position = 0;
      this.lastTop = 0;
      this.place.scrollTop = 0;
    }
    for (const card of this.cards.values()) card.remove();
    this.cards.clear();
  }

  async reload({ keepPlace = false } = {}) {
    const held = this.place.contains(document.activeElement);
    this.reset(!keepPlace);
    try {
      await this.page(keepPlace ? Math.floor(this.current / PAGE) : 0);
    } catch (error) {
      this.total = 0;
      complain(error);
    }
    byId("count").textContent = `${plural(this.total, "tile")}${this.total === this.about.num_tiles ? "" : ` of ${count(this.about.num_tiles)}`}`;
    byId("nothing").hidden = this.total > 0;
    this.current = Math.max(0, Math.min(this.current, this.total - 1));
    this.layout();
    // The tile that had the focus is another element now.
    if (held) this.cards.get(this.current)?.firstElementChild.focus({ preventScroll: true });
  }

  /** Return the tiles of a page, asked for once. */
  page(number) {
    if (!this.pages.has(number)) {
      const serial = this.serial;
      const asked = get("tiles", [...this.parameters, ["offset", number * PAGE], ["limit", PAGE]]).then((answer) => {
        if (serial === this.serial) this.total = answer.total;
        return answer.tiles;
      });
      asked.catch(() => this.pages.delete(number));
      this.pages.set(number, asked);
      if (this.pages.size > MOST_PAGES) this.pages.delete(this.pages.keys().next().value);
    }
    return this.pages.get(number);
  }

  /** Return the tile at a place of the order, or undefined behind the last. */
  async tile(index) {
    const tiles = await this.page(Math.floor(index / PAGE));
    return tiles[index % PAGE];
  }

  get numSets() {
    return settings.beside ? 1 + this.about.others.length : 1;
  }

  layout() {
    if (!this.place.clientWidth) return;
    const shown = this.numSets > 1 ? this.numSets + 1 : 1;
    const width = this.place.clientWidth;
    const narrow = width < 480 ? Math.min(settings.size, 112) : settings.size;
    const least = Math.min(narrow * shown, width - GAP_PX);
    this.columns = Math.max(1, Math.floor((width + GAP_PX) / (least + GAP_PX)));
    this.cardWidth = Math.floor((width - (this.columns - 1) * GAP_PX) / this.columns);
    this.rowHeight = Math.ceil(this.cardWidth / shown) + CAPTION_PX + GAP_PX;
    this.numRows = Math.ceil(this.total / this.columns);
    this.full = this.numRows * this.rowHeight;
    this.tall = Math.min(this.full, TALLEST);
    this.extent.style.setProperty("height", `${this.tall}px`);
    for (const card of this.cards.values()) card.remove();
    this.cards.clear();
    this.position = Math.max(0, Math.min(this.position, this.full - this.place.clientHeight));
    this.draw();
  }

  scrolled() {
    const top = this.place.scrollTop;
    const moved = top - this.lastTop;
    const height = this.place.clientHeight;
    this.lastTop = top;
    if (this.full <= this.tall) this.position = top;
    else if (top <= 0) this.position = 0;
    else if (top >= this.tall - height) this.position = this.full - height;
    // Small steps move as far as the hand did, a dragged bar to the share of the way.
    else if (Math.abs(moved) < 2 * height) this.position = Math.max(0, Math.min(this.full - height, this.position + moved));
    else this.position = (top / (this.tall - height)) * (this.full - height);
    this.draw();
  }

  /** Put cards in sight and take others out; what they show is loaded when scrolling rests. */
  draw() {
    const height = this.place.clientHeight;
    const first = Math.max(0, Math.floor(this.position / this.rowHeight) - 1);
    const last = Math.min(this.numRows - 1, Math.ceil((this.position + height) / this.rowHeight) + 1);
    const start = first * this.columns;
    const end = Math.min(this.total, (last + 1) * this.columns);
    for (const [index, card] of this.cards) {
      if (index < start || index >= end) {
        card.remove();
        this.cards.delete(index);
      }
    }
    const shift = this.place.scrollTop - this.position;
    for (let index = start; index < end; index += 1) {
      let card = this.cards.get(index);
      if (!card) {
        card = this.emptyCard(index);
        this.cards.set(index, card);
        this.pane.append(card);
      }
      const row = Math.floor(index / this.columns);
      const left = (index % this.columns) * (this.cardWidth + GAP_PX);
      card.style.setProperty("transform", `translate(${left}px, ${row * this.rowHeight + shift}px)`);
    }
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.fill(), 40);
  }

  emptyCard(index) {
    const button = element("button", { type: "button", class: "tile", tabindex: index === this.current ? "0" : "-1", onclick: () => this.choose(index, true), onfocus: () => this.choose(index, false) });
    const card = element("li", { class: "card", "aria-setsize": this.total, "aria-posinset": index + 1, data: { index } }, button);
    card.style.setProperty("width", `${this.cardWidth}px`);
    card.style.setProperty("height", `${this.rowHeight - GAP_PX}px`);
    return card;
  }

  async fill() {
    const serial = this.serial;
    const waiting = [...this.cards].filter(([, card]) => !card.dataset.filled);
    for (const number of new Set(waiting.map(([index]) => Math.floor(index / PAGE)))) {
      let tiles;
      try {
        tiles = await this.page(number);
      } catch (error) {
        complain(error);
        return;
      }
      if (serial !== this.serial) return;
      for (const [index, card] of this.cards) {
        if (Math.floor(index / PAGE) === number && !card.dataset.filled && tiles[index % PAGE]) this.show(card, tiles[index % PAGE], index);
      }
    }
  }

  show(card, tile, index) {
    card.dataset.filled = "yes";
    card.classList.toggle("dropped", tile.dropped);
    const button = card.firstElementChild;
    const words = [tile.name, tile.group, tile.split, tile.dropped && "dropped", ...tile.tags.map((tag) => `tag ${tag}`), tile.findings.length && plural(tile.findings.length, "finding")];
    button.setAttribute("aria-label", words.filter(Boolean).join(", "));
    button.setAttribute("aria-current", index === this.current ? "true" : "false");
    const images = element("span", { class: "images" }, this.images(tile));
    const worst = ["error", "warning", "info"].find((name) => tile.findings.some((key) => this.about.severities.get(key) === name));
    const caption = element(
      "span",
      { class: "caption" },
      element("span", { class: "name" }, element("bdi", {}, tile.name)),
      element(
        "span",
        { class: "facts" },
        tile.classes.slice(0, 6).map(([place]) => swatch(this.about.classes[place].colour)),
        worst && element("span", { class: `severity ${worst}` }, count(tile.findings.length)),
        tile.tags.map((tag) => element("span", { class: "chip" }, tag)),
        tile.dropped && element("span", { class: "chip drop" }, "dropped"),
        tile.split && element("span", { class: "split" }, tile.split),
      ),
    );
    button.replaceChildren(images, caption);
  }

  images(tile) {
    // Where the mask stands beside, nothing covers the images that are compared.
    const isAlone = this.numSets === 1;
    const own = this.figure(0, tile.row, tile.has_image, tile.has_mask && (isAlone || !tile.has_image), isAlone ? "" : this.about.name);
    if (isAlone) return [own];
    const others = this.about.others.map((other, at) =>
      tile.beside[at] === null ? element("span", { class: "image missing" }, "none") : this.figure(at + 1, tile.beside[at], true, false, other.name),
    );
    const mask = tile.has_mask ? this.figure(0, tile.row, false, true, "mask") : element("span", { class: "image missing" }, "no mask");
    return [own, ...others, mask];
  }

  figure(set, row, hasImage, hasMask, title) {
    const place = element("span", { class: "image", title: title || null });
    if (hasImage) {
      const image = element("img", { src: thumbnailOf(set, row), alt: "", decoding: "async" });
      image.addEventListener("error", () => image.replaceWith(element("span", { class: "missing" }, "unreadable")));
      place.append(image);
    }
    if (hasMask) {
      const canvas = element("canvas", { "aria-hidden": "true", data: { set, row, alone: hasImage ? "" : "yes" } });
      place.append(canvas);
      this.overlay(canvas);
    }
    return place;
  }

  async overlay(canvas) {
    const { set, row, alone } = canvas.dataset;
    if (!alone && settings.opacity === 0 && !settings.outlines) {
      canvas.width = 0;
      return;
    }
    const mask = await fetchNumbers(overlayOf(set, row)).catch(() => null);
    if (mask) paint(canvas, mask, this.entries, { ...settings, alone: Boolean(alone) });
    else if (alone) canvas.replaceWith(element("span", { class: "missing" }, "no mask"));
  }

  /** Paint the overlays again, after a setting changed. */
  repaint() {
    for (const canvas of this.pane.querySelectorAll("canvas")) this.overlay(canvas);
  }

  /** Make a tile the current one; `opens` also shows it at full size. */
  choose(index, opens) {
    if (index < 0 || index >= this.total) return;
    const before = this.cards.get(this.current);
    if (before) {
      before.firstElementChild.tabIndex = -1;
      before.firstElementChild.setAttribute("aria-current", "false");
    }
    this.current = index;
    const card = this.cards.get(index);
    if (card) {
      card.firstElementChild.tabIndex = 0;
      card.firstElementChild.setAttribute("aria-current", "true");
    }
    if (opens) this.open(index);
  }

  /** Return the place `by` tiles from the current one; from one out of sight, the first in sight. */
  beside(by) {
    const first = Math.ceil(this.position / this.rowHeight) * this.columns;
    const place = this.cards.has(this.current) ? this.current + by : first;
    return Math.max(0, Math.min(this.total - 1, place));
  }

  /** Move to another tile, and scroll to it. */
  go(index) {
    if (index < 0 || index >= this.total) return;
    const top = Math.floor(index / this.columns) * this.rowHeight;
    const height = this.place.clientHeight;
    if (top < this.position || top + this.rowHeight > this.position + height) {
      this.position = Math.max(0, Math.min(this.full - height, top < this.position ? top : top + this.rowHeight - height));
      const target = this.full <= this.tall ? this.position : (this.position / Math.max(1, this.full - height)) * (this.tall - height);
      this.place.scrollTop = target;
      this.lastTop = this.place.scrollTop;
      this.draw();
    }
    this.choose(index, false);
    this.cards.get(index)?.firstElementChild.focus({ preventScroll: true });
  }
}
