// Opens one of the demo's streams twice, without and with the proxy, and shows what arrives.
// An EventSource hides comments, and with them most heartbeats, so the streams are read by fetch here; like
// an EventSource it reconnects with Last-Event-ID.

const find = (selector, within = document) => within.querySelector(selector);
const LINES = 300;
/** Of an EventSource to which no `retry:` has come. */
const RETRY = 3000;

const seconds = (milliseconds) => `${(milliseconds / 1000).toFixed(1)} s`;

/** Yields `{ event, data, id }`, `{ comment }` and `{ retry }`; `unfinished.lines` are those of an event without its end. */
async function* parse(body, unfinished) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = { data: [] };
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    // A CR at the end may be half a line end.
    const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    unfinished.lines = [];
    for (const line of lines) {
      const [, field, text] = /^([^:]*):? ?(.*)$/s.exec(line);
      if (line === "") {
        if (event.data.length > 0) yield { ...event, data: event.data.join("\n") };
        event = { data: [] };
      } else if (field === "") yield { comment: text };
      else if (field === "data") event.data.push(text);
      else if (field === "event") event.event = text;
      else if (field === "id") event.id = text;
      else if (field === "retry" && /^\d+$/.test(text)) yield { retry: Number(text) };
    }
    const ids = event.id === undefined ? [] : [`id: ${event.id}`];
    unfinished.lines = [...ids, ...event.data.map((text) => `data: ${text}`), rest].filter(Boolean);
  }
}

class Pane {
  #root;
  #base;
  #run = null;
  #counts;

  constructor(root, base) {
    this.#root = root;
    this.#base = base;
  }

  stop() {
    this.#run?.abort();
    this.#run = null;
    this.#state("stopped", "stopped");
  }

  start(stream, expected) {
    this.stop();
    const run = new AbortController();
    this.#run = run;
    this.#counts = { events: 0, heartbeats: 0, connections: 0, broken: 0 };
    find(".log", this.#root).replaceChildren();
    find(".expect", this.#root).textContent = expected;
    this.#play(stream, run, performance.now());
  }

  async #play({ path, method }, run, start) {
    const isOver = () => this.#run !== run;
    const log = (kind, name, text) => isOver() || this.#log(kind, performance.now() - start, name, text);
    let [retry, lastId] = [RETRY, ""];
    while (!isOver()) {
      this.#state("connecting", "connecting");
      const [opened, before] = [performance.now(), this.#counts.events];
      let last = opened;
      const unfinished = { lines: [] };
      try {
        const response = await fetch(this.#base + path, {
          method,
          headers: { Accept: "text/event-stream", ...(lastId && { "Last-Event-ID": lastId }) },
          body: method === "POST" ? JSON.stringify({ stream: true }) : undefined,
          signal: run.signal,
          cache: "no-store",
        });
        if (isOver()) return;
        this.#counts.connections += 1;
        this.#state("open", "open");
        log("open", "open", `status ${response.status}, ${response.headers.get("content-type")}`);
        if (response.headers.get("content-type") === "application/json") {
          log("event", "body", await response.text());
          this.#state("stopped", "complete");
          return;
        }
        for await (const { comment, retry: delay, event, data, id } of parse(response.body, unfinished)) {
          if (isOver()) return;
          const now = performance.now();
          if (comment !== undefined) {
            this.#counts.heartbeats += 1;
            log("heartbeat", "heartbeat", `comment “${comment}” after ${seconds(now - last)} without data`);
          } else if (delay !== undefined) {
            retry = delay;
            log("retry", "retry", `reconnect after ${seconds(delay)}`);
          } else {
            this.#counts.events += 1;
            if (id !== undefined) lastId = id;
            log("event", event ?? "message", id === undefined ? data : `id ${id}  ${data}`);
          }
          last = now;
        }
        log("end", "end", "the response ended properly");
        if (method === "POST") {
          this.#state("stopped", "complete");
          return;
        }
      } catch (error) {
        if (isOver()) return;
        this.#counts.broken += 1;
        const events = this.#counts.events - before;
        if (unfinished.lines.length > 0) log("error", "unfinished", unfinished.lines.join(" ⏎ "));
        log("error", "broken", `connection closed ${seconds(performance.now() - last)} after the last data; events received: ${events}`);
        if (method === "POST") {
          this.#state("lost", "failed: the answer is incomplete");
          this.#showCounts();
          return;
        }
      }
      this.#state("lost", `reconnecting in ${seconds(retry)}`);
      await new Promise((resolve) => setTimeout(resolve, retry));
    }
  }

  #state(state, text) {
    const element = find(".state", this.#root);
    element.textContent = text;
    element.dataset.state = state;
  }

  #log(kind, at, name, text) {
    const log = find(".log", this.#root);
    const line = document.createElement("li");
    line.className = kind;
    for (const [element, content] of [["time", seconds(at)], ["span", name], ["span", text]]) {
      line.append(Object.assign(document.createElement(element), { textContent: content }));
    }
    log.prepend(line);
    while (log.childElementCount > LINES) log.lastChild.remove();
    this.#showCounts();
  }

  #showCounts() {
    const { events, heartbeats, connections, broken } = this.#counts;
    const texts = [`events: ${events}`, `heartbeats: ${heartbeats}`, `connections: ${connections}`, `broken: ${broken}`];
    const items = texts.map((text) => Object.assign(document.createElement("li"), { textContent: text }));
    find(".counts", this.#root).replaceChildren(...items);
  }
}

const { streams, direct, guarded, dashboard, proxy, upstream, idle_s: idle } = await (await fetch("demo.json")).json();
const panes = { direct: new Pane(find("#direct"), direct), guarded: new Pane(find("#guarded"), guarded) };
let current = streams[0];

function start(stream) {
  current = stream;
  find("#about").textContent = `${stream.method} ${stream.path}: ${stream.about}`;
  panes.direct.start(stream, stream.without);
  panes.guarded.start(stream, stream.with);
}

for (const stream of streams) {
  const input = Object.assign(document.createElement("input"), { type: "radio", name: "stream", value: stream.path });
  input.checked = stream === current;
  input.addEventListener("change", () => start(stream));
  const label = document.createElement("label");
  label.append(input, Object.assign(document.createElement("span"), { textContent: stream.path }));
  label.title = stream.about;
  find("#streams").append(label);
}
find("#idle").textContent = idle;
find("#ports").textContent = `proxy ${proxy}, upstream ${upstream}`;
if (dashboard !== null) {
  find("#dashboard").href = dashboard;
  find("#dashboard").hidden = false;
}
find("#restart").addEventListener("click", () => start(current));
find("#stop").addEventListener("click", () => Object.values(panes).forEach((pane) => pane.stop()));
start(current);
