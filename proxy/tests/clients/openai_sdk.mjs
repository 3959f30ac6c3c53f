// OpenAI's own SDK for Node: chat completions and responses.

import { installed, ofAnApi, run } from "./cases.mjs";

const { OpenAI } = installed("openai");

const client = (base) => new OpenAI({ apiKey: "test", baseURL: `${base}/v1`, maxRetries: 0 });

async function* chat(base) {
  const messages = [{ role: "user", content: "hi" }];
  yield* await client(base).chat.completions.create({ model: "m", messages, stream: true });
}

async function* responses(base) {
  yield* await client(base).responses.create({ model: "m", input: "hi", stream: true });
}

run([
  ...ofAnApi("chat", chat, OpenAI.APIError),
  ...ofAnApi("responses", responses, OpenAI.APIError),
]);
