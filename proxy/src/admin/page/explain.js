// What end reasons and client families mean, in words.

/** In the order of the docs. */
export const FAMILIES = ["eventsource", "openai", "anthropic", "mcp", "raw"];

const READERS = {
  eventsource: "EventSource or a compatible client",
  openai: "client of the OpenAI API or one like it",
  anthropic: "client of the Anthropic API",
  mcp: "client of the Model Context Protocol",
  raw: "any other client",
};

/** Of each reason: a few words for a table, a sentence, and a remedy if one is needed. */
const REASONS = {
  upstream_end: ["closed by the upstream", "The upstream ended the response properly.", null],
  upstream_error: [
    "broken off by the upstream", "The connection to the upstream broke in the middle of the response.",
    "Check the upstream's log at that time: a restart, a crash, or a worker timeout.",
  ],
  upstream_idle: [
    "no data from the upstream", "The upstream sent no data for idle.timeout, or no event for idle.event_timeout.",
    "Check the upstream's data source. If such silence is normal, raise the timeout for the route.",
  ],
  client_gone: ["closed by the client", "The client, or a hop between it and the proxy, closed the connection.", null],
  client_stalled: [
    "client stopped reading", "The client read nothing for client.write_stall while data was waiting for it.",
    "A slow or suspended client. If many are affected, check the network in front of the proxy.",
  ],
  rotated: ["reached rotation.max_age", "The stream reached rotation.max_age, or memory or file descriptors were short. The client reconnects.", null],
  drained: ["the proxy was stopping", "The proxy was stopping and ended the stream within drain.window.", null],
  operator: ["ended by an operator", "An operator ended the stream, here or by the API.", null],
  shutdown: ["the proxy exited", "The proxy exited before the stream had ended.", "Raise drain.answers if answers are cut at each restart."],
  panicked: ["a bug in the service", "The code that produces the stream panicked.", "The log has the message. Please report it."],
};

export const shortReason = (reason) => REASONS[reason]?.[0] ?? "";

/** Why a stream ended: sentences. */
export function whyEnded({ reason, cause }) {
  const [, sentence, remedy] = REASONS[reason] ?? ["", reason, null];
  return [sentence, cause && `Cause: ${cause}.`, remedy && `Remedy: ${remedy}`].filter(Boolean).join(" ");
}

export const reader = (family) => (READERS[family] === undefined ? family : `${family}: ${READERS[family]}`);

/** What the client of a live stream does when an operator ends it. `stream` is from `/api/streams/ID`. */
export function endEffect({ family, reconnects, opaque, last_event_id: id }) {
  if (reconnects) {
    const from = id === null ? "" : ` with Last-Event-ID ${id}`;
    return `The stream ends between two events with a retry: line, and the client reconnects by itself${from}.`;
  }
  if (opaque) return "The stream is not protected, so it is cut where it stands; an EventSource reconnects, other clients report an error.";
  const effects = {
    openai: "The transfer is cut: the OpenAI SDK raises a connection error, and the rest of the answer is lost.",
    anthropic: "The transfer is cut: the Anthropic SDK raises a connection error, and the rest of the answer is lost.",
    mcp: "The transfer is cut: the MCP client reports the pending call as failed and does not repeat it.",
    eventsource: "The transfer is cut: an EventSource reconnects by itself after an error event.",
  };
  return effects[family] ?? "The transfer is cut: curl, fetch and the like report an error and do not reconnect.";
}
