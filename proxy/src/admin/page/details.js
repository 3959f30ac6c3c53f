// The details of one stream: what it is, what has passed, and why it ended.

import { Unauthorized, ask } from "./api.js";
import { each, find, make, mark, say } from "./dom.js";
import { endEffect, reader, whyEnded } from "./explain.js";
import * as format from "./format.js";
import { plain } from "./streams.js";

const PERIOD = 1000;
/** Attempts after a stream is gone: the feed reports its end within a second. */
const END_DELAY = 3;

const ago = (milliseconds) => (milliseconds === null || milliseconds === undefined ? "none yet" : `${format.duration(milliseconds)} ago`);

/** Groups of a title and pairs of name and text; what has no text is left out. */
function groups(row) {
  const { request, response } = row;
  const isLive = row.reason === undefined;
  const opened = isLive ? row.opened_ms : row.ended_ms - row.age_ms;
  return [
    ["Request", [
      ["Request line", request ? `${request.method} ${request.path} ${request.version}` : row.path],
      ["Client", row.client],
      ["User", row.user],
      ["User-Agent", request?.user_agent],
      ["Accept", request?.accept],
      ["Last-Event-ID", request?.last_event_id ?? (request ? "none: a new stream" : null)],
      ["Client family", reader(row.family)],
    ]],
    ["Response", [
      ["Route", row.route],
      ["Upstream", plain(row.upstream)],
      ["Status", response?.status === undefined ? null : String(response.status)],
      ["Content-Type", response?.content_type],
      ["Content-Encoding", response?.content_encoding],
      ["Protection", protection(row)],
    ]],
    ["Time", [
      ["Opened", format.moment(opened)],
      ["Ended", isLive ? null : format.moment(row.ended_ms)],
      ["Age", format.age(row.age_ms)],
      ["Time to first event", row.first_event_ms === null ? "no event" : format.duration(row.first_event_ms)],
      ["Gap between events, p99", format.duration(row.gap_p99_ms)],
      ["Last event", isLive ? ago(row.last_event_ms_ago) : null],
      ["Last byte from upstream", isLive ? ago(row.last_byte_ms_ago) : null],
    ]],
    ["Traffic", [
      ["Events", isLive ? `${format.whole(row.events)}, ${format.rate(row.events_per_second)}/s` : format.whole(row.events)],
      ["Bytes", format.bytes(row.bytes)],
      ["Heartbeats sent", format.whole(row.heartbeats)],
      ["Last event id", row.last_event_id ?? "none"],
      ["Held in memory", isLive ? format.bytes(row.held_bytes) : null],
      ["Not yet read by the client", isLive ? format.bytes(row.unsent_bytes) : null],
      ["Dropped with unfinished events", row.dropped_bytes ? format.bytes(row.dropped_bytes) : null],
    ]],
  ];
}

function protection({ opaque, response }) {
  // Of a live stream the response comes with the first answer.
  if (response === undefined || response === null) return opaque ? "none" : null;
  const coding = response.content_encoding;
  if (coding && coding !== "identity" && coding !== "none") return "none: the upstream compresses the stream, so its events cannot be read";
  return response.status === 206 ? "none: the response is a range of bytes" : "full";
}

export class Details {
  #dialog = find("#details");
  #row = null;
  #timer = null;
  #ended;
  #unauthorized;

  /** `end` is called with the row of a stream that is to end; `ended` finds the end of the one with an id. */
  constructor({ end, ended, unauthorized }) {
    this.#ended = ended;
    this.#unauthorized = unauthorized;
    find("#details-close").addEventListener("click", () => this.close());
    this.#dialog.addEventListener("close", () => this.#stop());
    // Its padding is in the content, so only the backdrop is the dialog itself.
    this.#dialog.addEventListener("click", ({ target }) => target === this.#dialog && this.close());
    find("#details-end").addEventListener("click", () => {
      const row = this.#row;
      this.close();
      end(row);
    });
  }

  close() {
    this.#dialog.close();
  }

  showLive(row) {
    this.#open(row);
    this.#follow(row.id, END_DELAY);
  }

  showEnded(row) {
    this.#open(row);
  }

  #stop() {
    clearTimeout(this.#timer);
    this.#row = null;
  }

  #open(row) {
    this.#show(row);
    if (!this.#dialog.open) this.#dialog.showModal();
  }

  async #follow(id, tries) {
    const end = this.#ended(id);
    if (end !== undefined) {
      this.#show(end);
      return;
    }
    try {
      const row = await ask(`api/streams/${id}`);
      if (this.#row?.id !== id) return;
      this.#show(row);
      tries = END_DELAY;
    } catch (error) {
      if (this.#row?.id !== id) return;
      if (error instanceof Unauthorized) {
        this.close();
        this.#unauthorized();
        return;
      }
      if (tries === 0) return;
      tries -= 1;
    }
    this.#timer = setTimeout(() => this.#follow(id, tries), PERIOD);
  }

  #show(row) {
    this.#row = row;
    const isLive = row.reason === undefined;
    say(find("#details-title"), `Stream ${row.id}`);
    const chip = find("#details-state");
    say(chip, isLive ? row.state : `ended: ${format.words(row.reason)}`);
    mark(chip, "data-state", isLive ? (row.state === "open" ? "good" : "degraded") : "unknown");
    const effect = row.reconnects === undefined ? "" : `If you end it: ${endEffect(row)}`;
    say(find("#details-why"), isLive ? effect : whyEnded(row));
    const button = find("#details-end");
    button.hidden = !isLive;
    button.disabled = row.state === "ending";
    each(find("#details-groups"), groups(row), makeGroup, fillGroup);
  }
}

function makeGroup() {
  return make("section", {}, make("h3"), make("dl"));
}

function fillGroup(section, [title, pairs]) {
  say(section.firstChild, title);
  const shown = pairs.filter(([, text]) => text !== null && text !== undefined);
  each(section.lastChild, shown, () => make("div", {}, make("dt"), make("dd")), ({ children }, [name, text]) => {
    say(children[0], name);
    say(children[1], text);
  });
}
