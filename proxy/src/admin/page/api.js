// Asking the proxy: JSON, an event stream, and the token that it may want.

const TOKEN = "sse-guard-token";
const PATIENCE = 10_000;

/** The proxy wants a token, or another one. */
export class Unauthorized extends Error {}

export const keepToken = (token) => sessionStorage.setItem(TOKEN, token);
export const hasToken = () => sessionStorage.getItem(TOKEN) !== null;

function headers(more) {
  const token = sessionStorage.getItem(TOKEN);
  return token === null ? more : { ...more, Authorization: `Bearer ${token}` };
}

async function problem(response) {
  if (response.status === 401) return new Unauthorized("the token is missing or wrong");
  const body = await response.json().catch(() => ({}));
  return new Error(body.error ?? `the proxy responded with ${response.status}`);
}

/** The JSON at `path`, which is relative, so that the page may live below any address. */
export async function ask(path, { method = "GET", body, signal } = {}) {
  const late = AbortSignal.timeout(PATIENCE);
  const response = await fetch(path, {
    method,
    headers: headers(body === undefined ? {} : { "Content-Type": "application/json" }),
    body: body === undefined ? undefined : JSON.stringify(body),
    signal: signal === undefined ? late : AbortSignal.any([signal, late]),
    cache: "no-store",
  });
  if (!response.ok) throw await problem(response);
  return response.json();
}

/** Path and query, without the parameters that say nothing. */
export function query(path, parameters) {
  const said = Object.entries(parameters).filter(([, value]) => value !== "" && value !== null);
  return `${path}?${new URLSearchParams(said)}`;
}

/**
 * Yields the events of a stream, `{ event, data, retry }`, until it ends. An EventSource does the
 * same, but cannot show a token.
 */
export async function* events(path, signal) {
  const response = await fetch(path, {
    headers: headers({ Accept: "text/event-stream" }),
    signal,
    cache: "no-store",
  });
  if (!response.ok) throw await problem(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = { event: "message", data: [] };
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    // A CR at the end may be half a line end.
    const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (event.data.length > 0) yield { ...event, data: event.data.join("\n") };
        event = { event: "message", data: [] };
        continue;
      }
      const [, field, said] = /^([^:]*):? ?(.*)$/s.exec(line);
      if (field === "data") event.data.push(said);
      else if (field === "event") event.event = said;
      else if (field === "retry" && /^\d+$/.test(said)) yield { event: "retry", retry: Number(said) };
    }
  }
}
