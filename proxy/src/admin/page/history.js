// The last quarter of an hour, second by second: from the proxy's memory first, then tick by tick.

import { ask } from "./api.js";

/** Seconds that are shown. */
export const SPAN = 900;

export class History {
  seconds = [];

  /** Takes what the proxy remembers. After its restart what the page remembers comes before that. */
  async load() {
    const { seconds } = await ask("api/history");
    const latest = this.seconds.filter((second) => second.time > (seconds.at(-1)?.time ?? 0));
    const first = seconds[0]?.time ?? Infinity;
    const before = this.seconds.filter((second) => second.time < first && !latest.includes(second));
    this.seconds = [...before, ...seconds, ...latest];
    this.#forget();
  }

  add(second) {
    const last = this.seconds.at(-1);
    if (second === null || (last !== undefined && second.time <= last.time)) return;
    this.seconds.push(second);
    this.#forget();
  }

  #forget() {
    const oldest = this.now() - SPAN;
    const keep = this.seconds.findIndex((second) => second.time > oldest);
    this.seconds.splice(0, keep < 0 ? 0 : keep);
  }

  /** When the last second ended, by the proxy's clock. */
  now() {
    return this.seconds.at(-1)?.time ?? Math.floor(Date.now() / 1000);
  }

  /** Seconds from the first of the history to now: no less than half a minute. */
  span() {
    const first = this.seconds[0]?.time ?? this.now();
    return Math.min(SPAN, Math.max(30, this.now() - first + 1));
  }

  /** The seconds that ended less than `span` ago. */
  last(span) {
    const oldest = this.now() - span;
    return this.seconds.filter((second) => second.time > oldest);
  }

  /** The sum of what `value` finds in the last `span` seconds. */
  sum(span, value) {
    return this.last(span).reduce((sum, second) => sum + value(second), 0);
  }
}

export const ended = (second) => Object.values(second.ends).reduce((sum, count) => sum + count, 0);
