// Charts on a canvas: lines, or stacked bars, over the time that the history spans.

import { make, mark, say } from "./dom.js";
import { duration } from "./format.js";
import { linear, logarithmic } from "./scale.js";

/** Seconds of a bar. */
const BAR = 15;
const HEIGHT = 132;
const EDGE = { left: 30, right: 8, top: 8, bottom: 18 };
/** Seconds between two labels of the time axis. */
const STEPS = [10, 15, 30, 60, 120, 300];
/** Labels that fit. */
const LABELS = 4;

export function sizeCanvas(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const [real, high] = [Math.round(width * ratio), Math.round(height * ratio)];
  // To set a size clears the canvas and takes memory anew.
  if (canvas.width !== real || canvas.height !== high) {
    canvas.width = real;
    canvas.height = high;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

const known = new Map();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => known.clear());

/** Asked once only: the browser works out all styles anew to answer, if anything has changed. */
function style(name, read) {
  if (!known.has(name)) known.set(name, read());
  return known.get(name);
}

export const colour = (name) =>
  style(name, () => getComputedStyle(document.documentElement).getPropertyValue(name).trim());
const font = () => style("font", () => `11px ${getComputedStyle(document.body).fontFamily}`);

/**
 * `series` is a list of `{ name, colour, value }`, where `value` finds a number, or null, in a second.
 * `bars` sums them up and stacks them, `log` has an axis for percentiles. `format` writes a value, `axis`
 * one of the axis if that differs.
 */
export class Chart {
  #options;
  #canvas = make("canvas", { tabindex: 0, role: "img" });
  #when = make("span", { class: "quiet" });
  #legend = make("ul", { class: "legend" });
  #values = new Map();
  #seconds = [];
  #now = 0;
  #span = 30;
  #left = EDGE.left;
  #cursor = null;
  #isSeen = true;
  #width = 0;

  constructor(options) {
    this.#options = options;
    const title = make("figcaption", {}, make("h3", {}, options.title), this.#when);
    this.element = make("figure", { class: "chart" }, title, this.#canvas, this.#legend);
    for (const series of options.series) this.#addLegend(series);
    const canvas = this.#canvas;
    canvas.addEventListener("pointermove", (event) => this.#point(event.offsetX));
    canvas.addEventListener("pointerleave", () => this.#pointAt(null));
    canvas.addEventListener("blur", () => this.#pointAt(null));
    canvas.addEventListener("keydown", (event) => this.#step(event));
    new ResizeObserver(([{ contentRect }]) => {
      this.#width = contentRect.width;
      this.draw();
    }).observe(canvas);
    new IntersectionObserver(([{ isIntersecting }]) => {
      this.#isSeen = isIntersecting;
      this.draw();
    }).observe(canvas);
  }

  #addLegend(series) {
    const value = make("b");
    const swatch = make("i", { class: "swatch" });
    swatch.style.background = `var(${series.colour})`;
    const item = make("li", {}, swatch, `${series.name} `, value);
    this.#values.set(series, { item, value });
    this.#legend.append(item);
  }

  show(seconds, now, span) {
    this.#now = now;
    this.#span = span;
    this.#seconds = this.#options.bars ? this.#summed(seconds) : seconds;
    this.draw();
  }

  /** In pieces of time that begin at round times, so that bars stand still. */
  #summed(seconds) {
    const bars = new Map();
    for (const second of seconds) {
      const time = Math.ceil(second.time / BAR) * BAR;
      if (!bars.has(time)) bars.set(time, { time, sums: new Map() });
      const { sums } = bars.get(time);
      for (const series of this.#options.series) {
        sums.set(series, (sums.get(series) ?? 0) + series.value(second));
      }
    }
    return [...bars.values()];
  }

  #value(series, second) {
    return this.#options.bars ? second.sums.get(series) : series.value(second);
  }

  #x(time) {
    const width = this.#width - this.#left - EDGE.right;
    return this.#left + (1 - (this.#now - time) / this.#span) * width;
  }

  #point(x) {
    const near = (second) => Math.abs(this.#x(second.time) - x);
    let best = null;
    this.#seconds.forEach((second, n) => {
      if (best === null || near(second) < near(this.#seconds[best])) best = n;
    });
    this.#pointAt(best === null ? null : this.#seconds[best].time);
  }

  #pointAt(time) {
    this.#cursor = time;
    this.draw();
  }

  #step(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: 60, PageDown: -60, Home: -Infinity, End: Infinity };
    if (event.key === "Escape") return this.#pointAt(null);
    if (!(event.key in steps) || this.#seconds.length === 0) return undefined;
    event.preventDefault();
    const last = this.#seconds.length - 1;
    const at = this.#seconds.findIndex((second) => second.time === this.#cursor);
    const next = (at < 0 ? last : at) + steps[event.key];
    return this.#pointAt(this.#seconds[Math.min(last, Math.max(0, next))].time);
  }

  draw() {
    this.#tell();
    if (this.#width === 0 || !this.#isSeen) return;
    const context = sizeCanvas(this.#canvas, this.#width, HEIGHT);
    const scale = this.#scale();
    const bottom = HEIGHT - EDGE.bottom;
    const y = (value) => bottom - scale.at(value) * (bottom - EDGE.top);
    this.#drawAxes(context, scale, y);
    if (this.#options.bars) this.#drawBars(context, y);
    else for (const series of this.#options.series) this.#drawLine(context, series, y);
    if (this.#cursor !== null) {
      const x = Math.round(this.#x(this.#cursor)) + 0.5;
      context.strokeStyle = colour("--text");
      line(context, x, EDGE.top, x, bottom);
    }
  }

  #scale() {
    let [min, max] = [Infinity, 0];
    for (const second of this.#seconds) {
      const values = this.#options.series.map((series) => this.#value(series, second));
      const top = this.#options.bars ? values.reduce((sum, value) => sum + value, 0) : Math.max(...values);
      max = Math.max(max, top);
      for (const value of values) if (value > 0) min = Math.min(min, value);
    }
    return this.#options.log ? logarithmic(min === Infinity ? 1 : min, max) : linear(max, this.#options.least ?? 1);
  }

  #drawAxes(context, scale, y) {
    context.font = font();
    context.lineWidth = 1;
    context.textBaseline = "middle";
    context.textAlign = "right";
    const labels = scale.ticks.map((tick) => (this.#options.axis ?? this.#options.format)(tick));
    const widest = Math.max(...labels.map((label) => context.measureText(label).width));
    this.#left = Math.max(EDGE.left, Math.ceil(widest) + 8);
    scale.ticks.forEach((tick, n) => {
      const at = Math.round(y(tick)) + 0.5;
      context.strokeStyle = colour("--grid");
      line(context, this.#left, at, this.#width - EDGE.right, at);
      context.fillStyle = colour("--quiet");
      context.fillText(labels[n], this.#left - 6, at);
    });
    context.textBaseline = "alphabetic";
    const step = STEPS.find((step) => this.#span / step < LABELS) ?? STEPS.at(-1);
    for (let ago = 0; ago <= this.#span; ago += step) {
      const text = ago === 0 ? "now" : ago % 60 === 0 ? `−${ago / 60} min` : `−${ago} s`;
      const half = context.measureText(text).width / 2;
      const [least, most] = [this.#left + half, this.#width - EDGE.right - half];
      context.textAlign = "center";
      context.fillText(text, Math.min(most, Math.max(least, this.#x(this.#now - ago))), HEIGHT - 3);
    }
  }

  #drawBars(context, y) {
    const width = ((this.#width - this.#left - EDGE.right) * BAR) / this.#span;
    for (const second of this.#seconds) {
      let sum = 0;
      const x = Math.max(this.#x(second.time - BAR), this.#left);
      const right = Math.min(this.#x(second.time), this.#width - EDGE.right);
      for (const series of this.#options.series) {
        const value = this.#value(series, second);
        if (value === 0) continue;
        context.fillStyle = colour(series.colour);
        const [low, high] = [y(sum), y(sum + value)];
        context.fillRect(x, high, Math.max(1, right - x - (width > 4 ? 1 : 0)), Math.max(1, low - high));
        sum += value;
      }
    }
  }

  /** Broken where the proxy was away. */
  #drawLine(context, series, y) {
    const gap = this.#options.log ? 20 : 3;
    context.strokeStyle = context.fillStyle = colour(series.colour);
    context.lineWidth = 1.5;
    context.lineJoin = "round";
    context.beginPath();
    let last = -Infinity;
    for (const second of this.#seconds) {
      const value = series.value(second);
      if (value === null) continue;
      const [x, at] = [this.#x(second.time), y(value)];
      if (second.time - last <= gap) {
        context.lineTo(x, at);
      } else {
        // A value that stands alone is a dot.
        context.moveTo(x - 0.75, at);
        context.lineTo(x + 0.75, at);
      }
      last = second.time;
    }
    context.stroke();
  }

  /** What stands under the chart: values at the cursor, else of now, or the sums of all bars. */
  #tell() {
    const { bars, series: all, format, title } = this.#options;
    const at = this.#seconds.find((second) => second.time === this.#cursor);
    if (at === undefined) this.#cursor = null;
    const shown = at ?? this.#seconds.at(-1);
    const texts = all.map((series) => {
      let value = shown === undefined ? null : this.#value(series, shown);
      if (bars && at === undefined) {
        value = this.#seconds.reduce((sum, second) => sum + this.#value(series, second), 0);
      }
      const { item, value: place } = this.#values.get(series);
      const text = value === null ? "–" : format(value);
      say(place, text);
      // Reasons that never were would push the others away.
      item.hidden = bars && all.length > 4 && value === 0;
      return item.hidden ? null : `${series.name} ${text}`;
    });
    const when = at === undefined ? (bars ? "total" : "now") : `${duration((this.#now - at.time) * 1000)} ago`;
    say(this.#when, bars && at !== undefined ? `${BAR} s, ${when}` : when);
    const values = texts.filter((text) => text !== null).join(", ");
    mark(this.#canvas, "aria-label", `${title}, ${when}: ${values || "none"}`);
  }
}

function line(context, x, y, toX, toY) {
  context.beginPath();
  context.moveTo(x, y);
  context.lineTo(toX, toY);
  context.stroke();
}
