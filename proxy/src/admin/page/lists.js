// Upstreams, routes, and the clients with most streams: short tables of the summary.

import { each, find, make, mark, say } from "./dom.js";
import * as format from "./format.js";
import { lasting, showState, verdicts } from "./health.js";
import { plain } from "./streams.js";

/** A reason of `/api/summary`, in words. */
const UNGUARDED = {
  encoded: "Compressed",
  partial: "Partial content (206)",
  status: "Error status",
  content_type: "Other Content-Type",
};

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
      const cell = make(n === 0 ? "th" : "td", {
        class: column.class,
        scope: n === 0 ? "row" : null,
        // In place of the head on a narrow screen.
        "data-label": column.title,
      });
      column.prepare?.(cell);
      return cell;
    }));
  }
}

const prepareState = (cell) => cell.append(make("span"));

function fillState(cell, { verdict }) {
  // A route that came with a reload has no verdict until the next second.
  showState(cell.firstChild, verdict?.state ?? "unknown", verdict?.state ?? "–");
}

function fillUpstreamState(cell, row) {
  const { verdict, answered, failed } = row;
  if (verdict === undefined) fillState(cell, row);
  else if (verdict.state === "healthy" && answered + failed === 0) showState(cell.firstChild, "unknown", "no requests yet");
  else showState(cell.firstChild, verdict.state, `${verdict.state} ${lasting(verdict.since_s)}`);
}

/** While it is unreachable, the failure stands under Health. */
function lastFailure({ reachable, failed, last_failure: last }) {
  return failed === 0 || last === null || !reachable ? "–" : last;
}

function fillRouteState(cell, { verdict, upstreamVerdict }) {
  const isDown = upstreamVerdict?.causes.some(({ check }) => check === "reachable");
  if (isDown && verdict?.state !== "failing") showState(cell.firstChild, "failing", "upstream unreachable");
  else fillState(cell, { verdict });
}

function ofResponse({ status, content_type: type, content_encoding: coding }) {
  return [`status ${status}`, type ?? "no Content-Type", coding && `Content-Encoding: ${coding}`].filter(Boolean).join(", ");
}

const count = (text) => (row) => format.count(text(row));

export class Lists {
  #upstreams = new List(find("#upstreams"), [
    { title: "Upstream", class: "wrap", text: (row) => plain(row.url) },
    { title: "State", prepare: prepareState, fill: fillUpstreamState },
    { title: "Answered", class: "number", text: count((row) => row.answered) },
    { title: "Failed", class: "number", text: count((row) => row.failed) },
    { title: "Last failure", class: "wrap", text: lastFailure },
  ], "No upstreams.");
  #routes = new List(find("#routes"), [
    { title: "Route", class: "wrap", text: (row) => row.path },
    { title: "State", prepare: prepareState, fill: fillRouteState },
    { title: "Upstream", class: "wrap", text: (row) => plain(row.upstream) },
    { title: "Live", class: "number", text: count((row) => row.numbers.active) },
    { title: "Waiting", class: "number", text: count((row) => row.numbers.waiting) },
    { title: "Opened", class: "number", text: count((row) => row.numbers.opened) },
    { title: "Rejected", class: "number", text: count((row) => row.numbers.rejected) },
    { title: "Events", class: "number", text: count((row) => row.numbers.events) },
    { title: "First event p99", class: "number", text: (row) => format.duration(row.numbers.first_event_p99_ms) },
    { title: "Gap p99", class: "number", text: (row) => format.duration(row.numbers.gap_p99_ms) },
  ], "No routes.");
  #unguarded = new List(find("#unguarded-table"), [
    { title: "Path", class: "wrap", text: (row) => `${row.request.method} ${row.request.path}` },
    { title: "Route", class: "wrap", text: (row) => row.route },
    { title: "Reason", text: (row) => UNGUARDED[row.reason] ?? row.reason },
    { title: "Response", class: "wrap", text: (row) => ofResponse(row.response) },
    { title: "Count", class: "number", text: count((row) => row.count) },
    { title: `Last (${format.zone()})`, text: (row) => format.clock(row.last_ms) },
    { title: "Remedy", class: "wrap remedy", text: (row) => row.remedy },
  ], "None.");
  #clients;

  /** `choose` is called with the client of which the operator wants to see the streams. */
  constructor(choose) {
    this.#clients = new List(find("#clients"), [
      { title: "Client", class: "wrap", prepare: (cell) => prepareClient(cell, choose), fill: fillClient },
      { title: "Streams", class: "number", text: (row) => format.count(row.streams) },
      { title: "Share", class: "share", prepare: prepareShare, fill: fillShare },
    ], "No live streams.");
  }

  show({ health, upstreams, routes, top_clients: clients, streams, unguarded }) {
    const [ofUpstreams, ofRoutes] = [verdicts(health, "upstream"), verdicts(health, "route")];
    this.#upstreams.show(upstreams.map((upstream) => ({ ...upstream, verdict: ofUpstreams.get(upstream.url) })));
    this.#routes.show(routes.map((route) => ({
      ...route,
      verdict: ofRoutes.get(route.path),
      upstreamVerdict: ofUpstreams.get(route.upstream),
    })));
    this.#clients.show(clients.map((client) => ({ ...client, share: client.streams / Math.max(1, streams.active) })));
    find("#unguarded").hidden = unguarded.length === 0;
    this.#unguarded.show(unguarded);
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
