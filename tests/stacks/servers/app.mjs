// An Express application, as its users write them: feeds with and without the header that keeps
// compression middleware away, behind `cors`.
//
//     node app.mjs PORT [ALLOWED_ORIGIN]

import { createRequire } from "node:module";

const installed = createRequire(process.env.NODE_PACKAGES + "/package.json");
const express = installed("express");
const cors = installed("cors");

const [port, origin] = process.argv.slice(2);
const app = express();
if (origin) app.use(cors({ origin, credentials: true }));

function feed(headers) {
  return (request, response) => {
    let number = Number(request.get("last-event-id") ?? 0);
    response.set({ "Content-Type": "text/event-stream", "Cache-Control": "no-cache", ...headers });
    response.flushHeaders();
    const timer = setInterval(() => {
      number += 1;
      response.write(`id: ${number}\nevent: tick\ndata: ${number}\n\n`);
    }, 20);
    response.on("close", () => clearInterval(timer));
  };
}

app.get("/feed", feed({}));
app.get("/next", feed({ "Content-Encoding": "none" }));
app.get("/quiet", (request, response) => {
  response.set({ "Content-Type": "text/event-stream", "Content-Encoding": "none" });
  response.flushHeaders();
});
app.get("/plain", (request, response) => response.json({ ok: true }));

app.listen(Number(port), "127.0.0.1");
