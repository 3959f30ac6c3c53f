// The page's line to the proxy: one event stream, kept up, with an eye on how old the last word is.

import { Unauthorized, events } from "./api.js";

/** A tick comes each second. */
const LATE = 3_500;
/** Whoever is silent for so long is asked anew. */
const DEAD = 10_000;
const FIRST_DELAY = 500;
const LONGEST_DELAY = 15_000;
/** A browser opens six connections to a host at most: pages that nobody looks at leave theirs. */
const HIDDEN = 30_000;

/**
 * Dispatches `open` before the first tick of each connection, `tick` (detail: what came), `unauthorized`, and
 * `state` whenever `state()` may tell something new.
 */
export class Feed extends EventTarget {
  #connection = null;
  #attempt = 0;
  #timer = null;
  #retryAt = null;
  #lastTick = null;
  #failed = false;
  #hidden = null;

  start() {
    this.#connect();
    setInterval(() => this.#watch(), 500);
    window.addEventListener("online", () => this.retry());
    document.addEventListener("visibilitychange", () => this.#look());
  }

  /** Connects now, whatever was planned. */
  retry() {
    this.#attempt = 0;
    this.#connect();
  }

  /** Whether it lives, for how many milliseconds it has told nothing, and when it tries again. */
  state() {
    const now = performance.now();
    const silent = this.#lastTick === null ? null : now - this.#lastTick;
    return {
      live: !this.#failed && silent !== null && silent < LATE,
      lost: this.#failed || (silent !== null && silent >= LATE),
      silent,
      retryIn: this.#retryAt === null ? null : Math.max(0, this.#retryAt - now),
    };
  }

  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  async #connect() {
    clearTimeout(this.#timer);
    this.#connection?.abort();
    const connection = new AbortController();
    this.#connection = connection;
    this.#retryAt = null;
    let opened = performance.now();
    let told = false;
    let retry = null;
    let failed = true;
    const silence = setInterval(() => {
      if (performance.now() - opened > DEAD) connection.abort();
    }, 1000);
    try {
      for await (const event of events("api/live", connection.signal)) {
        if (this.#connection !== connection) return;
        if (event.event === "retry") {
          retry = event.retry;
        } else if (event.event === "tick") {
          opened = this.#lastTick = performance.now();
          this.#attempt = 0;
          this.#failed = false;
          const tick = JSON.parse(event.data);
          if (!told) this.#tell("open", tick);
          told = true;
          this.#tell("tick", tick);
        }
      }
      // A stream that ends with a hint when to come back was only rotated.
      failed = retry === null;
    } catch (error) {
      if (error instanceof Unauthorized && this.#connection === connection) {
        this.#tell("unauthorized");
        return;
      }
    } finally {
      clearInterval(silence);
    }
    if (this.#connection === connection && this.#hidden !== "left") this.#later(failed, retry);
  }

  #later(failed, retry) {
    this.#failed = failed;
    const backoff = Math.min(LONGEST_DELAY, FIRST_DELAY * 1.7 ** this.#attempt);
    this.#attempt += 1;
    // Pages that lost the same proxy should not come back in the same instant.
    const delay = failed ? backoff * (0.7 + 0.6 * Math.random()) : retry;
    this.#retryAt = performance.now() + delay;
    this.#timer = setTimeout(() => this.#connect(), delay);
    this.#tell("state");
  }

  #watch() {
    if (!document.hidden) this.#tell("state");
  }

  #look() {
    if (document.hidden) {
      this.#hidden = setTimeout(() => {
        this.#hidden = "left";
        clearTimeout(this.#timer);
        this.#connection?.abort();
      }, HIDDEN);
    } else {
      const left = this.#hidden === "left";
      clearTimeout(this.#hidden);
      this.#hidden = null;
      if (left) this.retry();
    }
  }
}
