// The table of live streams: filtered and sorted by the proxy, which sends the rows in view once a second.

import { Unauthorized, ask, query } from "./api.js";
import { announce, find, make, mark, offer, say, settled } from "./dom.js";
import * as format from "./format.js";
import { Rows } from "./rows.js";

const PAUSE = 1000;

const SIGNS = { connecting: "○", open: "●", resuming: "◐", degraded: "◆", stalled: "▲", ending: "■" };
/** Where the first click asks for the greatest. */
const DESCENDING = new Set(["age", "events", "events_per_second", "bytes", "last_event", "unsent", "heartbeats"]);

const COLUMNS = (end) => [
  { title: "Id", key: "id", class: "id", isHead: true, text: (row) => String(row.id) },
  { title: "State", key: "state", class: "state", fill: fillState },
  { title: "Client", key: "client", class: "client", isLong: true, text: (row) => row.client ?? "–" },
  { title: "User", key: "user", class: "user", isLong: true, text: (row) => row.user ?? "–" },
  { title: "Route", key: "route", class: "route", isLong: true, text: (row) => row.route ?? "–" },
  { title: "Upstream", key: "upstream", class: "upstream", isLong: true, text: (row) => plain(row.upstream) },
  { title: "Age", key: "age", class: "number age", text: (row) => format.age(row.age_ms) },
  { title: "Events", key: "events", class: "number few", text: (row) => format.count(row.events) },
  { title: "Events/s", key: "events_per_second", class: "number rate", text: (row) => format.rate(row.events_per_second) },
  { title: "Bytes", key: "bytes", class: "number", text: (row) => format.bytes(row.bytes) },
  { title: "Last event", key: "last_event", class: "number ago", text: lastEvent },
  { title: "Unsent", key: "unsent", class: "number", text: (row) => format.bytes(row.unsent_bytes) },
  { title: "Last event id", class: "event-id", isLong: true, text: (row) => row.last_event_id ?? "–" },
  { title: "Beats", key: "heartbeats", class: "number beats", text: (row) => format.count(row.heartbeats) },
  { title: "", class: "act", prepare: (cell, shown) => prepareEnd(cell, shown, end), fill: fillEnd },
];

/** Without what is the same in all of them. */
export const plain = (url) => (url === null ? "–" : url.replace(/^https?:\/\//, "").replace(/\/$/, ""));

function lastEvent(row) {
  const ago = row.last_event_ms_ago;
  if (ago === null) return "none yet";
  return ago < 1000 ? "now" : `${format.age(ago)} ago`;
}

function fillState(cell, row) {
  say(cell, row === undefined ? "" : `${SIGNS[row.state] ?? ""} ${row.state}`);
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

  /** `end` is called with the row of a stream that is to end, `unauthorized` if the token is not taken. */
  constructor({ end, unauthorized }) {
    this.unauthorized = unauthorized;
    this.#rows = new Rows(find("#stream-scroller"), find("#stream-table"), COLUMNS(end), {
      look: () => this.#soon(),
      sort: (key) => this.#sortBy(key),
    });
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
    say(this.#pause, this.#isHeld ? "Held: go on" : "Hold still");
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
    if (streams.some((row) => row.user !== null)) find("#stream-table").classList.add("has-users");
    this.#rows.set(matched, offset, streams);
    const all = matched === live;
    const text = all ? format.plural(live, "stream") : `${format.whole(matched)} of ${format.plural(live, "stream")}`;
    say(find("#stream-count"), this.#isHeld ? `${text}, held still` : text);
    const isFiltered = [wanted.q, wanted.route, wanted.upstream, wanted.state, wanted.client].some(Boolean);
    const empty = find("#stream-empty");
    empty.hidden = matched > 0;
    say(empty, isFiltered && live > 0 ? "No live stream is like that." : "No stream is live. The first one shows up here.");
    if (!this.#isTold) announce(text);
    this.#isTold = true;
  }
}
