"""Both HTTP transports of the Model Context Protocol, by the SDKs of Python and TypeScript."""

import mcp
from lab import same
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

# Streams that are not exempt end while the tool works.
ROTATE = ["--rotation-max-age=300ms", "--rotation-jitter=0", "--heartbeat-interval=50ms"]


async def think(reads, writes, seconds=1.5):
    async with mcp.ClientSession(reads, writes) as session:
        await session.initialize()
        result = await session.call_tool("think", {"seconds": seconds})
        same(result.content[0].text, "42")


async def case_the_older_sse_transport_is_never_rotated(lab):
    server = await lab.python("mcp_server.py", "sse")
    guard = await lab.guard(server.url, *ROTATE)
    async with sse_client(f"{guard.url}/sse") as (reads, writes):
        await think(reads, writes)


async def case_streamable_http_outlives_rotation(lab):
    server = await lab.python("mcp_server.py", "stream")
    guard = await lab.guard(server.url, *ROTATE)
    async with streamable_http_client(f"{guard.url}/mcp") as (reads, writes):
        await think(reads, writes)


async def case_quick_json_calls_are_not_limited(lab):
    server = await lab.python("mcp_server.py", "json")
    guard = await lab.guard(server.url)
    async with streamable_http_client(f"{guard.url}/mcp") as (reads, writes):
        async with mcp.ClientSession(reads, writes) as session:
            await session.initialize()
            for _ in range(250):
                result = await session.call_tool("think", {"seconds": 0})
                same(result.content[0].text, "42")


async def case_the_typescript_server_answers(lab):
    server = await lab.node("mcp_server.mjs")
    guard = await lab.guard(server.url, *ROTATE)
    async with streamable_http_client(f"{guard.url}/mcp") as (reads, writes):
        await think(reads, writes)
