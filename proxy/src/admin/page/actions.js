// What an operator can do to the proxy: each action is confirmed first and reported after.

import { Unauthorized, ask } from "./api.js";
import { announce, find, mark, say } from "./dom.js";
import { endEffect } from "./explain.js";
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
    const fail = (problem) => announce(`Stream ${row.id} was not ended: ${problem}`);
    await this.#try(async () => {
      // The row of a table does not tell whether the client reconnects.
      const stream = await ask(`api/streams/${row.id}`);
      const yes = await confirm({
        title: `End stream ${row.id}?`,
        text: `${stream.path ?? "A stream"} to ${stream.client ?? "a client"}, ${sent}. ${endEffect(stream)}`,
        yes: "End the stream",
      });
      if (!yes) return;
      await ask(`api/streams/${row.id}`, { method: "DELETE" });
      announce(`Stream ${row.id} is ending.`);
    }, fail);
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
    const label = find("#send-value");
    label.hidden = to === "all";
    const hints = { ids: "12, 15", client: "203.0.113.7", route: "/v1", user: "name", all: "" };
    mark(find("input", label), "placeholder", hints[to]);
  }

  async #send(event) {
    event.preventDefault();
    const form = event.target;
    const { to, value, event: name, data } = Object.fromEntries(new FormData(form));
    const result = find("#sent");
    const ids = value.split(/[\s,]+/).filter(Boolean).map(Number);
    const wrong = to === "ids" ? ids.length === 0 || !ids.every(Number.isSafeInteger) : to !== "all" && value.trim() === "";
    if (wrong) {
      say(result, to === "ids" ? "Enter the ids of streams, separated by commas." : "Enter a value.");
      form.value.focus();
      return;
    }
    const target = { ids: { ids }, all: { all: true } }[to] ?? { [to]: value.trim() };
    const order = { to: target, data, ...(name.trim() && { event: name.trim() }) };
    const text = "Every EventSource stream receives the event.";
    if (to === "all" && !(await confirm({ title: "Send to all streams?", text, yes: "Send" }))) return;
    await this.#try(async () => {
      const { sent, full, not_injectable } = await ask("api/send", { method: "POST", body: order });
      const parts = [`Sent to ${format.plural(sent, "stream")}.`];
      if (full > 0) parts.push(`${format.plural(full, "stream")} skipped: too many events are queued.`);
      if (not_injectable > 0) parts.push(`${format.plural(not_injectable, "stream")} skipped: not an EventSource stream.`);
      say(result, parts.join(" "));
    }, (problem) => say(result, `Not sent: ${problem}`));
  }

  async #reload(event) {
    event.preventDefault();
    const result = find("#reloaded");
    await this.#try(async () => {
      const { changed, requires_restart } = await ask("api/reload", { method: "POST" });
      const parts = [changed.length > 0 ? `Changed: ${changed.join(", ")}.` : "No key has changed."];
      if (requires_restart.length > 0) parts.push(`Takes effect at the next start: ${requires_restart.join(", ")}.`);
      say(result, parts.join(" "));
    }, (problem) => say(result, `Reload failed: ${problem}`));
  }

  async #drain(event) {
    event.preventDefault();
    const yes = await confirm({
      title: "Stop the proxy?",
      text: "All streams end and the process exits. It cannot be started again from this page.",
      yes: "Stop the proxy",
      word: "stop",
    });
    if (!yes) return;
    await this.#try(async () => {
      const { draining } = await ask("api/drain", { method: "POST" });
      announce(`The proxy is stopping: ${format.plural(draining, "stream")} to end.`);
    }, (problem) => announce(`The proxy was not stopped: ${problem}`));
  }
}
