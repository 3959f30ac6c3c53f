// The table of live streams: filtered and sorted by the proxy, which sends the rows in view once a second.

import { Unauthorized, ask, query } from "./api.js";
import { announce, find, make, mark, offer, say, settled } from "./dom.js";
import { FAMILIES } from "./explain.js";
import * as format from "./format.js";
import { Rows, fillLines, fillOpen, prepareLines, prepareOpen } from "./rows.js";

const PAUSE = 1000;

const SIGNS = { connecting: "○", open: "●", resuming: "◐", degraded: "◆", stalled: "▲", ending: "■" };
/** Where the first click asks for the greatest. */
const DESCENDING = new Set(["age", "events", "events_per_second", "bytes", "last_event", "held", "heartbeats"]);

const lines = (fill) => ({ prepare: prepareLines, fill: (cell, row) => fillLines(cell, ...(row === undefined ? ["", ""] : fill(row))) });

/** Path, and below it which way it goes. */
export const STREAM = {
  class: "stream", isLong: true,
  ...lines((row) => [row.path ?? "–", `route ${row.route ?? "–"} → ${plain(row.upstream)}`]),
};
/** Client, and below it the user if there is one. */
export const CLIENT = { class: "client", isLong: true, ...lines((row) => [row.client ?? "–", row.user ?? ""]) };
export const FAMILY = { class: "family", text: (row) => row.family };

const COLUMNS = (end) => [
  { title: "Id", key: "id", class: "id", isHead: true, prepare: prepareOpen, fill: fillOpen },
  { title: "State", key: "state", class: "state", prepare: prepareLines, fill: fillState },
  { title: "Path", key: "path", also: { title: "Route", key: "route" }, ...STREAM },
  { title: "Client", key: "client", also: { title: "User", key: "user" }, ...CLIENT },
  { title: "Family", key: "family", ...FAMILY },
  { title: "Age", key: "age", class: "number age", text: (row) => format.age(row.age_ms) },
  {
    title: "Events", key: "events", also: { title: "per second", key: "events_per_second" }, class: "number events",
    ...lines((row) => row.opaque ? ["–", "–"] : [format.count(row.events), `${format.rate(row.events_per_second)}/s`]),
  },
  {
    title: "Bytes", key: "bytes", also: { title: "Held", key: "held" }, class: "number bytes",
    ...lines((row) => [format.bytes(row.bytes), row.held_bytes > 0 ? `${format.bytes(row.held_bytes)} held` : ""]),
  },
  {
    title: "Last event", key: "last_event", also: { title: "Heartbeats", key: "heartbeats" }, class: "number ago",
    ...lines((row) => [lastEvent(row), format.plural(row.heartbeats, "heartbeat")]),
  },
  { title: "", class: "act", prepare: (cell, shown) => prepareEnd(cell, shown, end), fill: fillEnd },
];

/** Without what is the same in all of them. */
export const plain = (url) => (url === null ? "–" : url.replace(/^https?:\/\//, "").replace(/\/$/, ""));

function lastEvent(row) {
  const ago = row.last_event_ms_ago;
  if (row.opaque) return "not readable";
  if (ago === null) return "none yet";
  return ago < 1000 ? "now" : `${format.age(ago)} ago`;
}

function fillState(cell, row) {
  const note = row?.opaque ? "not protected" : "";
  fillLines(cell, row === undefined ? "" : `${SIGNS[row.state] ?? ""} ${row.state}`, note);
  mark(cell, "data-state", row?.state ?? "");
}

function prepareEnd(cell, shown, end) {
  const button = make("button", { type: "button", class: "small" }, "End");
  button.addEventListener("click", () => canEnd(shown()) && end(shown()));
  cell.append(button);
}

const canEnd = (row) => row !== undefined && row.state !== "ending";

function fillEnd(cell, row) {
  const button = cell.firstChild;
  // One that is disabled would lose the focus of who has just pressed it.
  mark(button, "aria-disabled", String(!canEnd(row)));
  mark(button, "aria-label", row === undefined ? "End" : `End stream ${row.id}`);
}

export class Streams {
  #form = find("#stream-filters");
  #chip = find("#client-filter");
  #pause = find("#pause");
  #client = "";
  #sort = { sort: "id", order: "desc" };
  #rows;
  #request = null;
  #timer = null;
  #isTold = true;
  #isHeld = false;
  #canAsk = true;

  /** `end` and `open` are called with a row, `unauthorized` if the token is rejected. */
  constructor({ end, open, unauthorized }) {
    this.unauthorized = unauthorized;
    this.#rows = new Rows(find("#stream-scroller"), find("#stream-table"), COLUMNS(end), {
      look: () => this.#soon(),
      sort: (key) => this.#sortBy(key),
      open,
    });
    offer(this.#form.family, FAMILIES);
    this.#rows.showSort(this.#sort.sort, this.#sort.order);
    this.#form.addEventListener("input", settled(() => this.#changed(), 150));
    this.#form.addEventListener("submit", (event) => event.preventDefault());
    // The fields are empty only after the event.
    this.#form.addEventListener("reset", () => setTimeout(() => this.ofClient("")));
    this.#chip.addEventListener("click", () => {
      this.ofClient("");
      this.#form.q.focus();
    });
    this.#pause.addEventListener("click", () => this.#hold());
    document.addEventListener("visibilitychange", () => this.refresh());
  }

  /** Only those of this client. */
  ofClient(client) {
    this.#client = client;
    this.#chip.hidden = client === "";
    say(this.#chip, `Client ${client} ✕`);
    mark(this.#chip, "aria-label", `Show all clients, not just ${client}`);
    this.#changed();
  }

  /** What there is to choose from. */
  offer({ routes, upstreams }) {
    offer(this.#form.route, routes.map((route) => route.path));
    offer(this.#form.upstream, upstreams.map((upstream) => upstream.url));
  }

  /** Asks now, and each second from then on, unless nobody looks. */
  refresh() {
    this.#canAsk = true;
    this.#request?.abort();
    this.#ask();
  }

  /** Not before `refresh` is called. */
  stop() {
    this.#canAsk = false;
    this.#request?.abort();
    clearTimeout(this.#timer);
  }

  #hold() {
    this.#isHeld = !this.#isHeld;
    mark(this.#pause, "aria-pressed", String(this.#isHeld));
    say(this.#pause, this.#isHeld ? "Resume" : "Pause");
    this.refresh();
  }

  #sortBy(key) {
    const first = DESCENDING.has(key) ? "desc" : "asc";
    const other = this.#sort.order === "asc" ? "desc" : "asc";
    this.#sort = { sort: key, order: this.#sort.sort === key ? other : first };
    this.#rows.showSort(key, this.#sort.order);
    this.#changed();
  }

  #changed() {
    this.#isTold = false;
    this.#rows.toTop();
    this.refresh();
  }

  /** Other rows are in view: as soon as the proxy has answered what it was asked. */
  #soon() {
    if (this.#request !== null) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#ask(), 30);
  }

  async #ask() {
    clearTimeout(this.#timer);
    if (!this.#canAsk || document.hidden) return;
    const request = new AbortController();
    this.#request = request;
    const window = this.#rows.window();
    const wanted = {
      ...Object.fromEntries(new FormData(this.#form)),
      q: this.#form.q.value.trim(),
      client: this.#client,
      ...this.#sort,
      ...window,
      limit: Math.max(window.limit, 50),
    };
    try {
      const answer = await ask(query("api/streams", wanted), { signal: request.signal });
      if (this.#request === request) this.#show(answer, wanted);
    } catch (error) {
      if (error instanceof Unauthorized) this.unauthorized();
      // That the proxy is away is told by the feed.
    }
    if (this.#request !== request) return;
    this.#request = null;
    const now = this.#rows.window();
    const moved = now.offset !== window.offset || now.limit !== window.limit;
    const pause = moved ? 30 : PAUSE;
    if (this.#isHeld && !moved) return;
    this.#timer = setTimeout(() => this.#ask(), pause);
  }

  #show({ live, matched, offset, streams }, wanted) {
    this.#rows.set(matched, offset, streams);
    const all = matched === live;
    const text = all ? format.plural(live, "stream") : `${format.whole(matched)} of ${format.plural(live, "stream")}`;
    say(find("#stream-count"), this.#isHeld ? `${text}, paused` : text);
    const isFiltered = [wanted.q, wanted.route, wanted.upstream, wanted.state, wanted.family, wanted.client].some(Boolean);
    const empty = find("#stream-empty");
    empty.hidden = matched > 0;
    say(empty, isFiltered && live > 0 ? "No live stream matches the filter." : "No live streams.");
    if (!this.#isTold) announce(text);
    this.#isTold = true;
  }
}
