// What is on top: the numbers of now with a sparkline each, and the charts.

import { Chart, colour, sizeCanvas } from "./charts.js";
import { announce, find, make, mark, say } from "./dom.js";
import * as format from "./format.js";
import { SPAN, ended } from "./history.js";

/** Seconds of a sparkline. */
const SPARK = 120;
const SPARK_HEIGHT = 28;

const perSecond = (value, text) => (value === null ? text(value) : `${text(value)}/s`);
const lastMinute = (value) => (history) => format.count(history.sum(60, value));
const latest = (history, value) => {
  const second = history.seconds.at(-1);
  return second === undefined ? null : value(second);
};

const TILES = [
  { name: "Live streams", value: (second) => second.active, text: (h, streams) => format.whole(streams.active) },
  { name: "Events", value: (second) => second.events, text: (h) => perSecond(latest(h, (s) => s.events), format.rate) },
  { name: "Bytes", value: (second) => second.bytes, text: (h) => perSecond(latest(h, (s) => s.bytes), format.bytes) },
  { name: "Opened, last minute", value: (second) => second.opened, text: lastMinute((s) => s.opened) },
  { name: "Ended, last minute", value: ended, text: lastMinute(ended) },
  { name: "Rejected, last minute", value: (second) => second.rejected, text: lastMinute((s) => s.rejected) },
];

/** Parts of readiness, in words. */
const PARTS = { listener: "stopping", memory: "memory short", files: "open file descriptors short" };

// What goes wrong stands out from what goes as planned.
export const REASONS = [
  ["client_gone", "--c1"],
  ["upstream_end", "--c2"],
  ["rotated", "--c3"],
  ["drained", "--c4"],
  ["operator", "--c5"],
  ["upstream_idle", "--c6"],
  ["client_stalled", "--c7"],
  ["upstream_error", "--c8"],
  ["shutdown", "--c9"],
  ["panicked", "--c10"],
];

const percentiles = (kind) => [
  { name: "p50", colour: "--c2", value: (second) => second[`${kind}_p50_ms`] },
  { name: "p99", colour: "--c6", value: (second) => second[`${kind}_p99_ms`] },
];

const CHARTS = [
  { title: "Live streams", format: format.count, series: [{ name: "streams", colour: "--c1", value: (s) => s.active }] },
  { title: "Events per second", format: format.rate, series: [{ name: "events/s", colour: "--c2", value: (s) => s.events }] },
  {
    title: "Ends by reason", bars: true, format: format.count,
    series: REASONS.map(([name, colour]) => ({ name: format.words(name), colour, value: (s) => s.ends[name] ?? 0 })),
  },
  { title: "Time between events", log: true, format: format.duration, axis: format.axisTime, series: percentiles("gap") },
  { title: "Time to first event", log: true, format: format.duration, axis: format.axisTime, series: percentiles("first_event") },
  { title: "Rejected requests", bars: true, format: format.count, series: [{ name: "rejected", colour: "--c8", value: (s) => s.rejected }] },
];

export class Overview {
  #history;
  #tiles = TILES.map((tile) => ({ ...tile, number: make("dd"), canvas: make("canvas", { "aria-hidden": "true" }), width: 0, isSeen: true }));
  #charts = CHARTS.map((options) => new Chart(options));

  constructor(history) {
    this.#history = history;
    for (const tile of this.#tiles) {
      const box = make("div", { class: "tile" }, make("dt", {}, tile.name), tile.number, tile.canvas);
      find("#tiles").append(box);
      new ResizeObserver(([{ contentRect }]) => {
        tile.width = contentRect.width;
        this.#spark(tile);
      }).observe(tile.canvas);
      new IntersectionObserver(([{ isIntersecting }]) => {
        tile.isSeen = isIntersecting;
        this.#spark(tile);
      }).observe(tile.canvas);
    }
    find("#chart-grid").append(...this.#charts.map((chart) => chart.element));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  draw() {
    for (const tile of this.#tiles) this.#spark(tile);
    for (const chart of this.#charts) chart.show(this.#history.seconds, this.#history.now(), this.#history.span());
  }

  show(summary) {
    for (const tile of this.#tiles) say(tile.number, tile.text(this.#history, summary.streams));
    say(find("#about"), `version ${summary.version}, up ${format.age(summary.uptime_s * 1000)}`);
    mark(find("#about"), "title", `Started ${format.moment(Date.now() - summary.uptime_s * 1000)}`);
    const shown = format.duration(this.#history.span() * 1000);
    say(find("#charts-title"), `Last ${this.#history.span() >= SPAN ? "15 minutes" : shown}`);
    this.#showReadiness(summary);
    this.draw();
  }

  #showReadiness({ ready, parts }) {
    const chip = find("#readiness");
    const red = Object.entries(parts).filter(([, part]) => !part.ok && !part.tolerated);
    // Which upstream, and why, stands under Health.
    const upstreams = red.filter(([name]) => name.startsWith("upstream ")).length;
    const others = red.filter(([name]) => !name.startsWith("upstream ")).map(([name]) => PARTS[name] ?? name);
    const causes = upstreams > 0 ? [...others, `${format.plural(upstreams, "upstream")} unreachable`] : others;
    const text = ready ? "Ready" : `Not ready: ${causes.join(", ")}`;
    if (chip.textContent !== text && chip.dataset.state !== "unknown") announce(text);
    say(chip, text);
    chip.dataset.state = ready ? "good" : "bad";
    // The config before it holds on, so the proxy is ready all the same.
    const refused = find("#refused");
    refused.hidden = !parts.config?.reason;
    refused.title = parts.config?.reason ?? "";
    chip.title = red.map(([name, part]) => `${name}: ${part.reason}`).join("\n");
  }

  #spark({ canvas, value, width, isSeen }) {
    if (width === 0 || !isSeen) return;
    const context = sizeCanvas(canvas, width, SPARK_HEIGHT);
    const now = this.#history.now();
    const points = this.#history.last(SPARK);
    const max = Math.max(1, ...points.map(value));
    const at = (second) => [
      width * (1 - (now - second.time) / SPARK),
      SPARK_HEIGHT - 2 - (value(second) / max) * (SPARK_HEIGHT - 4),
    ];
    context.strokeStyle = colour("--c1");
    context.lineWidth = 1.5;
    context.beginPath();
    let last = -Infinity;
    for (const second of points) {
      if (second.time - last > 3) context.moveTo(...at(second));
      else context.lineTo(...at(second));
      last = second.time;
    }
    context.stroke();
  }
}
