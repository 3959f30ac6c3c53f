// The EventSource of Node: a feed whose connections are cut after each few events.

import assert from "node:assert/strict";
import { THROUGH, installed, run } from "./cases.mjs";

const { EventSource } = installed("eventsource");

const LAST = 24;

/** All events of a feed up to the last, over as many connections as it takes. */
function read(path) {
  return new Promise((done) => {
    const seen = [];
    const source = new EventSource(THROUGH + path);
    source.addEventListener("tick", (event) => {
      seen.push([event.lastEventId, event.data]);
      if (event.lastEventId === String(LAST)) {
        source.close();
        done(seen);
      }
    });
  });
}

const expected = Array.from({ length: LAST }, (_, n) => [String(n + 1), `${n + 1}\nand ✓`]);

// No resets: one that overtakes its head is a 502, at which an EventSource gives up for good.
run(
  [1, 5, LAST].flatMap((count) =>
    ["cut-clean", "cut-close", "half-clean", "half-close"].map((how) => [
      `${how}/${count}`,
      async () => assert.deepEqual(await read(`/${how}/${count}/ids`), expected),
    ]),
  ),
);
