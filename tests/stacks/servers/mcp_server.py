"""A server of the MCP Python SDK, over both of its HTTP transports.

    python mcp_server.py PORT sse|stream|json
"""

import asyncio
import sys

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.transport_security import TransportSecuritySettings

server = MCPServer("stacks")


@server.tool()
async def think(seconds: float, ctx: Context) -> str:
    """Reports progress for a while, then answers."""
    for step in range(10):
        await ctx.report_progress(step, 10)
        await asyncio.sleep(seconds / 10)
    return "42"


# The proxy forwards the client's Host, whose port is not ours.
anywhere = TransportSecuritySettings(enable_dns_rebinding_protection=False)
port, transport = int(sys.argv[1]), sys.argv[2]
if transport == "sse":
    app = server.sse_app(transport_security=anywhere)
else:
    app = server.streamable_http_app(
        json_response=transport == "json", transport_security=anywhere
    )
uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")
