// Upstreams, routes, and the clients with most streams: short tables of the summary.

import { each, find, make, mark, say } from "./dom.js";
import * as format from "./format.js";
import { lasting, showState, verdicts } from "./health.js";
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
    each(body, rows, () => this.#row(), ({ children }, row) => this.#columns.forEach((column, n) => {
      const cell = children[n];
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

function fillState(cell, { verdict }) {
  // What came with a reload is judged a second later.
  showState(cell, verdict?.state ?? "unknown", verdict?.state ?? "–");
}

function fillUpstreamState(cell, row) {
  const { verdict, answered, failed } = row;
  if (verdict === undefined) fillState(cell, row);
  // Nobody has found out otherwise, which is all that it means.
  else if (verdict.state === "healthy" && answered + failed === 0) showState(cell, verdict.state, "not asked yet");
  else showState(cell, verdict.state, `${verdict.state} ${lasting(verdict.since_s)}`);
}

function failures({ failed, last_failure: last }) {
  return last === null ? format.count(failed) : `${format.count(failed)}, last: ${last}`;
}

export class Lists {
  #upstreams = new List(find("#upstreams"), [
    { title: "Upstream", class: "name", isLong: true, text: (row) => plain(row.url) },
    { title: "State", fill: fillUpstreamState },
    { title: "Answered", class: "number", text: (row) => format.count(row.answered) },
    { title: "Failed", class: "name", isLong: true, text: failures },
  ], "No upstream.");
  #routes = new List(find("#routes"), [
    { title: "Route", class: "name", isLong: true, text: (row) => row.path },
    { title: "State", fill: fillState },
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

  show({ health, upstreams, routes, top_clients: clients, streams }) {
    const [ofUpstreams, ofRoutes] = [verdicts(health, "upstream"), verdicts(health, "route")];
    this.#upstreams.show(upstreams.map((upstream) => ({ ...upstream, verdict: ofUpstreams.get(upstream.url) })));
    this.#routes.show(routes.map((route) => ({ ...route, verdict: ofRoutes.get(route.path) })));
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
