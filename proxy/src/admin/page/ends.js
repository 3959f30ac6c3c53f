// The log of streams that ended: what the proxy remembers, and from then on each as it is told.

import { ask } from "./api.js";
import { find, make, offer, say, settled } from "./dom.js";
import { shortReason } from "./explain.js";
import { save, toCsv } from "./export.js";
import * as format from "./format.js";
import { REASONS } from "./overview.js";
import { Rows, fillLines, fillOpen, prepareLines, prepareOpen } from "./rows.js";
import { CLIENT, FAMILY, STREAM } from "./streams.js";

/** As many as the proxy keeps. */
const KEPT = 1000;
/** If it cannot tell of each, because they are too many. */
const CATCH_UP = 5000;

/** Of the file, in the order in which they are read. */
const FIELDS = [
  "seq", "id", "ended_ms", "reason", "fault", "client", "user", "family", "method", "path", "route", "upstream",
  "age_ms", "events", "bytes", "heartbeats", "first_event_ms", "gap_p99_ms", "dropped_bytes", "last_event_id",
];

/** Of `upstream_error`, in few words; the details have the sentence. */
const FAULTS = {
  connection_lost: "connection failed",
  truncated: "truncated response",
  no_last_event: "without its last event",
  framing: "malformed chunks",
  timed_out: "connection timed out",
  refused: "not an event stream",
  other: "response failed",
};

const TEXTS = ["reason", "cause", "client", "user", "family", "path", "route", "upstream", "last_event_id"];

const lines = (fill) => ({ prepare: prepareLines, fill: (cell, row) => fillLines(cell, ...(row === undefined ? ["", ""] : fill(row))) });

const COLUMNS = [
  { title: "Ended", also: { title: format.zone() }, class: "time", text: (row) => format.clock(row.ended_ms) },
  { title: "Id", class: "id", isHead: true, prepare: prepareOpen, fill: fillOpen },
  { title: "Reason", class: "reason", isLong: true, fill: fillReason },
  { title: "Path", also: { title: "Route" }, ...STREAM },
  { title: "Client", also: { title: "User" }, ...CLIENT },
  { title: "Family", ...FAMILY },
  { title: "Age", class: "number age", text: (row) => format.age(row.age_ms) },
  {
    title: "Events", also: { title: "Bytes" }, class: "number events",
    ...lines((row) => [format.count(row.events), format.bytes(row.bytes)]),
  },
  {
    title: "First event", also: { title: "Gap p99" }, class: "number ago",
    ...lines((row) => [format.duration(row.first_event_ms), format.duration(row.gap_p99_ms)]),
  },
];

const colours = new Map(REASONS);

function fillReason(cell, row) {
  if (cell.children.length === 0) {
    cell.append(make("span", { class: "line" }, make("i", { class: "swatch" }), make("span")), make("span", { class: "line quiet" }));
  }
  const [first, second] = cell.children;
  const [swatch, text] = first.children;
  swatch.hidden = row === undefined;
  swatch.style.background = row === undefined ? "" : `var(${colours.get(row.reason) ?? "--quiet"})`;
  say(text, row === undefined ? "" : format.words(row.reason));
  say(second, row === undefined ? "" : FAULTS[row.fault] ?? shortReason(row.reason));
}

export class Ends {
  #form = find("#end-filters");
  /** The latest first. */
  #ends = [];
  #shown = [];
  #count = 0;
  #rows;
  #catchUp = null;

  /** `open` is called with a row that was clicked. */
  constructor(open) {
    this.#rows = new Rows(find("#end-scroller"), find("#end-table"), COLUMNS, { open });
    offer(this.#form.reason, REASONS.map(([name]) => name));
    for (const option of this.#form.reason.options) if (option.value) say(option, format.words(option.value));
    const changed = () => {
      this.#rows.toTop();
      this.#show();
    };
    this.#form.addEventListener("input", settled(changed, 100));
    this.#form.addEventListener("submit", (event) => event.preventDefault());
    this.#form.addEventListener("reset", () => setTimeout(changed));
    find("#csv").addEventListener("click", () => save("ends.csv", "text/csv", toCsv(FIELDS, this.#shown.map((row) => ({ ...row, method: row.request?.method })))));
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

  /** The end of the stream with this id, if it is known. */
  find(id) {
    return this.#ends.find((end) => end.id === id);
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
    const streams = format.plural(kept, "stream");
    const which = shown === kept ? streams : `${format.whole(shown)} of ${streams}`;
    const older = this.#count > kept ? `, the latest of ${format.whole(this.#count)}` : "";
    say(find("#end-count"), which + older);
    const empty = find("#end-empty");
    empty.hidden = shown > 0;
    say(empty, kept > 0 ? "No ended stream matches the filter." : "No stream has ended yet.");
    for (const button of [find("#csv"), find("#json")]) button.disabled = shown === 0;
  }
}
