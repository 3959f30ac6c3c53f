"""The Python SDK of the Model Context Protocol, over streamable HTTP."""

import httpx2
import mcp
from cases import CUTS, DIRECT, EVENTS, THROUGH, http_client, run, same
from mcp.client.streamable_http import streamable_http_client


async def call(base):
    """What a tool says, and the progress that it tells meanwhile."""
    told = []

    async def progress(done, total, message):
        told.append((done, total, message))

    async with (
        http_client(httpx2) as client,
        streamable_http_client(f"{base}/mcp", http_client=client) as (reads, writes),
        mcp.ClientSession(reads, writes) as session,
    ):
        await session.initialize()
        result = await session.call_tool("think", {}, progress_callback=progress)
        return told, result.model_dump(exclude={"meta"})


async def whole(case):
    expected = await call(f"{DIRECT}/cut-clean/{EVENTS['mcp']}")
    same(len(expected[0]) + 1, EVENTS["mcp"])
    same(await call(THROUGH + case), expected)


async def cut(how, count):
    refused, answer = False, None
    try:
        answer = await call(f"{THROUGH}/{how}/{count}")
    except* mcp.MCPError:
        refused = True
    assert refused, f"it is complete: {answer}"


def cases():
    for case in ("/whole/0", "/crlf/0", "/late/0"):
        yield f"mcp{case}", whole(case)
    for count in range(EVENTS["mcp"]):
        for how in [*CUTS, "silent"]:
            yield f"mcp/{how}/{count}", cut(how, count)


run(cases())
