// The log of streams that ended: what the proxy remembers, and from then on each as it is told.

import { ask } from "./api.js";
import { find, make, offer, say, settled } from "./dom.js";
import { save, toCsv } from "./export.js";
import * as format from "./format.js";
import { REASONS } from "./overview.js";
import { Rows } from "./rows.js";
import { plain } from "./streams.js";

/** As many as the proxy keeps. */
const KEPT = 1000;
/** If it cannot tell of each, because they are too many. */
const CATCH_UP = 5000;

/** Of the file, in the order in which they are read. */
const FIELDS = [
  "seq", "id", "ended_ms", "reason", "client", "user", "route", "upstream", "age_ms", "events", "bytes",
  "heartbeats", "first_event_ms", "gap_p99_ms", "last_event_id",
];

const TEXTS = ["reason", "client", "user", "route", "upstream", "last_event_id"];

const COLUMNS = [
  { title: "Time", class: "time", text: (row) => format.clock(row.ended_ms) },
  { title: "Id", class: "id number", isHead: true, text: (row) => String(row.id) },
  { title: "Reason", class: "reason", fill: fillReason },
  { title: "Client", class: "client", isLong: true, text: (row) => row.client ?? "–" },
  { title: "Route", class: "route", isLong: true, text: (row) => row.route ?? "–" },
  { title: "Upstream", class: "upstream", isLong: true, text: (row) => plain(row.upstream) },
  { title: "Age", class: "number age", text: (row) => format.age(row.age_ms) },
  { title: "Events", class: "number", text: (row) => format.count(row.events) },
  { title: "Bytes", class: "number", text: (row) => format.bytes(row.bytes) },
  { title: "First event", class: "number ago", text: (row) => format.duration(row.first_event_ms) },
  { title: "Gap p99", class: "number ago", text: (row) => format.duration(row.gap_p99_ms) },
  { title: "Last event id", class: "event-id", isLong: true, text: (row) => row.last_event_id ?? "–" },
];

const colours = new Map(REASONS);

function fillReason(cell, row) {
  if (cell.children.length === 0) cell.append(make("i", { class: "swatch" }), make("span"));
  const [swatch, text] = cell.children;
  swatch.hidden = row === undefined;
  swatch.style.background = row === undefined ? "" : `var(${colours.get(row.reason) ?? "--quiet"})`;
  say(text, row === undefined ? "" : format.words(row.reason));
}

export class Ends {
  #form = find("#end-filters");
  /** The latest first. */
  #ends = [];
  #shown = [];
  #count = 0;
  #rows;
  #catchUp = null;

  constructor() {
    this.#rows = new Rows(find("#end-scroller"), find("#end-table"), COLUMNS);
    offer(this.#form.reason, REASONS.map(([name]) => name));
    for (const option of this.#form.reason.options) if (option.value) say(option, format.words(option.value));
    const changed = () => {
      this.#rows.toTop();
      this.#show();
    };
    this.#form.addEventListener("input", settled(changed, 100));
    this.#form.addEventListener("submit", (event) => event.preventDefault());
    this.#form.addEventListener("reset", () => setTimeout(changed));
    find("#csv").addEventListener("click", () => save("ends.csv", "text/csv", toCsv(FIELDS, this.#shown)));
    find("#json").addEventListener("click", () => {
      save("ends.json", "application/json", JSON.stringify(this.#shown, null, 2) + "\n");
    });
  }

  /** Everything anew, from a proxy that may be another one. */
  async load() {
    const told = this.#ends;
    const { count, ends } = await ask(`api/ends?limit=${KEPT}`);
    // What was told while the answer was under way is not in it.
    const later = this.#ends === told ? [] : this.#ends.filter((end) => end.seq > count);
    this.#ends = [...later, ...ends];
    this.#count = Math.max(count, later[0]?.seq ?? 0);
    this.#show();
  }

  /** These have ended, the latest last; `missed` more are not among them. */
  add(ends, missed) {
    if (missed > 0) {
      this.#catchUp ??= setTimeout(() => {
        this.#catchUp = null;
        this.load().catch(() => {});
      }, CATCH_UP);
    }
    if (ends.length === 0) return;
    const last = this.#ends[0]?.seq ?? 0;
    const fresh = ends.filter((end) => end.seq > last).reverse();
    this.#ends = [...fresh, ...this.#ends].slice(0, KEPT);
    this.#count = Math.max(this.#count, this.#ends[0].seq);
    this.#show();
  }

  /** The proxy that told of them is no more; its numbers mean nothing to the next one. */
  forget() {
    this.#ends = [];
    this.#count = 0;
  }

  #matches(end) {
    const reason = this.#form.reason.value;
    const text = this.#form.q.value.trim().toLowerCase();
    if (reason && end.reason !== reason) return false;
    if (!text || String(end.id) === text) return true;
    const mentions = (said) => said !== null && said.toLowerCase().includes(text);
    return mentions(format.words(end.reason)) || TEXTS.some((name) => mentions(end[name]));
  }

  #show() {
    this.#shown = this.#ends.filter((end) => this.#matches(end));
    this.#rows.set(this.#shown.length, 0, this.#shown);
    const [kept, shown] = [this.#ends.length, this.#shown.length];
    const which = shown === kept ? format.plural(kept, "end") : `${format.whole(shown)} of ${format.plural(kept, "end")}`;
    const older = this.#count > kept ? `, the latest of ${format.whole(this.#count)}` : "";
    say(find("#end-count"), which + older);
    const empty = find("#end-empty");
    empty.hidden = shown > 0;
    say(empty, kept > 0 ? "No end is like that." : "No stream has ended so far.");
    for (const button of [find("#csv"), find("#json")]) button.disabled = shown === 0;
  }
}
