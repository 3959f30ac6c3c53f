// Node's EventSource, some of them at once; writes what becomes of each.
//
//     node eventsources.mjs URL COUNT

import { createRequire } from "node:module";

const installed = createRequire(process.env.NODE_PACKAGES + "/package.json");
const { EventSource } = installed("eventsource");
const [url, count] = process.argv.slice(2);

for (let n = 0; n < Number(count); n++) {
  const source = new EventSource(url);
  source.onopen = () => console.log(`open ${n}`);
  source.onerror = (error) => {
    const state = source.readyState === EventSource.CLOSED ? "dead" : "waits";
    console.log(`${state} ${n} ${error.code ?? ""} ${error.message ?? ""}`);
  };
  source.addEventListener("tick", (event) => {
    if (Number(event.lastEventId) % 50 === 0) console.log(`at ${n} ${event.lastEventId}`);
  });
}
