// A table of any length of which only the rows in view exist.

import { make, mark, say } from "./dom.js";

/** Rows above and below those in view. */
const MARGIN = 8;

/**
 * `columns` is a list of `{ name, title, key, text, class, fill }`: `key` sorts by it, `text` says what
 * stands in a cell, `fill` puts something else there. Calls `look` when other rows come into view.
 */
export class Rows {
  #scroller;
  #columns;
  #body = make("tbody");
  #above = spacer();
  #below = spacer();
  #slots = [];
  #height = 0;
  #total = 0;
  #offset = 0;
  #rows = [];
  #first = 0;
  #look;

  constructor(scroller, table, columns, { look = () => {}, sort = null } = {}) {
    this.#scroller = scroller;
    this.#columns = columns;
    this.#look = look;
    this.table = table;
    const heads = columns.map((column) => this.#head(column, sort));
    table.append(
      make("colgroup", {}, ...columns.map((column) => make("col", { class: column.class }))),
      make("thead", {}, make("tr", { "aria-rowindex": 1 }, ...heads)),
      this.#body,
    );
    this.#body.append(this.#above, this.#below);
    let asked = false;
    scroller.addEventListener("scroll", () => {
      if (asked) return;
      asked = true;
      requestAnimationFrame(() => {
        asked = false;
        this.#scrolled();
      });
    }, { passive: true });
    new ResizeObserver(() => this.#fit()).observe(scroller);
  }

  #head({ title, key, class: kind }, sort) {
    const label = title === "" ? "What to do" : null;
    if (!key || sort === null) return make("th", { scope: "col", class: kind, "aria-label": label }, title);
    const button = make("button", { type: "button", "data-key": key }, title);
    button.addEventListener("click", () => sort(key));
    return make("th", { scope: "col", class: kind, "aria-sort": "none" }, button);
  }

  showSort(key, order) {
    for (const button of this.table.querySelectorAll("thead button")) {
      const now = button.dataset.key === key ? (order === "asc" ? "ascending" : "descending") : "none";
      mark(button.parentElement, "aria-sort", now);
    }
  }

  /** The first row in view and how many there are, with a margin to scroll into. */
  window() {
    const offset = Math.max(0, this.#first - this.#slots.length);
    return { offset, limit: this.#first + 2 * this.#slots.length - offset };
  }

  toTop() {
    this.#scroller.scrollTop = 0;
    this.#first = 0;
  }

  /** Of `total` rows these, the first of which is number `offset`. */
  set(total, offset, rows) {
    this.#total = total;
    this.#offset = offset;
    this.#rows = rows;
    mark(this.table, "aria-rowcount", String(total + 1));
    this.#fit();
  }

  #fit() {
    if (this.#height === 0) this.#height = parseFloat(getComputedStyle(this.table).getPropertyValue("--row"));
    const fits = Math.ceil(this.#scroller.clientHeight / this.#height) + 2 * MARGIN;
    const slots = Math.min(fits, this.#total);
    while (this.#slots.length < slots) this.#addSlot();
    while (this.#slots.length > slots) this.#slots.pop().row.remove();
    this.#first = this.#firstInView();
    this.#draw();
  }

  #addSlot() {
    const cells = this.#columns.map((column) => make(column.isHead ? "th" : "td", {
      class: column.class,
      scope: column.isHead ? "row" : null,
    }));
    const row = make("tr", {}, ...cells);
    const slot = { row, cells, shown: undefined };
    this.#columns.forEach((column, n) => column.prepare?.(cells[n], () => slot.shown));
    this.#slots.push(slot);
    this.#below.before(row);
  }

  #firstInView() {
    const first = Math.floor(this.#scroller.scrollTop / this.#height) - MARGIN;
    return Math.max(0, Math.min(first, this.#total - this.#slots.length));
  }

  #scrolled() {
    const first = this.#firstInView();
    if (first === this.#first) return;
    this.#first = first;
    this.#draw();
    this.#look();
  }

  #draw() {
    this.#slots.forEach((slot, n) => this.#fill(slot, this.#first + n));
    const below = this.#total - this.#first - this.#slots.length;
    stretch(this.#above, this.#first * this.#height);
    stretch(this.#below, Math.max(0, below) * this.#height);
  }

  #fill(slot, index) {
    const row = this.#rows[index - this.#offset];
    slot.shown = row;
    mark(slot.row, "aria-rowindex", String(index + 2));
    slot.row.classList.toggle("odd", index % 2 === 1);
    slot.row.classList.toggle("waiting", row === undefined);
    this.#columns.forEach((column, n) => {
      if (column.fill) column.fill(slot.cells[n], row);
      else say(slot.cells[n], row === undefined ? "" : column.text(row));
      // What does not fit is to be seen by pointing at it.
      if (column.isLong) mark(slot.cells[n], "title", slot.cells[n].textContent);
    });
  }
}

function spacer() {
  return make("tr", { class: "spacer", "aria-hidden": "true" }, make("td"));
}

function stretch(row, height) {
  const size = `${height}px`;
  if (row.firstChild.style.height !== size) row.firstChild.style.height = size;
}
