// A table of any length of which only the rows in view exist.

import { make, mark, say } from "./dom.js";

/** As in the style sheets. */
const NARROW = "(max-width: 640px)";
/** Rows above and below those in view. */
const MARGIN = 8;

/**
 * `columns` is a list of `{ title, key, also, text, class, fill }`: `key` sorts by it, `also` is a second
 * line of its head, `text` is what stands in a cell, `fill` puts something else there. Calls `look` when
 * other rows come into view, and `open` with a row that was clicked.
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
  #open;

  constructor(scroller, table, columns, { look = () => {}, sort = null, open = () => {} } = {}) {
    this.#scroller = scroller;
    this.#columns = columns;
    this.#look = look;
    this.#open = open;
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
    // Rows are higher on a narrow screen.
    matchMedia(NARROW).addEventListener("change", () => {
      this.#height = 0;
      this.#fit();
    });
  }

  #head({ title, key, also, class: kind }, sort) {
    const label = title === "" ? "Actions" : null;
    if (!key || sort === null) {
      const lines = also === undefined ? [] : [make("small", {}, also.title)];
      return make("th", { scope: "col", class: kind, "aria-label": label }, title, ...lines);
    }
    const button = (title, key) => {
      const button = make("button", { type: "button", "data-key": key }, title);
      button.addEventListener("click", () => sort(key));
      return button;
    };
    const buttons = [button(title, key)];
    if (also?.key) buttons.push(button(also.title, also.key));
    return make("th", { scope: "col", class: kind, "aria-sort": "none" }, ...buttons);
  }

  showSort(key, order) {
    const now = order === "asc" ? "ascending" : "descending";
    for (const head of this.table.querySelectorAll("thead th[aria-sort]")) mark(head, "aria-sort", "none");
    for (const button of this.table.querySelectorAll("thead button")) {
      const isSorted = button.dataset.key === key;
      mark(button, "data-order", isSorted ? now : "");
      if (isSorted) mark(button.parentElement, "aria-sort", now);
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
    const shown = () => slot.shown;
    this.#columns.forEach((column, n) => column.prepare?.(cells[n], shown, this.#open));
    row.addEventListener("click", ({ target }) => {
      // Text that is being selected is no click on the row.
      if (!target.closest("button") && shown() !== undefined && getSelection().isCollapsed) this.#open(shown());
    });
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
      if (column.isLong) mark(slot.cells[n], "title", hint(slot.cells[n]));
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

function hint(cell) {
  const lines = cell.children.length === 0 ? [cell] : [...cell.children];
  return lines.map((line) => line.textContent).filter(Boolean).join("\n");
}

/** For `prepare`: two lines in a cell. */
export function prepareLines(cell) {
  cell.append(make("span", { class: "line" }), make("span", { class: "line quiet" }));
}

/** For `fill`, after `prepareLines`. */
export function fillLines(cell, first, second = "") {
  say(cell.children[0], first);
  say(cell.children[1], second);
}

/** For `prepare`: a button that opens the row, for those who use the keyboard. */
export function prepareOpen(cell, shown, open) {
  const button = make("button", { type: "button", class: "link" });
  button.addEventListener("click", () => shown() !== undefined && open(shown()));
  cell.append(button);
}

/** For `fill`, after `prepareOpen`. */
export function fillOpen(cell, row) {
  say(cell.firstChild, row === undefined ? "" : String(row.id));
  mark(cell.firstChild, "aria-label", row === undefined ? "" : `Stream ${row.id}, show details`);
}
