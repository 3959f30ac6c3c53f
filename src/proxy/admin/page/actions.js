// What the operator does to the proxy: each asked about first, and told of after.

import { Unauthorized, ask } from "./api.js";
import { announce, find, mark, say } from "./dom.js";
import * as format from "./format.js";

const dialog = find("#confirm");

/** Whether the operator says yes; with `word` they have to write it. */
function confirm({ title, text, yes, word = null }) {
  say(find("#confirm-title"), title);
  say(find("#confirm-text"), text);
  say(find("#confirm-yes"), yes);
  const label = find("#confirm-word");
  const input = find("input", label);
  label.hidden = word === null;
  say(find("code", label), word ?? "");
  input.value = "";
  const allow = () => {
    find("#confirm-yes").disabled = word !== null && input.value.trim() !== word;
  };
  input.oninput = allow;
  allow();
  dialog.returnValue = "";
  dialog.showModal();
  if (word !== null) input.focus();
  return new Promise((resolve) => {
    dialog.onclose = () => resolve(dialog.returnValue === "yes");
  });
}

export class Actions {
  #unauthorized;

  constructor({ unauthorized }) {
    this.#unauthorized = unauthorized;
    find("#send").addEventListener("submit", (event) => this.#send(event));
    find("#send").to.addEventListener("change", (event) => this.#choose(event.target.value));
    find("#reload").addEventListener("submit", (event) => this.#reload(event));
    find("#drain").addEventListener("submit", (event) => this.#drain(event));
  }

  /** Ids of a proxy that is gone may mean other streams in the next one. */
  cancel() {
    dialog.close("");
  }

  async endStream(row) {
    const sent = `${format.plural(row.events, "event")} in ${format.age(row.age_ms)}`;
    const yes = await confirm({
      title: `End stream ${row.id}?`,
      text: `${row.client ?? "A client"} on ${row.route ?? "no route"}, ${sent}. It ends between two events; an EventSource comes back by itself.`,
      yes: "End the stream",
    });
    if (!yes) return;
    await this.#try(async () => {
      await ask(`api/streams/${row.id}`, { method: "DELETE" });
      announce(`Stream ${row.id} is ending.`);
    }, (problem) => announce(`Stream ${row.id} did not end: ${problem}`));
  }

  async #try(act, fail) {
    try {
      await act();
    } catch (error) {
      if (error instanceof Unauthorized) this.#unauthorized();
      else fail(error.message);
    }
  }

  #choose(to) {
    const label = find("#send-whom");
    label.hidden = to === "all";
    const hints = { ids: "12, 15", client: "203.0.113.7", route: "/v1", user: "name", all: "" };
    mark(find("input", label), "placeholder", hints[to]);
  }

  async #send(event) {
    event.preventDefault();
    const form = event.target;
    const { to, whom, event: name, data } = Object.fromEntries(new FormData(form));
    const result = find("#sent");
    const ids = whom.split(/[\s,]+/).filter(Boolean).map(Number);
    const wrong = to === "ids" ? ids.length === 0 || !ids.every(Number.isSafeInteger) : to !== "all" && whom.trim() === "";
    if (wrong) {
      say(result, to === "ids" ? "Write the ids of streams, with commas between." : "Write which one.");
      form.whom.focus();
      return;
    }
    const target = { ids: { ids }, all: { all: true } }[to] ?? { [to]: whom.trim() };
    const order = { to: target, data, ...(name.trim() && { event: name.trim() }) };
    const text = "Every client that listens gets the event.";
    if (to === "all" && !(await confirm({ title: "Send to all streams?", text, yes: "Send" }))) return;
    await this.#try(async () => {
      const { sent, full, not_injectable } = await ask("api/send", { method: "POST", body: order });
      const parts = [`Sent to ${format.plural(sent, "stream")}.`];
      if (full > 0) parts.push(`${format.whole(full)} could not take it: too much waits for them.`);
      if (deaf > 0) parts.push(`${format.whole(deaf)} left alone: they answer no GET request.`);
      say(result, parts.join(" "));
    }, (problem) => say(result, `Not sent: ${problem}`));
  }

  async #reload(event) {
    event.preventDefault();
    const result = find("#reloaded");
    await this.#try(async () => {
      const { changed, requires_restart } = await ask("api/reload", { method: "POST" });
      const parts = [changed.length > 0 ? `Changed: ${changed.join(", ")}.` : "Nothing has changed."];
      if (waiting.length > 0) parts.push(`From the next start on: ${waiting.join(", ")}.`);
      say(result, parts.join(" "));
    }, (problem) => say(result, `Refused: ${problem}`));
  }

  async #drain(event) {
    event.preventDefault();
    const yes = await confirm({
      title: "Stop the proxy?",
      text: "All streams end and the process exits. This page cannot start it again.",
      yes: "Stop the proxy",
      word: "stop",
    });
    if (!yes) return;
    await this.#try(async () => {
      const { draining } = await ask("api/drain", { method: "POST" });
      announce(`The proxy stops: ${format.plural(draining, "stream")} to end.`);
    }, (problem) => announce(`The proxy does not stop: ${problem}`));
  }
}
