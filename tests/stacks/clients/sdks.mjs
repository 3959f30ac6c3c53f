// The OpenAI and Anthropic SDKs for Node: answers without a last word are whole, half ones are errors.
//
//     node sdks.mjs BASE_URL

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const installed = createRequire(process.env.NODE_PACKAGES + "/package.json");
const { OpenAI } = installed("openai");
const { Anthropic } = installed("@anthropic-ai/sdk");
const base = process.argv[2];
const messages = [{ role: "user", content: "hi" }];

async function chat(model) {
  const api = new OpenAI({ apiKey: "x", baseURL: `${base}/v1`, maxRetries: 0 });
  const chunks = [];
  const stream = await api.chat.completions.create({ model, messages, stream: true });
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

async function message(model) {
  const api = new Anthropic({ apiKey: "x", baseURL: base, maxRetries: 0 });
  const events = [];
  const stream = await api.messages.create({ model, max_tokens: 9, messages, stream: true });
  for await (const event of stream) events.push(event);
  return events;
}

assert.equal((await chat("whole")).length, 2);
assert.equal((await chat("no-done")).length, 2);
assert.equal((await message("whole")).length, 6);
assert.equal((await message("no-stop")).length, 5);
await assert.rejects(chat("half"), OpenAI.APIError);
await assert.rejects(message("half"), Anthropic.APIError);
