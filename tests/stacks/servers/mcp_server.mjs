// A server of the MCP TypeScript SDK over Streamable HTTP: a session for each client.
//
//     node mcp_server.mjs PORT

import { createRequire } from "node:module";
import { randomUUID } from "node:crypto";

const installed = createRequire(process.env.NODE_PACKAGES + "/package.json");
const express = installed("express");
const { McpServer } = installed("@modelcontextprotocol/sdk/server/mcp.js");
const { StreamableHTTPServerTransport } = installed(
  "@modelcontextprotocol/sdk/server/streamableHttp.js",
);

const sessions = new Map();

async function open() {
  const server = new McpServer({ name: "stacks", version: "1" });
  server.tool("think", async () => ({ content: [{ type: "text", text: "42" }] }));
  const transport = new StreamableHTTPServerTransport({
    sessionIdGenerator: randomUUID,
    onsessioninitialized: (id) => sessions.set(id, transport),
  });
  await server.connect(transport);
  return transport;
}

const app = express();
app.use(express.json());
app.all("/mcp", async (request, response) => {
  const transport = sessions.get(request.get("mcp-session-id")) ?? (await open());
  await transport.handleRequest(request, response, request.body);
});
app.listen(Number(process.argv[2]), "127.0.0.1");
