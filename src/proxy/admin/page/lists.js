// Upstreams, routes, and the clients with most streams: short tables of the summary.

import { find, make, mark, say } from "./dom.js";
import * as format from "./format.js";
import { plain } from "./streams.js";

/** A table that is filled anew each second, and touches only what is new. */
class List {
  #columns;
  #body = make("tbody");
  #empty;

  constructor(table, columns, empty) {
    this.#columns = columns;
    this.#empty = empty;
    const heads = columns.map(({ title, class: kind }) => make("th", { scope: "col", class: kind }, title));
    table.append(make("thead", {}, make("tr", {}, ...heads)), this.#body);
  }

  show(rows) {
    const body = this.#body;
    if (rows.length === 0) {
      if (find(".empty", body) === null) {
        body.replaceChildren(make("tr", {}, make("td", { class: "empty", colspan: this.#columns.length }, this.#empty)));
      }
      return;
    }
    find(".empty", body)?.parentElement.remove();
    while (body.children.length > rows.length) body.lastChild.remove();
    while (body.children.length < rows.length) body.append(this.#row());
    rows.forEach((row, n) => this.#columns.forEach((column, m) => {
      const cell = body.children[n].children[m];
      cell.row = row;
      if (column.fill) column.fill(cell, row);
      else say(cell, column.text(row));
      if (column.isLong) mark(cell, "title", cell.textContent);
    }));
  }

  #row() {
    return make("tr", {}, ...this.#columns.map((column, n) => {
      const cell = make(n === 0 ? "th" : "td", { class: column.class, scope: n === 0 ? "row" : null });
      column.prepare?.(cell);
      return cell;
    }));
  }
}

function fillHealth(cell, { reachable, since_s: since, answered }) {
  const text = !reachable ? "✕ down" : answered > 0 ? "✓ up" : "✓ not asked yet";
  say(cell, since > 0 && (answered > 0 || !reachable) ? `${text} for ${format.age(since * 1000)}` : text);
  cell.className = reachable ? "good" : "bad";
}

function failures({ failed, last_failure: last }) {
  return last === null ? format.count(failed) : `${format.count(failed)}, last: ${last}`;
}

export class Lists {
  #upstreams = new List(find("#upstreams"), [
    { title: "Upstream", class: "name", isLong: true, text: (row) => plain(row.url) },
    { title: "State", fill: fillHealth },
    { title: "Answered", class: "number", text: (row) => format.count(row.answered) },
    { title: "Failed", class: "name", isLong: true, text: failures },
  ], "No upstream.");
  #routes = new List(find("#routes"), [
    { title: "Route", class: "name", isLong: true, text: (row) => row.path },
    { title: "Live", class: "number", text: (row) => format.count(row.numbers.active) },
    { title: "Rejected", class: "number", text: (row) => format.count(row.numbers.rejected) },
    { title: "Events", class: "number", text: (row) => format.count(row.numbers.events) },
    { title: "Gap p99", class: "number", text: (row) => format.duration(row.numbers.gap_p99_ms) },
  ], "No route.");
  #clients;

  /** `choose` is called with the client of which the operator wants to see the streams. */
  constructor(choose) {
    this.#clients = new List(find("#clients"), [
      { title: "Client", class: "name", prepare: (cell) => prepareClient(cell, choose), fill: fillClient },
      { title: "Streams", class: "number", text: (row) => format.count(row.streams) },
      { title: "Share", class: "share", prepare: prepareShare, fill: fillShare },
    ], "No client has a stream.");
  }

  show({ upstreams, routes, top_clients: clients, streams }) {
    this.#upstreams.show(upstreams);
    this.#routes.show(routes);
    this.#clients.show(clients.map((client) => ({ ...client, share: client.streams / Math.max(1, streams.active) })));
  }
}

function prepareClient(cell, choose) {
  const button = make("button", { type: "button", class: "link" });
  button.addEventListener("click", () => choose(cell.row.client));
  cell.append(button);
}

function fillClient(cell, { client }) {
  say(cell.firstChild, client);
  mark(cell.firstChild, "aria-label", `Show the streams of ${client}`);
}

function prepareShare(cell) {
  cell.append(make("meter", { min: 0, max: 1, "aria-hidden": "true" }), make("span"));
}

function fillShare(cell, { share }) {
  const [meter, text] = cell.children;
  meter.value = share;
  say(text, share < 0.005 ? "< 1 %" : `${Math.min(100, Math.round(share * 100))} %`);
}
